"""Adder layers: each mirrors the Keras layer of the same name."""

from keras_adder.layers.adder_conv2d import AdderConv2D
from keras_adder.layers.adder_dense import AdderDense

__all__ = ["AdderConv2D", "AdderDense"]
