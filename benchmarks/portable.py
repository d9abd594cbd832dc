"""What it costs to do without this package's ops.

    python benchmarks/portable.py --data-dir DIR
    python benchmarks/portable.py --data-dir DIR --images 500   # a try

takes ResNet-20 on CIFAR-10 and LeNet-5-BN on MNIST with the weights that come
with the package, in floats and in int8, and what
`keras_adder.export.to_portable` makes of them. All test images are classified
by both: where classes differ, it says how far apart the two best of the logits
are. For the speed they take turns in one process, and so does LiteRT with the
portable network's builtin operations if ai-edge-litert is installed.

Prints tables and writes them, the figures as JSON, to
`results/speed/portable.*`. Data sets are those of the examples.
"""

import argparse
import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import calling  # noqa: E402
import inference  # noqa: E402
import keras  # noqa: E402
import measuring  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402

from keras_adder.export import to_portable  # noqa: E402
from keras_adder.inference import optimize  # noqa: E402

LABELS = {
    "adder": "float32",
    "adder_portable": "float32, portable",
    "adder_litert": "float32, portable, in LiteRT",
    "int8": "int8",
    "int8_portable": "int8, portable",
    "int8_litert": "int8, portable, in LiteRT",
}


def main():
    args = parse()
    results = measuring.circumstances(measuring.cores(), args.quick)
    report.warn_if_busy(results)
    results |= {"batch_size": args.batch_size, "networks": {}}
    for name in args.networks:
        results["networks"][name] = measure(inference.NETWORKS[name], args)
    results["load"].append(measuring.load())
    text = markdown(results)
    print(text, end="")
    report.write(args.output, "portable", results, text)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inference.add_arguments(parser)
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="for each column of the table (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.quick:
        inference.make_quick(args)
    return args


def measure(network, args):
    """All figures of a network."""
    measuring.progress(f"{network.title}: networks")
    calibration, images, labels = inference.load(network, args)
    adder = network.build(weights=network.data)
    models = {"adder": adder, "int8": optimize(adder, "int8", calibration)}
    contenders, pairs = {}, {}
    for name, model in models.items():
        portable = to_portable(model)
        contenders[name] = calling.KerasContender(model)
        contenders[f"{name}_portable"] = calling.KerasContender(portable)
        if inference.has_litert():
            contenders[f"{name}_litert"] = inference.LiteRTContender(portable)
        measuring.progress(f"{network.title}: {len(images)} images, {name}")
        pairs[name] = compare(model, portable, images, labels, args.batch_size)
    times = {}
    for column, batch in (
        ("batch", images[: args.batch_size]),
        ("one", images[:1]),
    ):
        measuring.progress(f"{network.title}: speed, {column}")
        times[column] = {
            name: dataclasses.asdict(timing)
            for name, timing in calling.time_one(
                contenders, "function", batch, args.seconds
            ).items()
        }
    return {
        "title": network.title,
        "images": len(images),
        "times": times,
        "pairs": pairs,
    }


def compare(model, portable, images, labels, batch_size):
    """Classes of a model and of its portable form, and what they come from.

    Returns:
        A dict: both accuracies in percent; the largest difference of logits
        over the mean of their magnitudes; and for each image whose class
        differs its number and how far the two best logits of either model are
        apart.
    """
    ours, theirs = (
        logits_of(m).predict(images, batch_size, verbose=0)
        for m in (model, portable)
    )
    differing = np.flatnonzero(ours.argmax(-1) != theirs.argmax(-1))
    margins = [
        np.diff(np.sort(logits)[:, -2:])[:, 0] for logits in (ours, theirs)
    ]
    return {
        "accuracy": 100 * float(np.mean(ours.argmax(-1) == labels)),
        "accuracy_portable": 100 * float(np.mean(theirs.argmax(-1) == labels)),
        "difference": float(np.abs(theirs - ours).max() / np.abs(ours).mean()),
        "differing": [
            {"image": int(i), "margins": [float(m[i]) for m in margins]}
            for i in differing
        ],
    }


def logits_of(model):
    """The model without a softmax at its end, whose classes are the same."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is not keras.activations.softmax:
        return model
    if isinstance(last, keras.layers.Activation):
        return keras.Model(model.inputs, last.input)
    config = last.get_config() | {"activation": "linear"}
    logits = type(last).from_config(config)
    outputs = logits(last.input)
    logits.set_weights(last.get_weights())
    return keras.Model(model.inputs, outputs)


def markdown(results):
    """The whole report."""
    parts = ["# Without this package's ops\n"]
    parts.append(
        "".join(f"- {line}\n" for line in report.machine_lines(results))
    )
    if report.busy(results):
        parts.append(
            "**The machine was busy with other work: trust no speed.**\n"
        )
    for network in results["networks"].values():
        parts += [
            f"## {network['title']}\n",
            speed_table(network["times"], results["batch_size"]),
            classes_table(network),
        ]
    return "\n".join(parts)


def speed_table(times, batch_size):
    rows = []
    for name, label in LABELS.items():
        if name not in times["one"]:
            continue
        cells = [label]
        for column in ("batch", "one"):
            seconds = times[column][name]["seconds"]
            ours = times[column][name.split("_")[0]]["seconds"]
            cells += [
                report.number(1e3 * seconds),
                report.number(seconds / ours, 1),
            ]
        rows.append(cells)
    return report.table(
        [
            "tf.function",
            f"batch {batch_size}, ms",
            "over the ops'",
            "one image, ms",
            "over the ops'",
        ],
        rows,
    )


def classes_table(network):
    rows = []
    for name, pair in network["pairs"].items():
        apart = [max(one["margins"]) for one in pair["differing"]]
        rows.append(
            [
                LABELS[name],
                f"{pair['accuracy']:.2f}",
                f"{pair['accuracy_portable']:.2f}",
                f"{pair['difference']:.1e}",
                str(len(apart)),
                f"{max(apart):.1e}" if apart else "-",
            ]
        )
    return report.table(
        [
            f"{network['images']:,} test images",
            "accuracy, %",
            "portable",
            "largest difference over mean logit",
            "other classes",
            "their best logits apart, at most",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
