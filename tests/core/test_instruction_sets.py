"""Code for an instruction set stays where a processor without it never goes.

A function that two files compile is kept once by the linker, from whichever
file comes first: if that is the one for AVX-512, every processor gets it.
"""

import json
import platform
import re
import subprocess

import builds
import pytest

OBJECTS = builds.RELEASE / "CMakeFiles" / "keras_adder_core.dir" / "core"

needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the files of x86-64 are tested"
)


def symbols(path):
    """Pairs of nm's letter for a kind of symbol, and the symbol."""
    assert path.exists(), f"{path}: `make build` compiles it"
    text = subprocess.run(
        ["nm", "--demangle", path], capture_output=True, text=True, check=True
    ).stdout
    return re.findall(r"^[0-9a-f ]{16} (\w) (.*)$", text, re.M)


def sections(path):
    return subprocess.run(
        ["readelf", "--sections", "--wide", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def reachable(path):
    """Symbols that another file may refer to or be given."""
    return {name for kind, name in symbols(path) if kind not in "trbdnU"}


@needs_x86
@pytest.mark.parametrize(
    "file, tables",
    [
        ("avx2.cc.o", ["kAvx2Kernels"]),
        ("avx512.cc.o", ["kAvx512Kernels", "kAvx512OperandKernels"]),
        ("fused_avx2.cc.o", ["kFusedAvx2"]),
        (
            "fused_avx512.cc.o",
            ["kFusedAvx512", "kSaturatingBytes", "kSaturatingSliding"],
        ),
        (
            "fused_avx512_vnni.cc.o",
            [
                "kVnniByteRows",
                "kVnniBytes",
                "kVnniWindowBytes",
                "kVnniWindowWords",
                "kVnniWordRows",
                "kVnniWords",
            ],
        ),
    ],
)
def test_only_the_tables_lead_to_an_instruction_set(file, tables):
    path = OBJECTS / "kernels" / file
    assert reachable(path) == {f"keras_adder::{name}" for name in tables}
    # The tables are constants: nothing runs when the library is loaded.
    assert ".data.rel.ro" in sections(path)
    assert not re.search(r"\.(init_array|ctors|preinit_array)", sections(path))
    # What it calls was compiled for every processor; tables name tables.
    called = {name for kind, name in symbols(path) if kind == "U"}
    called -= {"keras_adder::kFusedAvx2", "keras_adder::kFusedAvx512"}
    assert not any("keras_adder" in name or "std::" in name for name in called)


@needs_x86
def test_other_files_would_not_pass():
    """Those may have functions that the linker merges."""
    path = OBJECTS / "forward.cc.o"
    assert any("std::vector" in name for name in reachable(path))


@needs_x86
def test_no_other_file_is_compiled_for_more_than_the_baseline():
    commands = json.loads(
        (builds.RELEASE / "compile_commands.json").read_text()
    )
    flagged = {
        command["file"].rpartition("/")[2]
        for command in commands
        if re.search(r" -m(avx|fma|f16c|arch|tune|sse|bmi)", command["command"])
    }
    assert flagged == {
        "avx2.cc",
        "avx512.cc",
        "fused_avx2.cc",
        "fused_avx512.cc",
        "fused_avx512_vnni.cc",
    }
