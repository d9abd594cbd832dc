"""Builds the library of compiled ops; all else is said in pyproject.toml."""

import importlib.metadata
import json
import os
import shlex
import shutil
import subprocess
import sys

from setuptools import Extension
from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.errors import PlatformError

PACKAGE = "keras_adder"
LIBRARY = "libkeras_adder_ops.so"
BUILD_INFO = "_build_info.json"
TENSORFLOW_WHEELS = ("tensorflow", "tensorflow-cpu")
CUDA_CHOICES = ("AUTO", "ON", "OFF")


def minor_version(version):
    """Returns `"2.21"` for `"2.21.0"`: the ABI holds within a minor version."""
    return ".".join(version.split(".")[:2])


def tensorflow_version(path):
    """Returns the version of TensorFlow on a search path, or None."""
    for wheel in TENSORFLOW_WHEELS:
        for found in importlib.metadata.distributions(name=wheel, path=path):
            return found.version
    return None


def target_path():
    """Returns the search path of the environment that is installed into.

    In an isolated build that is not `sys.path`, which shows the build
    requirements alone. The installer adds those through `PYTHON*` variables,
    so the same interpreter shows the target once it is told to ignore them.
    """
    code = "import json, sys; print(json.dumps(sys.path[1:]))"
    return json.loads(
        subprocess.check_output([sys.executable, "-E", "-c", code])
    )


def check_tensorflow(build, target):
    """Refuses to build for a TensorFlow that the target does not have.

    Args:
        build: The version of TensorFlow that the build has, or None.
        target: The version that the environment installed into has, or None
            if TensorFlow is yet to be installed there.

    Raises:
        PlatformError: If `build` is None, or `target` is of another minor
            version.
    """
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    commands = (
        f"    {pip} cmake ninja 'setuptools>=77'\n"
        f"    {pip} --no-build-isolation .\n"
    )
    if build is None:
        raise PlatformError(
            "keras_adder is compiled against TensorFlow, and this build has "
            "none. Install TensorFlow, the tools, and then keras_adder:\n"
            f"    {pip} tensorflow-cpu\n{commands}"
        )
    if target and minor_version(target) != minor_version(build):
        raise PlatformError(
            f"This environment has TensorFlow {target}, but keras_adder would "
            f"be built for TensorFlow {build}, and a library built for one "
            "minor version cannot be loaded by another. To build against "
            f"TensorFlow {target}:\n{commands}"
            f"For TensorFlow {minor_version(build)} instead, use an "
            f"environment without TensorFlow {target} and run the same command "
            "again."
        )


def find_tool(name):
    """Returns the path of `cmake` or `ninja`: from its wheel, else `PATH`.

    The wheel comes first because it is what the build requires and pins. Its
    list of files is asked, since neither `PATH` nor the folder for scripts
    shows it both in an isolated build and in a plain environment.
    """
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    programs = [str(file.locate()) for file in files if file.name == name]
    found = next(filter(shutil.which, programs), None) or shutil.which(name)
    if found is None:
        raise PlatformError(f"`{name}` was not found: `pip install {name}`.")
    return os.path.realpath(found)


def cuda_choice():
    """Returns whether to build the CUDA kernels, one of `CUDA_CHOICES`."""
    choice = os.environ.get("KERAS_ADDER_CUDA", "AUTO").upper()
    if choice not in CUDA_CHOICES:
        raise PlatformError(
            "The environment variable KERAS_ADDER_CUDA must be one of "
            f"{CUDA_CHOICES}: AUTO builds the kernels for GPUs where nvcc is "
            f"found. Received: KERAS_ADDER_CUDA={choice}"
        )
    return choice


def cuda_compilers():
    """Returns what decides which nvcc CMake finds, and whether it works.

    CMake remembers that it found none. Links are followed: updating CUDA
    changes one.
    """
    named = os.environ.get("CUDACXX")
    path = shutil.which(named or "nvcc")
    path = path and os.path.realpath(path)
    return [named, path, os.environ.get("CUDAHOSTCXX")]


def cmake_arguments(build_dir, tensorflow):
    """Returns the command line that configures the build."""
    root = os.path.dirname(os.path.abspath(__file__))
    compile_flags = ";".join(tensorflow.sysconfig.get_compile_flags())
    link_flags = ";".join(tensorflow.sysconfig.get_link_flags())
    return [
        find_tool("cmake"),
        *("-S", os.path.join(root, "tf_ops")),
        *("-B", build_dir),
        *("-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DTENSORFLOW_CFLAGS={compile_flags}",
        f"-DTENSORFLOW_LFLAGS={link_flags}",
        f"-DKERAS_ADDER_CUDA={cuda_choice()}",
    ]


def start_afresh_if_changed(build_dir, configuration):
    """Empties the build folder unless it was configured like this.

    CMake's cache does not survive another source folder, another TensorFlow,
    another nvcc or an isolated build's tools, which are gone when that build
    ends.
    """
    record = os.path.join(build_dir, "configured_by.json")
    try:
        with open(record) as file:
            if json.load(file) == configuration:
                return
    except (OSError, ValueError):
        pass
    shutil.rmtree(build_dir, ignore_errors=True)
    os.makedirs(build_dir)
    with open(record, "w") as file:
        json.dump(configuration, file)


def run(*command):
    """Runs a command, and fails the build in one line if it fails."""
    print(shlex.join(command), flush=True)
    status = subprocess.call(command)
    if status:
        raise CompileError(f"`{os.path.basename(command[0])}` failed: {status}")


def replace(source, destination):
    """Copies a file in one step: a process may have the old one loaded."""
    shutil.copyfile(source, destination + ".new")
    os.replace(destination + ".new", destination)


class BuildOps(build_ext):
    """Builds the ops with CMake and records what they were built for.

    CMake's folder is not setuptools' temporary one, which an editable install
    throws away: building again compiles what changed.
    """

    def run(self):
        try:
            import tensorflow
        except ImportError:
            tensorflow = None
        version = getattr(tensorflow, "__version__", None)
        check_tensorflow(version, tensorflow_version(target_path()))

        build_base = self.get_finalized_command("build").build_base
        build_dir = os.path.abspath(os.path.join(build_base, "cmake"))
        configure = cmake_arguments(build_dir, tensorflow)
        compilers = cuda_compilers()
        start_afresh_if_changed(build_dir, [version, *compilers, *configure])
        run(*configure)
        run(configure[0], "--build", build_dir, "--target", "keras_adder_ops")

        library, build_info = self._built_files()
        os.makedirs(os.path.dirname(library), exist_ok=True)
        replace(os.path.join(build_dir, LIBRARY), library)
        with open(os.path.join(build_dir, "cuda_version.txt")) as file:
            cuda_version = file.read() or None
        info = {
            "tensorflow_version": version,
            "cuda": cuda_version is not None,
            "cuda_version": cuda_version,
        }
        with open(build_info, "w") as file:
            json.dump(info, file)
            file.write("\n")
        for built, in_place in self.get_output_mapping().items():
            replace(built, in_place)

    def get_outputs(self):
        return self._built_files()

    def get_output_mapping(self):
        if not self.inplace:
            return {}
        build_py = self.get_finalized_command("build_py")
        package_dir = build_py.get_package_dir(PACKAGE)
        return {
            built: os.path.join(package_dir, os.path.basename(built))
            for built in self._built_files()
        }

    def _built_files(self):
        folder = os.path.join(self.build_lib, PACKAGE)
        return [os.path.join(folder, name) for name in (LIBRARY, BUILD_INFO)]


class PlatformWheel(bdist_wheel):
    """Tags the wheel for its platform, and for any Python 3.

    The library speaks to TensorFlow, not to Python's C API.
    """

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


# Guarded so that a test can import the functions above.
if __name__ == "__main__":
    setup(
        # Without sources: the name alone makes setuptools call `BuildOps` and
        # treat the package as one for a platform.
        ext_modules=[Extension(f"{PACKAGE}.libkeras_adder_ops", sources=[])],
        cmdclass={"build_ext": BuildOps, "bdist_wheel": PlatformWheel},
    )
