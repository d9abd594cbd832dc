"""The fused adder convolution in NumPy: slow, plain, and exact for integers.

Behind the distances all is float32 arithmetic, one operation at a time, in the
order that the operation's documentation gives.
"""

import numpy as np
import oracle

F = np.float32
INTEGERS = ("uint8", "int16")


def quantize(y, scale, zero_point, dtype):
    """Floats to the nearest integers; halves to even, NaN to the lowest."""
    bounds = np.iinfo(dtype)
    with np.errstate(all="ignore"):
        q = np.rint(y.astype(F) * (F(1) / F(scale))) + F(zero_point)
    q = np.where(np.isnan(q), F(bounds.min), q)
    return np.clip(q, bounds.min, bounds.max).astype(dtype)


def dequantize(q, scale, zero_point):
    return (q.astype(np.int64) - zero_point).astype(F) * F(scale)


def distances(x, f, input_scale=1.0, input_zero_point=0, **geometry):
    """-sum |x - f|: int64 of integer filters, and else float64."""
    if f.dtype not in INTEGERS:
        return oracle.adder_conv2d(x, f, **geometry)
    if x.dtype not in INTEGERS:
        x = quantize(x, input_scale, input_zero_point, f.dtype)
    # Less the zero point, padding is zero. Float64 is exact to 2**53.
    x, f = (v.astype(np.int64) - input_zero_point for v in (x, f))
    return oracle.adder_conv2d(x, f, **geometry).astype(np.int64)


def epilogue(
    sums,
    multiplier=None,
    offset=None,
    residual=None,
    residual_scale=1.0,
    residual_zero_point=0,
    lower=None,
    upper=None,
    output_dtype="float32",
    output_scale=1.0,
    output_zero_point=0,
    data_format="NHWC",
):
    """What follows distances, of int64, or of float32 as the op gives them."""
    if output_dtype == "int32":
        return sums.astype(np.int32)
    channels = (-1,) if data_format == "NHWC" else (-1, 1, 1)
    y = sums.astype(F)
    with np.errstate(all="ignore"):
        if multiplier is not None:
            y = y * multiplier.reshape(channels)
        if offset is not None:
            y = y + offset.reshape(channels)
        if residual is not None:
            if residual.dtype in INTEGERS:
                residual = dequantize(
                    residual, residual_scale, residual_zero_point
                )
            y = y + residual
        # Both of these keep a NaN.
        y = np.maximum(y, F(-np.inf if lower is None else lower))
        y = np.minimum(y, F(np.inf if upper is None else upper))
    assert y.dtype == F
    if output_dtype == "float32":
        return y
    return quantize(y, output_scale, output_zero_point, output_dtype)


def fused_adder_conv2d(
    x,
    f,
    strides=(1, 1),
    padding="VALID",
    dilations=(1, 1),
    data_format="NHWC",
    input_scale=1.0,
    input_zero_point=0,
    **behind,
):
    sums = distances(
        x,
        f,
        input_scale,
        input_zero_point,
        strides=strides,
        padding=padding,
        dilations=dilations,
        data_format=data_format,
    )
    return epilogue(sums, data_format=data_format, **behind)
