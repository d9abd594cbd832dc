"""The CUDA kernels' own code, run by the processor, against the oracle.

What a GPU would do in parallel happens one thread after the other, so this
shows wrong indices, sums and roundings, and no races.
"""

import dataclasses
import itertools
import pathlib

import cases
import gpu_interface
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def interface(emulation):
    return gpu_interface.Interface(emulation, gpu_interface.Host())


@pytest.mark.parametrize("part", range(4))
def test_whole_sweep(interface, part):
    for convolution in itertools.islice(cases.sweep(), part, None, 4):
        cases.check(interface, convolution)


@pytest.mark.parametrize("kernel", gpu_interface.KERNELS[1:])
def test_every_kernel_is_right_for_every_geometry(interface, kernel):
    """Also where another would be taken."""
    taken = set()
    for convolution in itertools.chain(
        cases.random_geometries(40),
        cases.remainders(),
        cases.ATTRIBUTES.values(),
    ):
        forced = dataclasses.replace(convolution, force=kernel)
        cases.check(interface, forced)
        taken |= {
            interface.kernel(forced, what).split("/")[0]
            for what in gpu_interface.PASSES
        }
    expected = {
        "general": {"general"},
        # Input gradients of large strides have no tile.
        "narrow": {"tile 256x16", "general"},
        "wide": {"tile 128x64", "tile 128x32", "general"},
    }
    assert taken == expected[kernel]


@pytest.mark.parametrize("kernel", gpu_interface.KERNELS)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype, output", list(cases.dtypes()))
def test_every_dtype_and_layout_by_every_kernel(
    interface, dtype, output, data_format, kernel
):
    for geometry in ("groups", "explicit", "vectors", "vectors and groups"):
        convolution = dataclasses.replace(
            cases.ATTRIBUTES[geometry],
            dtype=dtype,
            output_dtype=output,
            data_format=data_format,
            force=kernel,
        )
        cases.check(interface, convolution)


def test_cases_reach_every_kernel_and_splits(interface):
    names = {
        interface.kernel(convolution, what)
        for convolution in cases.sweep()
        for what in gpu_interface.PASSES
    }
    kinds = {name.split("/")[0] for name in names}
    assert kinds == {"general", "tile 256x16", "tile 128x64", "tile 128x32"}
    splits = {int(name.split("/")[1]) for name in names if "/" in name}
    assert 1 in splits and len(splits) > 5


def test_a_fresh_workspace_is_not_trusted(interface):
    """Partial sums are written before they are read, whatever was there."""
    convolution = cases.EXTREMES["filters beyond shared memory"]
    data = cases.Data(convolution)
    assert interface.workspace_bytes(convolution, "forward") > 0
    empty = interface.memory.empty

    class Dirty(gpu_interface.Host):
        @staticmethod
        def empty(shape, dtype):
            return np.full(shape, 255, dtype)

    results = []
    for memory in (interface.memory, Dirty()):
        interface.memory, before = memory, interface.memory
        results.append(data.run(interface, "forward"))
        interface.memory = before
    assert interface.memory.empty is empty
    assert np.array_equal(*results)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_tensors_at_odd_addresses(interface, offset):
    """Nothing is read four at a time from where that would be a fault."""

    class Odd(gpu_interface.Host):
        @staticmethod
        def put(array):
            padded = np.empty(array.size + offset, array.dtype)
            padded[offset:] = array.ravel()
            return padded[offset:]

    even, interface.memory = interface.memory, Odd()
    try:
        for dtype in gpu_interface.DTYPES:
            cases.check(
                interface,
                dataclasses.replace(cases.ATTRIBUTES["vectors"], dtype=dtype),
            )
    finally:
        interface.memory = even


@pytest.mark.parametrize("kernel", gpu_interface.KERNELS[1:])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "f", "both", "g"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_not_finite_where_the_oracle_says(
    interface, dtype, where, value, kernel
):
    for sign in (False, True):
        convolution = cases.default(
            shape=(2, 6, 7, 18),
            filters=19,
            padding="SAME",
            dtype=dtype,
            sign=sign,
            force=kernel,
        )
        data = cases.Data(convolution)
        if where in ("x", "both"):
            data.x[0, 2, 3, 17] = data.x[1, 0, 0, 5] = value
        if where in ("f", "both"):
            data.f[1, 2, 16, 18] = value
        if where == "g":
            data.g[1, 0, 6, 17] = value
        for what in gpu_interface.PASSES:
            actual = data.run(interface, what)
            with np.errstate(invalid="ignore"):
                exact = data.exact(what)
            for kind in (np.isnan, np.isposinf, np.isneginf):
                assert np.array_equal(kind(actual), kind(exact)), what


@pytest.mark.parametrize("kernel", gpu_interface.KERNELS[1:])
def test_infinities_that_meet_where_no_output_is(interface, kernel):
    convolution = cases.default(
        shape=(1, 3, 3, 1), filters=1, force=kernel
    )
    data = cases.Data(convolution)
    data.x[:], data.f[:], data.g[:] = 0, 0, 1
    data.x[0, 0, 0, 0] = data.f[2, 2] = np.inf
    actual = data.run(interface, "input_gradient")
    assert np.array_equal(actual, data.exact("input_gradient"))


@pytest.mark.parametrize("kernel", gpu_interface.KERNELS[1:])
@pytest.mark.parametrize(
    "shift, scale",
    [(0, 1), (1e4, 1), (0, 0)],
    ids=["N(0,1)", "1e4", "constant"],
)
def test_sums_of_65536_terms(interface, shift, scale, kernel):
    """Chains of additions are short: the promise of the CPU kernels holds."""
    convolution = gpu_interface.Convolution(
        (1, 1, 3, 65536), kernel=(1, 1), filters=5, force=kernel
    )
    data = cases.Data(convolution)
    data.x = gpu_interface.rounded(data.x * scale + shift + 0.7, "float32")
    data.f = gpu_interface.rounded(data.f * scale + shift, "float32")
    assert data.error(interface, "forward") < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_reduced_precision_sums_over_1e5_positions_in_float32(
    interface, dtype
):
    convolution = gpu_interface.Convolution(
        (32, 64, 64, 1),
        kernel=(1, 1),
        dtype=dtype,
        output_dtype="float32",
    )
    data = cases.Data(convolution)
    data.x[:], data.f[:], data.g[:] = 1, 0, 1024 / 131072
    assert data.run(interface, "filter_gradient").item() == 1024


def test_half_precision_is_rounded_as_numpy_does(interface):
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


def test_more_elements_than_32_bits_take_the_general_kernel(interface):
    huge = gpu_interface.Convolution(
        (2**21, 32, 32, 4), filters=4, padding="SAME"
    )
    for what in ("forward", "input_gradient", "filter_gradient"):
        assert interface.kernel(huge, what) == "general"
        assert interface.workspace_bytes(huge, what) == 0


def test_plans_depend_on_the_geometry_alone(interface):
    """Equal sums on every GPU: no plan asks how large this one is."""
    source = (ROOT / "tf_ops" / "cuda" / "plan.cc").read_text()
    assert "cuda_runtime" not in source


@pytest.mark.parametrize(
    "change, message",
    [
        ({"type": 4}, "`type`"),
        ({"output_type": 0}, "`output_type`"),
        ({"pass_": 3}, "`pass`"),
        ({"kernel": 9}, "`kernel`"),
        ({"groups": 2}, "`groups`"),
        ({"batch": -1}, "`groups` must divide the channels, and no size"),
    ],
)
def test_wrong_calls_are_refused(interface, change, message):
    call = cases.DEFAULT.call("forward")
    for name, value in change.items():
        setattr(call, name, value)
    error = interface._run(call, *[None] * 6)
    assert message in error.decode()


def test_sources_include_nothing_of_tensorflow():
    sources = [
        path
        for path in (ROOT / "tf_ops" / "cuda").iterdir()
        if path.suffix in (".h", ".cc", ".cu")
    ]
    assert len(sources) > 5
    for path in sources:
        text = path.read_text()
        assert '#include "tensorflow' not in text, path
        assert '#include "xla' not in text, path
        # Sums in an order that nobody controls.
        assert "atomic" not in text, path
