"""What is loaded when, and what is said where something is missing; each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.lanes import REQUIRED

ROOT = Path(__file__).parents[2]
INSTALLED = importlib.util.find_spec("numba_cuda") is not None
CALL = "nbconv.conv1d(np.ones((4, 1)), np.ones((1, 1, 2)), device='cuda')"
LAYER = "nbconv.Conv1d(np.ones((1, 1, 2))).to('cuda')"
THERE = "type('There', (), {'__dlpack_device__': lambda self: (2, 0)})()"
ARRAYS = f"nbconv.conv1d({THERE}, {THERE})"
WITHOUT = "import sys; sys.modules['numba_cuda'] = None\n"

needs_package = pytest.mark.skipif(
    not INSTALLED and os.environ.get(REQUIRED) != "1", reason="numba_cuda is not installed"
)


def python(code: str) -> str:
    """Run code in a fresh interpreter outside of the simulator; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_ENABLE_CUDASIM": "0", "CUDA_VISIBLE_DEVICES": ""}
    code = f"import numpy as np, nbconv\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def error_of(code: str, before: str = "") -> str:
    """Give the text of the DeviceError that code raises."""
    return python(
        f"{before}try:\n    {code}\nexcept nbconv.DeviceError as error:\n"
        "    assert isinstance(error, RuntimeError)\n    print(error)"
    )


def test_the_cpu_loads_nothing_of_cuda() -> None:
    loaded = "[name for name in sys.modules if name.startswith(('numba.cuda', 'nbconv.cuda', 'numba_cuda', 'cuda'))]"
    assert python(f"import sys; nbconv.DeviceError; print({loaded})") == "[]"
    assert python(f"import sys; nbconv.conv1d(np.ones((4, 1)), np.ones((1, 1, 2))); print({loaded})") == "[]"


@pytest.mark.parametrize("code", [CALL, LAYER, ARRAYS], ids=["device", "layer", "arrays"])
def test_without_numba_cuda(code: str) -> None:
    said = error_of(code, WITHOUT)
    assert "numba-cuda" in said
    assert 'pip install "nbconv[cuda12]"' in said


@needs_package
@pytest.mark.parametrize("code", [CALL, LAYER, ARRAYS], ids=["device", "layer", "arrays"])
def test_without_a_device(code: str) -> None:
    said = error_of(code)
    assert said.startswith("no CUDA device can be used: ")
    assert 'pip install "nbconv[cuda12]"' in said


def test_mixed_arrays_need_no_package_to_be_refused() -> None:
    call = f"nbconv.conv1d({THERE}, np.ones((1, 1, 2)))"
    said = python(f"{WITHOUT}try:\n    {call}\nexcept TypeError as error:\n    print(error)")
    assert said.startswith("conv1d: x (There) is on a device, weight (ndarray) on the CPU")


@needs_package
def test_names_that_numpy_has_dropped_are_lent_to_the_import_only() -> None:
    code = "vars(np).pop('row_stack', None)\nfrom nbconv.cuda import driver\nprint('row_stack' in vars(np))"
    assert python(f"import warnings; warnings.simplefilter('ignore')\n{code}") == "False"
