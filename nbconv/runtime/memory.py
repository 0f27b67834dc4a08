"""Block copies: `memcpy` and `memset` on flat arrays, which beat a loop for the short runs that panels are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils

from .jit import emitted

__all__ = ["Place", "copy_run", "element_pointer", "past_vector", "place", "settle", "zero_run"]


class Place(NamedTuple):
    """Where a number of a flat array lies; in compiled code, its address: no reference to the array is counted."""

    array: np.ndarray
    start: int


def place(array: np.ndarray, start: int) -> Place:
    """Name a place for functions that take an array from there on."""
    return Place(array, start)


def copy_run(to: np.ndarray, at: int, source: np.ndarray, start: int, count: int) -> None:
    """Copy `count` numbers between flat arrays of one dtype that do not overlap."""
    to[at : at + count] = source[start : start + count]


def zero_run(to: np.ndarray, at: int, count: int) -> None:
    """Set `count` numbers of a flat array to zero."""
    to[at : at + count] = 0


def settle() -> None:
    """Let other threads see what was written past the caches before what this one writes from now on."""


def past_vector(array: np.ndarray, start: int, width: int) -> int:
    """Give how many numbers a place lies past a multiple of the size of `width` of them, a power of two, in memory."""
    return int(array[start:].ctypes.data // array.itemsize % width)


def element_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Emit the address of one element of a flat array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


@emitted(place)
def _place(typing_context, array, start):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(element_pointer(context, builder, signature.args[0], *args), args[1].type)

    return types.intp(array, types.intp), codegen


@emitted(past_vector)
def _past_vector(typing_context, array, start, width):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        address = builder.ptrtoint(element_pointer(context, builder, kind, *args[:2]), args[1].type)
        numbers = builder.udiv(address, address.type(_item_size(context, kind)))
        return builder.urem(numbers, args[2])

    return types.intp(array, types.intp, types.intp), codegen


@emitted(copy_run)
def _copy_run(typing_context, to, at, source, start, count):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = element_pointer(context, builder, signature.args[0], args[0], args[1])
        cgutils.raw_memcpy(builder, first, element_pointer(context, builder, signature.args[2], args[2], args[3]),
                           args[4], _item_size(context, to))  # fmt: skip
        return context.get_dummy_value()

    return types.void(to, types.intp, source, types.intp, types.intp), codegen


@emitted(zero_run)
def _zero_run(typing_context, to, at, count):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = element_pointer(context, builder, signature.args[0], args[0], args[1])
        size = builder.mul(args[2], args[2].type(_item_size(context, to)))
        cgutils.memset(builder, builder.bitcast(first, cgutils.voidptr_t), size, 0)
        return context.get_dummy_value()

    return types.void(to, types.intp, types.intp), codegen


@emitted(settle)
def _settle(typing_context):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


def _item_size(context: Any, array_type: Any) -> int:
    return int(context.get_abi_sizeof(context.get_data_type(array_type.dtype)))
