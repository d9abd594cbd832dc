"""Norms of the filters' gradients by layer: AdderNet beside CNN.

    python examples/paper/gradients.py

The paper's reason for an adaptive learning rate: the gradients of an AdderNet
are orders of magnitude smaller than a CNN's, and differ from layer to layer.
LeNet-5-BN trains for an epoch by the recipe, and at every step the l2 norm of
each layer's gradient is taken as the loss gives it: before it is rescaled, and
without weight decay. The table has the first step (initial weights, the first
batch) and the median of the epoch, each the mean over the seeds.

Writes gradients.json, gradients.csv (every step) and gradients.png.
"""

import csv
import os
import pathlib
import sys

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_adder.applications import LeNet5  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import train_mnist  # noqa: E402

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402
from training import data as data_lib  # noqa: E402
from training import loop  # noqa: E402
from training import runs  # noqa: E402

NAME = "gradients"
# The first three layers, to the four digits that the paper gives.
PAPER = {
    "adder": [0.0009, 0.0012, 0.0146],
    "cnn": [0.2261, 0.2990, 0.4646],
}


def main(argv=None):
    parser = study.make_parser(__doc__, seeds=[1, 2, 3])
    args = study.parse(parser, argv)
    data = data_lib.load(args.data, args.data_dir, size=32)
    norms = {
        network: [measure(data, network, seed) for seed in args.seeds]
        for network in study.NETWORKS
    }
    write_steps(args.results / f"{NAME}.csv", norms, args.seeds)
    results = {
        "data": data.name,
        "seeds": args.seeds,
        "steps": len(norms["adder"][0]["norms"]),
        "paper": PAPER,
        **{
            network: summary([run["norms"] for run in measured])
            | {"layers": measured[0]["layers"]}
            for network, measured in norms.items()
        },
    }
    figure = draw(norms, data.name, args.seeds[0])
    study.write(args, NAME, results, figure)
    print(markdown(results), end="")


def measure(data, network, seed):
    """Trains LeNet-5-BN for an epoch.

    Args:
        data: A `training.data.ImageData` of 32x32 images.
        network: String, `"adder"` or `"cnn"`.
        seed: Integer.

    Returns:
        A dict of `"layers"`, the names of the layers that have filters, and
        `"norms"`, an array of shape `(steps, layers)`.
    """
    args = train_mnist.parse_arguments(
        [f"--network={network}", f"--seed={seed}"]
    )
    batch_size = train_mnist.default_batch_size(data)
    keras.utils.set_random_seed(seed)
    model = loop.build_model(LeNet5, args, data.classes)
    layers = filter_layers(model)
    norms_of = make_step(model, layers)
    batches, _ = data.training_batches(batch_size, seed, 0, 1)
    norms = [norms_of(images, labels).numpy() for images, labels in batches]
    names = [layer.name for layer in layers]
    return {"layers": names, "norms": np.array(norms)}


def filter_layers(model):
    """The convolutions and dense layers, of either kind, in order."""
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def make_step(model, layers):
    """A function of a batch that trains, and returns the norms before that."""
    loss = keras.losses.SparseCategoricalCrossentropy()
    variables = model.trainable_variables
    kernels = [layer.kernel for layer in layers]
    # Variables are told apart by identity: equality compares their values.
    positions = [
        next(i for i, v in enumerate(variables) if v is kernel)
        for kernel in kernels
    ]

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        gradients = tape.gradient(value, [v.value for v in variables])
        norms = tf.stack([tf.norm(gradients[i]) for i in positions])
        # After the norms: an update must not come before them.
        with tf.control_dependencies([norms]):
            model.optimizer.apply(gradients, variables)
        return norms

    return step


def summary(norms):
    """Mean over runs of the first step's norm and of the epoch's median.

    Args:
        norms: List of arrays of shape `(steps, layers)`, one of each seed.

    Returns:
        A dict of two lists, a number for each layer.
    """
    norms = np.array(norms)
    return {
        "first_step": norms[:, 0].mean(0).tolist(),
        "median_of_epoch": np.median(norms, axis=1).mean(0).tolist(),
    }


def write_steps(path, norms, seeds):
    """Writes a row for each step of each run."""
    with runs.replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            layers = norms["adder"][0]["layers"]
            writer.writerow(["network", "seed", "step", *layers])
            for network, measured in norms.items():
                for seed, run in zip(seeds, measured):
                    for step, row in enumerate(run["norms"], 1):
                        words = [f"{norm:.6g}" for norm in row]
                        writer.writerow([network, seed, step, *words])


def draw(norms, data, seed):
    """Draws the first seed's norms against steps, a panel for each network."""
    figure, panels = plt.subplots(
        1, 2, figsize=(11, 4.4), sharey=True, layout="constrained"
    )
    for axes, (network, measured) in zip(panels, norms.items()):
        run = measured[0]
        steps = np.arange(1, len(run["norms"]) + 1)
        for index, layer in enumerate(run["layers"]):
            axes.plot(
                steps,
                run["norms"][:, index],
                c=f"C{index}",
                lw=1.2,
                label=layer,
            )
        axes.set_yscale("log")
        axes.set(
            title=study.NETWORKS[network], xlabel="step of the first epoch"
        )
        axes.grid(True, which="both", alpha=0.25)
    panels[0].set_ylabel("l2 norm of the filters' gradient (log scale)")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside right center",
        title="layer",
    )
    figure.suptitle(
        f"{study.data_title(data)}: gradients of LeNet-5-BN by layer "
        f"(seed {seed})"
    )
    return figure


def markdown(results):
    """The table of a `gradients.json`."""
    data = study.data_title(results["data"])
    head = ["l2 norm of the gradient", *results["adder"]["layers"]]
    rows = []
    for network, title in study.NETWORKS.items():
        paper = [f"{norm:.4f}" for norm in results["paper"][network]]
        missing = ["-"] * (len(head) - 1 - len(paper))
        rows.append([f"{title}, paper", *paper, *missing])
        for field in ("first_step", "median_of_epoch"):
            words = field.replace("_", " ")
            norms = [f"{norm:.4f}" for norm in results[network][field]]
            rows.append([f"{title}, {data}, {words}", *norms])
    return study.table(head, rows)


if __name__ == "__main__":
    main()
