"""The files that a run leaves, for programs that do without TensorFlow."""

import contextlib
import csv
import json
import os
import pathlib
import shlex
import sys

HISTORY = "history.csv"
RESULTS = "results.json"
HISTORY_FIELDS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)


@contextlib.contextmanager
def replacing(path):
    """Context of writing a file so that it is whole or not there.

    Gives the path of a temporary file beside `path`, which takes its place if
    the block ends without an exception.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since Keras goes by it.
    temporary = path.with_name(f".partial-{path.name}")
    yield temporary
    os.replace(temporary, path)


def read_json(path):
    return json.loads(pathlib.Path(path).read_text("utf-8"))


def write_json(path, value):
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def read_history(path):
    """Rows of a `history.csv`: a dict of numbers for each epoch."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {field: float(value) for field, value in row.items()}
            | {"epoch": int(row["epoch"])}
            for row in csv.DictReader(file)
        ]


def write_history(path, rows):
    with replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HISTORY_FIELDS)
            for row in rows:
                writer.writerow(f"{row[field]:.7g}" for field in HISTORY_FIELDS)


def is_finished(run):
    return (pathlib.Path(run) / RESULTS).exists()


def label(results):
    """How the model and optimizer of a run are called in tables and plots."""
    if not results["adder"]:
        return "CNN"
    words = ["AdderNet"]
    if results["optimizer"] != "alr":
        words.append(results["optimizer"].upper())
    if results["filter_gradient"] == "sign":
        words.append("sign gradient")
    return ", ".join(words)


def command_line():
    """The command that was given, from the root of the repository.

    Where prepared data lie is no part of it.
    """
    script = pathlib.Path(sys.argv[0]).resolve()
    root = pathlib.Path(__file__).resolve().parents[2]
    if script.is_relative_to(root):
        script = script.relative_to(root)
    words = [str(script), *sys.argv[1:]]
    for index, word in enumerate(words):
        if word == "--data-dir" and index + 1 < len(words):
            words[index + 1] = "DATA_DIR"
        elif word.startswith("--data-dir="):
            words[index] = "--data-dir=DATA_DIR"
    return shlex.join(["python", *words])
