"""Slices on the tensor cores: how a warp reads the fragments of `mma.sync` from shared memory and multiplies them.

A warp makes 64 or 32 rows and 32 columns of the tile: fragments of 16 rows and 8 columns, four numbers of each a lane.
"""

from __future__ import annotations

from numpy import float32, int32, int64, uint32

from .driver import cuda, inlined
from .gemm_core import product
from .intrinsics import (
    bits_of,
    float_of,
    fresh,
    ldmatrix4,
    ldmatrix4_transposed,
    load1,
    mma_bf16,
    mma_f16,
    mma_tf32,
    round_tf32,
    store2,
    sync_warp,
)

# Matrix instructions finish a slice in a few hundred cycles, less than memory takes to answer: two slices are on the
# way while a third is read. 3xTF32 takes three times as long and needs the registers: one on the way, and the walk's
# numbers in shared memory.
STAGES, STAGES_X3 = 3, 2
PAD = 8  # words between the ends of the finish's rows: pairs of four neighbouring rows then lie on different banks
LARGE = 0xFFFFE000  # the bits of a float32 that tf32 has
HALF_UNIT = 0x1000  # of the last of them
# In row k of a right slice, 16-byte chunk c stands in place c ^ ((k & mask) << shift): the reads of a fragment then
# touch all banks once. Numbers of 4 bytes are read one by one, four rows at a time, those of 2 by matrices of eight.
FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT = 4, 3, 1
HALF_CHUNK, HALF_MASK, HALF_SHIFT = 8, 7, 0
FROM_LEFT, FROM_RIGHT = 0, 1


@inlined
def own_place(thread, n_tile, fragments):
    """Give the first row and column of a warp in the tile: `fragments` times 16 rows, 32 columns."""
    warp = int32(thread >> 5)
    warp_columns = n_tile // 32
    warp_row = int32(warp // warp_columns)
    return int32(16 * fragments * warp_row), int32(32 * int32(warp - int32(warp_row * warp_columns)))


@inlined
def left_place(row, lane):
    """Give where a lane's row of the left fragments stands in a stage, the chunk of its lane included."""
    return int32(8 * int32(row + int32(lane & 15)) + 4 * int32(int32(lane >> 4) ^ int32(int32(lane >> 2) & 1)))


@inlined
def floats_place(lane, column, tile):
    """Give where a lane reads an operand of 4-byte numbers that lies step by step: column g of row t of a fragment.

    The swizzle makes the place 8 columns further on this one with bit 8 turned over, 16 columns the one with bit 16.
    """
    t = int32(lane & 3)
    return int32(int32(t * tile) + int32(column + int32(int32(lane >> 2) + 8 * t)))


@inlined
def halves_place(lane, step, column, tile):
    """Give where a lane's row of the matrices of an operand of 2-byte numbers lies, its step and column being given.

    The swizzle makes the place 16 columns further on this one with bit 8 turned over, and so on.
    """
    return int32(int32(step * (tile // 2)) + 4 * int32(int32(column >> 3) ^ int32(lane & 7)))


@inlined
def right_floats(lane, column, n_tile, left_size):
    """Find where a lane reads the right fragments of numbers of 4 bytes."""
    return int32(left_size + floats_place(lane, column, n_tile))


@inlined
def right_halves(lane, column, n_tile, left_size):
    """Find where a lane reads the right fragments of numbers of 2 bytes: the third matrix is 8 columns further on."""
    place = halves_place(lane, int32(lane & 15), int32(column + 8 * int32(lane >> 4)), n_tile)
    return int32(left_size + place)


@inlined
def read_floats(thread, m_tile, n_tile, left_size, reading, sums):
    """Find where a lane reads numbers of 4 bytes: rows of the left fragments, columns of the right ones."""
    lane = int32(thread & 31)
    row, column = own_place(thread, n_tile, sums.shape[0])
    reading[FROM_LEFT] = fresh(left_place(row, lane))
    reading[FROM_RIGHT] = fresh(right_floats(lane, column, n_tile, left_size))


@inlined
def read_halves(thread, m_tile, n_tile, left_size, reading, sums):
    """Find where a lane reads numbers of 2 bytes: its rows of the matrices."""
    lane = int32(thread & 31)
    row, column = own_place(thread, n_tile, sums.shape[0])
    reading[FROM_LEFT] = fresh(left_place(row, lane))
    reading[FROM_RIGHT] = fresh(right_halves(lane, column, n_tile, left_size))


@inlined
def rows_of_left(shared, left, half, i, m_tile):
    """Read left fragment `i` of half a slice that lies row by row: four words a lane, numbers of either size."""
    return ldmatrix4(shared, left, 8 * m_tile * half + 128 * i)


@inlined
def add_fragment(instruction, a, b, sums, i, j):
    """Add a left fragment times a right one to the sums of fragment (i, j)."""
    n = 4 * j
    c = instruction(a, b, (sums[i, n], sums[i, n + 1], sums[i, n + 2], sums[i, n + 3]))
    sums[i, n], sums[i, n + 1], sums[i, n + 2], sums[i, n + 3] = c


@inlined
def split(value):
    """Split a float32 into its large and its small tf32 part; the unit ignores the bits below."""
    large = uint32(bits_of(value) & uint32(LARGE))
    return large, uint32(bits_of(float32(value - float_of(large))) + uint32(HALF_UNIT))


@inlined
def step_tf32(left_words, shared, read, reading, half, m_tile, n_tile, sums):
    """Add eight steps of the reduction, rounded to tf32; `left_words(shared, left, half, i, m_tile)` reads the left."""
    b = cuda.local.array((4, 2), uint32)
    right = int32(read + reading[FROM_RIGHT])
    for j in range(4):
        for q in range(2):
            b[j, q] = round_tf32(load1(shared, int32(right ^ (8 * j)), (8 * half + 4 * q) * n_tile))
    left = int32(read + reading[FROM_LEFT])
    for i in range(sums.shape[0]):
        r = left_words(shared, left, half, i, m_tile)
        a0, a1 = round_tf32(float_of(r[0])), round_tf32(float_of(r[1]))
        a2, a3 = round_tf32(float_of(r[2])), round_tf32(float_of(r[3]))
        for j in range(4):
            add_fragment(mma_tf32, (a0, a1, a2, a3), (b[j, 0], b[j, 1]), sums, i, j)


@inlined
def step_tf32x3(left_words, shared, read, reading, half, m_tile, n_tile, sums):
    """Add eight steps of the reduction, three products each, of which one is of two large parts."""
    large = cuda.local.array((4, 2), uint32)
    small = cuda.local.array((4, 2), uint32)
    right = int32(read + reading[FROM_RIGHT])
    for j in range(4):
        for q in range(2):
            large[j, q], small[j, q] = split(load1(shared, int32(right ^ (8 * j)), (8 * half + 4 * q) * n_tile))
    left = int32(read + reading[FROM_LEFT])
    for i in range(sums.shape[0]):
        r = left_words(shared, left, half, i, m_tile)
        a0, s0 = split(float_of(r[0]))
        a1, s1 = split(float_of(r[1]))
        a2, s2 = split(float_of(r[2]))
        a3, s3 = split(float_of(r[3]))
        for j in range(4):
            add_fragment(mma_tf32, (s0, s1, s2, s3), (large[j, 0], large[j, 1]), sums, i, j)
        for j in range(4):
            add_fragment(mma_tf32, (a0, a1, a2, a3), (small[j, 0], small[j, 1]), sums, i, j)
        for j in range(4):
            add_fragment(mma_tf32, (a0, a1, a2, a3), (large[j, 0], large[j, 1]), sums, i, j)


@inlined
def step_halves(instruction, left_words, shared, read, reading, half, m_tile, n_tile, sums):
    """Add sixteen steps of the reduction of numbers of 2 bytes."""
    b = cuda.local.array((4, 2), uint32)
    right = int32(read + reading[FROM_RIGHT])
    for j in range(2):
        r = ldmatrix4_transposed(shared, int32(right ^ (8 * j)), 8 * n_tile * half)
        b[2 * j, 0], b[2 * j, 1], b[2 * j + 1, 0], b[2 * j + 1, 1] = r
    left = int32(read + reading[FROM_LEFT])
    for i in range(sums.shape[0]):
        a = left_words(shared, left, half, i, m_tile)
        for j in range(4):
            add_fragment(instruction, a, (b[j, 0], b[j, 1]), sums, i, j)


@inlined
def slice_tf32(left_words, shared, read, reading, m_tile, n_tile, sums):
    """Add a slice in tf32."""
    step_tf32(left_words, shared, read, reading, 0, m_tile, n_tile, sums)
    step_tf32(left_words, shared, read, reading, 1, m_tile, n_tile, sums)


@inlined
def slice_tf32x3(left_words, shared, read, reading, m_tile, n_tile, sums):
    """Add a slice in 3xTF32."""
    step_tf32x3(left_words, shared, read, reading, 0, m_tile, n_tile, sums)
    sync_warp()  # or else the second half's operands are loaded during the first, and take too many registers
    step_tf32x3(left_words, shared, read, reading, 1, m_tile, n_tile, sums)


@inlined
def slice_halves(instruction, left_words, shared, read, reading, m_tile, n_tile, sums):
    """Add a slice of numbers of 2 bytes."""
    step_halves(instruction, left_words, shared, read, reading, 0, m_tile, n_tile, sums)
    step_halves(instruction, left_words, shared, read, reading, 1, m_tile, n_tile, sums)


@inlined
def multiply_tf32(shared, read, reading, m_tile, n_tile, sums):
    """Add a slice in tf32."""
    slice_tf32(rows_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def multiply_tf32x3(shared, read, reading, m_tile, n_tile, sums):
    """Add a slice in 3xTF32."""
    slice_tf32x3(rows_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def multiply_bf16(shared, read, reading, m_tile, n_tile, sums):
    """Add a slice of bfloat16."""
    slice_halves(mma_bf16, rows_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def multiply_f16(shared, read, reading, m_tile, n_tile, sums):
    """Add a slice of float16."""
    slice_halves(mma_f16, rows_of_left, shared, read, reading, m_tile, n_tile, sums)


@inlined
def lay(shared, sums, base, count, pitch, thread, n_tile):
    """Lay those of a thread's sums into shared memory that belong to rows `base` to `base + count` of the tile."""
    lane = int32(thread & 31)
    own_row, own_column = own_place(thread, n_tile, sums.shape[0])
    start = int32(int32(int32(lane >> 2) * pitch) + int32(own_column + 2 * int32(lane & 3)))
    for i in range(sums.shape[0]):
        row = int32(int32(own_row + 16 * i) - base)
        if row >= 0 and row < count:
            for j in range(4):
                at = int32(int32(row * pitch) + int32(start + 8 * j))
                store2(shared, at, (sums[i, 4 * j], sums[i, 4 * j + 1]))
                store2(shared, int32(at + 8 * pitch), (sums[i, 4 * j + 2], sums[i, 4 * j + 3]))


@inlined
def tile_of_floats(x, weight, bias, residual, y, table, shared, sums, m_tile, n_tile, threads, masked, multiply):
    """Make a tile of numbers of 4 bytes; the walk's numbers stand in registers."""
    walk = cuda.local.array(10, int32)
    product(
        x, weight, bias, residual, y, table, shared, walk, 0, 1, sums, int64(m_tile), int64(n_tile), int64(threads),
        int64(2 * m_tile // threads), 1, STAGES, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT, PAD, masked, read_floats,
        multiply, lay,
    )  # fmt: skip


@inlined
def tile_of_split_floats(x, weight, bias, residual, y, table, shared, walk, sums, m_tile, n_tile, threads, masked):
    """Make a tile in 3xTF32; the walk's numbers stand in shared memory, one column a thread."""
    product(
        x, weight, bias, residual, y, table, shared, walk, int32(cuda.threadIdx.x), int64(threads), sums, int64(m_tile),
        int64(n_tile), int64(threads), int64(2 * m_tile // threads), 1, STAGES_X3, FLOAT_CHUNK, FLOAT_MASK, FLOAT_SHIFT,
        PAD, masked, read_floats, multiply_tf32x3, lay,
    )  # fmt: skip


@inlined
def tile_of_halves(x, weight, bias, residual, y, table, shared, sums, m_tile, n_tile, threads, masked, multiply):
    """Make a tile of numbers of 2 bytes; the walk's numbers stand in registers."""
    walk = cuda.local.array(10, int32)
    product(
        x, weight, bias, residual, y, table, shared, walk, 0, 1, sums, int64(m_tile), int64(n_tile), int64(threads),
        int64(2 * m_tile // threads), 1, STAGES, HALF_CHUNK, HALF_MASK, HALF_SHIFT, PAD, masked, read_halves, multiply,
        lay,
    )  # fmt: skip
