"""The README: its Python blocks run, in order, in one namespace; its commands and numbers are those of the project."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests import reference
from tests.helpers import optional

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [(TEXT[: TEXT.index(code)].count("\n"), code) for language, code in BLOCKS if language == "python"]


def run_blocks(wanted):
    namespace = {}
    for line, code in PYTHON:
        if wanted(code):
            exec(compile("\n" * line + code, str(README), "exec"), namespace)


def test_every_block_names_its_language():
    assert {language for language, _ in BLOCKS} <= {"python", "sh", "text"}
    assert len(PYTHON) >= 5


def test_python_blocks_run():
    run_blocks(lambda code: "import torch" not in code)


@pytest.mark.torch
def test_blocks_that_compare_with_torch_run():
    optional("torch", "NBCONV_REQUIRE_TORCH")
    run_blocks(lambda code: True)


def test_lines_fit_a_window():
    assert max(len(line) for line in TEXT.splitlines() if not line.startswith("|")) <= 120


def test_worked_example_agrees_with_the_definition():
    weight = np.array([1, 1, 2] * 8).reshape(4, 2, 3)
    x = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 2, 2]])
    y = reference.conv_transpose(x[None], weight, None, 1, 2, 0, 2)
    assert y.tolist() == [[[8, 8, 10, 10]]]


@pytest.mark.parametrize("end", ["-m nbconv upscale", "-m pytest"])
def test_continuous_integration_finds_both_commands(end):
    (line,) = (line for line in TEXT.splitlines() if line.endswith(end))
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert f"run_readme_line '{end}'" in (README.parent / ".ci" / "run").read_text(encoding="utf-8")
