"""Calls that nobody should make: an error each, never a crash.

A saved model is untrusted input, and so are its attributes and shapes. The
calls are made in a process of their own with little memory, so that a crash,
a hang or a request for gigabytes is a failed test.
"""

import os
import subprocess
import sys

CALLS = 1500

SCRIPT = """
import resource
import sys

import numpy as np
import tensorflow as tf

from keras_adder import sysconfig

library = sysconfig.load_library()
OPS = {
    "forward": library.keras_adder_adder_conv2d,
    "input": library.keras_adder_adder_conv2d_backprop_input,
    "filter": library.keras_adder_adder_conv2d_backprop_filter,
    "both": library.keras_adder_adder_conv2d_backprop,
}
DTYPES = [tf.float16, tf.bfloat16, tf.float32, tf.float64]
BIG = 2**31 - 1
rng = np.random.default_rng(int(sys.argv[1]))
# What TensorFlow has mapped by now, and two gigabytes more.
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (2 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def pick(*choices):
    return choices[rng.integers(len(choices))]


def rarely(value, otherwise):
    return value if rng.random() < 0.04 else otherwise


def steps(nhwc):
    a, b = (rarely(int(pick(7, 1000, BIG)), int(pick(1, 1, 2))) for _ in "hw")
    a = rarely(int(pick(0, -1, -BIG, 2**31, 2**62, -(2**63))), a)
    values = [1, a, b, 1] if nhwc else [1, 1, a, b]
    if rarely(True, False):
        values = list(pick([], [1], [2, 1, 1, 1], [1, 1, 1, 2], [1] * 5))
    return values


def explicit(nhwc):
    pads = [int(pick(0, 0, 1, 1, 2)) for _ in range(4)]
    pads[0] = rarely(int(pick(-1, BIG, 2**40, 2**62, 10**6)), pads[0])
    values = [0, 0, *pads, 0, 0] if nhwc else [0, 0, 0, 0, *pads]
    if rarely(True, False):
        values = pick([], [1] * 8, [0] * 4, [0] * 9)
    return values


def shape(*sizes):
    dims = [rarely(int(pick(0, 40)), int(pick(*choice))) for choice in sizes]
    rank = rarely(int(pick(0, 1, 3, 5)), 4)
    return (dims + [1])[:rank]


IMAGE = (1, 3, 4, 6, 9, 18)


def call(i):
    name = pick(*OPS)
    nhwc = rng.random() < 0.5
    dtype = pick(*DTYPES)
    output = dtype if rng.random() < 0.8 else tf.float32
    padding = pick("SAME", "VALID", "EXPLICIT")
    attributes = {
        "strides": steps(nhwc),
        "dilations": steps(nhwc),
        "padding": rarely(pick("", "same", "CAUSAL"), padding),
        "explicit_paddings": explicit(nhwc)
        if rarely(True, padding == "EXPLICIT")
        else [],
        "data_format": rarely(
            pick("", "NCHW_VECT_C"), "NHWC" if nhwc else "NCHW"
        ),
    }
    if name != "input":
        attributes["filter_gradient"] = rarely(
            "exact", pick("full_precision", "sign")
        )
    x = shape((1, 2), IMAGE, IMAGE, IMAGE)
    f = shape((1, 1, 2, 3), (1, 1, 2, 3), (1, 3, 9), (1, 6, 18, 36))
    if len(x) == len(f) == 4 and rng.random() < 0.8:
        f[2] = x[3 if nhwc else 1]
    values = [
        tf.cast(rng.normal(size=dims), dtype) for dims in (x, f)
    ]
    if name == "forward":
        attributes["output_type"] = rarely(pick(*DTYPES), output)
    else:
        g = shape((1, 2), IMAGE, IMAGE, IMAGE)
        if rng.random() < 0.8:
            try:
                g = OPS["forward"](
                    *values, output_type=dtype, **attributes
                ).shape
            except Exception:
                pass
        values.append(tf.cast(rng.normal(size=g), output))
    special = pick(None, None, None, float("nan"), float("inf"), 3e38)
    if special is not None:
        which = rng.integers(len(values))
        values[which] = values[which] * tf.cast(special, values[which].dtype)

    def run(*tensors):
        return OPS[name](*tensors, **attributes)

    # Eagerly, in a graph that knows the shapes, and in one that does not.
    way = i % 3
    if way:
        specs = [
            tf.TensorSpec(v.shape if way == 1 else None, v.dtype)
            for v in values
        ]
        run = tf.function(run, input_signature=specs, autograph=False)
    result = run(*values)
    if name == "both":
        assert [r.shape for r in result] == [v.shape for v in values[:2]]
    elif name != "forward":
        assert result.shape == values[name == "filter"].shape


done = {"results": 0, "errors": 0}
for i in range(int(sys.argv[2])):
    state = rng.bit_generator.state
    print(i, file=sys.stderr, flush=True)
    try:
        call(i)
        done["results"] += 1
    except (
        tf.errors.InvalidArgumentError,
        # Raised before anything of ours is asked: by conversion of arguments,
        # by shape inference, and where no kernel takes such types.
        ValueError,
        TypeError,
        tf.errors.NotFoundError,
    ):
        done["errors"] += 1
print(done["results"], done["errors"])
"""


def test_hostile_calls_never_crash():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "0", str(CALLS)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, (
        f"exit {done.returncode} at call {done.stderr[-1500:]}"
    )
    results, errors = map(int, done.stdout.split())
    # Neither kind may be rare, or the other proves nothing.
    assert results + errors == CALLS
    assert min(results, errors) > CALLS // 6
