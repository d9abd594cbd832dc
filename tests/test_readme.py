"""The programs of the README and of docs/install.md, run as printed."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SPEED = ROOT / "results" / "speed"
sys.path.append(str(ROOT / "benchmarks"))

import report  # noqa: E402


def programs(path):
    text = (ROOT / path).read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


def run(program, folder):
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def accuracy(printed):
    return float(re.search(r"'accuracy': ([\d.]+)", printed).group(1))


def test_first_program_and_serving_work_as_printed(tmp_path):
    (first,) = programs("README.md")
    # The README's figure, but for a processor that rounds otherwise.
    assert accuracy(run(first, tmp_path)) > 0.93

    library = run(
        "from keras_adder import sysconfig; print(sysconfig.get_lib())",
        tmp_path,
    ).split()[-1]
    (serve,) = programs("docs/install.md")
    serve = serve.replace("/path/to/libkeras_adder_ops.so", library)
    assert "keras_adder" not in serve.replace(library, "")
    run(serve, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_first_program_does_not_depend_on_its_seed(seed, tmp_path):
    (first,) = programs("README.md")
    assert first.count("set_random_seed(1)") == 1
    program = first.replace("set_random_seed(1)", f"set_random_seed({seed})")
    assert accuracy(run(program, tmp_path)) > 0.93


@pytest.mark.parametrize(
    "row, folder, suffix",
    [
        ("AMD EPYC, Zen 5 (AVX-512)", SPEED, ""),
        ("AMD EPYC, Zen 5, both held to AVX2", SPEED, "-avx2"),
        ("AMD EPYC, Zen 4 (AVX-512)", SPEED / "zen4", ""),
        ("AMD EPYC, Zen 4, both held to AVX2", SPEED / "zen4", "-avx2"),
    ],
)
def test_table_of_speed_says_what_was_measured(row, folder, suffix):
    """The README's rows are those of the files of results."""
    (line,) = (
        line
        for line in (ROOT / "README.md").read_text("utf-8").splitlines()
        if line.startswith(f"| {row} |")
    )
    *_, forward, step, twins, _ = line.split("|")
    path = folder / f"conv2d{suffix}.json"
    measured = json.loads(path.read_text("utf-8"))
    means = {
        found["pass"]: found["mean"]
        for found in report.summary(measured["main"])
        if found["call"] == "eager"
    }
    assert forward.strip() == f"{means['forward']:.2f}"
    assert step.strip() == f"{means['step']:.2f}"
    if not suffix:
        speeds = json.loads((folder / "twins.json").read_text("utf-8"))[
            "speeds"
        ]
        ratios = (
            speeds[what]["adder"] / speeds[what]["cnn"]
            for what in ("training", "inference")
        )
        assert twins.strip() == ", ".join(f"{ratio:.2f}" for ratio in ratios)
