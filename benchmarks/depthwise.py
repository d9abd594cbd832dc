"""Depthwise adder convolutions beside the stock one and the memory's speed.

`conv2d.py --parts depthwise` runs this.

A few differences an output are so little work that such a convolution is as
fast as its tensors can be moved. What must be moved, each tensor once, a loop
moves between buffers of the same sizes, in turns with the ops: those of small
shapes stay in a cache, for the loop as for the ops.
"""

import dataclasses
import functools
import itertools
import math

import contenders
import measuring
import report
import roofline

# With integers beside the stock convolution's floats.
PASSES = {
    "forward": report.PASSES["forward"],
    "step": report.PASSES["step"],
    "integer": "forward, uint8 to uint8",
}

# What the time over the stock convolution's should be at most.
GOALS = {"forward": 1.0, "step": 1.1, "integer": 0.5}

# The pass of the stock convolution, and the streams that move as much as ours.
STOCK = {"forward": "forward", "step": "step", "integer": "forward"}
STREAMS = {
    "forward": ("forward",),
    "step": ("forward", "backward"),
    "integer": ("integer",),
}


def measure(plan, isa, threads):
    """Rows, one a shape, way of calling and pass, and their means.

    Args:
        plan: `Plan` of `conv2d.py`.
        isa: String, the instruction set, or `None` for the best.
        threads: Integer.
    """
    rows = []
    for shape in plan.depthwise:
        measuring.progress(f"depthwise, {kernel(shape)}: {shape}")
        for call in report.CALLS:
            rows += _rows(shape, call, plan, isa, threads)
    return {"rows": rows, "summary": summary(rows)}


def kernel(shape):
    return f"{shape.kernel}x{shape.kernel}, stride {shape.strides}"


def traffic(shape):
    """What must be read and written, in bytes, by the names of `STREAMS`."""
    inputs, filters, outputs = map(
        math.prod, (shape.input_shape, shape.filter_shape, shape.output_shape)
    )
    return {
        "forward": (4 * (inputs + filters), 4 * outputs),
        # The gradients take the output's, and are of the size of the rest.
        "backward": (4 * (inputs + filters + outputs), 4 * (inputs + filters)),
        "integer": (inputs + filters, outputs),
    }


def _rows(shape, call, plan, isa, threads):
    traced = call == "function"
    works = {
        ("ours", "forward"): contenders.ours(shape, "forward", traced),
        ("ours", "step"): contenders.ours(shape, "step", traced),
        ("ours", "integer"): contenders.integer(shape, "uint8", traced),
    } | {
        ("stock", what): contenders.stock_depthwise(shape, what, traced)
        for what in ("forward", "step")
    }
    turns = {
        name: functools.partial(measuring.turn, work.run)
        for name, work in works.items()
    }
    bytes_ = traffic(shape)
    for name, (read, written) in bytes_.items():
        stream = roofline.stream(read, written, isa, threads)
        if stream is not None:
            turns["stream", name] = stream.turn
    times = measuring.alternate(turns, plan.seconds, plan.rounds)
    for what in PASSES:
        yield _row(shape, call, what, times, bytes_)


def _row(shape, call, what, times, bytes_):
    pair = {
        "ours": times["ours", what],
        "stock": times["stock", STOCK[what]],
    }
    outputs = math.prod(shape.output_shape)
    moved = sum(sum(bytes_[stream]) for stream in STREAMS[what])
    bandwidth = share = None
    if ("stream", "forward") in times:
        streaming = sum(times["stream", s].seconds for s in STREAMS[what])
        bandwidth = moved / streaming / 1e9
        share = streaming / pair["ours"].seconds
    return {
        "shape": str(shape),
        "batch": shape.batch,
        "kernel": kernel(shape),
        "call": call,
        "pass": what,
        "ratio": pair["ours"].seconds / pair["stock"].seconds,
        # In G outputs/s, and in GB/s.
        "speeds": {n: outputs / t.seconds / 1e9 for n, t in pair.items()},
        "moved": moved / pair["ours"].seconds / 1e9,
        "bandwidth": bandwidth,
        "share": share,
        "times": {n: dataclasses.asdict(t) for n, t in pair.items()},
    }


def summary(rows):
    """Means over shapes: dicts, one a pass, batch size and way of calling."""
    lines = []
    batches = sorted({row["batch"] for row in rows}, reverse=True)
    for what, batch, call in itertools.product(PASSES, batches, report.CALLS):
        found = [
            row
            for row in rows
            if (row["pass"], row["batch"], row["call"]) == (what, batch, call)
        ]
        ratios = [row["ratio"] for row in found]
        lines.append(
            {
                "pass": what,
                "batch": batch,
                "call": call,
                "mean": measuring.geometric_mean(ratios),
                "worst": max(ratios),
                "goal": GOALS[what],
                "reached": sum(ratio <= GOALS[what] for ratio in ratios),
                "shapes": len(ratios),
                "share": measuring.geometric_mean(
                    [row["share"] for row in found if row["share"]]
                ),
            }
        )
    return lines


def markdown(results):
    """The section of the report."""
    found = results["depthwise"]
    parts = [
        "## Depthwise: one filter a channel\n",
        "The stock convolution is `tf.nn.depthwise_conv2d` in float32, also "
        "beside integers, which have multipliers, offsets, a ReLU and rounding "
        "behind the sums. What is moved counts each tensor once a pass: "
        "inputs, filters and outputs, and the gradients of all three. The "
        "bandwidth is that of a loop that reads and writes as much, in buffers "
        "of the same sizes.\n",
        _summary_table(found["summary"]),
    ]
    for what, call in itertools.product(PASSES, report.CALLS):
        parts.append(f"### Depthwise: {PASSES[what]}, {report.CALLS[call]}\n")
        parts.append(_table(found["rows"], what, call))
    if results["few_filters"]:
        parts.append("### Groups of few filters\n")
        parts.append(
            "Time per difference over that of the depthwise layer of like "
            "size (see `benchmarks/shapes.py`).\n"
        )
        parts.append(
            report.configurations_table(results["few_filters"], "depthwise")
        )
    return "\n".join(parts)


def _summary_table(lines):
    header = ["time over depthwise_conv2d's", "geometric mean", "worst shape"]
    return report.table(
        header + ["goal", "shapes that reach it", "of the bandwidth"],
        [
            [
                f"{PASSES[line['pass']]}, batch {line['batch']}, "
                f"{report.CALLS[line['call']]}",
                *(report.number(line[k]) for k in ("mean", "worst", "goal")),
                f"{line['reached']} of {line['shapes']}",
                report.percent(line["share"]),
            ]
            for line in lines
        ],
    )


def _table(rows, what, call):
    header = ["n,h,w,ci,co", "", "ours, G outputs/s", "depthwise_conv2d"]
    header += ["time over its", "moved, GB/s", "bandwidth, GB/s", "share"]
    return report.table(
        header,
        [
            [
                row["shape"],
                row["kernel"],
                *(
                    report.number(row["speeds"][n], 3)
                    for n in ("ours", "stock")
                ),
                report.number(row["ratio"]),
                report.number(row["moved"], 1),
                report.number(row["bandwidth"], 1),
                report.percent(row["share"]),
            ]
            for row in rows
            if (row["pass"], row["call"]) == (what, call)
        ],
    )
