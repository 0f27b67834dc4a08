"""Where an output lies in memory.

A vector that lies across two lines of the cache takes two loads or stores, and NumPy's arrays begin in the middle of a
line. Rows that share sets of L1 with the rows of x that they are made of push each other out. An output that is placed
is a view of some more memory than it needs, and keeps that alive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import begins_lowest, span_of
from ..runtime.entry import address_entry, can_enter
from ..runtime.target import host_target

__all__ = ["output_maker", "output_taker"]

_LINE = 64
# Numbers of an output: fewer are done as soon, on the average, wherever they lie. Where vectors of both are worked on
# side by side, all but Zen wait long for those across lines; on Zen half pay where all rows share one set.
_WORTH, _WORTH_BESIDE, _ONE_SET = 1 << 16, 1 << 13, 4096


def output_maker(shape: tuple[int, ...], dtype: np.dtype, apart: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """Give what makes an output for an x: at the begin of a line, for whatever reads it next.

    Where vectors of both are worked on side by side, `apart` is not None: vectors of both then lie across lines, or
    neither, and rows half of so many bytes, after which they come back to a set of L1, from those of x.
    """
    empty, numbers = np.empty, math.prod(shape)
    if not can_enter() or numbers < _least_worth(apart):
        return lambda x: empty(shape, dtype)
    array, address, byte = np.ndarray, address_entry(), np.dtype("B")
    period, shift, aligned = max(apart or 0, _LINE), (apart or 0) // 2, -dtype.itemsize
    size = numbers * dtype.itemsize + period

    def at_line(x: np.ndarray) -> np.ndarray:
        memory = empty(size, byte)
        return array(shape, dtype, memory, -address(memory) % _LINE)

    def beside(x: np.ndarray) -> np.ndarray:
        memory = empty(size, byte)
        return array(shape, dtype, memory, (address(x) + shift - address(memory)) % period & aligned)

    return at_line if apart is None else beside


def _least_worth(apart: int | None) -> int:
    if apart is None:
        return _WORTH
    if host_target().is_zen:
        return _WORTH // 2 if apart == _ONE_SET else _WORTH
    return _WORTH_BESIDE


def output_taker(out: np.ndarray, *inputs: np.ndarray | None) -> Callable[..., np.ndarray | None] | None:
    """Give what takes an `out` and inputs that lie as these: out itself, or None where `check_out` is to look at it.

    It is sooner done than that. Of no use, it is None: where memory has gaps or runs backwards.
    """
    given = [array for array in inputs if array is not None]
    if not (can_enter() and out.flags.carray and all(map(begins_lowest, given))):
        return None
    address, size = address_entry(), out.nbytes
    spans = [(i, span_of(array)) for i, array in enumerate(inputs) if array is not None]

    def take(out: np.ndarray, *inputs: Any) -> np.ndarray | None:
        low = address(out)
        for i, span in spans:
            if -span < address(inputs[i]) - low < size:
                return None
        return out if out.flags.carray else None

    return take
