"""A network of adder layers with rounded inputs and filters, in float64.

It knows nothing of integers, of folding or of the compiled operation.
"""

import numpy as np
import oracle

from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D


def passes(layer):
    """Name, filters and geometry of each convolution that a layer is made of.

    Of images: a sequence is one of a single row.
    """
    name = layer.name
    geometry = {"strides": layer.strides, "padding": layer.padding.upper()}
    if type(layer) is AdderConv2D:
        return [(name, np.asarray(layer.kernel), geometry)]
    if type(layer) is AdderConv1D:
        before = (0, 0), (layer.kernel_size[0] - 1, 0)
        causal = layer.padding == "causal"
        padding = before if causal else layer.padding.upper()
        geometry = {"strides": (1, *layer.strides), "padding": padding}
        return [(name, np.asarray(layer.kernel)[None], geometry)]
    one_channel = (*layer.kernel_size, 1, -1)
    if type(layer) is AdderDepthwiseConv2D:
        return [(name, np.reshape(layer.kernel, one_channel), geometry)]
    assert type(layer) is AdderSeparableConv2D
    filters = np.reshape(layer.depthwise_kernel, one_channel)
    return [
        (f"{name}_depthwise", filters, geometry),
        (name, np.asarray(layer.pointwise_kernel), {}),
    ]


def bounds(layer):
    dtype = np.iinfo(layer.filter_dtype)
    return np.array([dtype.min, dtype.max])


def on_grid(x, layer):
    """Real numbers, rounded to those that a fused layer knows."""
    scale, zero_point = layer.input_scale, layer.input_zero_point
    integers = np.rint(np.asarray(x, "float64") / scale) + zero_point
    return (np.clip(integers, *bounds(layer)) - zero_point) * scale


def stored(x, layer):
    """What a fused layer hands on, as real numbers."""
    if layer.output_dtype == "float32":
        return x
    scale, zero_point = layer.output_scale, layer.output_zero_point
    bounds = np.iinfo(layer.output_dtype)
    integers = np.clip(np.rint(x / scale) + zero_point, bounds.min, bounds.max)
    return (integers - zero_point) * scale


def distance(x, kernel, layer, **geometry):
    """Of inputs and filters on the grid, and the filters' clipped parts."""
    low, high = (bounds(layer) - layer.input_zero_point) * layer.input_scale
    clipped = np.clip(np.asarray(kernel, "float64"), low, high)
    lost = np.abs(kernel - clipped).sum((0, 1, 2))
    x, clipped = on_grid(x, layer), on_grid(clipped, layer)
    return oracle.adder_conv2d(x, clipped, **geometry) - lost


def normalize(y, layer):
    factor = np.asarray(layer.gamma, "float64") / np.sqrt(
        np.asarray(layer.moving_variance, "float64") + layer.epsilon
    )
    return (y - np.asarray(layer.moving_mean)) * factor + np.asarray(layer.beta)
