"""Optimizers for networks that hold adder filters."""

from keras_adder.optimizers.alr import ALR
from keras_adder.optimizers.ilr import ILR

__all__ = ["ALR", "ILR"]
