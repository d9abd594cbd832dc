"""Trains LeNet-5-BN on MNIST, as an AdderNet, as a CNN or as a BNN.

    python examples/train_mnist.py                 # AdderNet
    python examples/train_mnist.py --network cnn   # CNN twin
    python examples/train_mnist.py --network bnn   # binary twin, an XNOR-Net
    python examples/train_mnist.py --data digits   # no download, half a minute

The recipe is the paper's: images resized to 32x32, SGD with Nesterov momentum
0.9, batches of 256, coupled weight decay 5e-4, a learning rate of 0.1 that
falls to 0 along a half cosine over 50 epochs (one value an epoch, as in the
authors' code), and for adder filters the adaptive learning rate with eta 0.2.
No augmentation, no average of weights, and no choosing of an epoch: the
accuracy that counts is that of the last one.

The embedded digits, a fortieth of MNIST, are trained in batches of 64.

A run that was killed resumes when the same command is given again, and ends in
the weights that it would have had: on the same machine, with the same versions
and number of threads, a seed determines them to the bit. At the end the model
is saved, exported, and served by a second process that does not import
keras_adder.
"""

import argparse
import os

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_adder.applications import LeNet5  # noqa: E402

from training import data as data_lib  # noqa: E402
from training import loop  # noqa: E402
from training import script  # noqa: E402

BATCH_SIZE = 256
# With 256 an epoch would be 6 steps, too few for batch normalisation's moving
# statistics to settle in a short run.
BATCH_SIZE_OF_EMBEDDED = 64
DATA = ("auto", "mnist", "fashion_mnist", "kmnist", data_lib.EMBEDDED)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        choices=DATA,
        default="auto",
        help="digits come with scikit-learn and need no download; auto is "
        "mnist if that is prepared or downloadable, and else digits "
        "(default: %(default)s)",
    )
    data.add_argument(
        "--data-dir",
        help="where tensorflow-datasets keeps prepared data sets",
    )
    loop.add_arguments(
        parser,
        epochs=50,
        batch_size=None,
        learning_rate=0.1,
        weight_decay=5e-4,
    )
    return parser.parse_args(argv)


def default_batch_size(data):
    """The batch size of the recipe, for an `ImageData`."""
    embedded = data.name == data_lib.EMBEDDED
    return BATCH_SIZE_OF_EMBEDDED if embedded else BATCH_SIZE


def main(argv=None):
    args = parse_arguments(argv)
    loop.limit_threads(args.threads)
    data = data_lib.load(args.data, args.data_dir, size=32)
    print(data.describe(), flush=True)
    args.data = data.name
    if args.batch_size is None:
        args.batch_size = default_batch_size(data)
    loop.open_run(args)

    def build_model():
        return loop.build_model(LeNet5, args, data.classes)

    model = loop.train(build_model, data, args)
    script.finish(model, data, args, title="LeNet-5-BN")


if __name__ == "__main__":
    script.run(
        main, f", or --data {data_lib.EMBEDDED}, which needs no download"
    )
