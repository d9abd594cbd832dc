"""The weights that come with the package."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from applications.counting import images

from keras_adder.applications import LeNet5
from keras_adder.applications import ResNet20
from keras_adder.applications import ResNet50
from keras_adder.applications import _pretrained
from keras_adder.applications import lenet
from keras_adder.applications import resnet_cifar

MANIFEST = json.loads((_pretrained.FOLDER / _pretrained.MANIFEST).read_text())
# By the beginning of the files' names: builder, preprocessing, size.
MODELS = {
    "lenet5": (LeNet5, lenet.preprocess_input, 32),
    "resnet20": (ResNet20, resnet_cifar.preprocess_input, 32),
}

# The first 240 test images of MNIST, as `tensorflow_datasets` has them in
# order, and their labels.
DIGITS = np.load(pathlib.Path(__file__).parent / "data/mnist_test_240.npz")


def pixels(images, size=32):
    return keras.ops.image.resize(images, (size, size))


def digits():
    return lenet.preprocess_input(pixels(DIGITS["images"]))


def test_the_manifest_describes_the_files():
    files = {path.name for path in _pretrained.FOLDER.iterdir()}
    assert files == MANIFEST.keys() | {_pretrained.MANIFEST}
    assert {"lenet5_adder_mnist.weights.h5", "lenet5_cnn_mnist.weights.h5"} <= (
        files
    )
    for name, entry in MANIFEST.items():
        digest = _pretrained.sha256(_pretrained.FOLDER / name)
        assert entry["sha256"] == digest
        assert entry["command"].startswith("python examples/train_")
        assert 0 < entry["test_accuracy"] <= 1 < entry["classes"]


@pytest.mark.parametrize(
    "adder, wrong", [(True, [221]), (False, [98, 221])], ids=["adder", "cnn"]
)
def test_lenet5_reads_digits(adder, wrong):
    predictions = LeNet5(weights="mnist", adder=adder).predict(
        digits(), verbose=0
    )
    np.testing.assert_allclose(predictions.sum(-1), 1, rtol=1e-5)
    read = predictions.argmax(-1)
    assert np.flatnonzero(read != DIGITS["labels"]).tolist() == wrong


@pytest.mark.parametrize("name", MANIFEST)
def test_the_stated_accuracy(name):
    """Set `TFDS_DATA_DIR` to where the data sets are prepared."""
    tfds = pytest.importorskip("tensorflow_datasets")
    architecture, network, data = name.partition(".")[0].split("_")
    builder = tfds.builder(data)
    if not builder.is_prepared():
        pytest.skip(f"{data} is not prepared in {builder.data_path}")
    test = tfds.as_numpy(
        builder.as_dataset(split="test", batch_size=-1, as_supervised=True)
    )
    build, preprocess_input, size = MODELS[architecture]
    model = build(weights=data, adder=network == "adder")
    x = preprocess_input(pixels(test[0], size))
    read = model.predict(x, batch_size=500, verbose=0).argmax(-1)
    # Other processors may round a doubtful image to another class.
    assert (read == test[1]).mean() == pytest.approx(
        MANIFEST[name]["test_accuracy"], abs=3e-4
    )


def test_logits():
    model = LeNet5(weights="mnist")
    logits = LeNet5(weights="mnist", classifier_activation=None)
    x = digits()[:8]
    np.testing.assert_allclose(
        keras.ops.softmax(logits(x)), model(x), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("adder", [True, False])
@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_without_the_top(adder, pooling):
    full = LeNet5(weights="mnist", adder=adder)
    features = LeNet5(
        include_top=False, weights="mnist", adder=adder, pooling=pooling
    )
    x = digits()[:4]
    expected = keras.Model(full.input, full.get_layer("conv2_pool").output)(x)
    if pooling is not None:
        reduce = {"avg": keras.ops.mean, "max": keras.ops.max}[pooling]
        expected = reduce(expected, axis=(1, 2))
    np.testing.assert_allclose(features(x), expected, rtol=1e-6)
    assert features(images(1, 20, 48, 1)).shape[0] == 1
    # `classes` does not matter, as it says.
    LeNet5(include_top=False, weights="mnist", classes=3, adder=adder)


def test_what_comes_before_the_model_keeps_its_weights():
    inputs = keras.Input((28, 28, 1))
    before = keras.layers.Conv2D(1, 1, kernel_initializer="ones", name="before")
    x = keras.layers.ZeroPadding2D(2)(before(inputs))
    model = LeNet5(weights="mnist", input_tensor=x)
    x = images(3, 28, 28, 1)
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    np.testing.assert_array_equal(before.kernel, np.ones((1, 1, 1, 1)))
    np.testing.assert_allclose(
        model(x), LeNet5(weights="mnist")(padded), rtol=1e-5, atol=1e-7
    )


def test_channels_first(channels_first):
    model = LeNet5(weights="mnist")
    assert model.input_shape == (None, 1, 32, 32)
    x = lenet.preprocess_input(pixels(DIGITS["images"].transpose(0, 3, 1, 2)))
    read = keras.ops.convert_to_numpy(model(x)).argmax(-1)
    assert np.flatnonzero(read != DIGITS["labels"]).tolist() == [221]


def test_half_precision():
    keras.config.set_dtype_policy("float16")
    try:
        model = LeNet5(weights="mnist")
    finally:
        keras.config.set_dtype_policy("float32")
    kernel = LeNet5(weights="mnist").get_layer("fc1_dense").kernel.numpy()
    half = model.get_layer("fc1_dense").kernel.numpy()
    np.testing.assert_array_equal(half, kernel.astype("float16"))


def test_the_name_wins_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").write_text("of mine")
    kernel = LeNet5(weights="mnist").get_layer("conv1_conv").kernel
    assert np.isfinite(kernel.numpy()).all()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (
            {"classes": 26},
            "If using `weights='mnist'` with `include_top=True`, `classes` "
            "should be 10. Received: classes=26",
        ),
        (
            {"input_shape": (28, 28, 1)},
            r"`input_shape` should be \(32, 32, 1\). Received: "
            r"input_shape=\(28, 28, 1\)",
        ),
        (
            {"input_shape": (40, 40, 3), "include_top": False},
            r"must have 1 channel with `weights='mnist'`. Received: "
            r"input_shape=\(40, 40, 3\)",
        ),
        ({"classifier_activation": "relu"}, "`classifier_activation`"),
    ],
)
@pytest.mark.parametrize("adder", [True, False])
def test_what_does_not_fit_the_weights(adder, kwargs, message):
    with pytest.raises(ValueError, match=message):
        LeNet5(weights="mnist", adder=adder, **kwargs)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"'mnist', or the path.*=emnist"):
        LeNet5(weights="emnist")
    with pytest.raises(ValueError, match=r"or the path to.*=mnist") as caught:
        ResNet50(weights="mnist")
    assert "'mnist', or" not in str(caught.value)


def test_a_damaged_file(tmp_path, monkeypatch):
    folder = shutil.copytree(_pretrained.FOLDER, tmp_path / "weights")
    monkeypatch.setattr(_pretrained, "FOLDER", folder)
    LeNet5(weights="mnist")
    file = folder / "lenet5_adder_mnist.weights.h5"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="`weights='mnist'` is damaged") as e:
        LeNet5(weights="mnist")
    assert MANIFEST[file.name]["sha256"] in str(e.value)


def test_documentation_names_them():
    known = MANIFEST["lenet5_adder_mnist.weights.h5"]
    assert '`"mnist"` (trained on' in LeNet5.__doc__
    assert f"{known['test_accuracy']:.2%} as AdderNet" in LeNet5.__doc__
    assert '`"mnist"` (trained on' not in ResNet50.__doc__


MEAN, DEVIATION = 0.1307, 0.3081


@pytest.mark.parametrize("channels_last", [True, False])
def test_preprocess_input(channels_last):
    x = DIGITS["images"][:2]
    expected = (x / 255 - MEAN) / DEVIATION
    data_format = None
    if not channels_last:
        x, expected = np.moveaxis(x, -1, 1), np.moveaxis(expected, -1, 1)
        data_format = "channels_first"
    for given in (x, keras.ops.convert_to_tensor(x), x[0]):
        y = lenet.preprocess_input(given, data_format)
        wanted = expected if len(given.shape) == 4 else expected[0]
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="data_format=NHWC"):
        lenet.preprocess_input(x, data_format="NHWC")
    with pytest.raises(ValueError, match=r"have 1 channel\. .*\(2, 28, 28\)"):
        lenet.preprocess_input(np.zeros((2, 28, 28)))
