"""Histograms of the weights of LeNet-5-BN: Laplace or Gauss?

    python examples/paper/weights.py

An l1 distance goes with a Laplace distribution of the weights, as a product
goes with a Gaussian one, and the paper shows an AdderNet whose weights look
like the former beside a CNN whose weights look like the latter. Here both
distributions are fitted to each layer's weights by maximum likelihood, and
their log-likelihoods tell which one fits better. The networks are those of
`reproduce_mnist.py`.

Writes weights.json and weights.png.
"""

import math
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402

NAME = "weights"


def main(argv=None):
    parser = study.make_parser(
        __doc__, epochs=study.EPOCHS, fast_epochs=10, seeds=[1]
    )
    args = study.parse(parser, argv)
    kernels = study.trained_kernels(args)
    results = {
        "data": args.data,
        "epochs": args.epochs,
        "seed": args.seeds[0],
        **{
            network: [
                {"layer": name, "weights": kernel.size, **fits(kernel)}
                for name, kernel in layers
            ]
            for network, layers in kernels.items()
        },
    }
    study.write(args, NAME, results, draw(kernels, args))
    print(markdown(results), end="")


def fits(weights):
    """Fits a Laplace and a Gaussian distribution by maximum likelihood.

    Args:
        weights: Array of any shape.

    Returns:
        A dict of two dicts, `"laplace"` and `"gauss"`: `"location"`, the
        median or the mean; `"scale"`, the mean absolute or the standard
        deviation; and `"log_likelihood"`, in nats a weight.
    """
    weights = np.asarray(weights, "float64").ravel()
    median, mean = np.median(weights), weights.mean()
    deviation = np.abs(weights - median).mean()
    sigma = weights.std()
    return {
        "laplace": {
            "location": float(median),
            "scale": float(deviation),
            # log(1 / 2b) - |w - m| / b, of which the last term has mean 1.
            "log_likelihood": float(-np.log(2 * deviation) - 1),
        },
        "gauss": {
            "location": float(mean),
            "scale": float(sigma),
            "log_likelihood": float(
                -np.log(sigma) - math.log(2 * math.pi) / 2 - 0.5
            ),
        },
    }


def density(name, fit, x):
    """The density of a fitted distribution, as `fits()` returns it."""
    z = (x - fit["location"]) / fit["scale"]
    if name == "laplace":
        return np.exp(-np.abs(z)) / (2 * fit["scale"])
    return np.exp(-(z**2) / 2) / (math.sqrt(2 * math.pi) * fit["scale"])


def draw(kernels, args):
    """Draws a histogram and both fits for each layer of each network."""
    columns = max(map(len, kernels.values()))
    figure, grid = plt.subplots(
        len(kernels),
        columns,
        figsize=(3 * columns, 5.6),
        squeeze=False,
        layout="constrained",
    )
    for panels, (network, layers) in zip(grid, kernels.items()):
        for axes, (name, kernel) in zip(panels, layers):
            draw_layer(axes, kernel)
            axes.set_title(f"{study.NETWORKS[network]}, {name}", size="medium")
        panels[0].set_ylabel("probability density")
    for axes in grid[-1]:
        axes.set_xlabel("weight")
    grid[0, 0].legend(fontsize="small", loc="upper left")
    figure.suptitle(
        f"{study.data_title(args.data)}: weights of LeNet-5-BN after "
        f"{args.epochs} epochs, and their log-likelihood in nats a weight"
    )
    return figure


def draw_layer(axes, kernel):
    # The few weights that lie far out would squash all others.
    low, high = np.quantile(kernel, [0.0025, 0.9975])
    bins = min(80, max(15, kernel.size // 60))
    heights, edges = np.histogram(kernel, bins, (low, high))
    width = edges[1] - edges[0]
    axes.bar(
        edges[:-1],
        heights / (kernel.size * width),
        width,
        align="edge",
        color="0.8",
    )
    x = np.linspace(low, high, 400)
    found = fits(kernel)
    for name, colour in (("laplace", "C3"), ("gauss", "C0")):
        fit = found[name]
        axes.plot(
            x, density(name, fit, x), c=colour, lw=1.4, label=name.title()
        )
    axes.locator_params(axis="x", nbins=4)
    axes.text(
        0.98,
        0.97,
        "\n".join(
            f"{name.title()} {fit['log_likelihood']:.3f}"
            for name, fit in found.items()
        ),
        transform=axes.transAxes,
        ha="right",
        va="top",
        size="small",
    )


def markdown(results):
    """The table of a `weights.json`."""
    head = [
        "log-likelihood, nats a weight",
        "weights",
        "Laplace",
        "Gauss",
        "fits better",
    ]
    rows = []
    for network, title in study.NETWORKS.items():
        for row in results[network]:
            laplace, gauss = (
                row[name]["log_likelihood"] for name in ("laplace", "gauss")
            )
            rows.append(
                [
                    f"{title}, {row['layer']}",
                    f"{row['weights']:,}",
                    f"{laplace:.3f}",
                    f"{gauss:.3f}",
                    "Laplace" if laplace > gauss else "Gauss",
                ]
            )
    return study.table(head, rows)


if __name__ == "__main__":
    main()
