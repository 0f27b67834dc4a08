"""The weight's gradient on the tensor cores: tf32, 3xTF32, bfloat16 and float16, all with sums in float32.

Both operands lie in shared memory position by position, so that the left fragments are read as the right ones are.

What the backend calls: as in `grad_gemm`, with `KERNELS[kind, tile]`, for what `covers` says; kinds and types of arrays
are those of `tensor_core`.
"""

from __future__ import annotations

from typing import Any

from numpy import float32, int32, int64

from ..geometry import Geometry
from . import grad_gemm
from .driver import cuda, inlined, kernel
from .grad_core import WALK, result_place, slice_product
from .intrinsics import ALIGNMENT, bits_of, fresh, ldmatrix4_transposed, load1, mma_bf16, mma_f16, store2
from .tensor_fragments import (
    FLOAT_CHUNK,
    FLOAT_MASK,
    FLOAT_SHIFT,
    FROM_LEFT,
    FROM_RIGHT,
    HALF_CHUNK,
    HALF_MASK,
    HALF_SHIFT,
    STAGES,
    STAGES_X3,
    floats_place,
    halves_place,
    own_place,
    right_floats,
    right_halves,
    slice_halves,
    slice_tf32,
    slice_tf32x3,
)

__all__ = ["KERNELS", "covers"]


@inlined
def read_floats(thread, m_tile, n_tile, left_size, reading, sums):
    """Find where a lane reads numbers of 4 bytes: columns of both operands' fragments."""
    lane = int32(thread & 31)
    row, column = own_place(thread, n_tile, sums.shape[0])
    reading[FROM_LEFT] = fresh(floats_place(lane, row, m_tile))
    reading[FROM_RIGHT] = fresh(right_floats(lane, column, n_tile, left_size))


@inlined
def read_halves(thread, m_tile, n_tile, left_size, reading, sums):
    """Find where a lane reads numbers of 2 bytes: its rows of the matrices, which are positions.

    Left, the second matrix is 8 rows of the tile further on and the third 8 positions; right it is the other way round.
    """
    lane = int32(thread & 31)
    row, column = own_place(thread, n_tile, sums.shape[0])
    position = int32(int32(lane & 7) + 8 * int32(lane >> 4))
    reading[FROM_LEFT] = fresh(halves_place(lane, position, int32(row + int32(lane & 8)), m_tile))
    reading[FROM_RIGHT] = fresh(right_halves(lane, column, n_tile, left_size))


@inlined
def floats_of_left(shared, left, half, i, m_tile):
    """Read left fragment `i` of half a part, numbers of 4 bytes: four words a lane."""
    upper, lower = int32(left ^ (16 * i)), int32(left ^ (16 * i + 8))
    a0, a1 = load1(shared, upper, 8 * half * m_tile), load1(shared, lower, 8 * half * m_tile)
    a2, a3 = load1(shared, upper, (8 * half + 4) * m_tile), load1(shared, lower, (8 * half + 4) * m_tile)
    return bits_of(a0), bits_of(a1), bits_of(a2), bits_of(a3)


@inlined
def halves_of_left(shared, left, half, i, m_tile):
    """Read left fragment `i` of half a part, numbers of 2 bytes: four words a lane."""
    return ldmatrix4_transposed(shared, int32(left ^ (8 * i)), 8 * m_tile * half)


@inlined
def multiply_tf32(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice in tf32."""
    slice_tf32(floats_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def multiply_tf32x3(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice in 3xTF32."""
    slice_tf32x3(floats_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def multiply_bf16(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice of bfloat16."""
    slice_halves(mma_bf16, halves_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def multiply_f16(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice of float16."""
    slice_halves(mma_f16, halves_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def store_sums(partial, table, sums, m_tile, n_tile):
    """Write this lane's pairs of the tile where they lie inside of the result."""
    zero = fresh(int32(0))
    thread = int32(int32(cuda.threadIdx.x) + zero)
    first_row, first_column, rows, columns, start = result_place(table, zero, m_tile, n_tile)
    own_row, own_column = own_place(thread, n_tile, sums.shape[0])
    lane = int32(thread & 31)
    first_row = int32(int32(first_row + own_row) + int32(lane >> 2))
    column = int32(int32(first_column + own_column) + 2 * int32(lane & 3))
    for i in range(sums.shape[0]):
        for part in range(2):
            row = int32(first_row + 16 * i + 8 * part)
            line = int32(start + int32(row * columns))
            if row < rows:
                for j in range(4):
                    at = int32(column + 8 * j)
                    if at < columns:
                        n = 4 * j + 2 * part
                        store2(partial, int32(line + at), (sums[i, n], sums[i, n + 1]))


@inlined
def tile_of_floats(windows, points, partial, table, rows_of_slice, shared, sums, m_tile, n_tile, threads):
    """Make a tile in tf32; the walk's numbers stand in registers."""
    walk = cuda.local.array(WALK, int32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, int64(m_tile), int64(n_tile),
        int64(threads), 1, STAGES, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT, False, read_floats, multiply_tf32, store_sums,
    )  # fmt: skip


@inlined
def tile_of_split_floats(windows, points, partial, table, rows_of_slice, shared, walk, sums, m_tile, n_tile, threads):
    """Make a tile in 3xTF32; the walk's numbers stand in shared memory, one column a thread."""
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, int32(cuda.threadIdx.x), int64(threads), sums,
        int64(m_tile), int64(n_tile), int64(threads), 1, STAGES_X3, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT, False,
        read_floats, multiply_tf32x3, store_sums,
    )  # fmt: skip


@inlined
def tile_of_halves(windows, points, partial, table, rows_of_slice, shared, sums, m_tile, n_tile, threads, multiply):
    """Make a tile of numbers of 2 bytes; the walk's numbers stand in registers."""
    walk = cuda.local.array(WALK, int32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, int64(m_tile), int64(n_tile),
        int64(threads), 1, STAGES, HALF_CHUNK, HALF_MASK, HALF_SHIFT, False, read_halves, multiply, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(256, 2))
def tf32_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_floats(windows, points, partial, table, rows_of_slice, shared, sums, 128, 128, 256)


@kernel(launch_bounds=(128, 4))
def tf32_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_floats(windows, points, partial, table, rows_of_slice, shared, sums, 64, 64, 128)


@kernel(launch_bounds=(256, 2))
def tf32x3_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(4 * 256, int32)
    sums = cuda.local.array((4, 16), float32)
    tile_of_split_floats(windows, points, partial, table, rows_of_slice, shared, walk, sums, 128, 128, 256)


@kernel(launch_bounds=(128, 4))
def tf32x3_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(4 * 128, int32)
    sums = cuda.local.array((2, 16), float32)
    tile_of_split_floats(windows, points, partial, table, rows_of_slice, shared, walk, sums, 64, 64, 128)


@kernel(launch_bounds=(256, 2))
def bf16_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(windows, points, partial, table, rows_of_slice, shared, sums, 128, 128, 256, multiply_bf16)


@kernel(launch_bounds=(128, 4))
def bf16_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_halves(windows, points, partial, table, rows_of_slice, shared, sums, 64, 64, 128, multiply_bf16)


@kernel(launch_bounds=(256, 2))
def f16_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(windows, points, partial, table, rows_of_slice, shared, sums, 128, 128, 256, multiply_f16)


@kernel(launch_bounds=(128, 4))
def f16_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_halves(windows, points, partial, table, rows_of_slice, shared, sums, 64, 64, 128, multiply_f16)


KERNELS: dict[tuple[str, str], Any] = {
    ("tf32", "128x128"): tf32_128x128,
    ("tf32", "64x64"): tf32_64x64,
    ("tf32x3", "128x128"): tf32x3_128x128,
    ("tf32x3", "64x64"): tf32x3_64x64,
    ("bf16", "128x128"): bf16_128x128,
    ("bf16", "64x64"): bf16_64x64,
    ("f16", "128x128"): f16_128x128,
    ("f16", "64x64"): f16_64x64,
}
"""The kernel of (kind, tile)."""


def covers(pairs: Geometry, itemsize: int) -> bool:
    """Say whether these kernels make the gradient: channels by 16 bytes, else as `grad_gemm`."""
    chunk = 16 // itemsize
    c_window, c_point = pairs.c_in // pairs.groups, pairs.c_out // pairs.groups
    return grad_gemm.covers(pairs) and c_window % chunk == 0 and c_point % chunk == 0
