"""The public surface has types, and a type checker uses them."""

import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import keras_adder

ROOT = pathlib.Path(__file__).parents[1]

MODULES = (
    keras_adder,
    keras_adder.applications,
    keras_adder.callbacks,
    keras_adder.convert,
    keras_adder.export,
    keras_adder.inference,
    keras_adder.layers,
    keras_adder.operations,
    keras_adder.ops,
    keras_adder.optimizers,
    keras_adder.sysconfig,
)


def public_functions():
    """Names and functions: what modules define and hand on, and methods."""
    for module in MODULES:
        for name, value in vars(module).items():
            defined = getattr(value, "__module__", None) or ""
            if name.startswith("_") or not defined.startswith("keras_adder"):
                continue
            if "._" in defined:  # What a module imports for itself.
                continue
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    function = getattr(function, "__func__", function)
                    function = getattr(function, "fget", function)
                    plain = inspect.isfunction(function)
                    private = method.startswith("_") and method != "__init__"
                    if plain and not private:
                        yield f"{name}.{method}", function
            elif callable(value):
                yield name, inspect.unwrap(value)


FUNCTIONS = dict(public_functions())


def test_the_surface_is_found():
    assert {"ALR.__init__", "AdderDense.call", "LeNet5"} <= FUNCTIONS.keys()
    assert {"adder_conv2d", "to_adder", "summary"} <= FUNCTIONS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_has_a_type(name):
    signature = inspect.signature(FUNCTIONS[name])
    missing = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
    ]
    assert not missing
    assert signature.return_annotation is not signature.empty


def test_a_type_checker_knows_them(tmp_path):
    right = [
        "AdderConv2D(16, (3, 3), strides=2, use_bias=False)",
        "ALR(0.1, eta=0.2, weight_decay=None)",
        "applications.ResNet20(weights='cifar10').summary()",
    ]
    wrong = [
        "AdderConv2D('16', 3)",
        "ALR(0.1, eta='0.2')",
        "applications.ResNet20(classes=10.0)",
    ]
    program = tmp_path / "program.py"
    imports = "from keras_adder import ALR, AdderConv2D, applications"
    program.write_text("\n".join([imports, *right, *wrong]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", program),
            *("--ignore-missing-imports", "--follow-imports=silent"),
        ],
        cwd=tmp_path,
        # Editable installs are found by a hook, which no type checker runs.
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = re.findall(r"^program.py:(\d+): error", done.stdout, re.M)
    first = 2 + len(right)
    assert [int(line) for line in lines] == list(
        range(first, first + len(wrong))
    ), done.stdout + done.stderr
