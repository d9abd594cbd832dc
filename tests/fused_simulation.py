"""A network of adder layers with rounded inputs and filters, in float64.

It knows nothing of integers, of folding or of the compiled operation.
"""

import numpy as np
import oracle


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
