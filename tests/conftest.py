"""What all tests share: the environment, two logical CPUs, and fixed seeds."""

import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Whatever the user's ~/.keras/keras.json says.
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

OWN_PROCESS = "KERAS_ADDER_TEST_IN_OWN_PROCESS"


def pytest_sessionstart(session):
    """Gives the process two logical CPUs, for tests of `MirroredStrategy`.

    Once TensorFlow has run anything it is too late, hence here.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a test that is marked `own_process` in one.

    TensorFlow mixes up the collectives of two `MirroredStrategy` objects that a
    process makes of the same CPUs.
    """
    if OWN_PROCESS in os.environ or not pyfuncitem.get_closest_marker(
        "own_process"
    ):
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # Whatever its tier.
    process = subprocess.run(
        [*command, "-m", "", pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, OWN_PROCESS: "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return True


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(1912)


@pytest.fixture(autouse=True, scope="module")
def fresh_session():
    """Frees what a module's models hold, and starts their names anew."""
    yield
    keras.backend.clear_session()
