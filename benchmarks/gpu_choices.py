"""What the CUDA kernels' plan did not choose: other tiles, other splits."""

import dataclasses
import math

import gpu_interface
import gpu_table
import shapes

TILES = ("narrow", "medium", "wide")
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)

# A turn of calls lasts at least this long: there are hundreds of choices.
TURN_SECONDS = 0.005
TURNS = 3


def measure(interface, args, results):
    """For each shape and pass, T differences/s of each choice."""
    gpu = None if args.emulate else gpu_interface.Gpu.first()
    # The smallest first: they have fewest blocks, and splits matter most.
    measured = sorted(
        shapes.QUICK if args.quick else shapes.GPU,
        key=lambda shape: math.prod(shape.output_shape),
    )
    passes = [(shape, what) for shape in measured for what in gpu_table.PASSES]
    results.found = {
        "machine": gpu_table.machine(interface.memory, gpu),
        "of": len(passes),
        "choices": [],
    }
    for shape, what in passes:
        results.found["choices"].append(measure_row(interface, shape, what))
        results.save()


def measure_row(interface, shape, what):
    planned = gpu_table.convolution_of(shape, "float32")
    convolutions = [planned] + [
        dataclasses.replace(planned, force=tile, splits=splits)
        for tile in TILES
        for splits in SPLITS
    ]
    speeds = {}
    tensors = gpu_table.random_tensors(interface.memory, planned, what)
    for convolution in convolutions:
        kernel = interface.kernel(convolution, what)
        if kernel in speeds:  # as many splits as there can be
            continue
        run = interface.launcher(convolution, what, *tensors)
        take = gpu_table.turn(interface.memory, run, TURN_SECONDS)
        seconds = min(take() for _ in range(TURNS))
        speeds[kernel] = planned.differences / seconds / 1e12
    chosen = interface.kernel(planned, what)
    best = max(speeds, key=speeds.get)
    return {
        "shape": str(shape),
        "pass": what,
        "chosen": chosen,
        "best": best,
        "gain": speeds[best] / speeds[chosen],
        "speeds": speeds,
    }
