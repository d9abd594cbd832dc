"""One call from a trained model to a fast one."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import keras

from keras_adder.inference import building
from keras_adder.inference import calibration as calibrating
from keras_adder.inference import convolutions
from keras_adder.inference import correction
from keras_adder.inference import folding
from keras_adder.inference import graph as graphs
from keras_adder.inference import planning
from keras_adder.inference import separable

PRECISIONS = ("int8", "int16", "float32")


def optimize(
    model: keras.Model,
    precision: str = "int8",
    calibration: Any = None,
    *,
    percentile: float | None = None,
    bits: int = 8,
    keep_float: Callable[[keras.layers.Layer], bool] | None = None,
) -> keras.Model:
    """Makes a model for inference, with integers in its adder layers.

    Each adder layer becomes a `keras_adder.layers.FusedAdderConv2D` or
    `FusedAdderDense` of the same name (a separable one becomes two, the first
    with `_depthwise` behind its name; one of sequences a `FusedAdderConv1D`),
    which takes in

    - the bias, and the `keras.layers.BatchNormalization` behind it;
    - the sum with another tensor behind that, at the end of a residual block;
    - the `ReLU` or `ReLU6` behind that (not one before the normalization);
    - the `keras.layers.ZeroPadding2D` or `ZeroPadding1D` before it.

    All else stays, in floating point, but for what does nothing at inference,
    such as `Dropout`, and batch normalizations behind convolutions and dense
    layers, which go into the weights of these. Nested models are taken apart.
    A layer that is called more than once becomes as many fused layers.

    An AdderNet takes to integers without retraining. The distance |x - f| stays
    what it is when an offset is added to both sides, so that inputs and filters
    of a layer share one scale and one zero point. And for inputs between two
    bounds the part of a filter beyond them is a constant, which goes into the
    layer's offset. What is left to lose is the rounding. It is half a step at
    most, and what it does to a filter's distances on average goes into the
    offset, too.

    Tensors between fused layers are integers where all that takes them is such
    a layer. Where a pooling, a concatenation or anything else takes a tensor,
    it is float32, and the fused layers quantize it as they read it. Outputs of
    fused layers that are outputs of the model are float32, whatever the dtype
    policy of the original.

    Args:
        model: A functional or sequential `keras.Model` that has been built. It
            stays as it is.
        precision: string. `"int8"`: inputs of adder layers and filters of 8
            bits or less, which are of type uint8 and asymmetric where inputs
            are signed. `"int16"`: of 16 bits, with room for values a quarter
            larger than those of `calibration`; a layer with so many taps that
            its sums might leave 32 bits computes in float32. `"float32"`: no
            integers; what comes out differs by rounding alone.
        calibration: What the ranges of the inputs are taken from: training
            images, as the model takes them; some hundred do. An array, a tuple
            (or dict) of arrays for a model of several inputs, or a
            `tf.data.Dataset` of batches that comes to an end, of inputs or
            (inputs, labels). It is gone through some three times. Not needed
            for `precision="float32"`.
        percentile: float over 50 and up to 100. The share of values in percent
            that the range shall hold, on both sides where values are signed;
            those beyond are clipped. 100 takes all that `calibration` has.
            Defaults to `None`: 99.999 for `precision="int8"`, which leaves out
            what only a few pixels have, and 100 for `"int16"`. With 4 `bits` or
            less, 99.9 is far better.
        bits: int from 2 to 8, for `precision="int8"`: of inputs of adder layers
            and of filters. Residuals, which is what skips adder layers, have 8
            bits whatever this is, and all of their range. With less than 8
            there are layers between that bring tensors to fewer levels, and
            nothing is faster.
        keep_float: function of an adder layer that returns whether the layer
            stays as it is. Defaults to `None`, which keeps none.

    Returns:
        A new functional `keras.Model`. It is not compiled and cannot be
        trained.

    Raises:
        TypeError: If `model` is not a `keras.Model`, `calibration` no data, or
            `keep_float` cannot be called.
        ValueError: If another argument is not one of those above, if `model` is
            subclassed, has not been built or has no adder layer, or if with
            `calibration` an input of an adder layer is constant or not finite.

    Example:

    >>> model = keras_adder.applications.LeNet5(weights="mnist")
    >>> images = np.random.rand(64, 32, 32, 1)  # or training images
    >>> fast = keras_adder.inference.optimize(model, "int8", images)
    >>> fast.predict(images, verbose=0).shape
    (64, 10)
    >>> fast.get_layer("fc2_dense").kernel.dtype
    'uint8'
    """
    graph = convolutions.fold_normalizations(graphs.read(model))
    bits = _check(precision, calibration, percentile, bits, keep_float)
    kept = {
        node: "`keep_float` is true"
        for node in folding.adder_nodes(graph)
        if keep_float is not None and keep_float(node.layer)
    }
    graph = separable.split(graph, kept)
    folded = folding.fold(graph, kept)
    if not folded.fused:
        raise ValueError(
            "`model` must have an adder layer, such as a "
            "`keras_adder.AdderConv2D`, that `keep_float` does not keep. "
            f"Received: model with the layers {_types(graph)}, "
            f"keep_float={keep_float}"
        )

    if percentile is None:
        percentile = 99.999 if precision == "int8" else 100

    def measure(tensors):
        return calibrating.calibrate(graph, tensors, calibration, percentile)

    plan = planning.plan(folded, precision, bits, measure)
    errors = correction.mean_errors(graph, plan, calibration)
    return building.build(graph, folded, plan, errors, model.name)


def _check(precision, calibration, percentile, bits, keep_float):
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {PRECISIONS}. "
            f"Received: precision={precision!r}"
        )
    if precision != "float32" and calibration is None:
        raise ValueError(
            "`calibration` must be data that the ranges of integers are taken "
            "from, such as some hundred training images: an array or a "
            f"`tf.data.Dataset`. Received: calibration=None, "
            f"precision={precision!r}"
        )
    if percentile is not None and not _is_percentile(percentile):
        raise ValueError(
            "`percentile` must be a number over 50 and up to 100, or `None`. "
            f"Received: percentile={percentile!r}"
        )
    whole = isinstance(bits, numbers.Integral) and not isinstance(bits, bool)
    if not whole or not 2 <= bits <= 8:
        raise ValueError(
            f"`bits` must be an integer from 2 to 8. Received: bits={bits!r}"
        )
    if bits != 8 and precision != "int8":
        raise ValueError(
            '`bits` must be 8 unless `precision` is "int8". '
            f"Received: bits={bits}, precision={precision!r}"
        )
    if keep_float is not None and not callable(keep_float):
        raise TypeError(
            "`keep_float` must be a function of a layer, or `None`. Received: "
            f"keep_float={keep_float} (of type {type(keep_float)})"
        )
    return int(bits)


def _is_percentile(value):
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value) and 50 < value <= 100


def _types(graph):
    return sorted({type(node.layer).__name__ for node in graph.nodes})
