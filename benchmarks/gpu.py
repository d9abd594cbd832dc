"""Checks and measures the CUDA kernels through their C interface.

    python benchmarks/gpu.py --all          # everything below, in eight minutes
    python benchmarks/gpu.py --check        # right? against the float64 oracle
    python benchmarks/gpu.py --semantics    # NaN, odd addresses, long sums, ...
    python benchmarks/gpu.py                # fast? beside cuDNN and the formula
    python benchmarks/gpu.py --choices      # would other tiles or splits be?

Needs a driver, nvcc and NumPy, and no TensorFlow; cuDNN and the formula are
PyTorch's, where it is installed. nvcc is taken from CUDACXX, PATH or
/usr/local/cuda, and its command is printed.

`--output FOLDER` writes the figures as JSON and as a page; `--all` adds a log,
has compute-sanitizer watch a short form of the checks, and writes after each
step. With `--emulate` the kernels' code runs on the processor: that tests this
program, and its figures mean nothing.
"""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import gpu_choices
import gpu_interface
import gpu_report
import gpu_steps
import gpu_table

ROOT = pathlib.Path(__file__).resolve().parents[1]
EMULATION = ROOT / "build" / "cmake" / "libkeras_adder_cuda_emulated.so"


def main():
    args = parse()
    if args.all:
        sys.exit(gpu_steps.run_all(args))
    library = library_of(args)
    if args.build:
        print(library)
        return
    if args.check or args.semantics:
        memory = on_host(args) or gpu_interface.Driver()
    else:
        memory = on_host(args) or gpu_interface.timing_memory()
    interface = gpu_interface.Interface(library, memory)
    if unusable := interface.unusable():
        sys.exit(unusable)
    results = gpu_report.Results(args.output, kind_of(args))
    if args.check or args.semantics:
        check = check_convolutions if args.check else check_semantics
        sys.exit(1 if check(interface, args.quick, results) else 0)
    measure = gpu_choices.measure if args.choices else gpu_table.measure
    measure(interface, args, results)
    print(results.finish(), end="")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--all",
        action="store_true",
        help="all that follows, step by step, at its own pace",
    )
    what.add_argument(
        "--build", action="store_true", help="the library, whose path is shown"
    )
    what.add_argument(
        "--check", action="store_true", help="whether all passes are right"
    )
    what.add_argument(
        "--semantics",
        action="store_true",
        help="whether they keep what is promised beside that",
    )
    what.add_argument(
        "--choices",
        action="store_true",
        help="the speed of every tile and several numbers of splits",
    )
    parser.add_argument(
        "--library",
        type=pathlib.Path,
        help="the C interface, if it has been built already",
    )
    parser.add_argument(
        "--build-dir",
        type=pathlib.Path,
        default=ROOT / "build" / "gpu",
        help="where to build it (default: %(default)s)",
    )
    parser.add_argument(
        "--emulate", action="store_true", help="on the processor, as a test"
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=gpu_interface.DTYPES,
        default=("float32", "float16", "bfloat16"),
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for each row of a table"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        help="--all begins nothing, and ends what runs, after these "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes, and few checks"
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder to write results to (default: none, and with --all "
        "`results` in the build folder)",
    )
    return parser.parse_args()


def kind_of(args):
    """What the flags ask for."""
    kinds = ("check", "semantics", "choices")
    return next((kind for kind in kinds if getattr(args, kind)), "table")


def on_host(args):
    return gpu_interface.Host() if args.emulate else None


def library_of(args):
    """The path of the C interface, which is built if no flag names it."""
    if args.library is not None:
        return args.library
    if not args.emulate:
        try:
            return build(args.build_dir)
        except OSError as error:
            sys.exit(f"There is no NVIDIA driver: {error}")
    if not EMULATION.exists():
        sys.exit(f"There is no {EMULATION}: `make build` compiles it.")
    return EMULATION


def build(folder):
    """Builds the C interface; returns the library's path.

    For the GPU that is there alone, which takes a fraction of the time that all
    architectures of the op library take.
    """
    nvcc = find_nvcc()
    capability = gpu_interface.Gpu.first().compute_capability
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / gpu_report.LIBRARY
    sources = ROOT / "tf_ops"
    command = [
        *(nvcc, "-O3", "-std=c++17", "-lineinfo", "-Xptxas=-v"),
        architecture(nvcc, capability),
        *("-Xcompiler=-fPIC", "-Xcompiler=-fvisibility=hidden", "-shared"),
        *("-I", sources, "-o", library),
        *(sources / "cuda" / n for n in ("kernels.cu", "interface.cc")),
        sources / "cuda" / "plan.cc",
    ]
    if host := os.environ.get("CUDAHOSTCXX"):
        command.append(f"-ccbin={host}")
    command = [str(part) for part in command]
    print(shlex.join(command), file=sys.stderr, flush=True)
    if status := subprocess.call(command):
        sys.exit(f"{command[0]} failed: {status}")
    return library


def find_nvcc():
    wanted = os.environ.get("CUDACXX") or "nvcc"
    found = shutil.which(wanted) or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        sys.exit(
            "There is no nvcc on PATH or in /usr/local/cuda. Install a CUDA "
            "toolkit, or set CUDACXX to its nvcc."
        )
    return found


def architecture(nvcc, capability):
    """nvcc's flag for a GPU: machine code, or PTX if it is too new for nvcc."""
    offered = subprocess.run(
        [nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout
    numbers = [int(n) for n in re.findall(r"compute_(\d+)\b", offered)]
    wanted = capability[0] * 10 + capability[1]
    if wanted in numbers:
        return f"-gencode=arch=compute_{wanted},code=sm_{wanted}"
    older = [number for number in numbers if number < wanted]
    if not older:
        sys.exit(f"{nvcc} compiles for no GPU as old as this one: {wanted}.")
    return f"-gencode=arch=compute_{max(older)},code=compute_{max(older)}"


def check_convolutions(interface, quick, results):
    """Runs the whole sweep; returns how many convolutions came out wrong."""
    cases = import_tests("cases")
    convolutions = list(cases.sweep())
    if quick:
        convolutions = one_a_kernel(interface, convolutions)
    return run_checks(
        {
            str(convolution): lambda c=convolution: cases.check(interface, c)
            for convolution in convolutions
        },
        results,
    )


def check_semantics(interface, quick, results):
    """As `check_convolutions`, what tests/cuda/semantics.py has."""
    checks = import_tests("semantics").CHECKS
    if quick:
        # One of each kind, whose name is the first word.
        kinds = {name.split()[0]: name for name in reversed(checks)}
        checks = {name: checks[name] for name in kinds.values()}
    return run_checks(
        {
            name: lambda check=check: check(interface)
            for name, check in checks.items()
        },
        results,
    )


def import_tests(module):
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "cuda")]
    return __import__(module)


def run_checks(checks, results):
    """Calls functions that raise an `AssertionError` if something is wrong."""
    results.found = {"done": 0, "of": len(checks), "wrong": []}
    for name, check in checks.items():
        try:
            check()
        except AssertionError as error:
            results.found["wrong"].append(f"{name}: {error}")
            print(f"WRONG: {name}: {error}", flush=True)
        except Exception as error:
            # A fault leaves nothing that could be gone on with.
            results.found["wrong"].append(f"{name}: failed, {error}")
            results.save()
            print(f"FAILED: {name}", flush=True)
            raise
        results.found["done"] += 1
        results.save()
    wrong = len(results.found["wrong"])
    print(f"{len(checks)} checks, {wrong} wrong")
    return wrong


def one_a_kernel(interface, convolutions):
    """Convolutions of each kind of kernel that there is among some."""
    chosen = {}
    for convolution in convolutions:
        for what in gpu_interface.PASSES:
            chosen.setdefault(
                kind_of_kernel(interface, convolution, what), convolution
            )
    return list(dict.fromkeys(chosen.values()))


def kind_of_kernel(interface, convolution, what):
    """What tells kernels, and their ways of loading and storing, apart."""
    kernel, _, splits = interface.kernel(convolution, what).partition("/")
    count = int(splits or 0)
    return (
        what,
        kernel,
        # No sum of parts, one by single threads, one by several.
        "no parts" if count < 2 else "few" if count <= 8 else "many",
        what == "filter_gradient" and convolution.sign,
        convolution.dtype,
        convolution.result_dtype,
        convolution.data_format,
    )


if __name__ == "__main__":
    main()
