"""Trains LeNet-5-BN as an AdderNet, or as its CNN twin, on MNIST.

    python examples/train_mnist.py                 # AdderNet
    python examples/train_mnist.py --no-adder      # CNN twin
    python examples/train_mnist.py --data digits   # no download, half a minute

The recipe is the paper's: images resized to 32x32, SGD with Nesterov momentum
0.9, batches of 256, coupled weight decay 5e-4, a learning rate of 0.1 that
falls to 0 along a half cosine over 50 epochs (one value an epoch, as in the
authors' code), and for adder filters the adaptive learning rate with eta 0.2.
No augmentation, no average of weights, and no choosing of an epoch: the
accuracy that counts is that of the last one.

The embedded digits, a fortieth of MNIST, are trained in batches of 64.

A run that was killed resumes when the same command is given again, and ends in
the weights that it would have had: on the same machine, with the same versions
and number of threads, a seed determines them to the bit. At the end the model
is saved, exported, and served by a second process that does not import
keras_adder.
"""

import argparse
import os
import pathlib
import platform
import sys

# Before TensorFlow is imported: warnings and errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import keras_adder  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras_adder.applications import LeNet5  # noqa: E402

from training import data as data_lib  # noqa: E402
from training import export  # noqa: E402
from training import loop  # noqa: E402
from training import runs  # noqa: E402

BATCH_SIZE = 256
# With 256 an epoch would be 6 steps, too few for batch normalisation's moving
# statistics to settle in a short run.
BATCH_SIZE_OF_EMBEDDED = 64
DATA = ("auto", "mnist", "fashion_mnist", "kmnist", data_lib.EMBEDDED)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        choices=DATA,
        default="auto",
        help="digits come with scikit-learn and need no download; auto is "
        "mnist if that is prepared or downloadable, and else digits "
        "(default: %(default)s)",
    )
    data.add_argument(
        "--data-dir",
        help="where tensorflow-datasets keeps prepared data sets",
    )
    loop.add_arguments(
        parser,
        epochs=50,
        batch_size=None,
        learning_rate=0.1,
        weight_decay=5e-4,
    )
    return parser.parse_args(argv)


def build_model(args, classes):
    model = LeNet5(classes=classes, adder=args.adder)
    loop.set_filter_gradient(model, args.filter_gradient)
    model.compile(
        optimizer=loop.make_optimizer(args),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def main(argv=None):
    args = parse_arguments(argv)
    loop.limit_threads(args.threads)
    data = data_lib.load(args.data, args.data_dir, size=32)
    print(data.describe(), flush=True)
    args.data = data.name
    if args.batch_size is None:
        embedded = data.name == data_lib.EMBEDDED
        args.batch_size = BATCH_SIZE_OF_EMBEDDED if embedded else BATCH_SIZE
    loop.open_run(args)

    model = loop.train(lambda: build_model(args, data.classes), data, args)
    _, accuracy = model.evaluate(data_lib.test_batches(data), verbose=0)
    export.save(model, args.output)
    # What `python -m keras_adder.sysconfig` prints. The twin needs TensorFlow
    # alone.
    library = keras_adder.sysconfig.get_lib() if args.adder else None
    served = export.check_in_other_process(model, data, args.output, library)
    report(args, data, model, accuracy, served)


def report(args, data, model, accuracy, served):
    """Writes `results.json` and prints what matters of it."""
    history = runs.read_history(args.output / runs.HISTORY)
    seconds = sum(row["seconds"] for row in history)
    results = {
        "command": runs.command_line(),
        **loop.settings(args),
        "test_accuracy": round(accuracy, 6),
        "test_loss": history[-1]["val_loss"],
        "training_images": len(data.train_images),
        "test_images": len(data.test_images),
        "parameters": model.count_params(),
        "seconds": round(seconds, 1),
        "threads": args.threads or os.cpu_count(),
        "served_without_keras_adder": served,
        "versions": {
            "keras_adder": keras_adder.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
    }
    runs.write_json(args.output / runs.RESULTS, results)

    if served["bitwise_equal"]:
        agreement = "bitwise equal"
    else:
        agreement = f"equal to {served['max_difference']:.1e}"
    server = "TensorFlow and the library of ops" if args.adder else "TensorFlow"
    print(
        f"\n"
        f"model          LeNet-5-BN, {runs.label(results)}, "
        f"{results['parameters']:,} parameters\n"
        f"test accuracy  {accuracy:.2%} on {data.name}, after epoch "
        f"{args.epochs} ({seconds:.0f} s of training)\n"
        f"saved          {args.output / 'model.keras'}\n"
        f"exported       {args.output / 'saved_model'}\n"
        f"served         in another process, with {server} alone: "
        f"{served['images']} predictions, {agreement}"
    )


if __name__ == "__main__":
    try:
        main()
    except data_lib.DataUnavailable as error:
        sys.exit(f"{pathlib.Path(__file__).name}: {error} {error.REMEDY}")
    except loop.RunError as error:
        sys.exit(f"{pathlib.Path(__file__).name}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command resumes the run.")
