"""Python in processes of its own, for tests in which one may die."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import nbconv
from tests import reference
from tests.helpers import Array, rng_for, whole_numbers

ROOT = Path(nbconv.__file__).parents[1]
LINUX = sys.platform == "linux"
# What a test may take on a machine that is shared and slow; nothing here is a measurement.
PATIENCE = 300

# Every script begins so: `check(n)` convolves in nbconv and compares with the definition.
PRELUDE = """
import os, sys, threading
import numpy as np
from tests.processes import check, expected, inputs
"""


def inputs(length: int = 600) -> tuple[Array, Array]:
    """Make x (2, length, 24) and weight (40, 24, 3) of small whole numbers, work enough for two threads."""
    rng = rng_for("processes", length)
    return whole_numbers(rng, (2, length, 24)), whole_numbers(rng, (40, 24, 3))


@cache
def expected(length: int = 600) -> Array:
    """Ask the oracle."""
    x, weight = inputs(length)
    return reference.run("conv1d", x, weight, None, padding=1).astype(np.float32)


def check(length: int = 600) -> bool:
    """Convolve, and compare every number."""
    x, weight = inputs(length)
    return bool(np.array_equal(nbconv.conv1d(x, weight, padding=1), expected(length)))


def check_layer(layer: nbconv.Conv1d) -> bool:
    """Run a layer that came through a pickle."""
    return bool(np.array_equal(layer(inputs()[0]), expected()))


def run_python(code: str, *, timeout: float = PATIENCE, **environment: str) -> str:
    """Run code in a fresh interpreter with these environment variables; it must exit with 0. Return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@cache
def has_layer(layer: str) -> bool:
    """Say whether Numba can use a threading layer here."""
    printed = run_python("import nbconv; print(nbconv.threading_info()['layer'])", NUMBA_THREADING_LAYER=layer)
    return printed == layer


def need_layer(layer: str) -> None:
    """Skip the test without that layer; fail where the environment says that it must be there."""
    if not has_layer(layer):
        if os.environ.get("NBCONV_REQUIRE_LAYERS", "").find(layer) >= 0:
            pytest.fail(f"the threading layer {layer} is missing")
        pytest.skip(f"the threading layer {layer} is not installed")
