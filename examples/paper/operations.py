"""Operations and latency of the paper's networks: AdderNet beside CNN.

    python examples/paper/operations.py

Counts with `keras_adder.summary`, for one image, twice: the convolutions and
dense layers alone, as the paper does, and all layers, with the
multiplications that an AdderNet keeps in its batch normalizations and in its
ordinary first and last layer. Latency is the paper's model, a VIA Nano 2000
with 4 cycles a multiplication and 2 an addition; nothing is measured.

Writes operations.json and operations.png.
"""

import os
import pathlib
import sys

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402

import keras_adder  # noqa: E402
from keras_adder import applications  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402

NAME = "operations"
MODELS = {
    "LeNet-5-BN": applications.LeNet5,
    "VGG-small": applications.VGGSmall,
    "ResNet-20": applications.ResNet20,
    "ResNet-32": applications.ResNet32,
    "ResNet-18": applications.ResNet18,
    "ResNet-50": applications.ResNet50,
}
# Multiplications of the CNN, and cycles where the paper gives them.
PAPER = {
    "LeNet-5-BN": {"multiplications": 435e3, "adder": 1.7e6, "cnn": 2.6e6},
    "VGG-small": {"multiplications": 0.65e9},
    "ResNet-20": {"multiplications": 41.17e6},
    "ResNet-32": {"multiplications": 69.12e6},
    "ResNet-18": {"multiplications": 1.8e9},
    "ResNet-50": {"multiplications": 3.9e9},
}


def main(argv=None):
    parser = study.make_parser(__doc__, data=False)
    args = study.parse(parser, argv)
    names = list(MODELS)[: 1 if args.fast else None]
    results = {
        "models": {
            name: {
                "paper": PAPER[name],
                **{
                    network: count(MODELS[name](adder=network == "adder"))
                    for network in study.NETWORKS
                },
            }
            for name in names
        }
    }
    study.write(args, NAME, results, draw(results))
    print(markdown(results), end="")


def count(model):
    """The two counts of a model.

    Args:
        model: A functional `keras.Model`.

    Returns:
        A dict of `"weighted"`, of convolutions and dense layers alone, and
        `"total"`, of all layers; each a dict of `"multiplications"`,
        `"additions"`, `"cycles"` and `"microjoules"`.

    Raises:
        ValueError: If the operations of a layer are not known.
    """
    found = keras_adder.summary(model, print_fn=lambda text: None)
    if found.unknown:
        raise ValueError(f"The operations of {found.unknown} are not known.")
    return {
        "weighted": found.weighted.as_dict(),
        "total": found.total.as_dict(),
    }


def draw(results):
    """Draws cycles and multiplications, all layers, for each model."""
    models = results["models"]
    places = np.arange(len(models))
    figure, panels = plt.subplots(
        1, 2, figsize=(11, 1.6 + 0.55 * len(models)), layout="constrained"
    )
    for axes, field, title, label in (
        (panels[0], "cycles", "Latency", "cycles of a VIA Nano 2000"),
        (
            panels[1],
            "multiplications",
            "Multiplications",
            "multiplications an image",
        ),
    ):
        for offset, network in ((0.19, "adder"), (-0.19, "cnn")):
            values = [row[network]["total"][field] for row in models.values()]
            bars = axes.barh(
                places - offset,
                values,
                0.36,
                color=study.COLOURS[network],
                label=study.NETWORKS[network],
            )
            axes.bar_label(
                bars, [short(value) for value in values], padding=3, size=8
            )
        axes.set_xscale("log")
        # Room for the numbers.
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * 3)
        axes.set_yticks(places, models)
        axes.invert_yaxis()
        axes.grid(True, axis="x", alpha=0.25)
        axes.set(title=title, xlabel=f"{label} (log scale)")
    panels[1].set_yticklabels([])
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
    )
    figure.suptitle("Operations of all layers, for one image")
    return figure


def short(value):
    """A count in three digits: 416520 is "417K"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def markdown(results):
    """The table of an `operations.json`."""
    head = [
        "",
        "CNN: mul, paper",
        "mul",
        "add",
        "cycles",
        "AdderNet: mul",
        "add",
        "cycles",
        "all layers: mul of the AdderNet",
        "cycles, AdderNet / CNN",
    ]
    rows = []
    for name, row in results["models"].items():
        adder, cnn = row["adder"]["weighted"], row["cnn"]["weighted"]
        paper = row["paper"]
        cycles = [short(cnn["cycles"]), short(adder["cycles"])]
        if "cnn" in paper:
            cycles[0] += f" (paper {short(paper['cnn'])})"
            cycles[1] += f" (paper {short(paper['adder'])})"
        total = row["adder"]["total"]
        ratio = total["cycles"] / row["cnn"]["total"]["cycles"]
        rows.append(
            [
                name,
                short(paper["multiplications"]),
                short(cnn["multiplications"]),
                short(cnn["additions"]),
                cycles[0],
                short(adder["multiplications"]),
                short(adder["additions"]),
                cycles[1],
                short(total["multiplications"]),
                f"{ratio:.2f}",
            ]
        )
    return study.table(head, rows)


if __name__ == "__main__":
    main()
