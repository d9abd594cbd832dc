"""The speed and memory of the CUDA kernels, beside cuDNN and the formula."""

import math
import platform
import shutil
import subprocess
import sys
import time

import gpu_interface
import measuring
import numpy as np
import shapes

PASSES = gpu_interface.PASSES

# A turn of calls lasts at least this long, or has so many calls.
TURN_SECONDS = 0.02
MAX_CALLS = 2000

# How long nvidia-smi may take to say the clock.
CLOCK_SECONDS = 5

# The most that one array of all differences may take, in bytes.
FORMULA_BYTES = 2**30

# Random numbers that arrays are filled with, again and again.
RANDOM_NUMBERS = 2**20


def measure(interface, args, results):
    """Measures a row for each shape, pass and dtype."""
    gpu = None if args.emulate else gpu_interface.Gpu.first()
    measured = shapes.QUICK if args.quick else shapes.GPU
    rows = [
        (shape, what, dtype)
        for dtype in args.dtypes
        for shape in measured
        for what in PASSES
    ]
    results.found = {
        "machine": machine(interface.memory, gpu),
        "command": " ".join(["python", *sys.argv]),
        "quick": args.quick,
        "of": len(rows),
        "rows": [],
    }
    for row in rows:
        print("...", *row, file=sys.stderr, flush=True)
        results.found["rows"].append(
            measure_row(interface, *row, args.seconds, gpu)
        )
        results.save()


def measure_row(interface, shape, what, dtype, seconds, gpu):
    memory = interface.memory
    convolution = convolution_of(shape, dtype)
    others, images = contenders(memory, shape, what, dtype, gpu)
    used = {"ours": our_bytes(interface, convolution, what) / shape.batch}
    turns = {"ours": turn(memory, ours(interface, convolution, what))}
    errors = {}
    for name, run in others.items():
        try:
            turns[name] = turn(memory, run)
            if gpu is not None:
                used[name] = bytes_used(memory, run) / images[name]
        except RuntimeError as error:  # which is no reason to lose our own
            turns.pop(name, None)
            errors[name] = " ".join(str(error).split())[:200]
    timings = measuring.alternate(turns, seconds)
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
        "images": {name: images[name] for name in timings},
        "speeds": speeds,
        "bytes_an_image": used,
        "errors": errors,
    }
    if gpu is not None:
        measured = clock_under_load(gpu, turns["ours"])
        row["clock_assumed"] = measured is None
        row["clock_mhz"] = measured or gpu.max_clock_mhz
        peak = per_clock(gpu, what) * gpu.multiprocessors
        peak *= row["clock_mhz"] * 1e6
        row["of_roofline"] = speeds["ours"] * 1e12 / peak
    return row


def contenders(memory, shape, what, dtype, gpu):
    """Functions that run what else there is, and the images of each."""
    runs = {}
    images = {"ours": shape.batch}
    device = "cpu" if gpu is None else "cuda"
    if has_torch(memory):
        runs |= cudnn(shape, what, dtype, device)
        images |= dict.fromkeys(runs, shape.batch)
        if what == "forward" and dtype == "float32":
            name = "im2col, PyTorch"
            runs[name], images[name] = im2col(shape, device)
    return runs, images


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
    """A function that runs one pass over random tensors."""
    tensors = random_tensors(interface.memory, convolution, what)
    return interface.launcher(convolution, what, *tensors)


def random_tensors(memory, convolution, what):
    """Input, filters, output gradient, and what a result is written over."""
    values = np.random.default_rng(0).normal(size=RANDOM_NUMBERS)
    bits = gpu_interface.encode(values, convolution.dtype)
    return [
        memory.put(np.resize(bits, math.prod(shape)))
        for shape in (
            convolution.input_shape,
            convolution.filter_shape,
            convolution.output_shape,
            result_shape(convolution, what),
        )
    ]


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

    generator = torch.Generator(device).manual_seed(0)
    height, width = shape.output_size
    sizes = (
        (shape.batch, shape.channels, shape.height, shape.width),
        (shape.filters, shape.channels, shape.kernel, shape.kernel),
        (shape.batch, shape.filters, height, width),
    )
    return [
        torch.randn(size, generator=generator, device=device).to(
            getattr(torch, dtype), memory_format=torch.channels_last
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


def turn(memory, run, least_seconds=TURN_SECONDS):
    """A function that returns the seconds of a call: the mean of a turn."""
    run()
    calls = 1
    while True:
        repeated = memory.repeat(run, calls)
        # The first time it is moved to the GPU.
        repeated()
        seconds = memory.seconds(repeated)
        if seconds >= least_seconds or calls == MAX_CALLS:
            break
        more = math.ceil(1.2 * calls * least_seconds / max(seconds, 1e-9))
        calls = min(max(more, 2 * calls), MAX_CALLS)

    def take(run=run):  # whose tensors a graph does not keep alive
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
    end = time.perf_counter() + CLOCK_SECONDS
    while asking.poll() is None and time.perf_counter() < end:
        take()
    if asking.poll() is None:  # In some containers it hangs.
        asking.kill()
        return None
    try:
        return float(asking.stdout.read())
    except ValueError:  # Not every GPU says.
        return None


def machine(memory, gpu):
    """What a reader needs to know to place the figures."""
    found = {
        "memory": type(memory).__name__,
        "calls of a turn": "one CUDA graph" if memory.graphs else "one by one",
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
