"""One training run: its flags, optimizer, logs and checkpoints.

A run lives in one folder, and the command that started it resumes it:

    settings.json    what was asked for; a run resumes under these alone
    checkpoints/     the state after the latest whole epoch
    history.csv      a row for each epoch
    tensorboard/     the same curves for TensorBoard
"""

import argparse
import importlib.util
import math
import pathlib
import re
import sys
import time
import zipfile

import keras
import keras_adder
import tensorflow as tf

from training import data as data_lib
from training import flags
from training import runs

SETTINGS = "settings.json"

# What has no part in the recipe: where things lie, how much is printed, how
# many cores there are.
NOT_SETTINGS = ("data_dir", "output", "restart", "runs", "threads", "verbose")


class RunError(Exception):
    """A run cannot start or go on; the message says why, in one line."""


class SettingsChanged(RunError):
    """A folder holds a run that was started with other settings."""


class Diverged(RunError):
    """The loss is no longer a finite number."""


def add_arguments(parser, epochs, batch_size, learning_rate, weight_decay):
    """Adds the flags that all training examples share.

    Args:
        parser: An `argparse.ArgumentParser`.
        epochs, batch_size, learning_rate, weight_decay: The recipe's, for
            defaults. A `batch_size` of `None` is for the example to fill in
            once it knows its data.
    """
    model = parser.add_argument_group("model")
    model.add_argument(
        "--adder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train the AdderNet, or else its CNN twin",
    )
    model.add_argument(
        "--filter-gradient",
        choices=("full_precision", "sign"),
        default="full_precision",
        help="gradient of the adder filters (default: %(default)s)",
    )

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--epochs",
        type=flags.positive,
        default=epochs,
        help="in all, also of a run that resumes (default: %(default)s)",
    )
    recipe.add_argument(
        "--batch-size",
        type=flags.positive,
        default=batch_size,
        help=f"(default: {batch_size or 'depends on the data'})",
    )
    recipe.add_argument(
        "--learning-rate",
        type=flags.finite(zero=True),
        default=learning_rate,
        help="of the first epoch; it falls to 0 along a half cosine "
        "(default: %(default)s)",
    )
    recipe.add_argument(
        "--weight-decay",
        type=flags.finite(zero=True),
        default=weight_decay,
        help="coupled (l2) weight decay (default: %(default)s)",
    )
    recipe.add_argument(
        "--optimizer",
        choices=("alr", "ilr", "sgd"),
        default="alr",
        help="what becomes of adder filters' gradients: alr, rescaled to a "
        "fixed norm; ilr, multiplied by 100; sgd, nothing. Everything else, "
        "and so all of the CNN twin, trains by the same SGD with each of them "
        "(default: %(default)s)",
    )
    recipe.add_argument(
        "--eta",
        type=flags.finite(zero=False),
        default=0.2,
        help="of alr (default: %(default)s)",
    )
    recipe.add_argument(
        "--seed",
        type=flags.seed,
        default=1,
        help="of initial weights and of the order of the images "
        "(default: %(default)s)",
    )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder of the run (default: one under --runs whose name tells "
        "model, data and seed). The same command resumes a killed run",
    )
    run.add_argument(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("runs"),
        help="where a folder without --output goes (default: %(default)s)",
    )
    run.add_argument(
        "--restart",
        action="store_true",
        help="train afresh where the folder holds a run already",
    )
    run.add_argument(
        "--threads",
        type=flags.positive,
        help="threads that one operation may use (default: all cores). Adder "
        "layers compute the same bits with any number, TensorFlow's own "
        "operations do not",
    )
    run.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=1 if sys.stdout.isatty() else 2,
        help="0 silent, 1 progress bar, 2 one line an epoch (default: 1 on a "
        "terminal, else 2)",
    )


def limit_threads(threads):
    """Limits the threads of one operation, before TensorFlow does its first."""
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)


def open_run(args):
    """Opens the folder of a run, and leaves what it holds as it is.

    Args:
        args: The parsed flags. `output` is filled in if it was not given.

    Raises:
        RunError: If it is no folder that can be written to.
        SettingsChanged: If the folder holds a run with other settings.
    """
    if args.output is None:
        args.output = args.runs / run_name(args)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{args.output} cannot be the folder of a run: {error.strerror}. "
            "Pass another --output."
        ) from error
    if not args.restart:
        _check_settings(args)


def start_run(args):
    """Records the settings, once nothing but training is left to do."""
    if args.restart:
        _forget(args.output)
    runs.write_json(args.output / SETTINGS, settings(args))


def run_name(args):
    """A name for a run, of what tells it from others."""
    parts = [args.data, "adder" if args.adder else "cnn"]
    if args.adder:
        parts += [args.optimizer] if args.optimizer != "alr" else []
        parts += ["sign"] if args.filter_gradient == "sign" else []
    return "-".join([*parts, f"seed{args.seed}"])


def make_optimizer(args):
    """The paper's optimizer, or one of its ablations.

    All three are SGD with Nesterov momentum and coupled weight decay, and
    differ in what they do to the gradients of adder filters alone. The CNN
    twin has no such filters, so it trains by the same recipe under any name.
    """
    common = {
        "learning_rate": args.learning_rate,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": args.weight_decay,
    }
    if args.optimizer == "alr":
        return keras_adder.ALR(eta=args.eta, **common)
    # `keras.optimizers.SGD` decouples weight decay; this one does not.
    factor = 100.0 if args.optimizer == "ilr" else 1.0
    return keras_adder.ILR(factor=factor, **common)


def set_filter_gradient(model, filter_gradient):
    """Chooses the gradient of all adder filters of a model."""
    adder_layers = (keras_adder.AdderConv2D, keras_adder.AdderDense)
    for layer in model.layers:
        if isinstance(layer, adder_layers):
            layer.filter_gradient = filter_gradient


def half_cosine(learning_rate, epochs):
    """The authors' schedule: constant within an epoch, 0 after the last."""

    def schedule(epoch, _):
        return learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2

    return schedule


def train(build_model, data, args):
    """Trains a model, or goes on training it, through `fit()`.

    Args:
        build_model: A callable that returns the compiled model. It is not
            called where there is a checkpoint to resume from.
        data: A `training.data.ImageData`.
        args: The parsed flags, after `open_run()`.

    Returns:
        The trained model.

    Raises:
        RunError: If the checkpoint cannot be loaded.
        Diverged: If the loss becomes infinite or NaN.
    """
    keras.utils.set_random_seed(args.seed)
    checkpoints = Checkpoints(args.output / "checkpoints")
    first_epoch, model = (0, None) if args.restart else checkpoints.restore()
    if model is None:
        model = build_model()
    start_run(args)
    if first_epoch == args.epochs:
        print(f"{args.output}: all {args.epochs} epochs were trained before.")
        return model
    if first_epoch:
        print(f"{args.output}: resuming after epoch {first_epoch}.", flush=True)
    batches, steps = data_lib.training_batches(
        data, args.batch_size, args.seed, first_epoch, args.epochs
    )
    model.fit(
        batches,
        # They come shuffled.
        shuffle=False,
        steps_per_epoch=steps,
        initial_epoch=first_epoch,
        epochs=args.epochs,
        validation_data=data_lib.test_batches(data),
        verbose=args.verbose,
        callbacks=[
            # First, since it puts the learning rate into the logs.
            keras.callbacks.LearningRateScheduler(
                half_cosine(args.learning_rate, args.epochs)
            ),
            # Before all that would keep the epoch.
            Divergence(),
            EpochLog(args.output / "history.csv", first_epoch),
            *_tensorboard(args.output / "tensorboard"),
            # Last, so that the logs of its epochs have been written.
            checkpoints,
        ],
    )
    return model


class Divergence(keras.callbacks.TerminateOnNaN):
    """Ends the epoch at the first loss that is not finite, and then the run."""

    def on_epoch_end(self, epoch, logs):
        for name in ("loss", "val_loss"):
            if not math.isfinite(logs[name]):
                raise Diverged(
                    f"The training diverged: {name} is {logs[name]} in epoch "
                    f"{epoch + 1}, of which nothing was kept. Pass a lower "
                    "--learning-rate, and --restart or another --output."
                )


class EpochLog(keras.callbacks.Callback):
    """Writes a row of `history.csv` after each epoch.

    `val_loss` and `val_accuracy` are those of the test images: nothing is
    chosen by them. Unlike `keras.callbacks.CSVLogger` it drops the rows of
    epochs that are to be trained again, and logs wall-clock seconds, those of
    evaluating the test images included.

    Args:
        path: Path of the file.
        first_epoch: Integer, the number of rows to keep.
    """

    def __init__(self, path, first_epoch=0):
        super().__init__()
        self.path = path
        self.rows = runs.read_history(path)[:first_epoch] if first_epoch else []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        seconds = round(time.perf_counter() - self.started, 3)
        self.rows.append({**logs, "epoch": epoch + 1, "seconds": seconds})
        runs.write_history(self.path, self.rows)


class Checkpoints(keras.callbacks.Callback):
    """Keeps the model as it was after the latest whole epoch.

    That is weights, optimizer state and random generators: with a data
    pipeline and a schedule that depend on the number of the epoch alone,
    training resumed from it ends in the same weights.

    Args:
        folder: Path of the folder.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def restore(self):
        """Returns the number of epochs done and the model, or 0 and `None`."""
        done = self._epochs()
        if not done:
            return 0, None
        path = done[max(done)]
        try:
            return max(done), keras.saving.load_model(path)
        # Whatever Keras, h5py or a layer finds wrong with it.
        except Exception as error:
            # Keras calls a file that is not whole one that is not found.
            cause = "the file is damaged"
            if zipfile.is_zipfile(path):
                lines = str(error).strip().splitlines() or [""]
                cause = f"{type(error).__name__}: {lines[0]}"
            raise RunError(
                f"The checkpoint {path} cannot be loaded ({cause}). "
                "Pass --restart to train afresh, or another --output."
            ) from error

    def on_epoch_end(self, epoch, logs=None):
        earlier = self._epochs()
        path = self.folder / f"epoch-{epoch + 1:04d}.keras"
        with runs.replacing(path) as temporary:
            self.model.save(temporary)
        for other in earlier.values():
            if other != path:
                other.unlink()

    def _epochs(self):
        return {
            int(match[1]): path
            for path in self.folder.glob("*.keras")
            if (match := re.fullmatch(r"epoch-(\d+)\.keras", path.name))
        }


def settings(args):
    """The flags that decide what is computed."""
    return {
        name: value
        for name, value in vars(args).items()
        if name not in NOT_SETTINGS
    }


def _tensorboard(folder):
    if importlib.util.find_spec("tensorboard") is None:
        print("No logs for TensorBoard: `pip install tensorboard` first.")
        return []
    return [keras.callbacks.TensorBoard(folder, write_graph=False)]


def _check_settings(args):
    path = args.output / SETTINGS
    if not path.exists():
        return
    wanted = settings(args)
    try:
        held = runs.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}). "
            "Pass --restart to train afresh, or another --output."
        ) from error
    changed = sorted(
        name
        for name in wanted.keys() | held.keys()
        if wanted.get(name) != held.get(name)
    )
    if changed:
        differences = ", ".join(
            f"{name}={held.get(name)} (now {wanted.get(name)})"
            for name in changed
        )
        raise SettingsChanged(
            f"{args.output} holds a run with other settings: {differences}. "
            "Pass another --output, or --restart to train afresh."
        )


def _forget(output):
    """Removes what a run would resume from."""
    for path in (
        output / runs.RESULTS,
        *(output / "checkpoints").glob("*.keras"),
        *(output / "tensorboard").rglob("events.out.tfevents.*"),
        # Last: while there is a checkpoint it tells whose.
        output / SETTINGS,
    ):
        path.unlink(missing_ok=True)
