"""The peak that speeds are compared with."""

import ctypes
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

import measuring
import numpy as np
import tensorflow as tf

SOURCE = pathlib.Path(__file__).with_name("peak.cc")

FLAGS = {
    "baseline": ["-msse2"],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
    "neon": [],
}

# Repeats of a loop: some milliseconds, so that starting threads weighs little.
REPEATS = 1_000_000

# What a stream moves at least, in bytes, for the same reason.
STREAMED = 2**28

# Where buffers of vectors of any size may begin.
ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of `peak.cc`, which reads and writes registers alone.

    Attributes:
        name: String, its instructions.
        dtype: String, the type of what they take.
        sliding: Boolean, whether one step sums at four neighbouring positions.
        of_each: Integer, what a repeat computes in multiply-adds or in
            differences, of a sliding loop those for filters of three columns.
        run: Function of the number of repeats and of threads.
    """

    name: str
    dtype: str
    sliding: bool
    of_each: int
    run: object

    def speed(self, threads, trials):
        """G multiply-adds or differences a second, of the best of trials."""
        seconds = min(
            measuring.once(lambda: self.run(REPEATS, threads))
            for _ in range(trials)
        )
        return threads * REPEATS * self.of_each / seconds / 1e9

    def useful(self, kernel, strides):
        """What part of its speed is of use; 1 for three columns, stride 1."""
        if not self.sliding:
            return 1
        # Columns are taken by fours, at positions all of which are computed.
        of_columns = kernel / (4 * -(-kernel // 4))
        return of_columns / strides / (3 / 4)


def loops(isa=None):
    """The loops of an instruction set, the best by default.

    Returns:
        A list of `Loop`, which is empty without a compiler.
    """
    library = _compile(isa or measuring.best_isa())
    if library is None:
        return []
    found = []
    name, dtype = ctypes.c_char_p(), ctypes.c_char_p()
    sliding, of_each = ctypes.c_bool(), ctypes.c_int()
    out = [ctypes.byref(x) for x in (name, dtype, sliding, of_each)]
    library.peak_describe.restype = ctypes.c_bool
    while library.peak_describe(len(found), *out):
        found.append(
            Loop(
                name.value.decode(),
                dtype.value.decode(),
                sliding.value,
                of_each.value,
                functools.partial(library.peak_run, len(found)),
            )
        )
    return found


class Stream:
    """Reads a buffer and writes another: what moving so many bytes takes.

    Both are as large as said, so that small ones stay in a cache.

    Attributes:
        buffers: Arrays of bytes, the one that is read and the other.
    """

    def __init__(self, library, read, written, threads):
        self._repeats = -(-STREAMED // (read + written))
        self.buffers = [_buffer(size) for size in (read, written)]
        arguments = []
        for buffer in self.buffers:
            arguments.append(ctypes.c_void_p(buffer.ctypes.data))
            arguments.append(ctypes.c_int64(buffer.size))
        self._run = functools.partial(
            library.peak_stream, *arguments, self._repeats, threads
        )

    def turn(self):
        """Seconds of moving all once, in the mean of a turn."""
        return measuring.turn(self._run) / self._repeats


def stream(read, written, isa, threads):
    """A `Stream` of so many bytes, or `None` without a compiler."""
    library = _compile(isa or measuring.best_isa())
    return library and Stream(library, read, written, threads)


def _buffer(size):
    # Written to: all pages that nobody has written are a single one.
    bytes_ = np.ones(size + ALIGNMENT, np.uint8)
    return bytes_[-bytes_.ctypes.data % ALIGNMENT :][:size]


@functools.cache
def _compile(isa):
    compiler = os.environ.get("CXX") or shutil.which("g++") or ""
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "peak.so")
        command = [compiler, "-O3", "-std=c++17", "-ffp-contract=fast"]
        command += ["-shared", "-fPIC", "-pthread"]
        command += FLAGS[isa.removesuffix("_operand")]
        try:
            subprocess.run(
                [*command, str(SOURCE), "-o", library],
                check=True,
                capture_output=True,
            )
            return ctypes.CDLL(library)
        except (OSError, subprocess.CalledProcessError):
            return None


def measure(isa, threads, size=2048, seconds=2.0, trials=15):
    """Multiply-adds a second, from registers and of a large matrix product.

    Returns:
        A dict, in G/s: `fma`, from a loop over registers that the C++ compiler
        builds on the spot, `fma_one_thread`, and `max_fma`, the same with a max
        before each (the adder's inner loop), all None without a compiler;
        `matmul`, of `tf.linalg.matmul`; and `peak`, what fractions are of:
        `fma`, or else `matmul`.
    """
    a = tf.random.normal((size, size))
    timing = measuring.interleave(
        {"matmul": lambda: tf.linalg.matmul(a, a)}, seconds, max_rounds=20
    )["matmul"]
    matmul = size**3 / timing.seconds / 1e9
    named = {loop.name: loop for loop in loops(isa)}
    fma, max_fma = (
        named[name].speed(threads, trials) if named else None
        for name in ("fma", "max+fma")
    )
    return {
        "fma": fma,
        "fma_one_thread": named["fma"].speed(1, trials) if named else None,
        "max_fma": max_fma,
        "matmul": matmul,
        "peak": fma or matmul,
        "peak_is": (
            "fused multiply-adds from registers"
            if fma
            else f"tf.linalg.matmul of {size}x{size}, a stand-in"
        ),
    }


def better(one, other):
    """Of two measurements, the one that others disturbed less."""
    return max(one, other, key=lambda roofline: roofline["peak"])


@dataclasses.dataclass(frozen=True)
class Pair:
    """A way to sum integer distances: a loop, and its speeds in G/s."""

    loop: Loop
    speed: float
    speed_one_thread: float


def integer_pairs(isa, threads, trials=15):
    """How fast each way to sum integer distances is, from registers.

    Args:
        isa: String, an instruction set, or `None` for the best.
        threads: Integer.
        trials: Integer, of which the best counts.

    Returns:
        A list of `Pair`, empty without a compiler. Where loops have the same
        instructions in another order, the fastest.
    """
    pairs = {}
    for loop in loops(isa):
        if loop.dtype == "float32":
            continue
        speed, one = (loop.speed(n, trials) for n in (threads, 1))
        if loop.name not in pairs or pairs[loop.name].speed < speed:
            pairs[loop.name] = Pair(loop, speed, one)
    return list(pairs.values())


def best_pair(pairs, dtype, kernel, strides):
    """The pair that is fastest for filters of so many columns, or `None`."""
    return max(
        (pair for pair in pairs if pair.loop.dtype == dtype),
        key=lambda pair: pair.speed * pair.loop.useful(kernel, strides),
        default=None,
    )
