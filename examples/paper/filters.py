"""The filters of LeNet-5-BN's first layer: AdderNet beside CNN.

    python examples/paper/filters.py

The networks are those of `reproduce_mnist.py`. An adder filter is a template
that patches are compared with, in the units of the normalized pixels; a
convolution's filter is a direction, whose scale the batch normalization after
it takes away. So each network has a scale of grey of its own.

Writes filters.json and filters.png.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402

NAME = "filters"
FIELDS = ("mean", "std", "cosine")


def main(argv=None):
    parser = study.make_parser(
        __doc__, epochs=study.EPOCHS, fast_epochs=10, seeds=[1]
    )
    args = study.parse(parser, argv)
    filters = {
        network: kernels[0]
        for network, kernels in study.trained_kernels(args).items()
    }
    results = {
        "data": args.data,
        "epochs": args.epochs,
        "seed": args.seeds[0],
        **{
            network: {
                **summary(kernel),
                "filters": filter_images(kernel).round(6).tolist(),
            }
            for network, (_, kernel) in filters.items()
        },
    }
    study.write(args, NAME, results, draw(filters, args))
    print(markdown(results), end="")


def filter_images(kernel):
    """A first layer's filters as images, an array `(filters, height, width)`.

    Args:
        kernel: Array of shape `(height, width, 1, filters)`.
    """
    return np.moveaxis(kernel[:, :, 0], -1, 0)


def summary(kernel):
    """How the filters lie in the space of patches.

    Args:
        kernel: Array of shape `(height, width, 1, filters)`.

    Returns:
        A dict: `"mean"` and `"std"` of all weights, and `"cosine"`, the
        greatest absolute cosine of two different filters.
    """
    vectors = filter_images(kernel).reshape(kernel.shape[-1], -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.abs(vectors @ vectors.T)
    np.fill_diagonal(cosines, 0)
    return {
        "mean": float(kernel.mean()),
        "std": float(kernel.std()),
        "cosine": float(cosines.max()),
    }


def draw(filters, args):
    """Draws a row of filters for each network."""
    columns = next(iter(filters.values()))[1].shape[-1]
    figure, grid = plt.subplots(
        len(filters),
        columns,
        figsize=(1.5 * columns + 1.2, 3.9),
        layout="constrained",
    )
    for panels, (network, (_, kernel)) in zip(grid, filters.items()):
        images = filter_images(kernel)
        low, high = images.min(), images.max()
        for index, (axes, image) in enumerate(zip(panels, images), 1):
            shown = axes.imshow(image, cmap="gray", vmin=low, vmax=high)
            axes.set(xticks=[], yticks=[], title=f"filter {index}")
        panels[0].set_ylabel(study.NETWORKS[network], size="large")
        figure.colorbar(shown, ax=panels, label="weight", pad=0.01)
    figure.suptitle(
        f"{study.data_title(args.data)}: first layer of LeNet-5-BN after "
        f"{args.epochs} epochs"
    )
    return figure


def markdown(results):
    """The table of a `filters.json`."""
    head = ["first layer", "mean", "standard deviation", "greatest abs(cosine)"]
    rows = [
        [title, *(f"{results[network][field]:.3f}" for field in FIELDS)]
        for network, title in study.NETWORKS.items()
    ]
    return study.table(head, rows)


if __name__ == "__main__":
    main()
