"""The weight's gradient on the tensor cores: tf32, 3xTF32, bfloat16 and float16, all with sums in float32.

Both operands lie in shared memory position by position, so that the left fragments are read as the right ones are.

What the backend calls: as in `grad_gemm`, with `KERNELS[kind, tile]`, for what `covers` says; kinds and types of arrays
are those of `tensor_core`.
"""

from __future__ import annotations

from typing import Any

from numpy import float32, int32, uint32

from ..geometry import Geometry
from . import grad_gemm
from .driver import cuda, inlined, kernel
from .gemm_core import WORDS
from .grad_core import WALK, result_place, slice_product
from .intrinsics import (
    ALIGNMENT,
    bits_of,
    fresh,
    ldmatrix4_transposed,
    load1,
    mma_bf16,
    mma_f16,
    mma_tf32,
    round_tf32,
    store2,
    sync_warp,
)
from .tensor_fragments import (
    FLOAT_CHUNK,
    FLOAT_MASK,
    FLOAT_SHIFT,
    FROM_LEFT,
    FROM_RIGHT,
    HALF_CHUNK,
    HALF_MASK,
    HALF_SHIFT,
    LARGE,
    STAGES,
    STAGES_X3,
    add_fragment,
    own_place,
    small_part,
)

__all__ = ["KERNELS", "covers"]


@inlined
def read_floats(thread, m_tile, n_tile, reading, fragments):
    """Find where a lane reads numbers of 4 bytes: column g of row t of the first fragments.

    The swizzle makes the place 8 columns further on that of the first with bits turned over by 8, and so on.
    """
    lane = int32(thread & 31)
    row, column = own_place(thread, n_tile, fragments)
    g, t = int32(lane >> 2), int32(lane & 3)
    reading[FROM_LEFT] = fresh(int32(int32(t * m_tile) + int32(row + int32(g + 8 * t))))
    reading[FROM_RIGHT] = fresh(int32(WORDS * m_tile + int32(t * n_tile)) + int32(column + int32(g + 8 * t)))


@inlined
def read_halves(thread, m_tile, n_tile, reading, fragments):
    """Find where a lane reads numbers of 2 bytes: its rows of the matrices, which are positions.

    Left, the second matrix is 8 rows of the tile further on and the third 8 positions; right it is the other way round.
    """
    lane = int32(thread & 31)
    row, column = own_place(thread, n_tile, fragments)
    position, chunk = int32(int32(lane & 7) + 8 * int32(lane >> 4)), int32(int32(row >> 3) + (int32(lane >> 3) & 1))
    swizzled = int32(4 * int32(chunk ^ int32(lane & 7)))
    reading[FROM_LEFT] = fresh(int32(int32(position * (m_tile // 2)) + swizzled))
    position, chunk = int32(lane & 15), int32(int32(column >> 3) + int32(lane >> 4))
    swizzled = int32(4 * int32(chunk ^ int32(lane & 7)))
    reading[FROM_RIGHT] = fresh(int32(int32(WORDS * m_tile + int32(position * (n_tile // 2))) + swizzled))


@inlined
def step_tf32(shared, read, reading, half, m_tile, n_tile, sums):
    """Add eight positions, rounded to tf32."""
    b = cuda.local.array((4, 2), uint32)
    right = int32(read + reading[FROM_RIGHT])
    for j in range(4):
        for q in range(2):
            b[j, q] = round_tf32(load1(shared, int32(right ^ (8 * j)), (8 * half + 4 * q) * n_tile))
    left = int32(read + reading[FROM_LEFT])
    for i in range(sums.shape[0]):
        upper, lower = int32(left ^ (16 * i)), int32(left ^ (16 * i + 8))
        a0, a1 = (
            round_tf32(load1(shared, upper, 8 * half * m_tile)),
            round_tf32(load1(shared, lower, 8 * half * m_tile)),
        )
        a2 = round_tf32(load1(shared, upper, (8 * half + 4) * m_tile))
        a3 = round_tf32(load1(shared, lower, (8 * half + 4) * m_tile))
        for j in range(4):
            add_fragment(mma_tf32, (a0, a1, a2, a3), (b[j, 0], b[j, 1]), sums, i, j)


@inlined
def split(value):
    """Split a float32 into its large and its small tf32 part."""
    large = uint32(bits_of(value) & uint32(LARGE))
    return large, small_part(value, large)


@inlined
def step_tf32x3(shared, read, reading, half, m_tile, n_tile, sums):
    """Add eight positions, three products each, of which one is of two large parts."""
    large = cuda.local.array((4, 2), uint32)
    small = cuda.local.array((4, 2), uint32)
    right = int32(read + reading[FROM_RIGHT])
    for j in range(4):
        for q in range(2):
            large[j, q], small[j, q] = split(load1(shared, int32(right ^ (8 * j)), (8 * half + 4 * q) * n_tile))
    left = int32(read + reading[FROM_LEFT])
    for i in range(sums.shape[0]):
        upper, lower = int32(left ^ (16 * i)), int32(left ^ (16 * i + 8))
        a0, s0 = split(load1(shared, upper, 8 * half * m_tile))
        a1, s1 = split(load1(shared, lower, 8 * half * m_tile))
        a2, s2 = split(load1(shared, upper, (8 * half + 4) * m_tile))
        a3, s3 = split(load1(shared, lower, (8 * half + 4) * m_tile))
        for j in range(4):
            add_fragment(mma_tf32, (s0, s1, s2, s3), (large[j, 0], large[j, 1]), sums, i, j)
        for j in range(4):
            add_fragment(mma_tf32, (a0, a1, a2, a3), (small[j, 0], small[j, 1]), sums, i, j)
        for j in range(4):
            add_fragment(mma_tf32, (a0, a1, a2, a3), (large[j, 0], large[j, 1]), sums, i, j)


@inlined
def step_halves(instruction, shared, read, reading, half, m_tile, n_tile, sums):
    """Add sixteen positions of numbers of 2 bytes."""
    b = cuda.local.array((4, 2), uint32)
    right = int32(read + reading[FROM_RIGHT])
    for j in range(2):
        r = ldmatrix4_transposed(shared, int32(right ^ (8 * j)), 8 * n_tile * half)
        b[2 * j, 0], b[2 * j, 1], b[2 * j + 1, 0], b[2 * j + 1, 1] = r
    left = int32(read + reading[FROM_LEFT])
    for i in range(sums.shape[0]):
        a = ldmatrix4_transposed(shared, int32(left ^ (8 * i)), 8 * m_tile * half)
        for j in range(4):
            add_fragment(instruction, a, (b[j, 0], b[j, 1]), sums, i, j)


@inlined
def multiply_tf32(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice in tf32."""
    step_tf32(shared, read, reading, 0, m_tile, n_tile, sums)
    step_tf32(shared, read, reading, 1, m_tile, n_tile, sums)


@inlined
def multiply_tf32x3(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice in 3xTF32."""
    step_tf32x3(shared, read, reading, 0, m_tile, n_tile, sums)
    sync_warp()  # see `tensor_fragments.multiply_tf32x3`
    step_tf32x3(shared, read, reading, 1, m_tile, n_tile, sums)


@inlined
def multiply_bf16(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice of bfloat16."""
    step_halves(mma_bf16, shared, read, reading, 0, m_tile, n_tile, sums)
    step_halves(mma_bf16, shared, read, reading, 1, m_tile, n_tile, sums)


@inlined
def multiply_f16(shared, read, reading, m_tile, n_tile, sums):
    """Add a part of a slice of float16."""
    step_halves(mma_f16, shared, read, reading, 0, m_tile, n_tile, sums)
    step_halves(mma_f16, shared, read, reading, 1, m_tile, n_tile, sums)


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
def read_floats4(thread, m_tile, n_tile, reading):
    """Find where a lane of a warp with 64 rows reads."""
    read_floats(thread, m_tile, n_tile, reading, 4)


@inlined
def read_floats2(thread, m_tile, n_tile, reading):
    """Find where a lane of a warp with 32 rows reads."""
    read_floats(thread, m_tile, n_tile, reading, 2)


@inlined
def read_halves4(thread, m_tile, n_tile, reading):
    """Find where a lane of a warp with 64 rows reads."""
    read_halves(thread, m_tile, n_tile, reading, 4)


@inlined
def read_halves2(thread, m_tile, n_tile, reading):
    """Find where a lane of a warp with 32 rows reads."""
    read_halves(thread, m_tile, n_tile, reading, 2)


@kernel(launch_bounds=(256, 2))
def tf32_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.local.array(WALK, int32)
    sums = cuda.local.array((4, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, 128, 128, 256,
        STAGES, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT, False, read_floats4, multiply_tf32, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(128, 4))
def tf32_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.local.array(WALK, int32)
    sums = cuda.local.array((2, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, 64, 64, 128,
        STAGES, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT, False, read_floats2, multiply_tf32, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(256, 2))
def tf32x3_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(1024, int32)
    sums = cuda.local.array((4, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, int32(cuda.threadIdx.x), 256, sums, 128, 128, 256,
        STAGES_X3, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT, False, read_floats4, multiply_tf32x3, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(128, 4))
def tf32x3_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(512, int32)
    sums = cuda.local.array((2, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, int32(cuda.threadIdx.x), 128, sums, 64, 64, 128,
        STAGES_X3, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT, False, read_floats2, multiply_tf32x3, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(256, 2))
def bf16_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.local.array(WALK, int32)
    sums = cuda.local.array((4, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, 128, 128, 256,
        STAGES, HALF_CHUNK, HALF_MASK, HALF_SHIFT, False, read_halves4, multiply_bf16, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(128, 4))
def bf16_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.local.array(WALK, int32)
    sums = cuda.local.array((2, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, 64, 64, 128,
        STAGES, HALF_CHUNK, HALF_MASK, HALF_SHIFT, False, read_halves2, multiply_bf16, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(256, 2))
def f16_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.local.array(WALK, int32)
    sums = cuda.local.array((4, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, 128, 128, 256,
        STAGES, HALF_CHUNK, HALF_MASK, HALF_SHIFT, False, read_halves4, multiply_f16, store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(128, 4))
def f16_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.local.array(WALK, int32)
    sums = cuda.local.array((2, 16), float32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, 64, 64, 128,
        STAGES, HALF_CHUNK, HALF_MASK, HALF_SHIFT, False, read_halves2, multiply_f16, store_sums,
    )  # fmt: skip


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
    """Say whether these kernels make the gradient: channels by 16 bytes, padding of zeros, else as `grad_gemm`."""
    chunk = 16 // itemsize
    c_window, c_point = pairs.c_in // pairs.groups, pairs.c_out // pairs.groups
    zeros = pairs.spec.padding_mode == "zeros"
    return grad_gemm.covers(pairs) and zeros and c_window % chunk == 0 and c_point % chunk == 0
