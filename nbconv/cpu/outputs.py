"""Where an output lies: rows that share sets of L1 with the rows of x that they are made of push each other out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..runtime.entry import can_enter, gap_entry

__all__ = ["output_maker"]

_WORTH = 1 << 27  # numbers of an output times `apart`: less is done as soon, on the average, wherever it lies


def output_maker(shape: tuple[int, ...], dtype: np.dtype, apart: int) -> Callable[[np.ndarray], np.ndarray]:
    """Give what makes an output for an x: half of `apart` bytes, of so many, from where x lies; 0: anywhere.

    A vector of it lies across two lines of the cache only where the one of x does.
    """
    empty, numbers = np.empty, math.prod(shape)
    if not apart or numbers * apart < _WORTH or not can_enter():
        return lambda x: empty(shape, dtype)
    size, half, array, byte, gap = numbers * dtype.itemsize + apart, apart // 2, np.ndarray, np.dtype("B"), gap_entry()
    aligned = -dtype.itemsize  # whatever x is

    def place(x: np.ndarray) -> np.ndarray:
        memory = empty(size, byte)
        return array(shape, dtype, memory, (gap(x, memory) + half) % apart & aligned)

    return place
