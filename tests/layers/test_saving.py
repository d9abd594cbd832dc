"""Models with adder layers are saved, loaded and cloned as any other."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D
from keras_adder import is_adder_filter


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            AdderConv2D(6, 3, groups=2, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(),
            AdderConv2D(4, 3, dilation_rate=2, padding="same"),
            AdderDepthwiseConv2D(2, depth_multiplier=2),
            AdderSeparableConv2D(4, 2, padding="same"),
            keras.layers.Reshape((-1, 4)),
            AdderConv1D(4, 3, padding="causal"),
            keras.layers.Flatten(),
            AdderDense(3, filter_gradient="sign", name="dense"),
        ]
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")


def configs(model):
    return [layer.get_config() for layer in model.layers]


def adder_filters(model):
    return [i for i, v in enumerate(model.variables) if is_adder_filter(v)]


def test_keras_file(model, images, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded(images), model(images))
    assert adder_filters(loaded) == adder_filters(model)
    assert len(adder_filters(loaded)) == 7
    assert loaded.get_layer("dense").filter_gradient == "sign"
    assert configs(loaded) == configs(model)


def test_keras_file_in_another_process(model, images, tmp_path):
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    program = """
import sys, keras, numpy as np
import keras_adder

model = keras.saving.load_model(sys.argv[1] + "/model.keras")
predictions = model(np.load(sys.argv[1] + "/images.npy"))
np.save(sys.argv[1] + "/predictions.npy", predictions)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    np.testing.assert_array_equal(
        np.load(tmp_path / "predictions.npy"), model(images)
    )


def test_weights_file(model, images, tmp_path):
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = keras.models.clone_model(model)
    assert not np.array_equal(other(images), model(images))
    other.load_weights(path)
    np.testing.assert_array_equal(other(images), model(images))


def test_saved_model(model, images, tmp_path):
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(
        loaded.serve(images), model(images), rtol=1e-5, atol=1e-5
    )


def test_clone_model(model, images):
    clone = keras.models.clone_model(model)
    assert len(adder_filters(clone)) == 7
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(images), model(images))


def test_json(model, images):
    again = keras.models.model_from_json(model.to_json())
    assert configs(again) == configs(model)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(images), model(images))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_file(images, policy, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            AdderConv2D(6, 3, dtype=policy),
            keras.layers.Flatten(dtype=policy),
            AdderDense(3, dtype=policy),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.dtype_policy.name for layer in loaded.layers] == [policy] * 3
    np.testing.assert_array_equal(loaded(images), model(images))


def test_weights_fit_the_keras_layers():
    adder = keras.Sequential([keras.Input((8, 8, 4)), AdderConv2D(6, 3)])
    conv = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(6, 3)])
    conv.set_weights(adder.get_weights())
    for ours, theirs in zip(adder.weights, conv.weights):
        np.testing.assert_array_equal(ours, theirs)
