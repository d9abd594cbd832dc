import pytest
import summarize_runs

RESULT = {
    "command": "python examples/train_mnist.py --seed 1",
    "data": "mnist",
    "network": "adder",
    "filter_gradient": "full_precision",
    "optimizer": "alr",
    "eta": 0.2,
    "ema": None,
    "mixed_precision": False,
    "strategy": None,
    "epochs": 50,
    "batch_size": 256,
    "seed": 1,
    "test_accuracy": 0.99,
    "test_loss": 0.1,
    "seconds": 60.0,
    "threads": 2,
    "versions": {"keras": "3.15.1"},
}


def test_seeds_make_a_row():
    rows = summarize_runs.summarise(
        [
            RESULT | {"seed": 2, "test_accuracy": 0.994, "seconds": 120.0},
            RESULT,
            RESULT | {"seed": 3, "test_accuracy": 0.992, "test_loss": 0.2},
            RESULT | {"network": "cnn"},
            RESULT | {"optimizer": "ilr", "filter_gradient": "sign"},
            RESULT | {"model": "resnet20", "eta": 0.5},
        ]
    )
    assert [row["model"] for row in rows] == [
        "AdderNet",
        "CNN",
        "AdderNet, ILR, sign gradient",
        "resnet20, AdderNet, eta 0.5",
    ]
    row = rows[0]
    assert row["seeds"] == [1, 2, 3]
    assert row["test_accuracies"] == [0.99, 0.994, 0.992]
    assert row["mean"] == pytest.approx(0.992)
    assert row["std"] == pytest.approx(0.002)
    assert row["mean_seconds"] == 80
    assert rows[1]["std"] is None


def test_the_deviation_is_rounded_once():
    rows = summarize_runs.summarise(
        [
            RESULT | {"seed": seed, "test_accuracy": accuracy}
            for seed, accuracy in enumerate((0.9929, 0.9945, 0.9932))
        ]
    )
    # It is 0.08505.
    assert "| 99.35 ± 0.09 |" in summarize_runs.markdown(rows)


def test_table():
    rows = summarize_runs.summarise(
        [RESULT, RESULT | {"seed": 2, "test_accuracy": 0.994}]
    )
    line = summarize_runs.markdown(rows).splitlines()[2]
    assert line == (
        "| mnist | AdderNet | 50 | 256 | 99.20 ± 0.28 "
        "| 1: 99.00, 2: 99.40 | 1.0 |"
    )
