"""`gpu.py --all`: every step in a process of its own, in the order of worth.

A kernel that faults ends its process and no other, and a step that takes too
long is ended. What a step found is written when it ends: results to gpu.json
and gpu.md, what it printed to gpu.log. A step's own file, gpu-STEP.json, is
written while it runs.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import gpu_report

SCRIPT = pathlib.Path(__file__).with_name("gpu.py")
FLAGS_OF_SANITIZERS = {
    # A runtime asks its driver for functions that it may not have, and we raise
    # every error that we are given: these say nothing of a kernel.
    "memcheck": ("--report-api-errors", "no"),
    "racecheck": (),
}

# Less than this is not worth a process that loads PyTorch.
LEAST_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Step:
    """What `gpu.py` does with some flags.

    Attributes:
        name: String, of its results.
        flags: Tuple of strings.
        seconds: The most that it may take.
        sanitizer: A tool of compute-sanitizer that watches it, or None.
    """

    name: str
    flags: tuple
    seconds: float
    sanitizer: str | None = None


BUILD = Step("build", ("--build",), 120)
SHORT_CHECK = ("--check", "--quick")
FAST = ("--seconds", "0.25")
STEPS = (
    Step("short check", SHORT_CHECK, 60),
    Step("semantics", ("--semantics",), 60),
    Step("whole check", ("--check",), 60),
    Step("float32", (*FAST, "--dtypes", "float32"), 120),
    Step("memcheck", SHORT_CHECK, 90, "memcheck"),
    Step("racecheck", SHORT_CHECK, 90, "racecheck"),
    Step("choices", ("--choices",), 60),
    Step("half", (*FAST, "--dtypes", "float16", "bfloat16"), 120),
)


def run_all(args):
    """Runs the steps; returns 0 if all that was finished was right."""
    steps = STEPS if args.library else (BUILD, *STEPS)
    output = args.output or args.build_dir / "results"
    output.mkdir(parents=True, exist_ok=True)
    run = Run(args, output, time.monotonic() + 60 * args.minutes)
    for step in steps:
        run.take(step)
        run.write()
        if step is BUILD and run.failed():
            break
    print((output / "gpu.md").read_text("utf-8"))
    return int(run.failed())


class Run:
    """The steps so far, and what they found."""

    def __init__(self, args, output, end):
        self._args, self._output, self._end = args, output, end
        self._log = output / "gpu.log"
        self._log.write_bytes(b"")
        self._report = {
            "command": shlex.join(["python", *sys.argv]),
            "steps": [],
        }

    def take(self, step):
        """Runs a step and remembers what came of it."""
        limit = min(step.seconds, self._end - time.monotonic())
        seconds = 0
        outcome = self._reason_to_leave_out(step, limit)
        if outcome is None:
            print(
                f"... {step.name}, {limit:.0f} s at the most",
                file=sys.stderr,
                flush=True,
            )
            begin = time.monotonic()
            folder = self._output / step.name.replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            status, printed = self._call(self._command(step, folder), limit)
            seconds = time.monotonic() - begin
            found = self._report[step.name] = _found(folder)
            outcome = _judge(step, status, found, printed)
        self._report["steps"].append(
            {
                "step": step.name,
                "outcome": outcome,
                "seconds": round(seconds, 1),
            }
        )
        print(f"... {step.name}: {outcome}", file=sys.stderr, flush=True)
        if outcome.startswith("failed"):
            lines = self._log.read_text("utf-8", "replace").splitlines()
            print(*lines[-15:], f"({self._log})", sep="\n", file=sys.stderr)

    def failed(self):
        return any(
            step["outcome"].startswith(("wrong", "failed"))
            for step in self._report["steps"]
        )

    def write(self):
        gpu_report.write_json(self._output / "gpu.json", self._report)
        text = gpu_report.page(self._report)
        (self._output / "gpu.md").write_text(text, "utf-8")

    def _reason_to_leave_out(self, step, limit):
        if step.sanitizer and self._args.emulate:
            return "left out: there is no GPU to watch"
        if step.sanitizer and _sanitizer(step.sanitizer) is None:
            return "left out: there is no compute-sanitizer"
        if limit < LEAST_SECONDS:
            return "left out: no time was left"
        return None

    def _command(self, step, folder):
        args = self._args
        library = args.library
        if library is None and step is not BUILD and not args.emulate:
            library = args.build_dir / gpu_report.LIBRARY
        flags = [*step.flags, "--build-dir", args.build_dir]
        flags += ["--output", folder]
        if library is not None:
            flags += ["--library", library]
        if args.emulate:
            flags.append("--emulate")
        if args.quick and "--quick" not in flags:
            flags.append("--quick")
        command = [sys.executable, "-u", SCRIPT, *flags]
        if step.sanitizer:
            command = [*_sanitizer(step.sanitizer), *command]
        return list(map(str, command))

    def _call(self, command, limit):
        """The exit status, None if time ran out, and what was printed."""
        with open(self._log, "ab") as log:
            log.write(f"\n== {shlex.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            # In a group of its own, with whatever it starts: a sanitizer is a
            # launcher, and a kernel that goes on would slow the next step.
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end_group(process)
        printed = self._log.read_bytes()[begin:]
        return status, printed.decode("utf-8", "replace")


def _end_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process that hangs in the driver does not end: others go on.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _found(folder):
    """What a step has written, as far as it came."""
    files = sorted(folder.glob("*.json"))
    return json.loads(files[0].read_text("utf-8")) if files else {}


def _judge(step, status, found, printed):
    """A step's outcome in words."""
    wrong = len(found.get("wrong", ()))
    done = found.get("done")
    if done is None:
        done = len(found.get("rows", found.get("choices", ())))
    done = f"{done} of {found['of']}" if found else "nothing"
    if step is BUILD:
        return "done" if status == 0 else "failed: see the log"
    if step.sanitizer:
        return _judge_sanitizer(status, done, printed)
    if wrong:
        return f"wrong: {wrong}, done {done}"
    if status is None:
        return f"cut short: {done}"
    if status:
        return f"failed: exit status {status}, done {done}; see the log"
    return f"done: {done}"


def _judge_sanitizer(status, done, printed):
    # Such as "ERROR SUMMARY: 0 errors", or "RACECHECK SUMMARY: 0 hazards
    # displayed (0 errors, 0 warnings)".
    summary = re.findall(r"= (\w+ SUMMARY: .*)", printed)
    said = "; ".join(summary)
    if status is None:
        return f"cut short: {done}"
    if not summary:
        return f"failed: no summary, exit status {status}; see the log"
    clean = all(
        int(number) == 0
        for number in re.findall(r"(\d+) (?:error|hazard|warning)", said)
    )
    if status == 0 and clean:
        return f"done: {done}, {said}"
    return f"wrong: {said}, exit status {status}"


def _sanitizer(tool):
    """The beginning of a command that is watched, or None without the tool."""
    found = shutil.which("compute-sanitizer")
    found = found or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None or found is None:
        return None
    return (
        *(found, "--tool", tool, "--error-exitcode", "9"),
        *FLAGS_OF_SANITIZERS[tool],
    )
