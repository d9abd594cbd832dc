"""`gpu.py --all`: every step in a process of its own, in the order of worth.

A kernel that faults ends its process and no other, and a step that takes too
long is ended. What a step found is written when it ends: results to gpu.json
and gpu.md, what it printed to gpu.log. A step's own file, gpu-STEP.json, is
written while it runs.
"""

import dataclasses
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import gpu_report

SCRIPT = pathlib.Path(__file__).with_name("gpu.py")
SANITIZERS = ("memcheck", "racecheck")

# Less than this is not worth a process that loads PyTorch.
LEAST_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Step:
    """What `gpu.py` does with some flags.

    Attributes:
        name: String, of its results.
        flags: Tuple of strings.
        seconds: The most that it may take.
        sanitizer: One of `SANITIZERS`, which watches it, or None.
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
    Step("float32", (*FAST, "--dtypes", "float32"), 120),
    Step("memcheck", SHORT_CHECK, 90, "memcheck"),
    Step("racecheck", SHORT_CHECK, 90, "racecheck"),
    Step("choices", ("--choices",), 60),
    Step("half", (*FAST, "--dtypes", "float16", "bfloat16"), 120),
    Step("whole check", ("--check",), 60),
)


def run_all(args):
    """Runs the steps; returns 0 if all that was finished was right."""
    steps = STEPS if args.library else (BUILD, *STEPS)
    output = args.output or args.build_dir / "results"
    output.mkdir(parents=True, exist_ok=True)
    run = _Run(args, output, time.monotonic() + 60 * args.minutes)
    for step in steps:
        run.take(step)
        run.write()
        if step is BUILD and run.failed():
            break
    print((output / "gpu.md").read_text("utf-8"))
    return int(run.failed())


class _Run:
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
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = None
        printed = self._log.read_bytes()[begin:]
        return status, printed.decode("utf-8", "replace")


def _found(folder):
    """What a step has written, as far as it came."""
    files = sorted(folder.glob("*.json"))
    return json.loads(files[0].read_text("utf-8")) if files else {}


def _judge(step, status, found, printed):
    """A step's outcome in words."""
    wrong = len(found.get("wrong", ()))
    done = found.get("done", len(found.get("rows", ())))
    done = f"{done} of {found['of']}" if found else "nothing"
    if step is BUILD:
        return "done" if status == 0 else "failed: see the log"
    if step.sanitizer:
        # Such as "ERROR SUMMARY: 0 errors".
        summary = re.findall(r"= (\w+ SUMMARY: .*)", printed)
        said = "; ".join(summary) or "it said nothing"
        if status == 0 and summary:
            return f"done: {said}"
        if status is None:
            return f"cut short: {done}"
        return f"wrong: {said}, exit status {status}"
    if wrong:
        return f"wrong: {wrong}, done {done}"
    if status is None:
        return f"cut short: {done}"
    if status:
        return f"failed: exit status {status}, done {done}; see the log"
    return f"done: {done}"


def _sanitizer(tool):
    """The beginning of a command that is watched, or None without the tool."""
    found = shutil.which("compute-sanitizer")
    found = found or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None or found is None:
        return None
    return (
        *(found, "--tool", tool, "--error-exitcode", "9"),
        # Kernels of other libraries are not ours to judge.
        *("--kernel-regex", "kns=keras_adder"),
    )
