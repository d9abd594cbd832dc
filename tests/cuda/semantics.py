"""What the CUDA kernels promise beside being right about random numbers.

Each of `CHECKS` takes a `gpu_interface.Interface` and raises an
`AssertionError` if the promise is broken. They need neither pytest nor
TensorFlow: test_emulated.py runs them by emulation, and `benchmarks/gpu.py` on
a GPU.
"""

import contextlib
import dataclasses
import functools
import itertools

import cases
import gpu_interface
import numpy as np

FORCED = gpu_interface.KERNELS[1:]


def _checks():
    """Pairs of a check's name and the check."""

    def named(function, *arguments):
        words = [function.__name__, *map(str, arguments)]
        return " ".join(words), functools.partial(
            function, **dict(zip(_argument_names(function), arguments))
        )

    yield named(dirty_workspace)
    for (dtype, output), data_format, kernel in itertools.product(
        cases.dtypes(), ("NHWC", "NCHW"), gpu_interface.KERNELS
    ):
        yield named(every_dtype, dtype, output, data_format, kernel)
    for offset in (1, 2, 3):
        yield named(odd_addresses, offset)
    for kernel, value, where, dtype in itertools.product(
        FORCED,
        (np.nan, np.inf, -np.inf),
        ("x", "f", "both", "g"),
        ("float32", "float64", "bfloat16", "float16"),
    ):
        yield named(not_finite, dtype, where, value, kernel)
    for kernel in FORCED:
        yield named(infinities_that_meet_where_no_output_is, kernel)
        yield named(diverged, kernel)
        yield named(every_call_twice, kernel)
    for kernel, (shift, scale) in itertools.product(
        FORCED, ((0, 1), (1e4, 1), (0, 0))
    ):
        yield named(sums_of_65536_terms, shift, scale, kernel)
    for dtype in ("float16", "bfloat16"):
        yield named(sums_over_1e5_positions_in_float32, dtype)
    yield named(halves_are_rounded_as_by_numpy)
    yield named(sums_of_few_parts_are_those_of_many)
    for splits in (1, 2, 3, 7, 8, 9, 17, 1000):
        yield named(any_number_of_splits, splits)


def _argument_names(function):
    code = function.__code__
    return code.co_varnames[1 : code.co_argcount]


def every_dtype(interface, dtype, output, data_format, kernel):
    """In each layout and by each kernel."""
    for geometry in ("groups", "explicit", "vectors", "vectors and groups"):
        cases.check(
            interface,
            dataclasses.replace(
                cases.ATTRIBUTES[geometry],
                dtype=dtype,
                output_dtype=output,
                data_format=data_format,
                force=kernel,
            ),
        )


def dirty_workspace(interface):
    """Partial sums are written before they are read, whatever was there."""
    convolution = cases.EXTREMES["filters beyond shared memory"]
    data = cases.Data(convolution)
    assert interface.workspace_bytes(convolution, "forward") > 0

    def dirty(shape, dtype):
        return interface.memory.put(np.full(shape, 255, dtype))

    expected = data.run(interface, "forward")
    with _memory(interface, empty=dirty):
        actual = data.run(interface, "forward")
    assert np.array_equal(actual, expected)


def odd_addresses(interface, offset):
    """Nothing is read four at a time from where that would be a fault."""
    memory = interface.memory

    def put(array):
        padded = np.zeros(array.size + offset, array.dtype)
        padded[offset:] = array.ravel()
        return memory.put(padded), offset * array.itemsize

    def pointer(tensor):
        if not isinstance(tensor, tuple) or not isinstance(tensor[1], int):
            return memory.pointer(tensor)  # of a workspace
        return memory.pointer(tensor[0]) + tensor[1]

    def get(tensor):
        return memory.get(tensor[0])[offset:]

    with _memory(interface, put=put, pointer=pointer, get=get):
        for dtype in gpu_interface.DTYPES:
            cases.check(
                interface,
                dataclasses.replace(cases.ATTRIBUTES["vectors"], dtype=dtype),
            )


def not_finite(interface, dtype, where, value, kernel):
    """NaN and infinities come out where the oracle says."""
    for sign in (False, True):
        data = cases.Data(
            cases.default(
                shape=(2, 6, 7, 18),
                filters=19,
                padding="SAME",
                dtype=dtype,
                sign=sign,
                force=kernel,
            )
        )
        if where in ("x", "both"):
            data.x[0, 2, 3, 17] = data.x[1, 0, 0, 5] = value
        if where in ("f", "both"):
            data.f[1, 2, 16, 18] = value
        if where == "g":
            data.g[1, 0, 6, 17] = value
        _check_not_finite(interface, data)


def diverged(interface, kernel):
    """As after a training that has: all is NaN, or infinite."""
    for value in (np.nan, np.inf, -np.inf):
        for where in ("x", "f", "g"):
            data = cases.Data(
                cases.default(
                    shape=(2, 6, 7, 18),
                    filters=19,
                    padding="SAME",
                    strides=(2, 1),
                    force=kernel,
                )
            )
            getattr(data, where)[:] = value
            if where == "g":
                data.g[..., ::2] *= -1
            _check_not_finite(interface, data)


def _check_not_finite(interface, data):
    for what in gpu_interface.PASSES:
        actual = data.run(interface, what)
        with np.errstate(invalid="ignore"):
            exact = data.exact(what)
        for kind in (np.isnan, np.isposinf, np.isneginf):
            assert np.array_equal(kind(actual), kind(exact)), what


def infinities_that_meet_where_no_output_is(interface, kernel):
    """A tap in the padding contributes nothing, and not 0 * NaN."""
    data = cases.Data(
        cases.default(shape=(1, 3, 3, 1), filters=1, force=kernel)
    )
    data.x[:], data.f[:], data.g[:] = 0, 0, 1
    data.x[0, 0, 0, 0] = data.f[2, 2] = np.inf
    actual = data.run(interface, "input_gradient")
    assert np.array_equal(actual, data.exact("input_gradient"))


def every_call_twice(interface, kernel):
    """Bitwise equal: no sum depends on which thread comes first."""
    convolutions = [
        *cases.ATTRIBUTES.values(),
        cases.EXTREMES["filters beyond shared memory"],
        cases.EXTREMES["long batch"],
        cases.EXTREMES["small images"],
    ]
    for convolution in convolutions:
        data = cases.Data(dataclasses.replace(convolution, force=kernel))
        for what in gpu_interface.PASSES:
            first, second = (data.run_bits(interface, what) for _ in range(2))
            assert np.array_equal(first, second), (what, convolution)


def sums_of_65536_terms(interface, shift, scale, kernel):
    """Chains of additions are short: the promise of the CPU kernels holds."""
    convolution = gpu_interface.Convolution(
        (1, 1, 3, 65536), kernel=(1, 1), filters=5, force=kernel
    )
    data = cases.Data(convolution)
    data.x = gpu_interface.rounded(data.x * scale + shift + 0.7, "float32")
    data.f = gpu_interface.rounded(data.f * scale + shift, "float32")
    error = data.error(interface, "forward")
    assert error < 1e-5, error


def sums_over_1e5_positions_in_float32(interface, dtype):
    """Reduced precision is that of what is read and written alone."""
    convolution = gpu_interface.Convolution(
        (32, 64, 64, 1), kernel=(1, 1), dtype=dtype, output_dtype="float32"
    )
    data = cases.Data(convolution)
    data.x[:], data.f[:], data.g[:] = 1, 0, 1024 / 131072
    assert data.run(interface, "filter_gradient").item() == 1024


def halves_are_rounded_as_by_numpy(interface):
    """Every finite half as it is, and what lies between two of them."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    halves = halves.astype(np.float64)
    between = (halves[1:] + halves[:-1]) / 2
    beyond = np.array([65519.9, 65520.0, 1e6])
    for values in (halves, between, np.nextafter(between, 0), beyond):
        x = np.asarray(values, np.float32).reshape(1, -1, 1, 1)
        # Read as float32 gradients, written as half: a distance of 1 times g.
        convolution = gpu_interface.Convolution(
            x.shape,
            kernel=(1, 1),
            dtype="float16",
            output_dtype="float32",
            force="narrow",
        )
        f = np.full((1, 1, 1, 1), 2.0)
        actual = interface.run(
            convolution, "input_gradient", np.zeros(x.shape), f, x
        )
        assert np.array_equal(actual, gpu_interface.rounded(x, "float16"))


def any_number_of_splits(interface, splits):
    """What the plan would not choose is right as well, and as deterministic."""
    for name in ("filters beyond shared memory", "long batch", "depthwise"):
        for kernel in ("narrow", "medium", "wide"):
            convolution = dataclasses.replace(
                cases.EXTREMES[name], force=kernel, splits=splits
            )
            cases.check(interface, convolution)
            data = cases.Data(convolution)
            first, second = (
                data.run_bits(interface, "filter_gradient") for _ in range(2)
            )
            assert np.array_equal(first, second), convolution


def sums_of_few_parts_are_those_of_many(interface):
    """Whoever adds up the parts: eight, in their order, and then zeros.

    Nine parts of which the last one is nothing are added by several threads,
    and eight by one thread; the inputs of the ninth are the filters, so that
    all its differences are 0.
    """
    few = gpu_interface.Convolution(
        (1, 5, 7, 8 * 64), kernel=(1, 1), filters=20, force="wide", splits=8
    )
    many = dataclasses.replace(few, shape=(1, 5, 7, 9 * 64), splits=9)
    data, more = cases.Data(few), cases.Data(many)
    more.x[..., : 8 * 64], more.f[:, :, : 8 * 64] = data.x, data.f
    more.x[..., 8 * 64 :], more.f[:, :, 8 * 64 :] = 1, 1
    kernels = [interface.kernel(c, "forward") for c in (few, many)]
    assert [name.partition("/")[2] for name in kernels] == ["8", "9"]
    assert np.array_equal(
        data.run_bits(interface, "forward"), more.run_bits(interface, "forward")
    )


class _Changed:
    """A memory of which some methods are others."""

    def __init__(self, memory, methods):
        self._memory = memory
        self.__dict__.update(methods)

    def __getattr__(self, name):
        return getattr(self._memory, name)


@contextlib.contextmanager
def _memory(interface, **methods):
    before = interface.memory
    interface.memory = _Changed(before, methods)
    try:
        yield
    finally:
        interface.memory = before


CHECKS = dict(_checks())
