"""What nvcc makes of the kernels, and that it loads where there is no GPU."""

import ctypes
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import builds
import pytest
import tensorflow as tf

from keras_adder import sysconfig

ROOT = pathlib.Path(__file__).parents[2]

needs_kernels = pytest.mark.skipif(
    not sysconfig.build_info()["cuda"],
    reason="the ops were built without CUDA kernels, which need nvcc",
)

OPS = ("", "BackpropInput", "BackpropFilter", "Backprop")


def run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@needs_kernels
def test_library_with_cuda_kernels_loads_and_runs_without_a_gpu():
    program = (
        "import tensorflow as tf\n"
        "from keras_adder.ops import adder_conv2d\n"
        "assert not tf.config.list_physical_devices('GPU')\n"
        "y = adder_conv2d(tf.ones((1, 4, 4, 2)), tf.zeros((3, 3, 2, 3)))\n"
        "print(float(tf.reduce_sum(y)))\n"
    )
    done = run(program, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) == -216


class _Buffer(ctypes.Structure):
    """TF_Buffer of TensorFlow's C API."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    ]


@needs_kernels
def test_every_op_has_a_gpu_kernel_beside_each_cpu_kernel():
    folder = pathlib.Path(tf.sysconfig.get_lib())
    tensorflow = ctypes.CDLL(str(next(folder.glob("libtensorflow_cc.so.*"))))
    tensorflow.TF_NewStatus.restype = ctypes.c_void_p
    registered = tensorflow.TF_GetRegisteredKernelsForOp
    registered.restype = ctypes.POINTER(_Buffer)
    registered.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    for op in OPS:
        name = f"KerasAdder>AdderConv2D{op}".encode()
        buffer = registered(name, tensorflow.TF_NewStatus()).contents
        kernels = ctypes.string_at(buffer.data, buffer.length)
        assert kernels.count(b"GPU") == kernels.count(b"CPU") == 6


UNUSABLE = """
import ctypes, sys
unusable = ctypes.CDLL(sys.argv[1]).keras_adder_cuda_unusable
unusable.restype = ctypes.c_char_p
print((unusable() or b"usable").decode())
"""


@pytest.mark.slow
@needs_kernels
def test_too_old_a_driver_is_a_clear_error():
    # The library is linked with TensorFlow's, which nothing else loads here.
    driver = builds.folder("old_driver")
    path = os.pathsep.join([str(driver), tf.sysconfig.get_lib()])
    done = run(UNUSABLE, sysconfig.get_lib(), LD_LIBRARY_PATH=path)
    assert done.returncode == 0, done.stderr
    assert "driver is for CUDA 9.1: update the driver" in done.stdout
    toolkit = ".".join(sysconfig.build_info()["cuda_version"].split(".")[:2])
    assert f"built with CUDA {toolkit}," in done.stdout


def _cubins(option, *flags):
    """What cuobjdump says of the library's machine code, by architecture."""
    cuobjdump = _cuobjdump()
    if cuobjdump is None:
        pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump")
    tools = f"{cuobjdump.parent}{os.pathsep}{os.environ['PATH']}"
    text = subprocess.run(
        [cuobjdump, option, *flags, sysconfig.get_lib()],
        env={**os.environ, "PATH": tools},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parts = re.split(r"^Fatbin (?:elf|ptx) code:$", text, flags=re.M)
    return {
        int(re.search(r"^arch = sm_(\d+)$", part, re.M).group(1)): part
        for part in parts
        if "Function" in part
    }


@needs_kernels
def test_nothing_spills():
    """On any architecture: a stack holds a thread's `Totals`, and no more."""
    cubins = _cubins("-res-usage")
    assert len(cubins) >= 5 and {80, 90} <= cubins.keys()
    for cubin in cubins.values():
        used = re.findall(
            r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)",
            cubin,
        )
        assert len(used) == cubin.count("Function ") == 16
        for name, registers, stack, local in used:
            tile = re.search(r"4TileILi\d+ELi\d+ELi(\d+)ELi(\d+)E", name)
            totals = 4 * int(tile[1]) * int(tile[2]) if tile else 0
            assert (int(stack), int(local)) == (totals, 0), name
            # Three blocks of 128 threads, at the least, to a multiprocessor.
            assert int(registers) <= 65536 / (3 * 128), name


@needs_kernels
@pytest.mark.parametrize(
    "architecture",
    [
        90,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (75, 80, 86, 89)),
    ],
)
def test_a_difference_is_two_additions(architecture):
    """In machine code: the absolute value is part of the second one."""
    cubin = _cubins("-sass", f"-arch=sm_{architecture}")[architecture]
    assert not re.search(r"\b(ATOM|ATOMG|ATOMS|RED)\b", cubin)
    functions = re.split(r"Function : ", cubin)[1:]
    (wide,) = [
        f for f in functions if re.match(r"\S*7Forward\S*Li128ELi64E", f)
    ]
    additions = re.findall(r"\bFADD [^;]*;", wide)
    # 8 steps unrolled, and one for the rest, of 64 differences each.
    assert sum("|" in addition for addition in additions) == 9 * 64
    # The others negate what is written, or end chains, in two places.
    others = [a for a in additions if "|" not in a and "-RZ" not in a]
    assert len(others) <= 9 * 64 + 2 * 64
    (clipped,) = [
        f for f in functions if re.match(r"\S*13InputGradient\S*Li128", f)
    ]
    if architecture >= 80:
        assert len(re.findall(r"\bFMNMX\.NAN ", clipped)) >= 2 * 9 * 32
    # Nothing is divided, by way of a reciprocal, from one step to the next.
    for tile in (f for f in functions if "TileKernel" in f.split()[0]):
        _, steps, _ = re.split(r"\bBAR\.SYNC", tile)
        assert "MUFU.RCP" in tile and "MUFU.RCP" not in steps


def _cuobjdump():
    if found := shutil.which("cuobjdump"):
        return pathlib.Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for found in pathlib.Path(folder).glob("*/bin/cuobjdump"):
            return found
    return None


def configure(folder, choice, path):
    return subprocess.run(
        [
            *(shutil.which("cmake"), "-S", ROOT / "tf_ops", "-B", folder),
            f"-DKERAS_ADDER_CUDA={choice}",
            # As if the op library were to be built.
            "-DTENSORFLOW_CFLAGS=-DANY",
        ],
        env={**os.environ, "PATH": path, "CUDACXX": ""},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def path_without_nvcc(tmp_path):
    """Programs that CMake needs to configure a build, and no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("c++", "g++", "cc", "gcc", "make", "ninja", "ld", "as", "ar"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice, built, message",
    [
        ("AUTO", True, "not built, since no working nvcc was found"),
        ("OFF", True, "not built, since KERAS_ADDER_CUDA is OFF"),
        ("ON", False, "KERAS_ADDER_CUDA is ON, but no working nvcc"),
        ("MAYBE", False, "must be AUTO, ON or OFF. Received: MAYBE"),
    ],
)
def test_without_nvcc(tmp_path, path_without_nvcc, choice, built, message):
    done = configure(tmp_path / "build", choice, path_without_nvcc)
    said = " ".join((done.stdout + done.stderr).split())
    if choice in ("AUTO", "ON") and "CUDA kernels: /" in said:
        pytest.skip("CMake finds an nvcc that is not on PATH")
    assert (done.returncode == 0) == built, said
    assert message in said
    if built:
        assert (tmp_path / "build" / "cuda_version.txt").read_text() == ""


def test_setup_refuses_other_choices(monkeypatch):
    spec = importlib.util.spec_from_file_location("s", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    monkeypatch.setenv("KERAS_ADDER_CUDA", "off")
    assert setup.cuda_choice() == "OFF"
    monkeypatch.delenv("KERAS_ADDER_CUDA")
    assert setup.cuda_choice() == "AUTO"
    monkeypatch.setenv("KERAS_ADDER_CUDA", "yes")
    with pytest.raises(setup.PlatformError, match="KERAS_ADDER_CUDA=YES"):
        setup.cuda_choice()


def test_another_nvcc_or_host_compiler_is_another_build(monkeypatch, tmp_path):
    """CMake would go on with what it found, or did not find, before."""
    spec = importlib.util.spec_from_file_location("s", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    for version in ("12", "13"):
        program = tmp_path / version / "nvcc"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (tmp_path / "cuda").symlink_to(tmp_path / "12")
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.delenv("CUDAHOSTCXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.cuda_compilers() == [None, None, None]
    monkeypatch.setenv("PATH", str(tmp_path / "cuda"))
    old = str(tmp_path / "12" / "nvcc")
    assert setup.cuda_compilers() == [None, old, None]
    new = str(tmp_path / "13" / "nvcc")
    monkeypatch.setenv("CUDACXX", new)
    monkeypatch.setenv("CUDAHOSTCXX", "g++-12")
    assert setup.cuda_compilers() == [new, new, "g++-12"]


def test_build_info_agrees_with_the_library():
    info = sysconfig.build_info()
    library = pathlib.Path(sysconfig.get_lib()).read_bytes()
    assert info["cuda"] == (b"keras_adder_cuda_run" in library)
    assert info["cuda"] == (info.get("cuda_version") is not None)
