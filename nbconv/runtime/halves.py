"""Half-precision numbers as the 16-bit words that hold them: float16 and bfloat16, to and from float32.

Numba's CPU target has no 16-bit float, and LLVM's own conversion needs library calls on processors without one. These
are plain 32-bit arithmetic that vectorises everywhere. Rounding is to nearest, ties to even; subnormals, infinities
and NaN are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import overload

__all__ = ["bfloat16_to_float", "float16_to_float", "float_to_bfloat16", "float_to_float16"]

_I16, _I32, _F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()
_SIGN, _INFINITY = 0x80000000, 0x7F800000
_HALF_STEP = 0x3F000000  # bits of 0.5, whose unit in the last place is float16's smallest subnormal, 2**-24


def float16_to_float(word: Any) -> Any:
    """Widen the float16 in a 16-bit word."""
    return np.float32(np.uint16(word).view(np.float16))


def float_to_float16(value: Any) -> Any:
    """Round a float32 to a float16, as a 16-bit word."""
    with np.errstate(over="ignore"):
        return np.float32(value).astype(np.float16).view(np.uint16)


def bfloat16_to_float(word: Any) -> Any:
    """Widen the bfloat16 in a 16-bit word."""
    return (np.uint32(word) << np.uint32(16)).view(np.float32)


def float_to_bfloat16(value: Any) -> Any:
    """Round a float32 to a bfloat16, as a 16-bit word."""
    bits = int(np.float32(value).view(np.uint32))
    if bits & 0x7FFFFFFF > _INFINITY:
        return np.uint16(bits >> 16 | 0x40)
    return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def _widen_float16(b: ir.IRBuilder, word: Any) -> Any:
    bits = b.zext(word, _I32)
    sign = b.shl(b.and_(bits, _I32(0x8000)), _I32(16))
    shifted = b.shl(b.and_(bits, _I32(0x7FFF)), _I32(13))
    # The exponent's bias grows from 15 to 127: a product that is exact for subnormals too.
    scaled = b.bitcast(b.fmul(b.bitcast(shifted, _F32), ir.Constant(_F32, 2.0**112)), _I32)
    special = b.or_(shifted, _I32(_INFINITY))
    magnitude = b.select(b.icmp_unsigned(">=", shifted, _I32(0x0F800000)), special, scaled)
    return b.bitcast(b.or_(magnitude, sign), _F32)


def _narrow_float16(b: ir.IRBuilder, value: Any) -> Any:
    bits = b.bitcast(value, _I32)
    sign = b.lshr(b.and_(bits, _I32(_SIGN)), _I32(16))
    size = b.and_(bits, _I32(0x7FFFFFFF))
    odd = b.and_(b.lshr(size, _I32(13)), _I32(1))
    normal = b.lshr(b.sub(b.add(b.add(size, _I32(0xFFF)), odd), _I32(0x38000000)), _I32(13))
    # Below 2**-14 the sum with 0.5 rounds to float16's fixed subnormal step.
    stepped = b.fadd(b.bitcast(size, _F32), b.bitcast(_I32(_HALF_STEP), _F32))
    subnormal = b.sub(b.bitcast(stepped, _I32), _I32(_HALF_STEP))
    half = b.select(b.icmp_unsigned("<", size, _I32(0x38800000)), subnormal, normal)
    half = b.select(b.icmp_unsigned(">=", size, _I32(0x47800000)), _I32(0x7C00), half)
    half = b.select(b.icmp_unsigned(">", size, _I32(_INFINITY)), _I32(0x7E00), half)
    return b.trunc(b.or_(half, sign), _I16)


def _widen_bfloat16(b: ir.IRBuilder, word: Any) -> Any:
    return b.bitcast(b.shl(b.zext(word, _I32), _I32(16)), _F32)


def _narrow_bfloat16(b: ir.IRBuilder, value: Any) -> Any:
    bits = b.bitcast(value, _I32)
    odd = b.and_(b.lshr(bits, _I32(16)), _I32(1))
    rounded = b.lshr(b.add(b.add(bits, _I32(0x7FFF)), odd), _I32(16))
    quiet = b.or_(b.lshr(bits, _I32(16)), _I32(0x40))
    is_nan = b.icmp_unsigned(">", b.and_(bits, _I32(0x7FFFFFFF)), _I32(_INFINITY))
    return b.trunc(b.select(is_nan, quiet, rounded), _I16)


def _compiled(plain: Callable[[Any], Any], emit: Callable[[ir.IRBuilder, Any], Any], signature: Any) -> None:
    @intrinsic
    def convert(typing_context, value):
        return signature, lambda context, builder, sig, args: emit(builder, args[0])

    @overload(plain)
    def choose(value):
        return lambda value: convert(value)


_compiled(float16_to_float, _widen_float16, types.float32(types.uint16))
_compiled(bfloat16_to_float, _widen_bfloat16, types.float32(types.uint16))
_compiled(float_to_float16, _narrow_float16, types.uint16(types.float32))
_compiled(float_to_bfloat16, _narrow_bfloat16, types.uint16(types.float32))
