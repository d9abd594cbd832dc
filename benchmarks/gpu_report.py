"""What the benchmarks of the CUDA kernels write: JSON and a page."""

import json
import os

# What nvcc makes of the kernels, in the folder for it.
LIBRARY = "libkeras_adder_cuda.so"

CONTENDERS = ("ours", "cuDNN", "cuDNN, TF32", "im2col, PyTorch")


class Results:
    """What a step has found, in a file that is never half written.

    Attributes:
        kind: String, what was measured.
        found: A dict that JSON can hold.
    """

    def __init__(self, folder, kind):
        self.kind, self.found = kind, {}
        self._path = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / f"gpu-{kind}.json"

    def save(self):
        if self._path is not None:
            write_json(self._path, self.found)

    def finish(self):
        """Writes the page of these results beside them; returns it."""
        text = page({self.kind: self.found})
        if self._path is not None:
            self._path.with_suffix(".md").write_text(text, "utf-8")
        return text


def write_json(path, value):
    temporary = path.with_suffix(".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
    os.replace(temporary, path)


def page(report):
    """The page of a dict of what steps found, and of their outcomes."""
    tables = [
        found
        for found in report.values()
        if isinstance(found, dict) and "machine" in found
    ]
    rows = [row for found in tables for row in found.get("rows", ())]
    lines = []
    if tables:
        machine = tables[0]["machine"]
        lines += [f"- {name}: {value}" for name, value in machine.items()]
        lines.append("")
    if "command" in report:
        lines += [f"`{report['command']}`", ""]
    if "steps" in report:
        lines += _steps(report)
    if rows:
        lines += [*_speed_table(rows), *_memory_table(rows)]
    for found in tables:
        if found.get("choices"):
            lines += _choices_table(found["choices"])
    return "\n".join(lines) + "\n"


def _steps(report):
    yield "| step | outcome | seconds |"
    yield "| --- | --- | ---: |"
    for step in report["steps"]:
        yield f"| {step['step']} | {step['outcome']} | {step['seconds']:.0f} |"
    yield ""
    for name, found in report.items():
        if isinstance(found, dict):
            for wrong in found.get("wrong", ()):
                yield f"- wrong, {name}: {wrong}"
    yield ""


def _speed_table(rows):
    head = ["n,h,w,ci,co", "pass", "dtype", "kernel", *CONTENDERS]
    head += ["clock, MHz", "of roofline"]
    yield (
        "T differences/s (cuDNN: multiply-adds). The roofline is that of the "
        "pass at the clock beside it:"
    )
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * 4}{' ---: |' * (len(CONTENDERS) + 2)}"
    for row in rows:
        speeds = [
            f"{row['speeds'][name]:.3g}" if name in row["speeds"] else "-"
            for name in CONTENDERS
        ]
        on_gpu = "clock_mhz" in row
        cells = [
            *(row[name] for name in ("shape", "pass", "dtype", "kernel")),
            *speeds,
            _clock(row) if on_gpu else "-",
            f"{row['of_roofline']:.0%}" if on_gpu else "-",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    if any(row.get("clock_assumed") for row in rows):
        yield (
            "Assumed: `nvidia-smi` gave no clock, so this is the highest that "
            "the driver names, and the share of the roofline a lower bound."
        )
        yield ""
    for row in rows:
        for name, error in row.get("errors", {}).items():
            yield f"- {name} failed, {row['shape']} {row['pass']}: {error}"
            yield ""


def _clock(row):
    assumed = " (assumed)" if row["clock_assumed"] else ""
    return f"{row['clock_mhz']:.0f}{assumed}"


def _memory_table(rows):
    head = ["n,h,w,ci,co", "pass", "dtype", *CONTENDERS]
    yield "KiB an image beside the inputs: the result and what it takes:"
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * 3}{' ---: |' * len(CONTENDERS)}"
    for row in rows:
        used = [
            f"{row['bytes_an_image'][name] / 1024:,.0f}"
            if name in row["bytes_an_image"]
            else "-"
            for name in CONTENDERS
        ]
        cells = [row["shape"], row["pass"], row["dtype"], *used]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _choices_table(rows):
    yield "float32, T differences/s of the kernel that is chosen and the best:"
    yield ""
    head = ["n,h,w,ci,co", "pass", "chosen", "its speed", "best", "its speed"]
    yield f"| {' | '.join(head)} | gain |"
    yield f"|{' --- |' * 3} ---: | --- | ---: | ---: |"
    for row in rows:
        speeds, chosen, best = row["speeds"], row["chosen"], row["best"]
        cells = [
            *(row["shape"], row["pass"], chosen, f"{speeds[chosen]:.3g}"),
            *(best, f"{speeds[best]:.3g}", f"{row['gain']:.2f}"),
        ]
        yield f"| {' | '.join(cells)} |"
