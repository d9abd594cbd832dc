import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("sklearn")
requests = pytest.importorskip("requests")
pytest.importorskip("tensorflow_datasets")

from training import data as data_lib  # noqa: E402
from training import prepared  # noqa: E402

EXAMPLES = pathlib.Path(data_lib.__file__).parents[1]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("no network in this test")

    monkeypatch.setattr(requests, "head", refuse)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_unavailable_data_is_one_plain_line(name, tmp_path, no_network):
    with pytest.raises(prepared.DataUnavailable) as raised:
        data_lib.load(name, tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    assert f"{name} is not prepared in {tmp_path}, and " in message
    assert "cannot be reached (ConnectionError)" in message


@pytest.mark.slow
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
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(
        prepared.DataUnavailable, match="download failed.*OSError: disk full"
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
        with pytest.raises(prepared.DataUnavailable) as raised:
            data_lib.load(name, tmp_path)
        message = str(raised.value)
        assert "\n" not in message
    assert f"mnist cannot be read from {tmp_path} (ParseError: " in message
