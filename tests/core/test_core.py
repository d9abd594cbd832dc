"""Builds the compute core with sanitizers and runs its own test driver."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return build(tmp_path_factory.mktemp("core"), "-DKERAS_ADDER_SANITIZE=ON")


def build(folder, *options):
    configure = ["cmake", "-S", ROOT / "tf_ops", "-B", folder, "-G", "Ninja"]
    target = "keras_adder_core_test"
    run([*configure, *options])
    run(["cmake", "--build", folder, "--target", target])
    return folder / target


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_fast_passes_equal_the_reference_under_sanitizers(driver):
    """A short form: `core_test 40` sweeps beyond two tiles everywhere."""
    output = run([driver, "7"])
    passed = int(output.split()[-4])
    assert passed > 5000
    assert output.endswith(f"{passed} passed, 0 failed\n")


def test_fast_passes_equal_the_reference_on_aarch64(tmp_path):
    """On an emulator, with the instruction set that is this library's fastest
    there and the portable code."""
    for program, package in (
        ("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
        ("qemu-aarch64", "qemu-user"),
    ):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install {package}")
    toolchain = ROOT / "tf_ops" / "cmake" / "aarch64-linux-gnu.cmake"
    driver = build(tmp_path, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
    output = run(["qemu-aarch64", driver, "3"])
    passed = int(output.split()[-4])
    assert passed > 5000
    assert output.endswith(f"baseline neon \n{passed} passed, 0 failed\n")


def test_core_includes_nothing_of_tensorflow():
    sources = [
        path
        for path in (ROOT / "tf_ops" / "core").rglob("*")
        if path.suffix in (".h", ".cc")
    ]
    assert len(sources) > 10
    for path in sources:
        assert "#include \"tensorflow" not in path.read_text(), path
        assert "#include \"Eigen" not in path.read_text(), path
