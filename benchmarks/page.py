"""Writes docs/speed.md from the figures in `results/speed`.

    python benchmarks/page.py            # writes
    python benchmarks/page.py --check    # fails where they differ

The tables are what stands between the two markers below.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
BEGIN = "<!-- speed: begin, written by benchmarks/page.py -->"
END = "<!-- speed: end -->"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--page", type=pathlib.Path, default=ROOT / "docs/speed.md"
    )
    parser.add_argument(
        "--results", type=pathlib.Path, default=ROOT / "results/speed"
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    old = args.page.read_text("utf-8")
    new = replaced(old, section(args.results))
    if args.check and new != old:
        sys.exit(
            f"{args.page} is out of step with {args.results}: run "
            "`python benchmarks/page.py`"
        )
    args.page.write_text(new, "utf-8")


def replaced(page, text):
    """`page` with `text` between the markers."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        sys.exit(f"The page needs these two lines, once:\n{BEGIN}\n{END}")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def section(results):
    """The section's text, from the JSON files in the folder `results`."""
    import pipeline
    import report
    import twins

    conv2d = read(results / "conv2d.json")
    parts = [report.shapes_table(conv2d, what) for what in ("forward", "step")]
    titles = [report.PASSES[what] for what in ("forward", "step")]
    machine = "\n".join(f"- {line}" for line in report.machine_lines(conv2d))
    text = [f"{machine}\n", report.summary_table(conv2d)]
    for title, part in zip(titles, parts):
        text.append(f"G differences/s (Conv2D: multiply-adds), {title}:\n")
        text.append(part)
    for isa in ("avx2", "baseline"):
        path = results / f"conv2d-{isa}.json"
        if path.exists():
            text.append(f"Both held to {isa}:\n")
            text.append(report.summary_table(read(path)))
    if (results / "twins.json").exists():
        text.append(twins.markdown(read(results / "twins.json")))
    if (results / "pipeline.json").exists():
        text.append(pipeline.markdown(read(results / "pipeline.json")))
    return "\n".join(text)


def read(path):
    if not path.exists():
        sys.exit(f"{path} does not exist: run the benchmarks first")
    return json.loads(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
