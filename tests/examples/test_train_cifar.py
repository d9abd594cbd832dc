"""Runs the example on a few images that are prepared as CIFAR-10 is."""

import keras
import numpy as np
import pytest
import train_cifar

from keras_adder import applications

from training import loop
from training import runs
from training import script


def train(output, prepared_data, *flags):
    train_cifar.main(
        [
            *("--epochs=2", "--batch-size=20", "--verbose=0"),
            f"--data-dir={prepared_data}",
            f"--output={output}",
            *flags,
        ]
    )


@pytest.fixture(scope="module")
def trained(prepared_data, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    train(output, prepared_data)
    return output


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(trained):
    assert (trained / "saved_model" / "saved_model.pb").exists()
    results = runs.read_settings(trained / "results.json")
    assert results["data"] == "cifar10"
    assert results["model"] == "resnet20"
    assert results["network"] == "adder"
    assert (results["training_images"], results["test_images"]) == (60, 20)
    assert results["parameters"] == applications.ResNet20().count_params()
    served = results["served_without_keras_adder"]
    assert served["keras_adder_imported"] is False
    assert served["max_difference"] <= served["tolerance"]
    history = runs.read_history(trained / "history.csv")
    assert [row["epoch"] for row in history] == [1, 2]
    np.testing.assert_allclose(
        results["test_accuracy"], history[-1]["val_accuracy"], atol=1e-6
    )
    np.testing.assert_allclose(
        results["test_loss"], history[-1]["val_loss"], rtol=1e-5
    )


@pytest.mark.slow
def test_an_interrupted_run_resumes(
    trained, prepared_data, tmp_path, interrupted_in_second_epoch, monkeypatch
):
    with interrupted_in_second_epoch():
        train(tmp_path, prepared_data)
    assert len(runs.read_history(tmp_path / "history.csv")) == 1
    # What it does was tried with the other run.
    monkeypatch.setattr(script, "finish", lambda *args: None)
    train(tmp_path, prepared_data)
    whole, resumed = (
        keras.saving.load_model(folder / "checkpoints" / "epoch-0002.keras")
        for folder in (trained, tmp_path)
    )
    # What TensorFlow's own operations sum on several threads may differ in
    # the last bits; the images of an epoch would differ in the first.
    for one, other in zip(whole.weights, resumed.weights):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert int(resumed.optimizer.iterations) == 6


@pytest.mark.parametrize("model", train_cifar.MODELS)
def test_models(model):
    args = train_cifar.parse_arguments([f"--model={model}", "--network=cnn"])
    title, builder = train_cifar.MODELS[args.model]
    assert builder(adder=False).name == model
    assert title.lower().replace("-", "") == model.replace("_", "")
    assert loop.run_name(args) == f"cifar10-{model}-cnn-seed1"


def test_the_recipe_is_the_papers():
    args = train_cifar.parse_arguments([])
    assert (args.data, args.model, args.network) == (
        *("cifar10", "resnet20"),
        "adder",
    )
    assert (args.epochs, args.batch_size) == (400, 256)
    assert (args.learning_rate, args.weight_decay) == (0.1, 5e-4)
    assert (args.optimizer, args.eta) == ("alr", 0.2)
    assert (args.ema, args.mixed_precision, args.strategy) == (
        *(None, False),
        None,
    )


def test_unprepared_data_are_told_in_one_line(tmp_path, monkeypatch, capsys):
    requests = pytest.importorskip("requests")

    def refuse(*args, **kwargs):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", refuse)
    monkeypatch.setattr("sys.argv", ["train_cifar.py"])
    with pytest.raises(SystemExit) as raised:
        train_cifar.script.run(
            lambda: train_cifar.main([f"--data-dir={tmp_path}"])
        )
    message = str(raised.value)
    assert message.startswith("train_cifar.py: cifar10 is not prepared in ")
    assert message.endswith(
        "Pass --data-dir with a folder where it is prepared."
    )
