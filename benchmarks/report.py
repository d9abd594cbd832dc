"""Results as Markdown, as JSON and as a picture."""

import json
import sys

import measuring

LABELS = {
    "ours": "ours",
    "stock": "Conv2D",
    "litert": "LiteRT",
    "broadcast": "broadcast",
    "im2col": "im2col, PyTorch",
}

PASSES = {
    "forward": "forward",
    "backward": "both gradients",
    "step": "forward and both gradients",
}

CALLS = {"eager": "eager", "function": "in one tf.function"}

# What the ratio to the stock convolution should be: in the geometric mean and,
# where there is a second figure, for the worst shape.
GOALS = {
    "main": {"forward": (1.0, 1.15), "step": (1.05, 1.25)},
    "pointwise": {"forward": (1.05,), "step": (1.05,)},
}
TITLES = {
    "main": "3x3, SAME, NHWC, float32",
    "pointwise": "1x1, NHWC, float32",
}
LITERT_GOAL = 0.95
SPEEDUP_GOAL = 1.85
BUSY = 0.5


def table(header, rows):
    """A Markdown table of strings, the first column of which is text."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value):
    return "-" if value is None else f"{value:.0%}"


def rows_of(rows, what, call="eager"):
    return [row for row in rows if row["pass"] == what and row["call"] == call]


def summary(all_rows):
    """Ratios over all shapes: dicts, one a pass and way of calling."""
    found = []
    for what in PASSES:
        for call in CALLS:
            rows = rows_of(all_rows, what, call)
            if not rows:
                continue
            ratios = [row["ratio"] for row in rows]
            litert = [r["over_litert"] for r in rows if r.get("over_litert")]
            found.append(
                {
                    "pass": what,
                    "call": call,
                    "mean": measuring.geometric_mean(ratios),
                    "worst": max(ratios),
                    "over_litert": measuring.geometric_mean(litert),
                    "peak": measuring.geometric_mean(
                        [row["fraction_of_peak"] for row in rows]
                    ),
                }
            )
    return found


def summary_table(results, part="main"):
    rows = []
    for line in summary(results[part]):
        goal = GOALS[part].get(line["pass"])
        rows.append(
            [
                f"{PASSES[line['pass']]}, {CALLS[line['call']]}",
                number(line["mean"]),
                number(line["worst"]),
                ", ".join(map(number, goal)) if goal else "-",
                number(line["over_litert"]),
                f"{line['peak']:.0%}",
            ]
        )
    header = ["time over Conv2D's", "geometric mean", "worst shape"]
    return table(
        header + ["goal", "speed over LiteRT's", "of the fma peak"], rows
    )


def shapes_table(results, what, call="eager", part="main"):
    rows = rows_of(results[part], what, call)
    names = [n for n in LABELS if any(n in r["speeds"] for r in rows)]
    lines = [
        [
            row["shape"],
            *(number(row["speeds"].get(n), 1) for n in names),
            number(row["ratio"]),
            f"{row['fraction_of_peak']:.0%}",
        ]
        for row in rows
    ]
    header = ["n,h,w,ci,co", *(LABELS[n] for n in names)]
    return table(header + ["time over Conv2D's", "of the fma peak"], lines)


def configurations_table(rows, like="3x3"):
    lines = []
    for row in rows:
        cells = [row["name"], row["shape"]]
        for what in ("forward", "step"):
            found = row["passes"].get(what)
            cells += (
                [
                    number(found["speed"], 1),
                    number(found["ratio"]),
                    number(found["over_stock"]),
                ]
                if found
                else ["-"] * 3
            )
        lines.append(cells + [number(row["limit"], 1)])
    header = ["configuration", "n,h,w,ci,co"]
    for what in ("forward", "step"):
        header += [f"{what}, G/s", f"over {like}", "over Conv2D"]
    return table([*header, "limit"], lines)


def scaling_table(results):
    lines = [
        [
            f"{row['shape']}, {row['kernel']}x{row['kernel']}",
            PASSES[row["pass"]],
            LABELS[row["contender"]],
            number(row["seconds_one_thread"] * 1e3, 3),
            number(row["seconds"] * 1e3, 3),
            number(row["speedup"]),
        ]
        for row in results["scaling"]
    ]
    threads = results["machine"]["threads"]
    header = ["n,h,w,ci,co", "pass", "", "1 thread, ms"]
    return table(header + [f"{threads} threads, ms", "speed-up"], lines)


def memory_table(results):
    def kibibytes(size):
        return f"{size / 2**10:,.0f}"

    lines = [
        [
            row["shape"],
            *(kibibytes(row[k]) for k in ("forward", "backward", "patches")),
        ]
        for row in results["memory"]
    ]
    header = ["n,h,w,ci,co", "forward, KiB", "both gradients, KiB"]
    return table(header + ["all patches would take, KiB"], lines)


def machine_lines(results):
    machine = results["machine"]
    peak = results.get("roofline")
    lines = [
        f"{machine['processor']}, {machine['threads']} threads on "
        f"{machine['cores']} cores; instruction set: {machine['isa']}, "
        f"oneDNN's: {machine['onednn_max_cpu_isa'] or 'any'}",
        ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v),
        "load average {} at the start, {} at the end".format(*results["load"]),
    ]
    if peak:
        extra = ""
        if peak["max_fma"]:
            extra = (
                f"; one thread {peak['fma_one_thread']:.0f} G/s; max + fma: "
                f"{peak['max_fma']:.0f} G pairs/s"
            )
        lines.append(
            f"peak: {peak['peak']:.0f} G/s ({peak['peak_is']}); "
            f"matmul: {peak['matmul']:.0f} G/s{extra}"
        )
        lines.append(
            "speeds count every tap of every pixel, as is usual: most of those "
            "in the padding take no time, so small images may pass the peak"
        )
    if results.get("noise"):
        noise = results["noise"]
        lines.append(
            "Conv2D beside itself, measured the same way: "
            f"{noise['mean']:.2f} in the geometric mean, "
            f"{noise['least']:.2f} to {noise['most']:.2f}"
        )
    return lines


def markdown(results):
    """The whole report."""
    parts = ["# Speed\n"]
    parts.append("".join(f"- {line}\n" for line in machine_lines(results)))
    if busy(results):
        parts.append(
            "**The machine was busy with other work: trust no figure.**\n"
        )
    for part, title in TITLES.items():
        if results.get(part):
            parts += [f"## {title}\n", summary_table(results, part)]
            parts += shapes_tables(results, part)
    if results.get("configurations"):
        parts.append("## Every other configuration\n")
        parts.append(
            "Time per difference over that of the 3x3 of like size (see "
            "`benchmarks/shapes.py`), and time over the stock op's.\n"
        )
        parts.append(configurations_table(results["configurations"]))
    if results.get("scaling"):
        parts.append("## Threads, and the cost of a small call\n")
        parts.append(scaling_table(results))
    if results.get("memory"):
        parts.append("## Scratch memory of the op, all threads together\n")
        parts.append(memory_table(results))
    return "\n".join(parts)


def shapes_tables(results, part):
    """The tables of a part's passes and ways of calling, with titles."""
    size = TITLES[part].split(",")[0]
    for what in PASSES:
        for call in CALLS:
            if rows_of(results[part], what, call):
                title = f"{PASSES[what]}, {CALLS[call]}, G differences/s"
                yield f"### {size}: {title}\n"
                yield shapes_table(results, what, call, part)


def busy(results):
    """Whether others were at work before the measuring began."""
    return results["load"][0] > BUSY


def warn_if_busy(results):
    if busy(results):
        print("Warning: the machine is busy.", file=sys.stderr)


def write(folder, name, results, text):
    """The figures as JSON, and the report beside them."""
    write_json(folder / f"{name}.json", results)
    (folder / f"{name}.md").write_text(text, "utf-8")


def write_json(path, results):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def picture(results, path):
    """Bars of all contenders, by shape. Does nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    passes = [w for w in ("forward", "step") if rows_of(results["main"], w)]
    figure, axes = plt.subplots(
        1, len(passes), figsize=(6 * len(passes), 4), squeeze=False
    )
    for axis, what in zip(axes[0], passes):
        rows = rows_of(results["main"], what)
        names = [n for n in LABELS if any(n in r["speeds"] for r in rows)]
        for i, name in enumerate(names):
            axis.bar(
                [j + (i + 0.5) / len(names) * 0.8 for j in range(len(rows))],
                [row["speeds"].get(name) or 0 for row in rows],
                0.8 / len(names),
                label=LABELS[name],
            )
        axis.set_xticks(
            [j + 0.4 for j in range(len(rows))],
            [row["shape"] for row in rows],
            rotation=30,
            ha="right",
            fontsize=7,
        )
        axis.set_title(PASSES[what])
        axis.set_ylabel("G differences/s")
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # room for the legend
        axis.legend(fontsize=7, ncols=3, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
