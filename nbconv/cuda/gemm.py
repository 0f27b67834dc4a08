"""Products in float32 on the FFMA units: implicit matrix multiplication, one tile of the result a block.

What the backend calls: `gemm_tiles.choose` names a tile; `KERNELS[tile, masked]` is its kernel, with the product
kernels' arguments; `gemm_tiles.launch` gives its grid and block.
"""

from __future__ import annotations

from typing import Any

from numpy import float32, int32, uint32

from . import table as T
from .driver import cuda, inlined, kernel
from .gemm_parts import (
    BEYOND,
    copy_left,
    copy_right,
    finish_rows,
    note_outputs,
    phase_of_block,
    start_walk,
    tile_of_block,
)
from .intrinsics import ALIGNMENT, copy_commit, copy_wait0, fresh, load4, load_int, store4

__all__ = ["KERNELS"]

DEPTH = 16  # of a slice of the reduction
PAD = 16  # floats between the ends of the finish's rows: neighbouring rows then lie on different banks


@inlined
def multiply4(shared, left, right, step, m_tile, n_tile, sums):
    """Add steps `4 * step` to `4 * step + 3` of a slice to a thread's sums, (8, 4 or 8).

    The thread's rows are 4 apart; its columns are four, and four more 32 further on.
    """
    a = cuda.local.array((8, 4), float32)
    for i in range(8):
        offset = (step >> 1) * 8 * m_tile + 32 * i + 4 * ((step ^ i) & 1)
        a[i, 0], a[i, 1], a[i, 2], a[i, 3] = load4(shared, left, int32(offset))
    for k in range(4):
        for part in range(sums.shape[1] // 4):
            b = load4(shared, right, int32((4 * step + k) * n_tile + 32 * part))
            for i in range(8):
                for j in range(4):
                    sums[i, 4 * part + j] += a[i, k] * b[j]


@inlined
def product(x, weight, bias, residual, y, table, shared, walk, sums, m_tile, n_tile, threads, rows, masked):
    """Make this block's tile of a product.

    Math     y[m, o] = f(sum_k x(m, k) * w[k, o] + bias[o] + residual[m, o])
    Shapes   x, y, residual flat, channels last . weight, bias, table as `table` says . shared: two slices of
             both operands . walk: the threads' numbers . sums (8, 4 or 8), this thread's part of the tile
    Threads  a warp makes 32 rows and 32 or 64 columns; two threads copy a row of the left slice
    """
    group, fields = phase_of_block(table, int32(0))
    fields = fresh(fields)
    row_tile, column_tile = tile_of_block(int32(0))
    first_row, first_column = int32(row_tile * m_tile), int32(column_tile * n_tile)
    limit = int32(table[T.SAMPLES] * int32(load_int(table, fields, T.ROWS_H) * load_int(table, fields, T.ROWS_W)))
    if first_row >= limit:
        return
    thread = int32(cuda.threadIdx.x)
    left_size, right_size = int32(DEPTH * m_tile), int32(DEPTH * n_tile)
    stage_size = int32(left_size + right_size)

    # Left: this thread's rows of x and its place in the reduction.
    address = cuda.local.array(2, int32)
    row, chunk = int32(thread >> 1), int32(int32(thread ^ (thread >> 3)) & 1)
    row_step = int32(threads >> 1)
    start_walk(table, fields, int32(first_row + row), row_step, rows, limit, walk, thread, threads)
    last_channel = int32(int32(group + 1) * table[T.C_IN_GROUP])
    channel = int32(last_channel + int32(4 * chunk - (5 if masked else 8)))
    to_left = int32(4 * thread)

    # Right: this thread's rows and columns of the weights.
    chunks = int32(n_tile >> 2)  # of a row of the slice
    right_row = int32(thread // chunks)
    right_column = int32(4 * int32(thread - int32(right_row * chunks)))
    weight_step = table[T.WEIGHT_ROW_STEP]
    reduction = int32(
        int32(load_int(table, fields, T.TAPS_H) * load_int(table, fields, T.TAPS_W)) * table[T.C_IN_GROUP]
    )
    start = int32(load_int(table, fields, T.WEIGHT_START) + int32(group * load_int(table, fields, T.WEIGHT_GROUP_STEP)))
    end = uint32(start + int32(reduction * weight_step))
    start = int32(int32(start + int32(right_row * weight_step)) + int32(first_column + right_column))
    place = uint32(start)
    if int32(first_column + right_column) >= table[T.COLUMNS] or right_row >= DEPTH:
        place = uint32(BEYOND)
    right_rows = min(DEPTH, threads // (n_tile >> 2))  # that the block copies at a time
    copies = DEPTH // right_rows
    to_right = int32(left_size + 4 * thread)
    copies_right = threads <= DEPTH * (n_tile >> 2) or right_row < DEPTH

    # This thread's part of the tile; a warp's lanes go two rows, eight columns, two rows.
    for i in range(8):
        for j in range(sums.shape[1]):
            sums[i, j] = float32(0)
    own_row, own_column = own_place(thread, n_tile, sums.shape[1])
    from_left, from_right = fresh(int32(8 * own_row)), fresh(int32(left_size + own_column))

    remaining = int32(int32(reduction + (DEPTH - 1)) // DEPTH)  # slices
    read, write = int32(0), int32(0)
    if remaining > 0:
        channel = copy_left(
            shared, to_left, int32(8 * row_step), int32(8 * m_tile), x, table, fields, channel, last_channel, rows,
            walk, thread, threads, address, masked,
        )  # fmt: skip
        place = copy_right(shared, to_right, weight, place, table, end, copies, right_rows, n_tile, copies_right)
    copy_commit()
    while remaining > 0:
        copy_wait0()
        cuda.syncthreads()
        write = int32(stage_size - read)
        if remaining > 1:
            channel = copy_left(
                shared, int32(write + to_left), int32(8 * row_step), int32(8 * m_tile), x, table, fields, channel,
                last_channel, rows, walk, thread, threads, address, masked,
            )  # fmt: skip
            place = copy_right(
                shared, int32(write + to_right), weight, place, table, end, copies, right_rows, n_tile, copies_right
            )
        copy_commit()
        multiply4(shared, int32(read + from_left), int32(read + from_right), 0, m_tile, n_tile, sums)
        multiply4(shared, int32(read + from_left), int32(read + from_right), 1, m_tile, n_tile, sums)
        multiply4(shared, int32(read + from_left), int32(read + from_right), 2, m_tile, n_tile, sums)
        multiply4(shared, int32(read + from_left), int32(read + from_right), 3, m_tile, n_tile, sums)
        read = write
        remaining = int32(remaining - 1)
    cuda.syncthreads()
    finish(bias, residual, y, table, shared, sums, m_tile, n_tile, threads)


@inlined
def own_place(thread, n_tile, columns):
    """Give the first row and column of a thread in the tile: a warp's lanes go two rows, eight columns, two rows."""
    warp, lane = int32(thread >> 5), int32(thread & 31)
    warp_columns = int32(n_tile // (8 * columns))
    warp_row = int32(warp // warp_columns)
    warp_column = int32(warp - int32(warp_row * warp_columns))
    own_row = int32(32 * warp_row + 2 * int32(lane >> 4) + int32(lane & 1))
    return own_row, int32(8 * columns * warp_column + 4 * (int32(lane >> 1) & 7))


@inlined
def finish(bias, residual, y, table, shared, sums, m_tile, n_tile, threads):
    """Lay the sums into the ring's memory, as many rows at a time as fit, and finish them there."""
    zero = fresh(int32(0))
    thread = int32(int32(cuda.threadIdx.x) + zero)
    group, fields = phase_of_block(table, zero)
    row_tile, column_tile = tile_of_block(zero)
    first_row, first_column = int32(row_tile * m_tile), int32(column_tile * n_tile)
    limit = int32(table[T.SAMPLES] * int32(load_int(table, fields, T.ROWS_H) * load_int(table, fields, T.ROWS_W)))
    own_row, own_column = own_place(thread, n_tile, sums.shape[1])
    pitch = int32(n_tile + PAD)
    room = 2 * DEPTH * (m_tile + n_tile) // (n_tile + PAD + 1)
    count = 128 if room >= 128 else (64 if room >= 64 else 32)
    notes = int32(count * pitch)
    base = int32(0)
    while base < m_tile:
        note_outputs(shared, notes, table, fields, group, int32(first_row + base), count, limit, thread, threads)
        inner = int32(own_row - base)
        if inner >= 0 and inner < count:
            for i in range(8):
                for part in range(sums.shape[1] // 4):
                    at = int32(int32(inner + 4 * i) * pitch + own_column + 32 * part)
                    four = (sums[i, 4 * part], sums[i, 4 * part + 1], sums[i, 4 * part + 2], sums[i, 4 * part + 3])
                    store4(shared, at, four)
        cuda.syncthreads()
        finish_rows(shared, pitch, notes, bias, residual, y, table, group, first_column, count, n_tile, thread, threads)
        cuda.syncthreads()
        base = int32(base + count)


@kernel(launch_bounds=(256, 2))
def ffma_128x128(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 5, int32)
    sums = cuda.local.array((8, 8), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, 1, False)


@kernel(launch_bounds=(256, 2))
def ffma_128x128_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 5, int32)
    sums = cuda.local.array((8, 8), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, 1, True)


@kernel(launch_bounds=(128, 3))
def ffma_128x64(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 8, int32)
    sums = cuda.local.array((8, 8), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, 2, False)


@kernel(launch_bounds=(128, 3))
def ffma_128x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 8, int32)
    sums = cuda.local.array((8, 8), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, 2, True)


@kernel(launch_bounds=(128, 4))
def ffma_64x64(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 5, int32)
    sums = cuda.local.array((8, 4), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, 1, False)


@kernel(launch_bounds=(128, 4))
def ffma_64x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 5, int32)
    sums = cuda.local.array((8, 4), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, 1, True)


@kernel(launch_bounds=(256, 2))
def ffma_256x32(x, weight, bias, residual, y, table):
    """Make tiles of 256 rows and 32 columns."""
    shared = cuda.shared.array(2 * 16 * 288, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 8, int32)
    sums = cuda.local.array((8, 4), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 256, 32, 256, 2, False)


@kernel(launch_bounds=(256, 2))
def ffma_256x32_masked(x, weight, bias, residual, y, table):
    """Make tiles of 256 rows and 32 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 288, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 8, int32)
    sums = cuda.local.array((8, 4), float32)
    product(x, weight, bias, residual, y, table, shared, walk, sums, 256, 32, 256, 2, True)


KERNELS: dict[tuple[str, bool], Any] = {
    ("128x128", False): ffma_128x128,
    ("128x128", True): ffma_128x128_masked,
    ("128x64", False): ffma_128x64,
    ("128x64", True): ffma_128x64_masked,
    ("64x64", False): ffma_64x64,
    ("64x64", True): ffma_64x64_masked,
    ("256x32", False): ffma_256x32,
    ("256x32", True): ffma_256x32_masked,
}
"""The kernel of (tile, masked)."""
