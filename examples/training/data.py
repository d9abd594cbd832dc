"""Image data sets that fit into memory, and the batches made of them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from training import prepared

# Mean and standard deviation that the AdderNet authors normalise with. Other
# data sets are normalised by those of their own training images.
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
NORMALISATION = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
}

EMBEDDED = "digits"
EVALUATION_BATCH_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images (uint8, channels last) and labels, training and test split.

    Attributes:
        name: String, the data set's.
        train_images, test_images: Arrays of shape `(n, height, width, c)`.
        train_labels, test_labels: Integer arrays of shape `(n,)`.
        mean, std: Arrays of shape `(c,)`, on the scale where white is 1.
        augment: A function of a batch of training images and of a seed, a
            tensor for the stateless random ops of TensorFlow, that returns
            images in turn; `augmentation.crop_and_flip` for example.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    augment: Callable | None = None

    @property
    def classes(self):
        return int(self.train_labels.max()) + 1

    @property
    def train_size(self):
        return len(self.train_images)

    @property
    def test_size(self):
        return len(self.test_images)

    def describe(self):
        height, width, channels = self.train_images.shape[1:]
        return (
            f"{self.name}: {self.train_size:,} training and "
            f"{self.test_size:,} test images, "
            f"{height}x{width}x{channels}, {self.classes} classes"
        )

    def normalise(self, images):
        """Returns float32 images of zero mean and unit variance."""
        return normalise(images, self.mean, self.std)

    def training_batches(self, batch_size, seed, first_epoch, epochs):
        """Batches of all epochs from `first_epoch` on, one after the other.

        Each epoch takes every training image once (the last batch may be
        smaller) in an order that depends on `seed` and the number of the epoch
        alone, and its augmentation on the number of the batch besides. So a
        run that resumes sees what it would have seen without the interruption.

        Args:
            batch_size: Integer.
            seed: Integer.
            first_epoch: Integer, the number of epochs that are done.
            epochs: Integer, the number of epochs in all.

        Returns:
            A `tf.data.Dataset` of (images, labels), and the number of steps
            that make an epoch, for the `steps_per_epoch` of `fit()`.
        """
        # Tensors, so that the pipeline refers to the arrays and does not copy
        # them.
        images = tf.constant(self.train_images)
        labels = tf.constant(self.train_labels)

        def order_of_epoch(epoch):
            seed_of_epoch = epoch_seed(seed, epoch)
            order = tf.random.experimental.stateless_shuffle(
                tf.range(self.train_size), seed=seed_of_epoch
            )
            batches = tf.data.Dataset.from_tensor_slices(order)
            return with_seeds(batches.batch(batch_size), seed_of_epoch)

        def gather(indices, batch_seed):
            batch = tf.gather(images, indices)
            if self.augment is not None:
                batch = self.augment(batch, batch_seed)
            return self.normalise(batch), tf.gather(labels, indices)

        batches = (
            tf.data.Dataset.range(first_epoch, epochs)
            .flat_map(order_of_epoch)
            .map(gather, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )
        return batches, -(-self.train_size // batch_size)

    def test_batches(self):
        """Batches of the test images, in order."""
        return (
            tf.data.Dataset.from_tensor_slices(
                (self.test_images, self.test_labels)
            )
            .batch(EVALUATION_BATCH_SIZE)
            .map(lambda images, labels: (self.normalise(images), labels))
            .prefetch(tf.data.AUTOTUNE)
        )


def load(name, data_dir=None, size=None, augment=None):
    """Loads a data set into memory.

    Args:
        name: `"digits"`, scikit-learn's handwritten digits, which come with
            that package; `"auto"`, MNIST if it can be had and the digits if
            not; or the name of an image classification data set of
            `tensorflow_datasets`.
        data_dir: Where `tensorflow_datasets` keeps, or shall keep, prepared
            data sets. By default its own default.
        size: Integer. If given, images are resized to `size` x `size`.
        augment: The attribute of `ImageData`.

    Returns:
        An `ImageData`.

    Raises:
        DataUnavailable: If it is neither prepared in `data_dir` nor
            downloadable, or what is there cannot be read.
    """
    if name == "auto":
        try:
            return load("mnist", data_dir, size, augment)
        except prepared.DataUnavailable as error:
            print(
                f"{error}\nTaking scikit-learn's handwritten digits in its "
                f"place (--data {EMBEDDED}).",
                flush=True,
            )
            name = EMBEDDED
    if name == EMBEDDED:
        splits = _load_digits()
    else:
        splits = _load_tfds(name, data_dir)
    (train_images, train_labels), (test_images, test_labels) = splits
    if size is not None:
        train_images = resize(train_images, size)
        test_images = resize(test_images, size)
    if name in NORMALISATION:
        mean, std = map(np.array, NORMALISATION[name])
    else:
        mean = train_images.mean(axis=(0, 1, 2)) / 255
        std = train_images.std(axis=(0, 1, 2)) / 255
    return ImageData(
        name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        mean,
        std,
        augment,
    )


def resize(images, size):
    """Resizes uint8 images bilinearly.

    The AdderNet authors use `torchvision.transforms.Resize`, which is Pillow's
    bilinear filter; enlarged images agree with it to one grey level.
    """
    resized = tf.image.resize(images, (size, size), method="bilinear")
    return tf.cast(tf.round(resized), tf.uint8).numpy()


def normalise(images, mean, std):
    """Returns float32 images of which `mean` and `std` have been divided out.

    Args:
        images: Tensor of integers or floats in [0, 255], channels last.
        mean, std: Arrays, one number a channel, where white is 1.
    """
    scale = (1 / (255 * std)).astype("float32")
    shift = (-mean / std).astype("float32")
    return tf.cast(images, tf.float32) * scale + shift


def epoch_seed(seed, epoch):
    """The seed of an epoch, for stateless random ops."""
    return tf.stack([tf.constant(seed, tf.int64), epoch])


def with_seeds(dataset, seed):
    """Pairs of an element and a seed of its own, made of one for them all."""
    return dataset.enumerate().map(
        lambda index, element: (element, tf.random.fold_in(seed, index))
    )


def _load_digits():
    """scikit-learn's 1,797 digits of 8x8 pixels; 360 of them for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # 17 levels of grey, 0 to 16.
    images = np.round(digits.images * (255 / 16)).astype("uint8")[..., None]
    labels = digits.target.astype("int64")
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    return (images[train], labels[train]), (images[test], labels[test])


def _load_tfds(name, data_dir):
    import tensorflow_datasets as tfds

    builder = prepared.find(name, data_dir)
    try:
        return tfds.as_numpy(
            tuple(
                builder.as_dataset(
                    split=split, batch_size=-1, as_supervised=True
                )
                for split in ("train", "test")
            )
        )
    except Exception as error:
        raise prepared.unreadable(name, builder.data_path, error) from error
