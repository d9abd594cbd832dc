"""Where the library of compiled ops is, and what it was built for.

`python -m keras_adder.sysconfig` prints the path of the library. A process
that serves an exported model needs the ops and not this package: it loads the
library by that path before the model.

Example:

```python
import tensorflow as tf

tf.load_op_library("/path/that/was/printed/libkeras_adder_ops.so")
model = tf.saved_model.load("exported_model")
```
"""

import ctypes
import functools
import json
import os
import sys
import warnings
from typing import Any

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(
        "keras_adder needs TensorFlow, which cannot be imported here "
        f"({error}). Install it with keras_adder: run `pip install '.[cpu]'`, "
        "or '.[gpu]', in the source folder of keras_adder."
    ) from error

_PACKAGE_DIR = os.path.dirname(os.path.abspath(__file__))
_LIBRARY = os.path.join(_PACKAGE_DIR, "libkeras_adder_ops.so")
_BUILD_INFO = os.path.join(_PACKAGE_DIR, "_build_info.json")

# In the source folder Python finds the source before what was installed.
_IN_SOURCE_FOLDER = os.path.isfile(
    os.path.join(os.path.dirname(_PACKAGE_DIR), "setup.py")
)

_HOW_TO_BUILD = (
    "This is the source folder of keras_adder: if you have installed it, start "
    "Python in another folder. Else, "
    if _IN_SOURCE_FOLDER
    else "To build them, "
) + (
    "in the source folder of keras_adder, run `make build` for its own "
    "environment; for this one, `pip install cmake ninja 'setuptools>=77'` "
    "and `pip install --no-build-isolation --no-deps --force-reinstall .`"
)

# `python -m` imports the package, and with it this module, before it runs this
# module as a program. Nothing here minds, so nobody need be warned.
if sys.argv[:1] == ["-m"]:
    warnings.filterwarnings(
        "ignore", f".*{__name__}.*found in sys.modules", RuntimeWarning
    )


def get_lib() -> str:
    """Returns the absolute path of the library of compiled ops.

    The library stands alone: `tf.load_op_library` loads it in a process that
    never imports `keras_adder`, under the minor version of TensorFlow that
    `keras_adder.sysconfig.build_info` names. That is how an exported model is
    served. A process loads it once, so do not do this where `keras_adder` is
    imported.

    Returns:
        A string, the path of `libkeras_adder_ops.so`.

    Raises:
        ImportError: If the library has not been built.

    Example:

    >>> path = keras_adder.sysconfig.get_lib()
    >>> # In another process, which has TensorFlow alone:
    >>> tf.load_op_library(path)
    >>> model = tf.saved_model.load("exported_model")
    """
    if not os.path.isfile(_LIBRARY):
        raise ImportError(
            f"The compiled ops of keras_adder have not been built: {_LIBRARY} "
            f"does not exist. {_HOW_TO_BUILD}."
        )
    return _LIBRARY


def build_info() -> dict[str, Any]:
    """Returns what the library of compiled ops was built for.

    Returns:
        A dict: `"tensorflow_version"`, the version of TensorFlow that the
        library was built against, a string such as `"2.21.0"`; `"cuda"`,
        whether it holds kernels for GPUs, a boolean; and `"cuda_version"`, the
        version of the CUDA toolkit that compiled those, a string such as
        `"12.5.82"`, or `None` without them.

    Raises:
        ImportError: If the library has not been built.
    """
    try:
        with open(_BUILD_INFO, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ImportError(
            "The compiled ops of keras_adder have not been built: "
            f"{_BUILD_INFO} cannot be read ({error}). {_HOW_TO_BUILD}."
        ) from error


def instruction_sets() -> dict[str, Any]:
    """Returns which instruction sets the kernels for CPUs may use, and do.

    Returns:
        A dict: `"compiled"`, the names of those that the library was built
        with; `"supported"`, of those that this processor runs, the best one
        last; and `"chosen"`, the name of the one that is used: the best, or
        what the environment variable `KERAS_ADDER_ISA` names. It is `None` if
        that names none of them, and then `"error"` says so.

    Raises:
        ImportError: If the library has not been built, or cannot be loaded.
    """
    load_library()
    describe = ctypes.CDLL(get_lib()).keras_adder_instruction_sets
    describe.restype = ctypes.c_char_p
    lines = describe().decode().splitlines()
    found = dict(line.split(" ", 1) for line in lines)
    return {
        "compiled": found["compiled"].split(),
        "supported": found["supported"].split(),
        "chosen": found.get("chosen"),
        **({"error": found["error"]} if "error" in found else {}),
    }


@functools.cache
def load_library() -> Any:
    """Loads the library of compiled ops, once in a process.

    A library built for one minor version of TensorFlow does not work with
    another, and need not fail in a way that tells: so the versions are compared
    before it is loaded.

    Returns:
        The module of the ops' Python wrappers, from `tf.load_op_library`.

    Raises:
        ImportError: If the library has not been built, was built for another
            minor version of TensorFlow, or cannot be loaded.
    """
    library = get_lib()
    built_for = build_info()["tensorflow_version"]
    if _minor_version(built_for) != _minor_version(tf.__version__):
        raise ImportError(
            f"The compiled ops of keras_adder were built for TensorFlow "
            f"{built_for}, and this is TensorFlow {tf.__version__}: they work "
            "with one minor version only. Build them again, or install "
            f"TensorFlow {_minor_version(built_for)}. {_HOW_TO_BUILD}."
        )
    try:
        return tf.load_op_library(library)
    except (OSError, tf.errors.OpError) as error:
        raise ImportError(
            f"The compiled ops of keras_adder cannot be loaded from {library}: "
            f"{error}. They were built for TensorFlow {built_for}, and this is "
            f"TensorFlow {tf.__version__}. If the library is damaged, or was "
            f"built for another machine, build it again. {_HOW_TO_BUILD}."
        ) from error


def _minor_version(version):
    return ".".join(version.split(".")[:2])


if __name__ == "__main__":
    print(get_lib())
