"""Scratch memory of the loops: kept between calls, so that small ones do not pay for it."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

__all__ = ["Workspace", "give_back", "take"]

_KEPT_BYTES = 2 << 20  # a larger one is let go
_kept: dict[np.dtype, deque[Workspace]] = {}


class Workspace(NamedTuple):
    """Numbers of the compute type, and integers."""

    numbers: np.ndarray
    integers: np.ndarray


def take(dtype: np.dtype, numbers: int, integers: int) -> Workspace:
    """Give scratch of at least these sizes, of unknown contents."""
    try:
        kept = _kept[dtype].pop()
    except (KeyError, IndexError):
        return Workspace(_aligned(numbers, dtype), np.empty(integers, np.int64))
    if kept.numbers.size >= numbers and kept.integers.size >= integers:
        return kept
    numbers, integers = max(numbers, kept.numbers.size), max(integers, kept.integers.size)
    return Workspace(_aligned(numbers, dtype), np.empty(integers, np.int64))


def give_back(workspace: Workspace) -> None:
    """Keep scratch for the next call; what a call leaves by an exception is simply let go."""
    numbers = workspace.numbers
    if numbers.nbytes + workspace.integers.nbytes <= _KEPT_BYTES:
        # As many as threads have called at once, within reason: appending is atomic.
        _kept.setdefault(numbers.dtype, deque(maxlen=4)).append(workspace)


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Allocate at a cache line: vectors that cross lines take two loads."""
    line = 64
    memory = np.empty(size * dtype.itemsize + line, np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size * dtype.itemsize].view(dtype)
