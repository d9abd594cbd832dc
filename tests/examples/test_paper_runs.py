"""Studies of the paper from their trainings to their pictures, on digits."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from paper import gradients  # noqa: E402
from paper import study  # noqa: E402
from training import runs  # noqa: E402

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def run(*words, cwd):
    command = [sys.executable, str(EXAMPLES / words[0]), *words[1:]]
    process = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
def test_filters_and_weights_share_their_runs(tmp_path):
    printed = run(
        "paper/reproduce.py",
        *("--fast", "--epochs=1", "--jobs=2", "filters", "weights"),
        cwd=tmp_path,
    )
    folder = tmp_path / "runs/digits-1epochs"
    assert sorted(path.name for path in folder.iterdir()) == [
        "adder-seed1",
        "cnn-seed1",
    ]
    assert printed.count(": training, see") == 2
    assert printed.count(": finished before") == 2

    results = tmp_path / "runs/paper-fast"
    assert sorted(path.name for path in results.iterdir()) == [
        "filters.json",
        "filters.png",
        "weights.json",
        "weights.png",
    ]
    drawn = runs.read_json(results / "filters.json")
    assert np.shape(drawn["adder"]["filters"]) == (6, 5, 5)
    assert drawn["command"].startswith("python examples/paper/filters.py")
    fitted = runs.read_json(results / "weights.json")
    assert [row["weights"] for row in fitted["cnn"]] == [
        150,
        2400,
        48_000,
        10_080,
        840,
    ]
    # Adder filters start from N(0, 1), and an epoch does not change that.
    fc1 = fitted["adder"][2]
    assert fc1["gauss"]["log_likelihood"] > fc1["laplace"]["log_likelihood"]
    # The picture, and not an empty sheet.
    assert (results / "weights.png").stat().st_size > 30_000


@pytest.mark.slow
def test_a_variant_is_trained_and_loaded(tmp_path):
    folder = tmp_path / "run"
    words = (
        "paper/train_variant.py",
        *("--data=digits", "--epochs=1", "--model=lenet5", "--no-relu"),
        f"--output={folder}",
        "--verbose=2",
    )
    run(*words, cwd=tmp_path)
    found = runs.read_settings(folder / runs.RESULTS)
    assert found["model"] == "lenet5"
    assert (found["relu"], found["batch_normalization"]) == (False, True)
    model = study.load_model(study.Training("", folder, ()))
    names = [layer.name for layer in model.layers]
    assert "conv1_bn" in names
    assert "conv1_relu" not in names


@pytest.mark.slow
def test_gradients_are_those_of_the_paper(tmp_path, monkeypatch):
    """A CNN's are orders of magnitude greater at the first step."""
    monkeypatch.chdir(tmp_path)
    gradients.main(["--fast"])
    results = tmp_path / "runs/paper-fast"
    found = runs.read_json(results / "gradients.json")
    assert found["data"] == "digits"
    for adder, cnn in zip(
        found["adder"]["first_step"], found["cnn"]["first_step"]
    ):
        assert cnn > 20 * adder > 0
    with open(results / "gradients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * found["steps"]
    np.testing.assert_allclose(
        float(rows[0]["fc1_dense"]),
        found["adder"]["first_step"][2],
        rtol=1e-5,
    )
    assert (results / "gradients.png").exists()
