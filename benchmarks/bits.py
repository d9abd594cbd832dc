"""Whether a change of the CPU kernels has moved a bit.

    python benchmarks/bits.py --write before.json    # with the old library
    python benchmarks/bits.py --check before.json    # with the new one

Hashes the output and both gradients of some hundred convolutions, by each
instruction set that this processor runs, with one thread and with two. Files of
different processors are not alike: instruction sets that both have should be.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONVOLUTIONS = 300
THREADS = (1, 2)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=pathlib.Path, metavar="FILE")
    what.add_argument("--check", type=pathlib.Path, metavar="FILE")
    # For the processes that this one starts: what a library is told to use
    # when it is loaded cannot be changed afterwards.
    what.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(hashes(args.one)))
        return
    found = all_hashes()
    if args.write is not None:
        args.write.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"{args.write}: {sum(map(len, found.values()))} hashes")
        return
    sys.exit(compare(json.loads(args.check.read_text("utf-8")), found))


def all_hashes():
    """Hashes of each instruction set, which do not depend on the threads."""
    from keras_adder import sysconfig

    found = {}
    for isa in sysconfig.instruction_sets()["supported"]:
        one, two = (of_process(isa, threads) for threads in THREADS)
        if one != two:
            sys.exit(f"{isa}: one thread and two give different bits")
        found[isa] = one
    return found


def of_process(isa, threads):
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(threads)],
        env={
            **os.environ,
            "KERAS_ADDER_ISA": isa,
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def hashes(threads):
    """A hash of each convolution, by its description."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "cuda")]
    import cases
    import gpu_interface
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    convolutions = itertools.chain(
        (
            dataclasses.replace(convolution, dtype=dtype)
            for convolution in cases.ATTRIBUTES.values()
            for dtype in gpu_interface.DTYPES
        ),
        cases.TILES,
        cases.EXTREMES.values(),
        cases.remainders(),
        cases.random_geometries(CONVOLUTIONS),
    )
    # Attributes beyond what the op takes are the GPU's alone.
    return {str(c): hash_of(cases.Data(c)) for c in convolutions if takes(c)}


def takes(convolution):
    return max(convolution.strides + convolution.dilations) < 2**20


def hash_of(data):
    import tensorflow_op

    digest = hashlib.sha256()
    for result in tensorflow_op.run(data.convolution, data):
        digest.update(result.numpy().tobytes())
    return digest.hexdigest()[:16]


def compare(before, after):
    """Prints what differs; returns how many hashes do."""
    moved = 0
    for isa in before.keys() & after.keys():
        for name, value in before[isa].items():
            if after[isa].get(name) != value:
                moved += 1
                print(f"moved, {isa}: {name}")
    sets = sorted(before.keys() & after.keys())
    print(f"{moved} moved, of {len(next(iter(after.values())))} in {sets}")
    return moved


if __name__ == "__main__":
    main()
