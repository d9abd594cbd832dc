"""The peak that speeds are compared with."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import measuring
import tensorflow as tf

SOURCE = pathlib.Path(__file__).with_name("peak.cc")

FLAGS = {
    "baseline": ["-msse2"],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
    "neon": [],
}


def measure(isa, threads, size=2048, seconds=2.0):
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
    fma, one, max_fma = _registers(isa or measuring.best_isa(), threads)
    return {
        "fma": fma,
        "fma_one_thread": one,
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


def integer_pairs(isa, threads, trials=15):
    """How fast each way to sum integer distances is, from registers.

    Args:
        isa: String, an instruction set, or `None` for the best.
        threads: Integer.
        trials: Integer, of which the best counts.

    Returns:
        A list of dicts: `name`, the instructions; `type` of the integers;
        `sliding`, whether one step sums at four neighbouring positions;
        `speed` and `speed_one_thread`, in G differences/s, of a sliding one
        those for filters of three columns. Empty without a compiler.
    """
    pairs = []
    printed = _run(isa or measuring.best_isa(), threads, "integers", trials)
    for line in printed.splitlines():
        name, dtype, sliding, differences, speed, one = line.split()
        pairs.append(
            {
                "name": name,
                "type": dtype,
                "sliding": sliding == "1",
                "differences": int(differences),
                "speed": float(speed),
                "speed_one_thread": float(one),
            }
        )
    return pairs


def better_pairs(ones, others):
    """Of two measurements of all pairs, those that were disturbed less."""
    return [
        max(pair, key=lambda measured: measured["speed"])
        for pair in zip(ones, others)
    ]


def integer_limit(pairs, dtype, kernel, strides):
    """What the best pair would make of filters of so many columns.

    Returns:
        G differences/s and the pair's name, or two times `None`.
    """
    limits = [
        (pair["speed"] * _useful(pair, kernel, strides), pair["name"])
        for pair in pairs
        if pair["type"] == dtype
    ]
    return max(limits, default=(None, None))


def _useful(pair, kernel, strides):
    """What part of its speed is of use; 1 for three columns, stride 1."""
    if not pair["sliding"]:
        return 1
    # Columns are taken by fours, at positions all of which are computed.
    of_columns = kernel / (4 * -(-kernel // 4))
    return of_columns / strides / (3 / 4)


def _registers(isa, threads):
    printed = _run(isa, threads)
    if not printed:
        return None, None, None
    return tuple(float(word) for word in printed.split())


def _run(isa, *arguments):
    """What `peak.cc` prints, or nothing without a compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or ""
    if not compiler:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "peak")
        command = [compiler, "-O3", "-std=c++17", "-ffp-contract=fast"]
        command += [
            "-pthread",
            *FLAGS[isa.removesuffix("_operand")],
            str(SOURCE),
            "-o",
            program,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True)
            done = subprocess.run(
                [program, *map(str, arguments)],
                check=True,
                capture_output=True,
                text=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return ""
    return done.stdout
