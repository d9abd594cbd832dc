"""Lets tests import what the examples share, and makes small data sets."""

import contextlib
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from training import callbacks  # noqa: E402


@pytest.fixture
def interrupted_in_second_epoch(monkeypatch):
    """A context in which training is interrupted, as by Ctrl-C."""

    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(callbacks.Checkpoints, "on_epoch_begin", interrupt)
            yield

    return context


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Images of three classes that differ in colour, as files."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    for split, images in (("train", 11), ("val", 4)):
        for label in range(3):
            path = folder / split / f"class{label}"
            path.mkdir(parents=True)
            for index in range(images):
                _write_image(path, label, index)
    return folder


def _write_image(folder, label, index):
    generator = np.random.default_rng(100 * label + index)
    image = generator.integers(0, 60, (40 + index, 64, 3), "uint8")
    image[..., label] += 150
    if index % 2:
        contents = tf.io.encode_png(image)
        path = folder / f"{index}.PNG"
    else:
        contents = tf.io.encode_jpeg(image, quality=95)
        path = folder / f"{index}.JPEG"
    path.write_bytes(contents.numpy())


@pytest.fixture(scope="session")
def prepared_data(tmp_path_factory):
    """A folder of data sets as tensorflow-datasets prepares them.

    They have the names and features of the real ones, and few images.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    features = tfds.features

    def prepare(name, version, key, image, labels, splits, shape):
        generator = np.random.default_rng(0)
        datasets = {}
        for split, size in splits.items():
            images = generator.integers(0, 256, (size, *shape), "uint8")
            datasets[split] = tf.data.Dataset.from_tensor_slices(
                {
                    key: [f"{split}-{index}" for index in range(size)],
                    "image": images,
                    "label": np.arange(size) % labels,
                }
            )
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            data_dir=data_dir,
            features=features.FeaturesDict(
                {
                    key: features.Text(),
                    "image": image,
                    "label": features.ClassLabel(num_classes=labels),
                }
            ),
            split_datasets=datasets,
            disable_shuffling=True,
        )

    prepare(
        "cifar10",
        "3.0.2",
        key="id",
        image=features.Image(shape=(32, 32, 3)),
        labels=10,
        splits={"train": 60, "test": 20},
        shape=(32, 32, 3),
    )
    prepare(
        "imagenet2012",
        "5.1.0",
        key="file_name",
        image=features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        labels=1000,
        splits={"train": 30, "validation": 10},
        shape=(40, 50, 3),
    )
    return data_dir
