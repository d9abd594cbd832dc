"""Calls that nobody should make: an error each, never a crash.

A saved model is untrusted input, and so are its attributes and shapes. The
calls are made in a process of their own with little memory, so that a crash,
a hang or a request for gigabytes is a failed test.
"""

import os
import subprocess
import sys

CALLS = 2400

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
KINDS = ("", "fused ")
FUSED_DTYPES = [tf.float32, tf.uint8, tf.int16, tf.int32]
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


def geometry(nhwc):
    padding = pick("SAME", "VALID", "EXPLICIT")
    return {
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


def image_and_filter(nhwc):
    x = shape((1, 2), IMAGE, IMAGE, IMAGE)
    f = shape((1, 1, 2, 3), (1, 1, 2, 3), (1, 3, 9), (1, 6, 18, 36))
    if len(x) == len(f) == 4 and rng.random() < 0.8:
        f[2] = x[3 if nhwc else 1]
    return x, f


# Eagerly, in a graph that knows the shapes, and in one that does not.
def run_in_a_way(i, run, values):
    way = i % 3
    if way:
        specs = [
            tf.TensorSpec(v.shape if way == 1 else None, v.dtype)
            for v in values
        ]
        run = tf.function(run, input_signature=specs, autograph=False)
    return run(*values)


def call(i):
    name = pick(*OPS)
    nhwc = rng.random() < 0.5
    dtype = pick(*DTYPES)
    output = dtype if rng.random() < 0.8 else tf.float32
    attributes = geometry(nhwc)
    if name != "input":
        attributes["filter_gradient"] = rarely(
            "exact", pick("full_precision", "sign")
        )
    values = [
        tf.cast(rng.normal(size=dims), dtype)
        for dims in image_and_filter(nhwc)
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

    result = run_in_a_way(i, run, values)
    if name == "both":
        assert [r.shape for r in result] == [v.shape for v in values[:2]]
    elif name != "forward":
        assert result.shape == values[name == "filter"].shape


def tensor(dims, dtype):
    if dtype.is_floating:
        special = pick(1, 1, 1, float("nan"), float("inf"), 3e38)
        return tf.constant(rng.normal(0, 90, dims) * special, dtype)
    # Both ends are as likely as all between them.
    values = rng.integers(dtype.min, dtype.max, dims, endpoint=True)
    ends = pick(None, None, dtype.min, dtype.max)
    return tf.constant(values if ends is None else values * 0 + ends, dtype)


# Fit for integers, and left out for floats, as a rule.
def quantization(name, dtype):
    if dtype not in (tf.uint8, tf.int16) and rng.random() < 0.96:
        return {}
    point = pick(0, 7, 255) if dtype == tf.uint8 else pick(0, -3, 32767)
    scale = pick(1.0, 0.3, 1e-30, 1e30)
    return {
        name + "_scale": rarely(
            pick(0.0, -1.0, float("nan"), float("inf"), 1e-40), scale
        ),
        name + "_zero_point": rarely(
            int(pick(-1, 256, 40000, -(2**31), 2**32, -(2**63))), point
        ),
    }


def channel_values(f):
    count = f[3] if len(f) == 4 else 1
    dims = rarely(pick([], [1], [count + 1], [1, count]), [pick(0, count)])
    return tensor(dims, tf.float32)


def fused_call(i):
    nhwc = rng.random() < 0.5
    filter_dtype = rarely(tf.int32, pick(*FUSED_DTYPES[:3]))
    dtype = rarely(
        pick(*FUSED_DTYPES), pick(filter_dtype, filter_dtype, tf.float32)
    )
    residual_dtype = rarely(tf.int32, pick(*FUSED_DTYPES[:3]))
    output = pick(*FUSED_DTYPES[:3], tf.int32)
    raw = output == tf.int32 and rng.random() < 0.9
    residuals = rarely(2, 0 if raw else pick(0, 1))
    attributes = {
        **geometry(nhwc),
        **quantization("input", filter_dtype),
        **quantization("output", output),
        **quantization("residual", residual_dtype if residuals else None),
        "output_type": output,
    }
    if not raw:
        attributes["lower"] = rarely(float("nan"), pick(-float("inf"), 0.0))
        attributes["upper"] = rarely(-1.0, pick(float("inf"), 6.0))
    x, f = image_and_filter(nhwc)
    # Sums that leave int32, for some of these.
    if len(x) == len(f) == 4:
        x[3 if nhwc else 1] = f[2] = rarely(4100, f[2])
    nothing = tf.zeros(0)
    values = [
        tensor(x, dtype),
        tensor(f, filter_dtype),
        nothing if raw else channel_values(f),
        nothing if raw else channel_values(f),
    ]
    dims = shape((1, 2), IMAGE, IMAGE, IMAGE)
    if residuals and rng.random() < 0.8:
        try:
            dims = library.keras_adder_fused_adder_conv2d(
                *values[:2], nothing, nothing, [], **geometry_of(attributes)
            ).shape
        except Exception:
            pass
    values += [tensor(dims, residual_dtype) for _ in range(residuals)]

    def run(*tensors):
        return library.keras_adder_fused_adder_conv2d(
            *tensors[:4], list(tensors[4:]), **attributes
        )

    result = run_in_a_way(i, run, values)
    assert result.dtype == output


def geometry_of(attributes):
    epilogue = ("input", "output", "residual", "lower", "upper")
    return {
        name: value
        for name, value in attributes.items()
        if not name.startswith(epilogue)
    }


done = {kind + end: 0 for kind in KINDS for end in ("results", "errors")}
for i in range(int(sys.argv[2])):
    state = rng.bit_generator.state
    print(i, file=sys.stderr, flush=True)
    kind = "fused " if i % 8 > 4 else ""
    try:
        (fused_call if kind else call)(i)
        done[kind + "results"] += 1
    except (
        tf.errors.InvalidArgumentError,
        # Raised before anything of ours is asked: by conversion of arguments,
        # by shape inference, and where no kernel takes such types.
        ValueError,
        TypeError,
        tf.errors.NotFoundError,
    ):
        done[kind + "errors"] += 1
print(*done.values())
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
    counts = list(map(int, done.stdout.split()))
    assert sum(counts) == CALLS
    # Neither results nor errors may be rare, or the others prove nothing.
    for results, errors in (counts[:2], counts[2:]):
        assert min(results, errors) > (results + errors) // 6
