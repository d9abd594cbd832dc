import shutil

import numpy as np
import pytest

from keras_adder.applications import resnet

from training import runs
from training import streams


def batches_of(stream, seed=1, first_epoch=0, epochs=2, batch_size=8):
    batches, steps = stream.training_batches(
        batch_size, seed, first_epoch, epochs
    )
    batches = [(images.numpy(), labels.numpy()) for images, labels in batches]
    assert len(batches) == steps * (epochs - first_epoch)
    return batches, steps


@pytest.fixture(params=["folder", "tfds"])
def stream(request):
    if request.param == "folder":
        folder = request.getfixturevalue("image_folder")
        return streams.from_folder(folder, image_size=16)
    data_dir = request.getfixturevalue("prepared_data")
    return streams.from_tfds("imagenet2012", data_dir, image_size=16)


def test_each_epoch_takes_every_image_once(stream):
    batches, steps = batches_of(stream)
    labels = [
        np.concatenate([labels for _, labels in epoch])
        for epoch in (batches[:steps], batches[steps:])
    ]
    assert len(labels[0]) == stream.train_size
    np.testing.assert_array_equal(np.sort(labels[0]), np.sort(labels[1]))
    if stream.classes == 3:
        np.testing.assert_array_equal(np.bincount(labels[0]), [11] * 3)
    else:
        np.testing.assert_array_equal(np.sort(labels[0]), range(30))
    assert not np.array_equal(*labels)
    for images, _ in batches:
        assert images.shape[1:] == (16, 16, 3)
        assert images.dtype == np.float32


def test_batches_depend_on_seed_and_epoch_alone(stream):
    whole, steps = batches_of(stream)
    resumed, _ = batches_of(stream, first_epoch=1)
    for (images, labels), (others, other_labels) in zip(
        whole[steps:], resumed, strict=True
    ):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)
    other, _ = batches_of(stream, seed=2, first_epoch=1)
    assert not np.array_equal(other[0][0], resumed[0][0])


def test_labels_belong_to_their_images(image_folder):
    stream = streams.from_folder(image_folder, image_size=16)
    assert stream.name == "colours"
    assert stream.describe() == (
        "colours: 33 training and 12 test images, to 16x16x3, 3 classes"
    )
    batches, _ = batches_of(stream)
    tests = [(x.numpy(), y.numpy()) for x, y in stream.test_batches()]
    assert sum(len(labels) for _, labels in tests) == stream.test_size == 12
    for images, labels in batches + tests:
        np.testing.assert_array_equal(
            images.mean(axis=(1, 2)).argmax(-1), labels
        )


def test_images_are_normalised_as_the_applications_do():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3))
    images = images.astype("float32")
    np.testing.assert_allclose(
        streams.data_lib.normalise(images, streams.MEAN, streams.STD),
        resnet.preprocess_input(images.copy()),
        rtol=1e-5,
        atol=1e-5,
    )


def test_folders_that_are_none_of_images_are_refused(image_folder, tmp_path):
    with pytest.raises(runs.RunError, match=r"has no folder train\."):
        streams.from_folder(tmp_path / "nowhere", 16)
    (tmp_path / "train" / "class0").mkdir(parents=True)
    with pytest.raises(runs.RunError, match="no folder validation, nor val"):
        streams.from_folder(tmp_path, 16)
    shutil.copytree(image_folder / "val", tmp_path / "validation")
    with pytest.raises(runs.RunError, match="train has not: class1, class2"):
        streams.from_folder(tmp_path, 16)
    for name in ("class1", "class2"):
        (tmp_path / "train" / name).mkdir()
    with pytest.raises(runs.RunError, match=r"train has no .*\.jpeg"):
        streams.from_folder(tmp_path, 16)


def test_data_sets_without_validation_are_refused(prepared_data):
    with pytest.raises(runs.RunError, match="no split validation, but t"):
        streams.from_tfds("cifar10", prepared_data, 16)
