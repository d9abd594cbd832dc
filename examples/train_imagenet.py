"""Trains a ResNet or MobileNetV2 on ImageNet or on a folder of images.

    python examples/train_imagenet.py                          # ResNet-18
    python examples/train_imagenet.py --network cnn --model resnet50
    python examples/train_imagenet.py --images FOLDER          # your own

FOLDER holds train/ and validation/ (or val/), and each of them a folder of
images for each class. Otherwise the data set is one of tensorflow-datasets;
ImageNet itself has to be downloaded by hand, as its page there tells.

The recipe is the paper's: SGD with momentum 0.9, batches of 256, coupled
weight decay 1e-4, a learning rate of 0.1 that falls to 0 along a half cosine
over 150 epochs (one value an epoch), and for adder filters the adaptive
learning rate with eta 0.2. Training images are cropped at random (8 % to 100 %
of the area, aspect ratio 3/4 to 4/3), resized to 224x224 and flipped at
random; of the others the centre is taken. Images are read while they are
trained on, from files that are drawn anew for each epoch. MobileNetV2, which
the paper does not have, is trained alike, on images that are normalized as for
the others, not by `mobilenet_v2.preprocess_input`.

A run that was killed resumes when the same command is given again, and sees
the images that it would have seen. At the end the model is saved, exported,
and served by a second process that does not import keras_adder.
"""

import argparse
import functools
import os
import pathlib

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402

from keras_adder import applications  # noqa: E402

from training import flags  # noqa: E402
from training import loop  # noqa: E402
from training import script  # noqa: E402
from training import streams  # noqa: E402

MODELS = {
    "resnet18": ("ResNet-18", applications.ResNet18),
    "resnet34": ("ResNet-34", applications.ResNet34),
    "resnet50": ("ResNet-50", applications.ResNet50),
    "resnet101": ("ResNet-101", applications.ResNet101),
    "mobilenetv2": ("MobileNetV2", applications.MobileNetV2),
}


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        default="imagenet2012",
        help="a data set of tensorflow-datasets with the splits train and "
        "validation, for example imagenette (default: %(default)s)",
    )
    data.add_argument(
        "--data-dir",
        help="where tensorflow-datasets keeps prepared data sets",
    )
    data.add_argument(
        "--images",
        type=pathlib.Path,
        metavar="FOLDER",
        help="a folder of images, in place of --data",
    )
    data.add_argument(
        "--image-size",
        type=flags.whole(32),
        default=224,
        help="width and height that images are resized to "
        "(default: %(default)s)",
    )
    loop.add_arguments(
        parser,
        models=MODELS,
        epochs=150,
        batch_size=256,
        learning_rate=0.1,
        weight_decay=1e-4,
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    loop.limit_threads(args.threads)
    if args.images is not None:
        data = streams.from_folder(args.images, args.image_size)
    else:
        data = streams.from_tfds(args.data, args.data_dir, args.image_size)
    print(data.describe(), flush=True)
    args.data = data.name
    loop.open_run(args)

    title, builder = MODELS[args.model]
    shape = (args.image_size, args.image_size, 3)

    def build_model():
        top5 = keras.metrics.SparseTopKCategoricalAccuracy(5, "top5_accuracy")
        return loop.build_model(
            functools.partial(builder, input_shape=shape),
            args,
            data.classes,
            nesterov=False,
            metrics=["accuracy", top5],
        )

    model = loop.train(build_model, data, args)
    script.finish(model, data, args, title)


if __name__ == "__main__":
    script.run(main, ", or --images with a folder of images")
