"""Test accuracy against eta, the one number that ALR adds to the recipe.

    python examples/paper/eta.py

ALR rescales the gradient of an adder filter of k elements to the norm
eta * sqrt(k). LeNet-5-BN on MNIST by the paper's recipe, but for 20 epochs
instead of 50, one run for each eta; `--seeds` makes it more.

Writes eta.json and eta.png.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402
from training import flags  # noqa: E402

NAME = "eta"
ETAS = [1.0, 0.5, 0.2, 0.1, 0.05]


def main(argv=None):
    parser = study.make_parser(__doc__, epochs=20, fast_epochs=10, seeds=[1])
    parser.add_argument(
        "--etas",
        type=flags.finite(zero=False),
        nargs="+",
        default=ETAS,
        help="default: the paper's, " + " ".join(f"{eta:g}" for eta in ETAS),
    )
    args = study.parse(parser, argv)
    trainings = {
        eta: [study.lenet5(args, "adder", seed, eta=eta) for seed in args.seeds]
        for eta in args.etas
    }
    study.train(sum(trainings.values(), []), args)
    results = {
        "data": args.data,
        "epochs": args.epochs,
        "seeds": args.seeds,
        "etas": [
            {
                "eta": eta,
                "test_accuracies": [
                    study.results_of(training)["test_accuracy"]
                    for training in group
                ],
            }
            for eta, group in trainings.items()
        ],
    }
    study.write(args, NAME, results, draw(results))
    print(markdown(results), end="")


def draw(results):
    """Draws the test accuracy against eta: seeds, their mean and spread."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    etas = [row["eta"] for row in results["etas"]]
    means, deviations = zip(
        *(
            study.mean_and_deviation(row["test_accuracies"])
            for row in results["etas"]
        )
    )
    several = deviations[0] is not None
    axes.errorbar(
        etas,
        [100 * mean for mean in means],
        yerr=[100 * d for d in deviations] if several else None,
        fmt="o-",
        capsize=4,
        c=study.COLOURS["adder"],
        label="mean ± standard deviation" if several else None,
    )
    if several:
        for row in results["etas"]:
            accuracies = [100 * a for a in row["test_accuracies"]]
            axes.plot(
                [row["eta"]] * len(accuracies),
                accuracies,
                "x",
                c="0.4",
                label="one seed" if row is results["etas"][0] else None,
            )
        axes.legend()
    axes.set_xscale("log")
    axes.set_xticks(etas, [f"{eta:g}" for eta in etas])
    axes.minorticks_off()
    axes.grid(True, alpha=0.25)
    axes.set(
        title=f"{study.data_title(results['data'])}: AdderNet LeNet-5-BN, "
        f"{results['epochs']} epochs",
        xlabel="eta of the adaptive learning rate (log scale)",
        ylabel="test accuracy, %",
    )
    return figure


def markdown(results):
    """The table of an `eta.json`."""
    data = study.data_title(results["data"])
    seeds = ", ".join(map(str, results["seeds"]))
    rows = [
        [
            f"{row['eta']:g}",
            study.percent(row["test_accuracies"]),
            ", ".join(f"{100 * a:.2f}" for a in row["test_accuracies"]),
        ]
        for row in results["etas"]
    ]
    head = ["eta", f"here, {data}, %, seeds {seeds}", "seed by seed"]
    return study.table(head, rows)


if __name__ == "__main__":
    main()
