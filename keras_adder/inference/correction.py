"""What rounding does to distances on average, which offsets can make good.

Each error is at most half a step, but a filter's are always the same, and where
inputs and filter are close all of them make the distance larger. So the mean
distance shifts, by another amount for each filter.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_adder.inference.calibration import batches
from keras_adder.inference.calibration import compiled
from keras_adder.inference.folding import Fused
from keras_adder.inference.graph import Graph
from keras_adder.inference.planning import Plan
from keras_adder.inference.quantization import quantize_filters
from keras_adder.layers import AdderConv1D
from keras_adder.layers import AdderDense
from keras_adder.layers.fused_adder_conv1d import row_axis
from keras_adder.ops import adder_conv2d
from keras_adder.ops import fused_adder_conv2d


def mean_errors(
    graph: Graph, plan: Plan, calibration: Any
) -> dict[Fused, np.ndarray]:
    """How much rounding takes from the output of each filter, on average.

    Each layer is given what it has in the model in floating point.

    Args:
        graph: `Graph` of the model.
        plan: `Plan` of it, with integers.
        calibration: as of `keras_adder.inference.optimize`.

    Returns:
        float64 arrays by `Fused`, in real units, a number for each filter.
    """
    layers = list(plan.integer)
    if not layers:
        return {}

    def measure(inputs):
        sources = graph.run(inputs, [fused.source for fused in layers])
        return [
            _error(fused, tf.cast(x, tf.float32), plan.sources[fused.source])
            for fused, x in zip(layers, sources)
        ]

    measure = compiled(graph, measure)
    count = 0
    sums: list[Any] = [0.0] * len(layers)
    for inputs, _ in batches(graph, calibration, "calibration"):
        size = int(inputs[0].shape[0])
        count += size
        for index, error in enumerate(measure(inputs)):
            sums[index] = sums[index] + size * error.numpy().astype("float64")
    return {fused: total / count for fused, total in zip(layers, sums)}


def _error(fused, x, source):
    """The mean difference between distances and those of integers."""
    kernel, lacking = quantize_filters(fused.kernel, source)
    x = _as_images(fused, x)
    exact = adder_conv2d(
        x, tf.constant(fused.kernel, tf.float32), **fused.geometry
    )
    # Saturation of the integers' type is no bound where levels are few.
    sums = fused_adder_conv2d(
        tf.clip_by_value(x, source.low, source.high),
        tf.constant(kernel),
        input_scale=source.scale,
        input_zero_point=source.zero_point,
        **fused.geometry,
    )
    channel = 1 if fused.geometry["data_format"] == "channels_first" else 3
    others = [axis for axis in range(4) if axis != channel]
    # What is lacking is large, and a mean of large numbers not precise.
    lacking = lacking.reshape(
        [-1 if axis == channel else 1 for axis in range(4)]
    )
    rounded = sums * source.scale + lacking.astype("float32")
    return tf.reduce_mean(exact - rounded, others)


def _as_images(fused, x):
    if type(fused.layer) is AdderDense:
        return tf.reshape(x, [-1, 1, 1, x.shape[-1]])
    if type(fused.layer) is AdderConv1D:
        return tf.expand_dims(x, row_axis(fused.layer.data_format))
    return x
