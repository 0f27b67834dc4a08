"""Whole numbers in kernels: int32, as few and as cheap instructions as the hardware allows."""

from __future__ import annotations

from numpy import int32, uint32

from . import table as T
from .driver import inlined

__all__ = ["quotient", "source_position", "split"]


@inlined
def quotient(number, divisor):
    """Divide numbers that are not negative, rounding down: unsigned, which costs a fifth of what signed does."""
    return int32(uint32(number) // uint32(divisor))


@inlined
def split(number, divisor):
    """Give quotient and remainder of numbers that are not negative."""
    whole = quotient(number, divisor)
    return whole, int32(number - int32(whole * divisor))


@inlined
def source_position(position, size, mode):
    """Give the position of the input that stands at `position`, which may lie in the padding; -1 for zeros."""
    if position >= int32(0) and position < size:
        return position
    if mode == int32(T.REFLECT):
        return int32(-position) if position < int32(0) else int32(int32(2) * int32(size - int32(1)) - position)
    if mode == int32(T.REPLICATE):
        return int32(0) if position < int32(0) else int32(size - int32(1))
    if mode == int32(T.CIRCULAR):
        return int32(position + size) if position < int32(0) else int32(position - size)
    return int32(-1)
