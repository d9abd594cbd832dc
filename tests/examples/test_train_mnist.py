"""Runs the examples themselves, on the embedded digits."""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import train_mnist  # imports keras_adder, which registers its classes

from training import processes
from training import runs

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
EPOCHS = 3


def command(script, *arguments):
    return [sys.executable, str(EXAMPLES / script), *map(str, arguments)]


def run(*words, cwd):
    return subprocess.run(
        command(*words), cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The AdderNet and its twin, one seed each, with all that follows."""
    cwd = tmp_path_factory.mktemp("reproduced")
    process = run(
        "reproduce_mnist.py",
        *("--data=digits", f"--epochs={EPOCHS}", "--seeds", 1, "--jobs", 2),
        cwd=cwd,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return cwd


@pytest.mark.parametrize("network", ["adder", "cnn"])
def test_a_run_leaves_what_it_promises(reproduced, network):
    folder = reproduced / "runs" / "digits" / f"{network}-seed1"
    for name in ("model.keras", "saved_model/saved_model.pb", "tensorboard"):
        assert (folder / name).exists(), name
    assert (folder / "checkpoints" / f"epoch-{EPOCHS:04d}.keras").exists()

    history = runs.read_history(folder / "history.csv")
    assert tuple(history[0]) == runs.HISTORY_FIELDS
    assert [row["epoch"] for row in history] == [1, 2, 3]
    np.testing.assert_allclose(
        [row["learning_rate"] for row in history], [0.1, 0.075, 0.025], 1e-5
    )
    assert history[-1]["loss"] < history[0]["loss"]

    results = runs.read_json(folder / "results.json")
    assert results["network"] == network
    assert results["seed"] == 1
    assert results["data"] == "digits"
    assert results["batch_size"] == 64
    assert results["test_accuracy"] > 0.5
    assert results["command"].startswith("python examples/train_mnist.py ")
    # Of the last epoch, not of the best.
    np.testing.assert_allclose(
        results["test_accuracy"], history[-1]["val_accuracy"], atol=1e-6
    )
    served = results["served_without_keras_adder"]
    assert served["keras_adder_imported"] is False
    assert served["images"] == 256
    assert served["max_difference"] <= served["tolerance"]

    log = (folder / "log.txt").read_text()
    assert "Epoch 3/3" in log
    assert f"test accuracy  {results['test_accuracy']:.2%} on digits" in log


def test_results_are_summarised_and_drawn(reproduced):
    results = reproduced / "results" / "digits"
    summary = runs.read_json(results / "summary.json")
    assert [row["model"] for row in summary] == ["AdderNet", "CNN"]
    assert "| digits | CNN | 3 |" in (results / "summary.md").read_text()
    assert (results / "curves.png").read_bytes().startswith(b"\x89PNG")
    kept = {path.name for path in (results / "adder-seed1").iterdir()}
    assert kept == {"history.csv", "results.json", "log.txt", "settings.json"}


def test_finished_runs_are_skipped(reproduced):
    process = run(
        "reproduce_mnist.py",
        *("--data=digits", f"--epochs={EPOCHS}", "--seeds", 1, "--jobs", 2),
        cwd=reproduced,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("finished before") == 2


def test_what_is_no_run_is_not_drawn(tmp_path):
    process = run("plot_history.py", ".", "--output=curves.png", cwd=tmp_path)
    assert process.returncode == 1
    assert "no settings.json" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(reproduced, tmp_path):
    output = tmp_path / "killed"
    words = (
        "train_mnist.py",
        *("--data=digits", f"--epochs={EPOCHS}", "--seed=1", "--threads=1"),
        f"--output={output}",
    )
    process = subprocess.Popen(
        command(*words), cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not list(output.glob("checkpoints/epoch-*.keras")):
            assert process.poll() is None, "it ended without a checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (output / "results.json").exists()
    assert len(runs.read_history(output / "history.csv")) < EPOCHS

    resumed = run(*words, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch" in resumed.stdout

    whole = reproduced / "runs" / "digits" / "adder-seed1"
    models = [
        keras.saving.load_model(folder / "model.keras")
        for folder in (whole, output)
    ]
    for variables in (
        [model.weights for model in models],
        [model.optimizer.variables for model in models],
    ):
        assert len(variables[0]) == len(variables[1]) > 0
        for one, other in zip(*variables):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
    histories = [
        [
            {name: row[name] for name in row if name != "seconds"}
            for row in runs.read_history(folder / "history.csv")
        ]
        for folder in (whole, output)
    ]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_divergence_is_told_and_not_kept(tmp_path):
    words = ("--data=digits", "--epochs=2", "--learning-rate=1e30")
    process = run("train_mnist.py", *words, "--output=run", cwd=tmp_path)
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith("train_mnist.py: The training diverged: loss is ")
    assert "--learning-rate" in last
    assert "Traceback" not in process.stderr
    assert "Epoch 2/2" not in process.stdout
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert kept <= {"settings.json", "tensorboard"}


def test_the_log_of_a_run_grows_while_it_trains(tmp_path, monkeypatch):
    (tmp_path / "train_mnist.py").write_text(
        "import sys\nprint('Epoch 1')\n"
        f"sys.exit('Epoch 1' not in open({str(tmp_path / 'log.txt')!r}).read())"
    )
    monkeypatch.setattr(processes, "EXAMPLES", tmp_path)
    args = argparse.Namespace(data="digits", epochs=1, data_dir=None, jobs=1)
    training = processes.Training("train_mnist.py", tmp_path, ())
    processes.train([training], args)


@pytest.mark.slow
def test_a_difference_is_a_failure(reproduced, tmp_path):
    folder = reproduced / "runs" / "digits" / "cnn-seed1"
    with np.load(folder / "serving_check.npz") as file:
        np.savez(
            tmp_path / "wrong.npz",
            images=file["images"],
            predictions=file["predictions"][::-1],
        )
    process = run(
        "serve_saved_model.py",
        *(folder / "saved_model", f"--images={tmp_path / 'wrong.npz'}"),
        cwd=tmp_path,
    )
    assert process.returncode == 1
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["bitwise_equal"] is False
    assert report["max_difference"] > report["tolerance"]


def test_the_recipe_is_the_papers():
    args = train_mnist.parse_arguments([])
    assert args.network == "adder"
    assert (args.epochs, args.learning_rate) == (50, 0.1)
    assert (args.weight_decay, args.eta) == (5e-4, 0.2)
    assert (args.optimizer, args.filter_gradient) == ("alr", "full_precision")
    assert train_mnist.BATCH_SIZE == 256


def test_unknown_data_is_refused(capsys):
    with pytest.raises(SystemExit):
        train_mnist.parse_arguments(["--data=minst"])
    assert "invalid choice: 'minst'" in capsys.readouterr().err
