"""The CPU suite's geometries and the GPU's own, without TensorFlow."""

import dataclasses
import itertools

import gpu_interface
import numpy as np
import oracle
from gpu_interface import Convolution

# Largest error allowed, as tests/ops/test_adder_conv2d.py has it.
TOLERANCE = {
    "float64": 1e-13,
    "float32": 1e-5,
    "float16": 4e-3,
    "bfloat16": 3e-2,
}

DEFAULT = Convolution((2, 9, 11, 5), filters=7)


def default(**changes):
    return dataclasses.replace(DEFAULT, **changes)


ATTRIBUTES = {
    "plain": default(),
    "strides": default(padding="SAME", strides=(2, 3)),
    "dilations": default(padding="SAME", dilations=(2, 3)),
    "groups": default(
        shape=(2, 9, 11, 12), filters=18, groups=3, padding="SAME"
    ),
    "explicit": default(
        padding=((0, 3), (2, 1)), strides=(3, 1), dilations=(1, 2)
    ),
    "pointwise": default(kernel=(1, 1), shape=(3, 4, 5, 17), filters=33),
    "vectors": default(shape=(2, 9, 11, 20), filters=36, padding="SAME"),
    "vectors and groups": default(
        shape=(2, 6, 7, 24), filters=16, groups=2, strides=(2, 1)
    ),
}

# By which the wide tiles are taken for all three passes, in whatever dtype,
# whole and in parts.
TILES = [
    default(shape=(1, 6, 6, 40), filters=64, kernel=(1, 1)),
    default(shape=(1, 6, 6, 40), filters=64, padding="SAME"),
    default(shape=(1, 16, 17, 40), filters=64, kernel=(1, 1)),
    default(shape=(1, 4, 5, 130), filters=36, kernel=(1, 1)),
    default(shape=(1, 4, 5, 70), filters=260, kernel=(1, 1)),
    default(shape=(1, 34, 36, 33), filters=33, kernel=(1, 1)),
    default(shape=(1, 6, 8, 1200), filters=33, kernel=(1, 1)),
]

EXTREMES = {
    "several blocks": default(shape=(1, 70, 90, 4), padding="SAME"),
    "long batch": default(shape=(300, 1, 1, 40), kernel=(1, 1), filters=24),
    "small images": default(shape=(40, 3, 3, 20), padding="SAME", filters=20),
    "wide": default(shape=(1, 1, 700, 3), kernel=(1, 9), padding="SAME"),
    "high": default(shape=(1, 700, 1, 3), kernel=(9, 1), padding="SAME"),
    "huge strides": default(
        shape=(1, 6, 6, 4), strides=(50, 50), padding="SAME"
    ),
    "huge dilations": default(
        shape=(1, 6, 6, 4), dilations=(40, 1000), padding="SAME"
    ),
    "huge filters": default(
        shape=(1, 40, 40, 2), kernel=(31, 29), padding="SAME"
    ),
    "filters beyond shared memory": default(
        shape=(1, 7, 7, 160), kernel=(7, 7), filters=40, padding="SAME"
    ),
    "one pixel": default(shape=(3, 7, 5, 24), kernel=(7, 5), filters=40),
    "pixels no tap meets": default(
        shape=(2, 30, 30, 4), kernel=(2, 2), strides=(4, 3)
    ),
    "strides beyond the tiles": default(
        shape=(2, 30, 30, 4), kernel=(2, 2), strides=(7, 5)
    ),
    "depthwise": default(shape=(2, 8, 8, 9), filters=9, groups=9),
    "one filter": default(filters=1),
    "one channel": default(shape=(2, 9, 11, 1), filters=20),
    "explicit padding beyond the image": default(
        shape=(1, 1, 1, 4), padding=((3, 3), (3, 3))
    ),
    "attributes near 2^31": default(
        shape=(1, 3, 3, 4), strides=(2**31 - 1, 2**31 - 1), padding="SAME"
    ),
}

EMPTY = {
    "no images": default(shape=(0, 9, 11, 5)),
    "no rows": default(shape=(2, 0, 11, 5), padding="SAME"),
    "no filters": default(filters=0),
    "no outputs": default(shape=(2, 2, 11, 5), strides=(1, 1)),
}


def remainders():
    """Sizes about the tiles' own: 4, 8, 16, 32, 64, 128 and 256."""
    for filters in (1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 129):
        yield default(shape=(1, 5, 6, 3), filters=filters, padding="SAME")
        yield default(shape=(1, 5, 6, 8), filters=filters, padding="SAME")
    for channels in (1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 64, 65):
        yield default(shape=(2, 4, 5, channels), filters=18, padding="SAME")
        yield default(shape=(2, 4, 5, channels), filters=18, kernel=(1, 1))
    for width in (1, 127, 128, 129, 255, 256, 257):
        yield default(
            shape=(1, 1, width, 4), kernel=(1, 3), filters=20, padding="SAME"
        )
        yield default(
            shape=(1, 1, width, 4), kernel=(1, 1), filters=64, padding="SAME"
        )


def random_geometries(count):
    """The CPU suite's distribution: every remainder, holes, bare padding."""
    generator = np.random.default_rng(1)

    def pair(first, last):
        return tuple(int(v) for v in generator.integers(first, last, 2))

    while count > 0:
        groups = int(generator.choice([1, 1, 1, 2, 3]))
        kernel, dilations, size = pair(1, 6), pair(1, 4), pair(1, 24)
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
        padding = ("SAME", "VALID", None)[generator.integers(3)]
        padded = size
        if padding is None:
            padding = tuple(
                tuple(int(p) for p in generator.integers(0, e + 1, 2))
                for e in extent
            )
            padded = [s + sum(p) for s, p in zip(size, padding)]
        if padding != "SAME" and any(p < e for p, e in zip(padded, extent)):
            continue
        count -= 1
        channels = groups * int(generator.choice([1, 2, 3, 7, 8, 16, 17, 33]))
        filters = groups * int(generator.choice([1, 3, 6, 15, 16, 17, 33, 65]))
        yield Convolution(
            shape=(int(generator.integers(1, 4)), *size, channels),
            kernel=kernel,
            filters=filters,
            groups=groups,
            strides=pair(1, 6),
            padding=padding,
            dilations=dilations,
            data_format=str(generator.choice(["NHWC", "NCHW"])),
            sign=bool(generator.integers(2)),
        )


def dtypes():
    """Pairs of a dtype and that of outputs."""
    for dtype in gpu_interface.DTYPES:
        yield dtype, dtype
    yield "float16", "float32"
    yield "bfloat16", "float32"


def sweep():
    """All of the above in a dtype, a layout and a mode at a time."""
    geometries = [*ATTRIBUTES.values(), *TILES]
    for convolution, (dtype, output), layout, sign in itertools.product(
        geometries, dtypes(), ("NHWC", "NCHW"), (False, True)
    ):
        yield dataclasses.replace(
            convolution,
            dtype=dtype,
            output_dtype=output,
            data_format=layout,
            sign=sign,
        )
    yield from EXTREMES.values()
    yield from EMPTY.values()
    yield from remainders()
    yield from random_geometries(120)


class Data:
    """Random tensors of a convolution and its exact results."""

    def __init__(self, convolution, seed=0):
        generator = np.random.default_rng(seed)
        self.convolution = convolution

        def normal(shape, dtype):
            return gpu_interface.rounded(generator.normal(size=shape), dtype)

        self.x = normal(convolution.input_shape, convolution.dtype)
        self.f = normal(convolution.filter_shape, convolution.dtype)
        self.g = normal(convolution.output_shape, convolution.result_dtype)

    def exact(self, what):
        convolution = self.convolution
        geometry = {
            "strides": convolution.strides,
            "padding": convolution.padding,
            "dilations": convolution.dilations,
            "data_format": convolution.data_format,
        }
        if what == "forward":
            return oracle.adder_conv2d(self.x, self.f, **geometry)
        if what == "input_gradient":
            return oracle.adder_conv2d_input_gradient(
                self.x, self.f, self.g, **geometry
            )
        mode = "sign" if convolution.sign else "full_precision"
        return oracle.adder_conv2d_filter_gradient(
            self.x, self.f, self.g, mode=mode, **geometry
        )

    def run(self, interface, what):
        return interface.run(self.convolution, what, self.x, self.f, self.g)

    def run_bits(self, interface, what):
        """The result's bits, NaN and the sign of zeros included."""
        tensors = self.x, self.f, self.g
        return interface.run_bits(self.convolution, what, *tensors)[0]

    def error(self, interface, what):
        """Largest error over the mean magnitude of what is not zero."""
        exact = self.exact(what)
        actual = self.run(interface, what)
        assert actual.shape == exact.shape, (actual.shape, exact.shape)
        if not np.any(exact):
            return np.abs(actual).max(initial=0.0)
        mean = np.abs(exact[exact != 0]).mean()
        return np.abs(actual - exact).max() / mean


def check(interface, convolution):
    """Raises an `AssertionError` unless all three passes are right."""
    data = Data(convolution)
    for what in gpu_interface.PASSES:
        forward = what == "forward"
        dtype = convolution.result_dtype if forward else convolution.dtype
        error = data.error(interface, what)
        # Which a NaN is not.
        assert error < TOLERANCE[dtype], (
            f"{what} by {interface.kernel(convolution, what)} is wrong by "
            f"{error:.3g} of the mean: {convolution}"
        )
