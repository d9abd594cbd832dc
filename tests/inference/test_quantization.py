"""The arithmetic: the identity that all rests on, steps, and integers."""

import numpy as np
import pytest

from keras_adder._arguments import most_differences
from keras_adder.inference.quantization import Quantization
from keras_adder.inference.quantization import quantize_filters
from keras_adder.inference.quantization import share_clipped


def ranges(seed):
    """Ranges of all kinds: signed or not, around zero or far from it."""
    generator = np.random.default_rng(seed)
    low, high = np.sort(
        generator.normal(size=2) * 10 ** generator.uniform(-6, 6)
    )
    kind = seed % 4
    if kind == 0:
        return 0.0, high - low
    if kind == 1:
        return low - high, 0.0
    return (low, high) if kind == 2 else (low + 5 * high, 6 * high)


@pytest.mark.parametrize("seed", range(20))
def test_clipping_is_exact(seed):
    """|x - f| = |x - clip(f)| + |f - clip(f)| for x in [low, high]."""
    generator = np.random.default_rng(seed)
    low, high = min(ranges(seed)), max(ranges(seed))
    x = generator.uniform(low, high, size=(50, 1, 30))
    x.flat[:2] = low, high
    f = generator.normal(scale=5 * max(abs(low), abs(high)), size=(20, 30))
    clipped = np.clip(f, low, high)
    distance = np.abs(x - clipped).sum(-1) + np.abs(f - clipped).sum(-1)
    np.testing.assert_allclose(distance, np.abs(x - f).sum(-1), rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_integers_on_the_grid_lose_nothing(seed):
    """Filters and inputs of whole steps have the same distances as integers."""
    generator = np.random.default_rng(seed)
    low, high = min(ranges(seed)), max(ranges(seed))
    dtype = ("uint8", "int16")[seed % 2]
    q = Quantization.of_range(low, high, dtype)
    x = generator.integers(q.lowest, q.highest + 1, size=(50, 30, 1))
    f = generator.integers(q.lowest - 400, q.highest + 400, size=(30, 8))
    real_x, real_f = ((v - q.zero_point) * q.scale for v in (x, f))
    np.testing.assert_array_equal(q.quantize(real_x), x)
    integers, lacking = quantize_filters(real_f, q)
    assert integers.dtype == dtype
    sums = -np.abs(x - integers.astype("int64")).sum(1)
    np.testing.assert_allclose(
        sums * q.scale + lacking, -np.abs(real_x - real_f).sum(1), rtol=1e-9
    )


@pytest.mark.parametrize("levels", [3, 7, 15, 31, 63, 127, 255])
@pytest.mark.parametrize("seed", range(8))
def test_rounding_is_half_a_step_at_most(levels, seed):
    low, high = min(ranges(seed)), max(ranges(seed))
    q = Quantization.of_range(low, high, "uint8", levels)
    assert 0 <= q.zero_point <= levels and q.levels == levels
    assert q.quantize(0.0) == q.zero_point
    assert float(np.float32(q.scale)) == q.scale
    values = np.linspace(min(low, 0), max(high, 0), 1000)
    integers = q.quantize(values)
    assert integers.min() == 0 and integers.max() == levels
    back = (integers.astype("int64") - q.zero_point) * q.scale
    # The zero point is rounded, too, which moves the range as much.
    assert np.abs(back - values).max() <= q.scale * (1 + 1e-6)
    inside = (values >= q.low) & (values <= q.high)
    assert np.abs(back - values)[inside].max() <= q.scale / 2 * (1 + 1e-6)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 5.1, ("uint8", 0.02, 0)),
        (1, 5.1, ("uint8", 0.02, 0)),
        (-5.1, 0, ("uint8", 0.02, 255)),
        (-5.1, -1, ("uint8", 0.02, 255)),
        (-1.02, 4.08, ("uint8", 0.02, 51)),
        (0, 655.35, ("int16", 0.01, -32768)),
        (-655.35, 0, ("int16", 0.01, 32767)),
    ],
)
def test_known_ranges(low, high, expected):
    dtype, scale, zero_point = expected
    q = Quantization.of_range(low, high, dtype)
    assert q.zero_point == zero_point
    assert q.scale == float(np.float32(scale))


def test_share_clipped():
    kernel = np.array([[-1.0, 0.0], [2.0, 3.5]])
    assert share_clipped(kernel, 0.0, 3.0) == 0.5


def test_sums():
    assert most_differences("uint8") == 8_421_504
    assert most_differences("int16") == 32_768
