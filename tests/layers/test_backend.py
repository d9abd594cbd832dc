"""Another Keras backend than TensorFlow is one clear error at import."""

import json
import os
import subprocess
import sys

import pytest


def import_error(**environment):
    """The error of `import keras_adder` in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    result = subprocess.run(
        [sys.executable, "-c", "import keras_adder"],
        env={**env, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_backend_of_the_environment(backend):
    """Whether that backend is installed or not."""
    error = import_error(KERAS_BACKEND=backend)
    assert error.startswith("ImportError: keras_adder runs on the TensorFlow")
    assert "KERAS_BACKEND=tensorflow" in error
    assert f"={backend}" in error


def test_backend_of_the_config_file(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    error = import_error(KERAS_HOME=str(tmp_path))
    assert error.startswith("ImportError: keras_adder runs on the TensorFlow")
    assert "torch" in error


def test_backend_of_a_keras_imported_before():
    program = """
import sys, types
sys.modules["keras"] = types.SimpleNamespace(
    config=types.SimpleNamespace(backend=lambda: "jax")
)
import keras_adder
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: keras_adder runs on the TensorFlow")
    assert error.endswith("Received: backend=jax")
