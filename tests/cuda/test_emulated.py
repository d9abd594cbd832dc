"""The CUDA kernels' own code, run by the processor, against the oracle.

What a GPU would do in parallel happens one thread after the other, so this
shows wrong indices, sums and roundings, and no races.
"""

import dataclasses
import itertools
import pathlib

import cases
import gpu_interface
import pytest
import semantics

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
        "medium": {"tile 128x32", "general"},
    }
    assert taken == expected[kernel]


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


@pytest.mark.parametrize("name", semantics.CHECKS)
def test_semantics(interface, name):
    semantics.CHECKS[name](interface)


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
        ({"splits": -1}, "`splits`"),
        ({"struct_size": 0}, "`struct_size`"),
        ({"struct_size": 1000}, "`struct_size` must be sizeof(KerasAdderCall)"),
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
