"""Builds what `make test-all` tests, before any test and its time limit begins.

    python tests/builds.py

Builds run two at a time. Each has a folder under build/tests, with a log; a
build whose tools are missing is left out, and so are its tests.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "tests"
# What `make build` has built.
RELEASE = ROOT / "build" / "cmake"

# What is beside this interpreter, whatever PATH says.
_TOOLS = pathlib.Path(sys.executable).parent
CMAKE = _TOOLS / "cmake"
NINJA = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_TOOLS / 'ninja'}")

CORE_TEST = "keras_adder_core_test"
EMULATION_TARGET = "keras_adder_cuda_emulated"
OPS_TARGET = "keras_adder_ops"
EMULATION = RELEASE / f"lib{EMULATION_TARGET}.so"


@dataclasses.dataclass(frozen=True)
class Build:
    """Commands that are run one after the other, in the repository.

    Attributes:
        commands: Tuple of command lines.
        needs: Dict of programs and, for each, Debian's package of it.
    """

    commands: tuple
    needs: dict = dataclasses.field(default_factory=dict)

    def missing(self):
        """What to install first, or None."""
        for program, package in self.needs.items():
            if shutil.which(program) is None:
                return f"there is no {program}: apt-get install {package}"
        return None


def _core_test(folder, *options):
    more_targets = () if options else (EMULATION_TARGET, OPS_TARGET)
    targets = (CORE_TEST, *more_targets)
    build = (CMAKE, "--build", folder, "-j", "2", "--target", *targets)
    # No warning is left to stand, by any of these compilers.
    configure = (CMAKE, "-B", folder, "-DKERAS_ADDER_WERROR=ON")
    if options:
        configure = (*configure, *NINJA, *options)
    return ((*configure, "-S", "tf_ops"), build)


def _c_library(folder):
    """The C library, installed, and the example that needs nothing else."""
    prefix = folder / "prefix"
    example = folder / "example"
    return (
        (
            *(CMAKE, "-S", "tf_ops", "-B", folder / "library", *NINJA),
            "-DKERAS_ADDER_WERROR=ON",
        ),
        (CMAKE, "--build", folder / "library", "-j", "2"),
        (CMAKE, "--install", folder / "library", "--prefix", prefix),
        (
            *(CMAKE, "-S", "examples/c", "-B", example, *NINJA),
            f"-DCMAKE_PREFIX_PATH={prefix}",
        ),
        (CMAKE, "--build", example),
    )


def _package(call):
    """Calls setuptools as pip does without isolation."""
    program = f"from setuptools import build_meta; build_meta.{call}"
    return (sys.executable, "-c", program)


def _packages(folder):
    lib = {"--global-option": f"build --build-lib '{folder / 'lib'}'"}
    return (
        _package(f"build_wheel({str(folder)!r}, {lib})"),
        _package(f"build_sdist({str(folder)!r})"),
    )


def _driver(name, *options):
    compiler = os.environ.get("CC", "cc")
    source = ROOT / "tests" / "cuda" / "driver.c"
    library = FOLDER / name / "libcuda.so.1"
    command = (compiler, "-shared", "-fPIC", *options, "-o", library, source)
    return Build((command,), needs={compiler: "gcc"})


# The longest first.
BUILDS = {
    "sanitized": Build(
        _core_test(FOLDER / "sanitized", "-DKERAS_ADDER_SANITIZE=ON"),
    ),
    "clang": Build(
        _core_test(FOLDER / "clang", "-DCMAKE_CXX_COMPILER=clang++"),
        needs={"clang++": "clang"},
    ),
    "aarch64": Build(
        _core_test(
            FOLDER / "aarch64",
            "-DCMAKE_TOOLCHAIN_FILE="
            + str(ROOT / "tf_ops" / "cmake" / "aarch64-linux-gnu.cmake"),
        ),
        needs={
            "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
            "qemu-aarch64": "qemu-user",
        },
    ),
    # In one folder of CMake's, and so one after the other. The packages first:
    # they start it afresh if it was made for something else.
    "release": Build(
        _packages(FOLDER / "release") + _core_test(RELEASE),
    ),
    "c_library": Build(_c_library(FOLDER / "c_library")),
    "driver": _driver("driver"),
    "old_driver": _driver("old_driver", "-DOLD"),
}


def folder(name):
    """The folder of a build, for a test; skips the test if tools are missing.

    The test fails if they are not and nothing has been built.
    """
    import pytest

    if missing := BUILDS[name].missing():
        pytest.skip(missing)
    if not _mark(name).exists():
        pytest.fail(f"{FOLDER / name} is not built: `make test-all` builds it.")
    return FOLDER / name


def _mark(name):
    return FOLDER / name / "built"


def main():
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        failed = not all(pool.map(_run, BUILDS))
    print(f"Built for the tests in {time.monotonic() - begin:.0f} s.")
    sys.exit(failed)


def _run(name):
    """Runs a build; returns whether it succeeded or was left out."""
    build, target = BUILDS[name], FOLDER / name
    if missing := build.missing():
        print(f"{name}: not built, {missing}", flush=True)
        return True
    if name == "release":  # Of versions, only this one is to be there.
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    _mark(name).unlink(missing_ok=True)
    begin = time.monotonic()
    with open(target / "log.txt", "w", encoding="utf-8") as log:
        for command in build.commands:
            words = list(map(str, command))
            status = subprocess.call(words, cwd=ROOT, stdout=log, stderr=log)
            if status:
                break
    if status:
        lines = (target / "log.txt").read_text("utf-8").splitlines()
        print(f"{name}: failed", *lines[-30:], sep="\n", flush=True)
        return False
    _mark(name).touch()
    print(f"{name}: built in {time.monotonic() - begin:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
