"""Adder layers: each mirrors the Keras layer of the same name.

The fused ones are what `keras_adder.inference` makes of them.
"""

from keras_adder.layers.adder_conv1d import AdderConv1D
from keras_adder.layers.adder_conv2d import AdderConv2D
from keras_adder.layers.adder_dense import AdderDense
from keras_adder.layers.adder_depthwise_conv2d import AdderDepthwiseConv2D
from keras_adder.layers.adder_separable_conv2d import AdderSeparableConv2D
from keras_adder.layers.fused_adder_conv1d import FusedAdderConv1D
from keras_adder.layers.fused_adder_conv2d import FusedAdderConv2D
from keras_adder.layers.fused_adder_dense import FusedAdderDense

__all__ = [
    "AdderConv1D",
    "AdderConv2D",
    "AdderDense",
    "AdderDepthwiseConv2D",
    "AdderSeparableConv2D",
    "FusedAdderConv1D",
    "FusedAdderConv2D",
    "FusedAdderDense",
]
