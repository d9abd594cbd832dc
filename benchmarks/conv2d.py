"""Measures the adder convolution beside the stock one and all else there is.

    python benchmarks/conv2d.py
    python benchmarks/conv2d.py --shape 16,28,28,128,128   # one 3x3, no files
    python benchmarks/conv2d.py --parts pointwise          # 1x1
    python benchmarks/conv2d.py --parts integer            # uint8 and int16
    python benchmarks/conv2d.py --parts depthwise          # a filter a channel

prints tables and writes them, the figures as JSON and a picture to
`results/speed/`. Contenders take turns in one process, LiteRT with ours alone.
Leave the machine alone meanwhile: `--self-check` says what its noise is.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import contenders  # noqa: E402
import depthwise  # noqa: E402
import integers  # noqa: E402
import measuring  # noqa: E402
import report  # noqa: E402
import roofline  # noqa: E402
import scaling  # noqa: E402
import shapes  # noqa: E402
import tensorflow as tf  # noqa: E402

# Instruction sets by our names, and what limits oneDNN to the same.
ISAS = {"baseline": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}

# What is measured beside Conv2D where there is time for it: LiteRT, and two
# ways to write the same down in Python.
OTHERS = {"litert", "formulas"}

PARTS = (
    "noise",
    "main",
    "pointwise",
    "configurations",
    "scaling",
    "memory",
    "integer",
    "depthwise",
)


def main():
    args = parse()
    limit_isa(args.isa)
    threads = args.threads or measuring.cores()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    plan = Plan.quick() if args.quick else Plan(args.seconds)
    isa = os.environ.get("KERAS_ADDER_ISA")
    results = measuring.circumstances(threads, args.quick)
    report.warn_if_busy(results)

    if args.shape is not None:
        plan = plan.of(args.shape)
    if args.self_check:
        measuring.progress("self-check")
        noise = self_check(plan)
        print(noise_table(noise), end="")
        return
    if "noise" in args.parts:
        measuring.progress("noise")
        results["noise"] = self_check(plan)
    measuring.progress("peak")
    results["roofline"] = roofline.measure(isa, threads, *plan.peak)
    if "main" in args.parts:
        # XNNPACK cannot be held to an instruction set.
        others = OTHERS if not args.isa else OTHERS - {"litert"}
        results["main"] = list(rows_of(plan.main, plan, threads, others))
    if "pointwise" in args.parts:
        results["pointwise"] = list(rows_of(plan.pointwise, plan, threads, ()))
    if "configurations" in args.parts:
        results["configurations"] = [
            configuration_row(configuration, plan)
            for configuration in plan.configurations
        ]
    if "scaling" in args.parts:
        measuring.progress("threads")
        large = scaling.measure(
            plan.large, ("forward", "step"), threads, plan.seconds, plan.rounds
        )
        small = scaling.measure(
            plan.small, ("forward",), threads, plan.seconds, plan.rounds
        )
        results["scaling"] = large + small
    if "memory" in args.parts:
        measuring.progress("memory")
        results["memory"] = scaling.memory(plan.memory)
    if "integer" in args.parts:
        results["integer"] = integers.measure(
            plan, results["machine"], isa, others=not args.isa
        )
    if "depthwise" in args.parts:
        results["depthwise"] = depthwise.measure(plan, isa, threads)
        results["few_filters"] = [
            configuration_row(configuration, plan)
            for configuration in plan.few_filters
        ]
    measuring.progress("peak")
    results["roofline"] = roofline.better(
        results["roofline"], roofline.measure(isa, threads, *plan.peak)
    )
    for part in report.TITLES:
        for row in results.get(part, ()):
            peak = results["roofline"]["peak"]
            row["fraction_of_peak"] = row["speeds"]["ours"] / peak
    results["load"].append(measuring.load())

    text = report.markdown(results)
    if "integer" in results:
        text += "\n" + integers.markdown(results)
    if "depthwise" in results:
        text += "\n" + depthwise.markdown(results)
    print(text, end="")
    if args.shape is not None:
        return
    name = f"conv2d-{args.isa}" if args.isa else "conv2d"
    report.write(args.output, name, results, text)
    if results.get("main"):
        report.picture(results, args.output / f"{name}.png")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("results/speed")
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="for each row of a table (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="default: one a core")
    parser.add_argument(
        "--isa",
        choices=ISAS,
        help="hold ours and oneDNN to an instruction set; the environment "
        "variable KERAS_ADDER_ISA holds ours alone",
    )
    parser.add_argument(
        "--shape",
        type=lambda text: shapes.Shape(*map(int, text.split(","))),
        metavar="N,H,W,CI,CO",
        help="time this 3x3 convolution alone",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        help="of a --shape main, pointwise, integer and depthwise (default: "
        "all, of a --shape main)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes; figures mean nothing"
    )
    parser.add_argument(
        "--self-check",
        action="store_true",
        help="only time the stock op, and ours, beside themselves",
    )
    args = parser.parse_args()
    if args.parts is None:
        args.parts = PARTS if args.shape is None else ("main",)
    return args


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    seconds: float
    rounds: int = 1000
    main: tuple = shapes.MAIN
    pointwise: tuple = shapes.POINTWISE
    configurations: tuple = shapes.CONFIGURATIONS
    large: tuple = shapes.LARGE
    small: tuple = shapes.SMALL
    memory: tuple = (
        shapes.MAIN[0].but(batch=1),
        *shapes.MAIN,
        shapes.Shape(1, 1024, 1024, 16, 16),
    )
    integer: dict = dataclasses.field(default_factory=lambda: integers.GROUPS)
    filters: tuple = shapes.FILTERS
    depthwise: tuple = shapes.DEPTHWISE
    few_filters: tuple = shapes.FEW_FILTERS
    peak: tuple = (2048, 2.0)  # size of the matrices, seconds
    trials: int = 15  # of each loop over registers

    @classmethod
    def quick(cls):
        return cls(
            seconds=0.05,
            rounds=3,
            main=shapes.QUICK,
            pointwise=(shapes.QUICK[0].but(kernel=1),),
            configurations=shapes.QUICK_CONFIGURATIONS,
            large=shapes.QUICK[:1],
            small=shapes.SMALL[:1],
            memory=shapes.QUICK,
            integer={
                "3x3": [shapes.plain(shapes.QUICK[0])],
                "1x1 and stride 2": shapes.QUICK_CONFIGURATIONS[:1],
            },
            filters=shapes.FILTERS[:1],
            depthwise=shapes.QUICK_DEPTHWISE,
            few_filters=shapes.FEW_FILTERS[-1:],
            peak=(256, 0.05),
            trials=1,
        )

    def of(self, shape):
        """This plan of one shape, for the parts that are about shapes."""
        return dataclasses.replace(
            self,
            main=(shape,),
            pointwise=(shape.but(kernel=1),),
            integer={"3x3": [shapes.plain(shape)]},
            filters=(),
            depthwise=(
                shape.but(filters=shape.channels, groups=shape.channels),
            ),
            few_filters=(),
        )


def limit_isa(isa):
    """Starts this program anew where the environment differs from `isa`."""
    if isa is None:
        return
    wanted = {"KERAS_ADDER_ISA": isa, "ONEDNN_MAX_CPU_ISA": ISAS[isa]}
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def self_check(plan):
    """Ratios of ops to themselves, which should be 1: the measuring's error."""
    rows = []
    for shape in plan.main:
        for name, build in scaling.CONTENDERS.items():
            twice = {
                copy: build(shape, "forward").run for copy in ("one", "two")
            }
            times = measuring.interleave(twice, plan.seconds / 2, plan.rounds)
            ratio = times["two"].seconds / times["one"].seconds
            rows.append(
                {"shape": str(shape), "contender": name, "ratio": ratio}
            )
    ratios = [row["ratio"] for row in rows if row["contender"] == "stock"]
    return {
        "mean": measuring.geometric_mean(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "rows": rows,
    }


def noise_table(noise):
    rows = [
        [row["shape"], report.LABELS[row["contender"]], f"{row['ratio']:.3f}"]
        for row in noise["rows"]
    ]
    return report.table(["n,h,w,ci,co", "beside itself", "ratio"], rows)


def rows_of(some_shapes, plan, threads, others):
    """Each pass and way of calling, beside Conv2D and `others` (OTHERS)."""
    for shape in some_shapes:
        measuring.progress(f"{shape.kernel}x{shape.kernel}: {shape}")
        for what in contenders.PASSES:
            for call in report.CALLS:
                if (what, call) != ("backward", "function"):
                    yield row_of(shape, what, call, plan, threads, others)


def row_of(shape, what, call, plan, threads, others):
    traced = call == "function"
    ours = contenders.ours(shape, what, traced)
    works = {"ours": ours, "stock": contenders.stock(shape, what, traced)}
    times, speeds = contenders.measure(works, plan.seconds, plan.rounds)
    over_litert = None
    if what == "forward" and not traced and "litert" in others:
        # Apart: its threads go on spinning for a while after each call, on the
        # cores of whoever comes next.
        pair = {"ours": ours, "litert": contenders.litert(shape, threads)}
        beside_times, beside = contenders.measure(
            pair, plan.seconds, plan.rounds
        )
        if "litert" in beside:
            over_litert = beside["ours"] / beside["litert"]
            times["litert"] = beside_times["litert"]
            speeds["litert"] = beside["litert"]
    if what != "backward" and not traced and "formulas" in others:
        # Hundreds of times slower, so apart, and few rounds of them.
        slow = {
            "broadcast": contenders.broadcast(shape, what),
            "im2col": contenders.im2col(shape, what, threads),
        }
        slow_times, slow_speeds = contenders.measure(
            slow, 0, 2, 2, measuring.once
        )
        times |= slow_times
        speeds |= slow_speeds
    row = {
        "shape": str(shape),
        "pass": what,
        "call": call,
        "ratio": times["ours"].seconds / times["stock"].seconds,
        "over_litert": over_litert,
        "speeds": speeds,
        "times": {n: dataclasses.asdict(t) for n, t in times.items()},
    }
    return row


def configuration_row(configuration, plan):
    measuring.progress(configuration.name)
    passes = {}
    for what in ("forward", "step"):
        works = {
            "ours": contenders.ours(configuration.shape, what),
            "like": contenders.ours(configuration.like, what),
        }
        stock = contenders.stock(configuration.shape, what)
        try:
            stock.run()
            works["stock"] = stock
        except (tf.errors.OpError, ValueError):
            pass  # it does not do all that ours does
        times, speeds = contenders.measure(works, plan.seconds / 2, plan.rounds)
        over_stock = None
        if "stock" in times:
            over_stock = times["ours"].seconds / times["stock"].seconds
        passes[what] = {
            "speed": speeds["ours"],
            "like_speed": speeds["like"],
            "ratio": speeds["like"] / speeds["ours"],
            "over_stock": over_stock,
        }
    return {
        "name": configuration.name,
        "shape": str(configuration.shape),
        "like": str(configuration.like),
        "limit": configuration.limit,
        "passes": passes,
    }


if __name__ == "__main__":
    main()
