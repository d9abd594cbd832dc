"""The README's first program, run as printed."""

import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_first_program_and_serving_work_as_printed(tmp_path):
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    first = "import keras\nkeras.utils.set_random_seed(1)\n" + programs[0]
    printed = run(first, tmp_path)
    accuracy = float(re.search(r"'accuracy': ([\d.]+)", printed).group(1))
    # The README's figure, but for a processor that rounds otherwise.
    assert accuracy > 0.93

    library = run(
        "from keras_adder import sysconfig; print(sysconfig.get_lib())",
        tmp_path,
    ).split()[-1]
    (serve,) = (p for p in programs if "load_op_library" in p)
    serve = serve.replace("/path/to/libkeras_adder_ops.so", library)
    assert "keras_adder" not in serve.replace(library, "")
    run(serve, tmp_path)


def run(program, folder):
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
