"""Reproduces the MNIST figures: three seeds of the AdderNet and its CNN twin.

    python examples/reproduce_mnist.py

Runs that are finished are skipped and runs that were killed resume, so the
same command may be given again at any time. Everything is trained in `runs/`;
logs, the table and the picture go to `results/mnist/`.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

from training import flags
from training import processes
from training import runs

HERE = pathlib.Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", help="as in train_mnist.py")
    parser.add_argument(
        "--seeds", type=flags.seed, nargs="+", default=[1, 2, 3]
    )
    parser.add_argument("--epochs", type=flags.positive, default=50)
    parser.add_argument(
        "--jobs",
        type=flags.positive,
        default=1,
        help="runs at a time, which share the cores (default: %(default)s)",
    )
    parser.add_argument("--runs", type=pathlib.Path, help="default: runs/DATA")
    parser.add_argument(
        "--results", type=pathlib.Path, help="default: results/DATA"
    )
    args = parser.parse_args()
    folder = args.runs or pathlib.Path("runs") / args.data
    results = args.results or pathlib.Path("results") / args.data

    trainings = [
        processes.Training(
            script="train_mnist.py",
            folder=folder / f"{network}-seed{seed}",
            flags=(f"--network={network}", f"--seed={seed}"),
        )
        for seed in args.seeds
        for network in ("adder", "cnn")
    ]
    processes.train(trainings, args)
    folders = [training.folder for training in trainings]
    for run in folders:
        keep_logs(run, results / run.name)
    call("summarize_runs.py", *folders, f"--output={results}")
    call("plot_history.py", *folders, f"--output={results / 'curves.png'}")


def keep_logs(run, folder):
    """Copies the small files of a run: its figures and how they came about."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (runs.HISTORY, runs.RESULTS, runs.SETTINGS, processes.LOG):
        shutil.copyfile(run / name, folder / name)


def call(script, *arguments):
    subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)], check=True
    )


if __name__ == "__main__":
    main()
