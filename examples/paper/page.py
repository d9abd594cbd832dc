"""Writes the tables of `docs/paper.md` from what is in `results/paper`.

    python examples/paper/page.py            # writes
    python examples/paper/page.py --check    # fails where they differ

A table stands between two markers that name its study.
"""

import argparse
import importlib
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from paper import reproduce  # noqa: E402
from training import runs  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--page", type=pathlib.Path, default=ROOT / "docs/paper.md"
    )
    parser.add_argument(
        "--results", type=pathlib.Path, default=ROOT / "results/paper"
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    old = args.page.read_text("utf-8")
    new = old
    for name in reproduce.ITEMS:
        new = replaced(new, name, section(name, args.results))
    if args.check and new != old:
        sys.exit(
            f"{args.page} is out of step with {args.results}: run "
            "`python examples/paper/page.py`"
        )
    args.page.write_text(new, "utf-8")


def replaced(page, name, text):
    """`page` with `text` between the markers of a study."""
    begin = f"<!-- {name}: begin, written by examples/paper/page.py -->"
    end = f"<!-- {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        sys.exit(f"The page needs these two lines, once:\n{begin}\n{end}")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def section(name, results):
    """The table of a study and its picture, if it has been made."""
    path = results / f"{name}.json"
    if not path.exists():
        return "Not run in full yet.\n"
    found = runs.read_json(path)
    study = importlib.import_module(f"paper.{name}")
    return (
        f"{study.markdown(found)}\n"
        f"`{found['command']}`\n\n"
        f"![{name}](../results/paper/{name}.png)\n"
    )


if __name__ == "__main__":
    main()
