"""Each fold alone, and what must not be folded, in floating point."""

import keras
import numpy as np
import pytest
from fused_networks import SHAPE
from fused_networks import block
from fused_networks import difference
from fused_networks import images
from fused_networks import kinds
from fused_networks import ready
from fused_networks import residual
from keras import layers

from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D
from keras_adder import inference
from keras_adder.layers import FusedAdderConv2D
from keras_adder.layers import FusedAdderDense


def conv(filters=4, size=3, **arguments):
    return AdderConv2D(filters, size, name="adder", **arguments)


def depthwise(**arguments):
    return AdderDepthwiseConv2D(3, name="adder", **arguments)


def separable(**arguments):
    return AdderSeparableConv2D(3, 3, name="adder", **arguments)


def conv1d(size=3, **arguments):
    return AdderConv1D(4, size, name="adder", **arguments)


def assert_folded(model, kept, x=None, tolerance=1e-5, names=("adder",)):
    """All but the named layers are folded, and nothing else changes."""
    x = images(shape=model.input_shape[1:]) if x is None else x
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    fast = inference.optimize(model, "float32")
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    found = kinds(fast)
    fused = {name for name, kind in found.items() if "Fused" in kind}
    inputs = {layer.name for layer in fast.layers[:1]}
    assert fused == set(names)
    assert found.keys() - fused - inputs == set(kept)
    assert difference(fast, model, x) < tolerance
    return fast


CHAINS = {
    "bare": [conv(use_bias=False)],
    "bias": [conv()],
    "batch_norm": [conv(use_bias=False), layers.BatchNormalization()],
    "bias_batch_norm": [conv(), layers.BatchNormalization()],
    "two_batch_norms": [
        conv(),
        layers.BatchNormalization(scale=False),
        layers.BatchNormalization(center=False, epsilon=0.1),
    ],
    "relu": [conv(), layers.BatchNormalization(), layers.ReLU()],
    "relu6": [conv(), layers.BatchNormalization(), layers.ReLU(max_value=6)],
    "relu_half": [conv(), layers.BatchNormalization(), layers.ReLU(0.5)],
    "activation": [
        conv(),
        layers.BatchNormalization(),
        layers.Activation("relu"),
    ],
    "activation6": [
        conv(),
        layers.BatchNormalization(),
        layers.Activation("relu6"),
    ],
    "relu_alone": [conv(bias_initializer="ones"), layers.ReLU()],
    "argument": [conv(activation="relu")],
    "padding": [
        layers.ZeroPadding2D(((1, 2), (0, 3))),
        conv(),
        layers.BatchNormalization(),
    ],
    "paddings": [layers.ZeroPadding2D(1), layers.ZeroPadding2D(1), conv()],
    "padding_same": [layers.ZeroPadding2D(1), conv(padding="same", size=2)],
    "padding_strides": [layers.ZeroPadding2D(1), conv(strides=2)],
    "padding_dilated": [layers.ZeroPadding2D(4), conv(size=4, dilation_rate=2)],
    "groups": [conv(filters=6, groups=3), layers.BatchNormalization()],
    "depthwise": [depthwise(use_bias=False)],
    "depthwise_relu6": [
        depthwise(depth_multiplier=2),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
    ],
    "depthwise_argument": [depthwise(activation="relu")],
    "depthwise_padding": [
        layers.ZeroPadding2D(((0, 1), (1, 1))),
        depthwise(strides=2),
        layers.BatchNormalization(),
    ],
    "depthwise_dilated": [
        depthwise(padding="same", strides=(2, 1), dilation_rate=2),
        layers.BatchNormalization(),
    ],
    "noise": [
        layers.Dropout(0.5),
        conv(),
        layers.GaussianNoise(1.0),
        layers.BatchNormalization(),
        layers.SpatialDropout2D(0.2),
        layers.Identity(),
        layers.Activation("linear"),
        layers.ReLU(),
        layers.ActivityRegularization(0.1),
    ],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.filterwarnings("ignore:Nothing will pass")
def test_what_is_folded(name):
    clones = [type(i).from_config(i.get_config()) for i in CHAINS[name]]
    model = ready(keras.Sequential([keras.Input(SHAPE), *clones], name=name))
    fast = assert_folded(model, kept=[])
    assert fast.name == name and not isinstance(fast, keras.Sequential)
    assert not fast.trainable_variables


def test_weights():
    model = ready(
        keras.Sequential(
            [keras.Input(SHAPE), conv(), layers.BatchNormalization()]
        )
    )
    layer, normalization = model.layers
    fused = inference.optimize(model, "float32").get_layer("adder")
    assert type(fused) is FusedAdderConv2D
    factor = normalization.gamma / np.sqrt(
        normalization.moving_variance + normalization.epsilon
    )
    offset = (layer.bias - normalization.moving_mean) * factor
    np.testing.assert_array_equal(fused.kernel, layer.kernel)
    np.testing.assert_allclose(fused.multiplier, factor, rtol=1e-6)
    np.testing.assert_allclose(
        fused.offset, offset + normalization.beta, rtol=1e-5, atol=1e-6
    )


SEQUENCES = {
    "bare": [conv1d(use_bias=False)],
    "causal": [
        conv1d(padding="causal", dilation_rate=2),
        layers.BatchNormalization(),
        layers.ReLU(),
    ],
    "padding": [
        layers.ZeroPadding1D((1, 2)),
        conv1d(strides=2, groups=2),
        layers.BatchNormalization(),
    ],
    "padding_causal": [layers.ZeroPadding1D(1), conv1d(padding="causal")],
    "padding_wide": [layers.ZeroPadding1D(4, name="pad"), conv1d()],
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences(name):
    clones = [type(i).from_config(i.get_config()) for i in SEQUENCES[name]]
    model = ready(keras.Sequential([keras.Input((9, 4)), *clones]))
    assert_folded(model, {"padding_wide": ["pad"]}.get(name, []))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_separable(multiplier):
    """Two layers; the first takes the padding, and the second all else."""
    inputs = keras.Input(SHAPE)
    x = layers.ZeroPadding2D(1)(inputs)
    x = separable(depth_multiplier=multiplier)(x)
    x = layers.BatchNormalization()(x)
    model = ready(keras.Model(inputs, layers.ReLU()(layers.Add()([inputs, x]))))
    names = ["adder_depthwise", "adder"]
    fast = assert_folded(model, [], names=names)
    first, second = map(fast.get_layer, names)
    assert first.padding == ((1, 1), (1, 1)) and first.groups == 3
    assert second.kernel.shape == (1, 1, 3 * multiplier, 3)
    assert (first.lower, second.lower) == (None, 0.0)


@pytest.mark.filterwarnings("error:Nothing will pass")
def test_separable_with_activations():
    """And with a name that is taken."""
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(2.0, name="adder_depthwise")(inputs)
    with pytest.warns(UserWarning, match="Nothing will pass"):
        layer = separable(activation="relu")
    model = ready(keras.Model(inputs, layer(x)))
    names = ["adder_depthwise_", "adder"]
    fast = assert_folded(model, ["adder_depthwise"], names=names)
    assert fast.get_layer("adder").lower == 0.0


def test_dense():
    for shape in ((12,), (3, 12), (2, 3, 12)):
        model = keras.Sequential(
            [
                keras.Input(shape),
                AdderDense(7, name="adder"),
                layers.BatchNormalization(),
                layers.ReLU(),
            ]
        )
        fast = assert_folded(ready(model), kept=[])
        assert type(fast.get_layer("adder")) is FusedAdderDense


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("by_function", [True, False])
def test_residual_sums(first, relu, by_function):
    inputs = keras.Input(SHAPE)
    x = conv(filters=3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    terms = [x, inputs] if first else [inputs, x]
    x = terms[0] + terms[1] if by_function else layers.Add()(terms)
    if relu and by_function:
        x = keras.ops.relu6(x)
    elif relu:
        x = layers.ReLU()(x)
    assert_folded(ready(keras.Model(inputs, x)), kept=[])


def test_residual_blocks():
    model = residual()
    fast = inference.optimize(model, "float32")
    assert kinds(fast) == {
        "images": "InputLayer",
        "stem": "Conv2D",
        "stem_relu": "ReLU",
        **dict.fromkeys(["a0", "a1", "a2", "b1", "b2"], "FusedAdderConv2D"),
        "pool": "GlobalAveragePooling2D",
        "top": "Dense",
    }
    assert difference(fast, model, images()) < 1e-5


def test_the_longer_branch_adds():
    """The sum goes there wherever the shortcut stands."""
    inputs = keras.Input(SHAPE)
    long = block(block(inputs, 3, name="l1"), 3, name="l2", relu=False)
    short = block(inputs, 3, 1, name="s", relu=False)
    for terms in ([long, short], [short, long]):
        model = ready(keras.Model(inputs, layers.Add()(terms)))
        fast = inference.optimize(model, "int8", images())
        assert fast.get_layer("s").output_dtype == "uint8"
        assert fast.get_layer("l2").output is fast.output


UNFOLDED = {
    "relu_first": (
        lambda x: layers.BatchNormalization(name="bn")(
            layers.ReLU(negative_slope=0.0)(x)
        ),
        {"bn"},
    ),
    "other_axis": (
        lambda x: layers.BatchNormalization(axis=1, name="bn")(x),
        {"bn"},
    ),
    "in_training": (
        lambda x: layers.BatchNormalization(name="bn")(x, training=True),
        {"bn"},
    ),
    "leaky": (lambda x: layers.ReLU(negative_slope=0.1, name="r")(x), {"r"}),
    "threshold": (lambda x: layers.ReLU(threshold=0.1, name="r")(x), {"r"}),
    "gelu": (lambda x: layers.Activation("gelu", name="g")(x), {"g"}),
    "twice": (lambda x: layers.Add(name="sum")([x, x]), {"sum"}),
    "broadcast": (
        lambda x: layers.Add(name="sum")(
            [x, layers.GlobalMaxPooling2D(keepdims=True, name="m")(x)]
        ),
        {"sum", "m"},
    ),
    "plus_number": (lambda x: layers.Rescaling(2.0, 1.0, name="n")(x), {"n"}),
    "two_users": (
        lambda x: [
            layers.BatchNormalization(name="bn")(x),
            layers.ReLU(name="r")(x),
        ],
        {"bn", "r"},
    ),
    "an_output": (lambda x: [x, layers.ReLU(name="r")(x)], {"r"}),
}


@pytest.mark.parametrize("name", UNFOLDED)
def test_what_is_not_folded(name):
    behind, kept = UNFOLDED[name]
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, behind(conv()(inputs)))
    if name != "in_training":
        ready(model)
    x = images() + 1
    assert_folded(model, kept, x)


def test_three_terms():
    inputs = keras.Input(SHAPE)
    x = conv(filters=3, padding="same")(inputs)
    x = layers.Add(name="sum")([x, inputs, inputs])
    assert_folded(ready(keras.Model(inputs, x)), ["sum"])


@pytest.mark.parametrize(
    "padding, arguments",
    [
        (1, {"padding": "same", "strides": 2}),  # depends on the size
        (4, {}),  # more than the filter
    ],
)
def test_padding_that_does_not_fit(padding, arguments):
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.ZeroPadding2D(padding, name="pad"),
            conv(**arguments),
        ]
    )
    assert_folded(ready(model), ["pad"])


def test_padding_that_others_take():
    inputs = keras.Input(SHAPE)
    x = layers.ZeroPadding2D(1, name="pad")(inputs)
    model = keras.Model(inputs, [conv()(x), x])
    assert_folded(ready(model), ["pad"])


def test_an_activation_of_another_kind():
    model = keras.Sequential(
        [keras.Input(SHAPE), conv(activation="tanh"), layers.ReLU(name="r")]
    )
    model.layers[0].bias.assign([9.0, 12.0, 18.0, 25.0])
    assert_folded(model, ["adder_activation", "r"])


@pytest.mark.parametrize("layer", [conv, depthwise, separable, conv1d])
def test_channels_first(layer):
    shape, padding = (3, 8, 7), layers.ZeroPadding2D
    if layer is conv1d:
        shape, padding = (4, 20), layers.ZeroPadding1D
    inputs = keras.Input(shape)
    first = {"data_format": "channels_first"}
    filters = {"filters": 3} if layer is conv else {}
    x = padding(1, **first)(inputs)
    x = layer(**filters, **first)(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.ReLU()(layers.Add()([inputs, x]))
    model = ready(keras.Model(inputs, x))
    names = ["adder"] + ["adder_depthwise"] * (layer is separable)
    assert_folded(model, [], names=names)
    x = images(shape=shape)
    assert difference(inference.optimize(model, "int8", x), model, x) < 0.05


def test_layers_called_by_keyword():
    inputs = keras.Input(SHAPE)
    x = layers.Dropout(0.5)(inputs=inputs)
    x = AdderConv2D(4, 3, name="adder")(inputs=x)
    x = layers.BatchNormalization()(inputs=x)
    model = ready(keras.Model(inputs, layers.ReLU()(x)))
    assert_folded(model, [])
