"""The accuracy that is promised: 1e-5 of the mean distance, on any data.

The forward kernel sums maxima, |a - b| = 2 max(a, b) - a - b, which cancels
where a and b are large and close. It has to notice, and sum directly instead.
"""

import numpy as np
import oracle
import pytest
import tensorflow as tf

from keras_adder.ops import adder_conv2d

PROMISE = 1e-5


def normal(rng, shape):
    return rng.normal(size=shape)


def clusters(rng, shape):
    return rng.choice([-100.0, 100.0], size=shape) + rng.normal(size=shape)


def mixed(rng, shape):
    return rng.normal(size=shape) * 10.0 ** rng.integers(-6, 7, size=shape)


CASES = {
    "normal": (normal, normal),
    "after a ReLU": (lambda r, s: np.maximum(r.normal(size=s), 0), normal),
    "common offset of 100": (
        lambda r, s: 100 + r.normal(size=s),
        lambda r, s: 100 + r.normal(size=s),
    ),
    "common offset of 1e4": (
        lambda r, s: 1e4 + r.normal(size=s),
        lambda r, s: 1e4 + r.normal(size=s),
    ),
    "offsets by channel": (
        lambda r, s: 1e4 * np.sin(np.arange(s[3])) + r.normal(size=s),
        lambda r, s: (
            (1e4 * np.sin(np.arange(s[2])))[:, None] + r.normal(size=s)
        ),
    ),
    "clusters at +-100": (clusters, clusters),
    "mixed magnitudes": (mixed, mixed),
    "denormals": (
        lambda r, s: r.normal(size=s) * 1e-40,
        lambda r, s: r.normal(size=s),
    ),
    "nearly the filters": (
        lambda r, s: 50 + 1e-3 * r.normal(size=s),
        lambda r, s: np.full(s, 50.0),
    ),
}


# What the documents say of the worst constants, whose rounding errors all go
# one way. Most keep the promise.
CONSTANTS = 5e-5


def constants_error(x, f, kernel, channels, groups=1):
    x = np.full((1, kernel, kernel, channels), x, "float32")
    f = np.full((kernel, kernel, channels // groups, 16), f, "float32")
    y = adder_conv2d(x, f).numpy()
    exact = np.abs(x.astype("float64")[0, 0, 0, 0] - f[0, 0, 0, 0])
    exact *= kernel * kernel * channels // groups
    return np.abs(y + exact).max() / exact


@pytest.mark.parametrize("kernel", [11, 31, 64])
def test_constants_under_large_kernels(kernel):
    """A rounding error a hundred thousand times over: no worse for that."""
    for x, f in ((0.1, 0.77), (0.3, 0.9), (1.1, 0.7)):
        assert constants_error(x, f, kernel, 16) <= PROMISE
        assert constants_error(x, f, kernel, 16, groups=16) <= PROMISE


@pytest.mark.parametrize("channels", [16, 64, 512])
def test_constants(channels):
    rng = np.random.default_rng(0)
    worst = 0
    for _ in range(300):
        x = rng.uniform(0.1, 1) * rng.choice([-1, 1])
        # About as far apart as sums of maxima are trusted.
        worst = max(
            worst, constants_error(x, x * rng.uniform(0.5, 0.7), 3, channels)
        )
    assert worst <= CONSTANTS


@pytest.mark.parametrize("factor", [1e3, 1e4, 1e5])
def test_promise_for_large_filters_in_the_padding(factor):
    x = np.full((1, 3, 3, 64), 0.1, "float32")
    f = np.full((3, 3, 64, 16), 0.77, "float32")
    f[0] *= factor
    y = adder_conv2d(x, f, padding="same").numpy()
    exact = oracle.adder_conv2d(x, f, padding="SAME")
    assert np.abs(y - exact).max() <= PROMISE * np.abs(exact).mean()


@pytest.mark.parametrize("channels", [3, 32, 256])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_promise(name, kernel, channels):
    rng = np.random.default_rng(0)
    make_x, make_f = CASES[name]
    x = make_x(rng, (2, 9, 15, channels)).astype("float32")
    f = make_f(rng, (kernel, kernel, channels, 33)).astype("float32")
    y = adder_conv2d(x, f, padding="same").numpy()
    exact = oracle.adder_conv2d(x, f, padding="SAME")
    assert np.abs(y - exact).max() <= PROMISE * np.abs(exact).mean()


def test_patches_that_equal_filters_are_at_distance_zero():
    rng = np.random.default_rng(0)
    f = (1e3 + rng.normal(size=(3, 3, 40, 1))).astype("float32")
    x = np.tile(f[..., 0], (1, 1, 1, 1))
    assert adder_conv2d(x, np.repeat(f, 20, axis=3)).numpy().max() == 0


def test_direct_sums_depend_on_no_neighbour():
    """Some pixels cancel and others do not: batch splits still agree."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 7, 8, 32)).astype("float32")
    x[::2, 3] += 1e4
    f = rng.normal(size=(3, 3, 32, 40)).astype("float32")
    f[..., ::3] += 1e4
    y = adder_conv2d(x, f, padding="same").numpy()
    exact = oracle.adder_conv2d(x, f, padding="SAME")
    assert np.abs(y - exact).max() <= PROMISE * np.abs(exact).mean()
    for image in range(6):
        alone = adder_conv2d(x[image : image + 1], f, padding="same")
        assert np.array_equal(alone[0], y[image])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_large_inputs_are_not_lost(dtype):
    """g clip(f, x - 1, x + 1) - g x would round to 0 here."""
    x = tf.constant([[[[1e8, -1e8]]]], dtype)
    f = tf.zeros((1, 1, 2, 1), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = adder_conv2d(x, f)
    assert tape.gradient(y, x).numpy().ravel().tolist() == [-1.0, 1.0]
