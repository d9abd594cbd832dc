"""The adder convolutions in TensorFlow's own operations.

Slow, and without the paper's gradients: for programs that cannot load the
library of ops. Of the forms that TensorFlow and LiteRT have, this is the
fastest: with the maximum of `x` and `f`,

    sum |x - f| = 2 sum max(x, f) - sum x - sum f

takes two operations a pair, a maximum and a sum, where the distance as it is
takes three.
"""

from typing import Any

import tensorflow as tf

from keras_adder._typing import Padding
from keras_adder._typing import Tensor

# How many bytes of maxima there are at a time, for each image. One filter's are
# as many as its patches, and may be more.
CHUNK_BYTES = 4 << 20

# Whole numbers up to this are floats.
_LARGEST_WHOLE_FLOAT = 2**24


def adder_conv2d(
    inputs: Tensor,
    filters: Tensor,
    strides: Any = 1,
    padding: Padding = "valid",
    data_format: str = "channels_last",
    dilation_rate: Any = 1,
    pad_value: int = 0,
    of_integers: bool = False,
) -> Tensor:
    """As `keras_adder.ops.adder_conv2d` computes it, of finite inputs.

    The patches under all filters are one tensor, as many times the size of
    `inputs` as filters have taps (and strides skip none). Maxima are taken for
    some filters at a time: `CHUNK_BYTES` an image, or one filter's, which are
    of the patches' size.

    Args:
        inputs: 4D tensor of floats, or int32.
        filters: 4D tensor of shape
            `(height, width, in_channels / groups, out_channels)` and of the
            dtype of `inputs`.
        strides: int or pair of ints.
        padding: as in `keras_adder.ops.adder_conv2d`.
        data_format: `"channels_last"` or `"channels_first"`.
        dilation_rate: int or pair of ints.
        pad_value: what inputs are padded with.
        of_integers: whether inputs and filters are whole numbers, of which no
            sum is rounded.

    Returns:
        4D tensor of the dtype of `inputs`.
    """
    inputs, filters = map(tf.convert_to_tensor, (inputs, filters))
    if data_format == "channels_first":
        inputs = tf.transpose(inputs, (0, 2, 3, 1))
    dtype = inputs.dtype
    if dtype in (tf.float16, tf.bfloat16):
        inputs = tf.cast(inputs, tf.float32)
        filters = tf.cast(filters, tf.float32)
    taps = _taps(
        inputs,
        filters.shape[:2],
        _pair(strides),
        padding,
        _pair(dilation_rate),
        pad_value,
    )
    channels, of_group = inputs.shape[-1], filters.shape[2]
    if of_group == 1 and channels > 1:
        outputs = _depthwise(taps, filters)
    else:
        groups = channels // of_group
        parts = [
            _group(
                [tap[..., g * of_group : (g + 1) * of_group] for tap in taps]
                if groups > 1
                else taps,
                part,
                of_integers,
            )
            for g, part in enumerate(tf.split(filters, groups, axis=-1))
        ]
        outputs = tf.concat(parts, axis=-1) if groups > 1 else parts[0]
    outputs = tf.cast(outputs, dtype)
    if data_format == "channels_first":
        outputs = tf.transpose(outputs, (0, 3, 1, 2))
    return outputs


def fused_adder_conv2d(
    inputs: Tensor,
    filters: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    residual: Tensor | None,
    *,
    strides: Any = 1,
    padding: Padding = "valid",
    data_format: str,
    dilation_rate: Any = 1,
    input_scale: float,
    input_zero_point: int,
    residual_scale: float,
    residual_zero_point: int,
    lower: float | None,
    upper: float | None,
    output_dtype: str,
    output_scale: float,
    output_zero_point: int,
) -> Tensor:
    """As `keras_adder.ops.fused_adder_conv2d` computes it, rounding included.

    Integers are summed exactly, as floats where those have room for the largest
    sum, and as int32 elsewhere.
    """
    inputs, filters = map(tf.convert_to_tensor, (inputs, filters))
    of_integers = filters.dtype != tf.float32
    if of_integers:
        if inputs.dtype == tf.float32:
            inputs = _quantize(
                inputs, filters.dtype.name, input_scale, input_zero_point
            )
        number = _number_type(filters)
        inputs, filters = tf.cast(inputs, number), tf.cast(filters, number)
    distances = adder_conv2d(
        inputs,
        filters,
        strides,
        padding,
        data_format,
        dilation_rate,
        pad_value=input_zero_point if of_integers else 0,
        of_integers=of_integers,
    )
    first = data_format == "channels_first"
    outputs = tf.cast(distances, tf.float32)
    outputs *= tf.reshape(multiplier, (1, -1, 1, 1) if first else (-1,))
    # Of two additions, TensorFlow's graphs would take the residual's first,
    # which rounds differently.
    outputs = tf.nn.bias_add(outputs, offset, "NCHW" if first else "NHWC")
    if residual is not None:
        if residual.dtype != tf.float32:
            whole = tf.cast(residual, tf.float32) - float(residual_zero_point)
            residual = whole * residual_scale
        outputs = outputs + residual
    if lower is not None:
        outputs = tf.maximum(outputs, lower)
    if upper is not None:
        outputs = tf.minimum(outputs, upper)
    if output_dtype == "float32":
        return outputs
    return _quantize(outputs, output_dtype, output_scale, output_zero_point)


def _quantize(values, dtype, scale, zero_point):
    """Floats as integers of a dtype; NaN becomes the lowest."""
    lowest, highest = _range(tf.as_dtype(dtype))
    # The reciprocal is rounded to float32 by itself.
    inverse = tf.constant(1, tf.float32) / tf.constant(scale, tf.float32)
    values = values * inverse
    least = float(lowest - zero_point)
    values = tf.where(values == values, values, least)  # not of NaN
    values = tf.clip_by_value(values, least, float(highest - zero_point))
    return tf.cast(tf.round(values) + float(zero_point), dtype)


def _number_type(filters):
    """The type in which no sum of distances of integers is rounded."""
    taps = filters.shape[0] * filters.shape[1] * filters.shape[2]
    lowest, highest = _range(filters.dtype)
    # Of two maxima, and of an input and a filter.
    largest = 2 * taps * max(-lowest, highest)
    return tf.float32 if largest <= _LARGEST_WHOLE_FLOAT else tf.int32


def _range(dtype):
    return dtype.min, dtype.max  # not `limits`, which begin at 0


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _taps(inputs, kernel_size, strides, padding, dilation_rate, pad_value):
    """For each tap of the filters, the inputs that all outputs meet there.

    Tensors of shape `(batch, new_height, new_width, channels)`.
    """
    sizes = [_size(inputs, axis) for axis in (1, 2)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation_rate)]
    if padding == "valid":
        padding = ((0, 0), (0, 0))
    elif padding == "same":
        padding = [
            _same_padding(size, span, stride)
            for size, span, stride in zip(sizes, spans, strides)
        ]
    if any(
        not isinstance(side, int) or side for pair in padding for side in pair
    ):
        inputs = tf.pad(
            inputs, [(0, 0), *padding, (0, 0)], constant_values=pad_value
        )
    lengths = [
        _not_negative((size + sum(pair) - span) // stride * stride + 1)
        for size, pair, span, stride in zip(sizes, padding, spans, strides)
    ]
    taps = []
    for i in range(0, spans[0], dilation_rate[0]):
        # Apart: one slice of both would forget the size that is known.
        rows = inputs[:, i : i + lengths[0] : strides[0]]
        for j in range(0, spans[1], dilation_rate[1]):
            taps.append(rows[:, :, j : j + lengths[1] : strides[1]])
    return taps


def _size(tensor, axis):
    """An int, or a tensor where it is known when the model runs."""
    size = tensor.shape[axis]
    return tf.shape(tensor)[axis] if size is None else size


def _same_padding(size, span, stride):
    outputs = -(-size // stride)
    missing = _not_negative((outputs - 1) * stride + span - size)
    return missing // 2, missing - missing // 2


def _not_negative(size):
    return max(size, 0) if isinstance(size, int) else tf.maximum(size, 0)


def _depthwise(taps, filters):
    """Filters of one channel: few distances an output, as they are."""
    count = filters.shape[-1]
    multiplier = count // taps[0].shape[-1]
    distances = []
    by_taps = tf.unstack(tf.reshape(filters, (len(taps), count)))
    for tap, each in zip(taps, by_taps):
        if multiplier > 1:
            tap = tf.repeat(tap, multiplier, axis=-1)
        distances.append(tf.abs(tap - each))
    return -tf.add_n(distances)


def _group(taps, filters, of_integers):
    """Distances of the patches of some channels from all filters for these."""
    count = filters.shape[-1]
    patches = tf.concat(taps, axis=-1) if len(taps) > 1 else taps[0]
    pixels = tf.reshape(patches, (-1, 1, patches.shape[-1]))
    # One filter a row, its taps in the patches' order.
    rows = tf.transpose(tf.reshape(filters, (patches.shape[-1], count)))
    if not of_integers:
        # What inputs and filters have in common would cancel, at a loss.
        common = tf.reduce_mean(rows, axis=0)
        pixels, rows = pixels - common, rows - common
    some = _filters_at_once(patches)
    maxima = [
        tf.reduce_sum(tf.maximum(pixels, rows[first : first + some]), axis=-1)
        for first in range(0, count, some)
    ]
    maxima = tf.concat(maxima, axis=-1) if len(maxima) > 1 else maxima[0]
    distances = (
        tf.reduce_sum(pixels, axis=-1)
        + tf.reduce_sum(rows, axis=-1)
        - (maxima + maxima)
    )
    shape = [_size(patches, axis) for axis in (0, 1, 2)]
    return tf.reshape(distances, (*shape, count))


def _filters_at_once(patches):
    """So many that their maxima keep to `CHUNK_BYTES`, or one."""
    of_image = patches.shape[1:].num_elements()
    if of_image is None:
        return 1
    return max(1, CHUNK_BYTES // max(1, of_image * patches.dtype.size))
