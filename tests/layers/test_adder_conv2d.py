import itertools

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf

from keras_adder import AdderConv2D

NHWC, NCHW = "channels_last", "channels_first"
TF_FORMATS = {NHWC: "NHWC", NCHW: "NCHW"}

# kernel_size, strides, dilation_rate, groups
GEOMETRIES = [
    (1, 1, 1, 1),
    (3, 1, 1, 1),
    (3, 2, 1, 1),
    ((3, 2), (2, 1), 1, 1),
    ((2, 5), 3, 1, 2),
    (3, 1, 2, 1),
    (3, 1, (1, 2), 2),
    (2, 1, 1, 4),
]
GRID = list(itertools.product(GEOMETRIES, ["valid", "same"], [NHWC, NCHW]))


def arguments(geometry, padding, data_format):
    names = ("kernel_size", "strides", "dilation_rate", "groups")
    return {
        **dict(zip(names, geometry)),
        "filters": 8,
        "padding": padding,
        "data_format": data_format,
    }


def images(data_format=NHWC, shape=(2, 9, 10, 4), seed=0):
    x = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return np.moveaxis(x, -1, 1) if data_format == NCHW else x


def expected(function, layer, *arrays, **kwargs):
    """What the float64 oracle says for the arguments of the layer."""
    return function(
        *arrays,
        strides=layer.strides,
        padding=layer.padding.upper(),
        dilations=layer.dilation_rate,
        data_format=TF_FORMATS[layer.data_format],
        **kwargs,
    )


@pytest.mark.parametrize("geometry, padding, data_format", GRID)
def test_shapes_are_those_of_conv2d(geometry, padding, data_format):
    kwargs = arguments(geometry, padding, data_format)
    adder, conv = AdderConv2D(**kwargs), keras.layers.Conv2D(**kwargs)
    for shape in [(2, 9, 10, 4), (None, 9, 10, 4), (None, None, None, 4)]:
        if data_format == NCHW:
            shape = shape[:1] + shape[3:] + shape[1:3]
        x = keras.KerasTensor(shape)
        assert adder(x).shape == conv(x).shape
        assert adder.compute_output_shape(shape) == conv.compute_output_shape(
            shape
        )
    assert [w.shape for w in adder.weights] == [w.shape for w in conv.weights]
    assert [w.name for w in adder.weights] == [w.name for w in conv.weights]


@pytest.mark.parametrize("geometry, padding, data_format", GRID)
def test_values_are_those_of_the_oracle(geometry, padding, data_format):
    layer = AdderConv2D(**arguments(geometry, padding, data_format))
    x = images(data_format)
    y = layer(x)
    want = expected(oracle.adder_conv2d, layer, x, layer.kernel.numpy())
    assert y.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["full_precision", "sign"])
@pytest.mark.parametrize("data_format", [NHWC, NCHW])
@pytest.mark.parametrize("geometry", [(3, 2, 1, 1), (3, 1, 2, 2)])
def test_gradients_are_those_of_the_oracle(geometry, data_format, mode):
    layer = AdderConv2D(
        **arguments(geometry, "same", data_format), filter_gradient=mode
    )
    x = tf.constant(images(data_format))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        upstream = np.random.default_rng(1).normal(size=y.shape)
        loss = tf.reduce_sum(y * upstream.astype("float32"))
    dx, df, db = tape.gradient(loss, [x, layer.kernel.value, layer.bias.value])
    arrays = (x.numpy(), layer.kernel.numpy(), upstream)
    np.testing.assert_allclose(
        dx,
        expected(oracle.adder_conv2d_input_gradient, layer, *arrays),
        rtol=1e-4,
        atol=1e-4,
    )
    np.testing.assert_allclose(
        df,
        expected(
            oracle.adder_conv2d_filter_gradient, layer, *arrays, mode=mode
        ),
        rtol=1e-4,
        atol=1e-3,
    )
    axes = (0, 1, 2) if data_format == NHWC else (0, 2, 3)
    np.testing.assert_allclose(db, upstream.sum(axes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [9, 10])
@pytest.mark.parametrize("data_format", [NHWC, NCHW])
def test_bias_and_activation(data_format, width):
    """Also where the new width is the number of filters."""
    x = images(data_format, (2, 9, width, 4))
    layer = AdderConv2D(
        8,
        3,
        data_format=data_format,
        activation="relu",
        bias_initializer=keras.initializers.RandomNormal(30.0, 10.0),
    )
    y = layer(x)
    bias = layer.bias.numpy()
    want = expected(oracle.adder_conv2d, layer, x, layer.kernel.numpy())
    shape = (8, 1, 1) if data_format == NCHW else (8,)
    want = np.maximum(want + bias.reshape(shape), 0)
    assert 0 < np.mean(want == 0) < 1
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-4)


def test_data_format_is_kerass_setting_by_default():
    assert keras.config.image_data_format() == NHWC
    keras.config.set_image_data_format(NCHW)
    try:
        layer = AdderConv2D(8, 3)
    finally:
        keras.config.set_image_data_format(NHWC)
    assert layer.data_format == NCHW
    assert layer(images(NCHW)).shape == (2, 8, 7, 8)


@pytest.mark.parametrize("data_format", [NHWC, NCHW])
def test_sizes_may_be_unknown(data_format):
    shape = (4, None, None) if data_format == NCHW else (None, None, 4)
    inputs = keras.Input(shape)
    layer = AdderConv2D(8, 3, 2, "same", data_format=data_format)
    model = keras.Model(inputs, layer(inputs))
    for batch, height, width in [(1, 5, 7), (3, 12, 4), (2, 1, 1)]:
        x = images(data_format, (batch, height, width, 4))
        want = expected(oracle.adder_conv2d, layer, x, layer.kernel.numpy())
        y = model.predict(x, verbose=0)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_an_empty_batch_is_an_empty_result():
    assert AdderConv2D(8, 3)(np.zeros((0, 9, 10, 4))).shape == (0, 7, 8, 8)


@pytest.mark.parametrize(
    "kwargs, name",
    [
        ({"padding": "causal"}, "padding"),
        ({"padding": [[1, 1], [1, 1]]}, "padding"),
        ({"padding": "full"}, "padding"),
        ({"strides": 2, "dilation_rate": 2}, "dilation_rate"),
        ({"strides": 0}, "strides"),
        ({"groups": 3}, "groups"),
        ({"data_format": "NHWC"}, "data_format"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"filters": -1}, "filters"),
    ],
)
def test_errors_name_the_argument(kwargs, name):
    with pytest.raises(ValueError, match=name):
        AdderConv2D(**{"filters": 8, "kernel_size": 3, **kwargs})


def test_inputs_too_small_or_of_the_wrong_depth():
    layer = AdderConv2D(8, 3)
    with pytest.raises(ValueError, match="output size"):
        layer(np.zeros((1, 2, 9, 4)))
    layer = AdderConv2D(8, 3, groups=2)
    with pytest.raises(ValueError, match="groups=2"):
        layer(np.zeros((1, 9, 9, 3)))
    layer = AdderConv2D(8, 3)
    layer.build((None, 9, 9, 4))
    with pytest.raises(ValueError, match="axis -1"):
        layer(np.zeros((1, 9, 9, 5)))
