"""Runs the compute core's own test driver, core_test.cc."""

import pathlib
import re
import subprocess

import builds
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*command):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return re.fullmatch(
        r"([\w ]+) \n(\d+) passed, 0 failed\n", done.stdout
    ).groups()


@pytest.mark.slow
def test_fast_passes_equal_the_reference():
    """A short form: without an argument it sweeps beyond two tiles."""
    builds.folder("release")
    _, passed = run(builds.RELEASE / builds.CORE_TEST, 7)
    assert int(passed) > 5000


@pytest.mark.slow
def test_fast_passes_equal_the_reference_under_sanitizers():
    """The same geometries and instruction sets, by smaller blocks."""
    _, passed = run(builds.folder("sanitized") / builds.CORE_TEST, 7)
    assert int(passed) > 5000


@pytest.mark.slow
def test_fast_passes_equal_the_reference_as_clang_compiles_them():
    _, passed = run(builds.folder("clang") / builds.CORE_TEST, 7)
    assert int(passed) > 5000


@pytest.mark.slow
def test_fast_passes_equal_the_reference_on_aarch64():
    """On an emulator, with the instruction set that is this library's fastest
    there and the portable code."""
    driver = builds.folder("aarch64") / builds.CORE_TEST
    names, passed = run("qemu-aarch64", driver, 3)
    assert names == "baseline neon"
    assert int(passed) > 5000


def test_core_includes_nothing_of_tensorflow():
    sources = [
        path
        for path in (ROOT / "tf_ops" / "core").rglob("*")
        if path.suffix in (".h", ".cc")
    ]
    assert len(sources) > 10
    for path in sources:
        assert '#include "tensorflow' not in path.read_text(), path
        assert '#include "Eigen' not in path.read_text(), path
