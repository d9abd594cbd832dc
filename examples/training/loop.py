"""One training run: its flags, optimizer, logs and checkpoints.

A run lives in one folder, and the command that started it resumes it:

    settings.json    what was asked for; a run resumes under these alone
    checkpoints/     the state after the latest whole epoch
    history.csv      a row for each epoch
    tensorboard/     the same curves for TensorBoard
"""

import contextlib
import math
import pathlib
import sys

import keras
import tensorflow as tf

import keras_adder

from training import binary
from training import callbacks
from training import flags
from training import runs

# What has no part in the recipe: where things lie, how much is printed, how
# many cores there are.
NOT_SETTINGS = (
    "data_dir",
    "images",
    "output",
    "restart",
    "runs",
    "threads",
    "verbose",
)

# Batches by which batch normalization's statistics are renewed.
RENEWAL_STEPS = 100


class SettingsChanged(runs.RunError):
    """A folder holds a run that was started with other settings."""


def add_arguments(
    parser, epochs, batch_size, learning_rate, weight_decay, models=()
):
    """Adds the flags that all training examples share.

    Args:
        parser: An `argparse.ArgumentParser`.
        epochs, batch_size, learning_rate, weight_decay: The recipe's, for
            defaults. A `batch_size` of `None` is for the example to fill in
            once it knows its data.
        models: Names of models to choose from, the default first, where there
            is a choice.
    """
    model = parser.add_argument_group("model")
    if models:
        model.add_argument(
            "--model",
            choices=tuple(models),
            default=next(iter(models)),
            help="(default: %(default)s)",
        )
    model.add_argument(
        "--network",
        choices=tuple(runs.NETWORKS),
        default="adder",
        help="train the AdderNet, its CNN twin, or its binary twin, an "
        "XNOR-Net (default: %(default)s)",
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
        "and so all of the other networks, trains by the same SGD with each "
        "of them (default: %(default)s)",
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
        help="of initial weights, of the order of the images and of their "
        "augmentation (default: %(default)s)",
    )
    recipe.add_argument(
        "--ema",
        type=flags.between(0, 1),
        nargs="?",
        const=0.99,
        metavar="MOMENTUM",
        help="keep an exponential moving average of the weights, which "
        "replaces them after the last epoch (momentum: %(const)s)",
    )
    recipe.add_argument(
        "--mixed-precision",
        action="store_true",
        help="compute in bfloat16 and keep the weights in float32. A gain on "
        "processors that multiply bfloat16 alone",
    )
    recipe.add_argument(
        "--strategy",
        choices=("mirrored",),
        help="mirrored: share each batch among all GPUs of this machine",
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
        raise runs.RunError(
            f"{args.output} cannot be the folder of a run: {error.strerror}. "
            "Pass another --output."
        ) from error
    if not args.restart:
        _check_settings(args)


def start_run(args):
    """Records the settings, once nothing but training is left to do."""
    if args.restart:
        _forget(args.output)
    runs.write_json(args.output / runs.SETTINGS, settings(args))


def run_name(args):
    """A name for a run, of what tells it from others."""
    parts = [args.data, *([args.model] if "model" in args else [])]
    parts.append(args.network)
    if args.network == "adder":
        parts += [args.optimizer] if args.optimizer != "alr" else []
        parts += ["sign"] if args.filter_gradient == "sign" else []
    parts += ["ema"] if args.ema else []
    parts += ["bfloat16"] if args.mixed_precision else []
    return "-".join([*parts, f"seed{args.seed}"])


def build_model(builder, args, classes, nesterov=True, metrics=("accuracy",)):
    """Builds and compiles a network.

    Args:
        builder: A function of `keras_adder.applications`.
        args: The parsed flags.
        classes: Integer.
        nesterov: Boolean, whether the momentum is Nesterov's. The authors have
            it for MNIST alone.
        metrics: List, as in `compile()`.

    Returns:
        A compiled `keras.Model`.
    """
    policy = keras.config.dtype_policy()
    if args.mixed_precision:
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = builder(classes=classes, adder=args.network == "adder")
        if args.network == "bnn":
            model = binary.binarise(model)
    finally:
        keras.config.set_dtype_policy(policy)
    if args.mixed_precision:
        # Eight bits would be too few for probabilities.
        model.layers[-1].dtype_policy = keras.DTypePolicy("float32")
    set_filter_gradient(model, args.filter_gradient)
    model.compile(
        optimizer=make_optimizer(args, nesterov),
        loss="sparse_categorical_crossentropy",
        metrics=list(metrics),
    )
    return model


def make_optimizer(args, nesterov=True):
    """The paper's optimizer, or one of its ablations.

    All three are SGD with momentum and coupled weight decay, and differ in
    what they do to the gradients of adder filters alone. The other networks
    have no such filters, so they train by the same recipe under any name.

    Args:
        args: The parsed flags.
        nesterov: Boolean, whether the momentum is Nesterov's.

    Returns:
        A `keras.optimizers.Optimizer`.
    """
    common = {
        "learning_rate": args.learning_rate,
        "momentum": 0.9,
        "nesterov": nesterov,
        "weight_decay": args.weight_decay,
    }
    if args.ema is not None:
        common |= {"use_ema": True, "ema_momentum": args.ema}
    if args.optimizer == "alr":
        return keras_adder.ALR(eta=args.eta, **common)
    # `keras.optimizers.SGD` decouples weight decay; this one does not.
    factor = 100.0 if args.optimizer == "ilr" else 1.0
    return keras_adder.ILR(factor=factor, **common)


def set_filter_gradient(model, filter_gradient):
    """Chooses the gradient of all adder filters of a model."""
    for layer in model.layers:
        if hasattr(layer, "filter_gradient"):
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
        data: A `training.data.ImageData`, or what has its methods.
        args: The parsed flags, after `open_run()`.

    Returns:
        The trained model, with the average of its weights under `--ema`.

    Raises:
        RunError: If the checkpoint cannot be loaded.
        Diverged: If the loss becomes infinite or NaN.
    """
    keras.utils.set_random_seed(args.seed)
    checkpoints = callbacks.Checkpoints(args.output / "checkpoints")
    first_epoch, model = 0, None
    with _scope(args.strategy):
        if not args.restart:
            first_epoch, model = checkpoints.restore()
        if model is None:
            model = build_model()
    start_run(args)
    if first_epoch == args.epochs:
        print(f"{args.output}: all {args.epochs} epochs were trained before.")
    else:
        _fit(model, data, args, checkpoints, first_epoch)
    if args.strategy is not None:
        # Each replica has moving statistics of its own. What they are taken
        # together is what was saved, and what is evaluated and exported.
        _, model = checkpoints.restore()
    if args.ema is not None:
        # Checkpoints hold the average beside the weights that were trained.
        model.optimizer.finalize_variable_values(model.trainable_variables)
        _renew_statistics(model, data, args)
    return model


def _fit(model, data, args, checkpoints, first_epoch):
    if first_epoch:
        print(f"{args.output}: resuming after epoch {first_epoch}.", flush=True)
    batches, steps = data.training_batches(
        args.batch_size, args.seed, first_epoch, args.epochs
    )
    model.fit(
        batches,
        # They come shuffled.
        shuffle=False,
        steps_per_epoch=steps,
        initial_epoch=first_epoch,
        epochs=args.epochs,
        validation_data=data.test_batches(),
        verbose=args.verbose,
        callbacks=[
            # First, since it puts the learning rate into the logs.
            keras.callbacks.LearningRateScheduler(
                half_cosine(args.learning_rate, args.epochs)
            ),
            # Before all that would keep the epoch.
            callbacks.Divergence(),
            callbacks.EpochLog(args.output / runs.HISTORY, first_epoch),
            *callbacks.tensorboard(args.output / "tensorboard"),
            # Last, so that the logs of its epochs have been written.
            checkpoints,
        ],
    )


def _renew_statistics(model, data, args):
    """Has batch normalisation measure what averaged weights give.

    Its moving statistics are those of the weights that were trained.
    """
    # Epochs that the training has not seen; as many as it takes.
    batches, _ = data.training_batches(
        args.batch_size, args.seed, args.epochs, args.epochs + RENEWAL_STEPS
    )
    keras_adder.callbacks.recalibrate_batch_normalization(
        model, batches, RENEWAL_STEPS
    )


def settings(args):
    """The flags that decide what is computed."""
    return {
        name: value
        for name, value in vars(args).items()
        if name not in NOT_SETTINGS
    }


def _check_settings(args):
    path = args.output / runs.SETTINGS
    if not path.exists():
        return
    wanted = settings(args)
    try:
        held = runs.read_settings(path)
    except (OSError, ValueError) as error:
        raise runs.RunError(
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
        output / runs.SETTINGS,
    ):
        path.unlink(missing_ok=True)


def _scope(strategy):
    if strategy is None:
        return contextlib.nullcontext()
    return tf.distribute.MirroredStrategy().scope()
