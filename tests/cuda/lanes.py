"""What a test of the CUDA side needs: where it is missing the module is skipped, or fails where the lane must run."""

from __future__ import annotations

import os

import pytest

from tests.helpers import optional

REQUIRED = "NBCONV_REQUIRE_CUDA_LANES"
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def needs_numba_cuda() -> None:
    """Skip the calling module where the package numba-cuda is not installed."""
    optional("numba_cuda", REQUIRED)


def needs_simulator() -> None:
    """Skip the calling module outside of the simulator, which a process chooses before it imports Numba."""
    needs_numba_cuda()
    _need(SIMULATED, "runs in the CUDA simulator, in a process of its own: set NUMBA_ENABLE_CUDASIM=1")
    from tests.cuda.checks import quick_simulator

    quick_simulator.install()


def needs_compiler() -> None:
    """Skip the calling module in the simulator, which compiles nothing."""
    needs_numba_cuda()
    _need(not SIMULATED, "compiles for a device, which the simulator (NUMBA_ENABLE_CUDASIM=1) cannot")


def _need(there: bool, reason: str) -> None:
    if there:
        return
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
