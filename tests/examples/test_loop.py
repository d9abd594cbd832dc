import argparse
import json
import zipfile

import keras
import numpy as np
import pytest

import keras_adder
from training import loop
from training import runs


def arguments(*flags):
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    loop.add_arguments(
        parser,
        epochs=50,
        batch_size=256,
        learning_rate=0.1,
        weight_decay=5e-4,
    )
    return parser.parse_args(flags)


def row(epoch):
    return dict.fromkeys(runs.HISTORY_FIELDS, 0.5) | {"epoch": epoch}


def test_the_schedule_is_the_authors():
    schedule = loop.half_cosine(0.1, 50)
    assert schedule(0, None) == 0.1
    for epoch in range(50):
        np.testing.assert_allclose(
            schedule(epoch, None), 0.05 * (1 + np.cos(np.pi * epoch / 50))
        )


@pytest.mark.parametrize(
    "name, kind", [("alr", "ALR"), ("ilr", "ILR"), ("sgd", "ILR")]
)
def test_optimizers_share_the_recipe(name, kind):
    optimizer = loop.make_optimizer(
        arguments("--optimizer", name, "--eta", "0.3")
    )
    assert type(optimizer) is getattr(keras_adder, kind)
    config = optimizer.get_config()
    assert config["momentum"] == 0.9
    assert config["nesterov"] is True
    assert config["weight_decay"] == 5e-4
    assert config["use_ema"] is False
    if name == "alr":
        assert config["eta"] == 0.3
    else:
        assert config["factor"] == {"ilr": 100, "sgd": 1}[name]


def test_filter_gradient_reaches_every_adder_layer():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras_adder.AdderConv2D(2, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
            keras_adder.AdderDense(2),
        ]
    )
    loop.set_filter_gradient(model, "sign")
    assert model.layers[0].filter_gradient == "sign"
    assert model.layers[3].filter_gradient == "sign"
    assert model.layers[3].get_config()["filter_gradient"] == "sign"
    assert not hasattr(model.layers[2], "filter_gradient")


def test_names_tell_runs_apart():
    names = {
        loop.run_name(arguments(*flags))
        for flags in (
            [],
            ["--no-adder"],
            ["--seed=2"],
            ["--optimizer=ilr"],
            ["--filter-gradient=sign"],
            ["--optimizer=sgd", "--filter-gradient=sign"],
        )
    }
    assert len(names) == 6
    assert loop.run_name(arguments()) == "digits-adder-seed1"


def test_other_settings_are_refused(tmp_path):
    output = f"--output={tmp_path}"
    loop.open_run(arguments(output))
    assert not list(tmp_path.iterdir())
    loop.start_run(arguments(output))
    loop.open_run(arguments(output, "--verbose=0", "--threads=1"))
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "epoch-0001.keras"
    checkpoint.touch()
    with pytest.raises(
        loop.SettingsChanged, match=r"seed=1 \(now 2\).*--restart"
    ):
        loop.open_run(arguments(output, "--seed=2"))
    assert checkpoint.exists()
    restarted = arguments(output, "--seed=2", "--restart")
    loop.open_run(restarted)
    assert checkpoint.exists()
    loop.start_run(restarted)
    assert not checkpoint.exists()
    assert runs.read_json(tmp_path / "settings.json")["seed"] == 2


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--epochs=0", "must be at least 1, got 0"),
        ("--batch-size=-1", "must be at least 1, got -1"),
        ("--batch-size=1.5", "must be an integer, got 1.5"),
        ("--threads=0", "must be at least 1"),
        ("--seed=-1", "must be at least 0, got -1"),
        ("--seed=5000000000", "must be at most 4294967295, got 5000000000"),
        ("--eta=-1", "must be a finite number > 0, got -1"),
        ("--eta=0", "must be a finite number > 0"),
        ("--eta=inf", "must be a finite number > 0, got inf"),
        ("--learning-rate=nan", "must be a finite number >= 0, got nan"),
        ("--learning-rate=-0.1", "must be a finite number >= 0"),
        ("--weight-decay=x", "must be a finite number >= 0, got x"),
    ],
)
def test_flags_are_checked(flag, message, capsys):
    with pytest.raises(SystemExit):
        arguments(flag)
    assert f"{flag.split('=')[0]}: {message}" in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(loop.RunError, match="file.* cannot be the folder"):
            loop.open_run(arguments(f"--output={output}"))


def test_settings_that_are_damaged_are_refused(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(loop.RunError, match="cannot be read.*--restart"):
        loop.open_run(arguments(f"--output={tmp_path}"))


def test_the_folder_is_named_after_the_data_at_hand(tmp_path):
    args = arguments(f"--runs={tmp_path}", "--data=auto")
    args.data = "mnist"  # What auto came to.
    loop.open_run(args)
    assert args.output == tmp_path / "mnist-adder-seed1"
    assert "runs" not in loop.settings(args)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "epoch-0001.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        loop.RunError, match=r"epoch-0001.*the file is damaged.*--restart"
    ) as raised:
        loop.Checkpoints(tmp_path).restore()
    assert "\n" not in str(raised.value)
    # Whole, and of something else.
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{")
    with pytest.raises(loop.RunError, match=r"\(\w+: .*--restart"):
        loop.Checkpoints(tmp_path).restore()


def test_the_log_drops_epochs_that_are_trained_again(tmp_path):
    path = tmp_path / "history.csv"
    runs.write_history(path, [row(1), row(2), row(3)])
    log = loop.EpochLog(path, first_epoch=1)
    log.on_epoch_begin(1)
    log.on_epoch_end(1, row(0) | {"loss": 0.25})
    history = runs.read_history(path)
    assert [line["epoch"] for line in history] == [1, 2]
    assert history[1]["loss"] == 0.25


def test_checkpoints_keep_the_latest(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras_adder.ALR(), "mse")
    model.optimizer.build(model.trainable_variables)
    checkpoints = loop.Checkpoints(tmp_path / "checkpoints")
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


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.json"
    runs.write_json(path, 1)
    with pytest.raises(ZeroDivisionError):
        with runs.replacing(path) as temporary:
            temporary.write_text("half")
            1 / 0
    assert json.loads(path.read_text()) == 1


def test_the_command_hides_where_data_lie(monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["train.py", "--data-dir", "/secret", "--data-dir=/too"]
    )
    assert runs.command_line() == (
        "python train.py --data-dir DATA_DIR --data-dir=DATA_DIR"
    )
