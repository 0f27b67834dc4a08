"""Scratch memory of the loops: kept between calls, so that small ones do not pay for it."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

__all__ = ["Workspace", "aligned_empty", "give_back", "hold", "take"]

_KEPT_BYTES = 2 << 20  # a larger one is let go
_LINE = 64


class Workspace(NamedTuple):
    """Numbers of the compute type, and integers."""

    numbers: np.ndarray
    integers: np.ndarray
    numbers_size: int
    integers_size: int
    home: deque[Workspace] | None


# By the size of a number: as many as threads have called at once, within reason. Both ends of a deque are atomic.
_singles: deque[Workspace] = deque(maxlen=4)
_doubles: deque[Workspace] = deque(maxlen=4)
_held: dict[np.dtype, tuple[np.ndarray, np.ndarray]] = {}


def take(dtype: np.dtype, numbers: int, integers: int) -> Workspace:
    """Give scratch of at least these sizes, of unknown contents."""
    kept = _singles if dtype.itemsize == 4 else _doubles
    if kept:
        try:
            scratch = kept.pop()
        except IndexError:  # another thread took the last one
            return _make(dtype, numbers, integers, kept)
        if scratch.numbers_size >= numbers and scratch.integers_size >= integers:
            return scratch
        numbers, integers = max(numbers, scratch.numbers_size), max(integers, scratch.integers_size)
    return _make(dtype, numbers, integers, kept)


def give_back(scratch: Workspace) -> None:
    """Keep scratch for the next call; what a call leaves by an exception is simply let go."""
    if scratch.home is not None:
        scratch.home.append(scratch)


def hold(dtype: np.dtype, numbers: int, integers: int) -> tuple[np.ndarray, np.ndarray]:
    """Give scratch of at least these sizes that all calls share which never let go of the interpreter's lock."""
    held = _held.get(dtype)
    if held is None or held[0].size < numbers or held[1].size < integers:
        before = (0, 0) if held is None else (held[0].size, held[1].size)
        # Powers of two: what was given before lives on beside it, and must stay little.
        sizes = [max(size, 1 << wanted.bit_length()) for size, wanted in zip(before, (numbers, integers), strict=True)]
        held = _held[dtype] = aligned_empty(sizes[0], dtype), np.empty(sizes[1], np.int64)
    return held


def _make(dtype: np.dtype, numbers: int, integers: int, home: deque[Workspace]) -> Workspace:
    small = numbers * dtype.itemsize + integers * 8 <= _KEPT_BYTES
    memory = aligned_empty(numbers, dtype), np.empty(integers, np.int64)
    return Workspace(*memory, numbers, integers, home if small else None)


def aligned_empty(numbers: int, dtype: np.dtype) -> np.ndarray:
    """Give a flat array that begins with a line of the cache: a vector that lies across two of them takes two loads."""
    memory = np.empty(numbers * dtype.itemsize + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + numbers * dtype.itemsize].view(dtype)
