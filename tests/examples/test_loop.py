import argparse
import dataclasses

import keras
import numpy as np
import pytest

import keras_adder
from keras_adder.applications import LeNet5

from training import callbacks
from training import data as data_lib
from training import loop
from training import runs
from training import script


def arguments(*flags, models=()):
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    loop.add_arguments(
        parser,
        models=models,
        epochs=50,
        batch_size=256,
        learning_rate=0.1,
        weight_decay=5e-4,
    )
    return parser.parse_args(flags)


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
    plain = loop.make_optimizer(arguments(), nesterov=False)
    assert plain.get_config()["nesterov"] is False
    if name == "alr":
        assert config["eta"] == 0.3
    else:
        assert config["factor"] == {"ilr": 100, "sgd": 1}[name]


def test_filter_gradient_reaches_every_adder_layer():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras_adder.AdderConv2D(2, 3),
            keras_adder.AdderDepthwiseConv2D(3),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
            keras_adder.AdderDense(2),
        ]
    )
    loop.set_filter_gradient(model, "sign")
    for index in (0, 1, 4):
        assert model.layers[index].filter_gradient == "sign"
    assert model.layers[4].get_config()["filter_gradient"] == "sign"
    assert not hasattr(model.layers[3], "filter_gradient")


def test_names_tell_runs_apart():
    names = {
        loop.run_name(arguments(*flags))
        for flags in (
            [],
            ["--network=cnn"],
            ["--network=bnn"],
            ["--seed=2"],
            ["--optimizer=ilr"],
            ["--filter-gradient=sign"],
            ["--optimizer=sgd", "--filter-gradient=sign"],
            ["--ema"],
            ["--mixed-precision"],
        )
    }
    assert len(names) == 9
    assert loop.run_name(arguments()) == "digits-adder-seed1"
    args = arguments("--model=vgg_small", models=("resnet20", "vgg_small"))
    assert loop.run_name(args) == "digits-vgg_small-adder-seed1"


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
        ("--ema=1", "must be a number between 0 and 1, got 1"),
        ("--ema=x", "must be a number between 0 and 1, got x"),
    ],
)
def test_flags_are_checked(flag, message, capsys):
    with pytest.raises(SystemExit):
        arguments(flag)
    assert f"{flag.split('=')[0]}: {message}" in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(runs.RunError, match="file.* cannot be the folder"):
            loop.open_run(arguments(f"--output={output}"))


def test_settings_that_are_damaged_are_refused(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(runs.RunError, match="cannot be read.*--restart"):
        loop.open_run(arguments(f"--output={tmp_path}"))


def test_the_folder_is_named_after_the_data_at_hand(tmp_path):
    args = arguments(f"--runs={tmp_path}", "--data=auto")
    args.data = "mnist"  # What auto came to.
    loop.open_run(args)
    assert args.output == tmp_path / "mnist-adder-seed1"
    assert "runs" not in loop.settings(args)


def test_a_run_of_before_the_third_network_resumes(tmp_path):
    args = arguments(f"--output={tmp_path}", "--network=cnn")
    held = loop.settings(args) | {"adder": False}
    for name in ("network", *runs.FLAGS_OF_LATER):
        del held[name]
    runs.write_json(tmp_path / "settings.json", held)
    loop.open_run(args)
    with pytest.raises(
        loop.SettingsChanged, match=r"network=cnn \(now adder\)"
    ):
        loop.open_run(arguments(f"--output={tmp_path}"))


@pytest.fixture
def data():
    """A few of the digits."""
    digits = data_lib.load("digits", size=32)
    return dataclasses.replace(
        digits,
        train_images=digits.train_images[:400],
        train_labels=digits.train_labels[:400],
    )


def train(data, output, *flags):
    """Trains LeNet-5 by some flags; returns the model and the flags."""
    args = arguments(f"--output={output}", "--batch-size=32", *flags)
    loop.open_run(args)

    def build_model():
        return loop.build_model(LeNet5, args, data.classes)

    return loop.train(build_model, data, args), args


@pytest.mark.slow
def test_averaged_weights_replace_the_trained_ones(data, tmp_path):
    flags = ("--network=cnn", "--epochs=4", "--ema", "--verbose=0")
    model, args = train(data, tmp_path, *flags)
    optimizer = model.optimizer
    assert optimizer.use_ema and optimizer.ema_momentum == 0.99

    trained = keras.saving.load_model(
        tmp_path / "checkpoints" / "epoch-0004.keras"
    )
    moved = [
        not np.array_equal(one, other)
        for one, other in zip(trained.weights, model.weights)
    ]
    # Statistics of batch normalization too.
    assert all(moved)
    trained.optimizer.finalize_variable_values(trained.trainable_variables)
    for one, other in zip(trained.trainable_weights, model.trainable_weights):
        np.testing.assert_array_equal(one, other)
    accuracy = model.evaluate(data.test_batches(), verbose=0)[1]
    without = trained.evaluate(data.test_batches(), verbose=0)[1]
    assert accuracy > 0.85
    # Averaged weights with the statistics of others are no good network.
    assert accuracy > without + 0.2

    # A run that was killed when nothing but this was left to do.
    again, _ = train(data, tmp_path, *flags)
    for one, other in zip(again.weights, model.weights):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_mixed_precision_is_bfloat16_but_for_probabilities(data, tmp_path):
    model, args = train(
        data, tmp_path, "--mixed-precision", "--epochs=1", "--verbose=0"
    )
    assert keras.config.dtype_policy().name == "float32"
    for restored in (
        model,
        keras.saving.load_model(tmp_path / "checkpoints" / "epoch-0001.keras"),
    ):
        _, *layers, last = restored.layers
        assert {layer.compute_dtype for layer in layers} == {"bfloat16"}
        assert {weight.dtype for weight in restored.weights} == {"float32"}
        assert last.compute_dtype == "float32"
        images, _ = next(iter(data.test_batches()))
        probabilities = restored(images).numpy()
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    history = runs.read_history(tmp_path / "history.csv")
    assert history[0]["accuracy"] > 0.15

    script.finish(model, data, args, title="LeNet-5")
    assert runs.read_json(tmp_path / "results.json")["mixed_precision"]


@pytest.mark.slow
@pytest.mark.own_process
def test_mirrored_strategy_trains_resumes_and_exports(
    data, tmp_path, interrupted_in_second_epoch, monkeypatch
):
    replicas = []

    def count_replicas(self, batch, logs=None):
        replicas.append(self.model.distribute_strategy.num_replicas_in_sync)

    monkeypatch.setattr(
        callbacks.Checkpoints, "on_train_batch_end", count_replicas
    )
    flags = ("--strategy=mirrored", "--epochs=2", "--verbose=0")
    with interrupted_in_second_epoch():
        train(data, tmp_path, *flags)
    assert len(runs.read_history(tmp_path / "history.csv")) == 1
    model, args = train(data, tmp_path, *flags)
    assert replicas == [2] * 26
    assert model.optimizer.iterations.numpy() == 26
    history = runs.read_history(tmp_path / "history.csv")
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["accuracy"] > 0.5

    # Served by a process that has the exported statistics alone.
    script.finish(model, data, args, title="LeNet-5")
    assert (tmp_path / "results.json").exists()
