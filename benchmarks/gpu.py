"""Checks and measures the CUDA kernels through their C interface.

    python benchmarks/gpu.py --check    # right? against the float64 oracle
    python benchmarks/gpu.py            # fast? beside cuDNN and the formula

Needs nvcc, CMake, NumPy and PyTorch or CuPy, and no TensorFlow. `--output
results/speed` writes the tables and, as JSON, the figures. With `--emulate` the
kernels' code runs on the processor: that tests this program, and its figures
mean nothing.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np

import gpu_interface
import measuring
import shapes

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Differences a clock and multiprocessor: two instructions on each lane.
LANES = {"7.0": 64, "7.5": 64, "8.0": 64}
NEWER_LANES = 128

# A turn of launches lasts at least this long.
TURN_SECONDS = 0.02

# The most that one array of all differences may take, in bytes.
FORMULA_BYTES = 2**31

CONTENDERS = ("ours", "cuDNN", "cuDNN, TF32", "im2col, PyTorch")


def main():
    args = parse()
    library = args.library or build(args.build_dir, args.emulate)
    interface = open_interface(library, args.emulate)
    if args.check:
        sys.exit(check(interface, args.quick))
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


def build(folder, emulate):
    """Builds the C interface with CMake; returns the library's path."""
    target = "keras_adder_cuda_emulated" if emulate else "keras_adder_cuda"
    choice = "OFF" if emulate else "ON"
    for command in (
        ["-S", ROOT / "tf_ops", "-B", folder, f"-DKERAS_ADDER_CUDA={choice}"],
        ["--build", folder, "--target", target],
    ):
        done = subprocess.run(
            ["cmake", *map(str, command)], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return folder / f"lib{target}.so"


def open_interface(library, emulate):
    if emulate:
        return gpu_interface.Interface(library, gpu_interface.Host())
    memory = gpu_interface.device_memory()
    if memory is None:
        sys.exit(
            "Neither PyTorch nor CuPy sees a GPU here. `--emulate` runs this "
            "program without one."
        )
    interface = gpu_interface.Interface(library, memory)
    if unusable := interface.unusable():
        sys.exit(unusable)
    return interface


def check(interface, quick):
    """Runs the whole sweep; returns how many convolutions came out wrong."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "cuda")]
    import cases

    convolutions = list(cases.sweep())
    convolutions = convolutions[:: 40 if quick else 1]
    wrong = 0
    for convolution in convolutions:
        try:
            cases.check(interface, convolution)
        except AssertionError as error:
            wrong += 1
            print(f"WRONG: {error}")
    print(f"{len(convolutions)} convolutions, {wrong} wrong")
    return wrong


def measure(interface, args):
    on_gpu = not args.emulate
    results = {
        "machine": machine(interface.memory, on_gpu),
        "command": " ".join(["python", *sys.argv]),
        "quick": args.quick,
        "rows": [],
    }
    peak = results["machine"]["peak"]
    for shape in shapes.QUICK if args.quick else shapes.MAIN:
        for what in gpu_interface.PASSES:
            for dtype in args.dtypes:
                print(f"... {shape} {what} {dtype}", file=sys.stderr)
                row = measure_row(interface, shape, what, dtype, args, on_gpu)
                if peak:
                    row["of_roofline"] = row["speeds"]["ours"] * 1e12 / peak
                results["rows"].append(row)
    return results


def measure_row(interface, shape, what, dtype, args, on_gpu):
    convolution = convolution_of(shape, dtype)
    runs = {"ours": ours(interface, convolution, what)}
    work = dict.fromkeys(CONTENDERS, convolution.differences)
    if dtype == "float32":
        runs |= cudnn(shape, what, on_gpu)
        if what == "forward":
            run, work["im2col, PyTorch"] = im2col(shape, on_gpu)
            runs["im2col, PyTorch"] = run
    runs = {name: run for name, run in runs.items() if run is not None}
    timings = measuring.interleave(
        runs, args.seconds, take=lambda run: turn(run, synchronizer(on_gpu))
    )
    return {
        "shape": str(shape),
        "pass": what,
        "dtype": dtype,
        "kernel": interface.kernel(convolution, what),
        "seconds": {name: t.seconds for name, t in timings.items()},
        "speeds": {
            name: work[name] / t.seconds / 1e12 for name, t in timings.items()
        },
    }


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
    result = {
        "forward": convolution.output_shape,
        "input_gradient": convolution.input_shape,
        "filter_gradient": convolution.filter_shape,
    }[what]
    return interface.launcher(convolution, what, *tensors, random(result))


def torch_tensors(shape, on_gpu):
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
            "cuda" if on_gpu else "cpu", memory_format=torch.channels_last
        )
        for size in sizes
    ]


def cudnn(shape, what, on_gpu):
    """PyTorch's float32 convolution, with TF32 off and on."""
    try:
        import torch
    except ImportError:
        return {}
    x, f, g = torch_tensors(shape, on_gpu)
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

    return {
        "cuDNN": lambda: run(tf32=False),
        "cuDNN, TF32": lambda: run(tf32=True),
    }


def im2col(shape, on_gpu):
    """The formula of the AdderNet authors' code, and its differences.

    On as many images as fit with every difference stored.
    """
    try:
        import torch
    except ImportError:
        return None, 0
    image = shape.but(batch=1).differences * 4
    batch = max(1, min(shape.batch, FORMULA_BYTES // image))
    shape = shape.but(batch=batch)
    x, f, _ = torch_tensors(shape, on_gpu)
    rows = f.flatten(1)

    def run():
        columns = torch.nn.functional.unfold(
            x, shape.kernel, padding=shape.kernel // 2
        )
        columns = columns.transpose(0, 1).flatten(1)
        return -(rows[:, :, None] - columns).abs().sum(1)

    return run, shape.differences


def synchronizer(on_gpu):
    if not on_gpu:
        return lambda: None
    try:
        import torch

        return torch.cuda.synchronize
    except ImportError:
        import cupy

        return cupy.cuda.runtime.deviceSynchronize


def turn(run, synchronize):
    """Seconds of a call, in the mean of as many as keep a GPU busy."""
    run()
    synchronize()
    calls, seconds = 1, 0.0
    while True:
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize()
        seconds = time.perf_counter() - begin
        if seconds >= TURN_SECONDS:
            return seconds / calls
        calls *= 2


def machine(memory, on_gpu):
    """What a reader needs to know to place the figures."""
    found = {
        "memory": type(memory).__name__,
        "python": platform.python_version(),
        "peak": None,
    }
    if not on_gpu:
        return found | {"gpu": "none: emulated, figures mean nothing"}
    names = ("name", "driver_version", "compute_cap", "clocks.max.sm")
    query = f"--query-gpu={','.join(names)}"
    line = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[0]
    name, driver, capability, clock = (v.strip() for v in line.split(","))
    count = multiprocessors(memory)
    lanes = LANES.get(capability, NEWER_LANES)
    return found | {
        "gpu": name,
        "driver": driver,
        "compute_capability": capability,
        "multiprocessors": count,
        "max_clock_mhz": float(clock),
        "peak": lanes / 2 * count * float(clock) * 1e6,
    }


def multiprocessors(memory):
    if isinstance(memory, gpu_interface.Torch):
        cuda = memory.torch.cuda
        return cuda.get_device_properties(0).multi_processor_count
    return memory.cupy.cuda.Device().attributes["MultiProcessorCount"]


def markdown(results):
    lines = [
        f"- {name}: {value}" for name, value in results["machine"].items()
    ]
    peak = results["machine"]["peak"]
    if peak:
        lines.append(
            f"- roofline: {peak / 1e12:.1f} T differences/s, two float32 "
            "instructions each at the highest clock"
        )
    head = ["n,h,w,ci,co", "pass", "dtype", "kernel", *CONTENDERS]
    head.append("of roofline")
    lines += [
        "",
        "T differences/s (cuDNN: multiply-adds):",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * 4}{' ---: |' * (len(CONTENDERS) + 1)}",
    ]
    for row in results["rows"]:
        speeds = [
            f"{row['speeds'][name]:.3g}" if name in row["speeds"] else "-"
            for name in CONTENDERS
        ]
        fraction = row.get("of_roofline")
        cells = [
            *(row[name] for name in ("shape", "pass", "dtype", "kernel")),
            *speeds,
            f"{fraction:.0%}" if fraction else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
