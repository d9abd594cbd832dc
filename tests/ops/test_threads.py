"""Ops that share TensorFlow's threads: no hang, and bitwise the same results.

Each number of threads is a process, since TensorFlow takes it once.
"""

import functools
import os
import subprocess
import sys

import pytest

# Seconds: a hang is a failure. Generous, since it is no measure of speed.
TIMEOUT = 120

CODE = """
import hashlib
import sys
import threading

import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
# So many ops at once, each of which wants all of those.
tf.config.threading.set_inter_op_parallelism_threads(4)

from keras_adder.ops import adder_conv2d

rng = np.random.default_rng(0)


# Of shapes that are work enough for four threads each.
def normal(*shape):
    return tf.constant(rng.normal(size=shape), tf.float32)


def convolve(x, f):
    return adder_conv2d(x, f, padding="same")


def all_passes(x, f):
    with tf.GradientTape() as tape:
        tape.watch([x, f])
        y = convolve(x, f)
        loss = tf.reduce_sum(y * y)
    return [y, *tape.gradient(loss, [x, f])]


def at_once(functions):
    results = [None] * len(functions)
    begin = threading.Barrier(len(functions))

    def run(i):
        begin.wait()
        results[i] = functions[i]()

    threads = [
        threading.Thread(target=run, args=(i,)) for i in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def map_fn():
    images, f = normal(8, 56, 56, 64), normal(3, 3, 64, 64)

    @tf.function
    def run(images):
        return tf.map_fn(
            lambda x: convolve(x[None], f), images, parallel_iterations=8
        )

    return run(images)


def eager():
    inputs = [(normal(4, 24, 24, 32), normal(3, 3, 32, 32)) for _ in range(4)]
    return at_once([
        lambda x=x, f=f: [all_passes(x, f) for _ in range(5)]
        for x, f in inputs
    ])


def graphs():
    def graph(x, f):
        @tf.function
        def steps(x):
            results = []
            for _ in range(4):
                results.append(all_passes(x, f))
                x = results[-1][0] / 100.0
            return results

        steps.get_concrete_function(x)
        return lambda: [steps(x) for _ in range(3)]

    return at_once([
        graph(normal(2, 20, 20, 64), normal(3, 3, 64, 64)),
        graph(normal(4, 12, 12, 64), normal(3, 3, 64, 64)),
    ])


for run in (map_fn, eager, graphs):
    bits = [tensor.numpy().tobytes() for tensor in tf.nest.flatten(run())]
    digest = hashlib.sha256(b"".join(bits)).hexdigest()
    print(run.__name__, len(bits), digest, flush=True)
"""


@functools.cache
def results(threads):
    """A line for each of: as many iterations of `tf.map_fn` at once as there
    are images, eager calls from four threads of Python, and two graphs in two.
    """
    process = subprocess.run(
        [sys.executable, "-c", CODE, str(threads)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert process.returncode == 0, process.stdout + process.stderr[-3000:]
    return process.stdout.splitlines()


@pytest.mark.parametrize(
    "threads", [2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_calls_at_once_equal_those_of_one_thread(threads):
    assert len(results(1)) == 3
    assert results(threads) == results(1)
