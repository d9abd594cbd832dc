"""Trained networks at inference: how accurate they are, and how fast.

    python benchmarks/inference.py --data-dir DIR
    python benchmarks/inference.py --data-dir DIR --images 500   # a try

takes ResNet-20 on CIFAR-10 and LeNet-5-BN on MNIST with the weights that come
with the package: the AdderNet and what `keras_adder.inference.optimize` makes
of it, in floats and in integers, and its CNN twin, in TensorFlow and in LiteRT,
there also quantized to int8 by the converter. Accuracies are those of all test
images; ranges of integers come from training images. For the speed they take
turns in one process, so that ratios mean something. At the end other processes
let the int8 network run on the other instruction sets that the processor has.

Prints tables and writes them, the figures as JSON and a picture to
`results/speed/inference.*`. Data sets are those of the examples.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import calling  # noqa: E402
import conv2d  # noqa: E402
import keras  # noqa: E402
import measuring  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_adder import applications  # noqa: E402
from keras_adder import sysconfig  # noqa: E402
from keras_adder.inference import FusedAdderConv2D  # noqa: E402
from keras_adder.inference import FusedAdderDense  # noqa: E402
from keras_adder.inference import optimize  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

from training import data as data_lib  # noqa: E402
from training.prepared import DataUnavailable  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Network:
    title: str
    build: Callable
    data: str
    size: int
    channels: int


NETWORKS = {
    "resnet20": Network("ResNet-20", applications.ResNet20, "cifar10", 32, 3),
    "lenet5": Network("LeNet-5-BN", applications.LeNet5, "mnist", 32, 1),
}

LABELS = {
    "cnn": "CNN, float32",
    "adder": "AdderNet, float32",
    "fused": "fused, float32",
    "int16": "fused, int16",
    "int8": "fused, int8",
    "bits4": "fused, 4 bits (percentile 99.9)",
    "litert": "CNN in LiteRT, float32",
    "litert_int8": "CNN in LiteRT, int8",
}

# Of these the accuracy alone is measured: the kernels are those of 8 bits.
NOT_TIMED = ("bits4",)

# Ways of calling a network.
CALLS = {
    "batches": "predict, in batches",
    "on_batch": "one image, predict_on_batch",
    "function": "one image, tf.function",
}

# For so long LiteRT's threads may go on spinning after a call.
SPINNING_SECONDS = 0.1

# Images that the layers' bits are compared on.
COMPARED = 64

# The least ratio of speeds, and the most that accuracy may lose, in points.
SPEED_GOALS = (
    ("int8", "adder", "batches", 2.5),
    ("int8", "cnn", "batches", 2.5),
    ("int8", "adder", "one", 1.5),
    ("int8", "cnn", "one", 1.5),
    ("fused", "adder", "batches", 1.15),
)
LOSS_GOALS = {
    "resnet20": {"int8": 0.1, "int16": 0.02, "bits4": 0.95},
    "lenet5": {"int8": 0.1},
}
AGREEMENT_GOAL = 0.9998


def main():
    args = parse()
    if args.one is not None:
        print(json.dumps(run_saved(args.one)))
        return
    conv2d.limit_isa(args.isa)
    results = measuring.circumstances(measuring.cores(), args.quick)
    report.warn_if_busy(results)
    results |= {"batch_size": args.batch_size, "networks": {}}
    for name in args.networks:
        results["networks"][name] = measure(NETWORKS[name], args)
    results["load"].append(measuring.load())
    text = markdown(results)
    print(text, end="")
    name = f"inference-{args.isa}" if args.isa else "inference"
    report.write(args.output, name, results, text)
    picture(results, args.output / f"{name}.png")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="of predictions of all images (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="for one image, in each way of calling (default: %(default)s)",
    )
    parser.add_argument("--isa", choices=conv2d.ISAS, help="as in conv2d.py")
    # For the processes that this one starts: what the library is told to use
    # when it is loaded cannot be changed afterwards.
    parser.add_argument("--one", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        make_quick(args)
        args.rounds = 1
    return args


def add_arguments(parser):
    """What is told to a benchmark of trained networks."""
    parser.add_argument(
        "--data-dir",
        help="where tensorflow-datasets keeps prepared data sets",
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("results/speed")
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=tuple(NETWORKS)
    )
    parser.add_argument(
        "--images", type=int, help="only so many test images (default: all)"
    )
    parser.add_argument(
        "--calibration",
        type=int,
        default=1024,
        help="training images that ranges come from (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few random images; figures mean nothing",
    )


def make_quick(args):
    args.images, args.calibration, args.batch_size = 40, 32, 16
    args.seconds = 0.05


def measure(network, args):
    """All figures of a network."""
    measuring.progress(f"{network.title}: data")
    calibration, images, labels = load(network, args)
    measuring.progress(f"{network.title}: networks")
    models = build(network, calibration)
    contenders = {
        name: calling.KerasContender(model) for name, model in models.items()
    }
    if not args.isa:  # LiteRT cannot be held to an instruction set.
        contenders |= litert_contenders(models["cnn"], calibration)
    rows = {}
    for name, contender in contenders.items():
        measuring.progress(f"{network.title}: {LABELS[name]}")
        classes = contender.predict(images, args.batch_size).argmax(-1)
        rows[name] = {
            "accuracy": 100 * float(np.mean(classes == labels)),
            "bytes": contender.bytes,
            "speeds": {},
            "times": {},
        }
        if name == "int8":
            classes_of_int8 = classes
    timed = {n: c for n, c in contenders.items() if n not in NOT_TIMED}
    for call in CALLS:
        measuring.progress(f"{network.title}: {CALLS[call]}")
        count = len(images) if call == "batches" else 1
        for name, timing in time_all(timed, call, images, args).items():
            rows[name]["times"][call] = dataclasses.asdict(timing)
            rows[name]["speeds"][call] = count / timing.seconds
    return {
        "title": network.title,
        "images": len(images),
        "calibration": len(calibration),
        "rows": rows,
        "sets": compare_sets(models["int8"], images, classes_of_int8, args),
    }


def load(network, args):
    """Training images to calibrate with, test images, and their labels."""
    if args.quick:
        generator = np.random.default_rng(0)
        shape = (network.size, network.size, network.channels)
        calibration, images = (
            generator.standard_normal((count, *shape), np.float32)
            for count in (args.calibration, args.images)
        )
        return calibration, images, generator.integers(0, 10, args.images)
    try:
        data = data_lib.load(network.data, args.data_dir, size=network.size)
    except DataUnavailable as error:
        sys.exit(f"{error} {error.REMEDY}.")
    calibration = data.normalise(data.train_images[: args.calibration])
    images = data.normalise(data.test_images[: args.images])
    return (
        calibration.numpy(),
        images.numpy(),
        data.test_labels[: args.images],
    )


def build(network, calibration):
    """The Keras models, by the names of `LABELS`."""
    cnn, adder = (
        network.build(weights=network.data, adder=adder)
        for adder in (False, True)
    )
    return {
        "cnn": cnn,
        "adder": adder,
        "fused": optimize(adder, "float32"),
        "int16": optimize(adder, "int16", calibration),
        "int8": optimize(adder, "int8", calibration),
        "bits4": optimize(adder, "int8", calibration, bits=4, percentile=99.9),
    }


def litert_contenders(cnn, calibration):
    """The CNN in LiteRT, as it is and quantized; nothing if not installed."""
    if not has_litert():
        return {}

    def few():
        return ([image[None]] for image in calibration)

    return {
        "litert": LiteRTContender(cnn),
        "litert_int8": LiteRTContender(cnn, few),
    }


def has_litert():
    return importlib.util.find_spec("ai_edge_litert") is not None


class LiteRTContender:
    """A Keras model in LiteRT, with floats for inputs and outputs.

    Args:
        model: `keras.Model`.
        representative: Function that returns an iterable of lists of inputs,
            from which the converter takes ranges of integers. If given, weights
            and tensors are int8.
    """

    def __init__(self, model, representative=None):
        with tempfile.TemporaryDirectory() as folder:
            model.export(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            if representative is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = representative
            self._content = converter.convert()
        self.bytes = len(self._content)
        self._interpreters = {}

    def predict(self, images, batch_size):
        outputs = []
        for begin in range(0, len(images), batch_size):
            batch = images[begin : begin + batch_size]
            # The last one is filled up, so that the size stays.
            filled = np.resize(batch, (batch_size, *batch.shape[1:]))
            outputs.append(self._run(filled)[: len(batch)])
        return np.concatenate(outputs)

    def one(self, call, image):
        """A function that computes one image: there is one way."""
        return lambda: self._run(image)

    @staticmethod
    def turn(run):
        seconds = measuring.turn(run)
        time.sleep(SPINNING_SECONDS)
        return seconds

    def _run(self, batch):
        if len(batch) not in self._interpreters:
            self._interpreters[len(batch)] = self._interpreter(batch.shape)
        interpreter, inputs, outputs = self._interpreters[len(batch)]
        interpreter.set_tensor(inputs, batch)
        interpreter.invoke()
        return interpreter.get_tensor(outputs)

    def _interpreter(self, shape):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(
            model_content=self._content, num_threads=measuring.cores()
        )
        (inputs,) = interpreter.get_input_details()
        (outputs,) = interpreter.get_output_details()
        interpreter.resize_tensor_input(inputs["index"], shape)
        interpreter.allocate_tensors()
        return interpreter, inputs["index"], outputs["index"]


def time_all(contenders, call, images, args):
    """A `Timing` of each, in turns."""
    if call == "batches":
        turns = {
            name: functools.partial(
                measuring.once,
                functools.partial(c.predict, images, args.batch_size),
            )
            for name, c in contenders.items()
        }
        return measuring.alternate(turns, 0, args.rounds, args.rounds)
    return calling.time_one(contenders, call, images[:1], args.seconds)


def compare_sets(model, images, classes, args):
    """What a model computes on other instruction sets, in other processes.

    Both the op and TensorFlow's are held to them, so that the inputs of integer
    layers differ as floats do. The layers are compared on what they get here.

    Returns:
        A list of dicts, one an instruction set: `isa`; `layers`, how many were
        compared, and `differing`, the names of those of which a bit differs;
        and `agreement`, the share of images of the same class.
    """
    supported = sysconfig.instruction_sets()
    isas = [
        isa
        for isa in supported["supported"]
        if isa in conv2d.ISAS and isa != supported["chosen"]
    ]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        save_for_comparison(folder, model, images, args.batch_size)
        for isa in isas[:1] if args.quick else isas:
            measuring.progress(f"{model.name}: int8, {isa}")
            found = json.loads(in_another_process(folder, isa))
            others = np.load(folder / "classes.npy")
            rows.append(
                {
                    "isa": isa,
                    "agreement": float(np.mean(others == classes)),
                    **found,
                }
            )
    return rows


def save_for_comparison(folder, model, images, batch_size):
    model.save(folder / "model.keras")
    np.save(folder / "images.npy", images)
    layers = fused_layers(model)
    tensors = {}
    for layer in layers:
        for index, tensor in enumerate(keras.tree.flatten(layer.input)):
            tensors[f"{layer.name}/input{index}"] = tensor
        tensors[f"{layer.name}/output"] = layer.output
    found = keras.Model(model.inputs, tensors).predict(
        images[:COMPARED], batch_size, verbose=0
    )
    np.savez(folder / "layers.npz", batch_size=batch_size, **found)


def fused_layers(model):
    kinds = (FusedAdderConv2D, FusedAdderDense)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def in_another_process(folder, isa):
    environment = {
        **os.environ,
        "KERAS_ADDER_ISA": isa,
        "ONEDNN_MAX_CPU_ISA": conv2d.ISAS[isa],
    }
    done = subprocess.run(
        [sys.executable, __file__, f"--one={folder}"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def run_saved(folder):
    """The other process: what `save_for_comparison` has saved, here."""
    model = keras.models.load_model(folder / "model.keras")
    layers = fused_layers(model)
    with np.load(folder / "layers.npz") as saved:
        differing = [
            layer.name for layer in layers if not same_bits(layer, saved)
        ]
        batch_size = int(saved["batch_size"])
    images = np.load(folder / "images.npy")
    classes = model.predict(images, batch_size, verbose=0).argmax(-1)
    np.save(folder / "classes.npy", classes)
    return {"layers": len(layers), "differing": differing}


def same_bits(layer, saved):
    count = len(keras.tree.flatten(layer.input))
    inputs = [saved[f"{layer.name}/input{i}"] for i in range(count)]
    outputs = np.asarray(layer(*map(tf.constant, inputs)))
    expected = saved[f"{layer.name}/output"]
    return (
        outputs.dtype == expected.dtype
        and outputs.tobytes() == expected.tobytes()
    )


def ratio(rows, name, over, call):
    """The speed of one over that of another, `None` if it was not measured."""
    if call == "one":  # The way that is better for the first.
        found = [ratio(rows, name, over, c) for c in ("on_batch", "function")]
        return None if None in found else max(found)
    if name not in rows or over not in rows:
        return None
    speeds = [rows[n]["speeds"].get(call) for n in (name, over)]
    return None if None in speeds else speeds[0] / speeds[1]


def markdown(results):
    """The whole report."""
    parts = ["# Inference\n"]
    parts.append(
        "".join(f"- {line}\n" for line in report.machine_lines(results))
    )
    if report.busy(results):
        parts.append(
            "**The machine was busy with other work: trust no speed.**\n"
        )
    for name, network in results["networks"].items():
        parts.append(f"## {network['title']}\n")
        parts.append(
            f"{network['images']:,} test images, in batches of "
            f"{results['batch_size']}; ranges from {network['calibration']:,} "
            "training images.\n"
        )
        parts.append(networks_table(network["rows"]))
        parts.append(ratios_table(network["rows"]))
        if network["sets"]:
            parts.append(sets_table(network))
        parts.append(goals_table(name, network))
    return "\n".join(parts)


def networks_table(rows):
    header = ["", "accuracy, %", "weights, KB", "images/s in batches"]
    header += ["one image, ms: predict_on_batch", "tf.function"]
    lines = []
    for name, row in rows.items():
        speeds = row["speeds"]
        lines.append(
            [
                LABELS[name],
                report.number(row["accuracy"]),
                f"{row['bytes'] / 1000:.0f}",
                report.number(speeds.get("batches"), 0),
                *(
                    report.number(speeds.get(c) and 1000 / speeds[c], 3)
                    for c in ("on_batch", "function")
                ),
            ]
        )
    return report.table(header, lines)


def ratios_table(rows):
    header = ["speed over that of", "in batches: AdderNet", "CNN"]
    header += ["predict_on_batch: AdderNet", "CNN"]
    header += ["tf.function: AdderNet", "CNN"]
    lines = [
        [
            LABELS[name],
            *(
                report.number(ratio(rows, name, over, call))
                for call in CALLS
                for over in ("adder", "cnn")
            ),
        ]
        for name in rows
        if name not in NOT_TIMED
    ]
    return report.table(header, lines)


def sets_table(network):
    header = ["int8 on another instruction set", "layers with the same bits"]
    return report.table(
        header + ["images of the same class"],
        [
            [
                row["isa"],
                f"{row['layers'] - len(row['differing'])} of {row['layers']}",
                f"{round(row['agreement'] * network['images']):,} of "
                f"{network['images']:,}",
            ]
            for row in network["sets"]
        ],
    )


def goals_table(name, network):
    rows = network["rows"]
    lines = []
    if name == "resnet20":
        for one, over, call, goal in SPEED_GOALS:
            what = CALLS.get(call, "one image, the better way")
            found = ratio(rows, one, over, call)
            lines.append(
                [
                    f"{LABELS[one]} over {LABELS[over]}: {what}",
                    f"at least {goal:.2f}",
                    report.number(found),
                ]
            )
    for one, goal in LOSS_GOALS[name].items():
        loss = rows["adder"]["accuracy"] - rows[one]["accuracy"]
        lines.append(
            [
                f"{LABELS[one]}: points of accuracy below the AdderNet",
                f"at most {goal:.2f}",
                report.number(loss),
            ]
        )
    for row in network["sets"]:
        lines.append(
            [
                f"images of the same class, {row['isa']}",
                f"at least {AGREEMENT_GOAL:.2%}",
                f"{row['agreement']:.2%}",
            ]
        )
    return report.table(["goal", "", "measured"], lines)


def picture(results, path):
    """Speed against accuracy. Does nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    networks = results["networks"].values()
    figure, axes = plt.subplots(
        1, len(networks), figsize=(6 * len(networks), 4.5), squeeze=False
    )
    for axis, network in zip(axes[0], networks):
        rows = network["rows"]
        for name, row in rows.items():
            over_cnn = ratio(rows, name, "cnn", "batches")
            if over_cnn is None:
                continue
            axis.plot(
                over_cnn,
                row["accuracy"],
                "s" if "CNN" in LABELS[name] else "o",
                alpha=0.7,
                label=LABELS[name],
            )
        axis.set_title(f"{network['title']}, {network['images']:,} images")
        axis.set_xlabel("images/s in batches, over the CNN's in TensorFlow")
        axis.set_ylabel("accuracy, %")
        axis.set_xlim(left=0)
        axis.margins(y=0.3)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
