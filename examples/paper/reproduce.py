"""Reproduces the paper's figures and tables, all of them or some.

    python examples/paper/reproduce.py --fast            # all, on small data
    python examples/paper/reproduce.py filters weights   # two, in full

Each item is a script of its own, which says what it does; `docs/paper.md` has
them all with what came out. Runs that are finished are not trained again, so
the same command may be given again at any time. In full, with nothing trained
before, all of them take about two and a half hours on two cores.
"""

import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from training import flags  # noqa: E402

# Whether an item reads data, and whether it has runs to train. The last one
# collects what is there.
ITEMS = {
    "ablation": (True, True),
    "eta": (True, True),
    "features": (True, True),
    "filters": (True, True),
    "weights": (True, True),
    "gradients": (True, False),
    "normalization": (True, True),
    "operations": (False, False),
    "classification": (False, False),
}


def main(argv=None):
    args = parse_arguments(argv)
    failed = []
    for item in args.items or ITEMS:
        command = [sys.executable, *command_of(item, args)]
        print(f"\n{item}", flush=True)
        if subprocess.run(command).returncode:
            failed.append(item)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "items",
        nargs="*",
        metavar="ITEM",
        help=f"{', '.join(ITEMS)} (default: all)",
    )
    parser.add_argument("--fast", action="store_true", help="as in each item")
    parser.add_argument("--data-dir", help="as in train_mnist.py")
    parser.add_argument(
        "--epochs", type=flags.positive, help="default: each item's own"
    )
    parser.add_argument(
        "--seeds", type=flags.seed, nargs="+", help="default: each item's own"
    )
    parser.add_argument(
        "--jobs", type=flags.positive, help="runs at a time (default: 1)"
    )
    parser.add_argument("--runs", help="as in each item")
    parser.add_argument("--results", help="as in each item")
    args = parser.parse_args(argv)
    for item in args.items:
        if item not in ITEMS:
            parser.error(f"no item {item}: there are {', '.join(ITEMS)}")
    return args


def command_of(item, args):
    """The script of an item and its flags, a list of strings."""
    has_data, has_runs = ITEMS[item]
    names = ["runs", "results"]
    names += ["data_dir"] if has_data else []
    names += ["epochs", "jobs"] if has_runs else []
    command = [str(HERE / f"{item}.py"), *(["--fast"] if args.fast else [])]
    for name in names:
        value = getattr(args, name)
        if value is not None:
            command.append(f"--{name.replace('_', '-')}={value}")
    if has_data and args.seeds:
        command += ["--seeds", *map(str, args.seeds)]
    return command


if __name__ == "__main__":
    main()
