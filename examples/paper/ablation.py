"""Learning curves of the paper's four schemes of training an AdderNet.

    python examples/paper/ablation.py

Filters' gradients are the full-precision X - F or its sign, which is the true
derivative; they are rescaled to a fixed norm (ALR) or multiplied by 100 (ILR).
LeNet-5-BN on MNIST by the paper's recipe, but for 20 epochs instead of 50, in
which the order is settled: twelve runs, three seeds of each scheme.

Writes ablation.json, ablation.csv (the curves) and ablation.png.
"""

import csv
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402
from training import runs  # noqa: E402

NAME = "ablation"
# Filter gradient, optimizer, and the test accuracy in the paper.
SCHEMES = (
    ("full_precision", "alr", 0.9940),
    ("full_precision", "ilr", 0.9899),
    ("sign", "alr", 0.9799),
    ("sign", "ilr", 0.9772),
)
GRADIENTS = {
    "full_precision": "full-precision gradient",
    "sign": "sign gradient",
}
CSV_FIELDS = (
    "filter_gradient",
    "optimizer",
    "seed",
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
)


def main(argv=None):
    parser = study.make_parser(
        __doc__, epochs=20, fast_epochs=10, seeds=[1, 2, 3]
    )
    args = study.parse(parser, argv)
    trainings = {
        (gradient, optimizer): [
            study.lenet5(
                args,
                "adder",
                seed,
                optimizer=optimizer,
                filter_gradient=gradient,
            )
            for seed in args.seeds
        ]
        for gradient, optimizer, _ in SCHEMES
    }
    study.train(sum(trainings.values(), []), args)
    histories = {
        scheme: [study.history_of(training) for training in group]
        for scheme, group in trainings.items()
    }
    write_curves(args.results / f"{NAME}.csv", histories, args.seeds)
    results = {
        "data": args.data,
        "epochs": args.epochs,
        "seeds": args.seeds,
        "schemes": [
            {
                "filter_gradient": gradient,
                "optimizer": optimizer,
                "paper": paper,
                "test_accuracies": [
                    study.results_of(training)["test_accuracy"]
                    for training in trainings[gradient, optimizer]
                ],
            }
            for gradient, optimizer, paper in SCHEMES
        ],
    }
    study.write(args, NAME, results, draw(histories, args.data))
    print(markdown(results), end="")


def write_curves(path, histories, seeds):
    """Writes a row for each epoch of each run."""
    with runs.replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, CSV_FIELDS, extrasaction="ignore", lineterminator="\n"
            )
            writer.writeheader()
            for (gradient, optimizer), group in histories.items():
                for seed, history in zip(seeds, group):
                    for row in history:
                        writer.writerow(
                            {
                                "filter_gradient": gradient,
                                "optimizer": optimizer,
                                "seed": seed,
                                **row,
                            }
                        )


def draw(histories, data):
    """Draws accuracy and loss on the test images against epochs."""
    figure, (accuracy, loss) = plt.subplots(
        1, 2, figsize=(11, 4.4), layout="constrained"
    )
    for index, ((gradient, optimizer), group) in enumerate(histories.items()):
        label = f"{GRADIENTS[gradient]}, {optimizer.upper()}"
        for axes, field, scale in (
            (accuracy, "val_accuracy", 100),
            (loss, "val_loss", 1),
        ):
            curves = scale * np.array(
                [[row[field] for row in history] for history in group]
            )
            epochs = np.arange(1, curves.shape[1] + 1)
            colour = f"C{index}"
            if len(curves) > 1:
                axes.plot(epochs, curves.T, c=colour, lw=0.6, alpha=0.35)
            axes.plot(epochs, curves.mean(0), c=colour, lw=1.8, label=label)
    accuracy.set_ylim(*accuracy_limits(histories))
    accuracy.set(
        title="Test accuracy", xlabel="epoch", ylabel="test accuracy, %"
    )
    loss.set_yscale("log")
    loss.set(title="Test loss", xlabel="epoch", ylabel="cross-entropy, nats")
    for axes in (accuracy, loss):
        axes.grid(True, which="both", alpha=0.25)
    accuracy.legend(loc="lower right")
    seeds = len(next(iter(histories.values())))
    figure.suptitle(
        f"{study.data_title(data)}: AdderNet LeNet-5-BN by gradient of the "
        f"filters and learning rate ({seeds} seed{'s' if seeds > 1 else ''})"
    )
    return figure


def accuracy_limits(histories):
    """Shows all ends whole, at the cost of the first epochs."""
    ends = [
        100 * row["val_accuracy"]
        for group in histories.values()
        for history in group
        for row in history[len(history) // 5 :]
    ]
    low, high = np.percentile(ends, 4), max(ends)
    margin = 0.06 * max(high - low, 0.5)
    return low - margin, min(high + margin, 100 + margin)


def markdown(results):
    """The table of an `ablation.json`."""
    data = study.data_title(results["data"])
    seeds = ", ".join(map(str, results["seeds"]))
    head = [
        "filter gradient",
        "learning rate",
        "paper, MNIST, %",
        f"here, {data}, %, seeds {seeds}",
        "seed by seed",
    ]
    rows = [
        [
            scheme["filter_gradient"].replace("_", " "),
            scheme["optimizer"].upper(),
            f"{100 * scheme['paper']:.2f}",
            study.percent(scheme["test_accuracies"]),
            ", ".join(f"{100 * a:.2f}" for a in scheme["test_accuracies"]),
        ]
        for scheme in results["schemes"]
    ]
    return study.table(head, rows)


if __name__ == "__main__":
    main()
