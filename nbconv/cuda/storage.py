"""Numbers in memory and numbers in sums: half types are stored as such and computed in float32.

bfloat16 has no type here: its arrays come as the uint16 words that hold them. Each function is its own plain twin, for
the simulator; the compiler takes the version that is written for the type in memory.
"""

from __future__ import annotations

import numpy as np
from numpy import int32

from .driver import SIMULATED, inlined

__all__ = ["add_slices", "narrow", "widen"]

_NOT_A_NUMBER = np.uint32(0x7FC0)


@inlined
def add_slices(partial, item, size, slices):
    """Add number `item` of all slices, `size` numbers each, in their order."""
    total = partial.dtype.type(0)
    at, slice_ = item, int32(0)
    while slice_ < slices:
        total += partial[at]
        at = int32(at + size)
        slice_ = int32(slice_ + int32(1))
    return total


def widen(word):
    """Turn a number as it is stored (bfloat16: its uint16 word) into one of the compute type."""
    if isinstance(word, np.uint16):
        return _widen_bfloat16(word)
    return np.float32(word) if isinstance(word, np.float16) else word


def narrow(value, stored):
    """Round a number of the compute type to what the array `stored` holds, to nearest even."""
    if stored.dtype == np.uint16:
        return _narrow_bfloat16(np.float32(value))
    with np.errstate(over="ignore"):
        return stored.dtype.type(value)


def _widen_bfloat16(word):
    return np.uint32(np.uint32(word) << np.uint32(16)).view(np.float32)


def _narrow_bfloat16(value):
    bits = value.view(np.uint32)
    if value != value:
        return np.uint16(_NOT_A_NUMBER)
    # Half of what is cut off, and one more where the last bit that stays is odd: a carry may reach infinity.
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(bits + np.uint32(odd + np.uint32(0x7FFF))) >> np.uint32(16))


if not SIMULATED:
    from numba.cuda import types
    from numba.cuda.extending import overload, register_jitable

    register_jitable(_widen_bfloat16)
    register_jitable(_narrow_bfloat16)

    @overload(widen)
    def _widen(word):
        if word == types.uint16:
            return lambda word: _widen_bfloat16(word)
        if word == types.float16:
            return lambda word: np.float32(word)
        return lambda word: word

    @overload(narrow)
    def _narrow(value, stored):
        if stored.dtype == types.uint16:
            return lambda value, stored: _narrow_bfloat16(value)
        number = {types.float16: np.float16, types.float32: np.float32, types.float64: np.float64}[stored.dtype]
        return lambda value, stored: number(value)
