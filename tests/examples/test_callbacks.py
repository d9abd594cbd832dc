import zipfile

import keras
import numpy as np
import pytest

import keras_adder

from training import callbacks
from training import runs


def row(epoch):
    return dict.fromkeys(runs.HISTORY_FIELDS, 0.5) | {"epoch": epoch}


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "epoch-0001.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        runs.RunError, match=r"epoch-0001.*the file is damaged.*--restart"
    ) as raised:
        callbacks.Checkpoints(tmp_path).restore()
    assert "\n" not in str(raised.value)
    # Whole, and of something else.
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{")
    with pytest.raises(runs.RunError, match=r"\(\w+: .*--restart"):
        callbacks.Checkpoints(tmp_path).restore()


def test_the_log_drops_epochs_that_are_trained_again(tmp_path):
    path = tmp_path / "history.csv"
    runs.write_history(path, [row(1), row(2), row(3)])
    log = callbacks.EpochLog(path, first_epoch=1)
    log.on_epoch_begin(1)
    log.on_epoch_end(1, row(0) | {"loss": 0.25})
    history = runs.read_history(path)
    assert [line["epoch"] for line in history] == [1, 2]
    assert history[1]["loss"] == 0.25


def test_checkpoints_keep_the_latest(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras_adder.ALR(), "mse")
    model.optimizer.build(model.trainable_variables)
    checkpoints = callbacks.Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.restore() == (0, None)
    checkpoints.set_model(model)
    for epoch in range(3):
        checkpoints.on_epoch_end(epoch)
    # Killed while it was writing another one.
    (tmp_path / "checkpoints" / ".partial-epoch-0004.keras").touch()
    epoch, restored = checkpoints.restore()
    assert epoch == 3
    np.testing.assert_array_equal(
        restored.get_weights()[0], model.get_weights()[0]
    )
    assert len(list((tmp_path / "checkpoints").glob("epoch-*"))) == 1
