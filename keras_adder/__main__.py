"""Prints what a report of a bug needs: `python -m keras_adder`."""

import platform
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_adder
from keras_adder import sysconfig
from keras_adder.ops import adder_conv2d


def main() -> int:
    """Prints a line for each fact; returns 0 if the op works."""
    built = sysconfig.build_info()
    sets = sysconfig.instruction_sets()
    gpus = tf.config.list_physical_devices("GPU")
    works, check = _check()
    lines = {
        "keras_adder": f"{keras_adder.__version__}, {sysconfig.get_lib()}",
        "built for": f"TensorFlow {built['tensorflow_version']}, "
        f"CUDA {built['cuda_version'] or '(none)'}",
        "found": f"TensorFlow {tf.__version__}, Keras {keras.__version__} "
        f"on {keras.config.backend()}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}",
        "system": f"{platform.platform(terse=True)}, {platform.machine()}",
        "processor": processor(),
        "instruction set": sets["chosen"] or f"none: {sets['error']}",
        "this processor has": ", ".join(sets["supported"]),
        "the library has": ", ".join(sets["compiled"]),
        "GPUs": ", ".join(gpu.name for gpu in gpus) or "none",
        "a known sum": check,
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:{width}}  {value}")
    return 0 if works else 1


def _check():
    """Whether the op computes what it should, and a line about it."""
    x = tf.reshape(tf.range(32, dtype=tf.float32), (1, 4, 4, 2))
    try:
        value = float(adder_conv2d(x, tf.zeros((3, 3, 2, 1)))[0, 0, 0, 0])
    except Exception as error:
        return False, f"failed: {type(error).__name__}: {error}"
    # Three rows of 0 to 5, 8 to 13 and 16 to 21.
    right = value == -189
    return right, "right" if right else f"wrong: {value} and not -189.0"


def processor() -> str:
    """What /proc/cpuinfo says of the processor, or Python does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        lines = []
    # Of all cores alike.
    info = {key.strip(): value.strip() for key, _, value in lines}
    name = info.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in info:
        name += f" (family {info['cpu family']}, model {info['model']})"
    return name


if __name__ == "__main__":
    sys.exit(main())
