"""benchmarks/gpu.py, as far as it goes without a GPU.

By emulation, and with a driver for a GPU that is not there (driver.c): then the
program does all that it would do on one, and the kernels run by emulation.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import types

import builds
import gpu
import gpu_interface
import gpu_report
import gpu_steps
import gpu_table
import pytest

SCRIPT = builds.ROOT / "benchmarks" / "gpu.py"

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="there is no nvcc"
)


@pytest.fixture
def run(tmp_path, emulation):
    """Runs the program, for which there is no TensorFlow and no PyTorch."""
    hide = (
        "import sys\nsys.modules['tensorflow'] = sys.modules['torch'] = None\n"
    )
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(hide)

    def run(*flags, status=0, **environment):
        done = subprocess.run(
            [
                *(sys.executable, SCRIPT, "--quick"),
                *("--library", emulation, *flags),
            ],
            env={**os.environ, "PYTHONPATH": str(hidden), **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    return run


def outcomes(folder):
    report = json.loads((folder / "gpu.json").read_text("utf-8"))
    return {step["step"]: step["outcome"] for step in report["steps"]}


def test_check_by_emulation(run):
    assert run("--emulate", "--check").endswith(" 0 wrong\n")


def test_table_by_emulation(run, tmp_path):
    flags = ("--emulate", "--seconds=0.01", "--dtypes", "float32")
    text = run(*flags, f"--output={tmp_path}")
    assert (tmp_path / "gpu-table.md").read_text("utf-8") == text
    rows = json.loads((tmp_path / "gpu-table.json").read_text("utf-8"))["rows"]
    assert len(rows) == 6
    for row in rows:
        assert row["speeds"]["ours"] > 0
        assert f"| {row['shape']} | {row['pass']} | {row['dtype']} |" in text


def test_nothing_is_begun_without_time(run, tmp_path):
    run("--all", "--emulate", "--minutes=0", f"--output={tmp_path}")
    found = outcomes(tmp_path)
    sanitizers = {"memcheck", "racecheck"}
    assert all(
        found[step] == "left out: no time was left"
        for step in found.keys() - sanitizers
    )
    assert len(found) == 8
    assert gpu_steps.STEPS[-1].name in found
    assert "no time was left" in (tmp_path / "gpu.md").read_text("utf-8")


@pytest.mark.slow
def test_all_by_emulation(run, tmp_path):
    text = run("--all", "--emulate", f"--output={tmp_path}")
    for step, outcome in outcomes(tmp_path).items():
        expected = "left out" if step.endswith("check") else "done: "
        if step in ("short check", "whole check"):
            expected = "done: "
        assert outcome.startswith(expected), (step, outcome)
    assert (tmp_path / "gpu.md").read_text("utf-8").strip() == text.strip()
    assert "figures mean nothing" in text
    assert " 0 wrong" in (tmp_path / "gpu.log").read_text("utf-8")


SANITIZER = """#!/bin/sh
# Ours is watched, and by the tool that was asked for.
case "$*" in *"--tool memcheck --error-exitcode 9 --report-api-errors no "*)
  while [ "$1" != -u ]; do last=$1; shift; done
  "$last" "$@" && echo "========= ERROR SUMMARY: 0 errors";;
*) echo "========= RACECHECK SUMMARY: 2 hazards displayed"; exit 9;;
esac
"""


@pytest.mark.slow
def test_all_with_a_driver(run, tmp_path):
    """The sanitizer finds races; nvidia-smi is there, and gives no clock."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("compute-sanitizer", SANITIZER),
        ("nvidia-smi", "#!/bin/sh\necho '[N/A]'\n"),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    output = tmp_path / "out"
    driver = str(builds.folder("driver"))
    flags = ("--all", f"--output={output}")
    text = run(*flags, status=1, PATH=path, LD_LIBRARY_PATH=driver)
    found = outcomes(output)
    outcome = found.pop("memcheck")
    assert re.fullmatch(r"done: (\d+) of \1, ERROR SUMMARY: 0 errors", outcome)
    assert found.pop("racecheck") == (
        "wrong: RACECHECK SUMMARY: 2 hazards displayed, exit status 9"
    )
    assert len(found) == 6
    assert all(outcome.startswith("done: ") for outcome in found.values())
    assert "- gpu: A GPU\n" in text
    assert "| 1980 (assumed) |" in text
    assert "nvidia-smi` gave no clock" in text


SLEEPER = """#!/bin/sh
# A launcher, whose child would go on without it.
sh -c 'sleep 8; touch "$0"' "$SLEEPER_WAS_HERE" &
wait
"""


@pytest.mark.slow
def test_a_step_without_time_is_ended_with_all_that_it_started(run, tmp_path):
    program = tmp_path / "compute-sanitizer"
    program.write_text(SLEEPER)
    program.chmod(0o755)
    touched = tmp_path / "touched"
    begin = time.monotonic()
    steps = [
        gpu_steps.Step("memcheck", gpu_steps.SHORT_CHECK, 5, "memcheck"),
        gpu_steps.Step("short check", gpu_steps.SHORT_CHECK, 60),
    ]
    args = types.SimpleNamespace(
        library=builds.EMULATION, build_dir=tmp_path, quick=True, emulate=False
    )
    environment = {
        "PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]]),
        "SLEEPER_WAS_HERE": str(touched),
        "LD_LIBRARY_PATH": str(builds.folder("driver")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        steps_run = gpu_steps.Run(args, tmp_path, time.monotonic() + 60)
        for step in steps:
            steps_run.take(step)
    steps_run.write()
    found = outcomes(tmp_path)
    assert found["memcheck"] == "cut short: nothing"
    assert found["short check"].startswith("done: ")
    time.sleep(max(0, 9 - (time.monotonic() - begin)))
    assert not touched.exists()


@pytest.mark.slow
def test_clock_is_that_of_nvidia_smi(run, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 1234\n")
    program.chmod(0o755)
    text = run(
        *("--seconds=0.01", "--dtypes", "float32"),
        PATH=os.pathsep.join([str(tmp_path), os.environ["PATH"]]),
        LD_LIBRARY_PATH=str(builds.folder("driver")),
    )
    assert text.count("| 1234 |") == 6
    assert "ssumed" not in text


@pytest.mark.slow
def test_a_gpu_is_known_by_its_driver():
    program = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import dataclasses, json, gpu_interface\n"
        "print(json.dumps(dataclasses.asdict(gpu_interface.Gpu.first())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "LD_LIBRARY_PATH": str(builds.folder("driver"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "name": "A GPU",
        "compute_capability": [9, 1],
        "multiprocessors": 132,
        "max_clock_mhz": 1980,
        "driver_cuda": "13.2",
        "pci_bus_id": "0000:17:00.0",
    }
    known = gpu_interface.Gpu(**found | {"compute_capability": (9, 1)})
    clocks = [gpu_table.per_clock(known, p) for p in gpu_interface.PASSES]
    assert clocks == [64, 32, 64]


def test_what_is_wrong_is_told_and_kept(tmp_path, capsys):
    results = gpu_report.Results(tmp_path, "check")

    def wrong():
        raise AssertionError("off by one")

    checks = {"first": lambda: None, "second": wrong, "third": lambda: None}
    assert gpu.run_checks(checks, results) == 1
    assert "WRONG: second: off by one" in capsys.readouterr().out
    kept = json.loads((tmp_path / "gpu-check.json").read_text("utf-8"))
    assert kept == {"done": 3, "of": 3, "wrong": ["second: off by one"]}
    report = {"steps": [], "check": kept}
    assert "- wrong, check: second: off by one" in gpu_report.page(report)


def test_a_step_that_dies_is_a_failure(tmp_path):
    """And the page says so, and the others are run all the same."""
    done = subprocess.run(
        [
            *(sys.executable, SCRIPT, "--all", "--emulate", "--quick"),
            *(f"--output={tmp_path}", "--library=/none.so"),
        ],
        capture_output=True,
    )
    assert done.returncode == 1
    found = outcomes(tmp_path)
    assert found["short check"].startswith("failed: exit status 1")
    assert found["whole check"].startswith("failed: exit status 1")
    assert "/none.so" in (tmp_path / "gpu.log").read_text("utf-8")


@needs_nvcc
def test_it_compiles_for_the_gpu_that_is_there():
    nvcc = gpu.find_nvcc()
    flag = "-gencode=arch=compute_90,code=sm_90"
    assert gpu.architecture(nvcc, (9, 0)) == flag
    # Newer than nvcc: PTX, which the driver compiles.
    too_new = gpu.architecture(nvcc, (99, 0))
    (newest,) = re.findall(r"^-gencode=arch=compute_(\d+),", too_new)
    assert too_new.endswith(f",code=compute_{newest}")
    with pytest.raises(SystemExit, match="as old as this one: 35"):
        gpu.architecture(nvcc, (3, 5))
