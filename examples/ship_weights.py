"""Puts the weights of a finished run into the package, to load by name.

    python examples/ship_weights.py runs/mnist/adder-seed1

writes `keras_adder/applications/weights/lenet5_adder_mnist.weights.h5` and its
entry in the manifest beside it. After that,
`keras_adder.applications.LeNet5(weights="mnist")` loads them. Weights of the
same model, network and data set that were there before are replaced.
"""

import argparse
import os
import pathlib
import sys

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402

import keras_adder  # noqa: E402, F401, for its layers in `model.keras`
from keras_adder.applications import _pretrained  # noqa: E402

from training import runs  # noqa: E402

WEIGHTS = (
    pathlib.Path(__file__).resolve().parents[1]
    / "keras_adder"
    / "applications"
    / "weights"
)
# Of runs that `train_mnist.py` left before it named its model.
DEFAULT_MODEL = "lenet5"
MODEL = "model.keras"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", type=pathlib.Path, help="the --output of a training script"
    )
    parser.add_argument(
        "--weights",
        type=pathlib.Path,
        default=WEIGHTS,
        help="folder to write to (default: that of the package)",
    )
    args = parser.parse_args(argv)
    if not runs.is_finished(args.run):
        parser.exit(1, f"{args.run} is not a finished run.\n")
    results = runs.read_settings(args.run / runs.RESULTS)
    if results["network"] not in ("adder", "cnn"):
        parser.exit(1, f"{args.run} has trained a {runs.label(results)}.\n")
    if not (args.run / MODEL).exists():
        parser.exit(1, f"{args.run} does not hold its {MODEL}.\n")
    path = ship(args.run, results, args.weights)
    print(f"{path}: {path.stat().st_size:,} bytes")


def ship(run, results, folder):
    """Writes the weights of a run, and what the manifest says of them.

    Args:
        run: Folder of a finished run.
        results: Dict, what `results.json` in it holds.
        folder: Folder to write to.

    Returns:
        The path of the file of weights.
    """
    model = keras.saving.load_model(run / MODEL, compile=False)
    name = _pretrained.file_name(
        results.get("model", DEFAULT_MODEL),
        results["network"] == "adder",
        results["data"],
    )
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(path)

    manifest_path = folder / _pretrained.MANIFEST
    manifest = runs.read_json(manifest_path) if manifest_path.exists() else {}
    manifest[name] = {
        "sha256": _pretrained.sha256(path),
        "classes": model.output_shape[-1],
        "test_accuracy": results["test_accuracy"],
        "seed": results["seed"],
        "command": results["command"],
        "versions": results["versions"],
    }
    runs.write_json(manifest_path, dict(sorted(manifest.items())))
    return path


if __name__ == "__main__":
    sys.exit(main())
