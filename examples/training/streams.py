"""Image data sets that are read while they are trained on."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from training import augmentation
from training import data as data_lib
from training import prepared
from training import runs

# ImageNet's, on the scale where white is 1.
MEAN = np.array((0.485, 0.456, 0.406))
STD = np.array((0.229, 0.224, 0.225))

EVALUATION_BATCH_SIZE = 250
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png"}
# Of encoded images, some 100 KB each in ImageNet, drawn from so many files at
# a time. Which files, and in what order, is another draw.
SHUFFLE_BUFFER = 4096
SHUFFLED_FILES = 16


@dataclasses.dataclass(frozen=True)
class ImageStream:
    """Encoded images and labels, to be decoded to squares.

    It has the methods of `training.data.ImageData` that training asks for.

    Attributes:
        name: String, the data set's.
        classes: Integer.
        train_size, test_size: Integers, numbers of images.
        image_size: Integer, width and height of a decoded image.
        train_examples: A function of a seed, a tensor, that returns a
            `tf.data.Dataset` of (encoded image, label) in an order that
            depends on the seed alone.
        test_examples: A function that returns such a dataset.
    """

    name: str
    classes: int
    train_size: int
    test_size: int
    image_size: int
    train_examples: Callable
    test_examples: Callable

    def describe(self):
        return (
            f"{self.name}: {self.train_size:,} training and "
            f"{self.test_size:,} test images, "
            f"to {self.image_size}x{self.image_size}x3, {self.classes} classes"
        )

    def training_batches(self, batch_size, seed, first_epoch, epochs):
        """Batches of all epochs from `first_epoch` on, one after the other.

        As `ImageData.training_batches()`, with random resized crops, half of
        them flipped.
        """

        def batches_of_epoch(epoch):
            epoch_seed = data_lib.epoch_seed(seed, epoch)
            examples = self.train_examples(epoch_seed)
            return (
                data_lib.with_seeds(examples, epoch_seed)
                .map(crop, num_parallel_calls=tf.data.AUTOTUNE)
                .batch(batch_size)
            )

        def crop(example, image_seed):
            encoded, label = example
            image = augmentation.random_resized_crop(
                encoded, image_seed, self.image_size
            )
            return data_lib.normalise(image, MEAN, STD), label

        batches = (
            tf.data.Dataset.range(first_epoch, epochs)
            .flat_map(batches_of_epoch)
            .prefetch(tf.data.AUTOTUNE)
        )
        return batches, -(-self.train_size // batch_size)

    def test_batches(self):
        """Batches of the test images, in order, cropped at the centre."""

        def crop(encoded, label):
            image = augmentation.central_crop(encoded, self.image_size)
            return data_lib.normalise(image, MEAN, STD), label

        return (
            self.test_examples()
            .map(crop, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(EVALUATION_BATCH_SIZE)
            .prefetch(tf.data.AUTOTUNE)
        )


def from_folder(folder, image_size):
    """Images in folders that are named after their classes.

    Args:
        folder: Path of a folder of `train`, and of `validation` or `val`. Both
            have a folder for each class.
        image_size: Integer.

    Returns:
        An `ImageStream`, named after the folder.

    Raises:
        RunError: If there are no such folders, or no images in them.
    """
    folder = pathlib.Path(folder)
    train = folder / "train"
    test = folder / "validation"
    if not test.is_dir():
        test = folder / "val"
    for split, name in ((train, "train"), (test, "validation, nor val")):
        if not split.is_dir():
            raise runs.RunError(f"{folder} has no folder {name}.")
    names = sorted(path.name for path in train.iterdir() if path.is_dir())
    unknown = {path.name for path in test.iterdir() if path.is_dir()} - {*names}
    if unknown:
        raise runs.RunError(
            f"{test} has classes that {train} has not: "
            f"{', '.join(sorted(unknown))}."
        )
    train_files, train_labels = _list_images(train, names)
    test_files, test_labels = _list_images(test, names)

    def train_examples(seed):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(train_files)), seed=seed
        )
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda index: read(train_files[index], train_labels[index]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def test_examples():
        return tf.data.Dataset.from_tensor_slices(
            (test_files, test_labels)
        ).map(read, num_parallel_calls=tf.data.AUTOTUNE)

    def read(file, label):
        return tf.io.read_file(file), label

    return ImageStream(
        folder.resolve().name,
        len(names),
        len(train_files),
        len(test_files),
        image_size,
        train_examples,
        test_examples,
    )


def from_tfds(name, data_dir, image_size):
    """A data set of `tensorflow_datasets`, with a split named validation.

    Args:
        name: String, `"imagenet2012"` or another one of images and labels.
        data_dir: Where `tensorflow_datasets` keeps prepared data sets.
        image_size: Integer.

    Returns:
        An `ImageStream`.

    Raises:
        DataUnavailable: If it is neither prepared nor downloadable.
        RunError: If it has no such splits, or is of another kind.
    """
    builder = prepared.find(name, data_dir)
    info = builder.info
    for split in ("train", "validation"):
        if split not in info.splits:
            raise runs.RunError(
                f"{name} has no split {split}, but {', '.join(info.splits)}."
            )
    if len(info.supervised_keys or ()) != 2:
        raise runs.RunError(f"{name} is not a data set of images and labels.")
    if info.file_format.value != "tfrecord":
        raise runs.RunError(
            f"{name} is prepared as {info.file_format.value}, not as tfrecord."
        )
    files = {
        split: [str(path) for path in info.splits[split].filepaths]
        for split in ("train", "validation")
    }
    image_key, label_key = info.supervised_keys

    def train_examples(seed):
        order = tf.random.experimental.stateless_shuffle(
            tf.constant(files["train"]), seed=seed
        )
        examples = tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset,
            cycle_length=SHUFFLED_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        draw = tf.random.stateless_uniform([], seed, None, None, tf.int64)
        return examples.shuffle(
            SHUFFLE_BUFFER, seed=draw, reshuffle_each_iteration=False
        ).map(parse, num_parallel_calls=tf.data.AUTOTUNE)

    def test_examples():
        return tf.data.TFRecordDataset(files["validation"]).map(
            parse, num_parallel_calls=tf.data.AUTOTUNE
        )

    def parse(record):
        import tensorflow_datasets as tfds

        example = info.features.deserialize_example(
            record, decoders={image_key: tfds.decode.SkipDecoding()}
        )
        return example[image_key], example[label_key]

    return ImageStream(
        name.replace("/", "-"),
        info.features[label_key].num_classes,
        info.splits["train"].num_examples,
        info.splits["validation"].num_examples,
        image_size,
        train_examples,
        test_examples,
    )


def _list_images(folder, names):
    """Tensors of the images' paths and labels, class by class."""
    files, labels = [], []
    for label, name in enumerate(names):
        found = sorted(
            str(path)
            for path in (folder / name).glob("*")
            if path.suffix.lower() in SUFFIXES
        )
        files += found
        labels += [label] * len(found)
    if not files:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise runs.RunError(f"{folder} has no folders of images ({suffixes}).")
    return tf.constant(files), tf.constant(labels, tf.int64)
