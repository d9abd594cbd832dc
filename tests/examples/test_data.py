import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")
requests = pytest.importorskip("requests")
pytest.importorskip("tensorflow_datasets")

from training import data as data_lib  # noqa: E402

EXAMPLES = pathlib.Path(data_lib.__file__).parents[1]


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
    batches, steps = data_lib.training_batches(
        data, batch_size, seed, first_epoch, epochs
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


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_unavailable_data_is_one_plain_line(name, tmp_path, no_network):
    with pytest.raises(data_lib.DataUnavailable) as raised:
        data_lib.load(name, tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    assert f"{name} is not prepared in {tmp_path}, and " in message
    assert "cannot be reached (ConnectionError)" in message


def test_the_script_offers_the_digits(tmp_path):
    # Nothing that could be reached: the port is never open.
    process = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "train_mnist.py"),
            *("--data=kmnist", f"--data-dir={tmp_path}"),
        ],
        env={**os.environ, "http_proxy": "http://127.0.0.1:1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith("train_mnist.py: kmnist is not prepared in ")
    assert "--data digits, which needs no download" in last
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "runs").exists()


def test_a_failed_download_says_so(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class Response:
        def raise_for_status(self):
            pass

    def fail(self, **kwargs):
        raise OSError("disk full\nmore of it")

    monkeypatch.setattr(requests, "head", lambda url, timeout: Response())
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", fail
    )
    with pytest.raises(
        data_lib.DataUnavailable, match="download failed.*OSError: disk full"
    ):
        data_lib.load("mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_damaged_data_are_unavailable(name, tmp_path, capsys):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{")
    if name == "auto":
        assert data_lib.load(name, tmp_path).name == "digits"
        message = capsys.readouterr().out
    else:
        with pytest.raises(data_lib.DataUnavailable) as raised:
            data_lib.load(name, tmp_path)
        message = str(raised.value)
        assert "\n" not in message
    assert f"mnist cannot be read from {tmp_path} (ParseError: " in message


def test_auto_falls_back_to_the_digits(tmp_path, no_network, capsys):
    data = data_lib.load("auto", tmp_path)
    assert data.name == "digits"
    printed = capsys.readouterr().out
    assert "mnist is not prepared" in printed
    assert "scikit-learn" in printed
