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
import contenders  # noqa: E402
import depthwise  # noqa: E402
import measuring  # noqa: E402
import mobilenet  # noqa: E402
import numpy as np  # noqa: E402
import portable  # noqa: E402
import report  # noqa: E402
import roofline  # noqa: E402
import shapes  # noqa: E402


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
    found = report.summary(results["main"])
    assert len(found) == 5
    assert all(line["worst"] >= line["mean"] for line in found)

    # One shape of 1x1, beside Conv2D alone.
    assert len(results["pointwise"]) == 5
    for row in results["pointwise"]:
        assert set(row["speeds"]) == {"ours", "stock"}
        assert f"| {row['shape']} | {row['speeds']['ours']:.1f} |" in text

    for row in results["configurations"]:
        assert row["passes"]["forward"]["ratio"] > 0
        assert f"| {row['name']} | {row['shape']} |" in text
    assert {row["contender"] for row in results["scaling"]} == {"ours", "stock"}
    for row in results["memory"]:
        assert row["forward"] > 0 and row["backward"] > 0


@pytest.mark.slow
def test_integers(measured):
    printed, folder = measured
    text = printed["conv2d.py"]
    found = json.loads((folder / "conv2d.json").read_text("utf-8"))["integer"]
    # Two shapes, of two types, eager and traced; and their means.
    assert len(found["rows"]) == len(found["summary"]) == 2 * 2 * 2
    for row in found["rows"]:
        speeds = row["speeds"]
        assert {row["type"], "float", "stock"} <= set(speeds)
        assert row["over_float"] == speeds[row["type"]] / speeds["float"]
        if found["pairs"]:
            assert row["share"] == speeds[row["type"]] / row["limit"]
        assert f"| {row['name']} | {row['shape']} |" in text
    for pair in found["pairs"]:
        assert pair["speed"] > 0 and pair["speed_one_thread"] > 0
        assert f"| {pair['name']} | {pair['type']}" in text
    for row in found["filters"]:
        times = [row["times"][name]["seconds"] for name in ("changing", "same")]
        assert row["ratio"] == times[0] / times[1]


@pytest.mark.slow
def test_depthwise(measured):
    printed, folder = measured
    text = printed["conv2d.py"]
    results = json.loads((folder / "conv2d.json").read_text("utf-8"))
    found = results["depthwise"]
    # Two shapes, each of a batch size of its own; eager and traced; each pass.
    assert len(found["rows"]) == len(found["summary"]) == 2 * 2 * 3
    for row in found["rows"]:
        seconds = {n: t["seconds"] for n, t in row["times"].items()}
        assert row["ratio"] == seconds["ours"] / seconds["stock"]
        if row["bandwidth"]:
            assert row["share"] == pytest.approx(
                row["moved"] / row["bandwidth"]
            )
        assert f"| {row['shape']} | {row['kernel']} |" in text
    for line in found["summary"]:
        assert line["goal"] == depthwise.GOALS[line["pass"]]
    (row,) = results["few_filters"]
    assert row["name"] == "multiplier 2" and row["limit"] == 3
    assert f"| {row['name']} | {row['shape']} |" in text


def test_goals_of_depthwise_are_counted_by_pass_and_batch_size():
    def row(what, batch, ratio, share=None):
        return {
            "pass": what,
            "batch": batch,
            "call": "eager",
            "ratio": ratio,
            "share": share,
        }

    eager = [
        row("forward", 16, 0.5, 0.5),
        row("forward", 16, 2.0, 0.125),
        row("forward", 1, 1.0),
        *(row(what, n, 0.8) for what in ("step", "integer") for n in (16, 1)),
    ]
    traced = [row | {"call": "function"} for row in eager]
    lines = depthwise.summary(eager + traced)
    assert [
        (line["mean"], line["worst"], line["share"], line["reached"])
        for line in lines
        if line["call"] == "eager"
    ] == [
        (pytest.approx(1.0), 2.0, pytest.approx(0.25), 1),
        (1.0, 1.0, None, 1),
        *[(pytest.approx(0.8), 0.8, None, 1)] * 2,
        *[(pytest.approx(0.8), 0.8, None, 0)] * 2,
    ]


def test_bytes_of_depthwise_are_those_of_each_tensor_once():
    shape = shapes.depthwise(2, 8, 16, strides=2, kernel=5)
    inputs, filters, outputs = 2 * 8 * 8 * 16, 5 * 5 * 16, 2 * 4 * 4 * 16
    assert depthwise.traffic(shape) == {
        "forward": (4 * (inputs + filters), 4 * outputs),
        "backward": (
            4 * (inputs + filters + outputs),
            4 * (inputs + filters),
        ),
        "integer": (inputs + filters, outputs),
    }


@pytest.mark.parametrize("multiplier", [1, 2])
def test_the_stock_depthwise_convolution_takes_our_filters(multiplier):
    shape = shapes.Shape(2, 8, 8, 6, 6 * multiplier, groups=6)
    outputs, gradient, _ = contenders.stock_depthwise(shape, "step").run()
    assert outputs.shape == shape.output_shape
    assert gradient.shape == shape.input_shape
    inputs, filters, _ = contenders.data(shape)
    channels = slice(4 * multiplier, 5 * multiplier)
    taps = inputs[0, 3:6, 3:6, 4, None] * filters[:, :, 0, channels]
    assert outputs[0, 4, 4, channels].numpy() == pytest.approx(
        taps.numpy().sum((0, 1)), abs=1e-5
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_streams_write_the_whole_of_what_they_write(threads):
    stream = roofline.stream(64 * 30, 64 * 10, None, threads)
    if stream is None:
        pytest.skip("there is no compiler")
    read, written = stream.buffers
    read[:] = 7
    assert stream.turn() > 0
    assert (written == 7).all()


@pytest.mark.slow
def test_mobilenet(tmp_path):
    done = run("mobilenet.py", "--quick", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "mobilenet.md").read_text("utf-8") == done.stdout
    results = json.loads((tmp_path / "mobilenet.json").read_text("utf-8"))
    rows = results["rows"]
    assert [(row["call"], row["batch_size"]) for row in rows] == [
        *((call, n) for n in (4, 1) for call in ("on_batch", "function")),
        ("training", 4),
    ]
    for row in rows:
        names = {"cnn", "adder"}
        if row["call"] != "training":
            names |= {"fused", "int8"}
        assert set(row["milliseconds"]) == names
        assert all(time > 0 for time in row["milliseconds"].values())
    assert "| fused, int8 | " in done.stdout


@pytest.mark.slow
def test_portable(tmp_path):
    flags = ("--quick", "--networks=lenet5", f"--output={tmp_path}")
    done = run("portable.py", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "portable.md").read_text("utf-8") == done.stdout
    results = json.loads((tmp_path / "portable.json").read_text("utf-8"))
    network = results["networks"]["lenet5"]
    for column in ("batch", "one"):
        times = network["times"][column]
        names = {"adder", "adder_portable", "int8", "int8_portable"}
        assert names <= set(times)
        assert all(timing["seconds"] > 0 for timing in times.values())
    for pair in network["pairs"].values():
        # Of random images, from which trained filters are equally far.
        assert pair["difference"] < 1e-2
        assert pair["differing"] == []
    assert "| int8, portable | " in done.stdout


def test_portable_says_how_near_logits_are():
    """Of two networks that differ in one image, in whose logits a tie is."""

    class Fixed:
        layers = (None,)

        def __init__(self, *logits):
            self._logits = np.float32(logits)

        def predict(self, images, batch_size, verbose):
            return self._logits

    found = portable.compare(
        Fixed([1, 3, 2], [5, 4.5, 0]),
        Fixed([1, 3, 2], [4.5, 4.75, 0]),
        images=None,
        labels=np.array([1, 0]),
        batch_size=2,
    )
    assert found["accuracy"] == 100 and found["accuracy_portable"] == 50
    assert found["differing"] == [{"image": 1, "margins": [0.5, 0.25]}]


def test_goals_of_mobilenet_are_for_the_makers_processor():
    times = {"cnn": 0.02, "adder": 0.03, "int8": 0.005}
    row = mobilenet.row(
        "function", 16, {n: measuring.timing([t]) for n, t in times.items()}
    )
    assert row["ratios"] == pytest.approx(
        {"cnn": 1.0, "adder": 1.5, "int8": 0.25}
    )
    assert row["milliseconds"]["adder"] == pytest.approx(30)
    for processor, goal in (
        ("AMD EPYC", 1.1),
        ("Intel(R) Xeon(R)", 1.5),
        ("aarch64", None),
    ):
        assert mobilenet.goals(processor) == {"adder": goal, "int8": 0.5}


@pytest.mark.slow
def test_inference(tmp_path):
    flags = ("--quick", "--networks=lenet5", f"--output={tmp_path}")
    done = run("inference.py", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "inference.md").read_text("utf-8") == done.stdout
    results = json.loads((tmp_path / "inference.json").read_text("utf-8"))
    assert results["machine"]["versions"]["keras"]
    network = results["networks"]["lenet5"]
    rows = network["rows"]
    names = {"cnn", "adder", "fused", "int16", "int8", "bits4"}
    assert names <= set(rows)
    for name, row in rows.items():
        assert 0 <= row["accuracy"] <= 100 and row["bytes"] > 0
        calls = {"batches", "on_batch", "function"}
        assert set(row["speeds"]) == (set() if name == "bits4" else calls)
        assert all(speed > 0 for speed in row["speeds"].values())
    assert rows["int8"]["bytes"] < rows["int16"]["bytes"]
    for row in network["sets"]:
        assert row["layers"] == 5 and not row["differing"]
        assert f"| {row['isa']} | 5 of 5 | " in done.stdout


def test_limits_of_integers_are_those_of_the_lanes_in_use():
    def pair(name, dtype, speed, sliding=False):
        loop = roofline.Loop(name, dtype, sliding, 1, None)
        return roofline.Pair(loop, speed, speed)

    pairs = [
        pair("slides", "uint8", 90.0, sliding=True),
        pair("sums", "uint8", 61.0),
        pair("words", "int16", 30.0),
    ]
    for kernel, strides, name, useful in (
        (3, 1, "slides", 1),
        (7, 1, "slides", 7 / 6),
        (5, 1, "slides", 5 / 6),
        (7, 2, "sums", 1),
        (1, 1, "sums", 1),
    ):
        best = roofline.best_pair(pairs, "uint8", kernel, strides)
        assert best.loop.name == name
        assert best.loop.useful(kernel, strides) == pytest.approx(useful)
    assert roofline.best_pair(pairs, "int16", 3, 1).loop.name == "words"
    assert roofline.best_pair([], "int16", 3, 1) is None


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_integers_that_are_measured_keep_to_their_range(dtype):
    shape = shapes.Shape(2, 8, 8, 16, 16)
    outputs = contenders.integer(shape, dtype).run().numpy()
    assert outputs.dtype == dtype and outputs.shape == shape.output_shape
    inside = outputs[:, 1:-1, 1:-1]
    # A ReLU of values around zero; few reach the largest integer.
    assert 0.3 < (inside == 0).mean() < 0.7
    assert (outputs == outputs.max()).mean() < 0.01
    again = contenders.integer(shape, dtype, traced=True).run().numpy()
    assert (again == outputs).all()
    changing = contenders.integer_changing(shape, dtype, 2)
    first, second, third = (changing.run().numpy() for _ in range(3))
    assert (first == outputs).all() and (third == first).all()
    assert (second != first).any()


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
