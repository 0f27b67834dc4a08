"""Meaning of PTX's arithmetic: each opcode as a function of NumPy arrays, one number a thread.

`operation(opcode)` gives the types of the operands, the type of the result and the function. float32 `fma` is computed
in float64 and rounded twice: within one unit in the last place of the device's, and exact for whole numbers. The
approximate functions (`ex2.approx`, ...) are computed exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.cuda.checks.ptx_memory import LOCAL_WINDOW, SHARED_WINDOW
from tests.cuda.checks.ptx_parser import WIDTHS, dtype_of

Array = NDArray[Any]


class Operation(NamedTuple):
    """Types of the operands, type of the result, and the function from the one to the other."""

    takes: tuple[str, ...]
    gives: str
    compute: Callable[..., Array]


COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: (a != b) & ~_unordered(a, b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "num": lambda a, b: ~_unordered(a, b),
    "nan": lambda a, b: _unordered(a, b),
    "neu": lambda a, b: a != b,
    "equ": lambda a, b: (a == b) | _unordered(a, b),
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
}
COMPARISONS |= {"lo": COMPARISONS["lt"], "ls": COMPARISONS["le"], "hi": COMPARISONS["gt"], "hs": COMPARISONS["ge"]}

BITWISE: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}

UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rcp": lambda a: a.dtype.type(1) / a,
    "rsqrt": lambda a: a.dtype.type(1) / np.sqrt(a),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}

ROUNDINGS: dict[str, Callable[[Array], Array]] = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}

SIMPLE: dict[str, Callable[[Array, Array], Array]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def _unordered(a: Array, b: Array) -> Array:
    return (a != a) | (b != b)


@cache
def operation(opcode: tuple[str, ...]) -> Operation:
    """Look an arithmetic opcode up.

    Raises
    ------
    NotImplementedError
        For an instruction whose meaning is not written here.
    """
    name, modifiers, kind = opcode[0], opcode[1:-1], opcode[-1]
    rounding = {
        "rn",
        "rna",
        "rz",
        "rm",
        "rp",
        "approx",
        "full",
        "ftz",
        "lo",
        "hi",
        "wide",
        "sat",
        "relu",
        "NaN",
        "to",
        "uni",
    }
    known = rounding | ROUNDINGS.keys() | COMPARISONS.keys() | BITWISE.keys() | WIDTHS.keys()
    unknown = set(modifiers) - known - {"shared", "global", "local", "l", "r", "wrap", "clamp", "tf32", "shiftamt"}
    maker = MAKERS.get(name)
    if maker is None or unknown or (kind != "pred" and kind not in WIDTHS):
        raise NotImplementedError(".".join(opcode))
    return maker(name, modifiers, kind)


def _directed(exact: Array, store: type, mode: str | None) -> Array:
    """Round float64 numbers to a narrower type: to nearest even, or ``rz`` to zero, ``rm`` down, ``rp`` up."""
    rounded = exact.astype(store)
    if mode is None:
        return rounded
    limit = {"rz": store(0), "rm": store(-np.inf), "rp": store(np.inf)}[mode]
    wrong = {"rz": np.abs(rounded) > np.abs(exact), "rm": rounded > exact, "rp": rounded < exact}[mode]
    return np.where(wrong, np.nextafter(rounded, limit), rounded)


def _direction(modifiers: Sequence[str]) -> str | None:
    return next((modifier for modifier in modifiers if modifier in ("rz", "rm", "rp")), None)


def _saturate(numbers: Array) -> Array:
    return np.where(np.isnan(numbers), 0, np.clip(numbers, 0, 1)).astype(numbers.dtype)


def _binary(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    refuse(kind in ("bf16", "f16x2", "bf16x2"), name, kind)
    compute = SIMPLE[name]
    if mode := _direction(modifiers):
        refuse(kind != "f32" or "sat" in modifiers, name, *modifiers, kind)
        return Operation((kind, kind), kind, lambda a, b: _directed(compute(a.astype(np.float64), b), np.float32, mode))
    if "wide" in modifiers:
        wide = kind[0] + str(2 * int(kind[1:]))
        return Operation((kind, kind), wide, lambda a, b: a.astype(dtype_of(wide)) * b.astype(dtype_of(wide)))
    if "hi" in modifiers:
        refuse(WIDTHS[kind] > 4, name, "hi", kind)
        wide, shift = dtype_of(kind[0] + str(2 * int(kind[1:]))), int(kind[1:])
        return Operation(
            (kind, kind), kind, lambda a, b: (a.astype(wide) * b.astype(wide) >> shift).astype(dtype_of(kind))
        )
    if "sat" in modifiers:
        refuse(kind[0] != "f", name, "sat", kind)
        return Operation((kind, kind), kind, lambda a, b: _saturate(compute(a, b)))
    return Operation((kind, kind), kind, compute)


def _fused(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    refuse(kind in ("bf16", "f16x2", "bf16x2"), name, kind)
    if "wide" in modifiers:
        wide = kind[0] + str(2 * int(kind[1:]))
        d = dtype_of(wide)
        return Operation((kind, kind, wide), wide, lambda a, b, c: a.astype(d) * b.astype(d) + c)
    refuse("hi" in modifiers, name, "hi")
    if kind in ("f32", "f16"):
        exact, store = (np.float64, np.float32) if kind == "f32" else (np.float32, np.float16)
        mode = _direction(modifiers)

        def fma(a: Array, b: Array, c: Array) -> Array:
            product = np.multiply(a, b, dtype=exact)
            product += c
            rounded = _directed(product, store, mode)
            return _saturate(rounded) if "sat" in modifiers else rounded

        return Operation((kind,) * 3, kind, fma)
    refuse(_direction(modifiers) is not None, name, *modifiers, kind)
    return Operation((kind,) * 3, kind, lambda a, b, c: a * b + c)


def _extremum(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    refuse(kind in ("bf16", "f16x2", "bf16x2"), name, kind)
    quiet, spread = (np.fmin, np.minimum) if name == "min" else (np.fmax, np.maximum)
    return Operation((kind, kind), kind, spread if "NaN" in modifiers else quiet)


def _divide(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    if kind[0] == "f":
        return Operation((kind, kind), kind, np.divide)

    def divide(a: Array, b: Array) -> Array:
        safe = np.where(b == 0, b.dtype.type(1), b)
        quotient = a // safe
        if a.dtype.kind == "i":  # PTX cuts towards zero, NumPy towards minus infinity
            quotient = quotient + ((a % safe != 0) & ((a < 0) != (safe < 0)))
        result = (quotient if name == "div" else a - quotient * safe).astype(a.dtype)
        return np.where(b == 0, a.dtype.type(-1 if a.dtype.kind == "i" else np.iinfo(a.dtype).max), result)

    return Operation((kind, kind), kind, divide)


def _unary(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    refuse(kind in ("bf16", "f16x2", "bf16x2"), name, kind)
    return Operation((kind,), kind, UNARY[name])


def _bitwise(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    return Operation((kind, kind), kind, BITWISE[name])


def _not(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    return Operation((kind,), kind, np.invert)


def _shift(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    bits = 8 * WIDTHS[kind]

    def shift(a: Array, by: Array) -> Array:
        amount = np.minimum(by, np.uint32(bits - 1)).astype(a.dtype)
        if name == "shl":
            return np.where(by >= bits, a.dtype.type(0), a << amount)
        return a >> amount if a.dtype.kind == "i" else np.where(by >= bits, a.dtype.type(0), a >> amount)

    return Operation((kind, "u32"), kind, shift)


def _funnel(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    left, clamp = "l" in modifiers, "clamp" in modifiers

    def shift(low: Array, high: Array, by: Array) -> Array:
        amount = (np.minimum(by, 32) if clamp else by & np.uint32(31)).astype(np.uint64)
        both = (high.astype(np.uint64) << np.uint64(32)) | low
        moved = (both << amount) >> np.uint64(32) if left else both >> amount
        return (moved & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    return Operation(("b32", "b32", "u32"), "b32", shift)


def _set_predicate(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    compare = COMPARISONS[modifiers[0]]
    combine = next((BITWISE[m] for m in modifiers if m in BITWISE), None)
    if combine:
        return Operation((kind, kind, "pred"), "pred", lambda a, b, p: combine(compare(a, b), p))
    return Operation((kind, kind), "pred", compare)


def _select(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    return Operation((kind, kind, "pred"), kind, lambda a, b, p: np.where(p, a, b))


def _copysign(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    return Operation((kind, kind), kind, lambda sign, size: np.copysign(size, sign))


def _insert_bits(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    def insert(a: Array, b: Array, at: Array, count: Array) -> Array:
        mask = _ones(count) << at.astype(np.uint64)
        return ((b & ~mask) | ((a.astype(np.uint64) << at.astype(np.uint64)) & mask)).astype(b.dtype)

    refuse(kind != "b32", name, kind)
    return Operation((kind, kind, "u32", "u32"), kind, insert)


def _extract_bits(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    refuse(kind != "u32", name, kind)
    return Operation(
        (kind, "u32", "u32"), kind, lambda a, at, count: ((a >> np.minimum(at, 31)) & _ones(count)).astype(np.uint32)
    )


def _ones(count: Array) -> Array:
    return (np.uint64(1) << np.minimum(count, 63).astype(np.uint64)) - np.uint64(1)


def _permute_bytes(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    def permute(a: Array, b: Array, selector: Array) -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        result = np.zeros(np.broadcast(a, b, selector).shape, np.uint64)
        for i in range(4):
            nibble = (selector >> np.uint32(4 * i)) & np.uint32(15)
            byte = (both >> (np.uint64(8) * (nibble & np.uint32(7)))) & np.uint64(0xFF)
            byte = np.where(
                nibble & np.uint32(8), np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0)), byte
            )
            result |= byte << np.uint64(8 * i)
        return result.astype(np.uint32)

    return Operation(("b32",) * 3, "b32", permute)


def _convert(name: str, modifiers: Sequence[str], source: str) -> Operation:
    target = next(m for m in reversed(modifiers) if m in WIDTHS or m == "tf32")
    if target == "tf32":
        refuse(source != "f32", name, source)
        half_up = "rna" in modifiers

        def to_tf32(bits: Array) -> Array:
            lift = np.uint32(0x1000) if half_up else np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
            return np.where(_is_finite(bits), (bits + lift) & np.uint32(0xFFFFE000), bits)

        return Operation(("b32",), "b32", to_tf32)
    if target == "bf16":
        refuse(source != "f32" or "rn" not in modifiers, name, target, source)
        return Operation(("b32",), "b16", to_bfloat16)
    if source == "bf16":
        refuse(target != "f32", name, target, source)
        return Operation(("b16",), "b32", lambda bits: bits.astype(np.uint32) << np.uint32(16))
    to_whole = next((ROUNDINGS[m] for m in modifiers if m in ROUNDINGS), None)
    dtype = dtype_of(target)
    if source[0] == "f" and target[0] != "f":
        refuse(to_whole is None, name, *modifiers)
        limits = np.iinfo(dtype)

        def to_integer(a: Array) -> Array:
            wide = np.nan_to_num(to_whole(a.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
            inside = np.clip(
                wide, float(limits.min), np.nextafter(float(limits.max), 0) if limits.bits == 64 else limits.max
            )
            return np.where(wide >= float(limits.max), dtype.type(limits.max), inside.astype(dtype))

        return Operation((source,), target, to_integer)
    if to_whole is not None:
        return Operation((source,), target, lambda a: to_whole(a).astype(dtype))
    if "sat" in modifiers and target[0] == "f":
        return Operation((source,), target, lambda a: _saturate(a).astype(dtype))
    refuse("sat" in modifiers, name, *modifiers)
    return Operation((source,), target, lambda a: a.astype(dtype))


def to_bfloat16(bits: Array) -> Array:
    """Round float32 bits to the nearest bfloat16, ties to even."""
    lift = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, np.uint32(0x7FFF), (bits + lift) >> np.uint32(16)).astype(np.uint16)


def _is_finite(bits: Array) -> Array:
    return (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)


def _convert_address(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(next(m for m in modifiers if m != "to"), 0)
    step = np.uint64(window)
    if "to" in modifiers:
        return Operation((kind,), kind, lambda a: a - step)
    return Operation((kind,), kind, lambda a: a + step)


def refuse(condition: bool, *words: str) -> None:
    """Say that a variant of an instruction is unknown."""
    if condition:
        raise NotImplementedError(" ".join(words))


def _count_ones(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    return Operation((kind,), "u32", lambda a: np.bitwise_count(a).astype(np.uint32))


def _leading_zeros(name: str, modifiers: Sequence[str], kind: str) -> Operation:
    refuse(kind != "b32", name, kind)
    return Operation((kind,), "u32", lambda a: (32 - np.ceil(np.log2(a.astype(np.float64) + 1))).astype(np.uint32))


MAKERS: dict[str, Callable[[str, Sequence[str], str], Operation]] = {
    **dict.fromkeys(SIMPLE, _binary),
    **dict.fromkeys(("fma", "mad"), _fused),
    **dict.fromkeys(("min", "max"), _extremum),
    **dict.fromkeys(("div", "rem"), _divide),
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BITWISE, _bitwise),
    "not": _not,
    **dict.fromkeys(("shl", "shr"), _shift),
    "shf": _funnel,
    "setp": _set_predicate,
    "selp": _select,
    "copysign": _copysign,
    "bfi": _insert_bits,
    "bfe": _extract_bits,
    "prmt": _permute_bytes,
    "cvt": _convert,
    "cvta": _convert_address,
    "popc": _count_ones,
    "clz": _leading_zeros,
}
