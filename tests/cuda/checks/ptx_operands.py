"""Operands of PTX instructions, compiled to Python functions of a block.

Registers are unsigned arrays, one number a thread, or boolean ones; they are replaced, never written in place. A mask
of None stands for all threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tests.cuda.checks.ptx_memory import Fault
from tests.cuda.checks.ptx_parser import WIDTHS, dtype_of

if TYPE_CHECKING:
    from tests.cuda.checks.ptx_interpreter import Block, Program

Array = NDArray[Any]
Step = Callable[["Block", "Array | None"], None]
Reader = Callable[["Block"], Array]
Writer = Callable[["Block", Array, "Array | None"], None]

ADDRESS = re.compile(r"\[\s*([^+\]\s]+)\s*(?:\+\s*(-?\w+))?\s*\]")


def reader(program: Program, operand: str, kind: str) -> Reader:
    """Read an operand as numbers of a type; a wider register gives its low bits."""
    if operand in program.slots:
        slot = program.slots[operand]
        register = program.function.registers[operand]
        if kind == "pred" or register == "pred":
            if kind != register:
                raise NotImplementedError(f"{operand} as {kind}")
            return lambda block: block.registers[slot]
        dtype = dtype_of(kind)
        if WIDTHS[register] == WIDTHS[kind]:
            return lambda block: block.registers[slot].view(dtype)
        if WIDTHS[register] < WIDTHS[kind]:
            raise NotImplementedError(f"{operand}, a {register}, as {kind}")
        narrow = np.dtype(f"u{WIDTHS[kind]}")
        return lambda block: block.registers[slot].astype(narrow).view(dtype)
    if kind == "pred":
        truth = np.array([literal(operand, "b32")[0] != 0])
        return lambda block: truth
    dtype = dtype_of(kind)
    if operand.startswith("%") or operand == "WARP_SZ":
        return lambda block: block.special[operand].astype(f"u{dtype.itemsize}").view(dtype)
    for places in (program.shared_places, program.local_places):
        if operand in places:
            constant = np.array([places[operand]], f"u{dtype.itemsize}")
            return lambda block: constant
    if operand in program.function.variables:
        return lambda block: np.array([block.parameters[operand]], f"u{dtype.itemsize}")
    constant = literal(operand, kind)
    return lambda block: constant


def literal(text: str, kind: str) -> Array:
    """Read a number as PTX writes it: decimal, hexadecimal, ``0f3F800000``, ``0d3FF0000000000000``."""
    width, dtype = WIDTHS[kind], dtype_of(kind)
    bits = re.fullmatch(r"0[fFdD]([0-9A-Fa-f]+)", text)
    if bits and len(bits.group(1)) in (8, 16):
        source = np.array([int(bits.group(1), 16)], f"u{len(bits.group(1)) // 2}")
        if source.itemsize != width:
            raise NotImplementedError(f"{text} as {kind}")
        return source.view(dtype)
    if re.fullmatch(r"-?(0[xX][0-9A-Fa-f]+|\d+)U?", text):
        return np.array([int(text.rstrip("U"), 0) & ((1 << 8 * width) - 1)], f"u{width}").view(dtype)
    raise NotImplementedError(f"operand {text}")


def writer(program: Program, operand: str) -> Writer:
    """Write a register; a wider register takes the number with its sign."""
    if operand == "_":
        return lambda block, value, mask: None
    if operand not in program.slots:
        raise NotImplementedError(f"result {operand}")
    slot, register = program.slots[operand], program.function.registers[operand]
    dtype = np.dtype(bool if register == "pred" else f"u{WIDTHS[register]}")

    def write(block: Block, value: Array, mask: Array | None) -> None:
        if value.dtype != dtype:
            if value.dtype.itemsize == dtype.itemsize and register != "pred":
                value = value.view(dtype)
            elif value.dtype.kind in "iu" and value.dtype.itemsize < dtype.itemsize:
                value = value.astype(f"{value.dtype.kind}{dtype.itemsize}").view(dtype)
            else:
                raise NotImplementedError(f"{operand}, a {register}, from {value.dtype}")
        if mask is not None:
            value = np.where(mask, value, block.registers[slot])
        elif len(value) != block.threads:
            value = np.full(block.threads, value[0])
        block.registers[slot] = value

    return write


def address(program: Program, operand: str) -> Reader:
    """Read ``[register + offset]`` as 64-bit addresses."""
    found = ADDRESS.fullmatch(operand)
    if not found:
        raise NotImplementedError(f"address {operand}")
    name, offset = found.groups()
    wide = program.function.registers.get(name, "b64")
    base = reader(program, name, "b64" if WIDTHS[wide] == 8 else "b32")
    shift = np.uint64(int(offset or "0", 0) & (2**64 - 1))
    return lambda block: np.broadcast_to(base(block).astype(np.uint64) + shift, block.threads)


def active(block: Block, mask: Array | None) -> Any:
    """Index of the threads that take part."""
    return slice(None) if mask is None else mask


def need_whole_warps(block: Block, mask: Array | None, what: str) -> None:
    """Refuse warp-wide instructions of part of a warp."""
    if mask is not None and (np.add.reduceat(mask.astype(int), np.arange(0, block.threads, 32)) % 32).any():
        raise Fault(f"{what} without the whole warp")
    if block.threads % 32:
        raise Fault(f"{what} in a block of {block.threads} threads")
