"""The paper's classification tables, with the runs that were made here.

    python examples/paper/classification.py

Trains nothing: it looks through `results/` and `--runs` for finished runs of
`train_mnist.py`, `train_cifar.py` and `train_imagenet.py` that follow the
paper's recipe in all but the number of epochs and the batch size, and puts the
longest ones of each network, all their seeds, beside the paper's figures. What
is not there is called not run.

`--note` says what has to be known of a data set that differs from the
original; it is kept with the results.

Writes classification.json and classification.png.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402
from training import runs  # noqa: E402

NAME = "classification"
NETWORKS = {"cnn": "CNN", "adder": "AdderNet", "bnn": "BNN"}
# Epochs and weight decay of the paper's recipes.
RECIPES = {
    "mnist": (50, 5e-4),
    "cifar10": (400, 5e-4),
    "cifar100": (400, 5e-4),
    "imagenet2012": (150, 1e-4),
}
# What else all recipes have in common.
RECIPE = {"learning_rate": 0.1}
BATCH_SIZE = 256
ADDER_RECIPE = {
    "optimizer": "alr",
    "filter_gradient": "full_precision",
    "eta": 0.2,
}
# What a run may have been told in deviation from it.
DEVIATIONS = {
    "batch_normalization": True,
    "ema": None,
    "mixed_precision": False,
    "relu": True,
}
# Accuracies in percent, as strings. A tilde: not checked against a copy.
PAPER = (
    ("mnist", "lenet5", "LeNet-5-BN", "99.4", "99.40", None),
    ("cifar10", "vgg_small", "VGG-small", "93.80", "93.72", "89.80"),
    ("cifar10", "resnet20", "ResNet-20", "92.25", "91.84", "84.87"),
    ("cifar10", "resnet32", "ResNet-32", "~93.29", "93.01", "~86.74"),
    ("cifar100", "vgg_small", "VGG-small", "72.73", "72.64", "65.41"),
    ("cifar100", "resnet20", "ResNet-20", "68.14", "67.60", "54.14"),
    ("cifar100", "resnet32", "ResNet-32", "69.74", "~69.02", "56.21"),
    (
        "imagenet2012",
        "resnet18",
        "ResNet-18",
        "69.8 / 89.1",
        "67.0 / 87.6",
        "51.2 / 73.2",
    ),
    (
        "imagenet2012",
        "resnet50",
        "ResNet-50",
        "76.2 / 92.9",
        "74.9 / 91.7",
        "~55.8 / 78.4",
    ),
)


def main(argv=None):
    parser = study.make_parser(__doc__, data=False)
    parser.add_argument(
        "--note",
        type=note,
        action="append",
        default=[],
        metavar="DATA=TEXT",
        help='for example cifar10="images re-encoded as JPEG"',
    )
    args = study.parse(parser, argv)
    found = collect([pathlib.Path("results"), args.runs])
    results = {"notes": dict(args.note), "rows": assemble(found)}
    study.write(args, NAME, results, draw(results))
    print(markdown(results), end="")


def note(text):
    """Type of a flag: `DATA=TEXT`."""
    data, equals, words = text.partition("=")
    if not equals or data not in RECIPES:
        raise argparse.ArgumentTypeError(
            f"must be DATA=TEXT, DATA one of {', '.join(RECIPES)}, got {text}"
        )
    return data, words


def collect(folders):
    """The results of all finished runs below some folders, a list of dicts."""
    return [
        runs.read_settings(path)
        for folder in folders
        for path in sorted(folder.rglob(runs.RESULTS))
    ]


def follows_recipe(result):
    """Whether a run is one of the paper's, but for its length and batches."""
    if result["data"] not in RECIPES:
        return False
    _, weight_decay = RECIPES[result["data"]]
    wanted = RECIPE | {"weight_decay": weight_decay}
    if result["network"] == "adder":
        wanted |= ADDER_RECIPE
    return all(result.get(k) == v for k, v in wanted.items()) and all(
        result.get(k, v) == v for k, v in DEVIATIONS.items()
    )


def find(found, data, model, network):
    """The longest runs of a network, one for each seed.

    Of equally long runs, those with the paper's batch size.

    Args:
        found: List of dicts, as `collect()` returns it. Of several results of
            one seed the first one counts.
        data, model, network: Strings.

    Returns:
        A dict of the `"epochs"` and the `"batch_size"`, the list of `"seeds"`,
        and their `"test_accuracies"` and, where there are any,
        `"top5_accuracies"`; or `None`.
    """
    fitting = [
        result
        for result in found
        if follows_recipe(result)
        and result["data"] == data
        and result.get("model", "lenet5") == model
        and result["network"] == network
    ]
    if not fitting:
        return None

    def length(result):
        batch_size = result["batch_size"]
        return result["epochs"], batch_size == BATCH_SIZE, batch_size

    longest = max(map(length, fitting))
    by_seed = {}
    for result in fitting:
        if length(result) == longest:
            by_seed.setdefault(result["seed"], result)
    seeds = sorted(by_seed)
    accuracies = {
        "test_accuracies": [by_seed[s]["test_accuracy"] for s in seeds]
    }
    if all("test_top5_accuracy" in by_seed[seed] for seed in seeds):
        accuracies["top5_accuracies"] = [
            by_seed[seed]["test_top5_accuracy"] for seed in seeds
        ]
    epochs, _, batch_size = longest
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "seeds": seeds,
        **accuracies,
    }


def assemble(found):
    """The paper's rows, each with what was found of it."""
    return [
        {
            "data": data,
            "model": title,
            "recipe_epochs": RECIPES[data][0],
            "paper": dict(zip(NETWORKS, accuracies)),
            "here": {
                network: find(found, data, model, network)
                for network in NETWORKS
            },
        }
        for data, model, title, *accuracies in PAPER
    ]


def draw(results):
    """Draws accuracies of the paper (rings) and of runs here (dots)."""
    rows = results["rows"]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for place, row in enumerate(rows):
        for index, network in enumerate(NETWORKS):
            y = place + 0.22 * (index - 1)
            colour = study.COLOURS[network]
            if row["paper"][network] is not None:
                top1 = row["paper"][network].partition("/")[0].strip(" ~")
                axes.plot(float(top1), y, "o", mfc="w", mec=colour, ms=8)
            if row["here"][network] is not None:
                mean, _ = study.mean_and_deviation(
                    row["here"][network]["test_accuracies"]
                )
                axes.plot(100 * mean, y, "o", c=colour, ms=5)
    for network, title in NETWORKS.items():
        colour = study.COLOURS[network]
        axes.plot([], [], "o", mfc="w", mec=colour, label=f"{title}, paper")
        axes.plot([], [], "o", c=colour, ms=5, label=f"{title}, here")
    axes.set_yticks(
        range(len(rows)),
        [f"{study.data_title(r['data'])}, {r['model']}" for r in rows],
    )
    axes.invert_yaxis()
    axes.grid(True, alpha=0.25)
    axes.set(
        title="Classification: the paper's figures and runs here\n"
        "(of the epochs that the table gives)",
        xlabel="test accuracy (ImageNet: validation, top 1), %",
    )
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def markdown(results):
    """The table of a `classification.json`."""
    head = ["data", "model"]
    for title in NETWORKS.values():
        head += [f"{title}, paper", "here"]
    head.append("runs here")
    rows = []
    for row in results["rows"]:
        words = [study.data_title(row["data"]), row["model"]]
        for network in NETWORKS:
            words.append(row["paper"][network] or "-")
            words.append(accuracy(row["here"][network]))
        rows.append([*words, status(row)])
    table = study.table(head, rows)
    for data, text in results["notes"].items():
        table += f"\n{study.data_title(data)} here: {text}.\n"
    return table


def accuracy(here):
    """The cell of one network: top 1 and, where there is one, top 5."""
    if here is None:
        return "-"
    parts = [study.percent(here["test_accuracies"])]
    if "top5_accuracies" in here:
        parts.append(study.percent(here["top5_accuracies"]))
    return " / ".join(parts)


def status(row):
    """How long and how often the networks of a row were trained here."""
    groups = {}
    for network, here in row["here"].items():
        if here is None:
            if row["paper"][network] is None:
                continue
            how = "not run"
        else:
            seeds = len(here["seeds"])
            how = (
                f"{here['epochs']} of {row['recipe_epochs']} epochs, "
                f"{seeds} seed{'s' if seeds > 1 else ''}"
            )
            if here["batch_size"] != BATCH_SIZE:
                how += f", batches of {here['batch_size']}"
        groups.setdefault(how, []).append(NETWORKS[network])
    if len(groups) == 1:
        return "".join(groups)
    return "; ".join(f"{', '.join(who)}: {how}" for how, who in groups.items())


if __name__ == "__main__":
    main()
