"""The fused op against its oracle: equal bits wherever there are integers."""

import concurrent.futures
import hashlib
import itertools
import os
import subprocess
import sys

import fused_oracle
import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf

from keras_adder.ops import FusedAdderConv2DOperation
from keras_adder.ops import _library
from keras_adder.ops import fused_adder_conv2d

# Of inputs and filters.
TYPES = [
    ("uint8", "uint8"),
    ("int16", "int16"),
    ("float32", "uint8"),
    ("float32", "int16"),
    ("float32", "float32"),
]
INTEGER_TYPES = TYPES[:-1]
OUTPUTS = ["float32", "uint8", "int16"]
RESIDUALS = [None, *OUTPUTS]
# Scale and zero point, such that some values of a few units saturate.
QUANTIZATION = {
    None: (1.0, 0),
    "float32": (1.0, 0),
    "uint8": (0.02, 131),
    "int16": (9e-5, -1234),
}
# Largest error of a float32 sum, over the mean magnitude of exact ones.
TOLERANCE = 1e-5


def same(actual, exact):
    """Equal numbers; of a NaN and a zero the sign is nobody's business."""
    actual = np.asarray(actual)
    assert actual.dtype == exact.dtype
    assert actual.shape == exact.shape
    floats = exact.dtype.kind == "f"
    if not np.array_equal(actual, exact, equal_nan=floats):
        np.testing.assert_array_equal(actual, exact)


class Case:
    """Random tensors of one geometry, and all that follows it."""

    def __init__(
        self,
        types=("uint8", "uint8"),
        residual=None,
        output="float32",
        shape=(2, 5, 7, 5),
        kernel=(3, 3),
        filters=7,
        groups=1,
        strides=(1, 1),
        padding="same",
        dilations=(1, 1),
        data_format="channels_last",
        bounds=(None, None),
        plain=False,
        seed=0,
    ):
        self.rng = np.random.default_rng(seed)
        self.nchw = data_format == "channels_first"
        n, h, w, c = shape
        x_type, f_type = types
        self.x = self.tensor(x_type, self.layout(n, h, w, c), f_type)
        self.f = self.tensor(f_type, (*kernel, c // groups, filters), f_type)
        self.geometry = {
            "strides": strides,
            "padding": padding,
            "data_format": data_format,
            "dilation_rate": dilations,
        }
        self.oracle_geometry = {
            "strides": strides,
            "padding": padding.upper() if isinstance(padding, str) else padding,
            "dilations": dilations,
            "data_format": "NCHW" if self.nchw else "NHWC",
        }
        scale, zero_point = QUANTIZATION[f_type]
        self.input = {"input_scale": scale, "input_zero_point": zero_point}
        self.behind = {"output_dtype": output}
        if not plain:
            self.add_epilogue(residual, output, bounds)

    def layout(self, n, h, w, c):
        return (n, c, h, w) if self.nchw else (n, h, w, c)

    def tensor(self, dtype, shape, filter_type=None):
        if dtype in fused_oracle.INTEGERS:
            info = np.iinfo(dtype)
            return self.rng.integers(
                info.min, info.max, shape, dtype, endpoint=True
            )
        # Floats that are to be integers of any size, and greater.
        if filter_type in fused_oracle.INTEGERS:
            scale = QUANTIZATION[filter_type][0]
            spread = {"uint8": 60, "int16": 16000}[filter_type] * scale
            return self.rng.normal(0, spread, shape).astype("float32")
        return self.rng.normal(size=shape).astype("float32")

    def add_epilogue(self, residual, output, bounds):
        """Of about a unit: sums are of any size."""
        size = np.abs(self.distances()).mean() or 1
        filters = self.f.shape[3]
        multiplier = self.rng.normal(1, 0.4, filters) / size
        self.behind["multiplier"] = multiplier.astype("float32")
        self.behind["offset"] = self.rng.normal(1, 1, filters).astype("float32")
        if residual is not None:
            shape = self.distances().shape
            self.behind["residual"] = self.tensor(residual, shape)
        scale, zero_point = QUANTIZATION[residual]
        self.behind["residual_scale"] = scale
        self.behind["residual_zero_point"] = zero_point
        scale, zero_point = QUANTIZATION[output]
        self.behind["output_scale"] = scale
        self.behind["output_zero_point"] = zero_point
        self.behind["lower"], self.behind["upper"] = bounds

    def distances(self):
        return fused_oracle.distances(
            self.x, self.f, **self.input, **self.oracle_geometry
        )

    def output(self, x=None, **changes):
        arguments = {**self.geometry, **self.input, **self.behind, **changes}
        x = self.x if x is None else x
        return fused_adder_conv2d(x, self.f, **arguments).numpy()

    def exact(self):
        sums = self.distances()
        if self.f.dtype == "float32":
            # Its own: what follows them is exact again.
            own = fused_adder_conv2d(self.x, self.f, **self.geometry).numpy()
            error = np.abs(own - sums).max(initial=0)
            assert error <= TOLERANCE * np.abs(sums).mean()
            sums = own
        return fused_oracle.epilogue(
            sums,
            data_format=self.oracle_geometry["data_format"],
            **self.behind,
        )

    def check(self):
        same(self.output(), self.exact())


class TestOracle:
    """That what all else is compared with is right."""

    def test_distances_by_hand(self):
        x = np.uint8([[[[7], [200]]]])
        f = np.uint8([[[[10]], [[255]]]])
        y = fused_oracle.distances(
            x, f, input_zero_point=3, padding=((0, 0), (1, 0))
        )
        assert y.tolist() == [[[[-(7 + 248)], [-(3 + 55)]]]]
        assert y.dtype == np.int64

    def test_distances_are_those_of_the_other_oracle(self):
        case = Case(types=("int16", "int16"), strides=(2, 1), padding="valid")
        same(
            case.distances().astype("float64"),
            oracle.adder_conv2d(case.x, case.f, (2, 1)),
        )

    def test_rounding_by_hand(self):
        y = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 255.5, np.nan])
        quantized = fused_oracle.quantize(y, 1.0, 0, "uint8")
        assert quantized.tolist() == [0, 2, 2, 0, 0, 254, 255, 0]
        y = np.float32([-np.inf, np.inf, 1e30, -3, 2.4])
        quantized = fused_oracle.quantize(y, 0.5, 7, "int16")
        assert quantized.tolist() == [-32768, 32767, 32767, 1, 12]

    def test_epilogue_by_hand(self):
        y = fused_oracle.epilogue(
            np.int64([[[[-4, -6]]]]),
            np.float32([0.5, 1]),
            np.float32([1, 0]),
            np.uint8([[[[5, 9]]]]),
            residual_scale=2,
            residual_zero_point=4,
            lower=1.5,
            upper=3,
        )
        assert y.tolist() == [[[[1.5, 3]]]]
        assert y.dtype == np.float32

    def test_multiply_and_add_are_two_roundings(self):
        """Or a fused multiply-add would pass for them in the tests below."""
        case = Case(types=("int16", "int16"))
        sums = case.distances().astype("float32").astype("float64")
        at_once = sums * case.behind["multiplier"] + case.behind["offset"]
        assert not np.array_equal(at_once.astype("float32"), case.exact())


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_every_type_and_layout(types, output, residual, data_format):
    Case(types, residual, output, data_format=data_format).check()


@pytest.mark.parametrize("types", INTEGER_TYPES, ids="-".join)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_raw_sums(types, data_format):
    Case(types, output="int32", data_format=data_format, plain=True).check()


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("left_out", list(itertools.product([0, 1], repeat=3)))
def test_what_is_left_out_is_not_computed(types, left_out):
    case = Case(types, "float32", bounds=(-0.5, 0.7))
    for name, out in zip(("multiplier", "offset", "residual"), left_out):
        if out:
            case.behind[name] = None
    case.check()


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize(
    "bounds", [(0, None), (None, 0.5), (0, 0.5), (0.25, 0.25), (-1, np.inf)]
)
@pytest.mark.parametrize("output", OUTPUTS)
def test_bounds(types, bounds, output):
    case = Case(types, output=output, bounds=bounds)
    case.check()
    assert len(np.unique(case.output())) > (2 if bounds[0] != bounds[1] else 0)


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize(
    "geometry",
    [
        dict(padding="valid"),
        dict(strides=(2, 3)),
        dict(dilations=(2, 3), shape=(2, 9, 11, 5)),
        dict(shape=(2, 6, 7, 6), filters=9, groups=3),
        # One channel to a group.
        dict(shape=(2, 6, 7, 18), filters=18, groups=18),
        dict(shape=(2, 6, 7, 17), filters=34, groups=17, strides=(2, 2)),
        dict(padding=((0, 3), (2, 1)), strides=(3, 1), dilations=(1, 2)),
        dict(kernel=(1, 1), shape=(3, 4, 5, 17), filters=33),
        dict(kernel=(1, 1), shape=(3, 7, 5, 17), strides=(2, 2)),
        dict(kernel=(1, 1), padding=((1, 1), (0, 1))),
        dict(kernel=(7, 7), shape=(1, 23, 21, 3), strides=(2, 2)),
    ],
    ids=[
        "valid",
        "strides",
        "dilations",
        "groups",
        "depthwise",
        "depth multiplier",
        "explicit",
        "pointwise",
        "pointwise strides",
        "pointwise padding",
        "stem",
    ],
)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_geometries(types, geometry, data_format):
    Case(types, "uint8", "int16", data_format=data_format, **geometry).check()
    if types != ("float32", "float32"):
        raw = dict(output="int32", data_format=data_format, plain=True)
        Case(types, **raw, **geometry).check()


CHANNELS = (1, 3, 7, 8, 9, 15, 16, 17, 33)
FILTERS = (1, 3, 8, 15, 16, 17, 31, 33)


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("channels", CHANNELS)
def test_remainders_of_channels_and_filters(types, channels):
    for filters, kernel in itertools.product(FILTERS, (1, 3)):
        Case(
            types,
            shape=(1, 3, 4, channels),
            kernel=(kernel, kernel),
            filters=filters,
            output="uint8",
        ).check()


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
def test_remainders_of_width(types, kernel):
    for width in range(1, 20):
        Case(
            types,
            shape=(2, 3, width, 3),
            kernel=(kernel, kernel),
            filters=17,
            strides=(1, 1 + width % 2),
            data_format=("channels_last", "channels_first")[width % 3 == 0],
        ).check()


def random_geometries(count):
    """Awkward ones: every remainder, holes between taps, bare padding."""
    rng = np.random.default_rng(1)
    while count > 0:
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        kernel = tuple(int(k) for k in rng.choice([1, 2, 3, 5, 7], 2))
        dilations = tuple(int(d) for d in rng.integers(1, 4, 2))
        size = tuple(int(s) for s in rng.integers(1, 20, 2))
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
        channels = int(rng.choice(CHANNELS))
        filters = int(rng.choice(FILTERS))
        if channels * filters * kernel[0] * kernel[1] > 9000:
            continue
        count -= 1
        yield dict(
            shape=(int(rng.integers(1, 4)), *size, groups * channels),
            kernel=kernel,
            filters=groups * filters,
            groups=groups,
            strides=tuple(int(s) for s in rng.integers(1, 4, 2)),
            padding=padding,
            dilations=dilations,
            data_format=str(rng.choice(["channels_last", "channels_first"])),
            residual=RESIDUALS[rng.integers(4)],
            output=OUTPUTS[rng.integers(3)],
            bounds=[(None, None), (0, None), (-0.5, 0.5)][rng.integers(3)],
        )


@pytest.mark.parametrize("types", TYPES, ids="-".join)
def test_random_geometries(types):
    for seed, geometry in enumerate(random_geometries(100)):
        Case(types, seed=seed, **geometry).check()


@pytest.mark.parametrize(
    "geometry",
    [
        dict(shape=(1, 70, 50, 4)),
        dict(shape=(300, 1, 1, 40), kernel=(1, 1), filters=24),
        dict(shape=(40, 3, 3, 20), filters=20),
        dict(shape=(1, 1, 300, 3), kernel=(1, 9)),
        dict(shape=(1, 300, 1, 3), kernel=(9, 1)),
        dict(shape=(1, 6, 6, 2), strides=(50, 50)),
        dict(shape=(1, 6, 6, 2), dilations=(40, 1000)),
        dict(shape=(1, 20, 20, 2), kernel=(31, 29)),
        dict(shape=(2, 30, 30, 2), kernel=(2, 2), strides=(7, 5)),
        dict(shape=(2, 9, 9, 64), filters=70),
        dict(shape=(1, 2, 3, 4096), kernel=(1, 1), filters=19),
        dict(shape=(1, 3, 3, 600), filters=130),
        dict(shape=(3, 20, 20, 48), filters=64),
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
        "as in a ResNet",
        "many channels",
        "many channels and filters",
        "several images and blocks",
    ],
)
@pytest.mark.parametrize("types", INTEGER_TYPES, ids="-".join)
def test_extreme_geometries(types, geometry):
    Case(types, types[0], types[1], **geometry).check()


@pytest.mark.parametrize(
    "empty",
    [
        dict(shape=(0, 5, 6, 3)),
        dict(shape=(2, 0, 6, 3)),
        dict(filters=0),
    ],
)
@pytest.mark.parametrize("output", OUTPUTS)
def test_empty_tensors(empty, output):
    case = Case(output=output, **empty, plain=True)
    y = case.output(offset=np.ones(case.f.shape[3], "float32"))
    assert y.dtype == output
    assert y.shape == case.distances().shape


class TestExtremes:
    @pytest.mark.parametrize("dtype", fused_oracle.INTEGERS)
    @pytest.mark.parametrize("kernel", [1, 3])
    @pytest.mark.parametrize("channels", [1, 16, 257, 4096])
    def test_farthest_apart(self, dtype, kernel, channels):
        if dtype == "int16" and channels * kernel**2 > 32768:
            channels = 32768 // kernel**2
        info = np.iinfo(dtype)
        for low, high in ((info.min, info.max), (info.max, info.min)):
            x = np.full((1, 4, 5, channels), low, dtype)
            f = np.full((kernel, kernel, channels, 5), high, dtype)
            y = fused_adder_conv2d(x, f, output_dtype="int32")
            apart = (int(info.max) - int(info.min)) * kernel**2 * channels
            assert np.all(y == -apart)
            y = fused_adder_conv2d(x, f)
            assert np.all(y == np.float32(-apart))

    @pytest.mark.parametrize("kernel", [(1, 1, 32768), (8, 8, 512)])
    def test_the_most_int16_that_int32_holds(self, kernel):
        height, width, channels = kernel
        x = np.full((1, height, width + 1, channels), -32768, "int16")
        f = np.full((*kernel, 3), 32767, "int16")
        y = fused_adder_conv2d(x, f, output_dtype="int32")
        assert np.all(y == -65535 * 32768)
        # Alone, the other way round, and as floats.
        y = fused_adder_conv2d(f[None, ..., 0], x[0, :, :width, :, None])
        assert np.all(y == np.float32(-65535 * 32768))

    @pytest.mark.parametrize(
        "dtype, most", [("int16", 32768), ("uint8", 8421504)]
    )
    @pytest.mark.parametrize("kernel", [(1, 1), (2, 4)])
    def test_one_more_is_refused(self, dtype, most, kernel):
        def spec(channels):
            x = keras.KerasTensor((1, *kernel, channels), dtype=dtype)
            f = keras.KerasTensor((*kernel, channels, 1), dtype=dtype)
            return FusedAdderConv2DOperation().compute_output_spec(x, f)

        channels = most // (kernel[0] * kernel[1])
        assert spec(channels).shape == (1, 1, 1, 1)
        with pytest.raises(ValueError, match=f"leave int32.*at most {most} "):
            spec(channels + 1)

    def test_floats_of_int16_filters_are_refused_alike(self):
        x, f = np.zeros((1, 1, 1, 32769), "f"), np.zeros((1, 1, 32769, 1), "h")
        with pytest.raises(ValueError, match="leave int32"):
            fused_adder_conv2d(x, f)
        with pytest.raises(tf.errors.InvalidArgumentError, match="int32"):
            raw_op(x, f)

    def test_groups_are_summed_alone(self):
        x = np.full((1, 1, 1, 65536), -32768, "int16")
        f = np.full((1, 1, 32768, 4), 32767, "int16")
        y = fused_adder_conv2d(x, f, output_dtype="int32")
        assert np.all(y == -65535 * 32768)

    def test_sums_that_float32_rounds(self):
        """A half of an even and of an odd neighbour, and others."""
        for apart in (2**24 + 1, 2**24 + 3, 2**25 + 2, 2**25 + 6, 2**25 + 7):
            x = np.full((1, 1, 1, 4096), -20000, "int16")
            f = np.full((1, 1, 4096, 1), -20000, "int16")
            each, rest = divmod(apart, 4096)
            f += np.int16(each)
            f[0, 0, 0] += np.int16(rest)
            y = fused_adder_conv2d(x, f).numpy().item()
            assert y == np.float32(-apart)


class TestRounding:
    def test_ties_of_outputs(self):
        """Halves, to the even neighbour, in all of uint8 and beyond."""
        x = np.arange(256, dtype="uint8").reshape(1, 1, 256, 1)
        f = np.zeros((1, 1, 1, 4), "uint8")
        multiplier = np.float32([0.5, -0.5, 1.5, -2.5])
        for dtype, zero_point in itertools.product(
            fused_oracle.INTEGERS, (0, 3, 128, 255)
        ):
            behind = dict(
                multiplier=multiplier,
                output_dtype=dtype,
                output_zero_point=zero_point,
            )
            y = fused_adder_conv2d(x, f, **behind)
            same(y, fused_oracle.fused_adder_conv2d(x, f, **behind))

    @pytest.mark.parametrize("dtype", fused_oracle.INTEGERS)
    @pytest.mark.parametrize("scale", [0.25, 1.0, 2.0, 0.3, 1e-5, 7e8])
    def test_inputs_that_become_integers(self, dtype, scale):
        info = np.iinfo(dtype)
        ends = np.arange(info.min - 4, info.max + 5, 0.5)
        ends = np.concatenate([ends[:40], ends[-40:], np.arange(-9, 10, 0.25)])
        huge = [2e9, 2.2e9, 5e9, 1e19, 3e38 / scale, np.inf]
        ends = np.concatenate([ends, huge, np.negative(huge), [np.nan]])
        with np.errstate(over="ignore"):
            x = (ends * scale).astype("float32").reshape(1, 1, -1, 1)
        f = np.full((1, 1, 1, 2), info.min, dtype)
        for zero_point in {int(info.min), 0, 7, int(info.max)}:
            arguments = dict(input_scale=scale, input_zero_point=zero_point)
            y = fused_adder_conv2d(x, f, output_dtype="int32", **arguments)
            q = fused_oracle.quantize(x, scale, zero_point, dtype)
            same(y[..., :1], int(info.min) - q.astype("int32"))

    @pytest.mark.parametrize("dtype", fused_oracle.INTEGERS)
    @pytest.mark.parametrize("f_type", ["uint8", "float32"])
    @pytest.mark.parametrize("scale", [1.0, 0.3, 1e-30, 1e30])
    def test_outputs_of_any_size(self, dtype, f_type, scale):
        x = np.ones((1, 1, 2, 1), f_type)
        f = np.zeros((1, 1, 1, 22), f_type)
        values = [0.5, 1.5, 254.5, 255.5, 256, 32766.5, 32767.5, 32768, 40000]
        values += [2.2e9, 1e30]
        with np.errstate(over="ignore"):
            multiplier = np.float32([*values, *np.negative(values)]) * scale
            behind = dict(
                multiplier=multiplier.astype("float32"),
                output_dtype=dtype,
                output_scale=scale,
                output_zero_point=1,
            )
            y = fused_adder_conv2d(x, f, **behind)
            same(y, fused_oracle.fused_adder_conv2d(x, f, **behind))

    @pytest.mark.parametrize("residual", fused_oracle.INTEGERS)
    def test_every_integer_of_a_residual(self, residual):
        info = np.iinfo(residual)
        r = np.arange(info.min, info.max + 1).astype(residual)
        r = r.reshape(1, 1, -1, 8)
        x = np.zeros((*r.shape[:3], 1), "uint8")
        f = np.full((1, 1, 1, 8), 3, "uint8")
        for zero_point in (int(info.min), 1, int(info.max)):
            behind = dict(
                residual=r,
                residual_scale=0.1,
                residual_zero_point=zero_point,
            )
            same(
                fused_adder_conv2d(x, f, **behind),
                fused_oracle.fused_adder_conv2d(x, f, **behind),
            )


class TestNotFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("where", ["multiplier", "offset", "residual"])
    @pytest.mark.parametrize("output", OUTPUTS)
    @pytest.mark.parametrize("types", TYPES, ids="-".join)
    def test_behind(self, value, where, output, types):
        case = Case(types, "float32", output, filters=19)
        case.behind[where].flat[[0, 5, -1]] = value
        case.check()
        case.behind.update(lower=-0.5, upper=0.5)
        case.check()

    @pytest.mark.parametrize("output", OUTPUTS)
    def test_infinities_that_meet(self, output):
        case = Case(residual="float32", output=output)
        case.behind["offset"][2:5] = np.inf
        case.behind["residual"][..., 3] = -np.inf
        case.check()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("types", INTEGER_TYPES[2:], ids="-".join)
    def test_inputs_of_integer_filters(self, value, types):
        case = Case(types, plain=True, output="int32")
        case.x.flat[[0, 17, -1]] = value
        case.check()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("where", ["x", "f", "both"])
    @pytest.mark.parametrize("output", OUTPUTS)
    def test_float_filters(self, value, where, output):
        case = Case(("float32", "float32"), output=output, filters=19)
        if where != "f":
            case.x[0, 2, 3, -1] = value
        if where != "x":
            case.f[1, 2, -2, -1] = value
        own = fused_adder_conv2d(case.x, case.f, padding="same").numpy()
        with np.errstate(invalid="ignore"):
            sums = case.distances()
        for kind in (np.isnan, np.isposinf, np.isneginf):
            assert np.array_equal(kind(own), kind(sums)), kind.__name__
        same(case.output(), fused_oracle.epilogue(own, **case.behind))


# What the op gave, and the oracle as well. It is the same for every instruction
# set, number of threads and version of whatever is in between.
DIGEST = "1ff8a69eff5dce722d7b808a566a94bddf7869cb1572c38eda5af5051f397cf2"


def pattern(dtype, *shape):
    """Integers without much order, from arithmetic that no version changes."""
    values = np.arange(np.prod(shape), dtype="uint64") * 2654435761 >> 7
    return values.astype(dtype).reshape(shape)


def outputs_to_hash():
    quarter = np.float32(0.25)
    for dtype in fused_oracle.INTEGERS:
        scale, zero_point = QUANTIZATION[dtype]
        for output, (shape, kernel, filters, arguments) in itertools.product(
            (*OUTPUTS, "int32"),
            [
                ((2, 24, 22, 16), 3, 33, dict(padding="same")),
                ((3, 9, 7, 33), 1, 16, dict()),
                ((1, 37, 29, 3), 7, 17, dict(strides=(2, 2))),
            ],
        ):
            x = pattern(dtype, *shape)
            f = pattern(dtype, kernel, kernel, shape[3], filters)[::-1].copy()
            behind = dict(output_dtype=output)
            if output != "int32":
                size = 1e-4 if dtype == "uint8" else 1e-6
                channel = np.arange(filters, dtype="float32")
                behind.update(
                    multiplier=(channel + 1) * np.float32(size),
                    offset=channel * quarter,
                    lower=-2,
                    upper=90,
                )
                scale, zero_point = QUANTIZATION[output]
                behind.update(output_scale=scale, output_zero_point=zero_point)
            arguments = {**arguments, **behind, "input_zero_point": 5}
            yield x, f, arguments
            floats = (x.astype("float32") - 50) * quarter
            yield floats, f, {**arguments, "input_scale": 0.3}


def digest(results):
    whole = hashlib.sha256()
    for y in results:
        # A zero has one sign.
        whole.update((np.asarray(y) + 0).tobytes())
    return whole.hexdigest()


def test_bits_are_those_of_every_other_machine():
    def exact(x, f, padding="valid", **arguments):
        return fused_oracle.fused_adder_conv2d(
            x, f, padding=padding.upper(), **arguments
        )

    results = [
        (fused_adder_conv2d(x, f, **arguments), exact(x, f, **arguments))
        for x, f, arguments in outputs_to_hash()
    ]
    for actual, expected in results:
        same(actual, expected)
    assert digest(actual for actual, _ in results) == DIGEST


ELSEWHERE = (
    "import sys; sys.path[:0] = sys.argv[2:]\n"
    "import tensorflow as tf\n"
    "threads = int(sys.argv[1])\n"
    "tf.config.threading.set_intra_op_parallelism_threads(threads)\n"
    "import test_fused_adder_conv2d as t\n"
    "t.test_bits_are_those_of_every_other_machine()\n"
    "for types in t.TYPES:\n"
    "    t.test_random_geometries(types)\n"
    "    for channels in t.CHANNELS:\n"
    "        t.test_remainders_of_channels_and_filters(types, channels)\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "isa, threads",
    [("baseline", 1), ("avx2", 5), ("avx512", 1), ("avx512", 5)],
)
def test_every_instruction_set_and_number_of_threads(isa, threads):
    """The same checks again, in a process that is held to less."""
    here = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run(
        [
            *(sys.executable, "-c", ELSEWHERE, str(threads)),
            *(here, os.path.dirname(here)),
        ],
        env={**os.environ, "KERAS_ADDER_ISA": isa},
        capture_output=True,
        text=True,
    )
    if "must be one of those this processor runs" in done.stderr:
        pytest.skip(f"this processor does not run {isa}")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("types", INTEGER_TYPES, ids="-".join)
@pytest.mark.parametrize(
    "geometry",
    [
        dict(shape=(5, 9, 10, 20), filters=35),
        dict(shape=(5, 1, 1, 90), filters=40, kernel=(1, 1)),
        dict(shape=(5, 3, 3, 3), filters=24),
        dict(shape=(5, 7, 7, 16), kernel=(7, 7), padding="valid"),
    ],
)
def test_a_batch_is_its_images(types, geometry):
    case = Case(types, "uint8", "int16", **geometry)
    whole = case.output()
    for i in range(5):
        residual = case.behind["residual"][i : i + 1]
        same(
            case.output(case.x[i : i + 1], residual=residual), whole[i : i + 1]
        )


class TestWays:
    """How the op may be called."""

    def setup_method(self):
        self.case = Case(residual="int16", output="uint8")
        self.exact = self.case.exact()
        self.arguments = {
            **self.case.geometry,
            **self.case.input,
            **self.case.behind,
        }

    def test_filters_that_change(self):
        """Packed ones are kept, but not beyond what they were packed from."""
        case = self.case
        filters = tf.Variable(case.f)
        other = case.f.copy()
        other[2, 2, -1, -1] += 1

        def run(x):
            return fused_adder_conv2d(x, filters, **self.arguments)

        x = tf.TensorSpec((2, None, None, 5), tf.uint8)
        in_graph = tf.function(run, input_signature=[x], autograph=False)
        ways = [run, in_graph]
        for way in ways:
            for f in (case.f, other, case.f, 255 - case.f):
                filters.assign(f)
                case.f = f
                same(way(case.x), case.exact())
            case.f = 255 - case.f

    def test_threads_with_filters_of_their_own(self):
        filters = [np.roll(self.case.f, i, axis=0) for i in range(3)]

        def run(f):
            return fused_adder_conv2d(self.case.x, f, **self.arguments).numpy()

        exact = [run(f) for f in filters]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            for actual, i in zip(
                pool.map(run, filters * 40), itertools.cycle(range(3))
            ):
                same(actual, exact[i])

    def test_constant_filters_in_a_function(self):
        run = tf.function(
            lambda x: fused_adder_conv2d(x, self.case.f, **self.arguments),
            autograph=False,
        )
        for _ in range(3):
            same(run(self.case.x), self.exact)

    def test_unknown_sizes(self):
        x, f = self.case.x, self.case.f

        residual = self.arguments.pop("residual")

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, None, 7, 5), tf.uint8),
                tf.TensorSpec((None, None, None, None), tf.int16),
            ],
            autograph=False,
        )
        def run(x, residual):
            y = fused_adder_conv2d(x, f, residual=residual, **self.arguments)
            assert y.shape.as_list() == [None, None, 7, 7]
            assert y.dtype == tf.uint8
            return y

        same(run(x, residual), self.exact)
        with pytest.raises(tf.errors.InvalidArgumentError, match="residual"):
            run(x, residual[:, 1:])

    def test_unknown_ranks(self):
        x, f = self.case.x, self.case.f
        y = tf.function(
            raw_op,
            autograph=False,
            input_signature=[
                tf.TensorSpec(None, tf.uint8),
                tf.TensorSpec(None, tf.uint8),
            ],
        )(x, f)
        same(y, fused_oracle.fused_adder_conv2d(x, f))

    def test_lists_and_variables(self):
        x, f, behind = self.case.x, self.case.f, self.case.behind
        behind = {**behind, "multiplier": behind["multiplier"].tolist()}
        behind["offset"] = keras.Variable(behind["offset"])
        behind["residual"] = tf.Variable(behind["residual"])
        arguments = {**self.arguments, **behind}
        y = fused_adder_conv2d(keras.Variable(x, dtype="uint8"), f, **arguments)
        same(y, self.exact)

    @pytest.mark.parametrize("padding", ["same", "valid", ((1, 2), (0, 1))])
    @pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
    def test_symbolic_tensors(self, padding, data_format):
        case = Case(
            residual="int16",
            output="uint8",
            padding=padding,
            data_format=data_format,
            strides=(2, 1),
        )
        arguments = {**case.geometry, **case.input, **case.behind}
        arguments.pop("residual")
        inputs = keras.Input(case.x.shape[1:], dtype="uint8")
        exact = case.exact()
        residual = keras.Input(exact.shape[1:], dtype="int16")
        outputs = fused_adder_conv2d(
            inputs, case.f, residual=residual, **arguments
        )
        assert outputs.dtype == "uint8"
        assert outputs.shape == (None, *exact.shape[1:])
        model = keras.Model([inputs, residual], outputs)
        same(model([case.x, case.behind["residual"]]), exact)

    def test_operation_is_made_again_from_its_config(self):
        operation = FusedAdderConv2DOperation(
            2, ((1, 0), (0, 1)), lower=0, output_dtype="uint8", output_scale=0.1
        )
        config = operation.get_config()
        again = FusedAdderConv2DOperation.from_config(config)
        assert again.get_config() == config
        assert again.padding == ((1, 0), (0, 1))
        assert again.output_scale == 0.1

    def test_numbers_of_numpy_are_numbers(self):
        changes = {
            "input_zero_point": np.int64(self.arguments["input_zero_point"]),
            "output_scale": np.float32(self.arguments["output_scale"]),
            "output_dtype": tf.uint8,
        }
        same(
            fused_adder_conv2d(
                self.case.x, self.case.f, **{**self.arguments, **changes}
            ),
            self.exact,
        )


class TestGradient:
    """An error on every path, never a number."""

    x = tf.random.stateless_normal((1, 4, 4, 2), (0, 0))
    f = tf.random.stateless_normal((3, 3, 2, 3), (0, 1))

    def test_tape(self):
        with tf.GradientTape() as tape:
            tape.watch(self.x)
            y = fused_adder_conv2d(self.x, self.f)
        with pytest.raises(LookupError, match="train the model"):
            tape.gradient(y, self.x)

    def test_in_a_function(self):
        @tf.function(autograph=False)
        def gradient(offset):
            y = fused_adder_conv2d(self.x, self.f, offset=offset)
            return tf.gradients(y, offset)[0]

        with pytest.raises(LookupError, match="no gradient"):
            gradient(tf.ones(3))

    def test_forward_mode(self):
        with pytest.raises(LookupError, match="no gradient"):
            with tf.autodiff.ForwardAccumulator(self.x, tf.ones_like(self.x)):
                fused_adder_conv2d(self.x, self.f)

    def test_what_is_behind_may_be_trained(self):
        scale = tf.Variable(2.0)
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(scale * fused_adder_conv2d(self.x, self.f))
        gradient = tape.gradient(y, scale)
        np.testing.assert_allclose(gradient, y / scale, rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(strides=0), "`strides` must be"),
        (dict(strides=True), "`strides` must be"),
        (dict(dilation_rate=-1), "`dilation_rate` must be"),
        (dict(padding="causal"), "`padding` must be"),
        (dict(padding=((9, 0), (0, 0))), "`padding` must not exceed"),
        (dict(data_format="NHWC"), "`data_format` must be"),
        (dict(inputs=np.ones((4, 4, 2), "uint8")), "`inputs` must be a tensor"),
        (dict(filters=np.ones((3, 3, 2), "uint8")), "`filters` must be a tens"),
        (dict(inputs=np.ones((1, 4, 4, 2), "int32")), "`inputs` must be"),
        (dict(inputs=np.ones((1, 4, 4, 2), "float16")), "`inputs` must be"),
        (dict(inputs=np.ones((1, 4, 4, 2), "float64")), "`inputs` must be"),
        (dict(filters=np.ones((3, 3, 2, 3), "int8")), "`filters` must be"),
        (dict(filters=np.ones((3, 3, 2, 3), "int16")), "`filters` must have"),
        (dict(filters=np.ones((3, 3, 2, 3), "float32")), "`filters` must have"),
        (
            dict(inputs=np.ones((1, 4, 4, 3), "uint8")),
            "must divide the channel",
        ),
        (dict(inputs=np.ones((1, 4, 4, 4), "uint8")), "number of groups must"),
        (dict(inputs=np.ones((1, 1, 4, 2), "uint8")), "must not be smaller"),
        (dict(multiplier=np.ones(2)), "`multiplier` must be .*shape \\(3,\\)"),
        (dict(multiplier=np.ones(0)), "`multiplier` must be a tensor of shape"),
        (dict(multiplier=2.0), "`multiplier` must be a tensor of shape"),
        (dict(offset=np.ones((1, 3))), "`offset` must be a tensor of shape"),
        (dict(residual=np.ones((1, 2, 2, 1), "f")), "`residual` must be a ten"),
        (dict(residual=np.ones((2, 2, 3), "f")), "`residual` must be a tensor"),
        (
            dict(residual=np.ones((1, 2, 2, 3))),
            "`residual` must be a tensor of",
        ),
        (dict(input_scale=0.0), "`input_scale` must be a positive"),
        (dict(input_scale=-1), "`input_scale` must be a positive"),
        (dict(input_scale=np.inf), "`input_scale` must be a positive"),
        (dict(input_scale=np.nan), "`input_scale` must be a positive"),
        (dict(input_scale=1e300), "`input_scale` must be a positive"),
        (dict(input_scale=1e-300), "`input_scale` must be a positive"),
        (dict(input_scale="1"), "`input_scale` must be a positive"),
        (dict(input_scale=True), "`input_scale` must be a positive"),
        (dict(input_scale=[1.0]), "`input_scale` must be a positive"),
        (dict(input_zero_point=-1), "`input_zero_point` must be .*0 to 255"),
        (dict(input_zero_point=256), "`input_zero_point` must be .*0 to 255"),
        (dict(input_zero_point=1.0), "`input_zero_point` must be an int"),
        (dict(input_zero_point=2**70), "`input_zero_point` must be an int"),
        (dict(residual_scale=2.0), "`residual_scale` and .*must be 1 and 0"),
        (
            dict(residual_zero_point=2),
            "`residual_scale` and .* must be 1 and 0",
        ),
        (dict(output_scale=2.0), "`output_scale` and .* must be 1 and 0"),
        (dict(output_zero_point=2), "`output_scale` and .* must be 1 and 0"),
        (
            dict(output_dtype="uint8", output_zero_point=-3),
            "`output_zero_point` must be .*0 to 255",
        ),
        (
            dict(output_dtype="int16", output_zero_point=32768),
            "`output_zero_point` must be an int",
        ),
        (dict(output_dtype="float16"), "`output_dtype` must be one of"),
        (dict(output_dtype=None), "`output_dtype` must be one of"),
        (dict(lower="0"), "`lower` must be a float32 number"),
        (dict(lower=np.nan), "`lower` must be a float32 number"),
        (dict(upper=np.nan), "`upper` must be a float32 number"),
        (dict(upper=1e300), "`upper` must be a float32 number"),
        (dict(upper=[1.0]), "`upper` must be a float32 number"),
        (dict(lower=1, upper=0.5), "`lower` must not be greater"),
        (dict(output_dtype="int32", lower=0), "may be 'int32' for"),
        (dict(output_dtype="int32", offset=np.ones(3)), "may be 'int32' for"),
        (dict(output_dtype="int32", output_scale=2.0), "must be 1 and 0"),
        (
            dict(
                inputs=np.ones((1, 4, 4, 2), "float32"),
                filters=np.ones((3, 3, 2, 3), "float32"),
                output_dtype="int32",
            ),
            "may be 'int32' for",
        ),
        (
            dict(
                inputs=np.ones((1, 4, 4, 2), "float32"),
                filters=np.ones((3, 3, 2, 3), "float32"),
                input_scale=0.5,
            ),
            "`input_scale` and .* must be 1 and 0",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {
        "inputs": np.ones((1, 4, 4, 2), "uint8"),
        "filters": np.ones((3, 3, 2, 3), "uint8"),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        fused_adder_conv2d(**arguments)


@pytest.mark.parametrize(
    "name", ["inputs", "filters", "multiplier", "offset", "residual"]
)
def test_sparse_tensors_are_refused(name):
    arguments = {
        "inputs": tf.ones((1, 4, 4, 2)),
        "filters": tf.ones((3, 3, 2, 3)),
        "multiplier": tf.ones(3),
        "offset": tf.ones(3),
        "residual": tf.ones((1, 2, 2, 3)),
    }
    fused_adder_conv2d(**arguments)
    arguments[name] = tf.sparse.from_dense(arguments[name])
    with pytest.raises(ValueError, match=f"`{name}` must be a dense tensor"):
        fused_adder_conv2d(**arguments)


def raw_op(
    x,
    f,
    multiplier=(),
    offset=(),
    residual=(),
    output_type=tf.float32,
    **others,
):
    return _library.keras_adder_fused_adder_conv2d(
        input=x,
        filter=f,
        multiplier=np.asarray(multiplier, "float32"),
        offset=np.asarray(offset, "float32"),
        residual=list(residual),
        output_type=output_type,
        **{"strides": [1] * 4, "padding": "VALID", **others},
    )


X, FILTERS_OF_X = np.ones((1, 4, 4, 2), "uint8"), np.ones((3, 3, 2, 3), "uint8")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(x=X.astype("int16")), "input"),
        (dict(f=FILTERS_OF_X.astype("float32")), "filter"),
        (dict(f=FILTERS_OF_X.astype("int16")), "filter"),
        (dict(multiplier=[1, 2]), "multiplier"),
        (dict(multiplier=[[1, 2, 3]]), "multiplier"),
        (dict(offset=[1]), "offset"),
        (dict(offset=1.0), "offset"),
        (dict(residual=[np.ones((1, 2, 2, 1), "uint8")]), "residual"),
        (dict(residual=[np.ones((1, 2, 2, 3), "uint8")] * 2), "residual"),
        (dict(residual_scale=0.5), "residual_scale"),
        (dict(residual_zero_point=1), "residual_zero_point"),
        (dict(input_scale=0.0), "input_scale"),
        (dict(input_scale=-1.0), "input_scale"),
        (dict(input_scale=np.inf), "input_scale"),
        (dict(input_scale=np.nan), "input_scale"),
        (dict(input_zero_point=256), "input_zero_point"),
        (dict(input_zero_point=-1), "input_zero_point"),
        (dict(input_zero_point=2**32), "input_zero_point"),
        (dict(output_scale=0.5), "output_scale"),
        (dict(output_type=tf.uint8, output_scale=0.0), "output_scale"),
        (dict(output_type=tf.uint8, output_zero_point=300), "output_zero"),
        (dict(output_type=tf.int16, output_zero_point=32768), "output_zero"),
        (dict(lower=1.0, upper=0.0), "lower"),
        (dict(lower=np.nan), "lower"),
        (dict(upper=np.nan), "upper"),
        (dict(output_type=tf.int32, upper=0.0), "int32"),
        (dict(output_type=tf.int32, offset=[1, 2, 3]), "int32"),
        (dict(output_type=tf.int32, multiplier=[1, 2, 3]), "int32"),
        (dict(output_type=tf.int32, output_scale=0.5), "output_scale"),
        (
            dict(
                output_type=tf.int32,
                residual=[np.ones((1, 2, 2, 3), "float32")],
            ),
            "int32",
        ),
        (
            dict(
                x=X.astype("float32"),
                f=FILTERS_OF_X.astype("float32"),
                output_type=tf.int32,
            ),
            "int32",
        ),
        (
            dict(
                x=X.astype("float32"),
                f=FILTERS_OF_X.astype("float32"),
                input_zero_point=1,
            ),
            "input_zero_point",
        ),
        (dict(padding="EXPLICIT", explicit_paddings=[1] * 8), "paddings"),
    ],
)
def test_the_op_refuses_what_the_function_does(change, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        raw_op(**{"x": X, "f": FILTERS_OF_X, **change})


@pytest.mark.parametrize("types", INTEGER_TYPES)
def test_a_negative_zero_without_an_offset(types):
    """What is left out is left out, and not the addition of a zero."""
    x, f = (np.full((1, 1, 1, 1), 2, dtype) for dtype in types)
    y = fused_adder_conv2d(x, f, multiplier=[-1.0])
    assert np.all(y == 0) and np.all(np.signbit(y))
    y = fused_adder_conv2d(x, f, multiplier=[-1.0], offset=[0.0])
    assert np.all(y == 0) and not np.any(np.signbit(y))


@pytest.mark.parametrize("fits", [True, False])
def test_the_compiled_op_refuses_sums_that_may_not_fit(fits):
    """By itself, as a SavedModel calls it."""
    channels = 32768 if fits else 32769
    x = np.zeros((1, 1, 1, channels), "int16")
    empty = np.zeros(0, "float32")
    call = _library.keras_adder_fused_adder_conv2d
    arguments = dict(
        input=x,
        filter=x.reshape(1, 1, channels, 1),
        multiplier=empty,
        offset=empty,
        residual=[],
        strides=[1, 1, 1, 1],
        padding="VALID",
        output_type=tf.int32,
    )
    if fits:
        assert np.all(call(**arguments) == 0)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="int32"):
            call(**arguments)
