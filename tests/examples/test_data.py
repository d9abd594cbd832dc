import dataclasses

import numpy as np
import pytest

from keras_adder.applications import resnet_cifar

pytest.importorskip("sklearn")
requests = pytest.importorskip("requests")
pytest.importorskip("tensorflow_datasets")

from training import augmentation  # noqa: E402
from training import data as data_lib  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    return data_lib.load("digits", size=32)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("no network in this test")

    monkeypatch.setattr(requests, "head", refuse)


def epochs_of(data, seed, first_epoch, epochs, batch_size=100):
    """Labels and first pixels of all batches, and the steps of an epoch."""
    batches, steps = data.training_batches(
        batch_size, seed, first_epoch, epochs
    )
    return [
        (images.numpy(), labels.numpy()) for images, labels in batches
    ], steps


def test_digits(digits):
    assert digits.train_images.shape == (1437, 32, 32, 1)
    assert digits.test_images.shape == (360, 32, 32, 1)
    assert digits.train_images.dtype == np.uint8
    assert digits.train_images.max() == 255
    assert digits.classes == 10
    assert np.bincount(digits.test_labels).min() >= 30
    again = data_lib.load("digits", size=32)
    np.testing.assert_array_equal(again.test_images, digits.test_images)
    normalised = digits.normalise(digits.train_images).numpy()
    assert abs(normalised.mean()) < 1e-4
    assert abs(normalised.std() - 1) < 1e-4


def test_resizing_enlarges_bilinearly():
    image = np.array([[0, 100], [200, 40]], "uint8")[None, ..., None]
    resized = data_lib.resize(image, 4)[0, ..., 0]
    # Corners stay; between them samples lie at 1/4 and 3/4 of the way.
    np.testing.assert_array_equal(resized[0], [0, 25, 75, 100])
    np.testing.assert_array_equal(resized[:, 0], [0, 50, 150, 200])
    assert resized.dtype == np.uint8


def test_each_epoch_takes_every_image_once(digits):
    batches, steps = epochs_of(digits, seed=1, first_epoch=0, epochs=2)
    assert steps == 15
    assert len(batches) == 2 * steps
    orders = []
    expected = digits.normalise(digits.train_images).numpy()
    for epoch in range(2):
        images = np.concatenate(
            [batch[0] for batch in batches[epoch * steps : (epoch + 1) * steps]]
        )
        assert images.shape == expected.shape
        orders.append(images)
        np.testing.assert_array_equal(
            np.sort(images.sum(axis=(1, 2, 3))),
            np.sort(expected.sum(axis=(1, 2, 3))),
        )
    assert not np.array_equal(*orders)


def test_the_order_depends_on_seed_and_epoch_alone(digits):
    whole, steps = epochs_of(digits, seed=1, first_epoch=0, epochs=3)
    resumed, _ = epochs_of(digits, seed=1, first_epoch=2, epochs=3)
    assert len(resumed) == steps
    for (images, labels), (images_again, labels_again) in zip(
        whole[2 * steps :], resumed
    ):
        np.testing.assert_array_equal(images, images_again)
        np.testing.assert_array_equal(labels, labels_again)
    other, _ = epochs_of(digits, seed=2, first_epoch=2, epochs=3)
    assert not np.array_equal(other[0][0], resumed[0][0])


def test_augmentation_depends_on_seed_epoch_and_step(digits):
    augmented = dataclasses.replace(digits, augment=augmentation.crop_and_flip)
    whole, steps = epochs_of(augmented, seed=1, first_epoch=0, epochs=2)
    plain, _ = epochs_of(digits, seed=1, first_epoch=0, epochs=2)
    resumed, _ = epochs_of(augmented, seed=1, first_epoch=1, epochs=2)
    for (images, labels), (others, other_labels) in zip(
        whole[steps:], resumed, strict=True
    ):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)
    for (images, labels), (others, other_labels) in zip(whole, plain):
        assert not np.array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)
    # Black, which is not 0 once normalised.
    assert whole[0][0].min() == pytest.approx(plain[0][0].min())


def test_cifar_is_normalised_as_the_applications_do(prepared_data):
    data = data_lib.load("cifar10", prepared_data)
    assert data.describe() == (
        "cifar10: 60 training and 20 test images, 32x32x3, 10 classes"
    )
    np.testing.assert_allclose(
        data.normalise(data.train_images),
        resnet_cifar.preprocess_input(data.train_images),
        rtol=1e-5,
        atol=1e-6,
    )


def test_auto_falls_back_to_the_digits(tmp_path, no_network, capsys):
    data = data_lib.load("auto", tmp_path)
    assert data.name == "digits"
    printed = capsys.readouterr().out
    assert "mnist is not prepared" in printed
    assert "scikit-learn" in printed
