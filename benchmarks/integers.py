"""The adder convolution of integers beside that of floats and what else is.

`conv2d.py --parts integer` runs this.
"""

import dataclasses
import itertools

import contenders
import measuring
import report
import roofline
import shapes

DTYPES = ("uint8", "int16")

GROUPS = {
    "3x3": shapes.INTEGER_MAIN,
    "1x1 and stride 2": shapes.INTEGER_OTHERS,
}

# More sets of filters than the op keeps in packed form, which is eight.
SETS = 10

LABELS = {
    **{dtype: dtype for dtype in DTYPES},
    "float": "float op",
    "stock": "Conv2D",
    "litert": "LiteRT int8",
}

# Speeds over others', at least, in the geometric mean, and shares of the
# limit, in the mean and for the worst shape: by the maker of the processor,
# the group of shapes and the type.
SHARE_GOAL = (0.85, 0.7)
LITERT_GOAL = 0.9
GOALS = {
    "Intel": {
        ("3x3", "uint8"): {"over_float": 4.0, "over_stock": 3.0},
        ("3x3", "int16"): {"over_float": 1.7},
        ("1x1 and stride 2", "uint8"): {"over_float": 2.5},
    },
    "AMD": {
        ("3x3", "uint8"): {"over_float": 2.5, "over_stock": 2.5},
        ("1x1 and stride 2", "uint8"): {"over_float": 2.5},
    },
}


def measure(plan, machine, isa, others):
    """Everything that is measured in integers.

    Args:
        plan: `Plan` of `conv2d.py`.
        machine: Dict, what `measuring.machine` says.
        isa: String, the instruction set, or `None` for the best.
        others: Boolean, whether LiteRT is measured.
    """
    threads = machine["threads"]
    measuring.progress("pairs of integer instructions")
    pairs = roofline.integer_pairs(isa, threads, plan.trials)
    rows = []
    for group, configurations in plan.integer.items():
        for configuration in configurations:
            measuring.progress(f"integers, {group}: {configuration.name}")
            for call in report.CALLS:
                rows += _rows(
                    group, configuration, call, plan, pairs, threads, others
                )
    return {
        "pairs": [
            {
                "name": pair.loop.name,
                "type": pair.loop.dtype,
                "sliding": pair.loop.sliding,
                "speed": pair.speed,
                "speed_one_thread": pair.speed_one_thread,
            }
            for pair in pairs
        ],
        "rows": rows,
        "filters": _filter_rows(plan),
        "summary": _summary(rows, machine["processor"]),
    }


def _rows(group, configuration, call, plan, pairs, threads, others):
    """A dict a type, of one shape and way of calling."""
    shape, traced = configuration.shape, call == "function"
    works = {t: contenders.integer(shape, t, traced) for t in DTYPES}
    works["float"] = contenders.ours(shape, "forward", traced)
    works["stock"] = contenders.stock(shape, "forward", traced)
    best = {
        t: roofline.best_pair(pairs, t, shape.kernel, shape.strides)
        for t in DTYPES
    }
    for dtype, pair in best.items():
        works[f"{dtype} limit"] = pair and contenders.limit(
            pair.loop, shape, threads
        )
    times, speeds = contenders.measure(works, plan.seconds, plan.rounds)
    over_litert = None
    if others and not traced:
        # Apart, as in `conv2d.py`: its threads go on spinning.
        pair = {
            "uint8": works["uint8"],
            "litert": contenders.litert_int8(shape, threads),
        }
        beside_times, beside = contenders.measure(
            pair, plan.seconds, plan.rounds
        )
        if "litert" in beside:
            over_litert = beside["uint8"] / beside["litert"]
            times["litert"] = beside_times["litert"]
            speeds["litert"] = beside["litert"]
    for dtype in DTYPES:
        names = [dtype, "float", "stock"]
        limit = speeds.get(f"{dtype} limit")
        if dtype == "uint8" and over_litert:
            names.append("litert")
        yield {
            "group": group,
            "name": configuration.name,
            "shape": str(shape),
            "kernel": shape.kernel,
            "strides": shape.strides,
            "type": dtype,
            "call": call,
            "limit": limit,
            "limit_is": limit and best[dtype].loop.name,
            "share": limit and speeds[dtype] / limit,
            "over_float": speeds[dtype] / speeds["float"],
            "over_stock": speeds[dtype] / speeds["stock"],
            "over_litert": over_litert if dtype == "uint8" else None,
            "speeds": {name: speeds[name] for name in names},
            "times": {name: dataclasses.asdict(times[name]) for name in names},
        }


def _filter_rows(plan):
    """The same filters at every call beside others each time.

    With the same ones the op compares them with those that it has packed, with
    others it packs them: the second takes longer if comparing costs less.
    """
    found = []
    for shape, dtype in itertools.product(plan.filters, DTYPES):
        measuring.progress(f"filters that change, {shape}, {dtype}")
        works = {
            "same": contenders.integer(shape, dtype),
            "changing": contenders.integer_changing(shape, dtype, SETS),
        }
        times, _ = contenders.measure(works, plan.seconds, plan.rounds)
        found.append(
            {
                "shape": str(shape),
                "kernel": shape.kernel,
                "type": dtype,
                "times": {n: dataclasses.asdict(t) for n, t in times.items()},
                "ratio": times["changing"].seconds / times["same"].seconds,
            }
        )
    return found


def _summary(found, processor):
    """Means over a group's shapes: dicts, one a type and way of calling."""
    goals = measuring.of_maker(GOALS, processor) or {}
    lines = []
    for group, dtype, call in itertools.product(GROUPS, DTYPES, report.CALLS):
        rows = [
            row
            for row in found
            if (row["group"], row["type"], row["call"]) == (group, dtype, call)
        ]
        if not rows:
            continue
        line = {"group": group, "type": dtype, "call": call}
        for what in ("share", "over_float", "over_stock", "over_litert"):
            values = [row[what] for row in rows if row[what]]
            line[what] = measuring.geometric_mean(values)
            line[f"worst_{what}"] = min(values, default=None)
        line["goals"] = goals.get((group, dtype), {})
        lines.append(line)
    return lines


def markdown(results):
    """The section of the report."""
    found = results["integer"]
    parts = [
        "## Integers: uint8 to uint8 and int16 to int16\n",
        "With multipliers, offsets, a ReLU and rounding to the output's type; "
        "filters are constants. The float op and Conv2D do nothing behind the "
        "sums, LiteRT's int8 convolution has a ReLU.\n",
    ]
    if found["pairs"]:
        parts.append(_pairs_table(found["pairs"], results))
        parts.append(
            "Of these the best for a shape and type is the limit below, where "
            "it takes turns with the ops: sums at four sliding positions are "
            "of use for three columns of filters in four, and for half of the "
            "positions at stride 2. Taps in the padding count as all others.\n"
        )
    parts.append(_summary_table(found["summary"]))
    parts.append(
        "Geometric means, the worst shape after the comma. Goals: share of "
        f"the limit {SHARE_GOAL[0]:.2f}, {SHARE_GOAL[1]:.2f} (uint8, 3x3), "
        f"over LiteRT's {LITERT_GOAL:.1f} where it has no AMX; those over the "
        "others are for this processor's maker.\n"
    )
    for call, dtype in itertools.product(report.CALLS, DTYPES):
        parts.append(f"### {dtype}, {report.CALLS[call]}, G differences/s\n")
        parts.append(_table(found["rows"], dtype, call))
    if found["filters"]:
        parts.append("### Filters that stay the same, and that change\n")
        parts.append(_filters_table(found["filters"]))
        parts.append(
            "The op compares the filters with those that it packed last, and "
            "packs them where they are others: if packing cost less than "
            "comparing, the ratio would be below 1.\n"
        )
    return "\n".join(parts)


def _pairs_table(pairs, results):
    threads = results["machine"]["threads"]
    header = ["instructions", "type", f"{threads} threads, G differences/s"]
    return report.table(
        header + ["one thread"],
        [
            [
                pair["name"],
                pair["type"] + (", 3 columns" if pair["sliding"] else ""),
                report.number(pair["speed"], 1),
                report.number(pair["speed_one_thread"], 1),
            ]
            for pair in pairs
        ],
    )


def _summary_table(lines):
    def both(line, what):
        mean, worst = line[what], line[f"worst_{what}"]
        if mean is None:
            return "-"
        return f"{mean:.2f}, {worst:.2f}"

    rows = []
    for line in lines:
        goals = line["goals"]
        call = report.CALLS[line["call"]]
        rows.append(
            [
                f"{line['group']}, {line['type']}, {call}",
                both(line, "share"),
                both(line, "over_float"),
                report.number(goals.get("over_float"), 1),
                both(line, "over_stock"),
                report.number(goals.get("over_stock"), 1),
                both(line, "over_litert"),
            ]
        )
    header = ["speed over", "the limit", "the float op's", "goal"]
    return report.table(header + ["Conv2D's", "goal", "LiteRT int8's"], rows)


def _table(found, dtype, call):
    rows = [r for r in found if (r["type"], r["call"]) == (dtype, call)]
    names = [n for n in LABELS if any(n in row["speeds"] for row in rows)]
    over = {"over_float": "over float", "over_stock": "over Conv2D"}
    if "litert" in names:
        over["over_litert"] = "over LiteRT"
    header = ["", "n,h,w,ci,co", *(LABELS[name] for name in names), "limit"]
    lines = [
        [
            row["name"],
            row["shape"],
            *(report.number(row["speeds"].get(n), 1) for n in names),
            report.number(row["limit"], 1),
            row["limit_is"] or "-",
            report.number(row["share"]),
            *(report.number(row[what]) for what in over),
        ]
        for row in rows
    ]
    return report.table(header + ["of", "share", *over.values()], lines)


def _filters_table(found):
    header = ["n,h,w,ci,co", "type", "same filters, ms", "changing, ms"]
    return report.table(
        header + ["ratio"],
        [
            [
                f"{row['shape']}, {row['kernel']}x{row['kernel']}",
                row["type"],
                *(
                    report.number(row["times"][name]["seconds"] * 1e3, 3)
                    for name in ("same", "changing")
                ),
                report.number(row["ratio"]),
            ]
            for row in found
        ],
    )
