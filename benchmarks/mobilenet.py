"""MobileNetV2 as an AdderNet beside its CNN twin, at inference and in training.

    python benchmarks/mobilenet.py

times both networks at 224x224, and what `keras_adder.inference.optimize` makes
of the AdderNet, in floats and in integers, in turns in one process: batches of
16 and single images, and training steps of 16. Weights and images are random;
batch normalizations have the statistics of these images, so that values are as
large as those of a trained network.

Prints tables and writes them, the figures as JSON, to
`results/speed/mobilenet.*`.
"""

import argparse
import dataclasses
import functools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import calling  # noqa: E402
import conv2d  # noqa: E402
import keras  # noqa: E402
import measuring  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402

from keras_adder import applications  # noqa: E402
from keras_adder.inference import optimize  # noqa: E402

LABELS = {
    "cnn": "CNN, float32",
    "adder": "AdderNet, float32",
    "fused": "fused, float32",
    "int8": "fused, int8",
}

CALLS = {
    "on_batch": "predict_on_batch",
    "function": "tf.function",
    "training": "train_on_batch",
}

# What the time of inference over the CNN's should be at most, the first by the
# maker of the processor.
ADDER_GOALS = {"AMD": 1.1, "Intel": 1.5}
INT8_GOAL = 0.5

BATCH_SIZE = 16


def main():
    args = parse()
    conv2d.limit_isa(args.isa)
    results = measuring.circumstances(measuring.cores(), args.quick)
    report.warn_if_busy(results)
    keras.utils.set_random_seed(0)
    if args.quick:
        results["rows"] = measure(applications.LeNet5, (4, 1), 0)
    else:
        results["rows"] = measure(
            applications.MobileNetV2, (BATCH_SIZE, 1), args.seconds
        )
    results["load"].append(measuring.load())
    results["goals"] = goals(results["machine"]["processor"])
    text = markdown(results)
    print(text, end="")
    name = f"mobilenet-{args.isa}" if args.isa else "mobilenet"
    report.write(args.output, name, results, text)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("results/speed")
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        help="for each column of the table (default: %(default)s)",
    )
    parser.add_argument("--isa", choices=conv2d.ISAS, help="as in conv2d.py")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="LeNet-5 instead, whose figures mean nothing",
    )
    return parser.parse_args()


def measure(build, batch_sizes, seconds):
    """Rows, one a way of calling and batch size.

    Args:
        build: Function of `adder`, which returns a Keras model.
        batch_sizes: Integers; training is with the first.
        seconds: Of each row.
    """
    measuring.progress("networks")
    twins = {"cnn": build(adder=False), "adder": build(adder=True)}
    images = np.random.default_rng(0).standard_normal(
        (batch_sizes[0], *twins["cnn"].input_shape[1:]), np.float32
    )
    for twin in twins.values():
        take_statistics(twin, images)
    models = twins | {
        "fused": optimize(twins["adder"], "float32"),
        "int8": optimize(twins["adder"], "int8", images),
    }
    contenders = {n: calling.KerasContender(m) for n, m in models.items()}
    rows = []
    for batch_size in batch_sizes:
        for call in ("on_batch", "function"):
            measuring.progress(f"{CALLS[call]}, batch {batch_size}")
            batch = images[:batch_size]
            times = calling.time_one(contenders, call, batch, seconds)
            rows.append(row(call, batch_size, times))
    measuring.progress("training")
    times = time_training(twins, images, seconds)
    return [*rows, row("training", len(images), times)]


def take_statistics(model, images):
    """Gives batch normalizations the statistics of these images alone."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def time_training(twins, images, seconds):
    """A `Timing` of each twin's training step, in turns."""
    steps = {}
    for name, twin in twins.items():
        # So slow that weights stay what they are, within reason.
        twin.compile(
            keras.optimizers.SGD(1e-6, momentum=0.9),
            "sparse_categorical_crossentropy",
        )
        labels = np.arange(len(images))
        steps[name] = functools.partial(twin.train_on_batch, images, labels)
    return measuring.interleave(steps, seconds)


def goals(processor):
    """What ratios at inference should be at most, by the names of `LABELS`."""
    adder = measuring.of_maker(ADDER_GOALS, processor)
    return {"adder": adder, "int8": INT8_GOAL}


def row(call, batch_size, times):
    return {
        "call": call,
        "batch_size": batch_size,
        "milliseconds": {n: 1e3 * t.seconds for n, t in times.items()},
        "ratios": {
            n: t.seconds / times["cnn"].seconds for n, t in times.items()
        },
        "times": {n: dataclasses.asdict(t) for n, t in times.items()},
    }


def markdown(results):
    """The whole report."""
    parts = ["# MobileNetV2\n"]
    parts.append(
        "".join(f"- {line}\n" for line in report.machine_lines(results))
    )
    if report.busy(results):
        parts.append(
            "**The machine was busy with other work: trust no figure.**\n"
        )
    rows = results["rows"]
    columns = [f"{CALLS[r['call']]}, batch {r['batch_size']}" for r in rows]
    parts.append(report.table(["ms", *columns], lines(rows, "milliseconds", 1)))
    ratios = lines(rows, "ratios", 2)
    for line, name in zip(ratios, LABELS):
        line.append(report.number(results["goals"].get(name)))
    header = ["time over the CNN's", *columns, "goal at inference, at most"]
    parts.append(report.table(header, ratios))
    return "\n".join(parts)


def lines(rows, what, digits):
    """A line a network, of a cell for each row."""
    return [
        [label, *(report.number(row[what].get(name), digits) for row in rows)]
        for name, label in LABELS.items()
    ]


if __name__ == "__main__":
    main()
