"""Builds the compute core with sanitizers and runs its own test driver."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    build = tmp_path_factory.mktemp("core")
    configure = ["cmake", "-S", ROOT / "tf_ops", "-B", build, "-G", "Ninja"]
    target = "keras_adder_core_test"
    run([*configure, "-DKERAS_ADDER_SANITIZE=ON"])
    run(["cmake", "--build", build, "--target", target])
    return build / target


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
