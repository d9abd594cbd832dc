"""The weights that come with the package, in integers."""

import pathlib

import keras
import numpy as np
import pytest
from fused_networks import difference
from fused_networks import kinds
from fused_networks import outputs_of

from keras_adder import inference
from keras_adder.applications import LeNet5
from keras_adder.applications import ResNet20
from keras_adder.applications import lenet
from keras_adder.applications import resnet_cifar

DATA = pathlib.Path(__file__).parents[1] / "applications/data"
# The first 240 test images of MNIST.
DIGITS = np.load(DATA / "mnist_test_240.npz")


def pixels(images):
    return keras.ops.image.resize(images, (32, 32))


@pytest.fixture(scope="module")
def digits():
    return np.asarray(lenet.preprocess_input(pixels(DIGITS["images"])))


@pytest.fixture(scope="module")
def photos():
    """Of CIFAR's size, if not of its kind: digits before shades of colors."""
    shades = np.random.default_rng(0).uniform(0, 255, (24, 3, 3, 3))
    shades = keras.ops.image.resize(shades.astype("float32"), (32, 32))
    images = np.maximum(pixels(DIGITS["images"][:24]), shades)
    return np.asarray(resnet_cifar.preprocess_input(images))


@pytest.mark.parametrize(
    "precision, kwargs",
    [
        ("int8", {}),
        ("int8", {"bits": 4, "percentile": 99.9}),
        ("int16", {}),
        ("float32", {}),
    ],
)
def test_lenet5_reads_digits(digits, precision, kwargs):
    """Every layer is an adder layer, and the first has signed inputs."""
    model = LeNet5(weights="mnist")
    fast = inference.optimize(model, precision, digits[:120], **kwargs)
    report = inference.report(
        model, fast, (digits, DIGITS["labels"]), print_fn=lambda text: None
    )
    assert report.accuracy_before == 239 / 240
    assert report.accuracy_after >= 239 / 240 - (0.005 if kwargs else 0)
    assert len(report.rows) == 5
    if precision == "int8":
        assert report.rows[0].zero_point > 0 and report.rows[0].low < 0
        assert report.bytes_after < 0.3 * report.bytes_before


def test_resnet20(photos):
    model = ResNet20(weights="cifar10", classifier_activation=None)
    logits = {"float32": 1e-4, "int16": 5e-3, "int8": 0.06}
    wanted = np.asarray(model(photos)).argmax(-1)
    for precision, bound in logits.items():
        fast = inference.optimize(model, precision, photos)
        assert difference(fast, model, photos) < bound
        classes = np.asarray(fast(photos)).argmax(-1)
        assert np.mean(classes == wanted) > 0.95
    # What is left is the stem, the top, and twenty layers of bytes.
    assert list(kinds(fast).values()).count("FusedAdderConv2D") == 20
    assert len(fast.layers) == 20 + 6
    names = [name for name in kinds(fast) if name.endswith("_2_conv")]
    found = outputs_of(fast, names, photos[:2])
    assert [str(y.dtype) for y in found.values()] == 8 * ["uint8"] + ["float32"]


MEASURED = [
    # Build, data set, precision, arguments, the least that it reads right.
    ("resnet20", "int8", {"percentile": 99.999}, 0.8615),
    ("resnet20", "int16", {}, 0.8623),
    ("resnet20", "int8", {"bits": 4, "percentile": 99.9}, 0.853),
    ("lenet5", "int8", {}, 0.992),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, precision, kwargs, least", MEASURED)
def test_the_stated_accuracy(name, precision, kwargs, least):
    """Set `TFDS_DATA_DIR` to where the data sets are prepared."""
    tfds = pytest.importorskip("tensorflow_datasets")
    build, data, preprocess_input = {
        "resnet20": (ResNet20, "cifar10", resnet_cifar.preprocess_input),
        "lenet5": (LeNet5, "mnist", lenet.preprocess_input),
    }[name]
    builder = tfds.builder(data)
    if not builder.is_prepared():
        pytest.skip(f"{data} is not prepared in {builder.data_path}")
    splits = tfds.as_numpy(
        builder.as_dataset(
            split=["train[:1024]", "test"], batch_size=-1, as_supervised=True
        )
    )
    (seen, _), (unseen, labels) = splits
    seen, unseen = (preprocess_input(pixels(x)) for x in (seen, unseen))
    fast = inference.optimize(build(weights=data), precision, seen, **kwargs)
    read = fast.predict(unseen, batch_size=250, verbose=0).argmax(-1)
    # Other processors may round a doubtful image to another class.
    assert np.mean(read == labels) >= least - 5e-4
