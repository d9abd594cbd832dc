"""Summarises finished runs: mean and spread of the test accuracy over seeds.

    python examples/summarize_runs.py runs/mnist/* --output results/mnist

writes `summary.md`, a table, and `summary.json`, the same numbers. Runs that
differ in nothing but the seed make a row.
"""

import argparse
import pathlib
import statistics

from training import runs

# What may differ between the runs of one row.
NOT_RECIPE = {
    "command",
    "seed",
    "seconds",
    "served_without_keras_adder",
    "test_accuracy",
    "test_loss",
    "test_top5_accuracy",
    "threads",
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()

    finished = [run for run in args.runs if runs.is_finished(run)]
    for run in args.runs:
        if run not in finished:
            print(f"{run}: not finished, left out")
    if not finished:
        parser.exit(1, "No finished run.\n")
    rows = summarise(
        [runs.read_settings(run / runs.RESULTS) for run in finished]
    )
    table = markdown(rows)
    runs.write_json(args.output / "summary.json", rows)
    (args.output / "summary.md").write_text(table, "utf-8")
    print(table, end="")


def summarise(results):
    """Groups the results of runs into rows, one for each recipe.

    Args:
        results: List of dicts, contents of `results.json`.

    Returns:
        A list of dicts. `std` is the sample standard deviation over seeds,
        `None` of a single run.
    """
    groups = {}
    for result in results:
        recipe = tuple(
            (name, str(value))
            for name, value in sorted(result.items())
            if name not in NOT_RECIPE
        )
        groups.setdefault(recipe, []).append(result)
    rows = []
    for group in groups.values():
        group.sort(key=lambda result: result["seed"])
        accuracies = [result["test_accuracy"] for result in group]
        several = len(group) > 1
        rows.append(
            {
                "data": group[0]["data"],
                "model": runs.long_label(group[0]),
                "epochs": group[0]["epochs"],
                "batch_size": group[0]["batch_size"],
                "seeds": [result["seed"] for result in group],
                "test_accuracies": accuracies,
                # Far from where the table rounds.
                "mean": round(statistics.mean(accuracies), 9),
                "std": (
                    round(statistics.stdev(accuracies), 9) if several else None
                ),
                "mean_seconds": round(
                    statistics.mean(result["seconds"] for result in group), 1
                ),
                "commands": [result["command"] for result in group],
                "versions": group[0]["versions"],
            }
        )
    return rows


def markdown(rows):
    lines = [
        "| data | model | epochs | batch size | test accuracy after the last "
        "epoch, %, mean ± standard deviation | seed: accuracy | "
        "minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = "" if row["std"] is None else f" ± {100 * row['std']:.2f}"
        each = ", ".join(
            f"{seed}: {100 * accuracy:.2f}"
            for seed, accuracy in zip(row["seeds"], row["test_accuracies"])
        )
        lines.append(
            f"| {row['data']} | {row['model']} | {row['epochs']} "
            f"| {row['batch_size']} "
            f"| {100 * row['mean']:.2f}{spread} | {each} "
            f"| {row['mean_seconds'] / 60:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
