"""Serves an exported model without keras_adder: TensorFlow and one library.

An exported AdderNet is an ordinary SavedModel that calls ops of keras_adder's
library. Whoever serves it loads that library first; the package itself, and
Keras, are not needed:

    python serve_saved_model.py runs/digits-adder-seed1/saved_model \
        --library "$(python -m keras_adder.sysconfig)" \
        --images runs/digits-adder-seed1/serving_check.npz

The file of images holds `images` and the `predictions` that the training
process made for them. The differences are printed as JSON; the exit status is
1 if one is above the tolerance.
"""

import argparse
import json
import sys

import numpy as np
import tensorflow as tf

# Of probabilities. Adder layers give the same bits in every process; how stock
# convolutions and matrix products are summed may depend on the batch.
TOLERANCE = 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("saved_model")
    parser.add_argument("--library", help="not needed by a CNN twin")
    parser.add_argument("--images", required=True)
    args = parser.parse_args()

    if args.library:
        tf.load_op_library(args.library)
    model = tf.saved_model.load(args.saved_model)
    with np.load(args.images) as file:
        images, expected = file["images"], file["predictions"]

    same_batch = model.serve(images).numpy()
    one_image = model.serve(images[:1]).numpy()
    report = {
        "images": len(images),
        "bitwise_equal": same_batch.tobytes() == expected.tobytes(),
        "max_difference": difference(same_batch, expected),
        "max_difference_single_image": difference(one_image, expected[:1]),
        "tolerance": TOLERANCE,
        "keras_adder_imported": "keras_adder" in sys.modules,
    }
    print(json.dumps(report))
    equal = (
        max(report["max_difference"], report["max_difference_single_image"])
        <= TOLERANCE
    )
    return 0 if equal and not report["keras_adder_imported"] else 1


def difference(predictions, expected):
    return float(np.max(np.abs(predictions - expected)))


if __name__ == "__main__":
    sys.exit(main())
