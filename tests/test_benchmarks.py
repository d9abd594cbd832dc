"""The benchmarks run and report; that their figures are good is not tested."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests" / "cuda")]

import bits  # noqa: E402
import cases  # noqa: E402


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What a quick run prints, and the folder of what it writes."""
    folder = tmp_path_factory.mktemp("speed")
    printed = {}
    for script in ("conv2d.py", "twins.py", "pipeline.py"):
        done = run(script, "--quick", f"--output={folder}")
        assert done.returncode == 0, done.stderr[-2000:]
        printed[script] = done.stdout
    return printed, folder


@pytest.mark.slow
def test_tables_and_json_say_the_same(measured):
    printed, folder = measured
    text = printed["conv2d.py"]
    assert (folder / "conv2d.md").read_text("utf-8") == text
    results = json.loads((folder / "conv2d.json").read_text("utf-8"))
    assert results["quick"]
    assert len(results["load"]) == 2
    assert results["machine"]["versions"]["tensorflow"]
    assert results["machine"]["onednn"]
    assert results["roofline"]["peak"] > 0
    assert len(results["noise"]["rows"]) == 4

    # Two shapes; forward and step, eager and traced; and backward.
    assert len(results["main"]) == 2 * 5
    for row in results["main"]:
        assert {"ours", "stock"} <= set(row["speeds"])
        assert ("broadcast" in row["speeds"]) == (
            row["call"] == "eager" and row["pass"] != "backward"
        )
        times = row["times"]
        assert row["ratio"] == pytest.approx(
            times["ours"]["seconds"] / times["stock"]["seconds"]
        )
        assert f"| {row['shape']} | {row['speeds']['ours']:.1f} |" in text
    assert len(results["summary"]) == 5
    assert all(line["worst"] >= line["mean"] for line in results["summary"])

    for row in results["configurations"]:
        assert row["passes"]["forward"]["ratio"] > 0
        assert f"| {row['name']} | {row['shape']} |" in text
    assert {row["contender"] for row in results["scaling"]} == {"ours", "stock"}
    for row in results["memory"]:
        assert row["forward"] > 0 and row["backward"] > 0


@pytest.mark.slow
def test_twins(measured):
    printed, folder = measured
    results = json.loads((folder / "twins.json").read_text("utf-8"))
    for what in ("training", "inference"):
        assert results["speeds"][what].keys() == {"adder", "cnn"}
        assert f"| {what} | " in printed["twins.py"]


@pytest.mark.slow
def test_pipeline(measured):
    printed, folder = measured
    results = json.loads((folder / "pipeline.json").read_text("utf-8"))
    assert len(results["rows"]) == 2
    for row in results["rows"]:
        assert all(speed > 0 for speed in row["speeds"].values())
        assert (
            f"| {row['name']} | {row['batch_size']} | "
            in (printed["pipeline.py"])
        )


@pytest.mark.slow
def test_the_page_follows_the_figures(measured, tmp_path):
    _, folder = measured
    page = tmp_path / "speed.md"
    flags = (f"--page={page}", f"--results={folder}")

    page.write_text("# Without markers\n", "utf-8")
    done = run("page.py", *flags)
    assert done.returncode != 0
    begin, end = re.findall("<!-- .* -->", done.stderr)

    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", "utf-8")
    assert run("page.py", "--check", *flags).returncode != 0
    assert "old" in page.read_text("utf-8")
    done = run("page.py", *flags)
    assert done.returncode == 0, done.stderr
    written = page.read_text("utf-8")
    assert written.startswith("before\n") and written.endswith("after\n")
    assert "old" not in written
    assert "| forward, eager | " in written and "| training | " in written
    assert run("page.py", "--check", *flags).returncode == 0


def test_this_page_says_what_was_measured():
    if not (ROOT / "results" / "speed" / "conv2d.json").exists():
        pytest.skip("the figures of this checkout have not been taken")
    done = run("page.py", "--check")
    assert done.returncode == 0, done.stderr


def test_bits_that_moved_are_named(capsys):
    before = {"avx2": {"a": "1", "b": "2"}, "neon": {"a": "3"}}
    after = {"avx2": {"a": "1", "b": "4"}, "avx512": {"a": "5", "b": "6"}}
    assert bits.compare(before, before) == 0
    assert bits.compare(before, after) == 1
    assert (
        "moved, avx2: b\n1 moved, of 2 in ['avx2']" in capsys.readouterr().out
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_hash_is_that_of_all_results(dtype):
    convolution = cases.default(dtype=dtype, padding="SAME")
    data = cases.Data(convolution)
    first = bits.hash_of(data)
    assert bits.hash_of(cases.Data(convolution)) == first
    data.g[0, 0, 0, 0] += 1  # Which the output does not depend on.
    assert bits.hash_of(data) != first
