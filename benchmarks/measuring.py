"""Timing side by side, and what there is to say about the machine."""

import dataclasses
import functools
import os
import platform
import statistics
import sys
import time

# A turn lasts at least this long, so that the clock and whatever the previous
# contender left running (threads that spin, caches) weigh little.
TURN_SECONDS = 0.004


@dataclasses.dataclass(frozen=True)
class Timing:
    seconds: float  # of one call: the median over rounds
    quartiles: tuple[float, float]
    rounds: int


def interleave(runs, seconds, max_rounds=1000, min_rounds=3, take=None):
    """Times functions in turns: A B C, A B C, ...

    A turn is one call that is not timed and then as many as fill it; its result
    is their mean.

    Args:
        runs: Dict of functions without arguments.
        seconds: When to begin no further round.
        max_rounds: At most so many rounds.
        min_rounds: At least so many, whatever they take.
        take: `turn`, which is the default, or `once`.

    Returns:
        A dict of `Timing`, with the keys of `runs`.
    """
    for run in runs.values():
        run()
    take = take or turn
    turns = {name: functools.partial(take, run) for name, run in runs.items()}
    return alternate(turns, seconds, max_rounds, min_rounds)


def alternate(turns, seconds, max_rounds=1000, min_rounds=3):
    """As `interleave`, of functions that take a turn and return its seconds."""
    samples = {name: [] for name in turns}
    end = time.perf_counter() + seconds
    for index in range(max_rounds):
        if index >= min_rounds and time.perf_counter() > end:
            break
        for name, take in turns.items():
            samples[name].append(take())
    return {name: timing(values) for name, values in samples.items()}


def turn(run):
    """Seconds of a call, in the mean of a turn of them."""
    run()
    calls = 0
    begin = now = time.perf_counter()
    while calls == 0 or now - begin < TURN_SECONDS:
        run()
        calls += 1
        now = time.perf_counter()
    return (now - begin) / calls


def once(run):
    """Seconds of one call, for what takes far longer than a turn."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def timing(values):
    """The `Timing` of the samples of some rounds."""
    if len(values) == 1:
        return Timing(values[0], (values[0], values[0]), 1)
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, (first, third), len(values))


def geometric_mean(values):
    return statistics.geometric_mean(values) if values else None


def progress(what):
    print(f"... {what}", file=sys.stderr, flush=True)


def load():
    return round(os.getloadavg()[0], 2)


def cores():
    return len(os.sched_getaffinity(0))


def circumstances(threads, quick):
    """What the results of a benchmark begin with, before anything is measured.

    Args:
        threads: Integer, how many an operation may use.
        quick: Boolean, whether the figures mean nothing.
    """
    return {
        "machine": machine(threads, os.environ.get("KERAS_ADDER_ISA")),
        "command": " ".join(["python", *sys.argv]),
        "quick": quick,
        "load": [load()],
    }


def machine(threads, isa):
    """What a reader needs to know to place the figures."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_adder
    from keras_adder.__main__ import processor

    return {
        "processor": processor(),
        "cores": cores(),
        "threads": threads,
        "isa": isa or f"best the processor has ({best_isa()})",
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "system": platform.platform(terse=True),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "keras_adder": keras_adder.__version__,
            **_optional_versions(),
        },
    }


def of_maker(goals, processor):
    """Of a dict by makers of processors what is for this one, or `None`."""
    return next((g for maker, g in goals.items() if maker in processor), None)


def best_isa():
    """The kernels that the op picks when KERAS_ADDER_ISA names none."""
    from keras_adder import sysconfig

    return sysconfig.instruction_sets()["supported"][-1]


def _optional_versions():
    from importlib import metadata

    found = {}
    for package in ("ai-edge-litert", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
