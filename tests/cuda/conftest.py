"""Lets tests import the cases and the driver, and finds the emulation."""

import pathlib
import sys

import builds
import pytest

sys.path += [
    str(builds.ROOT / "benchmarks"),
    str(pathlib.Path(__file__).parent),
]


@pytest.fixture(scope="session")
def emulation():
    """The path of the library that runs the kernels on the processor."""
    path = builds.EMULATION
    assert path.exists(), f"there is no {path}: `make build` compiles it"
    return path
