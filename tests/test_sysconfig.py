"""The library is found and loaded, or an `ImportError` says how to mend it.

Every case has a process of its own, since one process loads one library, and
all but the first a package of its own, of which `sysconfig.py` is the original
and the rest is doctored.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

import keras_adder
from keras_adder import sysconfig

MINOR = ".".join(tf.__version__.split(".")[:2])
LOAD = "from keras_adder import sysconfig; sysconfig.load_library()"


def run(*arguments, cwd=None):
    """Runs Python, for which a package in `cwd` comes before an installed."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True
    )


def import_error(cwd, program=LOAD):
    """Returns the last line of a process that ends in an `ImportError`."""
    result = run("-c", program, cwd=cwd)
    assert result.returncode == 1, result.stderr
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: ")
    return error


@pytest.fixture
def package(tmp_path):
    """A package that loads the library, in a folder to start Python in."""
    folder = tmp_path / "keras_adder"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for file in (
        sysconfig.__file__,
        sysconfig.get_lib(),
        os.path.join(os.path.dirname(sysconfig.__file__), "_build_info.json"),
    ):
        shutil.copy(file, folder)
    return folder


def stub_tensorflow(package):
    """Puts a TensorFlow beside the package that could not load anything."""
    stub = package.parent / "tensorflow.py"
    stub.write_text(f"__version__ = {tf.__version__!r}")


def doctor_version(package, version):
    info = {**sysconfig.build_info(), "tensorflow_version": version}
    (package / "_build_info.json").write_text(json.dumps(info))


def test_command_prints_the_path_and_nothing_else():
    result = run("-m", "keras_adder.sysconfig")
    assert result.stdout == sysconfig.get_lib() + "\n"
    assert "RuntimeWarning" not in result.stderr


@pytest.mark.slow
def test_library_loads_without_the_package():
    program = (
        "import sys, tensorflow as tf; "
        f"ops = tf.load_op_library({sysconfig.get_lib()!r}); "
        "assert callable(ops.keras_adder_adder_conv2d); "
        "assert not any(m.startswith('keras_adder') for m in sys.modules)"
    )
    result = run("-c", program)
    assert result.returncode == 0, result.stderr


def test_library_is_loaded_once():
    assert sysconfig.load_library() is sysconfig.load_library()


def test_build_info_names_this_tensorflow():
    info = sysconfig.build_info()
    assert info["tensorflow_version"].startswith(MINOR + ".")
    assert isinstance(info["cuda"], bool)


@pytest.mark.slow
def test_another_patch_version_is_accepted(package):
    doctor_version(package, f"{MINOR}.99")
    program = f"{LOAD}; print(sysconfig.get_lib())"
    result = run("-c", program, cwd=package.parent)
    assert result.returncode == 0, result.stderr
    # The doctored package it was, and not the installed one.
    assert result.stdout.strip() == str(package / "libkeras_adder_ops.so")


@pytest.mark.parametrize("version", ["2.4.1", f"{MINOR}9.0"])
def test_another_minor_version_is_refused(package, version):
    doctor_version(package, version)
    stub_tensorflow(package)
    error = import_error(package.parent)
    assert f"built for TensorFlow {version}," in error
    assert f"this is TensorFlow {tf.__version__}" in error
    assert "pip install --no-build-isolation" in error


@pytest.mark.parametrize("name", ["libkeras_adder_ops.so", "_build_info.json"])
def test_no_build(package, name):
    (package / name).unlink()
    stub_tensorflow(package)
    error = import_error(package.parent)
    assert "have not been built" in error
    assert str(package / name) in error
    assert "`make build`" in error


@pytest.mark.slow
def test_library_that_lacks_a_symbol(package):
    """What an unexpected TensorFlow looks like to the dynamic linker."""
    library = package / "libkeras_adder_ops.so"
    binary = library.read_bytes()
    assert b"_ZN10tensorflow" in binary
    library.write_bytes(binary.replace(b"_ZN10tensorflow", b"_ZN10tensorfl0w"))
    error = import_error(package.parent)
    assert f"cannot be loaded from {library}" in error
    assert "undefined symbol" in error
    assert "pip install --no-build-isolation" in error


def test_library_that_is_none(package):
    library = package / "libkeras_adder_ops.so"
    library.write_text("not a library")
    error = import_error(package.parent)
    assert f"cannot be loaded from {library}" in error


def test_no_tensorflow(package):
    hide = "import sys; sys.modules['tensorflow'] = None; "
    error = import_error(package.parent, hide + LOAD)
    assert "needs TensorFlow" in error
    assert "pip install '.[cpu]'" in error


def test_instruction_sets():
    found = sysconfig.instruction_sets()
    assert set(found["supported"]) <= set(found["compiled"])
    assert found["compiled"][0] == found["supported"][0] == "baseline"
    wanted = os.environ.get("KERAS_ADDER_ISA") or found["supported"][-1]
    assert found["chosen"] == wanted


def describe(**environment):
    return subprocess.run(
        [sys.executable, "-m", "keras_adder"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_what_to_paste_into_a_report():
    done = describe()
    assert done.returncode == 0, done.stderr
    for line in (
        rf"keras_adder +{re.escape(keras_adder.__version__)}, /.*\.so",
        rf"built for +TensorFlow {re.escape(tf.__version__)}, CUDA .*",
        r"instruction set +\w+",
        r"this processor has +baseline.*",
        r"a known sum +right",
    ):
        assert re.search(f"^{line}$", done.stdout, re.M), done.stdout


@pytest.mark.slow
def test_what_does_not_work_is_in_the_report():
    done = describe(KERAS_ADDER_ISA="abacus")
    assert done.returncode == 1
    assert "instruction set     none: The environment variable" in done.stdout
    assert "a known sum         failed: FailedPrecondition" in done.stdout
