"""Ranges from data: of arrays and data sets, and what is no data."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from fused_networks import SHAPE
from fused_networks import images
from keras import layers

from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import inference
from keras_adder.inference import calibration
from keras_adder.inference import graph
from keras_adder.inference.quantization import Quantization


def one_layer(shape=(4,), **arguments):
    return keras.Sequential(
        [keras.Input(shape), AdderDense(3, name="d", **arguments)]
    )


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    x = layers.Concatenate()([a, b])
    return keras.Model([a, b], AdderDense(3, name="d")(x))


def scale_and_zero(model, data, **kwargs):
    layer = inference.optimize(model, "int8", data, **kwargs).get_layer("d")
    return layer.input_scale, layer.input_zero_point


def measure(model, data, percentile=100):
    """The range of what the model's first fused layer takes."""
    read = graph.read(model)
    (node,) = (i for i in read.nodes if i.name == "d")
    (value,) = node.inputs
    return calibration.calibrate(read, {value: "it"}, data, percentile)[value]


def expected(low, high, levels=255):
    q = Quantization.of_range(low, high, "uint8", levels)
    return q.scale, q.zero_point


def test_the_least_and_the_largest_of_all_batches():
    x = images(200, (4,))
    x[3, 1], x[150, 2], x[199, 0] = -7.0, 9.0, -7.5
    assert scale_and_zero(one_layer(), x) == expected(-7.5, 9.0)
    assert scale_and_zero(one_layer(), np.abs(x)) == expected(0, 9.0)
    # Zero is always in it.
    assert scale_and_zero(one_layer(), 1 + np.abs(x)) == expected(0, 10.0)
    assert scale_and_zero(one_layer(), -1 - np.abs(x)) == expected(-10.0, 0)


@pytest.mark.parametrize("percentile", [90, 99.0, 99.9, 100])
def test_percentiles(percentile):
    x = images(500, (4,)) ** 3
    width = np.ptp(x) / calibration._BINS
    found = measure(one_layer(), x, percentile)
    kwargs = {"q": percentile, "method": "inverted_cdf"}
    assert (found.low, found.high) == (x.min(), x.max())
    assert abs(found.high_percentile - np.percentile(x, **kwargs)) < 2 * width
    assert abs(found.low_percentile + np.percentile(-x, **kwargs)) < 2 * width
    # Of what is not signed, zero stays, and all the zeros count.
    x = np.maximum(x, 0)
    found = measure(one_layer(), x, percentile)
    assert found.low_percentile == 0
    assert abs(found.high_percentile - np.percentile(x, **kwargs)) < 2 * width
    scale, zero_point = scale_and_zero(one_layer(), x, percentile=percentile)
    assert (scale, zero_point) == expected(0, found.high_percentile)


def test_the_same_ranges_of_all_kinds_of_data():
    x = images(150, (4,))
    labels = np.arange(150)
    data = tf.data.Dataset.from_tensor_slices
    model = one_layer()
    wanted, percentiles = measure(model, x), measure(model, x, 99.0)
    for given in (
        x.astype("float64"),
        tf.constant(x),
        (x,),
        (x, labels),
        data(x).batch(32),
        data(x).batch(150),
        data((x, labels)).batch(7),
        data((x,)).batch(7),
        data((x, labels, labels)).batch(7),
        data(x).shuffle(150).batch(64),
    ):
        assert measure(model, given) == wanted
        assert measure(model, given, 99.0) == percentiles
    assert scale_and_zero(model, given) == expected(x.min(), x.max())


def test_several_inputs():
    a, b = images(70, (4,)), images(70, (5,), seed=1)
    labels = np.arange(70)
    data = tf.data.Dataset.from_tensor_slices
    model = two_inputs()
    wanted = measure(model, (a, b))
    for given in (
        [a, b],
        ((a, b), labels),
        data((a, b)).batch(20),
        data(((a, b), labels)).batch(20),
        data(((a, b),)).batch(20),
    ):
        assert measure(model, given) == wanted


def test_a_model_is_computed_as_in_inference():
    """Dropout and batch statistics would make other ranges."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dropout(0.9),
            layers.BatchNormalization(),
            AdderDense(3, name="d"),
        ]
    )
    x = images(100, (4,))
    factor = 1 / np.sqrt(1 + 1e-3)
    scale, zero_point = scale_and_zero(model, x)
    assert (scale, zero_point) == pytest.approx(
        expected(x.min() * factor, x.max() * factor), rel=1e-5
    )


@pytest.mark.parametrize(
    "data, error, message",
    [
        (3.0, TypeError, "`calibration` must be an array"),
        ("images", TypeError, "`calibration` must be an array"),
        (lambda: 0, TypeError, "`calibration` must be an array"),
        (np.float32(3), ValueError, "`calibration` must be made of arrays"),
        (np.ones((0, 4), "float32"), ValueError, "`calibration`.*is empty"),
        (
            tf.data.Dataset.from_tensor_slices(np.ones((0, 4))).batch(3),
            ValueError,
            "`calibration` must hold at least one example",
        ),
        (
            tf.data.Dataset.from_tensor_slices(images(4, (4,))),
            ValueError,
            r"batches of the shape \(None, 4\).*batch of the shape \(4,\)\. A "
            r"data set must be batched",
        ),
        (
            tf.data.Dataset.from_tensor_slices(images(4, (4,)))
            .batch(2)
            .repeat(),
            ValueError,
            "`calibration` must come to an end.*repeated",
        ),
        (images(4, (5,)), ValueError, r"shape \(None, 4\) for.*\(4, 5\)"),
        (images(4, (4, 4)), ValueError, r"shape \(None, 4\) for.*\(4, 4, 4\)"),
        ((images(4, (4,)), np.ones(3)), ValueError, "as many examples each"),
    ],
)
def test_what_is_no_data(data, error, message):
    with pytest.raises(error, match=message):
        inference.optimize(one_layer(), "int8", data)


def test_too_few_inputs():
    with pytest.raises(ValueError, match="of which there are 2.*structure"):
        inference.optimize(two_inputs(), "int8", images(4, (4,)))


def chain(activation):
    """A layer, whatever is put between, and the layer that gets it."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            AdderConv2D(3, 1, name="first", use_bias=False),
            layers.Activation(activation),
            layers.MaxPooling2D(1),
            AdderConv2D(3, 1, name="second"),
        ]
    )


@pytest.mark.parametrize(
    "activation, kind",
    [("relu", "dead: always 0"), ("hard_sigmoid", "dead: always 0")],
)
def test_dead_inputs(activation, kind):
    model = chain(activation)
    model.layers[0].kernel.assign(100 * np.ones((1, 1, 3, 3)))
    with pytest.raises(
        ValueError, match=f"`calibration`.*the input of 'second' is {kind}"
    ):
        inference.optimize(model, "int8", images())
    # As the error says.
    fast = inference.optimize(
        model, "int8", images(), keep_float=lambda i: i.name == "second"
    )
    assert fast.get_layer("first").filter_dtype == "uint8"


def test_constant_inputs():
    with pytest.raises(ValueError, match="'d' is constant: always 2.5"):
        inference.optimize(one_layer(), "int8", np.full((5, 4), 2.5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_values_that_are_not_finite(value, precision):
    x = images(100, (4,))
    x[70, 2] = value
    with pytest.raises(
        ValueError, match="`calibration`.*finite.*the input of 'd' has NaNs"
    ):
        inference.optimize(one_layer(), precision, x)


@pytest.mark.parametrize("outlier", [1e3, 1e5, 1e8])
def test_percentiles_beside_an_outlier(outlier):
    """It is what they are for, however far it is."""
    x = np.random.default_rng(4).normal(size=(5000, 4)).astype("float32")
    wanted = measure(one_layer(), x, 99.9)
    x[0, 0] = outlier
    found = measure(one_layer(), x, 99.9)
    assert found.high == outlier
    assert abs(found.high_percentile - wanted.high_percentile) < 0.2
    assert abs(found.low_percentile - wanted.low_percentile) < 0.2


def test_defaults():
    """A few pixels for bytes, none for words."""
    x = np.random.default_rng(5).normal(size=(50_000, 4)).astype("float32")
    assert scale_and_zero(one_layer(), x) == scale_and_zero(
        one_layer(), x, percentile=99.999
    )
    scales = [
        inference.optimize(one_layer(), "int16", x, percentile=percentile)
        .get_layer("d")
        .input_scale
        for percentile in (None, 100)
    ]
    assert scales[0] == scales[1]


def test_dicts_go_by_name():
    """As in `predict`, whatever the order of the model's inputs."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([b, a], AdderDense(3, name="d")(a) + b[:, :3])
    x = np.random.default_rng(6).normal(size=(50, 4)).astype("float32")
    data = {"a": x, "b": 100 * x}
    wanted = scale_and_zero(model, (100 * x, x))
    assert scale_and_zero(model, data) == wanted
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(10)
    assert scale_and_zero(model, dataset) == wanted


def test_a_percentile_that_leaves_nothing():
    x = np.zeros((1000, 4), "float32")
    x[5, 0] = 3.0
    assert scale_and_zero(one_layer(), x) == expected(0, 3.0)
    with pytest.raises(ValueError, match="`percentile`.*input of 'd'.*=99"):
        inference.optimize(one_layer(), "int8", x, percentile=99)


def test_no_data_is_needed_for_floats():
    fast = inference.optimize(one_layer(), "float32", calibration="unused")
    assert fast.get_layer("d").filter_dtype == "float32"
