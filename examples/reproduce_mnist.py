"""Reproduces the MNIST figures: three seeds of the AdderNet and its CNN twin.

    python examples/reproduce_mnist.py

Runs that are finished are skipped and runs that were killed resume, so the
same command may be given again at any time. Everything is trained in `runs/`;
logs, the table and the picture go to `results/mnist/`.
"""

import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

from training import flags
from training import runs

HERE = pathlib.Path(__file__).parent
LOG = "log.txt"
ERRORS = "stderr.txt"


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

    plan = {
        folder / f"{network}-seed{seed}": [
            f"--network={network}",
            f"--seed={seed}",
        ]
        for seed in args.seeds
        for network in ("adder", "cnn")
    }
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        codes = list(pool.map(lambda item: train(*item, args), plan.items()))
    if any(codes):
        sys.exit("Some runs failed; the same command goes on with them.")
    for run in plan:
        keep_logs(run, results / run.name)
    call("summarize_runs.py", *plan, f"--output={results}")
    call("plot_history.py", *plan, f"--output={results / 'curves.png'}")


def train(output, flags, args):
    """Runs `train_mnist.py` in a process of its own; returns its exit code."""
    if runs.is_finished(output):
        say(f"{output}: finished before")
        return 0
    command = [
        sys.executable,
        "-u",  # The log is to be read while it grows.
        str(HERE / "train_mnist.py"),
        f"--data={args.data}",
        f"--epochs={args.epochs}",
        f"--output={output}",
        "--verbose=2",
        *flags,
    ]
    if args.data_dir:
        command.append(f"--data-dir={args.data_dir}")
    if args.jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // args.jobs)
        command.append(f"--threads={threads}")
    output.mkdir(parents=True, exist_ok=True)
    say(f"{output}: training, see {output / LOG}")
    # Appended to, since a resumed run goes on with the log as well.
    errors = output / ERRORS
    with (
        open(output / LOG, "a", encoding="utf-8") as log,
        open(errors, "w", encoding="utf-8") as error_log,
    ):
        code = subprocess.run(
            command, stdout=log, stderr=error_log
        ).returncode
    if code:
        last = (errors.read_text("utf-8").splitlines() or [""])[-1]
        say(f"{output}: failed, see {errors}: {last}")
    else:
        say(f"{output}: done")
    return code


def keep_logs(run, folder):
    """Copies the small files of a run: its figures and how they came about."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (runs.HISTORY, runs.RESULTS, LOG, "settings.json"):
        shutil.copyfile(run / name, folder / name)


def say(line):
    # In one piece: lines of concurrent runs are not to be mixed.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def call(script, *arguments):
    subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)], check=True
    )


if __name__ == "__main__":
    main()
