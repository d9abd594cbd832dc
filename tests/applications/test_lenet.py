import math

import keras
import numpy as np
import pytest

from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import is_adder_filter
from keras_adder.applications import LeNet5


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


def kernels(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def images(*shape, dtype="float32"):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def test_the_adder_net_has_adder_layers_only():
    model = LeNet5()
    types = [type(layer) for layer in kernels(model)]
    assert types == [AdderConv2D] * 2 + [AdderDense] * 3
    filters = [v.path for v in model.variables if is_adder_filter(v)]
    assert filters == [layer.kernel.path for layer in kernels(model)]


def test_the_twin_differs_in_nothing_but_those():
    adder, cnn = LeNet5(), LeNet5(adder=False)
    types = [type(layer) for layer in kernels(cnn)]
    assert types == [keras.layers.Conv2D] * 2 + [keras.layers.Dense] * 3
    assert [layer.name for layer in adder.layers[1:]] == [
        layer.name for layer in cnn.layers[1:]
    ]
    assert [v.path for v in adder.variables] == [v.path for v in cnn.variables]
    assert [v.shape for v in adder.variables] == [
        v.shape for v in cnn.variables
    ]
    assert [layer.output.shape for layer in adder.layers] == [
        layer.output.shape for layer in cnn.layers
    ]
    assert not any(is_adder_filter(v) for v in cnn.variables)


def test_layers_read_like_the_table_of_the_paper():
    blocks = [layer.name for layer in LeNet5().layers[1:]]
    assert blocks == [
        "conv1_conv",
        "conv1_bn",
        "conv1_relu",
        "conv1_pool",
        "conv2_conv",
        "conv2_bn",
        "conv2_relu",
        "conv2_pool",
        "flatten",
        "fc1_dense",
        "fc1_bn",
        "fc1_relu",
        "fc2_dense",
        "fc2_bn",
        "fc2_relu",
        "fc3_dense",
        "fc3_bn",
        "predictions",
    ]


def test_multiplications_of_the_twin():
    """The paper's ~435K, counted from the shapes of the layers."""
    count = 0
    for layer in kernels(LeNet5(adder=False)):
        positions = math.prod(layer.output.shape[1:-1])
        count += positions * math.prod(layer.kernel.shape)
    assert count == 416_520


def test_no_layer_has_a_bias():
    for adder in (True, False):
        assert all(
            layer.bias is None for layer in kernels(LeNet5(adder=adder))
        )


@pytest.mark.parametrize("adder", [True, False])
def test_probabilities_and_logits(adder):
    x = images(3, 32, 32, 1)
    model = LeNet5(classes=7, adder=adder)
    y = model.predict(x, verbose=0)
    assert y.shape == (3, 7)
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)
    logits = LeNet5(classes=7, adder=adder, classifier_activation=None)
    logits.set_weights(model.get_weights())
    np.testing.assert_allclose(
        keras.ops.softmax(logits(x)), y, rtol=1e-4, atol=1e-6
    )


def test_name():
    assert LeNet5().name == "lenet5"
    assert LeNet5(name="mine").name == "mine"


@pytest.mark.parametrize(
    "pooling, shape",
    [(None, (2, 5, 5, 16)), ("avg", (2, 16)), ("max", (2, 16))],
)
def test_features(pooling, shape):
    model = LeNet5(include_top=False, pooling=pooling)
    assert model(images(2, 32, 32, 1)).shape == shape


def test_features_of_any_size():
    model = LeNet5(
        include_top=False, pooling="avg", input_shape=(None, None, 3)
    )
    for size in (16, 21, 32):
        assert model(images(2, size, size + 1, 3)).shape == (2, 16)


@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 16, 1), (20, 33, 3)])
def test_input_shape(shape):
    assert LeNet5(input_shape=shape)(images(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("adder", [True, False])
def test_channels_first_gives_the_same(adder, request):
    x = images(2, 32, 32, 1)
    last = LeNet5(adder=adder)
    request.getfixturevalue("channels_first")
    first = LeNet5(adder=adder)
    assert first.input_shape == (None, 1, 32, 32)
    assert first.get_layer("conv2_pool").output.shape == (None, 16, 5, 5)
    first.set_weights(last.get_weights())
    np.testing.assert_allclose(
        first.predict(np.moveaxis(x, -1, 1), verbose=0),
        last.predict(x, verbose=0),
        rtol=1e-4,
        atol=1e-6,
    )


def test_input_tensor():
    inputs = keras.Input((28, 28, 1), name="mine")
    model = LeNet5(input_tensor=inputs)
    assert model.input is inputs
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    model = LeNet5(input_tensor=scaled, input_shape=(28, 28, 1))
    assert model(images(2, 28, 28, 1)).shape == (2, 10)
    assert any(isinstance(i, keras.layers.Rescaling) for i in model.layers)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"weights": "imagenet"}, "`weights` argument.*weights=imagenet"),
        ({"weights": "no/such/file.weights.h5"}, "`weights` argument"),
        ({"include_top": False, "pooling": "sum"}, "`pooling`.*pooling=sum"),
        ({"classes": 0}, "`classes`.*classes=0"),
        ({"classes": 2.5}, "`classes`.*classes=2.5"),
        ({"input_shape": (32, 32)}, "tuple of three integers"),
        ({"input_shape": (15, 32, 1)}, "at least 16x16"),
        ({"input_shape": (None, None, 1)}, "static `input_shape`"),
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
def test_errors_name_the_argument(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LeNet5(**kwargs)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("adder", [True, False])
def test_weights_from_a_file(adder, suffix, tmp_path):
    path = str(tmp_path / f"lenet5{suffix}")
    model = LeNet5(adder=adder)
    if suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)
    x = images(2, 32, 32, 1)
    loaded = LeNet5(weights=path, adder=adder)
    np.testing.assert_array_equal(loaded(x), model(x))
    with pytest.raises(ValueError, match="`classifier_activation` argument"):
        LeNet5(weights=path, adder=adder, classifier_activation="relu")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = LeNet5()
    finally:
        keras.config.set_dtype_policy("float32")
    y = model.predict(images(2, 32, 32, 1), verbose=0)
    assert y.dtype == model.compute_dtype
    np.testing.assert_allclose(y.astype("float32").sum(-1), 1, rtol=2e-2)


@pytest.mark.parametrize("adder", [True, False])
def test_training_learns(adder):
    """Which quarter of the image is bright?"""
    keras.utils.set_random_seed(0)
    labels = np.arange(64) % 4
    x = images(64, 16, 16, 1)
    for image, label in zip(x, labels):
        row, column = divmod(label, 2)
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 2.0
    model = LeNet5(input_shape=(16, 16, 1), classes=4, adder=adder)
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, labels, batch_size=16, epochs=20, verbose=0)
    assert model.evaluate(x, labels, verbose=0)[1] > 0.9
