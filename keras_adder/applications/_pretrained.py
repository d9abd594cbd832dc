"""The weights that come with the package, and what is known of them."""

import functools
import hashlib
import json
import pathlib

FOLDER = pathlib.Path(__file__).parent / "weights"
MANIFEST = "manifest.json"
_SUFFIX = ".weights.h5"


def known_weights(architecture, adder):
    """Returns what the manifest says of a model's weights.

    Args:
        architecture: string, the default `name` of the model's builder.
        adder: bool, whether it is the AdderNet or the CNN twin.

    Returns:
        A dict, by the names of the data sets that they were trained on, of
        dicts: `"sha256"` of the file, `"classes"` and `"test_accuracy"`, and
        `"command"` and `"versions"` of the training.
    """
    prefix = file_name(architecture, adder, "").removesuffix(_SUFFIX)
    return {
        name.removeprefix(prefix).removesuffix(_SUFFIX): entry
        for name, entry in _read_manifest().items()
        if name.startswith(prefix)
    }


def file_name(architecture, adder, data):
    """Returns the name of a file of weights, its key in the manifest."""
    network = "adder" if adder else "cnn"
    return f"{architecture}_{network}_{data}{_SUFFIX}"


def verified_path(architecture, adder, data):
    """Returns the path of weights in the manifest, as a string.

    Raises:
        ValueError: If the file is not the one that the manifest describes.
    """
    path = FOLDER / file_name(architecture, adder, data)
    expected = known_weights(architecture, adder)[data]["sha256"]
    received = sha256(path)
    if received != expected:
        raise ValueError(
            f"The file of `weights='{data}'` is damaged: its SHA-256 should be "
            f"{expected}. Install keras_adder again. Received: {received} of "
            f"{path}"
        )
    return str(path)


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


@functools.cache
def _read_manifest():
    return json.loads((FOLDER / MANIFEST).read_text("utf-8"))
