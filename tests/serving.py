"""Exported models, served by a process that does not import keras_adder."""

import json
import subprocess
import sys

import numpy as np

# Each model's outputs, by TensorFlow and what libraries of ops it is given.
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf

folder, names, libraries = json.loads(sys.argv[1])
for library in libraries:
    tf.load_op_library(library)
x = np.load(folder + "/x.npy")
for name in names:
    model = tf.saved_model.load(f"{folder}/{name}")
    np.save(f"{folder}/{name}_served.npy", model.serve(x).numpy())
print(json.dumps("keras_adder" in sys.modules))
"""


def serve(folder, names, x, *libraries):
    """Outputs of the models that are exported to `folder / name`, by name."""
    np.save(folder / "x.npy", x)
    arguments = json.dumps([str(folder), list(names), libraries])
    done = subprocess.run(
        [sys.executable, "-c", SERVE, arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) is False
    return {name: np.load(folder / f"{name}_served.npy") for name in names}
