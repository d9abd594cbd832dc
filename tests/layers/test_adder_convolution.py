"""The adder convolutions but `AdderConv2D`, beside what they are made of."""

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf

from keras_adder import AdderConv1D
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D

NHWC, NCHW = "channels_last", "channels_first"
TF_FORMATS = {NHWC: "NHWC", NCHW: "NCHW"}

CASES = {
    "depthwise": (AdderDepthwiseConv2D, dict(kernel_size=3)),
    "depthwise_strided": (
        AdderDepthwiseConv2D,
        dict(kernel_size=3, strides=2, padding="same", depth_multiplier=2),
    ),
    "depthwise_oblong": (
        AdderDepthwiseConv2D,
        dict(
            kernel_size=(2, 3),
            strides=(1, 2),
            padding="same",
            depth_multiplier=3,
            filter_gradient="sign",
        ),
    ),
    "depthwise_dilated": (
        AdderDepthwiseConv2D,
        dict(kernel_size=3, dilation_rate=(1, 2), padding="same"),
    ),
    "depthwise_strided_and_dilated": (
        AdderDepthwiseConv2D,
        dict(kernel_size=3, strides=2, dilation_rate=2, depth_multiplier=2),
    ),
    "separable": (AdderSeparableConv2D, dict(filters=5, kernel_size=3)),
    "separable_strided": (
        AdderSeparableConv2D,
        dict(
            filters=5,
            kernel_size=(3, 2),
            strides=2,
            padding="same",
            depth_multiplier=3,
            filter_gradient="sign",
        ),
    ),
    "separable_dilated": (
        AdderSeparableConv2D,
        dict(filters=5, kernel_size=3, dilation_rate=2, depth_multiplier=2),
    ),
    # Its outputs are as many as its steps, which tells the axes apart.
    "conv1d": (AdderConv1D, dict(filters=7, kernel_size=3)),
    "conv1d_same": (
        AdderConv1D,
        dict(filters=6, kernel_size=4, strides=2, padding="same", groups=2),
    ),
    "conv1d_dilated": (
        AdderConv1D,
        dict(filters=6, kernel_size=3, dilation_rate=3, padding="same"),
    ),
    "conv1d_causal": (
        AdderConv1D,
        dict(
            filters=4, kernel_size=3, padding="causal", filter_gradient="sign"
        ),
    ),
    "conv1d_causal_strided": (
        AdderConv1D,
        dict(filters=4, kernel_size=4, strides=3, padding="causal", groups=4),
    ),
    "conv1d_causal_dilated": (
        AdderConv1D,
        dict(filters=4, kernel_size=3, dilation_rate=2, padding="CAUSAL"),
    ),
}


@pytest.fixture(params=CASES)
def make(request):
    layer, arguments = CASES[request.param]
    return lambda **kwargs: layer(**{**arguments, **kwargs})


def inputs_of(layer, batch=2):
    shape = (batch, 9, 8, 4) if layer.rank == 2 else (batch, 9, 4)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    return np.moveaxis(x, -1, 1) if layer.data_format == NCHW else x


def images(layer, sequences):
    """Sequences as images of one row; images as they are."""
    if layer.rank == 2:
        return sequences
    return np.expand_dims(sequences, 1 if layer.data_format == NHWC else 2)


def kernels_of(layer):
    return [v for v in layer.variables if v.name != "bias"]


def filters(layer, kernels):
    """Kernels, or their gradients, as filters of convolutions of images."""
    first, *rest = map(np.asarray, kernels)
    if layer.rank == 1:
        return [first[None]]
    # Those of one channel after the other.
    return [np.concatenate(np.split(first, 4, axis=2), axis=3), *rest]


def geometries(layer):
    """Arguments of the oracle for each of those convolutions."""
    strides, dilations = layer.strides, layer.dilation_rate
    padding = layer.padding.upper()
    if layer.rank == 1:
        strides, dilations = (1, *strides), (1, *dilations)
    if padding == "CAUSAL":
        padding = ((0, 0), ((layer.kernel_size[0] - 1) * dilations[1], 0))
    data_format = {"data_format": TF_FORMATS[layer.data_format]}
    first = dict(strides=strides, padding=padding, dilations=dilations)
    return [first | data_format, data_format]


@pytest.mark.parametrize("data_format", [NHWC, NCHW])
def test_values_and_gradients_are_those_of_the_oracle(make, data_format):
    layer = make(
        data_format=data_format,
        bias_initializer=keras.initializers.RandomNormal(stddev=10.0),
    )
    x = tf.constant(inputs_of(layer))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        upstream = np.random.default_rng(1).normal(size=y.shape)
        loss = tf.reduce_sum(y * upstream.astype("float32"))
    assert y.shape == layer.compute_output_shape(x.shape)

    stages = list(zip(filters(layer, kernels_of(layer)), geometries(layer)))
    between = [images(layer, x.numpy())]
    for f, geometry in stages:
        between.append(oracle.adder_conv2d(between[-1], f, **geometry))
    axis = 1 if data_format == NCHW else -1
    bias = np.moveaxis(between[-1], axis, -1) + layer.bias.numpy()
    want = np.moveaxis(bias, -1, axis)
    np.testing.assert_allclose(images(layer, y), want, rtol=1e-5, atol=1e-4)

    kernels = [kernel.value for kernel in kernels_of(layer)]
    dx, db, *dk = tape.gradient(loss, [x, layer.bias.value, *kernels])
    axes = tuple(i for i in range(y.ndim) if i != axis % y.ndim)
    np.testing.assert_allclose(db, upstream.sum(axes), rtol=1e-4, atol=1e-4)
    g = images(layer, upstream)
    for (f, geometry), x, df in reversed(
        list(zip(stages, between, filters(layer, dk)))
    ):
        want = oracle.adder_conv2d_filter_gradient(
            x, f, g, mode=layer.filter_gradient, **geometry
        )
        np.testing.assert_allclose(df, want, rtol=1e-4, atol=1e-3)
        g = oracle.adder_conv2d_input_gradient(x, f, g, **geometry)
    np.testing.assert_allclose(images(layer, dx), g, rtol=1e-4, atol=1e-4)


# One of each layer.
STRIDED = ["depthwise_oblong", "separable_strided", "conv1d_causal_strided"]


@pytest.mark.parametrize("name", STRIDED)
def test_shapes_and_names_are_those_of_the_keras_layer(name):
    layer, arguments = CASES[name]
    ours = layer(**arguments)
    arguments = {k: v for k, v in arguments.items() if k != "filter_gradient"}
    theirs = layer.__bases__[1](**arguments)
    shape = inputs_of(ours).shape
    for layer in (ours, theirs):
        layer.build(shape)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]
    unknown = (None,) * (len(shape) - 1) + shape[-1:]
    for x in (keras.KerasTensor(shape), keras.KerasTensor(unknown)):
        assert ours(x).shape == theirs(x).shape


@pytest.mark.parametrize(
    "layer, twin, arguments",
    [
        (
            AdderDepthwiseConv2D,
            keras.layers.DepthwiseConv2D,
            dict(kernel_size=3, depth_multiplier=3, padding="same"),
        ),
        (
            AdderConv1D,
            keras.layers.Conv1D,
            dict(filters=6, kernel_size=3, padding="causal", dilation_rate=2),
        ),
    ],
)
def test_zeros_and_ones_are_compared_as_keras_multiplies_them(
    layer, twin, arguments
):
    """-|x - f| is 2 x f - x - f of them: outputs are in the same order."""
    layer = layer(**arguments, use_bias=False)
    twin = twin(**arguments, use_bias=False)
    x = (inputs_of(layer) > 0).astype("float32")
    layer.build(x.shape)
    twin.build(x.shape)
    kernel = (layer.kernel.numpy() > 0).astype("float32")
    twin.set_weights([kernel])
    products = twin(x)
    twin.set_weights([np.ones_like(kernel)])
    pixels = twin(x)
    layer.set_weights([kernel])
    sizes = filters(layer, [kernel])[0].sum((0, 1, 2))
    np.testing.assert_array_equal(layer(x), 2 * products - pixels - sizes)


@pytest.mark.parametrize("name", STRIDED)
def test_sizes_may_be_unknown(name):
    layer, arguments = CASES[name]
    layer = layer(**arguments)
    x = inputs_of(layer, batch=3)
    signature = tf.TensorSpec([None] * (x.ndim - 1) + [4])
    traced = tf.function(layer, input_signature=[signature])
    np.testing.assert_array_equal(traced(x), layer(x))
    assert traced(x[:0]).shape == (0, *layer(x).shape[1:])


@pytest.mark.parametrize(
    "layer, arguments, name",
    [
        (AdderDepthwiseConv2D, {"padding": "causal"}, "padding"),
        (AdderDepthwiseConv2D, {"padding": [[1, 1], [1, 1]]}, "padding"),
        (AdderDepthwiseConv2D, {"depth_multiplier": 0}, "depth_multiplier"),
        (AdderDepthwiseConv2D, {"strides": 0}, "strides"),
        (AdderSeparableConv2D, {"filters": 4, "padding": None}, "padding"),
        (AdderSeparableConv2D, {"filters": 0}, "filters"),
        (AdderConv1D, {"filters": 4, "padding": [1, 1]}, "padding"),
        (AdderConv1D, {"filters": 4, "padding": "full"}, "padding"),
        (AdderConv1D, {"filters": 4, "groups": 3}, "groups"),
        (
            AdderConv1D,
            {"filters": 4, "strides": 2, "dilation_rate": 2},
            "dilation_rate",
        ),
    ],
)
def test_errors_name_the_argument(layer, arguments, name):
    with pytest.raises(ValueError, match=name):
        layer(kernel_size=3, **arguments)
