"""How many threads work, and launching them."""

from __future__ import annotations

import os
from typing import Any

import numba

__all__ = ["get_num_threads", "set_num_threads", "threading_info"]

_threads: int | None = None


def _default_threads() -> int:
    asked = os.environ.get("NBCONV_NUM_THREADS")
    if asked:
        return max(1, int(asked))
    return max(1, min(len(os.sched_getaffinity(0)), int(numba.config.NUMBA_NUM_THREADS)))


def get_num_threads() -> int:
    """Return the number of threads that a large convolution uses."""
    global _threads
    if _threads is None:
        _threads = _default_threads()
    return _threads


def set_num_threads(n: int) -> None:
    """Set the number of threads that a large convolution uses."""
    global _threads
    if n < 1:
        raise ValueError(f"set_num_threads: n must be at least 1; got {n}")
    _threads = n


def threading_info() -> dict[str, Any]:
    """Describe the threading layer."""
    return {"threads": get_num_threads()}
