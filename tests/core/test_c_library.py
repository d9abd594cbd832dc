"""The C library: its example, and what it says of wrong arguments.

`tests/builds.py` builds and installs it, and the example from the prefix alone.
"""

import ctypes
import pathlib
import re
import subprocess
import sys
import tomllib

import builds
import numpy as np
import pytest
import tensorflow as tf

from keras_adder.ops import adder_conv2d

ROOT = pathlib.Path(__file__).parents[2]
HEADERS = ROOT / "tf_ops" / "include" / "keras_adder"

pytestmark = pytest.mark.slow

OK, INVALID_ARGUMENT, UNSUPPORTED = range(3)
FORWARD, INPUT_GRADIENT, FILTER_GRADIENT, BACKWARD = range(4)
FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = range(4)
NHWC, NCHW = range(2)
VALID, SAME, EXPLICIT = range(3)


class Conv2D(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        *(
            (name, ctypes.c_int32)
            for name in (
                *("pass_", "type", "output_type", "data_format", "padding"),
                *("filter_gradient", "threads"),
            )
        ),
        ("input_shape", ctypes.c_int64 * 4),
        ("filter_shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 2),
        ("dilations", ctypes.c_int64 * 2),
        ("explicit_paddings", ctypes.c_int64 * 4),
    ]


class Epilogue(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("residual_type", ctypes.c_int32),
        ("multiplier", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("residual_scale", ctypes.c_float),
        ("residual_zero_point", ctypes.c_int32),
        ("lower", ctypes.c_float),
        ("upper", ctypes.c_float),
        ("output_scale", ctypes.c_float),
        ("output_zero_point", ctypes.c_int32),
    ]


class Tensors(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("input", "filters", "output_gradient", "output"),
                *("input_gradient", "filter_gradient", "packed_filters"),
            )
        ),
        ("packed_filters_bytes", ctypes.c_size_t),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("epilogue", ctypes.POINTER(Epilogue)),
    ]


SCHEDULE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p
)


class Pool(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("context", ctypes.c_void_p),
        ("schedule", SCHEDULE),
    ]


class Library:
    """The shared library, whose calls raise a `RuntimeError`."""

    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))
        self.c.keras_adder_error.restype = ctypes.c_char_p
        self.c.keras_adder_version.restype = ctypes.c_char_p
        for name in ("workspace_bytes", "packed_filters_bytes"):
            function = getattr(self.c, f"keras_adder_{name}")
            function.restype = ctypes.c_size_t

    def check(self, status):
        if status != OK:
            raise RuntimeError(status, self.c.keras_adder_error().decode())

    def plan(self, convolution):
        plan = ctypes.c_void_p()
        self.check(
            self.c.keras_adder_plan_create(
                None if convolution is None else ctypes.byref(convolution),
                ctypes.byref(plan),
            )
        )
        return plan

    def run(self, plan, tensors, pool=None):
        self.check(
            self.c.keras_adder_run(
                plan,
                ctypes.byref(tensors),
                None if pool is None else ctypes.byref(pool),
            )
        )


@pytest.fixture(scope="module")
def prefix():
    return builds.folder("c_library") / "prefix"


@pytest.fixture(scope="module")
def library(prefix):
    (path,) = prefix.glob("lib*/libkeras_adder.so")
    return Library(path)


def convolution(**changes):
    made = Conv2D(
        ctypes.sizeof(Conv2D),
        *(FORWARD, FLOAT32, FLOAT32, NHWC, SAME, 0, 2),
        (2, 9, 8, 6),
        (3, 3, 3, 10),
        (2, 1),
        (1, 1),
        (0, 0, 0, 0),
    )
    for name, value in changes.items():
        field = type(getattr(made, name))
        setattr(made, name, value if field is int else field(*value))
    return made


def pointer(array):
    return array.ctypes.data


def data(seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(2, 9, 8, 6)).astype(np.float32)
    f = generator.normal(size=(3, 3, 3, 10)).astype(np.float32)
    return x, f


@pytest.mark.parametrize("program", ["adder", "adder_static"])
def test_example_equals_what_was_worked_out_by_hand(program):
    folder = builds.folder("c_library") / "example"
    done = subprocess.run(
        [folder / program], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("as by hand") == 4
    assert "WRONG" not in done.stdout
    assert not done.stderr


def test_versions_agree(library):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    version = version["project"]["version"]
    assert library.c.keras_adder_version().decode() == version
    cmake = (ROOT / "tf_ops" / "CMakeLists.txt").read_text("utf-8")
    assert f"project(keras_adder VERSION {version}" in cmake


def test_headers_are_c_and_cpp(tmp_path):
    for compiler, name in (("cc", "a.c"), ("c++", "a.cc")):
        source = tmp_path / name
        source.write_text(
            "#include <keras_adder/keras_adder.h>\n"
            "KerasAdderConv2D a = KERAS_ADDER_CONV2D_INIT;\n"
            "KerasAdderTensors b = KERAS_ADDER_TENSORS_INIT;\n"
            "KerasAdderEpilogue c = KERAS_ADDER_EPILOGUE_INIT;\n"
        )
        subprocess.run(
            [
                *(compiler, "-fsyntax-only", "-Wall", "-Wextra", "-pedantic"),
                *("-Werror", f"-I{HEADERS.parent}", source),
            ],
            check=True,
        )


def test_exports_are_the_header_alone(prefix):
    (path,) = prefix.glob("lib*/libkeras_adder.so")
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = set(re.findall(r" [A-Za-z] (keras_adder_\w+)", symbols))
    declared = set(
        re.findall(
            r"\b(keras_adder_\w+)\(", (HEADERS / "keras_adder.h").read_text()
        )
    )
    assert found == declared
    others = re.findall(r" [A-Za-z] (?!keras_adder_)(\S+)", symbols)
    assert not others


def test_forward_is_bitwise_that_of_the_op(library):
    x, f = data()
    expected = adder_conv2d(x, f, strides=(2, 1), padding="same").numpy()
    plan = library.plan(convolution())
    shape = (ctypes.c_int64 * 4)()
    library.c.keras_adder_output_shape(plan, shape)
    assert tuple(shape) == expected.shape
    y = np.full(expected.shape, np.nan, np.float32)
    tensors = Tensors(ctypes.sizeof(Tensors), pointer(x), pointer(f))
    tensors.output = pointer(y)
    library.run(plan, tensors)
    assert np.array_equal(y, expected)
    library.c.keras_adder_plan_destroy(plan)


# Arguments of the op, and what they are in C.
LIKE_THE_OP = {
    "plain": ({}, {"padding": VALID}),
    "strides": (
        {"strides": (2, 3), "padding": "same"},
        {"strides": (2, 3), "padding": SAME},
    ),
    "dilations": (
        {"dilation_rate": (2, 1)},
        {"dilations": (2, 1), "padding": VALID},
    ),
    "explicit": (
        {"padding": ((1, 0), (2, 1))},
        {"padding": EXPLICIT, "explicit_paddings": (1, 0, 2, 1)},
    ),
    "sign": (
        {"filter_gradient": "sign"},
        {"filter_gradient": 1, "padding": VALID},
    ),
}
TYPES = {
    "float16": FLOAT16,
    "bfloat16": BFLOAT16,
    "float32": FLOAT32,
    "float64": FLOAT64,
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", LIKE_THE_OP)
def test_all_passes_are_bitwise_those_of_the_op(library, name, layout, dtype):
    """With workspaces of exactly the bytes that were asked for."""
    for_op, for_c = LIKE_THE_OP[name]
    generator = np.random.default_rng(1)

    def normal(*shape):
        values = tf.constant(generator.normal(size=shape), tf.float32)
        return tf.cast(values, dtype)

    first = layout == "channels_first"
    x = normal(2, 6, 9, 8) if first else normal(2, 9, 8, 6)
    f = normal(3, 3, 3, 10)
    with tf.GradientTape() as tape:
        tape.watch((x, f))
        y = adder_conv2d(x, f, data_format=layout, **for_op)
    g = normal(*y.shape)
    dx, df = tape.gradient(y, (x, f), g)
    arrays = [tensor.numpy() for tensor in (x, f, g)]
    tensors = Tensors(ctypes.sizeof(Tensors), *map(pointer, arrays))
    for which, expected in {
        FORWARD: {"output": y},
        # What a tape takes for both.
        BACKWARD: {"input_gradient": dx, "filter_gradient": df},
    }.items():
        results = {}
        for result, tensor in expected.items():
            results[result] = np.zeros_like(tensor.numpy())
            setattr(tensors, result, pointer(results[result]))
        plan = library.plan(
            convolution(
                pass_=which,
                type=TYPES[dtype],
                output_type=TYPES[dtype],
                data_format=NCHW if first else NHWC,
                input_shape=x.shape,
                **{"strides": (1, 1), **for_c},
            )
        )
        size = library.c.keras_adder_workspace_bytes(plan, 0)
        memory = np.full(size + 128, 0xAB, np.uint8)
        begin = -pointer(memory) % 64
        tensors.workspace = pointer(memory) + begin
        tensors.workspace_bytes = size
        library.run(plan, tensors)
        assert (memory[:begin] == 0xAB).all()
        assert (memory[begin + size :] == 0xAB).all()
        for result, tensor in expected.items():
            same = results[result].tobytes() == tensor.numpy().tobytes()
            assert same, result


def test_epilogue_is_a_batch_normalization_and_a_relu(library):
    x, f = data()
    y = adder_conv2d(x, f, strides=(2, 1), padding="same").numpy()
    multiplier = np.linspace(-1, 1, 10, dtype=np.float32)
    offset = np.linspace(0, 3, 10, dtype=np.float32)
    epilogue = Epilogue(
        ctypes.sizeof(Epilogue),
        multiplier=pointer(multiplier),
        offset=pointer(offset),
        lower=0,
        upper=np.inf,
    )
    actual = np.empty_like(y)
    tensors = Tensors(ctypes.sizeof(Tensors), pointer(x), pointer(f))
    tensors.output = pointer(actual)
    tensors.epilogue = ctypes.pointer(epilogue)
    library.run(library.plan(convolution()), tensors)
    assert np.array_equal(actual, np.maximum(y * multiplier + offset, 0))


def test_a_pool_may_be_late_or_never_help(library):
    x = np.ones((4, 32, 32, 32), np.float32)
    f = np.zeros((3, 3, 32, 64), np.float32)
    plan = library.plan(
        convolution(input_shape=x.shape, filter_shape=f.shape, strides=(1, 1))
    )
    expected = adder_conv2d(x, f, padding="same").numpy()
    asked = []
    schedule = SCHEDULE(lambda *call: asked.append(call))
    pool = Pool(ctypes.sizeof(Pool), 2, None, schedule)
    y = np.full(expected.shape, np.nan, np.float32)
    tensors = Tensors(ctypes.sizeof(Tensors), pointer(x), pointer(f))
    tensors.output = pointer(y)
    library.run(plan, tensors, pool)
    assert asked
    assert np.array_equal(y, expected)
    for _, worker, helper, argument in asked:  # late, when all is done
        assert worker == 1
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(helper)(argument)
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pool_is_asked_for_no_more_threads_than_it_has(library, threads):
    x = np.ones((4, 32, 32, 32), np.float32)
    f = np.zeros((3, 3, 32, 64), np.float32)
    plan = library.plan(
        convolution(
            input_shape=x.shape,
            filter_shape=f.shape,
            strides=(1, 1),
            threads=8,
        )
    )
    workers = []
    schedule = SCHEDULE(lambda _, worker, *call: workers.append(worker))
    pool = Pool(ctypes.sizeof(Pool), threads, None, schedule)
    y = np.empty((4, 32, 32, 64), np.float32)
    tensors = Tensors(ctypes.sizeof(Tensors), pointer(x), pointer(f))
    tensors.output = pointer(y)
    library.run(plan, tensors, pool)
    assert workers == list(range(1, threads))


def test_packed_filters_have_to_be_of_the_plan(library):
    x, f = data()
    plan = library.plan(convolution())
    size = library.c.keras_adder_packed_filters_bytes(plan)
    memory = np.zeros(size + 64, np.uint8)
    packed = memory[-pointer(memory) % 64 :][:size]
    library.check(
        library.c.keras_adder_pack_filters(
            plan, *map(ctypes.c_void_p, (pointer(f), pointer(packed))), None
        )
    )
    y = np.empty((2, 5, 8, 10), np.float32)
    tensors = Tensors(ctypes.sizeof(Tensors), pointer(x))
    tensors.output = pointer(y)
    tensors.packed_filters = pointer(packed)
    tensors.packed_filters_bytes = size - 64
    with pytest.raises(RuntimeError, match="packed_filters must be what"):
        library.run(plan, tensors)
    tensors.packed_filters_bytes = size
    library.run(plan, tensors)
    assert np.array_equal(
        y, adder_conv2d(x, f, strides=(2, 1), padding="same").numpy()
    )


UNLOAD = """
import _ctypes, ctypes, os, struct, sys

begin = os.listdir("/proc/self/task")
library = ctypes.CDLL(sys.argv[1])
library.keras_adder_error.restype = ctypes.c_char_p
assert library.keras_adder_plan_create(None, None) == 1
assert b"plan is NULL" in library.keras_adder_error()
# A convolution that is work enough for two threads.
convolution = struct.pack(
    "I7i16q", 160, 0, 2, 2, 0, 1, 0, 2, 4, 32, 32, 32, 3, 3, 32, 64,
    *(1, 1, 1, 1), *(0, 0, 0, 0),
)
plan = ctypes.c_void_p()
status = library.keras_adder_plan_create(convolution, ctypes.byref(plan))
assert status == 0, library.keras_adder_error()
x, f, y = (ctypes.c_float * n for n in (4 * 32**3, 9 * 32 * 64, 4 * 32**2 * 64))
x, f, y = x(), f(), y()
tensors = struct.pack(
    "I4x7PNPNP", 96, ctypes.addressof(x), ctypes.addressof(f), 0,
    ctypes.addressof(y), 0, 0, 0, 0, 0, 0, 0,
)
assert library.keras_adder_run(plan, tensors, None) == 0
library.keras_adder_plan_destroy(plan)
_ctypes.dlclose(library._handle)
assert sys.argv[1] not in open("/proc/self/maps").read()
assert os.listdir("/proc/self/task") == begin
"""


def test_library_can_be_unloaded(prefix):
    (path,) = prefix.glob("lib*/libkeras_adder.so")
    done = subprocess.run(
        [sys.executable, "-c", UNLOAD, path.resolve()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"struct_size": 8}, "convolution: struct_size must be set"),
        ({"struct_size": 10**6}, "convolution: struct_size must be set"),
        ({"pass_": 4}, "pass must be between 0 and 3. Received: 4"),
        ({"type": -1}, "type must be between"),
        ({"output_type": FLOAT64}, "output_type must equal type"),
        ({"padding": 3}, "padding must be between"),
        ({"threads": -1}, "threads must be between 0 and 4096. Received: -1"),
        ({"threads": 2**31 - 1}, "threads must be between 0 and 4096"),
        ({"input_shape": (2, -1, 8, 6)}, "input_shape must not be negative"),
        ({"filter_shape": (3, 3, 4, 10)}, "must divide the input's channels"),
        ({"filter_shape": (0, 3, 3, 10)}, "height must be at least 1"),
        ({"filter_shape": (2**17, 3, 3, 10)}, "height is too large"),
        ({"strides": (0, 1)}, "strides must lie between 1 and 2^31 - 1"),
        ({"input_shape": (0, 2**40, 2**40, 6)}, "too many elements"),
        (
            {"padding": EXPLICIT, "explicit_paddings": (9, 0, 0, 0)},
            "explicit_paddings must not exceed the dilated filter",
        ),
    ],
)
def test_wrong_convolutions_are_errors_that_name_the_field(
    library, changes, message
):
    with pytest.raises(RuntimeError, match=re.escape(message)) as error:
        library.plan(convolution(**changes))
    assert error.value.args[0] == INVALID_ARGUMENT


def test_wrong_runs_are_errors(library):
    with pytest.raises(RuntimeError, match="convolution is NULL"):
        library.plan(None)
    x, f = data()
    y = np.zeros((2, 5, 8, 10), np.float32)
    plan = library.plan(convolution())
    tensors = Tensors(ctypes.sizeof(Tensors), pointer(x), pointer(f))
    with pytest.raises(RuntimeError, match="output must not be NULL"):
        library.run(plan, tensors)
    tensors.output = pointer(y)
    tensors.workspace, tensors.workspace_bytes = pointer(x), 8
    with pytest.raises(RuntimeError, match="workspace must have"):
        library.run(plan, tensors)
    tensors.workspace = None
    epilogue = Epilogue(ctypes.sizeof(Epilogue), lower=2, upper=1)
    tensors.epilogue = ctypes.pointer(epilogue)
    with pytest.raises(RuntimeError, match="lower must not exceed upper"):
        library.run(plan, tensors)
    epilogue.upper, epilogue.output_scale = 3, 1
    with pytest.raises(RuntimeError, match="not quantized") as error:
        library.run(plan, tensors)
    assert error.value.args[0] == UNSUPPORTED
    tensors.epilogue = None
    pool = Pool(ctypes.sizeof(Pool), 0, None, SCHEDULE())
    with pytest.raises(RuntimeError, match="at least 1 thread"):
        library.run(plan, tensors, pool)
    library.run(plan, tensors)
    assert np.array_equal(
        y, adder_conv2d(x, f, strides=(2, 1), padding="same").numpy()
    )
