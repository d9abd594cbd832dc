"""Image data sets that fit into memory, and the batches made of them."""

import dataclasses
import urllib.parse

import numpy as np
import tensorflow as tf

# Mean and standard deviation that the AdderNet authors normalise with. Other
# data sets are normalised by those of their own training images.
NORMALISATION = {"mnist": ((0.1307,), (0.3081,))}

EMBEDDED = "digits"
EVALUATION_BATCH_SIZE = 1000
PROBE_SECONDS = 5


class DataUnavailable(Exception):
    """A data set cannot be read here, nor be had from the network."""

    REMEDY = (
        "Pass --data-dir with a folder where it is prepared, or "
        f"--data {EMBEDDED}, which needs no download."
    )


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images (uint8, channels last) and labels, training and test split.

    Attributes:
        name: String, the data set's.
        train_images, test_images: Arrays of shape `(n, height, width, c)`.
        train_labels, test_labels: Integer arrays of shape `(n,)`.
        mean, std: Arrays of shape `(c,)`, on the scale where white is 1.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @property
    def classes(self):
        return int(self.train_labels.max()) + 1

    def normalise(self, images):
        """Returns float32 images of zero mean and unit variance."""
        scale = (1 / (255 * self.std)).astype("float32")
        shift = (-self.mean / self.std).astype("float32")
        return tf.cast(images, tf.float32) * scale + shift

    def describe(self):
        height, width, channels = self.train_images.shape[1:]
        return (
            f"{self.name}: {len(self.train_images):,} training and "
            f"{len(self.test_images):,} test images, "
            f"{height}x{width}x{channels}, {self.classes} classes"
        )


def load(name, data_dir=None, size=None):
    """Loads a data set into memory.

    Args:
        name: `"digits"`, scikit-learn's handwritten digits, which come with
            that package; `"auto"`, MNIST if it can be had and the digits if
            not; or the name of an image classification data set of
            `tensorflow_datasets`.
        data_dir: Where `tensorflow_datasets` keeps, or shall keep, prepared
            data sets. By default its own default.
        size: Integer. If given, images are resized to `size` x `size`.

    Returns:
        An `ImageData`.

    Raises:
        DataUnavailable: If it is neither prepared in `data_dir` nor
            downloadable, or what is there cannot be read.
    """
    if name == "auto":
        try:
            return load("mnist", data_dir, size)
        except DataUnavailable as error:
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
        name, train_images, train_labels, test_images, test_labels, mean, std
    )


def resize(images, size):
    """Resizes uint8 images bilinearly.

    The AdderNet authors use `torchvision.transforms.Resize`, which is Pillow's
    bilinear filter; enlarged images agree with it to one grey level.
    """
    resized = tf.image.resize(images, (size, size), method="bilinear")
    return tf.cast(tf.round(resized), tf.uint8).numpy()


def training_batches(data, batch_size, seed, first_epoch, epochs):
    """Batches of all epochs from `first_epoch` on, one after the other.

    Each epoch takes every training image once (the last batch may be smaller)
    in an order that depends on `seed` and the number of the epoch alone. So a
    run that resumes sees what it would have seen without the interruption.

    Args:
        data: An `ImageData`.
        batch_size: Integer.
        seed: Integer.
        first_epoch: Integer, the number of epochs that are done.
        epochs: Integer, the number of epochs in all.

    Returns:
        A `tf.data.Dataset` of (images, labels), and the number of steps that
        make an epoch, for the `steps_per_epoch` of `fit()`.
    """
    size = len(data.train_images)
    # Tensors, so that the pipeline refers to the arrays and does not copy them.
    images = tf.constant(data.train_images)
    labels = tf.constant(data.train_labels)

    def order_of_epoch(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(size), seed=[tf.constant(seed, tf.int64), epoch]
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    def gather(indices):
        batch = tf.gather(images, indices)
        return data.normalise(batch), tf.gather(labels, indices)

    batches = (
        tf.data.Dataset.range(first_epoch, epochs)
        .flat_map(order_of_epoch)
        .map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    return batches, -(-size // batch_size)


def test_batches(data):
    """Batches of the test images, in order."""
    return (
        tf.data.Dataset.from_tensor_slices((data.test_images, data.test_labels))
        .batch(EVALUATION_BATCH_SIZE)
        .map(lambda images, labels: (data.normalise(images), labels))
        .prefetch(tf.data.AUTOTUNE)
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
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataUnavailable(
            f"{name} is read by tensorflow-datasets, which is not installed "
            f"({error}): `pip install tensorflow-datasets importlib_resources`."
        ) from error

    # Damaged files end in whatever the library that parses them raises.
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        prepared = builder.is_prepared()
    except Exception as error:
        raise _unreadable(name, data_dir, error) from error
    if not prepared:
        _download(builder)
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
        raise _unreadable(name, builder.data_path, error) from error


def _unreadable(name, folder, error):
    return DataUnavailable(
        f"{name} cannot be read from "
        f"{folder or 'the default folder of tensorflow-datasets'} "
        f"({_cause(error)})."
    )


def _cause(error):
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _download(builder):
    import requests

    # `data_path` is that of one version of one data set.
    folder = builder.data_path.parent.parent
    where = f"{builder.name} is not prepared in {folder}"
    # tensorflow-datasets itself retries for minutes where there is no network.
    for url in builder.url_infos:
        host = urllib.parse.urlsplit(url).netloc
        try:
            requests.head(url, timeout=PROBE_SECONDS).raise_for_status()
        except requests.RequestException as error:
            raise DataUnavailable(
                f"{where}, and {host} cannot be reached "
                f"({type(error).__name__})."
            ) from error
    print(f"{where}: downloading it.", flush=True)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise DataUnavailable(
            f"{where}, and its download failed ({_cause(error)})."
        ) from error
