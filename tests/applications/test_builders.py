"""What holds for every model: one signature, one way to behave."""

import inspect
import pathlib

import keras
import numpy as np
import pytest
from applications.counting import images
from applications.counting import kernels

from keras_adder import ALR
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import applications
from keras_adder import is_adder_filter
from keras_adder.applications import LeNet5
from keras_adder.applications import LeNetPlusPlus
from keras_adder.applications import MobileNetV2
from keras_adder.applications import ResNet18
from keras_adder.applications import ResNet20
from keras_adder.applications import ResNet32
from keras_adder.applications import ResNet34
from keras_adder.applications import ResNet50
from keras_adder.applications import ResNet101
from keras_adder.applications import VGGSmall

# Default size and channels, the least size, the features, and whether the
# classifier takes any size.
MODELS = {
    LeNet5: ((32, 1), 16, 16, False),
    LeNetPlusPlus: ((28, 1), 8, 128, False),
    VGGSmall: ((32, 3), 8, 512, False),
    ResNet20: ((32, 3), 4, 64, True),
    ResNet32: ((32, 3), 4, 64, True),
    ResNet18: ((224, 3), 32, 512, True),
    ResNet34: ((224, 3), 32, 512, True),
    ResNet50: ((224, 3), 32, 2048, True),
    ResNet101: ((224, 3), 32, 2048, True),
    MobileNetV2: ((224, 3), 32, 1280, True),
}
# One of each kind: the others differ from these in blocks.
OF_THE_AUTHORS = [LeNet5, LeNetPlusPlus, VGGSmall, ResNet20, ResNet50]
DISTINCT = [*OF_THE_AUTHORS, MobileNetV2]
ALL_ADDER = [LeNet5, LeNetPlusPlus]


def tiered(builders):
    """Parameters of tests: those for ImageNet take long to build."""
    deep = (ResNet18, ResNet34, ResNet50, ResNet101, MobileNetV2)
    return [
        pytest.param(build, marks=pytest.mark.slow if build in deep else ())
        for build in builders
    ]


def least_shape(build, channels_first=False):
    (_, channels), size, _, _ = MODELS[build]
    if channels_first:
        return (channels, size, size)
    return (size, size, channels)


def small(build, **kwargs):
    """A model of the least images and few classes, where not said else."""
    kwargs = {"input_shape": least_shape(build), "classes": 5} | kwargs
    return build(**kwargs)


def test_all_models_are_tested():
    builders = {
        getattr(applications, name)
        for name in applications.__all__
        if not inspect.ismodule(getattr(applications, name))
    }
    assert builders == set(MODELS)


@pytest.mark.parametrize("build", MODELS)
def test_signature_is_that_of_keras_with_adder(build):
    keras_own = getattr(
        keras.applications, build.__name__, keras.applications.ResNet50
    )
    ours = inspect.signature(build).parameters
    names = list(inspect.signature(keras_own).parameters)
    names[names.index("name") :] = ["adder", "include_preprocessing", "name"]
    assert list(ours) == names
    assert ours["weights"].default is None
    assert ours["adder"].default is True


@pytest.mark.parametrize("build", MODELS)
def test_documentation_names_every_argument(build):
    assert "{" not in build.__doc__
    for name in inspect.signature(build).parameters:
        assert f"\n    {name}: " in build.__doc__
    (size, channels), least, _, _ = MODELS[build]
    assert f"`({size}, {size}, {channels})`" in build.__doc__
    assert f"no smaller than {least};" in build.__doc__


@pytest.mark.parametrize("build", tiered(MODELS))
def test_the_twin_differs_in_nothing_but_the_adder_layers(build):
    adder, cnn = build(), build(adder=False)
    (size, channels), _, _, _ = MODELS[build]
    assert adder.input_shape == (None, size, size, channels)
    types = [type(layer) for layer in kernels(adder)]
    if build not in ALL_ADDER:
        assert types.pop(0) is keras.layers.Conv2D
        assert types.pop() in (keras.layers.Conv2D, keras.layers.Dense)
    twins = {
        AdderConv2D: keras.layers.Conv2D,
        AdderDense: keras.layers.Dense,
        AdderDepthwiseConv2D: keras.layers.DepthwiseConv2D,
    }
    assert set(types) <= set(twins)
    for ours, theirs in zip(adder.layers[1:], cnn.layers[1:], strict=True):
        assert ours.name == theirs.name
        assert ours.output.shape == theirs.output.shape
        assert twins.get(type(ours), type(ours)) is type(theirs)
    for ours, theirs in zip(adder.variables, cnn.variables, strict=True):
        assert (ours.path, ours.shape) == (theirs.path, theirs.shape)
        assert not is_adder_filter(theirs)


@pytest.mark.parametrize("build", tiered([*OF_THE_AUTHORS, ResNet18]))
def test_batch_normalization_follows_every_layer_with_weights(build):
    model = small(build)
    for layer in kernels(model):
        norm = model.get_layer(layer.name.rsplit("_", 1)[0] + "_bn")
        assert norm.input is layer.output
        assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize("build", tiered(DISTINCT))
@pytest.mark.parametrize("adder", [True, False])
def test_probabilities_and_logits(build, adder):
    x = images(2, *least_shape(build))
    model = small(build, adder=adder)
    y = keras.ops.convert_to_numpy(model(x))
    assert y.shape == (2, 5)
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)
    logits = small(build, adder=adder, classifier_activation=None)
    logits.set_weights(model.get_weights())
    np.testing.assert_allclose(
        keras.ops.softmax(logits(x)), y, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("build", tiered(DISTINCT))
@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_features_of_any_size(build, pooling):
    (_, channels), least, features, _ = MODELS[build]
    model = build(include_top=False, pooling=pooling)
    assert model.input_shape == (None, None, None, channels)
    rank = 4 if pooling is None else 2
    assert model.output_shape == (None,) * (rank - 1) + (features,)
    for size in (least, least + 3) if pooling == "avg" else ():
        y = model(images(1, size, size + 1, channels))
        assert y.shape[-1] == features


@pytest.mark.parametrize("build", [ResNet20, ResNet18])
def test_residual_networks_classify_images_of_any_size(build):
    model = small(build, input_shape=(None, None, 3))
    for size in (32, 37):
        assert model(images(1, size, size + 2, 3)).shape == (1, 5)


@pytest.mark.parametrize("build", tiered(DISTINCT))
def test_any_number_of_channels_and_an_odd_oblong(build):
    least = MODELS[build][1]
    shape = (least + 1, least + 4, 2)
    assert small(build, input_shape=shape)(images(1, *shape)).shape == (1, 5)


@pytest.mark.parametrize("build", tiered(DISTINCT))
@pytest.mark.parametrize("adder", [True, False])
def test_channels_first_gives_the_same(build, adder, request):
    shape = least_shape(build)
    x = images(2, *shape)
    last = small(build, adder=adder)
    request.getfixturevalue("channels_first")
    first = small(
        build, adder=adder, input_shape=least_shape(build, channels_first=True)
    )
    channels = MODELS[build][0][1]
    default = build(include_top=False, adder=adder).input_shape
    assert default == (None, channels, None, None)
    first.set_weights(last.get_weights())
    np.testing.assert_allclose(
        first(np.moveaxis(x, -1, 1)), last(x), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("build", [LeNet5, ResNet20])
def test_input_tensor(build):
    shape = least_shape(build)
    inputs = keras.Input(shape, name="mine")
    model = small(build, input_tensor=inputs)
    assert model.input is inputs
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    model = build(input_tensor=scaled, input_shape=shape)
    assert model(images(2, *shape)).shape == (2, 10)
    assert any(isinstance(i, keras.layers.Rescaling) for i in model.layers)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"weights": "imagenet"}, "`weights` argument.*weights=imagenet"),
        ({"weights": "no/such/file.weights.h5"}, "`weights` argument"),
        ({"weights": True}, "`weights` argument.*weights=True"),
        ({"include_top": False, "pooling": "sum"}, "`pooling`.*pooling=sum"),
        ({"include_top": False, "pooling": ["avg"]}, "`pooling`"),
        ({"classes": 0}, "`classes`.*classes=0"),
        ({"classes": 2.5}, "`classes`.*classes=2.5"),
        ({"classes": "10"}, "`classes`.*classes='10'"),
        ({"classes": True}, "`classes`.*classes=True"),
        ({"input_shape": (32, 32)}, "tuple of three integers"),
        ({"input_shape": 32}, "tuple of three integers.*input_shape=32"),
        ({"input_shape": (32, 32, None)}, "number of channels"),
        ({"input_shape": (32, 32.5, 3)}, "positive integers"),
        ({"input_shape": (32, 0, 3)}, "positive integers"),
        ({"input_shape": (3, 32, 1)}, r"at least (\d+)x\1; .*\(3, 32, 1\)"),
        ({"input_tensor": np.zeros((1, 32, 32, 1))}, "KerasTensor"),
        (
            {
                "input_tensor": keras.KerasTensor((None, 32, 32, 1)),
                "input_shape": (28, 28, 1),
            },
            "incompatible `input_shape`",
        ),
    ],
)
@pytest.mark.parametrize("build", MODELS)
def test_errors_name_the_argument(build, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


@pytest.mark.parametrize("build", [LeNet5, LeNetPlusPlus, VGGSmall])
def test_a_dense_classifier_needs_a_size(build):
    with pytest.raises(ValueError, match="static `input_shape`"):
        build(input_shape=(None, 32, 1))


@pytest.mark.parametrize("build", tiered(MODELS))
def test_the_least_size(build):
    size, _, channels = least_shape(build)
    for shape in ((size - 1, size, channels), (size, size - 1, channels)):
        with pytest.raises(ValueError, match=f"at least {size}x{size}"):
            build(input_shape=shape, include_top=False)


@pytest.mark.parametrize(
    "build", tiered([LeNet5, VGGSmall, ResNet20, ResNet18])
)
@pytest.mark.parametrize("adder", [True, False])
def test_weights_from_a_file(build, adder, tmp_path):
    # Keras 3 takes a path object as well as a string.
    path = pathlib.Path(tmp_path / "model.weights.h5")
    model = small(build, adder=adder)
    model.save_weights(path)
    x = images(1, *least_shape(build))
    for weights in (path, str(path)):
        loaded = small(build, adder=adder, weights=weights)
        np.testing.assert_array_equal(loaded(x), model(x))
    with pytest.raises(ValueError, match="`classifier_activation` argument"):
        small(build, weights=path, classifier_activation="relu")


@pytest.mark.parametrize("build", tiered(DISTINCT))
def test_serialization(build, tmp_path):
    model = small(build)
    x = images(1, *least_shape(build))
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    for layer in model.layers:
        again = loaded.get_layer(layer.name)
        assert type(again) is type(layer)
        assert again.output.shape == layer.output.shape
    np.testing.assert_array_equal(loaded(x), model(x))
    assert list(map(is_adder_filter, loaded.variables)) == list(
        map(is_adder_filter, model.variables)
    )


@pytest.mark.parametrize("build", [LeNet5, ResNet20])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(build, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small(build)
    finally:
        keras.config.set_dtype_policy("float32")
    y = keras.ops.convert_to_numpy(model(images(2, *least_shape(build))))
    assert y.dtype == model.compute_dtype
    np.testing.assert_allclose(y.astype("float32").sum(-1), 1, rtol=2e-2)


@pytest.mark.parametrize("build", tiered(DISTINCT))
@pytest.mark.parametrize("adder", [True, False])
def test_a_step_of_training_moves_every_filter(build, adder):
    model = small(build, adder=adder)
    before = [layer.kernel.numpy() for layer in kernels(model)]
    model.compile(
        ALR(0.1, nesterov=True),
        "sparse_categorical_crossentropy",
        run_eagerly=True,
    )
    x, y = images(4, *least_shape(build)), np.arange(4)
    assert np.isfinite(model.train_on_batch(x, y))
    for old, layer in zip(before, kernels(model)):
        new = layer.kernel.numpy()
        assert np.isfinite(new).all()
        assert (new != old).any(), layer.name


def preprocess(build, x):
    module = inspect.getmodule(inspect.unwrap(build))
    return module.preprocess_input(np.copy(x))


@pytest.mark.parametrize("build", tiered([*DISTINCT, ResNet18]))
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_preprocessing_may_be_part_of_the_model(
    build, first, request, tmp_path
):
    if first:
        request.getfixturevalue("channels_first")
    shape = least_shape(build, channels_first=first)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape))
    pixels = pixels.astype("float32")
    plain = small(build, input_shape=shape, weights=None)
    plain.save_weights(tmp_path / "plain.weights.h5")
    whole = small(
        build,
        input_shape=shape,
        include_preprocessing=True,
        weights=tmp_path / "plain.weights.h5",
    )
    assert whole.get_layer("preprocessing").output.shape[1:] == shape
    np.testing.assert_allclose(
        whole(pixels), plain(preprocess(build, pixels)), rtol=1e-3, atol=1e-5
    )
    whole.save(tmp_path / "whole.keras")
    loaded = keras.saving.load_model(tmp_path / "whole.keras")
    np.testing.assert_array_equal(loaded(pixels), whole(pixels))


@pytest.mark.parametrize(
    "build, weights", [(LeNet5, "mnist"), (ResNet20, "cifar10")]
)
def test_shipped_weights_with_the_preprocessing_inside(build, weights):
    plain = build(weights=weights)
    whole = build(weights=weights, include_preprocessing=True)
    pixels = np.random.default_rng(0).integers(
        0, 256, (4, *plain.input_shape[1:])
    )
    np.testing.assert_allclose(
        whole(pixels), plain(preprocess(build, pixels)), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("build", MODELS)
def test_preprocessing_knows_its_channels(build):
    with pytest.raises(ValueError, match="include_preprocessing=True"):
        build(include_preprocessing=True, input_shape=(64, 64, 7))


@pytest.mark.parametrize("classes", [np.int64(7), np.uint8(7)])
def test_classes_may_be_a_number_of_numpys(classes):
    model = LeNet5(classes=classes)
    assert model.output_shape == (None, 7)
    assert type(model.get_layer("fc3_dense").units) is int


@pytest.mark.parametrize("build", [LeNet5, ResNet20])
def test_the_first_example_with_shipped_weights_preprocesses(build):
    example = build.__doc__.partition("Example:")[2].split("\n\n")[1:3]
    assert "weights=" in "".join(example)
    assert "preprocess_input" in "".join(example)
