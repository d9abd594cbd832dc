"""Training runs in processes of their own, several at a time."""

import concurrent.futures
import dataclasses
import os
import pathlib
import subprocess
import sys

from training import runs

EXAMPLES = pathlib.Path(__file__).resolve().parents[1]
LOG = "log.txt"
ERRORS = "stderr.txt"


@dataclasses.dataclass(frozen=True)
class Training:
    """A run that is needed.

    Attributes:
        script: String, path of the training script under `examples/`.
        folder: Path of the run's folder.
        flags: Tuple of strings, what the recipe's defaults are changed to.
    """

    script: str
    folder: pathlib.Path
    flags: tuple


def train(trainings, args):
    """Trains what is not finished, `args.jobs` at a time.

    Exits if a run fails, or if a folder holds one of another length. The same
    command goes on where it stopped.

    Args:
        trainings: Iterable of `Training`.
        args: The parsed flags: `data`, `data_dir`, `epochs` and `jobs`.
    """
    # Of those that lie in one folder, one.
    distinct = {training.folder: training for training in trainings}.values()
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        codes = list(pool.map(lambda item: _train(item, args), distinct))
    if any(codes):
        sys.exit("Some runs failed; the same command goes on with them.")


def say(line):
    # In one piece: lines of concurrent runs are not to be mixed.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _train(training, args):
    """Runs a training in a process of its own; returns its exit code."""
    folder = training.folder
    if runs.is_finished(folder):
        epochs = runs.read_settings(folder / runs.RESULTS)["epochs"]
        if epochs != args.epochs:
            say(f"{folder}: failed, holds a run of {epochs} epochs")
            return 1
        say(f"{folder}: finished before")
        return 0
    command = [
        sys.executable,
        "-u",  # The log is to be read while it grows.
        str(EXAMPLES / training.script),
        f"--data={args.data}",
        f"--epochs={args.epochs}",
        f"--output={folder}",
        "--verbose=2",
        *training.flags,
    ]
    if args.data_dir:
        command.append(f"--data-dir={args.data_dir}")
    if args.jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // args.jobs)
        command.append(f"--threads={threads}")
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{folder}: training, see {folder / LOG}")
    # Appended to, since a resumed run goes on with the log as well.
    with (
        open(folder / LOG, "a", encoding="utf-8") as log,
        open(folder / ERRORS, "w", encoding="utf-8") as errors,
    ):
        code = subprocess.run(command, stdout=log, stderr=errors).returncode
    if code:
        lines = (folder / ERRORS).read_text("utf-8").splitlines() or [""]
        say(f"{folder}: failed, see {folder / ERRORS}: {lines[-1]}")
    else:
        say(f"{folder}: done")
    return code
