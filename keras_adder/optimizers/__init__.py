from keras_adder.optimizers.alr import ALR
from keras_adder.optimizers.ilr import ILR
from keras_adder.optimizers.with_alr import WithALR

__all__ = ["ALR", "ILR", "WithALR"]
