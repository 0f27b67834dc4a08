"""Block copies: `memcpy` and `memset` on flat arrays, which beat a loop for the short runs that panels are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import overload

__all__ = ["copy_run", "zero_run"]


def copy_run(to: np.ndarray, at: int, source: np.ndarray, start: int, count: int) -> None:
    """Copy `count` numbers between flat arrays of one dtype that do not overlap."""
    to[at : at + count] = source[start : start + count]


def zero_run(to: np.ndarray, at: int, count: int) -> None:
    """Set `count` numbers of a flat array to zero."""
    to[at : at + count] = 0


@overload(copy_run)
def _copy_run(to, at, source, start, count):
    def copy(to, at, source, start, count):
        size = to.itemsize
        _memcpy(to.ctypes.data + size * at, source.ctypes.data + size * start, size * count)

    return copy


@overload(zero_run)
def _zero_run(to, at, count):
    def zero(to, at, count):
        _memset(to.ctypes.data + to.itemsize * at, to.itemsize * count)

    return zero


@intrinsic
def _memcpy(typing_context, to, source, size):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source = (builder.inttoptr(address, cgutils.voidptr_t) for address in args[:2])
        cgutils.raw_memcpy(builder, to, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def _memset(typing_context, to, size):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(args[0], cgutils.voidptr_t), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen
