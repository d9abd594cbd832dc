"""Adder convolutions in TensorFlow's own operations, beside ours."""

import numpy as np
import pytest
import tensorflow as tf

from keras_adder import ops
from keras_adder.export import stock_ops

GEOMETRIES = {
    "valid": {},
    "same": {"padding": "same"},
    "stride 2": {"padding": "same", "strides": 2},
    "strides differ": {"padding": "same", "strides": (3, 2)},
    "dilation": {"padding": "same", "dilation_rate": (2, 3)},
    "dilation and strides": {"dilation_rate": 2, "strides": 2},
    "padded": {"padding": ((2, 0), (1, 2)), "strides": (1, 2)},
}
# Channels, filters, and the channels of a filter.
FILTERS = {
    "one channel": (1, 5, 1),
    "plain": (4, 6, 4),
    "groups": (6, 9, 2),
    "depthwise": (5, 5, 1),
    "multiplier 3": (4, 12, 1),
}
SIZE = (9, 8)


def tensors(channels, filters, of_group, kernel=(3, 2), dtype="float32"):
    generator = np.random.default_rng(4)
    shapes = (2, *SIZE, channels), (*kernel, of_group, filters)
    if dtype in ("uint8", "int16"):
        limits = np.iinfo(dtype)
        return [
            generator.integers(limits.min, limits.max + 1, shape, dtype)
            for shape in shapes
        ]
    return [tf.cast(generator.normal(size=s), dtype) for s in shapes]


def assert_near(actual, expected, tolerance=1e-6):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    actual, expected = (np.asarray(v, np.float64) for v in (actual, expected))
    mean = np.abs(expected).mean() if expected.size else 0
    np.testing.assert_allclose(actual, expected, 0, tolerance * mean)


@pytest.mark.parametrize("how", GEOMETRIES)
@pytest.mark.parametrize("filters", FILTERS)
def test_floats(how, filters):
    x, f = tensors(*FILTERS[filters])
    geometry = GEOMETRIES[how]
    expected = ops.adder_conv2d(x, f, data_format="channels_last", **geometry)
    assert_near(stock_ops.adder_conv2d(x, f, **geometry), expected)
    # Sizes, and how many images, are known only when it runs.
    function = tf.function(
        lambda x: stock_ops.adder_conv2d(x, f, **geometry),
        input_signature=[tf.TensorSpec((None, None, None, x.shape[-1]))],
    )
    assert_near(function(x), expected)
    for count in (0, 1):
        assert_near(function(x[:count]), expected[:count], 1)


@pytest.mark.parametrize("filters", FILTERS)
def test_channels_first(filters):
    x, f = tensors(*FILTERS[filters])
    how = {"padding": "same", "strides": 2, "data_format": "channels_first"}
    x = tf.transpose(x, (0, 3, 1, 2))
    assert_near(
        stock_ops.adder_conv2d(x, f, **how), ops.adder_conv2d(x, f, **how)
    )


@pytest.mark.parametrize(
    "dtype, tolerance",
    [("float64", 1e-14), ("float16", 1e-3), ("bfloat16", 1e-2)],
)
def test_dtypes(dtype, tolerance):
    x, f = tensors(16, 5, 16, dtype=dtype)
    expected = ops.adder_conv2d(x, f, data_format="channels_last")
    assert_near(stock_ops.adder_conv2d(x, f), expected, tolerance)


@pytest.mark.parametrize("filters", [1, 2, 5, 7, 100])
def test_filters_by_chunks(filters, monkeypatch):
    """As many at once as fit into so many bytes; the last chunk is smaller."""
    x, f = tensors(4, 7, 4)
    expected = stock_ops.adder_conv2d(x, f)
    of_one = 7 * 7 * 3 * 2 * 4 * 4  # outputs, taps, channels, bytes
    monkeypatch.setattr(stock_ops, "CHUNK_BYTES", of_one * filters)
    function = tf.function(lambda x: stock_ops.adder_conv2d(x, f))
    graph = function.get_concrete_function(x).graph
    maxima = [o for o in graph.get_operations() if o.type == "Maximum"]
    assert len(maxima) == -(-7 // min(filters, 7))
    for maximum in maxima:
        assert maximum.outputs[0].shape[1] <= filters
    assert_near(function(x), expected)


def test_large_sums():
    """Of 4,608 terms, for which 1e-4 of the mean is promised."""
    generator = np.random.default_rng(7)
    x = generator.normal(size=(1, 7, 7, 512)).astype("float32")
    f = generator.normal(size=(3, 3, 512, 4)).astype("float32")
    expected = ops.adder_conv2d(x, f, padding="same")
    actual = stock_ops.adder_conv2d(x, f, padding="same")
    assert_near(actual, expected, 1e-5)


@pytest.mark.parametrize("offset", [10, 1e3, 1e5])
def test_what_inputs_and_filters_have_in_common(offset):
    x, f = (tensor + offset for tensor in tensors(16, 6, 16))
    assert_near(
        stock_ops.adder_conv2d(x, f),
        ops.adder_conv2d(x, f, data_format="channels_last"),
        1e-5,
    )


@pytest.mark.parametrize("size", [1, 2])
def test_images_smaller_than_filters(size):
    x = tf.zeros((2, size, 5, 4))
    f = tf.ones((3, 3, 4, 6))
    function = tf.function(
        lambda x: stock_ops.adder_conv2d(x, f),
        input_signature=[tf.TensorSpec((None, None, None, 4))],
    )
    for call in (stock_ops.adder_conv2d, lambda x, f: function(x)):
        assert call(x, f).shape == (2, 0, 3, 6)


FUSED = {
    "strides": 1,
    "padding": "same",
    "data_format": "channels_last",
    "dilation_rate": 1,
    "input_scale": 0.05,
    "input_zero_point": 3,
    "residual_scale": 0.5,
    "residual_zero_point": 9,
    "lower": None,
    "upper": None,
    "output_dtype": "float32",
    "output_scale": 40.0,
    "output_zero_point": 17,
}


def assert_fused(x, f, residual=None, **changes):
    how = FUSED | changes
    for tensor, dtype in (
        ("input", f.dtype),
        ("residual", residual),
        ("output", how["output_dtype"]),
    ):
        if dtype not in ("uint8", "int16"):
            how |= {f"{tensor}_scale": 1.0, f"{tensor}_zero_point": 0}
    filters = f.shape[-1]
    generator = np.random.default_rng(5)
    multiplier = generator.normal(0, 0.1, filters).astype("float32")
    offset = generator.normal(0, 50, filters).astype("float32")
    if residual is not None:
        shape = ops.adder_conv2d(
            tf.cast(x, "float32"),
            tf.cast(f, "float32"),
            **{k: how[k] for k in ("strides", "padding", "data_format")},
        ).shape
        residual = (
            generator.normal(0, 100, shape).astype(residual)
            if residual == "float32"
            else generator.integers(0, 256, shape).astype(residual)
        )
    expected = ops.fused_adder_conv2d(x, f, multiplier, offset, residual, **how)

    def stock(x, residual):
        return stock_ops.fused_adder_conv2d(
            x, f, multiplier, offset, residual, **how
        )

    # Graphs are rewritten before they run.
    for call in (stock, tf.function(stock)):
        actual = call(x, residual)
        assert actual.dtype == expected.dtype
        if f.dtype == "float32":
            assert_near(actual, expected, 1e-5)
        else:
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("filter_dtype", ["uint8", "int16"])
@pytest.mark.parametrize("from_floats", [False, True])
@pytest.mark.parametrize("output_dtype", ["float32", "uint8", "int16"])
def test_integers_are_equal(filter_dtype, from_floats, output_dtype):
    x, f = tensors(6, 8, 6, (3, 3), filter_dtype)
    if from_floats:
        x = np.random.default_rng(6).normal(0, 5, x.shape).astype("float32")
        x[0, 0, 0] = [np.nan, np.inf, -np.inf, 1e30, -0.0, 0.025]
    assert_fused(x, f, output_dtype=output_dtype)
    assert_fused(x, f, "uint8", output_dtype=output_dtype, lower=0.0)
    assert_fused(
        x, f, "int16", output_dtype=output_dtype, lower=-9.0, upper=6.0
    )
    assert_fused(x, f, "float32", output_dtype=output_dtype, strides=2)


@pytest.mark.parametrize("filter_dtype", ["uint8", "int16"])
def test_integers_of_few_channels(filter_dtype):
    for channels, filters, of_group in FILTERS.values():
        x, f = tensors(channels, filters, of_group, dtype=filter_dtype)
        assert_fused(x, f, output_dtype="uint8", padding="valid", strides=2)


def test_sums_that_no_float_holds():
    """Of extremes, whose sums end in odd numbers above 2**24."""
    generator = np.random.default_rng(8)
    x = generator.choice([-32768, 32767], (1, 2, 2, 600)).astype("int16")
    f = generator.choice([-32768, 32766], (1, 1, 600, 3)).astype("int16")
    assert_fused(x, f)


def test_fused_floats():
    x, f = tensors(6, 8, 6)
    for residual in (None, "float32", "uint8"):
        assert_fused(x, f, residual, lower=0.0, upper=60.0)


def test_fused_channels_first():
    x, f = tensors(6, 8, 6, (3, 3), "uint8")
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    assert_fused(
        x, f, "uint8", data_format="channels_first", output_dtype="uint8"
    )
