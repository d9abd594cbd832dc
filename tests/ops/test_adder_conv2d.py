"""The op's three results against the float64 oracle, and how they behave."""

import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf

from keras_adder.ops import _library
from keras_adder.ops import adder_conv2d

# Largest error allowed, over the mean magnitude of the exact result where it is
# not zero. Half and bfloat16 results are rounded once: half a unit in the last
# place of values that exceed the mean several times over.
TOLERANCE = {
    "float64": 1e-13,
    "float32": 1e-5,
    "float16": 4e-3,
    "bfloat16": 3e-2,
}


def relative_error(actual, exact):
    actual = np.asarray(tf.cast(actual, tf.float64))
    if not np.any(exact):
        return np.abs(actual).max(initial=0.0)
    return np.abs(actual - exact).max() / np.abs(exact[exact != 0]).mean()


class Case:
    """Random tensors of one geometry and everything computed from them."""

    def __init__(
        self,
        shape=(2, 9, 11, 5),
        kernel=(3, 3),
        filters=7,
        groups=1,
        strides=(1, 1),
        padding="valid",
        dilations=(1, 1),
        data_format="channels_last",
        dtype="float32",
        mode="full_precision",
        output_dtype=None,
        seed=0,
    ):
        rng = np.random.default_rng(seed)
        n, h, w, c = shape
        dims = shape if data_format == "channels_last" else (n, c, h, w)
        filter_shape = (*kernel, c // groups, filters)
        # Rounded to the dtype first, so that the oracle sees what the op sees.
        self.x = tf.cast(rng.normal(size=dims), dtype)
        self.f = tf.cast(rng.normal(size=filter_shape), dtype)
        self.arguments = {
            "strides": strides,
            "padding": padding,
            "data_format": data_format,
            "dilation_rate": dilations,
            "filter_gradient": mode,
            "output_dtype": output_dtype,
        }
        self.mode = mode
        self.rng = rng
        self.geometry = {
            "strides": strides,
            "padding": padding.upper() if isinstance(padding, str) else padding,
            "dilations": dilations,
            "data_format": (
                "NHWC" if data_format == "channels_last" else "NCHW"
            ),
        }

    def exact_output(self):
        return oracle.adder_conv2d(
            self.double(self.x), self.double(self.f), **self.geometry
        )

    @staticmethod
    def double(tensor):
        return np.asarray(tf.cast(tensor, tf.float64))

    def check(self):
        with tf.GradientTape() as tape:
            tape.watch([self.x, self.f])
            y = adder_conv2d(self.x, self.f, **self.arguments)
        exact_y = self.exact_output()
        assert y.shape == exact_y.shape
        g = tf.cast(self.rng.normal(size=y.shape), y.dtype)
        # Both at once, by one op, and each alone, by one of its own.
        both = tape.gradient(y, [self.x, self.f], output_gradients=g)
        each = [self.gradient_of(wanted, g) for wanted in (self.x, self.f)]
        x, f, exact_g = map(self.double, (self.x, self.f, g))
        exact_dx = oracle.adder_conv2d_input_gradient(
            x, f, exact_g, **self.geometry
        )
        exact_df = oracle.adder_conv2d_filter_gradient(
            x, f, exact_g, mode=self.mode, **self.geometry
        )
        assert relative_error(y, exact_y) < TOLERANCE[y.dtype.name]
        tolerance = TOLERANCE[self.x.dtype.name]
        for dx, df in (both, each):
            assert relative_error(dx, exact_dx) < tolerance
            assert relative_error(df, exact_df) < tolerance

    def gradient_of(self, wanted, output_gradients):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(wanted)
            y = adder_conv2d(self.x, self.f, **self.arguments)
        return tape.gradient(y, wanted, output_gradients=output_gradients)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "geometry",
    [
        dict(),
        dict(padding="same", strides=(2, 3)),
        dict(padding="same", dilations=(2, 3)),
        dict(shape=(2, 9, 11, 6), filters=9, groups=3, padding="same"),
        dict(padding=((0, 3), (2, 1)), strides=(3, 1), dilations=(1, 2)),
        dict(kernel=(1, 1), shape=(3, 4, 5, 17), filters=33),
    ],
    ids=["plain", "strides", "dilations", "groups", "explicit", "pointwise"],
)
def test_every_dtype_layout_and_attribute(geometry, data_format, dtype):
    Case(dtype=dtype, data_format=data_format, **geometry).check()


@pytest.mark.parametrize("mode", ["full_precision", "sign"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sign_and_full_precision_filter_gradients(dtype, mode):
    Case(dtype=dtype, mode=mode, padding="same", strides=(2, 1)).check()


def random_geometries(count):
    """Awkward ones: every remainder, holes between taps, bare padding."""
    rng = np.random.default_rng(1)
    while count > 0:
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
        dilations = tuple(int(d) for d in rng.integers(1, 4, 2))
        size = tuple(int(s) for s in rng.integers(1, 24, 2))
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
        padding = ["same", "valid", None][rng.integers(3)]
        padded = list(size)
        if padding is None:
            padding = tuple(
                tuple(int(p) for p in rng.integers(0, e + 1, 2)) for e in extent
            )
            padded = [s + sum(p) for s, p in zip(size, padding)]
        if padding != "same" and any(p < e for p, e in zip(padded, extent)):
            continue
        count -= 1
        channels = groups * int(rng.choice([1, 2, 3, 7, 16, 17, 33]))
        yield dict(
            shape=(int(rng.integers(1, 4)), *size, channels),
            kernel=kernel,
            filters=groups * int(rng.choice([1, 3, 6, 15, 16, 17, 33, 65])),
            groups=groups,
            strides=tuple(int(s) for s in rng.integers(1, 4, 2)),
            padding=padding,
            dilations=dilations,
            data_format=str(rng.choice(["channels_last", "channels_first"])),
            mode=str(rng.choice(["full_precision", "sign"])),
        )


@pytest.mark.parametrize("part", range(4))
def test_random_geometries(part):
    for geometry in itertools.islice(random_geometries(120), part, None, 4):
        Case(**geometry).check()


@pytest.mark.parametrize("filters", [1, 15, 16, 17, 31, 32, 33, 64, 65, 129])
@pytest.mark.parametrize("width", [1, 5, 6, 7, 12, 13, 16, 17, 33])
def test_remainders_of_filters_and_width(filters, width):
    Case(shape=(1, 3, width, 3), filters=filters, padding="same").check()


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 47, 48, 49, 300])
def test_remainders_of_channels(channels):
    Case(shape=(2, 5, 6, channels), filters=18, padding="same").check()
    Case(shape=(2, 5, 6, channels), filters=18, kernel=(1, 1)).check()


@pytest.mark.parametrize(
    "geometry",
    [
        dict(shape=(1, 70, 90, 4), padding="same"),
        dict(shape=(300, 1, 1, 40), kernel=(1, 1), filters=24),
        dict(shape=(40, 3, 3, 20), padding="same", filters=20),
        dict(shape=(1, 1, 700, 3), kernel=(1, 9), padding="same"),
        dict(shape=(1, 700, 1, 3), kernel=(9, 1), padding="same"),
        dict(shape=(1, 6, 6, 2), strides=(50, 50), padding="same"),
        dict(shape=(1, 6, 6, 2), dilations=(40, 1000), padding="same"),
        dict(shape=(1, 40, 40, 2), kernel=(31, 29), padding="same"),
        dict(shape=(2, 30, 30, 2), kernel=(2, 2), strides=(7, 5)),
    ],
    ids=[
        "several blocks",
        "long batch",
        "small images",
        "wide",
        "high",
        "huge strides",
        "huge dilations",
        "huge filters",
        "pixels no tap meets",
    ],
)
def test_extreme_geometries(geometry):
    Case(**geometry).check()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_reduced_precision_may_keep_a_float32_output(dtype, data_format):
    case = Case(
        shape=(2, 6, 7, 40),
        dtype=dtype,
        data_format=data_format,
        output_dtype="float32",
    )
    y = adder_conv2d(case.x, case.f, **case.arguments)
    assert y.dtype == tf.float32
    assert relative_error(y, case.exact_output()) < TOLERANCE["float32"]
    case.check()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_reduced_precision_sums_over_1e5_positions_in_float32(dtype):
    """Summed in half, 1024 stops at 512 and lower: terms vanish one by one."""
    x = tf.ones((32, 64, 64, 1), dtype)
    f = tf.zeros((1, 1, 1, 1), dtype)
    with tf.GradientTape() as tape:
        tape.watch(f)
        y = adder_conv2d(x, f, output_dtype="float32")
    g = tf.fill(y.shape, 1024.0 / 131072)
    gradient = tape.gradient(y, f, output_gradients=g)
    assert gradient.numpy().item() == 1024.0


def test_known_values():
    """By hand: one 2x2 filter of 1s under a 2x2 image, padded below."""
    x = tf.reshape(tf.constant([1.0, 3.0, -1.0, 0.5]), (1, 2, 2, 1))
    f = tf.ones((2, 2, 1, 1))
    y = adder_conv2d(x, f, padding=((0, 1), (0, 0)))
    assert np.array_equal(y[0, :, 0, 0], [-(0 + 2 + 2 + 0.5), -(2 + 0.5 + 2)])


def test_gradient_is_the_papers_and_not_the_derivative():
    x = tf.constant([[[[3.0]]]])
    f = tf.constant([[[[0.5]]]])
    with tf.GradientTape() as tape:
        tape.watch([x, f])
        y = adder_conv2d(x, f)
    dx, df = tape.gradient(y, [x, f])
    assert df.numpy().item() == 2.5  # X - F, and not its sign
    assert dx.numpy().item() == -1.0  # HardTanh(F - X)


@pytest.mark.parametrize(
    "empty",
    [dict(shape=(0, 5, 6, 3)), dict(shape=(2, 0, 6, 3), padding="same")],
)
def test_empty_input_gives_an_empty_result(empty):
    case = Case(filters=4, **empty)
    with tf.GradientTape() as tape:
        tape.watch([case.x, case.f])
        y = adder_conv2d(case.x, case.f, **case.arguments)
    assert 0 in y.shape
    dx, df = tape.gradient(y, [case.x, case.f])
    assert dx.shape == case.x.shape
    assert np.array_equal(df, np.zeros(case.f.shape))


def test_no_filters_give_an_empty_result_and_a_zero_gradient():
    x, f = tf.ones((1, 4, 4, 2)), tf.ones((3, 3, 2, 0))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = adder_conv2d(x, f)
    assert y.shape == (1, 2, 2, 0)
    assert np.array_equal(tape.gradient(y, x), np.zeros(x.shape))


class TestNotFinite:
    """What NumPy's float64 says, position by position."""

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("where", ["x", "f", "both", "g"])
    @pytest.mark.parametrize("mode", ["full_precision", "sign"])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
    # Patches of rows, and of windows.
    @pytest.mark.parametrize("channels, filters", [(18, 19), (3, 64)])
    def test_same_as_oracle(self, value, where, mode, dtype, channels, filters):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, 6, 7, channels))
        f = rng.normal(size=(3, 3, channels, filters))
        g = rng.normal(size=(2, 6, 7, filters))
        if where in ("x", "both"):
            x[0, 2, 3, -1] = value
        if where in ("f", "both"):
            f[1, 2, -2, -1] = value
        if where == "g":
            g[1, 0, 6, -2] = value
        x, f, g = (tf.cast(a, dtype) for a in (x, f, g))
        with tf.GradientTape() as tape:
            tape.watch([x, f])
            y = adder_conv2d(x, f, padding="same", filter_gradient=mode)
        dx, df = tape.gradient(y, [x, f], output_gradients=g)
        separate = [
            op(x, f, g, strides=[1] * 4, padding="SAME", **mode_of)
            for op, mode_of in (
                (_library.keras_adder_adder_conv2d_backprop_input, {}),
                (
                    _library.keras_adder_adder_conv2d_backprop_filter,
                    {"filter_gradient": mode},
                ),
            )
        ]
        geometry = dict(padding="SAME")
        exact = [Case.double(a) for a in (x, f, g)]
        with np.errstate(invalid="ignore"):
            self.same(y, oracle.adder_conv2d(*exact[:2], **geometry))
            exact_dx = oracle.adder_conv2d_input_gradient(*exact, **geometry)
            exact_df = oracle.adder_conv2d_filter_gradient(
                *exact, mode=mode, **geometry
            )
        for actual_dx, actual_df in ((dx, df), separate):
            self.same(actual_dx, exact_dx)
            self.same(actual_df, exact_df)

    @pytest.mark.parametrize("channel", [0, 95])
    def test_a_nan_of_one_channel_is_nothing_to_the_others(self, channel):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1, 6, 6, 96)).astype("float32")
        f = rng.normal(size=(3, 3, 96, 8)).astype("float32")
        g = rng.normal(size=(1, 6, 6, 8)).astype("float32")
        x[0, 2, 3, channel] = np.nan
        df = _library.keras_adder_adder_conv2d_backprop(
            x, f, g, strides=[1] * 4, padding="SAME"
        )[1].numpy()
        exact = oracle.adder_conv2d_filter_gradient(x, f, g, padding="SAME")
        self.same(df, exact)
        others = np.arange(96) != channel
        np.testing.assert_allclose(
            df[:, :, others], exact[:, :, others], rtol=1e-5, atol=1e-4
        )

    def test_padding_does_not_overflow_on_the_way(self):
        largest = np.finfo("float32").max
        near = 0.99 * largest / 64
        x = np.array([near, -near], "float32").reshape(1, 1, 1, 2)
        f = np.zeros((2, 1, 2, 16), "float32")
        f[0, 0, 0], f[1, 0] = 0.985 * largest, [[near], [-near]]
        padding = ((1, 0), (0, 0))
        np.testing.assert_allclose(
            adder_conv2d(x, f, padding=padding),
            oracle.adder_conv2d(x, f, padding=padding),
            rtol=1e-5,
        )

    def test_infinities_that_meet_where_no_output_is(self):
        x, f = np.zeros((1, 3, 3, 1), "f"), np.zeros((3, 3, 1, 1), "f")
        x[0, 0, 0, 0] = f[2, 2] = np.inf
        g = np.ones((1, 1, 1, 1), "f")
        dx = _library.keras_adder_adder_conv2d_backprop_input(
            x, f, g, strides=[1] * 4, padding="VALID"
        )
        self.same(dx, oracle.adder_conv2d_input_gradient(x, f, g))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_distances_of_large_numbers_that_do_not_overflow(self, dtype):
        largest = np.finfo(dtype).max
        x = tf.constant([[[[-0.6 * largest]]]], dtype)
        for factor in (0.6, 0.58, 0.1, -0.3):
            f = tf.constant([[[[-factor * largest]]]], dtype)
            y = adder_conv2d(x, f).numpy()
            assert np.array_equal(y, -np.abs(x.numpy() - f.numpy()))

    @staticmethod
    def same(actual, exact):
        actual = Case.double(actual)
        for kind in (np.isnan, np.isposinf, np.isneginf):
            assert np.array_equal(kind(actual), kind(exact)), kind.__name__

    def test_padding_meets_an_infinite_filter(self):
        f = np.zeros((3, 3, 1, 1))
        f[0, 0] = np.inf
        y = adder_conv2d(
            tf.zeros((1, 1, 1, 1)), tf.cast(f, "float32"), padding="same"
        )
        assert y.numpy().item() == -np.inf


class TestDeterminism:
    CODE = """
import sys
import numpy as np
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from keras_adder.ops import adder_conv2d
rng = np.random.default_rng(0)
results = {}
for i, (shape, kernel, filters, padding) in enumerate([
    ((5, 33, 35, 19), 3, 37, "same"),
    ((1, 180, 180, 16), 3, 32, "same"),
    ((64, 7, 7, 64), 3, 96, "same"),
    ((2, 64, 8, 256), 1, 256, ((0, 1), (0, 0))),
    ((1, 32, 16, 256), 1, 256, ((0, 1), (0, 0))),
    # Few channels: patches of windows, in several bands or in one of many
    # images, and of rows.
    ((9, 65, 33, 3), 3, 64, "same"),
    ((9, 32, 32, 3), 3, 64, "same"),
    ((40, 5, 5, 1), 3, 40, "same"),
    ((9, 20, 20, 6), 5, 24, "same"),
]):
    x = tf.cast(rng.normal(size=shape), tf.float32)
    f = rng.normal(size=(kernel, kernel, shape[3], filters))
    f = tf.cast(f, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([x, f])
        y = adder_conv2d(x, f, padding=padding, strides=1 + i % 2)
    g = tf.cast(rng.normal(size=y.shape), tf.float32)
    dx, df = tape.gradient(y, [x, f], output_gradients=g)
    results.update({f"y{i}": y, f"dx{i}": dx, f"df{i}": df})
np.savez(sys.argv[2], **results)
"""

    @pytest.mark.slow
    def test_bitwise_equal_for_any_number_of_threads(self, tmp_path):
        files = []
        for threads in (1, 2, 5):
            files.append(str(tmp_path / f"{threads}.npz"))
            subprocess.run(
                [sys.executable, "-c", self.CODE, str(threads), files[-1]],
                check=True,
                capture_output=True,
            )
        first, *others = [np.load(file) for file in files]
        for other in others:
            for name in first:
                assert np.array_equal(first[name], other[name]), name

    @pytest.mark.parametrize(
        "shape, filters_shape, padding, cuts",
        [
            ((13, 9, 10, 20), (3, 3, 20, 35), "same", (1, 4)),
            # Many images a tile, in the whole batch alone.
            ((100, 7, 7, 16), (7, 7, 16, 40), "valid", (8,)),
            ((100, 7, 7, 32), (7, 7, 32, 40), "valid", (8,)),
            # Patches of windows, in several bands or in one of many images,
            # and of rows.
            ((3, 32, 32, 3), (3, 3, 3, 64), "same", (1,)),
            ((40, 5, 5, 1), (3, 3, 1, 40), "same", (1, 9)),
            ((5, 20, 20, 6), (5, 5, 6, 24), "same", (2,)),
        ],
    )
    def test_bitwise_equal_from_run_to_run_and_for_any_batch_split(
        self, shape, filters_shape, padding, cuts
    ):
        rng = np.random.default_rng(0)
        x = tf.cast(rng.normal(size=shape), tf.float32)
        f = tf.cast(rng.normal(size=filters_shape), tf.float32)
        g = rng.normal(size=adder_conv2d(x, f, padding=padding).shape)
        g = tf.cast(g, tf.float32)

        def run(part):
            with tf.GradientTape() as tape:
                tape.watch([x, f])
                y = adder_conv2d(x[part], f, padding=padding)
            return y, *tape.gradient(y, [x, f], output_gradients=g[part])

        y, dx, df = run(slice(None))
        again = run(slice(None))
        for first, second in zip((y, dx, df), again):
            assert np.array_equal(first, second)
        for part in map(slice, (0, *cuts), (*cuts, shape[0])):
            part_y, part_dx, _ = run(part)
            assert np.array_equal(y[part], part_y)
            assert np.array_equal(dx[part], part_dx[part])


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """The same checks again, in a process that is held to less."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import test_adder_conv2d as t\n"
        "for geometry in t.random_geometries(40):\n"
        "    t.Case(**geometry).check()\n"
        "for dtype in t.TOLERANCE:\n"
        "    t.Case(dtype=dtype, shape=(2, 9, 11, 20), filters=37).check()\n"
        "for mode in ('full_precision', 'sign'):\n"
        "    for value in (float('nan'), float('inf')):\n"
        "        for channels, filters in ((18, 19), (3, 64)):\n"
        "            t.TestNotFinite().test_same_as_oracle(\n"
        "                value, 'both', mode, 'float32', channels, filters)\n"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run(
        [sys.executable, "-c", code, here, os.path.dirname(here)],
        env={**os.environ, "KERAS_ADDER_ISA": isa},
        capture_output=True,
        text=True,
    )
    if "must be one of those this processor runs" in done.stderr:
        pytest.skip(f"this processor does not run {isa}")
    assert done.returncode == 0, done.stderr[-2000:]


def test_unknown_instruction_set_is_an_error():
    code = (
        "import tensorflow as tf\n"
        "from keras_adder.ops import adder_conv2d\n"
        "adder_conv2d(tf.ones((1, 1, 1, 1)), tf.ones((1, 1, 1, 1)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_ADDER_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "KERAS_ADDER_ISA=mmx" in done.stderr


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_shape_inference_of_unknown_sizes(data_format):
    channels_last = data_format == "channels_last"
    shape = (None, None, 20, 3) if channels_last else (None, 3, None, 20)

    @tf.function(input_signature=[tf.TensorSpec(shape)])
    def run(x):
        f = tf.ones((3, 5, 3, 4))
        y = adder_conv2d(x, f, 2, "valid", data_format)
        expected = [None, None, 8, 4] if channels_last else [None, 4, None, 8]
        assert y.shape.as_list() == expected
        return y

    x = tf.ones((2, 9, 20, 3) if channels_last else (2, 3, 9, 20))
    assert run(x).shape == ((2, 4, 8, 4) if channels_last else (2, 4, 4, 8))


def test_shape_inference_of_unknown_ranks():
    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    def run(x, f):
        y = _library.keras_adder_adder_conv2d(
            input=x,
            filter=f,
            output_type=tf.float32,
            strides=[1, 1, 1, 1],
            padding="VALID",
        )
        assert y.shape.as_list() == [None] * 4
        return y

    assert run(tf.ones((1, 4, 4, 2)), tf.ones((3, 3, 2, 5))).shape == (
        1,
        2,
        2,
        5,
    )


@pytest.mark.parametrize("padding", ["same", "valid", ((1, 2), (0, 1))])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_symbolic_tensors_take_a_place_in_a_functional_model(
    data_format, padding
):
    shape = (12, 10, 4) if data_format == "channels_last" else (4, 12, 10)
    inputs = keras.Input(shape)
    filters = np.random.default_rng(0).normal(size=(3, 3, 4, 6))
    filters = filters.astype("float32")
    outputs = adder_conv2d(inputs, filters, 2, padding, data_format, 1)
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    expected = adder_conv2d(x, filters, 2, padding, data_format)
    assert outputs.shape[1:] == expected.shape[1:]
    assert np.array_equal(model(x), expected)
    for size in (None, 11):
        free = keras.Input((size, None, 4))
        spec = adder_conv2d(free, filters, data_format="channels_last")
        assert spec.shape == (None, size and size - 2, None, 6)


class TestWays:
    """Every way in which TensorFlow may ask for gradients."""

    def setup_method(self):
        rng = np.random.default_rng(0)
        self.x = tf.cast(rng.normal(size=(3, 8, 8, 4)), tf.float32)
        self.f = tf.cast(rng.normal(size=(3, 3, 4, 5)), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch([self.x, self.f])
            loss = self.loss(self.x, self.f)
        self.expected = tape.gradient(loss, [self.x, self.f])

    @staticmethod
    def loss(x, f):
        return tf.reduce_sum(tf.sin(adder_conv2d(x, f, padding="same")))

    def same(self, gradients):
        for actual, expected in zip(gradients, self.expected):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)

    def test_function(self):
        @tf.function
        def gradients(x, f):
            return tf.gradients(self.loss(x, f), [x, f])

        self.same(gradients(self.x, self.f))

    def test_persistent_tape(self):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([self.x, self.f])
            loss = self.loss(self.x, self.f)
        self.same([tape.gradient(loss, t) for t in (self.x, self.f)])

    def test_map_fn(self):
        with tf.GradientTape() as tape:
            tape.watch([self.x, self.f])
            losses = tf.map_fn(
                lambda image: self.loss(image[None], self.f), self.x
            )
            loss = tf.reduce_sum(losses)
        self.same(tape.gradient(loss, [self.x, self.f]))

    def test_gradient_checkpointing(self):
        with tf.GradientTape() as tape:
            tape.watch([self.x, self.f])
            loss = tf.recompute_grad(self.loss)(self.x, self.f)
        self.same(tape.gradient(loss, [self.x, self.f]))

    @pytest.mark.slow
    @pytest.mark.own_process
    def test_mirrored_strategy_on_two_logical_cpus(self):
        devices = tf.config.list_logical_devices("CPU")
        if len(devices) < 2:
            pytest.fail("conftest.py sets up two logical CPUs")
        strategy = tf.distribute.MirroredStrategy([d.name for d in devices[:2]])
        with strategy.scope():
            f = tf.Variable(self.f)

        def step():
            replica = tf.distribute.get_replica_context()
            i = replica.replica_id_in_sync_group
            part = tf.cond(i == 0, lambda: self.x[:1], lambda: self.x[1:])
            with tf.GradientTape() as tape:
                loss = self.loss(part, f)
            gradient = tape.gradient(loss, f)
            return replica.all_reduce("sum", gradient)

        total = tf.function(lambda: strategy.run(step))()
        for value in strategy.experimental_local_results(total):
            np.testing.assert_allclose(
                value, self.expected[1], rtol=1e-5, atol=1e-4
            )

    def test_only_one_gradient_is_asked_for(self):
        for wanted in (0, 1):
            tensors = [self.x, self.f]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(tensors[wanted])
                loss = self.loss(*tensors)
            gradient = tape.gradient(loss, tensors[wanted])
            np.testing.assert_allclose(
                gradient, self.expected[wanted], rtol=1e-5, atol=1e-4
            )

    @pytest.mark.parametrize(
        "wanted, expected",
        [
            ("xf", ["AdderConv2DBackprop"]),
            ("x", ["AdderConv2DBackpropInput"]),
            ("f", ["AdderConv2DBackpropFilter"]),
        ],
    )
    def test_no_gradient_is_computed_that_nobody_asked_for(
        self, wanted, expected
    ):
        @tf.function
        def gradients():
            tensors = [{"x": self.x, "f": self.f}[name] for name in wanted]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(tensors)
                y = adder_conv2d(self.x, self.f)
            return tape.gradient(y, tensors)

        graph = gradients.get_concrete_function().graph
        types = [operation.type for operation in graph.get_operations()]
        adder = [t.split(">")[1] for t in types if t.startswith("KerasAdder")]
        assert adder == ["AdderConv2D", *expected]

    @pytest.mark.slow
    def test_without_onednn(self):
        code = (
            "import sys; sys.path[:0] = sys.argv[1:]\n"
            "import test_adder_conv2d as t\n"
            "t.Case(dtype='float16', groups=2, shape=(2, 8, 8, 6),\n"
            "       filters=4, dilations=(2, 1),\n"
            "       data_format='channels_first').check()\n"
            "t.Case(padding='same', strides=(2, 2)).check()\n"
            "t.test_reduced_precision_sums_over_1e5_positions_in_float32(\n"
            "    'float16')\n"
        )
        here = os.path.dirname(os.path.abspath(__file__))
        subprocess.run(
            [sys.executable, "-c", code, here, os.path.dirname(here)],
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
            check=True,
        )


class TestSecondDerivative:
    """An error on every path, never a number."""

    x = tf.ones((1, 4, 4, 2))
    f = tf.zeros((3, 3, 2, 3))

    @pytest.mark.parametrize("first", ["x", "f"])
    @pytest.mark.parametrize("second", ["x", "f"])
    def test_nested_tapes(self, first, second):
        tensors = {"x": self.x, "f": self.f}
        with tf.GradientTape() as outer:
            outer.watch(tensors[second])
            with tf.GradientTape() as inner:
                inner.watch(tensors[first])
                loss = tf.reduce_sum(adder_conv2d(self.x, self.f) ** 2)
            gradient = inner.gradient(loss, tensors[first])
        with pytest.raises(LookupError, match="no second derivative"):
            outer.gradient(gradient, tensors[second])

    def test_in_a_function(self):
        @tf.function(autograph=False)
        def second(x):
            y = tf.reduce_sum(adder_conv2d(x, self.f) ** 2)
            return tf.gradients(tf.gradients(y, x)[0], x)

        with pytest.raises(LookupError, match="no second derivative"):
            second(self.x)

    def test_forward_mode(self):
        with pytest.raises(LookupError, match="no second derivative"):
            with tf.autodiff.ForwardAccumulator(self.x, tf.ones_like(self.x)):
                adder_conv2d(self.x, self.f)

    def test_jacobian_of_a_gradient(self):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(self.x)
            with tf.GradientTape() as inner:
                inner.watch(self.x)
                loss = tf.reduce_sum(adder_conv2d(self.x, self.f) ** 2)
            gradient = inner.gradient(loss, self.x)
        with pytest.raises(LookupError, match="no second derivative"):
            outer.jacobian(gradient, self.x, experimental_use_pfor=False)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(strides=0), "`strides` must be"),
        (dict(strides=(1, 2, 3)), "`strides` must be"),
        (dict(strides=1.5), "`strides` must be"),
        (dict(strides=True), "`strides` must be"),
        (dict(strides=2**31), "`strides` must be"),
        (dict(dilation_rate=-1), "`dilation_rate` must be"),
        (dict(padding="causal"), "`padding` must be"),
        (dict(padding=3), "`padding` must be"),
        (dict(padding=((1, 1),)), "`padding` must be"),
        (dict(padding=((-1, 1), (0, 0))), "`padding` must be"),
        (dict(data_format="NHWC"), "`data_format` must be"),
        (dict(padding=((9, 0), (0, 0))), "`padding` must not exceed"),
        (dict(filter_gradient="exact"), "`filter_gradient` must be one of"),
        (dict(output_dtype="float16"), "`output_dtype` must be"),
        (
            dict(inputs=tf.ones((4, 4, 2))),
            "`inputs` must be a tensor of rank 4",
        ),
        (
            dict(filters=tf.ones((3, 3, 2))),
            "`filters` must be a tensor of rank",
        ),
        (dict(inputs=tf.ones((1, 4, 4, 2), tf.int32)), "`inputs` must be"),
        (dict(filters=tf.ones((3, 3, 2, 3), "float16")), "must have the dtype"),
        (dict(inputs=tf.ones((1, 4, 4, 3))), "must divide the channels"),
        (dict(inputs=tf.ones((1, 4, 4, 0))), "must divide the channels"),
        (dict(inputs=tf.ones((1, 4, 4, 4))), "number of groups must divide"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {
        "inputs": tf.ones((1, 4, 4, 2)),
        "filters": tf.ones((3, 3, 2, 3)),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        adder_conv2d(**arguments)


def test_what_was_right_for_tensors_is_no_excuse_for_others():
    x, f = tf.ones((1, 4, 4, 2)), tf.ones((1, 1, 2, 3))
    adder_conv2d(x, f, strides=1)
    with pytest.raises(ValueError, match="`filters` must be a dense tensor"):
        adder_conv2d(x, tf.sparse.from_dense(f), strides=1)
    with pytest.raises(ValueError, match="`strides` must be a positive int"):
        adder_conv2d(x, f, strides=True)
    with pytest.raises(ValueError, match="`filters` must have the dtype"):
        adder_conv2d(x, tf.cast(f, tf.float64), strides=1)


def test_too_small_an_input_is_an_error_everywhere():
    f = tf.ones((5, 5, 2, 3))
    for x in (tf.ones((1, 3, 9, 2)), keras.Input((3, 9, 2))):
        with pytest.raises(ValueError, match="must not be smaller"):
            adder_conv2d(x, f)

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 2))])
    def unknown_size(x):
        return adder_conv2d(x, f)

    with pytest.raises(tf.errors.InvalidArgumentError, match="negative height"):
        unknown_size(tf.ones((1, 3, 9, 2)))


def test_channels_are_checked_when_a_graph_is_traced():
    x, f = tf.TensorSpec((None, 8, 8, 4)), tf.TensorSpec((3, 3, 3, 2))

    @tf.function(input_signature=[x, f], autograph=False)
    def raw(x, f):
        return _library.keras_adder_adder_conv2d(
            x, f, output_type=tf.float32, strides=[1] * 4, padding="SAME"
        )

    with pytest.raises(ValueError, match="must divide the input's channels"):
        raw.get_concrete_function()


def test_large_kernels_and_strides_take_little_memory():
    """Plans grow with the sum of the filters' sides, not with their product."""
    code = (
        "import resource, tensorflow as tf\n"
        "from keras_adder.ops import _library as l\n"
        "k, s = 1500, [1, 1500, 1500, 1]\n"
        "x, f = tf.zeros((1, k, k, 1)), tf.zeros((k, k, 1, 1))\n"
        "g = tf.ones((1, 1, 1, 1))\n"
        "def peak():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = peak()\n"
        "l.keras_adder_adder_conv2d_backprop_input(\n"
        "    x, f, g, strides=s, padding='VALID')\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    # Megabytes; filters of one channel are packed into lanes of sixteen.
    assert int(done.stdout) < 16 * 1500 * 1500 * 4 / 2**20 + 200
