"""Checks and measures the CUDA kernels through their C interface.

    python benchmarks/gpu.py --check    # right? against the float64 oracle
    python benchmarks/gpu.py            # fast? beside cuDNN and the formula

Needs nvcc, NumPy and PyTorch or CuPy, and no TensorFlow; cuDNN and the formula
are PyTorch's. nvcc is taken from CUDACXX, PATH or /usr/local/cuda, and its
command is printed. `--output results/speed` writes the tables and, as JSON, the
figures. With `--emulate` the kernels' code runs on the processor: that tests
this program, and its figures mean nothing.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np

import gpu_interface
import measuring
import shapes

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A turn of calls lasts at least this long, or has so many calls.
TURN_SECONDS = 0.02
MAX_CALLS = 2000

# The most that one array of all differences may take, in bytes.
FORMULA_BYTES = 2**30

CONTENDERS = ("ours", "cuDNN", "cuDNN, TF32", "im2col, PyTorch")


def main():
    args = parse()
    memory = None if args.emulate else device_memory()
    library = args.library or build(args.build_dir, args.emulate)
    interface = open_interface(library, memory)
    if args.check:
        sys.exit(1 if check(interface, args.quick) else 0)
    results = measure(interface, args)
    text = markdown(results)
    print(text, end="")
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "gpu.md").write_text(text, "utf-8")
        with open(args.output / "gpu.json", "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        "--check", action="store_true", help="whether all passes are right"
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
        "--quick", action="store_true", help="tiny shapes, and few checks"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="folder to write results to"
    )
    return parser.parse_args()


def device_memory():
    memory = gpu_interface.device_memory()
    if memory is None:
        sys.exit(
            "Neither PyTorch nor CuPy sees a GPU here. `--emulate` runs this "
            "program without one."
        )
    return memory


def build(folder, emulate):
    """Builds the C interface; returns the library's path.

    For the GPU that is there alone, which takes a fraction of the time that all
    architectures of the op library take.
    """
    if emulate:
        name, kernels = "keras_adder_cuda_emulated", "emulated.cc"
        compiler = [
            *(os.environ.get("CXX", "c++"), "-O2", "-Wall", "-Wextra"),
            *("-fPIC", "-fvisibility=hidden"),
        ]
    else:
        name, kernels = "keras_adder_cuda", "kernels.cu"
        nvcc = find_nvcc()
        compiler = [
            *(nvcc, "-O3", "-lineinfo"),
            architecture(nvcc, gpu_interface.Gpu.first().compute_capability),
            *("-Xcompiler=-fPIC", "-Xcompiler=-fvisibility=hidden"),
        ]
        if host := os.environ.get("CUDAHOSTCXX"):
            compiler.append(f"-ccbin={host}")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"lib{name}.so"
    sources = ROOT / "tf_ops"
    command = [
        *(*compiler, "-std=c++17", "-shared", f"-I{sources}", "-o", library),
        *(sources / "cuda" / name for name in (kernels, "interface.cc")),
        sources / "cuda" / "plan.cc",
    ]
    command = [str(part) for part in command]
    print(shlex.join(command), file=sys.stderr)
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


def open_interface(library, memory):
    """The `Interface` of a library on a GPU's memory, or without one."""
    interface = gpu_interface.Interface(library, memory or gpu_interface.Host())
    if unusable := interface.unusable():
        sys.exit(unusable)
    return interface


def check(interface, quick):
    """Runs the whole sweep; returns how many convolutions came out wrong."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "cuda")]
    import cases

    convolutions = list(cases.sweep())
    if quick:
        convolutions = one_a_kernel(interface, convolutions)
    wrong = 0
    for convolution in convolutions:
        try:
            cases.check(interface, convolution)
        except AssertionError as error:
            wrong += 1
            print(f"WRONG: {error}")
        except Exception:
            # A fault leaves nothing that could be gone on with.
            print(f"FAILED: {convolution}")
            raise
    print(f"{len(convolutions)} convolutions, {wrong} wrong")
    return wrong


def one_a_kernel(interface, convolutions):
    """Convolutions by which every kernel runs: each pass, dtype and layout."""
    chosen = {}
    for convolution in convolutions:
        for what in gpu_interface.PASSES:
            kernel, _, splits = interface.kernel(convolution, what).partition(
                "/"
            )
            key = (what, kernel, splits in ("", "1"), convolution.dtype)
            chosen.setdefault((*key, convolution.data_format), convolution)
    return list(dict.fromkeys(chosen.values()))


def measure(interface, args):
    gpu = None if args.emulate else gpu_interface.Gpu.first()
    results = {
        "machine": machine(interface.memory, gpu),
        "command": " ".join(["python", *sys.argv]),
        "quick": args.quick,
        "rows": [],
    }
    for shape in shapes.QUICK if args.quick else shapes.MAIN:
        for what in gpu_interface.PASSES:
            for dtype in args.dtypes:
                print(f"... {shape} {what} {dtype}", file=sys.stderr)
                row = measure_row(interface, shape, what, dtype, args, gpu)
                results["rows"].append(row)
    return results


def measure_row(interface, shape, what, dtype, args, gpu):
    memory = interface.memory
    convolution = convolution_of(shape, dtype)
    runs = {"ours": ours(interface, convolution, what)}
    images = dict.fromkeys(CONTENDERS, shape.batch)
    device = "cpu" if gpu is None else "cuda"
    if has_torch(memory):
        runs |= cudnn(shape, what, dtype, device)
        if what == "forward" and dtype == "float32":
            name = "im2col, PyTorch"
            runs[name], images[name] = im2col(shape, device)
    used = {
        name: bytes_used(memory, run) / images[name]
        for name, run in runs.items()
        if name != "ours" and gpu is not None
    }
    used["ours"] = our_bytes(interface, convolution, what) / shape.batch
    turns = {name: turn(memory, run) for name, run in runs.items()}
    timings = measuring.alternate(turns, args.seconds)
    work = convolution.differences / shape.batch
    speeds = {
        name: work * images[name] / t.seconds / 1e12
        for name, t in timings.items()
    }
    row = {
        "shape": str(shape),
        "pass": what,
        "dtype": dtype,
        "kernel": interface.kernel(convolution, what),
        "seconds": {name: t.seconds for name, t in timings.items()},
        "images": {name: images[name] for name in runs},
        "speeds": speeds,
        "bytes_an_image": used,
    }
    if gpu is not None:
        clock = clock_under_load(gpu, turns["ours"]) or gpu.max_clock_mhz
        row["clock_mhz"] = clock
        peak = per_clock(gpu, what) * gpu.multiprocessors * clock * 1e6
        row["of_roofline"] = speeds["ours"] * 1e12 / peak
    return row


def per_clock(gpu, what):
    """Differences that a multiprocessor can do in a clock, at the most.

    Forward and filter gradient: two instructions on each float32 lane. An input
    gradient has two of these and, from compute capability 8.0 on, a minimum and
    a maximum, of which 64 a clock can be done; before, two comparisons and two
    selections.
    """
    capability = gpu.compute_capability
    if what == "input_gradient":
        return 32 if capability >= (8, 0) else 16
    return 64 if capability > (8, 0) else 32


def convolution_of(shape, dtype):
    return gpu_interface.Convolution(
        shape=(shape.batch, shape.height, shape.width, shape.channels),
        kernel=(shape.kernel, shape.kernel),
        filters=shape.filters,
        groups=shape.groups,
        strides=(shape.strides, shape.strides),
        padding="SAME",
        dilations=(shape.dilation, shape.dilation),
        dtype=dtype,
    )


def ours(interface, convolution, what):
    generator = np.random.default_rng(0)
    memory, dtype = interface.memory, convolution.dtype

    def random(shape):
        values = generator.normal(size=shape)
        return memory.put(gpu_interface.encode(values, dtype))

    tensors = [
        random(size)
        for size in (
            convolution.input_shape,
            convolution.filter_shape,
            convolution.output_shape,
        )
    ]
    result = random(result_shape(convolution, what))
    return interface.launcher(convolution, what, *tensors, result)


def result_shape(convolution, what):
    return {
        "forward": convolution.output_shape,
        "input_gradient": convolution.input_shape,
        "filter_gradient": convolution.filter_shape,
    }[what]


def our_bytes(interface, convolution, what):
    """What a pass takes beside its inputs: the result and a workspace."""
    elements = math.prod(result_shape(convolution, what))
    size = gpu_interface.encode(0, convolution.dtype).itemsize
    return elements * size + interface.workspace_bytes(convolution, what)


def has_torch(memory):
    """Whether PyTorch is there, and sees a GPU unless none is asked for."""
    if isinstance(memory, gpu_interface.Host):
        try:
            import torch  # noqa: F401
        except ImportError:
            return False
        return True
    return isinstance(memory, gpu_interface.Torch)


def torch_tensors(shape, dtype, device):
    """Inputs, filters and an output gradient, channels last in memory."""
    import torch

    generator = torch.Generator().manual_seed(0)
    height, width = shape.output_size
    sizes = (
        (shape.batch, shape.channels, shape.height, shape.width),
        (shape.filters, shape.channels, shape.kernel, shape.kernel),
        (shape.batch, shape.filters, height, width),
    )
    return [
        torch.randn(size, generator=generator).to(
            device, getattr(torch, dtype), memory_format=torch.channels_last
        )
        for size in sizes
    ]


def cudnn(shape, what, dtype, device):
    """PyTorch's convolution, and for float32 the same with TF32."""
    import torch

    x, f, g = torch_tensors(shape, dtype, device)
    torch.backends.cudnn.benchmark = True

    def run(tf32):
        torch.backends.cudnn.allow_tf32 = tf32
        if what == "forward":
            return torch.nn.functional.conv2d(x, f, padding=shape.kernel // 2)
        return torch.ops.aten.convolution_backward(
            *(g, x, f, None, [1, 1], [shape.kernel // 2] * 2, [1, 1]),
            *(False, [0, 0], 1),
            [what == "input_gradient", what == "filter_gradient", False],
        )

    runs = {"cuDNN": lambda: run(tf32=False)}
    if dtype == "float32":
        runs["cuDNN, TF32"] = lambda: run(tf32=True)
    return runs


def im2col(shape, device):
    """The formula of the AdderNet authors' code, and its images.

    They are as many as fit with every difference stored.
    """
    import torch

    image = shape.but(batch=1).differences * 4
    batch = max(1, min(shape.batch, FORMULA_BYTES // image))
    x, f, _ = torch_tensors(shape.but(batch=batch), "float32", device)
    rows = f.flatten(1)

    def run():
        columns = torch.nn.functional.unfold(
            x, shape.kernel, padding=shape.kernel // 2
        )
        columns = columns.transpose(0, 1).flatten(1)
        return -(rows[:, :, None] - columns).abs().sum(1)

    return run, batch


def bytes_used(memory, run):
    """What PyTorch allocates in the course of a call, its result included."""
    cuda = memory.torch.cuda
    run()
    cuda.synchronize()
    before = cuda.memory_allocated()
    cuda.reset_peak_memory_stats()
    run()
    cuda.synchronize()
    return cuda.max_memory_allocated() - before


def turn(memory, run):
    """A function that returns the seconds of a call: the mean of a turn."""
    run()
    calls = 1
    while True:
        repeated = memory.repeat(run, calls)
        # The first time it is moved to the GPU.
        repeated()
        seconds = memory.seconds(repeated)
        if seconds >= TURN_SECONDS or calls == MAX_CALLS:
            break
        more = math.ceil(1.2 * calls * TURN_SECONDS / max(seconds, 1e-9))
        calls = min(max(more, 2 * calls), MAX_CALLS)

    def take():
        return memory.seconds(repeated) / calls

    return take


def clock_under_load(gpu, take):
    """The clock of the multiprocessors in MHz while they work, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    asking = subprocess.Popen(
        [
            *("nvidia-smi", f"--id={gpu.pci_bus_id}"),
            *("--query-gpu=clocks.sm", "--format=csv,noheader,nounits"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while asking.poll() is None:
        take()
    try:
        return float(asking.stdout.read())
    except ValueError:  # Not every GPU says.
        return None


def machine(memory, gpu):
    """What a reader needs to know to place the figures."""
    found = {
        "memory": type(memory).__name__,
        "python": platform.python_version(),
    }
    if gpu is None:
        return found | {"gpu": "none: emulated, figures mean nothing"}
    if has_torch(memory):
        found["torch"] = memory.torch.__version__
        found["cudnn"] = memory.torch.backends.cudnn.version()
    major, minor = gpu.compute_capability
    return found | {
        "gpu": gpu.name,
        "driver": f"for CUDA {gpu.driver_cuda}",
        "compute_capability": f"{major}.{minor}",
        "multiprocessors": gpu.multiprocessors,
        "max_clock_mhz": gpu.max_clock_mhz,
        "differences_a_clock_and_multiprocessor": {
            what: per_clock(gpu, what) for what in gpu_interface.PASSES
        },
    }


def markdown(results):
    lines = [
        f"- {name}: {value}" for name, value in results["machine"].items()
    ]
    head = ["n,h,w,ci,co", "pass", "dtype", "kernel", *CONTENDERS]
    head += ["clock, MHz", "of roofline"]
    lines += [
        "",
        "T differences/s (cuDNN: multiply-adds). The roofline is that of the "
        "pass at the clock beside it:",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * 4}{' ---: |' * (len(CONTENDERS) + 2)}",
    ]
    for row in results["rows"]:
        speeds = [
            f"{row['speeds'][name]:.3g}" if name in row["speeds"] else "-"
            for name in CONTENDERS
        ]
        on_gpu = "clock_mhz" in row
        cells = [
            *(row[name] for name in ("shape", "pass", "dtype", "kernel")),
            *speeds,
            f"{row['clock_mhz']:.0f}" if on_gpu else "-",
            f"{row['of_roofline']:.0%}" if on_gpu else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *memory_table(results["rows"])]) + "\n"


def memory_table(rows):
    head = ["n,h,w,ci,co", "pass", "dtype", *CONTENDERS]
    yield ""
    yield "KiB an image beside the inputs: the result and what it takes:"
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * 3}{' ---: |' * len(CONTENDERS)}"
    for row in rows:
        used = [
            f"{row['bytes_an_image'][name] / 1024:,.0f}"
            if name in row["bytes_an_image"]
            else "-"
            for name in CONTENDERS
        ]
        cells = [row["shape"], row["pass"], row["dtype"], *used]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
