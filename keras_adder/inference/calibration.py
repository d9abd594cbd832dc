"""Which values a model's tensors take: ranges, from data, in batches."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_adder.inference.graph import Graph
from keras_adder.inference.graph import Value

# Of arrays: what a batch has at most, in examples and in numbers. That is 8
# images of 224x224.
_BATCH_SIZE = 64
_BATCH_NUMBERS = 8 * 224 * 224 * 3
# Of the histogram that percentiles are read from, so that they are exact to
# 1/8192 of the range. Memory does not grow with the data.
_BINS = 8192
# Where values that matter share fewer, they are counted again between the
# bounds found, so often at most.
_FEW_BINS = 256
_REFINEMENTS = 4


@dataclasses.dataclass(frozen=True)
class Range:
    """What a tensor's values lie between.

    Attributes:
        low, high: floats, the least and the largest.
        low_percentile, high_percentile: floats, all but some of them; the same
            as these if no percentile was asked for.
    """

    low: float
    high: float
    low_percentile: float
    high_percentile: float


def calibrate(
    graph: Graph,
    tensors: dict[Value, str],
    calibration: Any,
    percentile: float,
) -> dict[Value, Range]:
    """Computes a model on data, and the ranges of some of its tensors.

    Once for the least and the largest values, and once more for percentiles,
    by a histogram between these.

    Args:
        graph: `Graph` of the model.
        tensors: dict of strings by `Value`: how errors call it.
        calibration: as of `keras_adder.inference.optimize`.
        percentile: float, 100 for all values.

    Raises:
        ValueError: If there is no data, if it does not fit the model, or if a
            tensor is constant or not finite.
    """
    lows, highs = _extremes(graph, tensors, calibration)
    low_percentiles, high_percentiles = lows, highs
    if percentile < 100:
        low_percentiles, high_percentiles = _percentiles(
            graph, tensors, calibration, percentile, lows, highs
        )
    return {
        value: Range(*map(float, numbers))
        for value, *numbers in zip(
            tensors, lows, highs, low_percentiles, high_percentiles
        )
    }


def _extremes(graph, tensors, calibration):
    def measure(inputs):
        return [
            tf.stack(
                [
                    tf.reduce_min(x),
                    tf.reduce_max(x),
                    tf.cast(tf.reduce_all(tf.math.is_finite(x)), x.dtype),
                ]
            )
            for x in _as_floats(graph.run(inputs, list(tensors)))
        ]

    measure = compiled(graph, measure)
    found = []
    for inputs, _ in batches(graph, calibration, "calibration"):
        found.append(np.array([x.numpy() for x in measure(inputs)]))
    stacked = np.array(found).reshape(len(found), len(tensors), 3)
    lows, highs = stacked[..., 0].min(axis=0), stacked[..., 1].max(axis=0)
    finite = stacked[..., 2].min(axis=0)
    for index, description in enumerate(tensors.values()):
        if not finite[index]:
            raise ValueError(
                "With the `calibration` data all values must be finite. "
                f"Received: data with which {description} has NaNs or "
                "infinities"
            )
        if lows[index] == highs[index]:
            kind = "dead" if lows[index] == 0 else "constant"
            raise ValueError(
                "With the `calibration` data every adder layer must see values "
                f"that differ. Received: data with which {description} is "
                f"{kind}: always {lows[index]:g}. If that is right, keep the "
                "layer as it is: `keep_float=`"
            )
    return lows, highs


def _percentiles(graph, tensors, calibration, percentile, lows, highs):
    low, high = lows, highs
    for _ in range(_REFINEMENTS):
        counts = _histograms(graph, tensors, calibration, low, high)
        shares = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
        above = np.argmax(shares >= percentile / 100, axis=1) + 1
        below = np.argmax(shares > 1 - percentile / 100, axis=1)
        steps = (high - low) / _BINS
        # What is never negative keeps its zero.
        low, high = (
            np.where(lows < 0, low + below * steps, lows),
            np.where(above == _BINS, high, low + above * steps),
        )
        # Where values are far from all others, these share few bins.
        if np.all(above - below >= _FEW_BINS):
            return low, high
    for index, value in enumerate(tensors):
        if above[index] - below[index] <= 2:
            raise ValueError(
                "The `percentile` must leave more than one value of "
                f"{tensors[value]}, which is nearly always the same; "
                f"`percentile=100` takes all. Received: percentile={percentile}"
            )
    return low, high


def _histograms(graph, tensors, calibration, lows, highs):
    """Counts of values in bins; those outside are in the first and the last."""

    def count(inputs):
        return [
            tf.histogram_fixed_width(
                tf.reshape(x, [-1]), [low, high], _BINS, tf.int64
            )
            for x, low, high in zip(
                _as_floats(graph.run(inputs, list(tensors))), lows, highs
            )
        ]

    count = compiled(graph, count)
    counts = np.zeros((len(tensors), _BINS), "int64")
    # Where data is augmented at random, the second time may leave the range of
    # the first.
    for inputs, _ in batches(graph, calibration, "calibration"):
        counts += np.array([x.numpy() for x in count(inputs)])
    return counts


def compiled(
    graph: Graph, function: Callable[[list[Any]], Any]
) -> Callable[[list[Any]], Any]:
    """Makes a TensorFlow graph of a function of a model's inputs.

    One, of whatever size batches are; and written as it is, as in `predict`.
    """
    signature = [
        tf.TensorSpec(value.shape, value.dtype) for value in graph.inputs
    ]
    if any(value.sparse for value in graph.inputs):
        return tf.function(function, autograph=False)
    return tf.function(function, input_signature=[signature], autograph=False)


def batches(
    graph: Graph, data: Any, name: str
) -> Iterator[tuple[list[Any], Any]]:
    """Batches of a model's inputs, and of labels where there are some.

    Args:
        graph: `Graph` of the model.
        data: array, tuple or dict of arrays, or `tf.data.Dataset`.
        name: string, the argument's.

    Yields:
        A list of tensors, one for each input, and labels or `None`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty or endless, or does not fit the inputs.
    """
    if isinstance(data, tf.data.Dataset):
        elements = _elements(data, name)
    else:
        elements = _slices(data, name, graph.inputs[0].shape[0])
    count = 0
    for element in elements:
        inputs, labels = _split(graph, element, name)
        inputs = [
            _input(value, x, name) for value, x in zip(graph.inputs, inputs)
        ]
        count += int(inputs[0].shape[0])
        if inputs[0].shape[0]:
            yield inputs, labels
    if not count:
        raise ValueError(
            f"`{name}` must hold at least one example. "
            f"Received: {name} of type {type(data)}, which is empty"
        )


def _elements(data, name):
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"`{name}` must come to an end: `dataset.take(batches)`. "
            f"Received: {name}={data}, which is repeated for ever"
        )
    return data


def _slices(data, name, batch_size):
    leaves = keras.tree.flatten(data)
    arrays = []
    for leaf in leaves:
        is_tensor = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        if not is_tensor or isinstance(leaf, keras.KerasTensor):
            raise TypeError(
                f"`{name}` must be an array, a tuple or a dict of arrays for "
                "a model of several inputs, or a `tf.data.Dataset`. "
                f"Received: {name}={data} (of type {type(data)})"
            )
        arrays.append(leaf)
    lengths = {int(x.shape[0]) if len(x.shape) else -1 for x in arrays}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            f"`{name}` must be made of arrays with as many examples each. "
            f"Received: {name} of the shapes {[tuple(x.shape) for x in arrays]}"
        )
    (length,) = lengths
    if batch_size is None:
        numbers = sum(math.prod(x.shape[1:]) for x in arrays)
        batch_size = min(_BATCH_SIZE, max(1, _BATCH_NUMBERS // max(numbers, 1)))
    else:  # The model takes no other.
        length -= length % batch_size
    for start in range(0, length, batch_size):
        batch = slice(start, start + batch_size)
        yield keras.tree.pack_sequence_as(data, [x[batch] for x in arrays])


def _split(graph, element, name):
    """A flat list of inputs, and labels, from `x`, `(x,)` or `(x, y)`."""
    wanted = len(graph.inputs)
    x, y, _ = keras.utils.unpack_x_y_sample_weight(element)
    for inputs, labels in ((x, y), (element, None)):
        flat = _in_order(graph, inputs)
        if len(flat) == wanted:
            return flat, labels
    raise ValueError(
        f"`{name}` must hold the inputs of the model, of which there are "
        f"{wanted}, alone or in a tuple (inputs, labels). "
        f"Received: elements of the structure "
        f"{keras.tree.map_structure(lambda x: tuple(x.shape), element)}"
    )


def _in_order(graph, inputs):
    """A flat list; of a dict by the names of inputs, as `predict` takes it."""
    names = [value.name for value in graph.inputs]
    if isinstance(inputs, dict) and set(names) <= set(inputs):
        return [inputs[name] for name in names]
    return keras.tree.flatten(inputs)


def _input(value, x, name):
    shape = tuple(x.shape)
    fits = len(shape) == len(value.shape) and all(
        wanted in (None, size)
        for wanted, size in zip(value.shape[1:], shape[1:])
    )
    if not fits:
        hint = ""
        if len(shape) == len(value.shape) - 1:
            hint = ". A data set must be batched: `dataset.batch(64)`"
        raise ValueError(
            f"`{name}` must hold batches of the shape {value.shape} for the "
            f"input '{value.name}'. Received: a batch of the shape "
            f"{shape}{hint}"
        )
    return keras.ops.convert_to_tensor(x, dtype=value.dtype)


def _as_floats(tensors):
    return [tf.cast(x, tf.float32) for x in tensors]
