"""Saved, exported, cloned: the same numbers, elsewhere too."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from fused_networks import dense
from fused_networks import images
from fused_networks import mobile
from serving import serve

import keras_adder
from keras_adder import inference

PRECISIONS = {
    "float32": ("float32", {}),
    "int8": ("int8", {}),
    "int16": ("int16", {}),
    "bits": ("int8", {"bits": 4, "percentile": 99.0}),
}

# Keras alone knows nothing of fused layers; they come by this import.
LOAD = """
import sys
import keras, keras_adder
import numpy as np

folder = sys.argv[1]
x = np.load(folder + "/x.npy")
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{folder}/{name}.keras")
    np.save(f"{folder}/{name}_loaded.npy", model.predict(x, verbose=0))
"""


def test_in_other_processes(model, tmp_path):
    """One loads what was saved, the other serves what was exported."""
    x = images(8, seed=9)
    np.save(tmp_path / "x.npy", x)
    expected = {}
    models = {name: (model, *how) for name, how in PRECISIONS.items()}
    models["mobile"] = (mobile(), "int8", {})
    for name, (original, precision, kwargs) in models.items():
        fast = inference.optimize(original, precision, images(), **kwargs)
        fast.save(tmp_path / f"{name}.keras")
        fast.export(tmp_path / name, verbose=False)
        expected[name] = fast.predict(x, verbose=0)
    loading = subprocess.Popen(
        [sys.executable, "-c", LOAD, tmp_path, *models],
        stderr=subprocess.PIPE,
        text=True,
    )
    library = keras_adder.sysconfig.get_lib()
    served = serve(tmp_path, models, x, library)
    _, errors = loading.communicate()
    assert loading.returncode == 0, errors
    for name, wanted in expected.items():
        loaded = np.load(tmp_path / f"{name}_loaded.npy")
        np.testing.assert_array_equal(loaded, wanted, err_msg=name)
        # The stem's and the top's sums may be in another order.
        off = np.abs(served[name] - wanted).max() / np.ptp(wanted)
        assert off < (1e-3 if name in ("float32", "int16") else 0.01), name


@pytest.mark.parametrize("name", PRECISIONS)
def test_in_this_process(model, tmp_path, name):
    precision, kwargs = PRECISIONS[name]
    fast = inference.optimize(model, precision, images(), **kwargs)
    fast.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    x = images(8, seed=9)
    wanted = fast.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), wanted)
    clone = keras.models.clone_model(fast)
    clone.set_weights(fast.get_weights())
    np.testing.assert_array_equal(clone(x), fast(x))


def test_weights_of_one_byte():
    model = dense()
    fast = inference.optimize(model, "int8", images(64, (12,)))
    for layer in fast.layers[1:]:
        kernel, multiplier, offset = layer.weights
        assert kernel.dtype == "uint8"
        assert multiplier.dtype == offset.dtype == "float32"
    assert not fast.trainable_weights
    copy = keras.Model.from_config(fast.get_config())
    copy.set_weights(fast.get_weights())
    np.testing.assert_array_equal(
        copy(images(9, (12,))), fast(images(9, (12,)))
    )
