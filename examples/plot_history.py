"""Draws the learning curves of several runs into one picture.

    python examples/plot_history.py runs/mnist/* --output curves.png

Runs of the same model share a colour: a thin line for each seed, a thick one
for their mean.
"""

import argparse
import pathlib

import matplotlib
import numpy as np

from training import runs

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--title", help="default: the data set's name")
    args = parser.parse_args()

    groups = {}
    titles = set()
    for run in args.runs:
        # An unfinished run may be looked at as well.
        for name in (runs.SETTINGS, runs.HISTORY):
            if not (run / name).exists():
                parser.exit(1, f"{run} is not a run of an epoch: no {name}.\n")
        held = runs.read_settings(run / runs.SETTINGS)
        history = runs.read_history(run / runs.HISTORY)
        groups.setdefault(runs.long_label(held), []).append(history)
        titles.add(held["data"])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw(groups, args.title or ", ".join(sorted(titles)), args.output)
    print(args.output)


def draw(groups, title, path):
    """Draws test accuracy and loss against epochs.

    Args:
        groups: Dict from a label to a list of histories.
        title: String.
        path: Path of the PNG.
    """
    figure, (accuracy, loss) = plt.subplots(
        1, 2, figsize=(11, 4.2), layout="constrained"
    )
    for index, (label, histories) in enumerate(groups.items()):
        colour = f"C{index}"
        seeds = f"{len(histories)} seed{'s' if len(histories) > 1 else ''}"
        label = f"{label} ({seeds})"
        _curves(accuracy, histories, "val_accuracy", 100, colour, "-", label)
        _curves(loss, histories, "val_loss", 1, colour, "-", f"{label}, test")
        _curves(loss, histories, "loss", 1, colour, ":", f"{label}, training")
    accuracy.set(
        title="Test accuracy", xlabel="epoch", ylabel="test accuracy, %"
    )
    accuracy.set_ylim(*_accuracy_limits(groups))
    loss.set(title="Loss", xlabel="epoch", ylabel="cross-entropy, nats")
    loss.set_yscale("log")
    for axes in (accuracy, loss):
        axes.grid(True, which="both", alpha=0.25)
        axes.legend()
    figure.suptitle(f"{title}: learning curves")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _curves(axes, histories, field, scale, colour, style, label):
    curves = [
        np.array([scale * row[field] for row in history])
        for history in histories
    ]
    epochs = np.arange(1, max(map(len, curves)) + 1)
    if len(curves) > 1:
        for curve in curves:
            axes.plot(
                epochs[: len(curve)], curve, style, c=colour, lw=0.7, alpha=0.35
            )
    common = min(map(len, curves))
    mean = np.mean([curve[:common] for curve in curves], axis=0)
    axes.plot(epochs[:common], mean, style, c=colour, lw=1.8, label=label)


def _accuracy_limits(groups):
    """Leaves out the first tenth of the epochs, which would squash the rest."""
    shown = [
        100 * row["val_accuracy"]
        for histories in groups.values()
        for history in histories
        for row in history[len(history) // 10 :]
    ]
    # A few early outliers are not worth the space either.
    low, high = np.percentile(shown, 3), max(shown)
    margin = 0.05 * max(high - low, 0.1)
    return low - margin, min(high + 3 * margin, 100 + margin)


if __name__ == "__main__":
    main()
