"""Exports a trained model and has another process serve it."""

import json
import pathlib
import subprocess
import sys

import numpy as np

from training import runs

SERVER = pathlib.Path(__file__).parents[1] / "serve_saved_model.py"
SERVED_IMAGES = 256


def save(model, output):
    """Saves `model.keras` and exports the SavedModel `saved_model`."""
    with runs.replacing(output / "model.keras") as temporary:
        model.save(temporary)
    # The batch size of the exported model is open.
    model.export(output / "saved_model", verbose=False)


def check_in_other_process(model, data, output, library=None):
    """Compares this process's predictions with those of one that serves.

    The other process never imports keras_adder.

    Args:
        model: The trained model.
        data: A `training.data.ImageData`, or what has its methods.
        output: Folder that `save()` wrote to.
        library: Path of the library of compiled ops, if the model needs it.

    Returns:
        What `serve_saved_model.py` reports, a dict.

    Raises:
        RuntimeError: If the process fails, or its predictions differ.
    """
    images, _ = next(iter(data.test_batches().unbatch().batch(SERVED_IMAGES)))
    images = images.numpy()
    predictions = model.predict(images, batch_size=len(images), verbose=0)
    np.savez_compressed(
        output / "serving_check.npz", images=images, predictions=predictions
    )
    command = [
        sys.executable,
        str(SERVER),
        str(output / "saved_model"),
        f"--images={output / 'serving_check.npz'}",
    ]
    if library is not None:
        command.append(f"--library={library}")
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(
            "Serving the exported model in another process failed:\n"
            f"{process.stdout}{process.stderr}"
        )
    return json.loads(process.stdout.splitlines()[-1])
