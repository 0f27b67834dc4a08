"""Calls through an address: a loop compiled once runs functions that were compiled, or chosen, later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils, errors

from .halves import bfloat16_to_float, float16_to_float
from .jit import callback, compiler_lock, emitted, pure, serial_math
from .memory import Place

__all__ = ["NOTHING", "add_tile", "addition", "address_of", "call", "elementwise", "map_tile"]

NOTHING = 0
_I64 = ir.IntType(64)
_compiled: dict[tuple[Callable[[Any], Any], np.dtype], tuple[int, Any]] = {}
_additions: dict[str, tuple[int, Any]] = {}
_plain: list[Callable[..., Any]] = [lambda value: value]


def address_of(function: Any, arguments: tuple[Any, ...]) -> int:
    """Compile a function of `jit` for arguments of these types; give its address for `call`."""
    if pure():
        return _register(function)[0]
    signature = tuple(function.typeof_pyval(argument) for argument in arguments)
    function.compile(signature)
    compiled = function.overloads[signature]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def call(address: int, arguments: tuple[Any, ...]) -> None:
    """Call the function at an address from `address_of`, with arguments of just those types."""
    _plain[address](*arguments)


def map_tile(address: int, tile: Place, rows: int, row_step: int, columns: int) -> None:
    """Replace each number of a tile by the function's value; `NOTHING` leaves them."""
    if address == NOTHING:
        return
    array, start = tile
    for m in range(rows):
        for i in range(start + m * row_step, start + m * row_step + columns):
            array[i] = _plain[address](array[i])


def add_tile(
    address: int, tile: Place, row: int, source: Place, source_row: int, step: int, rows: int, columns: int
) -> None:
    """Add a tile of an array, of the storage type that `addition` was made for, to one of sums."""
    widen = _plain[address]
    sums, at = tile
    array, start = source
    for m in range(rows):
        for i in range(columns):
            sums[at + m * row + i] += widen(array[start + m * source_row + i * step])


def addition(name: str) -> int:
    """Compile the addition for `add_tile` of arrays of the dtype of that name and return its address."""
    with compiler_lock:
        if name not in _additions:
            _additions[name] = _make_addition(name)
        return _additions[name][0]


def _same(value: Any) -> Any:
    return value


def _make_addition(name: str) -> tuple[int, Any]:
    widen: Any = {"float16": float16_to_float, "bfloat16": bfloat16_to_float}.get(name)
    if pure():
        return _register(widen or _same)
    number = types.float64 if name == "float64" else types.float32
    stored = number if widen is None else types.uint16
    widen = widen or serial_math(_same)

    def add(sums, row, array, array_row, step, rows, columns):
        to = carray(sums, (rows * row + columns,))
        flat = carray(array, (rows * array_row + columns * step,))
        if row == array_row == columns and step == 1:  # one long loop, not many short ones
            rows, columns = 1, rows * columns
        for m in range(rows):
            # Views with a unit step, indexed from zero, are what becomes vector code.
            line = to[m * row : m * row + columns]
            if step == 1:
                added = flat[m * array_row :]
                for i in range(columns):
                    line[i] += widen(added[i])
            else:  # it may lead backwards: unsigned, a place is not counted from the end
                for i in range(columns):
                    line[i] += widen(flat[np.uintp(m * array_row + i * step)])

    integers = [types.intp] * 4
    signature = types.void(types.CPointer(number), types.intp, types.CPointer(stored), *integers)
    compiled = callback(signature, add, f"add_{name}", fast=True)
    return int(compiled.address), compiled


def elementwise(function: Callable[[Any], Any], dtype: np.dtype, name: str | None = None) -> int:
    """Compile a function of one number for `map_tile` and return its address.

    `name` says for the cache on disk what the function is, parameters included; without one it is compiled anew.

    Raises
    ------
    TypeError
        Where Numba cannot compile the function; the text says why.
    """
    key = (function, dtype)
    with compiler_lock:
        if key not in _compiled:
            _compiled[key] = _register(function) if pure() else _compile(function, dtype, name)
        return _compiled[key][0]


def _register(function: Callable[..., Any]) -> tuple[int, Any]:
    _plain.append(getattr(function, "py_func", function))
    return len(_plain) - 1, None


def _compile(function: Callable[[Any], Any], dtype: np.dtype, name: str | None) -> tuple[int, Any]:
    scalar = function if hasattr(function, "py_func") else serial_math(function)
    number = types.float32 if dtype.itemsize == 4 else types.float64

    def tile(pointer, rows, row_step, columns):
        flat = carray(pointer, (rows * row_step + columns,))
        if row_step == columns:
            rows, columns = 1, rows * columns
        for m in range(rows):
            line = flat[m * row_step : m * row_step + columns]
            for i in range(columns):
                line[i] = scalar(line[i])

    signature = types.void(types.CPointer(number), types.intp, types.intp, types.intp)
    try:
        key = None if name is None else f"{name}_{dtype.name}"
        compiled = callback(signature, tile, key, fast=True)
    except errors.NumbaError as error:
        called = getattr(function, "__name__", repr(function))
        raise TypeError(f"activation {called} cannot be compiled for {dtype}: {error}") from None
    return int(compiled.address), compiled


@emitted(call)
def _call(typing_context, address, arguments):
    """Call as compiled callers of the function itself do."""
    kinds = tuple(arguments.types)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_type = context.call_conv.get_function_type(types.none, kinds)
        function = builder.inttoptr(args[0], function_type.as_pointer())
        given = cgutils.unpack_tuple(builder, args[1], len(kinds))
        status, _ = context.call_conv.call_function(builder, function, types.none, kinds, given)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(types.intp, arguments), codegen


@emitted(map_tile)
def _map_tile(typing_context, address, tile, rows, row_step, columns):
    return _call_unless_nothing(5)


@emitted(add_tile)
def _add_tile(typing_context, address, tile, row, source, source_row, step, rows, columns):
    return _call_unless_nothing(8)


def _call_unless_nothing(count: int) -> Any:
    """Call the address that is the first of `count` integers with the others, some of which are places."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.if_then(builder.icmp_signed("!=", args[0], args[0].type(NOTHING))):
            function_type = ir.FunctionType(ir.VoidType(), [_I64] * (count - 1))
            builder.call(builder.inttoptr(args[0], function_type.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * count), codegen
