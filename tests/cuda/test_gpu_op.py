"""The TensorFlow op on a GPU, against the oracle. Skipped where TensorFlow sees
none; test_emulated.py checks the same kernels there."""

import dataclasses
import itertools
import os
import subprocess
import sys

import cases
import gpu_interface
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_op

from keras_adder import sysconfig
from keras_adder.ops import adder_conv2d

pytestmark = pytest.mark.skipif(
    not tf.config.list_physical_devices("GPU"),
    reason="TensorFlow sees no GPU",
)


def test_library_has_kernels_for_the_gpu_that_is_there():
    assert sysconfig.build_info()["cuda"], (
        "the ops were built without CUDA kernels: put nvcc on PATH, and build "
        "again"
    )


def run(convolution, data, device="GPU:0"):
    """Output, input gradient and filter gradient, as the op computes them."""
    with tf.device(device):
        results = tensorflow_op.run(convolution, data)
    kind = tf.DeviceSpec.from_string(device).device_type
    assert all(f"{kind}:" in result.device for result in results)
    return results


def check(convolution):
    data = cases.Data(convolution)
    for what, actual in zip(gpu_interface.PASSES, run(convolution, data)):
        exact = data.exact(what)
        assert actual.shape == exact.shape
        actual = tf.cast(actual, tf.float64).numpy()
        scale = np.abs(exact[exact != 0]).mean() if np.any(exact) else 1
        error = np.abs(actual - exact).max(initial=0.0) / scale
        forward = what == "forward"
        dtype = convolution.result_dtype if forward else convolution.dtype
        assert error < cases.TOLERANCE[dtype], (what, convolution)


@pytest.mark.parametrize("part", range(8))
def test_whole_sweep(part):
    for convolution in itertools.islice(cases.sweep(), part, None, 8):
        check(convolution)


@pytest.mark.skipif(
    len(tf.config.list_physical_devices("GPU")) < 2,
    reason="TensorFlow sees a single GPU",
)
def test_every_gpu_runs_its_own_ops():
    """On its own stream: another GPU's would be an error or a wrong result."""
    data = cases.Data(cases.ATTRIBUTES["vectors"])
    convolution = data.convolution
    first = run(convolution, data)
    for index in range(1, len(tf.config.list_physical_devices("GPU"))):
        for actual, expected in zip(
            run(convolution, data, f"GPU:{index}"), first
        ):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_inputs_that_begin_anywhere_in_a_buffer(offset):
    """As slices of a batch of odd images do, and gathered gradients."""
    convolution = dataclasses.replace(
        cases.ATTRIBUTES["vectors"], dtype="float16", kernel=(1, 1)
    )
    data = cases.Data(convolution)
    x, f = (tf.cast(a, "float16") for a in (data.x, data.f))
    with tf.device("GPU:0"):
        flat = tf.concat([tf.zeros(offset, "float16"), tf.reshape(x, [-1])], 0)
        sliced = tf.reshape(tf.slice(flat, [offset], [-1]), x.shape)
        actual = adder_conv2d(sliced, f, padding="same")
        expected = adder_conv2d(x, f, padding="same")
    np.testing.assert_array_equal(actual, expected)


def test_more_than_2_to_31_elements():
    """The last image is far beyond where 32 bits reach."""
    shape = (2**20 + 1, 8, 16, 16)
    with tf.device("GPU:0"):
        try:
            x = tf.concat(
                [
                    tf.zeros((shape[0] - 1, *shape[1:]), tf.float16),
                    tf.ones((1, *shape[1:]), tf.float16),
                ],
                axis=0,
            )
            y = adder_conv2d(x, tf.zeros((1, 1, 16, 1), tf.float16))
        except tf.errors.ResourceExhaustedError:
            pytest.skip("this GPU has too little memory")
        assert x.shape.num_elements() > 2**31
        assert float(tf.reduce_min(y[:-1])) == 0
        assert np.array_equal(y[-1], np.full((8, 16, 1), -16.0))


DETERMINISM = """
import sys
import numpy as np, tensorflow as tf
from keras_adder.ops import adder_conv2d
tf.config.experimental.enable_op_determinism()
rng = np.random.default_rng(0)
results = {}
with tf.device("GPU:0"):
    for i, shape in enumerate([(64, 7, 7, 64), (5, 33, 35, 19)]):
        x = tf.constant(rng.normal(size=shape), tf.float32)
        f = tf.constant(rng.normal(size=(3, 3, shape[3], 96)), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch([x, f])
            y = adder_conv2d(x, f, padding="same")
        g = tf.constant(rng.normal(size=y.shape), tf.float32)
        dx, df = tape.gradient(y, [x, f], output_gradients=g)
        results.update({f"y{i}": y, f"dx{i}": dx, f"df{i}": df})
np.savez(sys.argv[1], **results)
"""


def test_bitwise_equal_from_process_to_process(tmp_path):
    files = [str(tmp_path / f"{i}.npz") for i in range(2)]
    for file in files:
        subprocess.run(
            [sys.executable, "-c", DETERMINISM, file],
            env=os.environ,
            check=True,
            capture_output=True,
        )
    first, second = map(np.load, files)
    for name in first:
        assert np.array_equal(first[name], second[name]), name


def test_graph_mode_and_the_cpu_agree():
    convolution = dataclasses.replace(
        cases.ATTRIBUTES["vectors"], dtype="float32"
    )
    data = cases.Data(convolution)
    on_gpu = tf.function(lambda: run(convolution, data))()
    on_cpu = run(convolution, data, "CPU:0")
    for actual, expected in zip(on_gpu, on_cpu):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
