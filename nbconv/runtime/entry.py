"""Entries: the shortest way from Python into compiled code, for calls that are over in microseconds.

Numba looks at the type of each argument and counts references to each array: that takes as long as a small convolution.
An entry is a function of Python's C interface that takes for granted what its caller knows, arrays of certain types,
and reads from each where its numbers begin. One that holds the interpreter's lock is the shortest: no two of its calls
meet, not even in scratch that all of them share.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import callback, pure

__all__ = ["address_entry", "can_enter", "entry"]

_WORD = ir.IntType(64)
_WORDS = _WORD.as_pointer()
_DATA = object.__basicsize__  # of an array: where its data's address stands, right behind what all objects begin with
_FAST_CALL = 0x80  # METH_FASTCALL: arguments come as an array of objects
_UNBOUNDED = _WORD(1 << 40)  # numbers: how many there are is for the callee to know
_defined: list[Any] = []  # what Python's function objects refer to, without saying so


class _Definition(ctypes.Structure):
    """PyMethodDef of Python's C interface."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@lru_cache
def can_enter() -> bool:
    """Say whether this interpreter has a lock and arrays begin as entries expect; not where kernels are interpreted."""
    if pure() or ctypes.sizeof(ctypes.c_void_p) != 8 or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    array = np.empty(1)
    return ctypes.c_void_p.from_address(id(array) + _DATA).value == array.ctypes.data


def entry(function: Any, dtypes: tuple[np.dtype, ...], name: str, *, releases: bool) -> Callable[..., Any]:
    """Compile a function of nine flat arrays for the cache's `name`; give what calls it and returns the last of them.

    It is called with arrays of just these dtypes and of any shapes, whose first number has the lowest address. One that
    `releases` the interpreter's lock is to be given scratch that no other call uses.
    """
    numbers = [types.uint16 if dtype.itemsize == 2 else getattr(types, dtype.name) for dtype in dtypes]
    arrays_at, kept_at = _reader([types.Array(number, 1, "C") for number in numbers]), _keeper(len(dtypes) - 1)

    def enter(owner, objects, count):
        a, b, c, d, e, f, g, h, i = arrays_at(objects)
        function(a, b, c, d, e, f, g, h, i)
        return kept_at(objects)

    def enter_and_release(owner, objects, count):
        a, b, c, d, e, f, g, h, i = arrays_at(objects)
        thread = _let_go_of_lock()
        function(a, b, c, d, e, f, g, h, i)
        _take_lock_back(thread)
        return kept_at(objects)

    return _function(enter_and_release if releases else enter, name + "_releasing" * releases)


@lru_cache
def address_entry() -> Callable[[np.ndarray], int]:
    """Compile what gives the address of an array's first number, fifteen times sooner than NumPy does."""

    def enter(owner, objects, count):
        return _address_at(objects)

    return _function(enter, "enter_address")


def _function(enter: Any, name: str) -> Callable[..., Any]:
    """Compile a function of Python's C interface for the cache's `name`: of its owner, its arguments, their number."""
    compiled = callback(types.intp(types.intp, types.intp, types.intp), enter, name)
    definition = _Definition(b"enter", compiled.address, _FAST_CALL, None)
    _defined.append((compiled, definition))
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    made: Callable[..., Any] = make(ctypes.addressof(definition), None, None)
    return made


@intrinsic
def _let_go_of_lock(typing_context):
    """Release the interpreter's lock and give what stands for this thread."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(context.get_python_api(builder).save_thread(), _WORD)

    return types.intp(), codegen


@intrinsic
def _take_lock_back(typing_context, thread):
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        context.get_python_api(builder).restore_thread(builder.inttoptr(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _object(builder: Any, objects: Any, number: int) -> Any:
    return builder.load(builder.gep(builder.inttoptr(objects, _WORDS), [_WORD(number)]))


def _data_at(builder: Any, objects: Any, number: int) -> Any:
    place = builder.add(_object(builder, objects, number), _WORD(_DATA))
    return builder.load(builder.inttoptr(place, _WORDS))


@intrinsic
def _address_at(typing_context, objects):
    """Give Python's integer for where the data of the first array lie."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = context.get_python_api(builder).long_from_ssize_t(_data_at(builder, args[0], 0))
        return builder.ptrtoint(address, _WORD)

    return types.intp(types.intp), codegen


def _reader(kinds: list[Any]) -> Any:
    """Make the intrinsic that views the memory of each array as a flat one."""

    @intrinsic
    def arrays_at(typing_context, objects):
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = []
            for number, kind in enumerate(kinds):
                start = _data_at(builder, args[0], number)
                item = _WORD(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
                array = context.make_array(kind)(context, builder)
                array.data = builder.inttoptr(start, array.data.type)
                array.itemsize, array.nitems = item, _UNBOUNDED
                array.shape, array.strides = (cgutils.pack_array(builder, [size]) for size in (_UNBOUNDED, item))
                arrays.append(array._getvalue())
            return context.make_tuple(builder, signature.return_type, arrays)

        return types.Tuple(kinds)(types.intp), codegen

    return arrays_at


def _keeper(number: int) -> Any:
    """Make the intrinsic that gives one of the arrays with a reference of its own, as results are given to Python."""

    @intrinsic
    def kept_at(typing_context, objects):
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kept = _object(builder, args[0], number)
            kind = ir.FunctionType(ir.VoidType(), [_WORD])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "Py_IncRef"), [kept])
            return kept

        return types.intp(types.intp), codegen

    return kept_at
