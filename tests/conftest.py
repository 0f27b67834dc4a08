"""Settings of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import nbconv

settings.register_profile(
    "nbconv",
    max_examples=100,
    deadline=None,  # the first example compiles
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("nbconv")

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


@pytest.fixture(autouse=INTERPRETED)
def silent_arithmetic() -> Iterator[None]:
    """Let interpreted kernels meet NaN and infinity as compiled ones do, without NumPy's warnings."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Put the number of threads back after a test that sets it."""
    before = nbconv.get_num_threads()
    yield
    nbconv.set_num_threads(before)
