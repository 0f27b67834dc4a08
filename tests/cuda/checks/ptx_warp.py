"""Instructions that a warp executes as one: ldmatrix, mma.sync and shfl.sync.

The layouts of fragments are those of the PTX ISA, "Matrix Fragments for mma.m16n8k8 / m16n8k16". Products are summed in
float64 and rounded to float32 once; a device adds in an order, and with a rounding, of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GROUP, MEMBER = np.arange(32) // 4, np.arange(32) % 4
TF32_BITS = np.uint32(0xFFFFE000)


def spread_matrices(rows: Array, transposed: bool) -> list[Array]:
    """Give each thread its piece of ldmatrix's 8x8 matrices of 16-bit numbers.

    `rows` is (warps, 32, 16) uint8: the 16 bytes at each thread's address, eight threads a matrix. One uint32 array of
    (warps * 32,) comes for each matrix.
    """
    halves = np.ascontiguousarray(rows).view(np.uint16)
    pieces = []
    for first in range(0, 32, 8):
        matrix = halves[:, first : first + 8]
        matrix = matrix.transpose(0, 2, 1) if transposed else matrix
        pieces.append(np.ascontiguousarray(matrix).view(np.uint32).reshape(-1))
    return pieces


def multiply(opcode: tuple[str, ...], a: Sequence[Array], b: Sequence[Array], c: Sequence[Array]) -> list[Array]:
    """Compute mma.sync: `a` and `b` are registers of bits, uint32; `c` float32; every array is (warps * 32,).

    Raises
    ------
    NotImplementedError
        For a shape or types not written here.
    """
    shape = next(part for part in opcode if part.startswith("m16n8"))
    layout = opcode[opcode.index(shape) + 1 :]
    if layout == ("row", "col", "f32", "tf32", "tf32", "f32") and shape in ("m16n8k4", "m16n8k8"):
        depth, unpack = int(shape[6:]), _unpack_tf32
        a_places = [(GROUP + 8 * (i % 2), MEMBER + 4 * (i // 2)) for i in range(len(a))]
        b_places = [(MEMBER + 4 * i, GROUP) for i in range(len(b))]
        step = 1
    elif shape in ("m16n8k8", "m16n8k16") and layout in _HALVES:
        depth, unpack = int(shape[6:]), _HALVES[layout]
        a_places = [(GROUP + 8 * (i % 2), 2 * MEMBER + 8 * (i // 2)) for i in range(len(a))]
        b_places = [(2 * MEMBER + 8 * i, GROUP) for i in range(len(b))]
        step = 2
    else:
        raise NotImplementedError(".".join(opcode))
    if len(a) != depth * 16 // 32 // step or len(b) != depth * 8 // 32 // step or len(c) != 4:
        raise NotImplementedError(f"{'.'.join(opcode)} with {len(a)}, {len(b)}, {len(c)} registers")
    warps = len(a[0]) // 32
    left, right = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8))
    for register, (row, column) in zip(a, a_places, strict=True):
        for i, numbers in enumerate(unpack(register)):
            left[:, row, column + i] = numbers.reshape(warps, 32)
    for register, (row, column) in zip(b, b_places, strict=True):
        for i, numbers in enumerate(unpack(register)):
            right[:, row + i, column] = numbers.reshape(warps, 32)
    c_places = [(GROUP + 8 * (i // 2), 2 * MEMBER + i % 2) for i in range(4)]
    total = np.zeros((warps, 16, 8))
    for register, (row, column) in zip(c, c_places, strict=True):
        total[:, row, column] = register.reshape(warps, 32)
    total += left @ right
    return [total[:, row, column].reshape(-1).astype(np.float32) for row, column in c_places]


def _unpack_tf32(bits: Array) -> tuple[Array, ...]:
    return ((bits & TF32_BITS).view(np.float32),)


def _unpack_bfloat16(bits: Array) -> tuple[Array, ...]:
    return (bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _unpack_float16(bits: Array) -> tuple[Array, ...]:
    pairs = np.ascontiguousarray(bits).view(np.float16).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


_HALVES: dict[tuple[str, ...], Callable[[Array], tuple[Array, ...]]] = {
    ("row", "col", "f32", "bf16", "bf16", "f32"): _unpack_bfloat16,
    ("row", "col", "f32", "f16", "f16", "f32"): _unpack_float16,
}


def shuffle_sources(mode: str, threads: int, by: Array, clamp: Array) -> tuple[Array, Array]:
    """Tell for shfl.sync whose value each thread takes, and whether that one is inside its segment."""
    lane, warp = np.arange(threads) % 32, np.arange(threads) // 32 * 32
    segment = (clamp.astype(np.int64) >> 8) & 31
    limit = clamp.astype(np.int64) & 31
    by = by.astype(np.int64) & 31
    first, last = lane & segment, (lane & segment) | (limit & ~segment)
    source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first | (by & ~segment)}[mode]
    inside = source >= last if mode == "up" else source <= last
    return warp + np.where(inside, source, lane), inside
