"""Trains a model on CIFAR-10 or CIFAR-100, as an AdderNet, a CNN or a BNN.

    python examples/train_cifar.py                            # ResNet-20
    python examples/train_cifar.py --network cnn              # its CNN twin
    python examples/train_cifar.py --network bnn              # binary twin
    python examples/train_cifar.py --data cifar100 --model vgg_small

The recipe is the paper's: SGD with momentum 0.9, batches of 256, coupled
weight decay 5e-4, a learning rate of 0.1 that falls to 0 along a half cosine
over 400 epochs (one value an epoch, as in the authors' code), and for adder
filters the adaptive learning rate with eta 0.2. Training images are padded by
4 black pixels on each side, cropped at random and flipped at random. No
average of weights, and no choosing of an epoch: the accuracy that counts is
that of the last one.

MobileNetV2, which the paper does not have, keeps its strides for ImageNet:
images of 32x32 end in a single position. They are normalized as for the other
models, not by `mobilenet_v2.preprocess_input`.

A run that was killed resumes when the same command is given again, and ends in
the weights that it would have had: on the same machine, with the same versions
and number of threads, a seed determines them to the bit. At the end the model
is saved, exported, and served by a second process that does not import
keras_adder.
"""

import argparse
import functools
import os

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_adder import applications  # noqa: E402

from training import augmentation  # noqa: E402
from training import data as data_lib  # noqa: E402
from training import loop  # noqa: E402
from training import script  # noqa: E402

MODELS = {
    "resnet20": ("ResNet-20", applications.ResNet20),
    "resnet32": ("ResNet-32", applications.ResNet32),
    "vgg_small": ("VGG-small", applications.VGGSmall),
    "mobilenetv2": (
        "MobileNetV2",
        functools.partial(applications.MobileNetV2, input_shape=(32, 32, 3)),
    ),
}


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        choices=("cifar10", "cifar100"),
        default="cifar10",
        help="(default: %(default)s)",
    )
    data.add_argument(
        "--data-dir",
        help="where tensorflow-datasets keeps prepared data sets",
    )
    loop.add_arguments(
        parser,
        models=MODELS,
        epochs=400,
        batch_size=256,
        learning_rate=0.1,
        weight_decay=5e-4,
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    loop.limit_threads(args.threads)
    data = data_lib.load(
        args.data, args.data_dir, augment=augmentation.crop_and_flip
    )
    print(data.describe(), flush=True)
    loop.open_run(args)

    title, builder = MODELS[args.model]

    def build_model():
        # The authors take Nesterov momentum for MNIST alone.
        return loop.build_model(builder, args, data.classes, nesterov=False)

    model = loop.train(build_model, data, args)
    script.finish(model, data, args, title)


if __name__ == "__main__":
    script.run(main)
