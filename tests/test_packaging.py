"""The wheel, the source distribution, and what the build refuses."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile

import builds
import pytest
import tensorflow as tf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import keras_adder

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PYPROJECT["project"]["version"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
BUILT = {"libkeras_adder_ops.so", "_build_info.json"}


def load_setup():
    spec = importlib.util.spec_from_file_location(
        "keras_adder_setup", ROOT / "setup.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load_setup()


def source_files(*folders):
    """Returns what is in folders of the repository, less what builds leave."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.name not in BUILT
        and path.suffix not in (".pyc", ".pyo")
    }


@pytest.fixture
def wheel():
    (path,) = builds.folder("release").glob("*.whl")
    return path


@pytest.fixture
def sdist():
    (path,) = builds.folder("release").glob("*.tar.gz")
    return path


def test_versions_are_equal():
    assert keras_adder.__version__ == VERSION


def test_every_tensorflow_is_pinned_to_one_minor_version():
    requirements = PYPROJECT["build-system"]["requires"]
    for extra in ("cpu", "gpu"):
        requirements = requirements + EXTRAS[extra]
    specifiers = [
        str(requirement.specifier)
        for requirement in map(Requirement, requirements)
        if requirement.name.startswith("tensorflow")
    ]
    assert len(specifiers) == 6
    assert len(set(specifiers)) == 1
    assert specifiers[0].startswith("==2.") and specifiers[0].endswith(".*")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_each_machine_gets_one_tensorflow(machine, extra):
    names = [
        requirement.name
        for requirement in map(Requirement, EXTRAS[extra])
        if requirement.marker.evaluate({"platform_machine": machine})
    ]
    only_cpu = extra == "cpu" and machine == "x86_64"
    assert names == ["tensorflow-cpu" if only_cpu else "tensorflow"]


def test_constraints_pin_every_requirement():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert all(pin.startswith("==") for pin in versions.values())
    groups = ("cpu", "examples", "test")
    for line in [
        *PYPROJECT["build-system"]["requires"],
        *PYPROJECT["project"]["dependencies"],
        *(line for group in groups for line in EXTRAS[group]),
    ]:
        requirement = Requirement(line)
        pin = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.removeprefix("=="))


@pytest.mark.slow
def test_wheel_is_for_this_platform_and_any_python(wheel):
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"keras_adder-{VERSION}-py3-none-{platform}.whl"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"keras_adder-{VERSION}.dist-info/WHEEL").decode()
    assert f"Tag: py3-none-{platform}\n" in text
    assert "Root-Is-Purelib: false\n" in text


@pytest.mark.slow
def test_wheel_contains_the_package_and_the_library(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name for name in archive.namelist() if ".dist-info/" not in name
        }
        info = json.loads(archive.read("keras_adder/_build_info.json"))
        licence = f"keras_adder-{VERSION}.dist-info/licenses/LICENSE"
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert names == source_files("keras_adder") | {
        f"keras_adder/{name}" for name in BUILT
    }
    weights = "keras_adder/applications/weights"
    assert {
        f"{weights}/manifest.json",
        f"{weights}/lenet5_adder_mnist.weights.h5",
    } <= names
    assert info["tensorflow_version"] == tf.__version__


@pytest.mark.slow
def test_sdist_contains_all_that_builds_and_tests(sdist):
    with tarfile.open(sdist) as archive:
        names = {
            member.name.partition("/")[2]
            for member in archive.getmembers()
            if member.isfile()
        }
    folders = (".ci", "examples", "keras_adder", "tests", "tf_ops")
    assert source_files(*folders) <= names
    assert {"LICENSE", "Makefile", "README.md", "constraints.txt"} <= names
    assert ".clang-format" in names
    assert {"MANIFEST.in", "pyproject.toml", "setup.py"} <= names
    assert not BUILT & {pathlib.PurePath(name).name for name in names}
    assert not any(name.startswith("build/") for name in names)


@pytest.mark.slow
def test_sdist_gives_the_metadata(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    program = (
        "import sys\n"
        "from setuptools import build_meta\n"
        "print(build_meta.prepare_metadata_for_build_wheel(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = tmp_path / done.stdout.splitlines()[-1] / "METADATA"
    lines = metadata.read_text().splitlines()
    assert f"Version: {VERSION}" in lines
    assert "License-Expression: Apache-2.0" in lines
    required = [line for line in lines if line.startswith("Requires-Dist: ")]
    always = [line for line in required if "extra ==" not in line]
    assert not any("tensorflow" in line for line in always)
    assert {f"Provides-Extra: {extra}" for extra in EXTRAS} <= set(lines)


def add_distribution(folder, name, version):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


@pytest.mark.parametrize("wheel_name", ["tensorflow", "tensorflow-cpu"])
def test_tensorflow_of_the_target_is_found(tmp_path, wheel_name):
    add_distribution(tmp_path, "tensorflow-datasets", "4.9.10")
    assert setup.tensorflow_version([str(tmp_path)]) is None
    add_distribution(tmp_path, wheel_name, "2.20.0")
    assert setup.tensorflow_version([str(tmp_path)]) == "2.20.0"


def test_target_is_not_what_an_isolated_build_adds(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = setup.target_path()
    assert str(tmp_path) not in path
    assert sysconfig.get_path("purelib") in path


def test_build_for_another_minor_version_is_refused():
    with pytest.raises(setup.PlatformError) as caught:
        setup.check_tensorflow(build="2.21.0", target="2.20.1")
    message = str(caught.value)
    assert "has TensorFlow 2.20.1" in message
    assert "built for TensorFlow 2.21.0" in message
    assert f"{sys.executable} -m pip install --no-build-isolation ." in message


def test_build_without_tensorflow_is_refused():
    with pytest.raises(setup.PlatformError, match="install tensorflow-cpu"):
        setup.check_tensorflow(build=None, target=None)


@pytest.mark.parametrize("target", [None, "2.21.0", "2.21.3"])
def test_build_for_the_same_minor_version_is_accepted(target):
    setup.check_tensorflow(build="2.21.0", target=target)


def test_tools_come_from_their_wheels():
    for name in ("cmake", "ninja"):
        assert setup.find_tool(name).startswith(sys.prefix)
