"""Trains the networks that only these studies need, by the recipe for MNIST.

    python examples/paper/train_variant.py --model lenet_plus_plus
    python examples/paper/train_variant.py --model lenet5 \\
        --no-batch-normalization --no-relu

A run is what one of `train_mnist.py` is, and resumes in the same way.
"""

import argparse
import os
import pathlib
import sys

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402

from keras_adder import applications  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import train_mnist  # noqa: E402

from training import data as data_lib  # noqa: E402
from training import loop  # noqa: E402
from training import script  # noqa: E402

# Title, builder, and the size of its images.
MODELS = {
    "lenet_plus_plus": ("LeNet++", applications.LeNetPlusPlus, 28),
    "lenet5": ("LeNet-5", applications.LeNet5, 32),
}


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="mnist", help="as in train_mnist.py")
    data.add_argument("--data-dir", help="as in train_mnist.py")
    loop.add_arguments(
        parser,
        models=MODELS,
        epochs=10,
        batch_size=None,
        learning_rate=0.1,
        weight_decay=5e-4,
    )
    variant = parser.add_argument_group("variant")
    variant.add_argument(
        "--batch-normalization",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out all batch normalizations with --no-",
    )
    variant.add_argument(
        "--relu",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out all ReLUs with --no-",
    )
    return parser.parse_args(argv)


def build_network(model, network, classes, normalized=True, activated=True):
    """Builds one of `MODELS`, perhaps with some layers taken out.

    Args:
        model: String, a key of `MODELS`.
        network: String, `"adder"` or `"cnn"`.
        classes: Integer.
        normalized: Boolean, whether batch normalizations stay.
        activated: Boolean, whether ReLUs stay.

    Returns:
        A `keras.Model`.
    """
    whole = MODELS[model][1](classes=classes, adder=network == "adder")
    # The models are chains. A clone by Keras would not do without layers.
    image = keras.Input(whole.input_shape[1:])
    x = image
    for layer in whole.layers[1:]:
        if isinstance(layer, keras.layers.BatchNormalization):
            kept = normalized
        else:
            kept = activated or not layer.name.endswith("_relu")
        if kept:
            x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(image, x, name=whole.name)


def main(argv=None):
    args = parse_arguments(argv)
    loop.limit_threads(args.threads)
    title, _, size = MODELS[args.model]
    data = data_lib.load(args.data, args.data_dir, size=size)
    print(data.describe(), flush=True)
    args.data = data.name
    if args.batch_size is None:
        args.batch_size = train_mnist.default_batch_size(data)
    loop.open_run(args)

    def build(classes, adder):
        network = "adder" if adder else "cnn"
        return build_network(
            args.model, network, classes, args.batch_normalization, args.relu
        )

    def build_model():
        return loop.build_model(build, args, data.classes)

    model = loop.train(build_model, data, args)
    script.finish(model, data, args, title=title)


if __name__ == "__main__":
    script.run(main)
