"""AdderNets for Keras 3: layers that measure distances, and their optimizers.

Reference:

- [AdderNet: Do We Really Need Multiplications in Deep Learning?](
    https://arxiv.org/abs/1912.13200) (CVPR 2020)
"""

import os


def _require_tensorflow_backend():
    """Raises an `ImportError` unless Keras runs on TensorFlow."""
    remedy = (
        "keras_adder runs on the TensorFlow backend of Keras only. Install "
        "TensorFlow (`pip install '.[cpu]'`, or '.[gpu]', in the source folder "
        "of keras_adder does) and set the environment variable "
        "`KERAS_BACKEND=tensorflow` before Keras is imported for the first "
        'time, or `"backend": "tensorflow"` in `~/.keras/keras.json`.'
    )
    try:
        import keras

        backend = keras.config.backend()
    except Exception as error:
        # Keras cannot even be imported when its backend is not installed.
        requested = os.environ.get("KERAS_BACKEND")
        raise ImportError(
            f"{remedy} Received: `import keras` failed with "
            f"{type(error).__name__}: {error} (KERAS_BACKEND={requested})"
        ) from error
    if backend != "tensorflow":
        raise ImportError(f"{remedy} Received: backend={backend}")


_require_tensorflow_backend()

from keras_adder import applications  # noqa: E402
from keras_adder import convert  # noqa: E402
from keras_adder import layers  # noqa: E402
from keras_adder import ops  # noqa: E402
from keras_adder import optimizers  # noqa: E402
from keras_adder import sysconfig  # noqa: E402
from keras_adder.filters import is_adder_filter  # noqa: E402
from keras_adder.filters import mark_adder_filter  # noqa: E402
from keras_adder.layers import AdderConv2D  # noqa: E402
from keras_adder.layers import AdderDense  # noqa: E402
from keras_adder.optimizers import ALR  # noqa: E402
from keras_adder.optimizers import ILR  # noqa: E402
from keras_adder.summary import summary  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "ALR",
    "ILR",
    "AdderConv2D",
    "AdderDense",
    "__version__",
    "applications",
    "convert",
    "is_adder_filter",
    "layers",
    "mark_adder_filter",
    "ops",
    "optimizers",
    "summary",
    "sysconfig",
]
