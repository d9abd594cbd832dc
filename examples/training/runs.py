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
SETTINGS = "settings.json"
NETWORKS = {"adder": "AdderNet", "cnn": "CNN", "bnn": "BNN"}
# What runs that know nothing of these flags did.
FLAGS_OF_LATER = {"ema": None, "mixed_precision": False, "strategy": None}
# Those of every history; other metrics follow.
HISTORY_FIELDS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)


class RunError(Exception):
    """A run cannot start or go on; the message says why, in one line."""


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


def read_settings(path):
    """Reads the `settings.json` or `results.json` of a run."""
    settings = read_json(path)
    # Written before there was a third network.
    if "adder" in settings:
        settings["network"] = "adder" if settings.pop("adder") else "cnn"
    return FLAGS_OF_LATER | settings


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
            others = sorted(rows[0].keys() - set(HISTORY_FIELDS))
            fields = [*HISTORY_FIELDS, *others]
            writer.writerow(fields)
            for row in rows:
                writer.writerow(f"{row[field]:.7g}" for field in fields)


def is_finished(run):
    return (pathlib.Path(run) / RESULTS).exists()


def long_label(results):
    """How a run is called in tables and plots, among those of other models."""
    # Scripts of one model do not name it.
    words = [results["model"]] if "model" in results else []
    return ", ".join([*words, label(results)])


def label(results):
    """How the network and the optimizer of a run are called."""
    words = [NETWORKS[results["network"]]]
    if results["network"] == "adder":
        if results["optimizer"] != "alr":
            words.append(results["optimizer"].upper())
        elif results["eta"] != 0.2:
            words.append(f"eta {results['eta']:g}")
        if results["filter_gradient"] == "sign":
            words.append("sign gradient")
    if results["ema"]:
        words.append("averaged")
    if results["mixed_precision"]:
        words.append("bfloat16")
    return ", ".join(words)


def command_line():
    """The command that was given, from the root of the repository.

    Where data lie is no part of it.
    """
    script = pathlib.Path(sys.argv[0]).resolve()
    root = pathlib.Path(__file__).resolve().parents[2]
    if script.is_relative_to(root):
        script = script.relative_to(root)
    words = [str(script), *sys.argv[1:]]
    for index, word in enumerate(words):
        for flag, name in (("--data-dir", "DATA_DIR"), ("--images", "IMAGES")):
            if word == flag and index + 1 < len(words):
                words[index + 1] = name
            elif word.startswith(f"{flag}="):
                words[index] = f"{flag}={name}"
    return shlex.join(["python", *words])
