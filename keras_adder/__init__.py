"""AdderNets for Keras 3: layers that measure distances, and their optimizers.

Reference:

- [AdderNet: Do We Really Need Multiplications in Deep Learning?](
    https://arxiv.org/abs/1912.13200) (CVPR 2020)
"""

from keras_adder._backend import require_tensorflow as _require_tensorflow

_require_tensorflow()

from keras_adder import applications  # noqa: E402
from keras_adder import callbacks  # noqa: E402
from keras_adder import convert  # noqa: E402
from keras_adder import export  # noqa: E402
from keras_adder import inference  # noqa: E402
from keras_adder import layers  # noqa: E402
from keras_adder import ops  # noqa: E402
from keras_adder import optimizers  # noqa: E402
from keras_adder import sysconfig  # noqa: E402
from keras_adder.filters import is_adder_filter  # noqa: E402
from keras_adder.filters import mark_adder_filter  # noqa: E402
from keras_adder.layers import AdderConv1D  # noqa: E402
from keras_adder.layers import AdderConv2D  # noqa: E402
from keras_adder.layers import AdderDense  # noqa: E402
from keras_adder.layers import AdderDepthwiseConv2D  # noqa: E402
from keras_adder.layers import AdderSeparableConv2D  # noqa: E402
from keras_adder.operations import summary  # noqa: E402
from keras_adder.optimizers import ALR  # noqa: E402
from keras_adder.optimizers import ILR  # noqa: E402
from keras_adder.optimizers import WithALR  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "ALR",
    "ILR",
    "AdderConv1D",
    "AdderConv2D",
    "AdderDense",
    "AdderDepthwiseConv2D",
    "AdderSeparableConv2D",
    "WithALR",
    "__version__",
    "applications",
    "callbacks",
    "convert",
    "export",
    "inference",
    "is_adder_filter",
    "layers",
    "mark_adder_filter",
    "ops",
    "optimizers",
    "summary",
    "sysconfig",
]
