"""Adder models from Keras CNNs, and from the authors' PyTorch weights."""

import io
import sys
import warnings

import keras
import numpy as np
import pytest
from applications.authors import calibrated_forward
from applications.authors import random_state_dict
from applications.counting import images
from keras import layers

from keras_adder import ALR
from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D
from keras_adder import WithALR
from keras_adder import applications
from keras_adder import is_adder_filter
from keras_adder.applications import LeNet5
from keras_adder.applications import ResNet20
from keras_adder.applications import VGGSmall
from keras_adder.callbacks import recalibrate_batch_normalization
from keras_adder.convert import load_torch_state_dict
from keras_adder.convert import to_adder
from keras_adder.layers import adder_layer


@pytest.fixture(autouse=True)
def no_warnings(monkeypatch):
    """A warning fails the test, unless the test expects it."""
    monkeypatch.setattr(adder_layer, "_said", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def block(layer):
    return [layer, layers.BatchNormalization(), layers.ReLU()]


def small_cnn():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            *block(layers.Conv2D(4, 3, name="first")),
            *block(layers.Conv2D(8, 3, strides=2, name="middle")),
            layers.Flatten(),
            *block(layers.Dense(6, name="hidden")),
            layers.Dense(5, name="last"),
        ],
        name="small",
    )


def types(model):
    return {layer.name: type(layer) for layer in model.layers}


def converted(model):
    adder_layers = (
        *(AdderConv1D, AdderConv2D, AdderDense),
        *(AdderDepthwiseConv2D, AdderSeparableConv2D),
    )
    return {i.name for i in model.layers if isinstance(i, adder_layers)}


@pytest.mark.parametrize("build", [ResNet20, VGGSmall])
def test_a_twin_becomes_the_adder_net(build):
    """The builders have the paper's first and last layers, too."""
    cnn, adder = build(adder=False), build()
    clone = to_adder(cnn)
    assert clone.name == cnn.name
    assert [i.name for i in clone.layers] == [i.name for i in cnn.layers]
    assert converted(clone) == converted(adder)
    for ours, theirs in zip(clone.layers[1:], adder.layers[1:], strict=True):
        assert ours.get_config() == theirs.get_config()
    marked = [is_adder_filter(variable) for variable in clone.variables]
    assert marked == [is_adder_filter(variable) for variable in adder.variables]
    clone.set_weights(adder.get_weights())
    x = images(2, 32, 32, 3)
    np.testing.assert_array_equal(clone(x), adder(x))


def test_a_predicate_decides():
    clone = to_adder(LeNet5(adder=False), predicate=lambda layer: True)
    assert converted(clone) == converted(LeNet5())
    asked = []

    def strided(layer):
        asked.append(layer.name)
        return getattr(layer, "strides", None) == (2, 2)

    assert converted(to_adder(small_cnn(), strided)) == {"middle"}
    assert asked == ["first", "middle", "hidden", "last"]


def test_a_sequential_model_stays_one():
    model = small_cnn()
    clone = to_adder(model)
    assert isinstance(clone, keras.Sequential)
    assert converted(clone) == {"middle", "hidden"}
    assert [i.name for i in clone.layers] == [i.name for i in model.layers]
    assert converted(model) == set()
    assert clone(images(2, 12, 12, 3)).shape == (2, 5)


def test_the_configuration_carries_over():
    arguments = {
        "filters": 6,
        "kernel_size": (3, 2),
        "strides": (2, 1),
        "padding": "same",
        "data_format": "channels_first",
        "groups": 2,
        "bias_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L2(0.5),
        "bias_regularizer": keras.regularizers.L1(0.25),
        "activity_regularizer": keras.regularizers.L2(0.125),
        "kernel_constraint": keras.constraints.MaxNorm(2.0),
        "bias_constraint": keras.constraints.NonNeg(),
        "trainable": False,
        "dtype": "float64",
        "name": "grouped",
    }
    dilated = layers.Conv2D(
        2, 3, dilation_rate=(2, 1), use_bias=False, name="dilated"
    )
    inputs = keras.Input((4, 9, 8))
    x = layers.Conv2D(**arguments, kernel_initializer="he_normal")(inputs)
    x = layers.BatchNormalization(axis=1)(x)
    model = keras.Model(inputs, layers.BatchNormalization()(dilated(x)))
    printed = []
    clone = to_adder(model, lambda layer: True, print_fn=printed.append)
    layer = clone.get_layer("grouped")
    # A penalty is no decay there, and new filters have to be trained.
    assert "its kernel_regularizer is left out" in printed[0]
    changed = {"kernel_regularizer": None, "trainable": True}
    expected = AdderConv2D(**arguments | changed).get_config()
    assert layer.get_config() == expected
    expected = model.get_layer("dilated").get_config()
    standard_normal = keras.initializers.serialize(
        keras.initializers.RandomNormal(mean=0.0, stddev=1.0)
    )
    expected |= {
        "kernel_initializer": standard_normal,
        "filter_gradient": "full_precision",
    }
    assert clone.get_layer("dilated").get_config() == expected
    assert clone.output_shape == model.output_shape


def test_filters_start_from_the_standard_normal():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            *block(layers.Conv2D(64, 3, name="a")),
            *block(layers.Conv2D(64, 3, name="b")),
        ]
    )
    clone = to_adder(model, lambda layer: True)
    a, b = (clone.get_layer(name).kernel.numpy() for name in "ab")
    for kernel in (a, b):
        assert abs(kernel.std() - 1) < 0.1
    assert not np.isclose(a[0, 0, 0, 0], b[0, 0, 0, 0])


class MyConv2D(layers.Conv2D):
    pass


def test_other_layers_stay():
    inputs = keras.Input((10, 10, 4))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = MyConv2D(4, 1, name="mine")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.SeparableConv2D(4, 1, name="separable")(x)
    x = layers.Conv2DTranspose(4, 1, name="transposed")(x)
    x = AdderConv2D(4, 1, filter_gradient="sign", name="adder")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(4, 1, name="middle")(x)
    x = layers.BatchNormalization()(x)
    x = keras.ops.relu(x) + 1
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    clone = to_adder(model)
    assert types(clone) == types(model) | {"middle": AdderConv2D}
    assert clone.get_layer("adder").filter_gradient == "sign"


def test_the_first_and_the_last_layers_of_branches():
    """They are known by what comes before and after, not by a list."""
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    normalize = layers.BatchNormalization
    x = layers.Concatenate()(
        [
            layers.Conv2D(4, 3, name="left")(left),
            layers.Conv2D(4, 3, name="right")(right),
        ]
    )
    x = normalize()(layers.Conv2D(4, 3, name="middle")(x))
    x = layers.Flatten()(x)
    outputs = [
        layers.Dense(2, name="head")(x),
        layers.Dense(3, name="deep_head")(
            normalize()(layers.Dense(4, name="hidden")(x))
        ),
    ]
    model = keras.Model([left, right], outputs)
    assert converted(to_adder(model)) == {"middle", "hidden"}


def test_a_depthwise_convolution_may_be_the_first():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            *block(layers.DepthwiseConv2D(3)),
            *block(layers.Conv2D(4, 1, name="pointwise")),
            layers.Conv2D(2, 1, name="last"),
        ]
    )
    assert converted(to_adder(model)) == {"pointwise"}


def test_nested_and_shared_models():
    backbone = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            *block(layers.Conv2D(4, 3, name="first")),
            *block(layers.Conv2D(4, 3, name="second")),
        ],
        name="backbone",
    )
    left, right = keras.Input((10, 10, 3)), keras.Input((10, 10, 3))
    shared = layers.Conv2D(4, 1, name="shared")
    normalize = layers.BatchNormalization(name="normalize")
    x = layers.Subtract()(
        [normalize(shared(backbone(i))) for i in (left, right)]
    )
    top = layers.Dense(2, name="last")(layers.GlobalMaxPooling2D()(x))
    model = keras.Model([left, right], top)
    clone = to_adder(model)
    assert converted(clone) == {"shared"}
    assert converted(clone.get_layer("backbone")) == {"second"}
    assert converted(backbone) == set()
    assert len(clone.weights) == len(model.weights)
    # Of two equal images nothing is left, as the layers are shared.
    x = images(2, 10, 10, 3)
    np.testing.assert_array_equal(clone([x, x]), np.zeros((2, 2)))


def test_keras_applications():
    cnn = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3))
    clone = to_adder(cnn)
    expected = {f"conv_pw_{i}" for i in range(1, 14)}
    assert converted(clone) == expected
    assert clone(images(1, 32, 32, 3)).shape == (1, 1000)
    clone = to_adder(cnn, also=(layers.DepthwiseConv2D,))
    assert converted(clone) == expected | {f"conv_dw_{i}" for i in range(1, 14)}
    assert len(clone.layers) == len(cnn.layers)


ON_REQUEST = (layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Conv1D)


def cnn_of_all_kinds():
    penalty = {"depthwise_regularizer": "l2", "depthwise_initializer": "ones"}
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            *block(layers.Conv2D(4, 3, name="first")),
            *block(
                layers.DepthwiseConv2D(
                    3, 2, "same", 2, bias_initializer="ones", name="depthwise"
                )
            ),
            layers.SeparableConv2D(
                4, 2, activation="relu", name="separable", **penalty
            ),
            layers.Reshape((4, 4)),
            layers.Conv1D(6, 3, padding="causal", groups=2, name="sequence"),
            layers.MaxPooling1D(),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(2, name="last"),
        ]
    )


def test_other_convolutions_on_request():
    cnn, printed = cnn_of_all_kinds(), []
    clone = to_adder(cnn, also=ON_REQUEST, print_fn=printed.append)
    assert converted(clone) == {"depthwise", "separable", "sequence"}
    depthwise = AdderDepthwiseConv2D(
        3, 2, "same", 2, bias_initializer="ones", name="depthwise"
    )
    sequence = AdderConv1D(6, 3, padding="causal", groups=2, name="sequence")
    for layer in (depthwise, sequence):
        assert clone.get_layer(layer.name).get_config() == layer.get_config()
    separable = AdderSeparableConv2D(4, 2, use_bias=False, name="separable")
    config = clone.get_layer("separable").get_config()
    assert config == separable.get_config()
    assert "its depthwise_regularizer is left out" in printed[0]
    inserted = {"separable_bn", "separable_activation"}
    assert types(clone).keys() - types(cnn).keys() == inserted

    clone.compile(ALR(0.1), "mse")
    filters = [v for v in clone.trainable_variables if is_adder_filter(v)]
    before = [variable.numpy() for variable in filters]
    clone.train_on_batch(images(4, 8, 8, 3), np.eye(4, 2))
    assert len(filters) == 4
    for old, new in zip(before, filters, strict=True):
        assert np.all(np.isfinite(new)) and not np.array_equal(old, new)


@pytest.mark.parametrize("kind", ON_REQUEST)
def test_only_what_is_requested(kind):
    cnn = cnn_of_all_kinds()
    (name,) = (layer.name for layer in cnn.layers if type(layer) is kind)
    assert converted(to_adder(cnn, also=[kind])) == {name}
    # By a predicate, too, which is not asked for the others.
    asked = []

    def named(layer):
        asked.append(layer.name)
        return layer.name == name

    assert converted(to_adder(cnn, named, also=[kind])) == {name}
    assert asked == ["first", name, "last"]


def test_the_clone_trains_and_is_saved(tmp_path):
    clone = to_adder(small_cnn())
    clone.compile(ALR(0.1), keras.losses.SparseCategoricalCrossentropy(True))
    before = clone.get_layer("middle").kernel.numpy()
    clone.train_on_batch(images(8, 12, 12, 3), np.arange(8) % 5)
    assert (clone.get_layer("middle").kernel.numpy() != before).any()
    clone.save(tmp_path / "clone.keras")
    loaded = keras.saving.load_model(tmp_path / "clone.keras")
    assert types(loaded) == types(clone)


def test_the_original_is_left_alone():
    model = small_cnn()
    model.compile("sgd", "mse")
    weights, output = model.get_weights(), model.get_layer("middle").output
    with pytest.warns(UserWarning, match="optimizer hardly moves.*SGD") as w:
        clone = to_adder(model)
    assert w[0].filename == __file__
    assert model.get_layer("middle").output is output
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # As `keras.models.clone_model` has it.
    assert clone.compiled and clone.optimizer is not model.optimizer


@pytest.mark.parametrize(
    "after, message",
    [
        ([], "'middle'"),
        ([layers.ReLU], "'middle'"),
        ([layers.MaxPooling2D, layers.ReLU], "'middle'"),
        ([layers.UnitNormalization], "'middle'"),
        ([layers.RMSNormalization], "'middle'"),
        ([layers.BatchNormalization], None),
        ([layers.Identity, layers.LayerNormalization], None),
        ([layers.MaxPooling2D, layers.BatchNormalization], None),
        ([layers.ZeroPadding2D, layers.BatchNormalization], None),
    ],
)
def test_a_missing_normalization_is_warned_of(after, message):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="first"),
            layers.Conv2D(4, 3, name="middle"),
            *[make() for make in after],
            layers.Conv2D(4, 1, name="last"),
        ]
    )
    clone = to_adder(model)
    inserted = "middle_bn" in types(clone)
    assert inserted == (message is not None)
    if message is None:
        to_adder(model, insert_batch_norm=False)
        return
    assert (
        clone.get_layer("middle_bn").input is clone.get_layer("middle").output
    )
    with pytest.warns(UserWarning, match=f"normalization.*{message}") as caught:
        plain = to_adder(model, insert_batch_norm=False)
    assert caught[0].filename == __file__
    assert types(plain).keys() == types(model).keys()


def test_an_activation_before_the_normalization_is_warned_of():
    model = small_cnn()
    model.get_layer("middle").activation = keras.activations.relu
    with (
        pytest.warns(UserWarning, match="Nothing will pass"),
        pytest.warns(UserWarning, match=r"'middle' \(activation=relu\)") as w,
    ):
        to_adder(model, insert_batch_norm=False)
    assert "hidden" not in str(w[0].message)


def test_an_activation_moves_behind_the_normalization_that_is_inserted():
    model = small_cnn()
    model.get_layer("middle").activation = keras.activations.relu
    clone = to_adder(model)
    names = [layer.name for layer in clone.layers]
    index = names.index("middle")
    assert names[index + 1 : index + 3] == ["middle_bn", "middle_activation"]
    middle, activation = clone.layers[index], clone.layers[index + 2]
    assert not middle.use_bias
    assert middle.activation is keras.activations.linear
    assert activation.activation is keras.activations.relu
    assert len(clone.layers) == len(model.layers) + 2


def test_layers_that_stay_keep_their_weights():
    model = small_cnn()
    for variable in model.weights:
        variable.assign(
            np.random.default_rng(0).normal(size=variable.shape) ** 2
        )
    clone = to_adder(model)
    for name in ("first", "last"):
        for old, new in zip(
            model.get_layer(name).get_weights(),
            clone.get_layer(name).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(old, new)
    kernel = model.get_layer("middle").get_weights()[0]
    assert not np.any(clone.get_layer("middle").get_weights()[0] == kernel)
    # Behind the first layer products are normalized, and then distances.
    old, new = (
        [i for i in m.layers if isinstance(i, layers.BatchNormalization)]
        for m in (model, clone)
    )
    for index, (one, other) in enumerate(zip(old, new, strict=True)):
        np.testing.assert_array_equal(one.gamma, other.gamma)
        np.testing.assert_array_equal(one.beta, other.beta)
        kept = np.array_equal(one.moving_mean, other.moving_mean)
        assert kept == (index == 0)
        if index:
            assert not np.any(other.moving_mean)
            assert np.all(other.moving_variance.numpy() == 1)


def test_adapted_layers_keep_what_they_were_adapted_to():
    inputs = keras.Input((6, 6, 3))
    normalize = layers.Normalization(name="adapted")
    normalize.adapt(images(20, 6, 6, 3))
    x = layers.Conv2D(3, 3, name="first")(normalize(inputs))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="middle")(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    clone = to_adder(model)
    x = images(2, 6, 6, 3)
    old, new = (
        keras.Model(m.input, m.get_layer("first").output)(x)
        for m in (model, clone)
    )
    np.testing.assert_array_equal(old, new)


def squeeze_and_excite(x, channels, form):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="squeeze")(gate)
    if form == "argument":
        gate = layers.Conv2D(channels, 1, activation="sigmoid", name="excite")(
            gate
        )
    else:
        gate = layers.Conv2D(channels, 1, name="excite")(gate)
    if form == "layer":
        gate = layers.Activation("hard_sigmoid")(gate)
    if form == "MobileNetV3":
        gate = layers.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)
    if form == "function":
        return keras.ops.multiply(x, layers.Activation("sigmoid")(gate))
    return layers.Multiply()([x, gate])


@pytest.mark.parametrize(
    "form", ["argument", "layer", "MobileNetV3", "function"]
)
def test_gates_stay(form):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="middle")(x))
    x = squeeze_and_excite(x, 4, form)
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x))
    printed = []
    clone = to_adder(model, print_fn=printed.append)
    assert converted(clone) == {"middle"}
    assert printed[0].count("part of a gate") == 2
    # Unless they are asked for.
    clone = to_adder(model, lambda layer: layer.name == "squeeze")
    assert converted(clone) == {"squeeze"}


def test_what_only_passes_by_a_gate_is_none():
    """As hard swish, x times a clipped x: its convolution is like any."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="middle")(x))
    x = layers.Multiply()([x, layers.ReLU(6.0)(x + 3.0)])
    x = layers.BatchNormalization()(layers.Conv2D(4, 1, name="other")(x))
    # A sigmoid that is added, and not multiplied by.
    y = layers.Conv2D(4, 1, activation="sigmoid", name="added")(x)
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x + y))
    assert converted(to_adder(model)) == {"middle", "other", "added"}


def test_the_table_says_what_and_why(capsys):
    inputs = keras.Input((10, 10, 4))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2DTranspose(4, 1, name="transposed")(x)
    x = layers.Conv2D(4, 1, activation="relu", name="bare")(x)
    x = layers.BatchNormalization()(layers.Conv2D(4, 1, name="middle")(x))
    x = layers.BatchNormalization()(AdderConv2D(4, 1, name="adder")(x))
    model = keras.Model(inputs, layers.Conv2D(3, 1, name="last")(x))
    to_adder(model)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {row[0]: " ".join(row[1:]) for row in rows if len(row) > 1}
    assert rows == {
        "layer": "type becomes why",
        "first": "Conv2D the same the first layer",
        "depthwise": "DepthwiseConv2D the same `also` does not name "
        "DepthwiseConv2D",
        "transposed": "Conv2DTranspose the same there is no adder form of "
        "Conv2DTranspose",
        "bare": "Conv2D AdderConv2D + BatchNormalization "
        "no batch normalization was behind it",
        "middle": "Conv2D AdderConv2D",
        "adder": "AdderConv2D the same an adder layer already",
        "last": "Conv2D the same the last layer",
    }


@pytest.mark.parametrize("optimizer", [ALR, lambda: WithALR("adam")])
def test_a_model_that_is_compiled_for_adder_filters_is_not_warned_of(optimizer):
    model = small_cnn()
    model.compile(optimizer(), "mse")
    assert type(to_adder(model).optimizer) is type(model.optimizer)


def test_a_frozen_base_that_was_called_for_inference_learns():
    """As in transfer learning: converted, it has everything to learn."""
    base = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            *block(layers.Conv2D(4, 3, name="first")),
            *block(layers.Conv2D(4, 3, name="middle")),
            layers.Conv2D(4, 1, activation="relu", name="bare"),
            layers.GlobalAveragePooling2D(),
        ],
        name="base",
    )
    base.trainable = False
    inputs = keras.Input((8, 8, 3))
    x = base(inputs, training=False)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    clone = to_adder(model)
    base = clone.get_layer("base")
    trainable = {layer.name for layer in base.layers if layer.trainable_weights}
    normalizations = [
        layer.name
        for layer in base.layers
        if isinstance(layer, layers.BatchNormalization)
    ]
    assert trainable == {"middle", "bare", *normalizations[1:]}
    x = images(8, 8, 8, 3)
    recalibrate_batch_normalization(clone, x)
    assert np.all(np.ptp(base(x), axis=0) > 0)


def test_a_stream_that_has_no_lines_to_draw_with(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    assert converted(to_adder(small_cnn())) == {"middle", "hidden"}
    stream.flush()
    assert b"AdderConv2D" in stream.buffer.getvalue()


def test_names_that_are_taken():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="first"),
            layers.Conv2D(4, 3, name="middle"),
            layers.ReLU(name="middle_bn"),
            layers.Conv2D(4, 1, name="last"),
        ]
    )
    assert "middle_bn_" in types(to_adder(model))


def test_channels_first_is_normalized_along_its_channels():
    inputs = keras.Input((3, 8, 8))
    kwargs = {"data_format": "channels_first"}
    x = layers.Conv2D(4, 3, name="first", **kwargs)(inputs)
    x = layers.Conv2D(5, 3, activation="relu", name="middle", **kwargs)(x)
    model = keras.Model(inputs, layers.Conv2D(4, 1, name="last", **kwargs)(x))
    assert to_adder(model).get_layer("middle_bn").axis == 1


APPLICATIONS = {
    "MobileNetV2": 32,
    "VGG16": 32,
    "ResNet50": 32,
    "EfficientNetB0": 32,
    "DenseNet121": 32,
    "Xception": 71,
}


def constant_layers(model, x):
    """Layers whose output is the same for all images."""
    inner = [i for i in model.layers if not isinstance(i, layers.InputLayer)]
    probe = keras.Model(model.input, [layer.output for layer in inner])
    return [
        layer.name
        for layer, output in zip(inner, probe(x, training=False), strict=True)
        if not np.any(np.ptp(keras.ops.convert_to_numpy(output), axis=0))
    ]


@pytest.mark.parametrize(
    "name, also",
    [
        *((name, ()) for name in APPLICATIONS),
        ("MobileNetV2", ON_REQUEST),
        ("Xception", ON_REQUEST),
    ],
)
@pytest.mark.slow  # Some minutes on two slow cores.
def test_nothing_is_dead_in_keras_applications(name, also):
    size = APPLICATIONS[name]
    cnn = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=5
    )
    labels = np.arange(16) % 5
    x = 30 * np.random.default_rng(0).normal(size=(16, size, size, 3)) + 120
    x = (x + 30 * labels[:, None, None, None]).astype("float32")
    model = to_adder(cnn, print_fn=lambda table: None, also=also)
    assert len(converted(model)) >= 5
    recalibrate_batch_normalization(model, x, batch_size=16)
    assert constant_layers(model, x) == []
    model.compile(
        WithALR(keras.optimizers.Adam(1e-3), ALR(0.05)),
        "sparse_categorical_crossentropy",
    )
    for _ in range(3):
        assert np.isfinite(model.train_on_batch(x, labels))
    recalibrate_batch_normalization(model, x, batch_size=16)
    assert constant_layers(model, x) == []


def test_a_normalization_behind_a_concatenation_is_enough():
    """As in a DenseNet; the same outputs are concatenated again later."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="first")(inputs)
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(2, 3, padding="same")(y)])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras.Model(inputs, layers.Conv2D(1, 1)(x))
    assert len(converted(to_adder(model))) == 3


def test_one_branch_without_normalization_is_enough_to_warn():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="first")(inputs)
    y = layers.Conv2D(3, 1, name="middle")(x)
    y = layers.Add()([y, layers.BatchNormalization()(y)])
    model = keras.Model(inputs, layers.Conv2D(1, 1)(y))
    assert "middle_bn" in types(to_adder(model))
    with pytest.warns(UserWarning, match="'middle'"):
        to_adder(model, insert_batch_norm=False)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv2D(2, 3)

    def call(self, x):
        return self.convolution(x)


def test_refusals():
    with pytest.raises(TypeError, match="`model` must be a `keras.Model`"):
        to_adder(layers.Conv2D(2, 3))
    with pytest.raises(ValueError, match="functional.*Subclassed"):
        to_adder(Subclassed())
    with pytest.raises(ValueError, match="built.*Sequential"):
        to_adder(keras.Sequential([layers.Conv2D(2, 3)]))
    nested = keras.Sequential(
        [keras.Input((14, 14, 3)), Subclassed(), layers.Conv2D(3, 3)]
    )
    with pytest.raises(ValueError, match="subclassed.*'subclassed"):
        to_adder(nested, lambda layer: True)
    with pytest.raises(TypeError, match="`predicate`.*predicate=conv1"):
        to_adder(small_cnn(), predicate="conv1")
    with pytest.raises(ValueError, match=r"between.*\['first', 'middle'"):
        to_adder(small_cnn(), predicate=lambda layer: False)
    for also in ("depthwise", layers.DepthwiseConv2D, [layers.Conv3D], [[]]):
        with pytest.raises(ValueError, match="`also`.*DepthwiseConv2D.*also="):
            to_adder(small_cnn(), also=also)


# Weights of PyTorch.


class Tensor:
    """What of a PyTorch tensor is used, on a device that NumPy cannot read."""

    def __init__(self, array, on_host=False):
        self.array = array
        self.on_host = on_host

    def detach(self):
        return self

    def float(self):
        return Tensor(self.array.astype("float32"), self.on_host)

    def cpu(self):
        return Tensor(self.array, on_host=True)

    def numpy(self):
        assert self.on_host and self.array.dtype == np.float32
        return self.array


def logits(network, adder=True, **kwargs):
    build = getattr(applications, network)
    return build(classes=7, classifier_activation=None, adder=adder, **kwargs)


@pytest.mark.parametrize(
    "network, adder, shape",
    [
        ("ResNet20", True, (12, 9)),
        ("ResNet20", False, (12, 9)),
        ("ResNet18", True, (33, 36)),
        ("ResNet50", True, (33, 36)),
    ],
)
def test_outputs_are_those_of_the_authors(network, adder, shape):
    state = random_state_dict(network, 7, adder)
    x = images(3, *shape, 3)
    expected = calibrated_forward(network, state, np.moveaxis(x, -1, 1))
    # In float32 the fifty layers would make much of a small error.
    keras.config.set_dtype_policy("float64")
    try:
        model = logits(network, adder, input_shape=(*shape, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    load_torch_state_dict(model, state)
    np.testing.assert_allclose(model(x), expected, rtol=1e-6, atol=1e-6)


def test_every_weight_of_a_deeper_one_is_set():
    state = random_state_dict("ResNet32", 7)
    model = logits("ResNet32")
    before = [variable.numpy() for variable in model.variables]
    load_torch_state_dict(model, state)
    for old, variable in zip(before, model.variables, strict=True):
        assert (variable.numpy() != old).any(), variable.path


def test_state_dicts_of_other_kinds():
    state = random_state_dict("ResNet20", 7)
    model, other = (logits("ResNet20") for _ in range(2))
    load_torch_state_dict(model, state)
    parallel = {
        f"module.{name}": Tensor(value.astype("float64"))
        for name, value in state.items()
        # Older versions of PyTorch had no such count.
        if not name.endswith("num_batches_tracked")
    }
    load_torch_state_dict(other, parallel)
    for a, b in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file(tmp_path):
    torch = pytest.importorskip("torch")
    state = random_state_dict("ResNet20", 7)
    path = tmp_path / "addernet.pth"
    torch.save({name: torch.tensor(v) for name, v in state.items()}, path)
    for given in (path, str(path)):
        model = logits("ResNet20")
        load_torch_state_dict(model, given)
        np.testing.assert_array_equal(
            model.get_layer("conv4_block3_2_conv").kernel,
            state["layer3.2.conv2.adder"].transpose(2, 3, 1, 0),
        )
    torch.save([1, 2], path)
    with pytest.raises(TypeError, match="`state_dict`.*list"):
        load_torch_state_dict(model, path)


def test_files_that_hold_something_else(tmp_path):
    torch = pytest.importorskip("torch")
    path, model = tmp_path / "addernet.pth", ResNet20()
    # What the authors' scripts save.
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="whole model.*UnpicklingError"):
        load_torch_state_dict(model, path)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"=.*addernet\.pth, which cannot be"):
        load_torch_state_dict(model, path)
    torch.save({"epoch": 3, "state_dict": {}}, path)
    with pytest.raises(TypeError, match="pass that alone.*'state_dict'.*dict"):
        load_torch_state_dict(model, path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load_torch_state_dict(model, path)


def test_a_file_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch.*some.pth"):
        load_torch_state_dict(ResNet20(), "some.pth")


def assert_refused(model, state, message):
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        load_torch_state_dict(model, state)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_every_name_must_be_there_once():
    model, state = logits("ResNet20"), random_state_dict("ResNet20", 7)
    fewer = dict(state)
    del fewer["layer2.0.downsample.0.adder"], fewer["bn2.running_var"]
    assert_refused(
        model,
        fewer,
        r"Missing: \['bn2.running_var', 'layer2.0.downsample.0.adder'\]; "
        "unexpected: none",
    )
    more = state | {"layer4.0.bn1.bias": np.zeros(7)}
    assert_refused(
        model, more, r"Missing: none; unexpected: \['layer4.0.bn1.bias'\]"
    )
    twice = state | {"module.fc.weight": state["fc.weight"]}
    assert_refused(model, twice, "'fc.weight' twice")
    twin = random_state_dict("ResNet20", 7, adder=False)
    assert_refused(model, twin, r"layer1.0.conv1.adder.*layer1.0.conv1.weight")


def test_shapes_are_checked():
    state = random_state_dict("ResNet20", 10)
    assert_refused(
        logits("ResNet20"),
        state,
        r"fc.weight: \(1, 1, 64, 10\), expected \(1, 1, 64, 7\)",
    )
    # Torchvision's classifier, which is not that of the authors.
    state = random_state_dict("ResNet20", 7)
    state["fc.weight"] = state["fc.weight"][:, :, 0, 0]
    assert_refused(logits("ResNet20"), state, r"fc.weight: \(7, 64\)")


@pytest.mark.parametrize(
    "build", [LeNet5, lambda: keras.applications.ResNet50(weights=None)]
)
def test_other_models_are_refused(build):
    assert_refused(build(), {}, "`model` must be a residual network")


def test_the_names_of_a_wrong_model_are_told():
    state = random_state_dict("ResNet20", 7)
    assert_refused(logits("ResNet32"), state, r"Missing: .*layer1\.3\.bn1")


def test_what_is_no_mapping():
    with pytest.raises(TypeError, match="`state_dict` must be a mapping"):
        load_torch_state_dict(ResNet20(), [np.zeros(3)])
    with pytest.raises(TypeError, match="arrays by their names.*Received: 1"):
        load_torch_state_dict(ResNet20(), {1: np.zeros(3)})


def test_what_is_no_model():
    with pytest.raises(TypeError, match="`model` must be.*model=resnet20"):
        load_torch_state_dict("resnet20", {})
