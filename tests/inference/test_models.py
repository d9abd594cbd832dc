"""Models of all kinds, and what is refused."""

import keras
import numpy as np
import pytest
from fused_networks import SHAPE
from fused_networks import block
from fused_networks import difference
from fused_networks import images
from fused_networks import kinds
from fused_networks import mobile
from fused_networks import ready
from fused_networks import residual
from keras import layers

from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderSeparableConv2D
from keras_adder import inference
from keras_adder.applications import LeNet5
from keras_adder.applications import LeNetPlusPlus
from keras_adder.applications import MobileNetV2
from keras_adder.applications import ResNet18
from keras_adder.applications import ResNet20
from keras_adder.applications import ResNet32
from keras_adder.applications import ResNet50
from keras_adder.applications import VGGSmall


def fused(model):
    return [name for name, kind in kinds(model).items() if "Fused" in kind]


def assert_same(model, x=None, int8=0.06, **kwargs):
    """Nothing changes in floating point, and little in integers."""
    x = images(shape=model.input_shape[1:]) if x is None else x
    fast = inference.optimize(model, "float32", **kwargs)
    assert difference(fast, model, x) < 1e-5
    small = inference.optimize(model, "int8", x, **kwargs)
    assert difference(small, model, x) < int8
    assert kinds(small) == kinds(fast)
    return small


BUILDERS = {
    "lenet5": (LeNet5, (16, 16, 1), 5),
    "lenet_plus_plus": (LeNetPlusPlus, (8, 8, 1), 8),
    "resnet18": (ResNet18, (32, 32, 3), 19),
    "resnet20": (ResNet20, (8, 8, 3), 20),
    "resnet32": (ResNet32, (4, 4, 3), 32),
    "resnet50": (ResNet50, (32, 32, 3), 52),
    "vgg_small": (VGGSmall, (8, 8, 3), 5),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_builders(name):
    """What they are made of is folded altogether."""
    build, shape, count = BUILDERS[name]
    model = build(input_shape=shape, classifier_activation=None)
    x = images(16, shape)
    ready(model, x, tame=True)
    fast = inference.optimize(model, "float32")
    # So deep, and of random weights, float32 itself is 3e-4 off float64.
    assert difference(fast, model, x) < (2e-3 if name == "resnet50" else 1e-4)
    assert len(fused(fast)) == count
    left = set(kinds(fast).values())
    assert not left & {"Add", "AdderConv2D", "BatchNormalization"}
    for padding in (i for i in fast.layers if "pad" in i.name):
        assert padding.name in ("conv1_pad", "pool1_pad")


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_builders_in_integers(name):
    build, shape, _ = BUILDERS[name]
    model = build(input_shape=shape, classifier_activation=None)
    x = images(32, shape)
    ready(model, x, tame=True)
    fast = inference.optimize(model, "int8", x)
    # Of random weights; errors add up over the layers.
    assert difference(fast, model, x) < 0.15


def test_mobilenet_v2(tmp_path):
    """Nothing but its stem and its top is left in floating point."""
    shape = (32, 32, 3)
    keras.utils.set_random_seed(0)
    model = MobileNetV2(
        shape, alpha=0.35, classes=10, classifier_activation=None
    )
    x = images(16, shape)
    ready(model, x, tame=True, beta=1.3)
    bounds = {"float32": 1e-4, "int16": 2e-3, "int8": 0.15}
    for precision, bound in bounds.items():
        fast = inference.optimize(model, precision, x, percentile=100)
        assert difference(fast, model, x) < bound
        assert len(fused(fast)) == 51
        left = [i.name for i in fast.layers if i.name not in fused(fast)]
        assert left[1:] == ["Conv1", "Conv1_relu", "avg_pool", "predictions"]
    report = inference.report(model, fast, print_fn=lambda text: None)
    floats = [i.name for i in report.rows if i.output_dtype == "float32"]
    # What the pooling takes.
    assert len(report.rows) == 51 and floats == ["Conv_1"]
    fast.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    np.testing.assert_array_equal(loaded(x), fast(x))


def test_a_mobile_network():
    model = mobile()
    small = assert_same(model)
    assert kinds(small)["d1"] == kinds(small)["d2"] == "FusedAdderConv1D"
    stored = {i: small.get_layer(i).output_dtype for i in fused(small)}
    floats = [name for name, dtype in stored.items() if dtype == "float32"]
    # What a reshaping takes, and a pooling.
    assert floats == ["c", "d2"]
    report = inference.report(model, small, images(), lambda text: None)
    assert [row.name for row in report.rows] == fused(small)
    assert min(row.snr for row in report.rows) > 20
    fewer = inference.optimize(model, "int8", images(), bits=6)
    assert difference(fewer, model, images()) < 0.15


def nested():
    inner_input = keras.Input(SHAPE)
    x = block(inner_input, 3, name="inner")
    inner = keras.Model(inner_input, block(x, 3, name="last"), name="body")
    wrapped = keras.Sequential([keras.Input(SHAPE), inner], name="wrapped")
    inputs = keras.Input(SHAPE)
    x = block(inputs, 3, name="inner")
    x = wrapped(x)
    x = layers.Add(name="sum")([x, inner(x)])
    return ready(keras.Model(inputs, layers.Dense(2, name="top")(x)))


def test_nested_models():
    model = nested()
    fast = assert_same(model)
    assert fused(fast) == [
        "inner",
        "wrapped_body_inner",
        "last",
        "body_inner",
        "body_last",
    ]
    assert not any(isinstance(i, keras.Model) for i in fast.layers)


def test_names_that_are_taken():
    """By an input, and by the layers that a fused one brings along."""
    inner = keras.Sequential(
        [
            keras.Input(SHAPE),
            AdderConv2D(3, 1, name="images", activation="tanh"),
        ],
        name="inner",
    )
    inputs = keras.Input(SHAPE, name="images")
    x = layers.Rescaling(2.0, name="inner_images_activation")(inputs)
    x = layers.Rescaling(2.0, name="inner_images_input")(x)
    model = ready(keras.Model(inputs, inner(x)))
    fast = inference.optimize(model, "int8", images(), bits=4)
    assert kinds(fast) == {
        "images": "InputLayer",
        "inner_images_activation": "Rescaling",
        "inner_images_input": "Rescaling",
        "inner_images_input_": "Requantize",
        "inner_images": "FusedAdderConv2D",
        "inner_images_activation_": "Activation",
    }
    report = inference.report(model, fast, images(), lambda text: None)
    assert report.rows[0].snr == pytest.approx(report.snr)


def test_a_fixed_batch():
    inputs = keras.Input(batch_shape=(5, *SHAPE))
    x = keras.ops.reshape(AdderConv2D(3, 3)(inputs), (5, -1))
    model = ready(keras.Model(inputs, x), images(5))
    fast = inference.optimize(model, "int8", images(23))
    assert fast.input_shape == (5, *SHAPE)
    assert difference(fast, model, images(5)) < 0.05
    with pytest.raises(ValueError, match="which is empty"):
        inference.optimize(model, "int8", images(4))


def test_shared_layers():
    """Each call of an adder layer has its own range."""
    shared = AdderConv2D(3, 3, padding="same", name="shared")
    normalization = layers.BatchNormalization()
    stem = layers.Conv2D(3, 1, activation="relu", name="stem")
    inputs = keras.Input(SHAPE)
    x = stem(inputs)
    x = layers.ReLU()(normalization(shared(x)))
    x = stem(x)
    x = normalization(shared(x))
    model = ready(keras.Model(inputs, x))
    fast = assert_same(model)
    assert fused(fast) == ["shared", "shared_1"]
    assert [i for i in kinds(fast) if "stem" in i] == ["stem"]
    scales = {fast.get_layer(name).input_scale for name in fused(fast)}
    assert len(scales) == 2


def test_several_inputs_and_outputs():
    first = keras.Input(SHAPE, name="first")
    second = keras.Input((5,), name="second")
    x = block(first, 4, name="c")
    y = AdderDense(4, name="d")(second)
    y = layers.BatchNormalization()(y)
    mixed = layers.Concatenate(name="both")(
        [layers.GlobalMaxPooling2D(name="pool")(x), y]
    )
    model = keras.Model(
        {"a": first, "b": second},
        {"image": x, "mixed": AdderDense(3, name="e")(mixed)},
    )
    x = {"a": images(), "b": images(shape=(5,))}
    ready(model, {"a": x["a"], "b": x["b"]})
    fast = assert_same(model, x)
    assert fused(fast) == ["c", "d", "e"]
    assert set(fast(x)) == {"image", "mixed"}
    assert {i.name for i in fast.inputs} == {"first", "second"}


def test_integers_that_are_no_quantized_numbers():
    inputs = keras.Input(SHAPE, dtype="uint8", name="pixels")
    x = AdderConv2D(3, 3, padding="same", name="c")(inputs)
    x = layers.BatchNormalization()(x)
    model = keras.Model(inputs, layers.Add()([x, inputs]))
    x = np.random.default_rng(0).integers(0, 200, (16, *SHAPE), "uint8")
    ready(model, x)
    fast = assert_same(model, x)
    assert fast.inputs[0].dtype == "uint8"
    assert fused(fast) == ["c"]


POLICIES = {
    "mixed_float16": 0.02,
    "float16": 0.05,
    "mixed_bfloat16": 0.2,
    "float64": 1e-5,
}


@pytest.mark.parametrize("policy", POLICIES)
def test_policies(policy):
    """Half precision itself is further off than what becomes of it."""
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(3)
        model = residual()
    finally:
        keras.config.set_dtype_policy("float32")
    x = images()
    fast = inference.optimize(model, "float32")
    assert difference(fast, model, x) < POLICIES[policy]
    assert fast.get_layer("stem").dtype_policy.name == policy
    assert fast(x).dtype == model(x).dtype
    if policy == "mixed_float16":
        small = inference.optimize(model, "int8", x)
        assert small.get_layer("a1").kernel.dtype == "uint8"
        assert difference(small, model, x) < 0.07


def test_a_loaded_model(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = images()
    one, other = (inference.optimize(m, "int8", x) for m in (model, loaded))
    np.testing.assert_array_equal(one(x), other(x))


def test_what_runs_in_float_between():
    inputs = keras.Input(SHAPE)
    x = block(inputs, 4, name="c1")
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = block(x, 4, name="c2")
    y = block(x, 4, name="c3")
    x = layers.Concatenate(name="both")([x, y])
    x = block(x, 4, name="c4")
    x = layers.Lambda(lambda t: t * 2, name="twice")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = block(x, 4, name="c5")
    model = ready(keras.Model(inputs, block(x, 4, name="c6")))
    fast = assert_same(model, int8=0.15)
    found = {i: fast.get_layer(i).output_dtype for i in fused(fast)}
    # Only what goes nowhere else is of bytes.
    assert found == {
        "c1": "float32",
        "c2": "float32",
        "c3": "float32",
        "c4": "float32",
        "c5": "uint8",
        "c6": "float32",
    }
    assert set(kinds(fast)) - set(found) == {
        inputs.name,
        "pool",
        "both",
        "twice",
        "norm",
    }
    # The pooled maximum of what is rounded is that of what was not.
    pool = keras.Model(fast.input, fast.get_layer("pool").output)
    assert pool(images()).dtype == "float32"


def test_adapted_layers():
    normalization = layers.Normalization(name="scaled")
    normalization.adapt(images() * 7 + 3)
    model = keras.Sequential(
        [keras.Input(SHAPE), normalization, AdderConv2D(3, 3, name="c")]
    )
    assert_same(ready(model), images() * 7 + 3)


def test_keep_float(model):
    asked = []

    def is_first(layer):
        asked.append(layer.name)
        return layer.name in ("a1", "b2")

    fast = inference.optimize(model, "int8", images(), keep_float=is_first)
    assert sorted(asked) == ["a0", "a1", "a2", "b1", "b2"]
    assert fused(fast) == ["a0", "a2", "b1"]
    assert type(fast.get_layer("a1")) is AdderConv2D
    assert fast.get_layer("a1").get_config() == (
        model.get_layer("a1").get_config() | {"trainable": False}
    )
    assert fast.get_layer("a2").output_dtype == "float32"
    assert difference(fast, model, images()) < 0.05
    with pytest.raises(ValueError, match="an adder layer.*`keep_float`"):
        inference.optimize(model, "float32", keep_float=lambda layer: True)


def test_keep_float_of_a_separable_layer():
    x = keras.Input(SHAPE)
    layer = AdderSeparableConv2D(3, 3, name="kept")
    model = ready(keras.Model(x, block(layer(x), name="c")))
    asked = []
    fast = inference.optimize(
        model, "float32", keep_float=lambda i: asked.append(i) or i is layer
    )
    assert asked == [layer, model.get_layer("c")] and fused(fast) == ["c"]
    assert type(fast.get_layer("kept")) is AdderSeparableConv2D
    report = inference.report(model, fast, print_fn=lambda text: None)
    assert report.kept[0].reason == "`keep_float` was true"


@keras.saving.register_keras_serializable("test_models")
class Branch(keras.Model):
    """A subclassed model with an adder layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = AdderConv2D(3, 1, name="inside")

    def call(self, inputs):
        return self.inside(inputs)


@keras.saving.register_keras_serializable("test_models")
class Special(AdderConv2D):
    def call(self, inputs):
        return super().call(inputs) + 1


def test_what_is_not_understood_stays():
    inputs = keras.Input(SHAPE)
    x = block(inputs, 3, name="c")
    x = Branch(name="branch")(x)
    x = Special(3, 1, name="special")(x)
    x = layers.TimeDistributed(AdderDense(3), name="times")(x)
    model = ready(keras.Model(inputs, x))
    fast = assert_same(model)
    assert fused(fast) == ["c"]
    report = inference.report(model, fast, print_fn=lambda text: None)
    assert {i.name: i.reason for i in report.kept} == {
        "branch": "a model whose layers' calls are not known",
        "special": "a subclass of an adder layer (Special)",
        "times": "there is no fused form of it",
    }


def test_a_nested_model_in_training_stays():
    inner = keras.Sequential(
        [keras.Input(SHAPE), AdderConv2D(3, 1), layers.BatchNormalization()],
        name="inner",
    )
    inputs = keras.Input(SHAPE)
    x = AdderConv2D(3, 1, name="c")(inner(inputs, training=True))
    model = keras.Model(inputs, x)
    fast = inference.optimize(model, "float32")
    assert fused(fast) == ["c"] and kinds(fast)["inner"] == "Sequential"
    assert difference(fast, model, images()) < 1e-5


def test_the_original_is_untouched():
    model = residual()
    model.compile("sgd", "mse")
    config = model.get_config()
    weights = model.get_weights()
    outputs = {i.name: i.output for i in model.layers}
    inference.optimize(model, "int8", images(), percentile=99.0)
    assert model.get_config() == config
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # Of a layer with more than one output, there is none by this name.
    assert all(i.output is outputs[i.name] for i in model.layers)
    assert model.trainable and model.losses == []
    model.fit(images(), np.zeros((32, 5)), verbose=0)


def test_activity_regularizers_leave_nothing():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(3, 1, activity_regularizer="l2"),
            AdderConv2D(3, 1),
        ]
    )
    inference.optimize(model, "int8", images())
    assert model.layers[0].losses == []


def test_it_stays_as_it_is_in_training():
    fast = inference.optimize(ResNet20(input_shape=(8, 8, 3)), "float32")
    weights = fast.get_weights()
    fast(images(shape=(8, 8, 3)), training=True)
    for old, new in zip(weights, fast.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_no_model():
    with pytest.raises(TypeError, match="`model` must be.*Received: model=3"):
        inference.optimize(3)
    with pytest.raises(TypeError, match="`model` must be a `keras.Model`"):
        inference.optimize(AdderConv2D(3, 3), "float32")


def test_models_without_a_graph():
    unbuilt = keras.Sequential([AdderConv2D(3, 3)])
    for model in (unbuilt, Branch()):
        with pytest.raises(ValueError, match="functional, or sequential and b"):
            inference.optimize(model, "float32")


def test_no_adder_layers(model):
    with pytest.raises(ValueError, match=r"must have an adder layer.*'Conv2D'"):
        inference.optimize(ResNet20(adder=False), "float32")
    fast = inference.optimize(model, "float32")
    with pytest.raises(ValueError, match="'FusedAdderConv2D'"):
        inference.optimize(fast, "float32")


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"precision": "int4"}, ValueError, "`precision` must be.*'int4'"),
        ({"precision": 8}, ValueError, "`precision` must be one of.*=8"),
        ({"calibration": None}, ValueError, "`calibration` must be data"),
        (
            {"calibration": None, "precision": "int16"},
            ValueError,
            "`calibration` must.*'int16'",
        ),
        ({"percentile": 50}, ValueError, "`percentile` must be.*=50"),
        ({"percentile": 100.5}, ValueError, "`percentile` must be.*=100.5"),
        ({"percentile": "99"}, ValueError, "`percentile` must be.*='99'"),
        ({"percentile": float("nan")}, ValueError, "`percentile` must.*nan"),
        ({"bits": 1}, ValueError, "`bits` must be.*bits=1"),
        ({"bits": 9}, ValueError, "`bits` must be.*bits=9"),
        ({"bits": 4.0}, ValueError, "`bits` must be.*bits=4.0"),
        ({"bits": True}, ValueError, "`bits` must be.*bits=True"),
        (
            {"bits": 4, "precision": "int16"},
            ValueError,
            '`bits` must be 8 unless `precision` is "int8"',
        ),
        ({"keep_float": "a1"}, TypeError, "`keep_float` must be.*=a1"),
    ],
)
def test_arguments(model, kwargs, error, message):
    arguments = {"precision": "int8", "calibration": images()} | kwargs
    with pytest.raises(error, match=message):
        inference.optimize(model, **arguments)


def test_numpy_numbers(model):
    inference.optimize(
        model,
        calibration=images(),
        bits=np.int64(4),
        percentile=np.float32(99.5),
    )


def test_quantize_names_the_way(model):
    with pytest.raises(ValueError, match=r"keras_adder\.inference\.optimize"):
        model.quantize("int8")
