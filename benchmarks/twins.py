"""Trains ResNet-20 and its CNN twin in turns, and lets both predict.

    python benchmarks/twins.py

prints images a second of both, by `model.fit` and `model.predict` on random
images in memory, and writes them to `results/speed/twins.json`.
"""

import argparse
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import conv2d  # noqa: E402
import keras  # noqa: E402
import measuring  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402

import keras_adder  # noqa: E402
from keras_adder.applications import ResNet20  # noqa: E402

# Training and inference of the adder network over its twin's, at least.
GOAL = 0.95


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("results/speed")
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--steps", type=int, default=8, help="of each twin in a round"
    )
    parser.add_argument("--isa", choices=conv2d.ISAS, help="as in conv2d.py")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny batches; figures mean nothing",
    )
    args = parser.parse_args()
    conv2d.limit_isa(args.isa)
    if args.quick:
        args.batch_size, args.rounds, args.steps = 4, 1, 3

    results = measuring.circumstances(measuring.cores(), args.quick)
    twins = {
        "adder": ResNet20(adder=True),
        "cnn": ResNet20(adder=False),
    }
    for twin in twins.values():
        # As SGD for all but adder filters, of which the CNN has none.
        twin.compile(
            keras_adder.ALR(0.1, momentum=0.9, weight_decay=5e-4),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    speeds = measure(twins, args.batch_size, args.steps, args.rounds)
    results["load"].append(measuring.load())
    results |= {
        "model": "ResNet-20",
        "batch_size": args.batch_size,
        "speeds": speeds,
        "ratios": {
            what: found["adder"] / found["cnn"]
            for what, found in speeds.items()
        },
    }
    print("".join(f"- {line}\n" for line in report.machine_lines(results)))
    print(markdown(results), end="")
    name = f"twins-{args.isa}.json" if args.isa else "twins.json"
    report.write_json(args.output / name, results)


def markdown(results):
    rows = [
        [
            what,
            *(f"{found[twin]:.0f}" for twin in ("adder", "cnn")),
            report.number(results["ratios"][what]),
            report.number(GOAL),
        ]
        for what, found in results["speeds"].items()
    ]
    header = [f"{results['model']}, images/s", "adder", "CNN twin", "ratio"]
    return report.table(header + ["goal"], rows)


def measure(twins, batch_size, steps, rounds):
    """Images a second of each twin: medians over all steps of all rounds.

    A round is some steps of one twin, then of the other. The first step of each
    (and the first round, in which functions are traced) does not count.
    """
    generator = np.random.default_rng(0)
    count = batch_size * (steps + 1)
    images = generator.standard_normal((count, 32, 32, 3), dtype=np.float32)
    labels = generator.integers(0, 10, count)
    seconds = {
        what: {name: [] for name in twins} for what in ("training", "inference")
    }
    for index in range(rounds + 1):
        for name, twin in twins.items():
            clock = Clock()
            twin.fit(images, labels, batch_size, verbose=0, callbacks=[clock])
            if index:
                seconds["training"][name] += clock.steps()
        for name, twin in twins.items():
            clock = Clock()
            twin.predict(images, batch_size, verbose=0, callbacks=[clock])
            if index:
                seconds["inference"][name] += clock.steps()
    return {
        what: {
            name: batch_size / statistics.median(steps)
            for name, steps in found.items()
        }
        for what, found in seconds.items()
    }


class Clock(keras.callbacks.Callback):
    """Notes when each step ends."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def steps(self):
        """Seconds of every step but the first."""
        return np.diff(self.ends).tolist()

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())

    on_predict_batch_end = on_train_batch_end


if __name__ == "__main__":
    main()
