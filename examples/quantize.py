"""Accuracy of an AdderNet against the bits of its integers, and its ranges.

    python examples/quantize.py --data-dir DATA_DIR
    python examples/quantize.py --data-dir DATA_DIR --model lenet5
    python examples/quantize.py --data-dir DATA_DIR --images 500   # a try

takes a network with the weights that come with the package, and no training.
It is made of integers of 8 to 2 bits in two ways, and each is asked for the
test images' classes:

- `keras_adder.inference.optimize`: filters are clipped to the range of their
  inputs, which is that of all calibration images or of a percentile, and what
  is clipped goes into the layer's offset;
- the obvious way, one scale over both ranges, that of the inputs and that of
  the filters, with nothing clipped. All inputs and filters of adder layers are
  rounded to it; what else there is stays in floating point.

Writes quantization.json, table.md, accuracy.png, ranges.png (inputs and
filters of one layer, and the ranges of all), report.txt and report.png (what
`keras_adder.inference.report` says of the most bits) and log.txt.
"""

import argparse
import dataclasses
import os
import pathlib
import platform
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_adder  # noqa: E402
from keras_adder import applications  # noqa: E402
from keras_adder import inference  # noqa: E402
from keras_adder.__main__ import processor  # noqa: E402

from training import data as data_lib  # noqa: E402
from training import flags  # noqa: E402
from training import runs  # noqa: E402
from training import script  # noqa: E402

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

MAXIMUM = "maximum"
ONE_SCALE = "one scale over both"
BATCH_SIZE = 500
SIZE = 32


@dataclasses.dataclass(frozen=True)
class Network:
    title: str
    build: Callable
    data: str
    layer: str


NETWORKS = {
    "resnet20": Network(
        "ResNet-20", applications.ResNet20, "cifar10", "conv2_block2_1_conv"
    ),
    "lenet5": Network("LeNet-5-BN", applications.LeNet5, "mnist", "conv2_conv"),
}


def main(argv=None):
    args = parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "log.txt", "w", encoding="utf-8") as log:

        def say(text):
            print(text, flush=True)
            print(text, file=log, flush=True)

        # Every model is traced once, which it takes for one traced often.
        tf.get_logger().setLevel("ERROR")
        say(runs.command_line())
        name = NETWORKS[args.model].data
        data = data_lib.load(name, args.data_dir, size=SIZE)
        say(data.describe())
        which = "first" if args.seed is None else f"seed {args.seed}"
        say(f"ranges: {args.calibration:,} training images, {which}")
        results = study(data, args, say)
        table = markdown(results)
        say(f"\n{table}")
    runs.write_json(args.output / "quantization.json", results)
    (args.output / "table.md").write_text(table, "utf-8")
    save(draw_accuracy(results), args.output / "accuracy.png")


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", choices=NETWORKS, default="resnet20", help="%(default)s"
    )
    parser.add_argument("--data-dir", help="as in train_mnist.py")
    parser.add_argument(
        "--images",
        type=flags.positive,
        help="only so many test images, for a try (default: all)",
    )
    parser.add_argument(
        "--calibration",
        type=flags.positive,
        default=1024,
        help="training images that ranges come from (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=flags.seed,
        help="draws these images at random (default: the first ones)",
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=range(2, 9),
        nargs="+",
        default=[8, 7, 6, 5, 4, 3, 2],
    )
    parser.add_argument(
        "--percentiles",
        type=flags.between(50, 100),
        nargs="*",
        default=[99.999, 99.9],
        help="those that ranges are clipped to, beside the maximum "
        "(default: 99.999 99.9)",
    )
    parser.add_argument("--layer", help="the one that is drawn")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="default: results/inference/MODEL; runs/inference/MODEL with "
        "--images",
    )
    args = parser.parse_args(argv)
    if args.output is None:
        folder = pathlib.Path("runs" if args.images else "results")
        args.output = folder / "inference" / args.model
    args.bits = sorted(set(args.bits), reverse=True)
    args.layer = args.layer or NETWORKS[args.model].layer
    return args


def study(data, args, say):
    """Measures everything, and writes what is drawn or told of one model.

    Args:
        data: A `training.data.ImageData`.
        args: The parsed flags.
        say: Function of a string, which prints it.

    Returns:
        A dict for JSON. Accuracies are shares of 1.
    """
    calibration, images, labels = chosen(data, args)
    network = NETWORKS[args.model]
    model = network.build(weights=network.data)
    rows = []

    def measure(way, bits, make, percentile=None):
        begin = time.perf_counter()
        made = make()
        classes = made.predict(images, BATCH_SIZE, verbose=0).argmax(-1)
        accuracy = float(np.mean(classes == labels))
        seconds = time.perf_counter() - begin
        say(f"{way}, {bits} bits: {accuracy:.2%} ({seconds:.0f} s)")
        rows.append(
            {
                "way": way,
                "percentile": percentile,
                "bits": bits,
                "accuracy": accuracy,
            }
        )
        return made

    def integers(precision, **kwargs):
        return inference.optimize(model, precision, calibration, **kwargs)

    measure("float", 32, lambda: model)
    measure(MAXIMUM, 16, lambda: integers("int16"))
    reports = {}
    ways = {f"percentile {value:g}": value for value in args.percentiles}
    for way, percentile in {MAXIMUM: 100, **ways}.items():
        for bits in args.bits:
            fast = measure(
                way,
                bits,
                lambda bits=bits, percentile=percentile: integers(
                    "int8", bits=bits, percentile=percentile
                ),
                percentile,
            )
            if bits == args.bits[0]:
                test = (images, labels) if way == MAXIMUM else None
                reports[way] = inference.report(
                    model, fast, test, print_fn=lambda text: None
                )
    ranges = {row.name: (row.low, row.high) for row in reports[MAXIMUM].rows}
    for bits in args.bits:
        measure(
            ONE_SCALE,
            bits,
            lambda bits=bits: with_one_scale(model, ranges, bits),
        )

    (args.output / "report.txt").write_text(f"{reports[MAXIMUM]}\n", "utf-8")
    reports[MAXIMUM].plot(args.output / "report.png")
    layers = layers_of(model, reports)
    save(
        draw_ranges(model, calibration, layers, args),
        args.output / "ranges.png",
    )
    return {
        "command": runs.command_line(),
        "model": args.model,
        "data": network.data,
        "images": len(images),
        "calibration": len(calibration),
        "seed": args.seed,
        "rows": rows,
        "layers": layers,
        "processor": processor(),
        "instruction_set": keras_adder.sysconfig.instruction_sets()["chosen"],
        "versions": {
            "keras_adder": keras_adder.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def chosen(data, args):
    """Training images for the ranges, test images, and their labels."""
    training = data.train_images
    if args.seed is not None:
        order = np.random.default_rng(args.seed).permutation(len(training))
        training = training[order[: args.calibration]]
    return (
        data.normalise(training[: args.calibration]).numpy(),
        data.normalise(data.test_images[: args.images]).numpy(),
        data.test_labels[: args.images],
    )


def with_one_scale(model, ranges, bits):
    """Rounds inputs and filters of adder layers as one does without clipping.

    Args:
        model: A functional `keras.Model`.
        ranges: Dict of pairs by the names of adder layers: between which
            numbers their inputs lie.
        bits: Integer.

    Returns:
        A new `keras.Model`, which computes in floating point.
    """
    grids = {}
    for name, (low, high) in ranges.items():
        kernel = model.get_layer(name).kernel.numpy()
        grids[name] = grid(
            min(low, kernel.min()), max(high, kernel.max()), bits
        )

    def call(layer, *args, **kwargs):
        if layer.name in grids:
            inputs, *others = args
            args = (rounded(inputs, *grids[layer.name]), *others)
        return layer(*args, **kwargs)

    made = keras.models.clone_model(model, call_function=call)
    for layer in model.layers:
        if layer.weights:
            made.get_layer(layer.name).set_weights(layer.get_weights())
    for name, steps in grids.items():
        kernel = made.get_layer(name).kernel
        kernel.assign(rounded(kernel, *steps))
    return made


def grid(low, high, bits):
    """Numbers between two, as many as bits tell apart. Zero is one of them.

    Returns:
        The step from one to the next, and the lowest and the highest of them
        in steps.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    levels = 2**bits - 1
    step = float(high - low) / levels
    below = round(-low / step)
    return step, -below, levels - below


def rounded(x, step, lowest, highest):
    """The nearest numbers of a grid."""
    x = keras.ops.round(x / step)
    return step * keras.ops.clip(x, lowest, highest)


def layers_of(model, reports):
    """Ranges of all adder layers: a list of dicts for JSON."""
    layers = []
    for same in zip(*(report.rows for report in reports.values())):
        name = same[0].name
        kernel = model.get_layer(name).kernel.numpy()
        layers.append(
            {
                "name": name,
                "filters": [float(kernel.min()), float(kernel.max())],
                "inputs": {
                    way: {
                        "low": row.low,
                        "high": row.high,
                        "filters_clipped": row.clipped,
                    }
                    for way, row in zip(reports, same)
                },
            }
        )
    return layers


def accuracies(results):
    """Of each way a dict of accuracies by bits."""
    found = {}
    for row in results["rows"]:
        found.setdefault(row["way"], {})[row["bits"]] = row["accuracy"]
    return found


def title(results):
    return (
        f"{NETWORKS[results['model']].title}, {results['data']}, "
        f"{results['images']:,} test images"
    )


def markdown(results):
    """A table of accuracies in percent."""
    found = accuracies(results)
    exact = found.pop("float")[32]
    lines = [
        f"{title(results)}: {100 * exact:.2f} % in float32, "
        f"{100 * found[MAXIMUM].pop(16):.2f} % in int16.",
        "",
        f"| bits | {' | '.join(found)} |",
        f"|---|{'---:|' * len(found)}",
    ]
    for bits in found[MAXIMUM]:
        cells = (f"{100 * column[bits]:.2f}" for column in found.values())
        lines.append(f"| {bits} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_accuracy(results):
    """Draws accuracies against bits: all of them, and the best ones closer."""
    found = accuracies(results)
    exact = 100 * found.pop("float")[32]
    found[MAXIMUM].pop(16)
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axes in panels:
        axes.axhline(exact, c="0.4", ls="--", lw=1, label="float32")
        for way, column in found.items():
            label = way if way == ONE_SCALE else f"clipped, {way}"
            axes.plot(
                list(column),
                [100 * value for value in column.values()],
                "s:" if way == ONE_SCALE else "o-",
                ms=4,
                label=label,
            )
        axes.set(xlabel="bits of inputs and filters", ylabel="accuracy, %")
        axes.grid(alpha=0.25)
    panels[1].set_ylim(exact - 3, exact + 0.5)
    panels[1].set_title("the best ones, closer")
    panels[0].legend()
    figure.suptitle(title(results))
    return figure


def draw_ranges(model, calibration, layers, args):
    """Draws what one layer is given beside its filters, and all ranges."""
    figure, panels = plt.subplots(
        1,
        3,
        figsize=(15, 4.8),
        layout="constrained",
        width_ratios=(1, 1, 1.2),
    )
    (layer,) = (one for one in layers if one["name"] == args.layer)
    tensor = keras.Model(model.inputs, model.get_layer(args.layer).input)
    values = {
        "inputs": tensor.predict(calibration, BATCH_SIZE, verbose=0).ravel(),
        "filters": model.get_layer(args.layer).kernel.numpy().ravel(),
    }
    draw_histograms(panels[:2], values, layer, args.bits[0])
    draw_all_ranges(panels[2], layers)
    figure.suptitle(
        f"{NETWORKS[args.model].title}: {args.layer}, and all adder layers"
    )
    return figure


def draw_histograms(panels, values, layer, bits):
    ranges = layer["inputs"]
    low, high = ranges[MAXIMUM]["low"], ranges[MAXIMUM]["high"]
    least = min(low, layer["filters"][0])
    most = max(high, layer["filters"][1])
    for axes, ends in zip(panels, ((least, most), (low, high))):
        for index, (name, numbers) in enumerate(values.items()):
            axes.hist(
                numbers,
                np.linspace(*ends, 81),
                weights=np.full(len(numbers), 100 / len(numbers)),
                alpha=0.6,
                color=f"C{index}",
                label=name,
            )
        axes.set_yscale("log")
        axes.set_ylabel("share of all, %")
        axes.grid(alpha=0.25)
    panels[0].axvspan(low, high, color="0.85", zorder=0, label="range kept")
    panels[0].set_title(
        f"all: a step of {grid(least, most, bits)[0]:.2g} in {bits} bits",
        size="medium",
    )
    clipped = ranges[MAXIMUM]["filters_clipped"]
    panels[1].set_title(
        f"the inputs' range: a step of {grid(low, high, bits)[0]:.2g},\n"
        f"{clipped:.0%} of the filters' numbers lie outside, and are clipped",
        size="medium",
    )
    for index, (way, found) in enumerate(ranges.items(), 2):
        if way != MAXIMUM:
            label = f"{way}: {found['filters_clipped']:.0%} clipped"
            panels[1].axvline(
                found["high"], c=f"C{index}", ls="--", lw=1.2, label=label
            )
    for axes, place in zip(panels, ("upper right", "lower left")):
        axes.set_xlabel("value")
        axes.legend(fontsize="small", loc=place)


def draw_all_ranges(axes, layers):
    for position, layer in enumerate(layers):
        found = layer["inputs"][MAXIMUM]
        for index, (ends, width, label) in enumerate(
            (
                ((found["low"], found["high"]), 6, "inputs"),
                (layer["filters"], 2, "filters"),
            )
        ):
            axes.plot(
                ends,
                (position, position),
                c=f"C{index}",
                lw=width,
                solid_capstyle="butt",
                label=label if position == 0 else None,
            )
        axes.annotate(
            f"{found['filters_clipped']:.0%}",
            (1.01, position),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="small",
        )
    axes.set_yticks(
        range(len(layers)), [layer["name"] for layer in layers], size="x-small"
    )
    axes.invert_yaxis()
    axes.set_title(
        "ranges; at the right, how much of the filters is clipped",
        size="medium",
    )
    axes.set_xlabel("value")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize="small")


def save(figure, path):
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    script.run(main)
