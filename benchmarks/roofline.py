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


def _registers(isa, threads):
    compiler = os.environ.get("CXX") or shutil.which("g++") or ""
    if not compiler:
        return None, None, None
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
                [program, str(threads)],
                check=True,
                capture_output=True,
                text=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None, None, None
    return tuple(float(word) for word in done.stdout.split())
