"""Arguments of functions and layers, checked and brought to one form.

Each function names the argument, what was expected and what was received, and
costs little where there is nothing to say: an eager loop calls them each time.
"""

import math
import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_LARGEST_FLOAT = float(np.finfo(np.float32).max)
# Of smaller ones processors, as TensorFlow sets them, make zeros.
_SMALLEST_FLOAT = float(np.finfo(np.float32).tiny)


def is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def positive_int(value: Any, name: str) -> int:
    if not is_int(value) or not 0 < value < 2**31:
        raise ValueError(
            f"`{name}` must be a positive int. Received: {name}={value!r}"
        )
    return int(value)


def int_or_pair(value: Any, name: str) -> Any:
    """What can be a key of a cache; `pair` sees to the rest."""
    return value if isinstance(value, int) else pair(value, name)


def pair(value: Any, name: str) -> tuple[int, int]:
    both = (value, value) if is_int(value) else value
    if (
        not isinstance(both, (tuple, list))
        or len(both) != 2
        or not all(is_int(v) and 0 < v < 2**31 for v in both)
    ):
        raise ValueError(
            f"`{name}` must be a positive int or a pair of positive ints. "
            f"Received: {name}={value!r}"
        )
    return int(both[0]), int(both[1])


def standardize_padding(padding: Any) -> Any:
    if isinstance(padding, str) and padding.lower() in ("valid", "same"):
        return padding.lower()
    if not isinstance(padding, str):
        try:
            pairs = tuple(tuple(side) for side in padding)
        except TypeError:
            pairs = ()
        if (
            len(pairs) == 2
            and all(len(side) == 2 for side in pairs)
            and all(is_int(v) and 0 <= v < 2**31 for v in pairs[0] + pairs[1])
        ):
            return tuple(tuple(int(v) for v in side) for side in pairs)
    raise ValueError(
        '`padding` must be "valid", "same" or a pair of pairs of non-negative '
        f"ints ((top, bottom), (left, right)). Received: padding={padding!r}"
    )


def standardize_data_format(data_format: Any) -> str:
    if data_format is None:
        return keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            '`data_format` must be "channels_last" or "channels_first". '
            f"Received: data_format={data_format!r}"
        )
    return data_format


def one_of_dtypes(dtype: Any, name: str, allowed: tuple[str, ...]) -> str:
    # Those of TensorFlow and NumPy have names.
    standard = getattr(dtype, "name", dtype)
    if not isinstance(standard, str) or standard not in allowed:
        raise ValueError(
            f"`{name}` must be one of the dtypes {allowed}. "
            f"Received: {name}={dtype!r}"
        )
    return standard


def standardize_scale(scale: Any, name: str) -> float:
    # Neither it nor its reciprocal is a subnormal number.
    if _is_real(scale) and _SMALLEST_FLOAT <= scale <= 1 / _SMALLEST_FLOAT:
        return float(scale)
    raise ValueError(
        f"`{name}` must be a positive number from 2**-126 to 2**126. "
        f"Received: {name}={scale!r}"
    )


def standardize_zero_point(zero_point: Any, name: str) -> int:
    # Of any integer type; `check_quantization` knows which.
    if is_int(zero_point) and -(2**15) <= zero_point < 2**15:
        return int(zero_point)
    raise ValueError(
        f"`{name}` must be an int of the range of uint8 or int16. "
        f"Received: {name}={zero_point!r}"
    )


def standardize_bound(bound: Any, name: str, unbounded: float) -> float | None:
    """A number, or `None` where it is `unbounded` and bounds nothing."""
    if bound is None:
        return None
    if _is_real(bound) and (abs(bound) <= _LARGEST_FLOAT or math.isinf(bound)):
        return None if bound == unbounded else float(bound)
    raise ValueError(
        f"`{name}` must be a float32 number or `None`, and not NaN. "
        f"Received: {name}={bound!r}"
    )


def _is_real(value):
    return isinstance(value, (float, int, numbers.Real)) and not isinstance(
        value, bool
    )


def check_tensor(name: str, tensor: Any, dtypes: tuple[str, ...]) -> None:
    """A dense tensor of rank 4, of one of the dtypes."""
    check_dense(name, tensor)
    dtype = keras.utils.standardize_dtype(tensor.dtype)
    if dtype not in dtypes:
        raise ValueError(
            f"`{name}` must be a tensor of one of the dtypes {dtypes}. "
            f"Received: dtype={dtype}"
        )
    shape = tensor.shape
    rank = shape.rank if isinstance(shape, tf.TensorShape) else len(shape)
    if rank != 4:
        raise ValueError(
            f"`{name}` must be a tensor of rank 4. Received: shape={shape}"
        )


def check_dense(name: str, tensor: Any) -> None:
    if isinstance(tensor, (tf.SparseTensor, tf.RaggedTensor)):
        raise ValueError(
            f"`{name}` must be a dense tensor. Received: {name}={tensor}"
        )


def check_shape(name: str, shape: Any, expected: Any) -> None:
    """Of equal sizes, where both are known."""
    if not tf.TensorShape(shape).is_compatible_with(expected):
        raise ValueError(
            f"`{name}` must be a tensor of shape {tuple(expected)}. "
            f"Received: shape={shape}"
        )


def check_quantization(
    name: str, dtype: str | None, scale: float, zero_point: int
) -> None:
    """Scale and zero point of a tensor: of its integers, or none."""
    if dtype not in ("uint8", "int16"):
        if (scale, zero_point) != (1, 0):
            raise ValueError(
                f"`{name}_scale` and `{name}_zero_point` must be 1 and 0 where "
                f"no {name} of uint8 or int16 has them. Received: "
                f"{name}_scale={scale}, {name}_zero_point={zero_point}"
            )
        return
    bounds = np.iinfo(dtype)
    if not bounds.min <= zero_point <= bounds.max:
        raise ValueError(
            f"`{name}_zero_point` must be an int from {bounds.min} to "
            f"{bounds.max}, the range of {dtype}. "
            f"Received: {name}_zero_point={zero_point}"
        )


def check_sums(filter_shape: Any, dtype: str) -> None:
    """That no distance of integers can leave int32, in which it is summed."""
    sizes = tuple(filter_shape)[:-1]  # all but the outputs
    if dtype not in ("uint8", "int16") or None in sizes:
        return
    most = most_differences(dtype)
    if math.prod(sizes) > most:
        raise ValueError(
            "Filters must not be so large that their distances leave int32: "
            f"of {dtype}, at most {most} differences can be "
            f"summed. Received: filters of shape {tuple(filter_shape)}"
        )


def most_differences(dtype: str) -> int:
    """Of how many differences the sum fits into int32, whatever they are."""
    bounds = np.iinfo(dtype)
    return (2**31 - 1) // (int(bounds.max) - int(bounds.min))
