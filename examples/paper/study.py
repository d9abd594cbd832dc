"""What the studies share: flags, the runs that they train, and how they write.

Runs are kept apart from what is made of them. A run lies in a folder under
`--runs`, as `train_mnist.py` leaves it; studies that need the same run share
it, and one that was killed resumes. What a study finds goes to `--results`: a
JSON file, perhaps a CSV file, and a picture, all named after the study.
"""

import argparse
import os
import pathlib

import matplotlib

from training import flags
from training import runs
from training.processes import Training
from training.processes import say
from training.processes import train

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

# Of the paper's recipe for MNIST. Shorter and longer runs lie elsewhere.
EPOCHS = 50
# What a study is tried out on: it takes no download.
FAST_DATA = "digits"
NETWORKS = {"adder": "AdderNet", "cnn": "CNN"}
TITLES = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet2012": "ImageNet",
}
COLOURS = {"adder": "C0", "cnn": "C1", "bnn": "C2"}


def make_parser(doc, epochs=None, fast_epochs=None, seeds=None, data=True):
    """The command line of a study.

    Args:
        doc: String, the docstring of the script.
        epochs, fast_epochs: Integers, how long the study's runs train in the
            full and in the fast form. `None` if it has none.
        seeds: List of integers, those of the full form; the fast form takes
            the first one. `None` if seeds play no part.
        data: Boolean. Whether the study takes a data set.

    Returns:
        An `argparse.ArgumentParser` for `parse()`.
    """
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(full_epochs=epochs, fast_epochs=fast_epochs)
    parser.set_defaults(full_seeds=seeds)
    parser.add_argument(
        "--fast",
        action="store_true",
        help="a minute or two, to see that it works: the digits of "
        "scikit-learn, few epochs, one seed, and results among the runs",
    )
    if data:
        parser.add_argument("--data", help="default: mnist; digits if --fast")
        parser.add_argument("--data-dir", help="as in train_mnist.py")
    if epochs:
        parser.add_argument(
            "--epochs",
            type=flags.positive,
            help=f"default: {epochs}; {fast_epochs} if --fast",
        )
        parser.add_argument(
            "--jobs",
            type=flags.positive,
            default=1,
            help="runs at a time, which share the cores (default: %(default)s)",
        )
    if seeds:
        parser.add_argument(
            "--seeds",
            type=flags.seed,
            nargs="+",
            help=f"default: {' '.join(map(str, seeds))}; {seeds[0]} if --fast",
        )
    parser.add_argument(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("runs"),
        help="where runs are looked for, and trained if they are not there "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        help="default: results/paper; RUNS/paper-fast if --fast",
    )
    return parser


def parse(parser, argv=None):
    """Parses the flags, and fills in those that depend on `--fast`."""
    args = parser.parse_args(argv)
    if args.results is None:
        full = pathlib.Path("results/paper")
        args.results = args.runs / "paper-fast" if args.fast else full
    if getattr(args, "data", "") is None:
        args.data = FAST_DATA if args.fast else "mnist"
    if getattr(args, "epochs", 0) is None:
        args.epochs = args.fast_epochs if args.fast else args.full_epochs
    if getattr(args, "seeds", ()) is None:
        args.seeds = args.full_seeds[: 1 if args.fast else None]
    return args


def lenet5(
    args,
    network,
    seed,
    optimizer="alr",
    filter_gradient="full_precision",
    eta=0.2,
):
    """LeNet-5-BN by the paper's recipe, or by one that differs in a point.

    With the recipe's own epochs these are the runs of `reproduce_mnist.py`,
    and lie where it trains them.
    """
    name = [network]
    if optimizer != "alr":
        name.append(optimizer)
    if filter_gradient == "sign":
        name.append("sign")
    if eta != 0.2:
        name.append(f"eta{eta:g}")
    return Training(
        script="train_mnist.py",
        folder=run_folder(args) / "-".join([*name, f"seed{seed}"]),
        flags=(
            f"--network={network}",
            f"--seed={seed}",
            f"--optimizer={optimizer}",
            f"--filter-gradient={filter_gradient}",
            f"--eta={eta:g}",
        ),
    )


def variant(args, model, network, seed, normalized=True, activated=True):
    """A network that only these studies train, by `train_variant.py`."""
    name = [model, network]
    flags = [f"--model={model}", f"--network={network}", f"--seed={seed}"]
    if not normalized:
        name.append("no-bn")
        flags.append("--no-batch-normalization")
    if not activated:
        name.append("no-relu")
        flags.append("--no-relu")
    return Training(
        script="paper/train_variant.py",
        folder=run_folder(args) / "-".join([*name, f"seed{seed}"]),
        flags=tuple(flags),
    )


def run_folder(args):
    """Where runs on this data lie; runs of other lengths do not get mixed."""
    length = "" if args.epochs == EPOCHS else f"-{args.epochs}epochs"
    return args.runs / f"{args.data}{length}"


def results_of(training):
    return runs.read_settings(training.folder / runs.RESULTS)


def history_of(training):
    return runs.read_history(training.folder / runs.HISTORY)


def load_model(training):
    """The trained model of a run."""
    # Only here: studies that draw logs alone do without TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    import keras_adder  # noqa: F401  Registers its layers.

    return keras.saving.load_model(training.folder / "model.keras")


def trained_kernels(args):
    """Trains LeNet-5-BN, both networks, and returns their filters.

    Returns:
        A dict from `"adder"` and `"cnn"` to a list of pairs, one a layer: its
        name, and its filters, an array.
    """
    trainings = {
        network: lenet5(args, network, args.seeds[0]) for network in NETWORKS
    }
    train(trainings.values(), args)
    return {
        network: kernels(load_model(training))
        for network, training in trainings.items()
    }


def kernels(model):
    """Names and filters of the convolutions and dense layers, in order."""
    return [
        (layer.name, layer.kernel.numpy())
        for layer in model.layers
        if hasattr(layer, "kernel")
    ]


def write(args, name, results, figure=None):
    """Writes what a study found: `NAME.json` and `NAME.png`.

    Args:
        args: The parsed flags.
        name: String, the study's.
        results: Dict of what can be written as JSON. The command that was
            given is added to it.
        figure: A Matplotlib figure, which is closed.
    """
    path = args.results / f"{name}.json"
    runs.write_json(path, {"command": runs.command_line(), **results})
    say(str(path))
    if figure is not None:
        path = args.results / f"{name}.png"
        figure.savefig(path, dpi=130)
        plt.close(figure)
        say(str(path))


def table(head, rows):
    """A table in Markdown; the first column to the left, others to the right.

    Args:
        head: List of strings.
        rows: List of lists of strings.
    """
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def data_title(name):
    """How a data set is called in pictures and tables."""
    return TITLES.get(name, name)


def percent(accuracies):
    """Mean, and standard deviation if there are several, as "99.35 ± 0.09"."""
    mean, deviation = mean_and_deviation(accuracies)
    if deviation is None:
        return f"{100 * mean:.2f}"
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def mean_and_deviation(values):
    """Mean and sample standard deviation; that of one value is `None`."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, variance**0.5
