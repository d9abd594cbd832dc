"""What becomes of an AdderNet without batch normalization.

    python examples/paper/normalization.py

An adder layer's outputs are never positive, and their variance is large:
(1 - 2 / pi) n (s_x^2 + s_f^2) for n independent, centered terms of variance
s_x^2 (inputs) and s_f^2 (filters), where that of a convolution is
n s_x^2 s_f^2. The paper's answer is a batch normalization after every layer.

Trains LeNet-5 with all of them and with none, as an AdderNet and as a CNN.
Without them the ReLU of an AdderNet has nothing to let through, so that it is
trained without its ReLUs as well. Beside the learning curves stand the
variances of all layers' outputs in the untrained networks, on a batch of
images; what the formulas make of the variances of inputs and filters; and the
variances for inputs that are as independent and centered as the formulas
assume, normal noise.

Writes normalization.json, normalization.csv (the curves) and
normalization.png.
"""

import csv
import math
import os
import pathlib
import sys

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper import train_variant  # noqa: E402
from paper.study import plt  # noqa: E402
from training import data as data_lib  # noqa: E402
from training import runs  # noqa: E402

NAME = "normalization"
# Title, network, with batch normalizations, with ReLUs, and how it is drawn.
CASES = {
    "adder": ("AdderNet", "adder", True, True, "C0-"),
    "adder_no_bn": ("AdderNet without BN", "adder", False, True, "C2-"),
    "adder_no_bn_no_relu": (
        "AdderNet without BN and ReLU",
        "adder",
        False,
        False,
        "C3-",
    ),
    "cnn": ("CNN", "cnn", True, True, "C1-"),
    "cnn_no_bn": ("CNN without BN", "cnn", False, True, "C4-"),
}
BATCH = 256
MEASURES = {"output": "images", "noise_output": "noise", "formula": "formula"}
CSV_FIELDS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")


def main(argv=None):
    parser = study.make_parser(__doc__, epochs=10, fast_epochs=6, seeds=[1])
    args = study.parse(parser, argv)
    seed = args.seeds[0]
    trainings = {
        case: study.variant(
            args,
            "lenet5",
            network,
            seed,
            normalized=normalized,
            activated=activated,
        )
        for case, (_, network, normalized, activated, _) in CASES.items()
    }
    study.train(trainings.values(), args)
    histories = {
        case: study.history_of(training) for case, training in trainings.items()
    }
    data = data_lib.load(args.data, args.data_dir, size=32)
    images = np.asarray(data.normalise(data.train_images[:BATCH]))
    results = {
        "data": args.data,
        "epochs": args.epochs,
        "seed": seed,
        "images": len(images),
        **{
            case: {
                "title": CASES[case][0],
                "test_accuracy": history[-1]["val_accuracy"],
                "loss": history[-1]["loss"],
                "layers": case_variances(case, images, data.classes, seed),
            }
            for case, history in histories.items()
        },
    }
    write_curves(args.results / f"{NAME}.csv", histories)
    study.write(args, NAME, results, draw(results, histories))
    print(markdown(results), end="")


def case_variances(case, images, classes, seed):
    """`layer_variances()` of one of `CASES`, untrained."""
    _, network, normalized, activated, _ = CASES[case]
    keras.utils.set_random_seed(seed)
    model = train_variant.build_network(
        "lenet5", network, classes, normalized, activated
    )
    return layer_variances(model, images)


def layer_variances(model, images):
    """Variances of the inputs, filters and outputs of a model's layers.

    Args:
        model: A functional `keras.Model`.
        images: Array, a batch of images. Batch normalizations normalize by
            its own mean and variance, as in training.

    Returns:
        A list of dicts, one for each convolution or dense layer: its
        `"layer"`, name; `"terms"`, the number of terms of its sums; the
        variances `"input"`, `"filter"` and `"output"`, over everything; the
        `"mean_output"`; `"formula"`, what `expected_variance()` expects; and
        `"noise_output"`, the outputs' variance if the inputs are normal noise
        of mean 0 and of the variance that they had.
    """
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    ends = [(layer.input, layer.output) for layer in layers]
    values = keras.Model(model.input, ends)(images, training=True)
    found = []
    generator = np.random.default_rng(0)
    for layer, (x, y) in zip(layers, values):
        x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
        kernel = layer.kernel.numpy().astype("float64")
        terms = kernel[..., 0].size
        adder = hasattr(layer, "filter_gradient")
        noise = generator.normal(0, x.std(), x.shape).astype("float32")
        found.append(
            {
                "layer": layer.name,
                "terms": terms,
                "input": x.var(),
                "filter": kernel.var(),
                "output": y.var(),
                "mean_output": y.mean(),
                "formula": expected_variance(
                    terms, x.var(), kernel.var(), adder
                ),
                "noise_output": np.asarray(layer(noise), "float64").var(),
            }
        )
    return found


def expected_variance(terms, input_variance, filter_variance, adder):
    """The variance of a layer's outputs by the paper's formulas.

    They are for inputs and filters that are independent, normally distributed
    and of mean 0.

    Args:
        terms: Integer, the number of terms of an output's sum.
        input_variance, filter_variance: Floats.
        adder: Boolean, whether it is an adder layer.

    Returns:
        A float.
    """
    if adder:
        # abs(d) of a normal d has the variance (1 - 2 / pi) var(d).
        return (1 - 2 / math.pi) * terms * (input_variance + filter_variance)
    return terms * input_variance * filter_variance


def write_curves(path, histories):
    """Writes a row for each epoch of each network."""
    with runs.replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file,
                ("network", *CSV_FIELDS),
                extrasaction="ignore",
                lineterminator="\n",
            )
            writer.writeheader()
            for case, history in histories.items():
                for row in history:
                    writer.writerow({"network": case, **row})


def draw(results, histories):
    figure, (accuracy, loss, variance) = plt.subplots(
        1, 3, figsize=(15, 4.8), layout="constrained"
    )
    for case, history in histories.items():
        title, *_, style = CASES[case]
        epochs = [row["epoch"] for row in history]
        accuracies = [100 * row["val_accuracy"] for row in history]
        accuracy.plot(epochs, accuracies, style, label=title)
        loss.plot(epochs, [row["loss"] for row in history], style)
        layers = results[case]["layers"]
        names = [layer["layer"].partition("_")[0] for layer in layers]
        variance.plot(names, [row["output"] for row in layers], f"{style}o")
        variance.plot(
            names,
            [row["formula"] for row in layers],
            f"{style[:2]}x",
            ms=9,
            ls=":",
            lw=0.8,
        )
    variance.plot([], [], "0.3", marker="o", label="measured")
    variance.plot([], [], "0.3", marker="x", ms=9, ls=":", label="formula")
    accuracy.set(
        title="Test accuracy", xlabel="epoch", ylabel="test accuracy, %"
    )
    loss.set(
        title="Training loss", xlabel="epoch", ylabel="cross-entropy, nats"
    )
    variance.set(
        title=f"Before training, on {results['images']} images",
        xlabel="layer",
        ylabel="variance of the layer's outputs",
    )
    loss.set_yscale("log")
    variance.set_yscale("log")
    for axes in (accuracy, loss, variance):
        axes.grid(True, alpha=0.25)
    variance.legend()
    figure.legend(
        *accuracy.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(CASES),
    )
    figure.suptitle(
        f"{study.data_title(results['data'])}: LeNet-5 with and without batch "
        "normalization (BN)"
    )
    return figure


def markdown(results):
    """The tables of a `normalization.json`."""
    cases = {case: results[case] for case in CASES}
    epochs = f"{study.data_title(results['data'])}, {results['epochs']} epochs"
    accuracies = study.table(
        ["network", f"test accuracy, {epochs}, %", "training loss"],
        [
            [
                case["title"],
                f"{100 * case['test_accuracy']:.2f}",
                f"{case['loss']:.4g}",
            ]
            for case in cases.values()
        ],
    )
    layers = [row["layer"] for row in cases["adder"]["layers"]]
    rows = []
    for case in cases.values():
        for field, words in MEASURES.items():
            rows.append(
                [
                    f"{case['title']}, {words}",
                    *(f"{row[field]:.3g}" for row in case["layers"]),
                ]
            )
    head = ["variance of outputs, untrained", *layers]
    return f"{accuracies}\n{study.table(head, rows)}"


if __name__ == "__main__":
    main()
