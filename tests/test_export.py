"""Exported models, served by processes that do not import keras_adder."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_adder

# Serves each model with all images, with one and with none.
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf

tf.load_op_library(sys.argv[1])
for folder in sys.argv[2:]:
    model = tf.saved_model.load(folder + "/saved_model")
    images = np.load(folder + "/images.npy")
    for name, batch in (
        ("all", images), ("one", images[:1]), ("none", images[:0])
    ):
        np.save(f"{folder}/{name}.npy", model.serve(batch).numpy())
print(json.dumps([name for name in sys.modules if "keras" in name]))
"""


def network(shape, data_format, **arguments):
    """Both adder layers and what usually stands between them."""
    axis = 1 if data_format == "channels_first" else -1
    return keras.Sequential(
        [
            keras.Input(shape),
            keras_adder.AdderConv2D(
                8, 3, padding="same", data_format=data_format
            ),
            keras.layers.BatchNormalization(axis=axis),
            keras.layers.ReLU(),
            keras_adder.AdderConv2D(8, 3, data_format=data_format, **arguments),
            keras.layers.BatchNormalization(axis=axis),
            keras.layers.GlobalAveragePooling2D(data_format=data_format),
            keras_adder.AdderDense(5),
            keras.layers.BatchNormalization(),
            # The policy's float32, as Keras advises for the last layer.
            keras.layers.Activation("softmax", dtype="float32"),
        ]
    )


def lenet(data_format):
    keras.config.set_image_data_format(data_format)
    return keras_adder.applications.LeNet5()


def under_policy(policy, build):
    keras.config.set_dtype_policy(policy)
    return build()


MODELS = {
    "float32": lambda: network((12, 10, 3), "channels_last"),
    "any_size": lambda: network((None, None, 3), "channels_last"),
    "strided": lambda: network((12, 10, 3), "channels_last", strides=(2, 2)),
    "dilated": lambda: network((12, 10, 3), "channels_last", dilation_rate=2),
    "grouped": lambda: network((12, 10, 3), "channels_last", groups=4),
    "sign": lambda: network(
        (12, 10, 3), "channels_last", filter_gradient="sign"
    ),
    "channels_first": lambda: network((3, 12, 10), "channels_first"),
    "mixed_bfloat16": lambda: under_policy(
        "mixed_bfloat16", lambda: network((12, 10, 3), "channels_last")
    ),
    "mixed_float16": lambda: under_policy(
        "mixed_float16", lambda: network((12, 10, 3), "channels_last")
    ),
    "float64": lambda: under_policy(
        "float64", lambda: network((12, 10, 3), "channels_last")
    ),
    "channels_first_mixed_bfloat16": lambda: under_policy(
        "mixed_bfloat16", lambda: network((3, 12, 10), "channels_first")
    ),
    "lenet": lambda: lenet("channels_last"),
    "lenet_channels_first": lambda: lenet("channels_first"),
}


def build(name):
    """Builds a model, whatever global settings that takes."""
    data_format = keras.config.image_data_format()
    policy = keras.config.dtype_policy()
    try:
        keras.utils.set_random_seed(1)
        return MODELS[name]()
    finally:
        keras.config.set_image_data_format(data_format)
        keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Exports all models, serves them in one process, returns its folder."""
    root = tmp_path_factory.mktemp("exported")
    for name in MODELS:
        model = build(name)
        shape = [12 if size is None else size for size in model.input_shape[1:]]
        generator = np.random.default_rng(0)
        images = generator.normal(size=(6, *shape)).astype(model.input_dtype)
        # Moving statistics that differ from their initial values.
        for _ in range(5):
            model(images, training=True)
        model.export(root / name / "saved_model", verbose=False)
        np.save(root / name / "images.npy", images)
        np.save(root / name / "expected.npy", predict(model, images))
    library = keras_adder.sysconfig.get_lib()
    process = subprocess.run(
        [sys.executable, "-c", SERVE, library]
        + [str(root / name) for name in MODELS],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return root, json.loads(process.stdout.splitlines()[-1])


def predict(model, images):
    return model.predict(images, batch_size=len(images), verbose=0)


def test_the_server_does_not_import_the_package(served):
    _, modules = served
    assert not [name for name in modules if name.startswith("keras_adder")]


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_equal(served, name):
    folder = served[0] / name
    expected = np.load(folder / "expected.npy")
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 0
    for kind, images in (("all", 6), ("one", 1), ("none", 0)):
        outputs = np.load(folder / f"{kind}.npy")
        assert outputs.shape == (images, expected.shape[1])
        assert outputs.dtype == expected.dtype
    # The same ops on the same batch.
    np.testing.assert_array_equal(np.load(folder / "all.npy"), expected)
    # How other layers vectorise may depend on the batch; adder layers do not.
    half = "float16" in name
    np.testing.assert_allclose(
        np.load(folder / "one.npy"), expected[:1], rtol=1e-2 if half else 1e-5
    )


def test_a_model_is_exported_again_after_loading(served, tmp_path):
    model = build("float32")
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    images = np.load(served[0] / "float32" / "images.npy")
    np.testing.assert_array_equal(
        predict(restored, images), predict(model, images)
    )
    restored.export(tmp_path / "saved_model", verbose=False)
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()
