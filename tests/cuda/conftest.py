"""Lets tests import the cases and the driver, which builds the emulation."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(pathlib.Path(__file__).parent)]


@pytest.fixture(scope="session")
def emulation(tmp_path_factory):
    """The path of the library that runs the kernels on the processor."""
    import gpu

    return gpu.build(tmp_path_factory.mktemp("emulation"), emulate=True)
