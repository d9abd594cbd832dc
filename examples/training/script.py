"""The beginning and the end of a training script: errors, and the report."""

import os
import pathlib
import platform
import sys
import textwrap

import keras
import tensorflow as tf

import keras_adder

from training import export
from training import loop
from training import prepared
from training import runs

# A test accuracy that is lower than the training accuracy by so much is worth a
# word.
GAP = 0.15


def run(main, remedy=""):
    """Calls `main()`; what a user can mend ends it with one plain line.

    Args:
        main: A function without arguments.
        remedy: String, what else may be done where data are unavailable.
    """
    name = pathlib.Path(sys.argv[0]).name
    try:
        main()
    except prepared.DataUnavailable as error:
        sys.exit(f"{name}: {error} {error.REMEDY}{remedy}.")
    except runs.RunError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command resumes the run.")


def finish(model, data, args, title):
    """Evaluates, saves and exports a trained model, and has it served.

    Writes `results.json` and prints what matters of it.

    Args:
        model: The trained model.
        data: A `training.data.ImageData`, or what has its methods.
        args: The parsed flags.
        title: String, the name of the architecture.
    """
    metrics = model.evaluate(data.test_batches(), verbose=0, return_dict=True)
    export.save(model, args.output)
    # What `python -m keras_adder.sysconfig` prints. Other networks need
    # TensorFlow alone.
    adder = args.network == "adder"
    library = keras_adder.sysconfig.get_lib() if adder else None
    served = export.check_in_other_process(model, data, args.output, library)

    history = runs.read_history(args.output / runs.HISTORY)
    seconds = sum(row["seconds"] for row in history)
    results = {
        "command": runs.command_line(),
        **loop.settings(args),
        **{f"test_{name}": round(metrics[name], 6) for name in metrics},
        "training_images": data.train_size,
        "test_images": data.test_size,
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
    server = "TensorFlow and the library of ops" if adder else "TensorFlow"
    print(
        f"\n"
        f"model          {title}, {runs.label(results)}, "
        f"{results['parameters']:,} parameters\n"
        f"test accuracy  {metrics['accuracy']:.2%} on {data.name}, after epoch "
        f"{args.epochs} ({seconds:.0f} s of training)\n"
        f"saved          {args.output / 'model.keras'}\n"
        f"exported       {args.output / 'saved_model'}\n"
        f"served         in another process, with {server} alone: "
        f"{served['images']} predictions, {agreement}"
    )
    if history and history[-1]["accuracy"] > metrics["accuracy"] + GAP:
        print(_what_a_gap_may_be(history[-1]["accuracy"]))


def _what_a_gap_may_be(training_accuracy):
    return "\n" + textwrap.fill(
        f"The training accuracy is {training_accuracy:.2%}, far above. Either "
        "batch normalization's moving averages lag behind, as they do after "
        "few steps or at a high learning rate: train for longer, or renew them "
        "by keras_adder.callbacks.recalibrate_batch_normalization. Or the "
        "network knows its training images by heart: pass more --weight-decay."
    )
