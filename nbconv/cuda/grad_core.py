"""The body of every tiled gradient of the weight: a product whose reduction runs over positions.

Rows are (tap, channel of the windows' group), columns are channels of the points' group (see `grad_general` for the
names). Positions are cut into slices, each block sums one tile over one of them, and `grad_general.sum_weight_slices`
adds the slices in order: the bits depend on shapes only.

The kernels hand in three steps:

    read        where a thread reads in a stage: `start_reading(thread, m_tile, n_tile, left_size, reading, sums)`
    multiply    and accumulate a part of a slice: `multiply(shared, read, reading, m_tile, n_tile, sums)`
    store       the sums: `store(partial, table, sums, m_tile, n_tile)`
"""

from __future__ import annotations

from numpy import float32, int32, uint32

from . import table as T
from .driver import cuda, inlined
from .gemm_core import WORDS, join_shares, next_stage
from .gemm_loads import BEYOND, OUTSIDE, split_row, tile_of_block
from .intrinsics import copy4, copy16, copy_commit, copy_wait0, copy_wait1, fresh, load_int, store_int

__all__ = ["WALK", "result_place", "slice_product"]

# What a thread keeps of its walk over positions and seldom needs: number `f` stands at
# `walk[own + f * stride]`, in shared memory where registers are short, else in a local array.
SAMPLE, ROW, DOWN, END = range(4)
WALK = 4


@inlined
def find_line(table, fields, sample, h, down):
    """Give the address of the line of windows that position `h` reads at a tap; OUTSIDE where there is none."""
    height = table[T.SIZE_H]
    at = int32(int32(h * load_int(table, fields, T.STRIDE_H)) + down)
    line = int32(int32(int32(int32(sample * height) + at) * table[T.SIZE_W]) * table[T.C_IN])
    return line if uint32(at) < uint32(height) else int32(OUTSIDE)


@inlined
def copy_windows(
    shared, to, to_step, windows, table, fields, step, copies, position, walk, own, stride, offset, masked
):
    """Copy this thread's numbers of a left slice, `step` positions apart, and walk on.

    `position` holds what changes: column of windows that is read, address of the line, positions left.
    """
    width = table[T.SIZE_W]
    stride_w = load_int(table, fields, T.STRIDE_W)
    last = fresh(int32(to + (copies - 1) * to_step))  # a loop that the compiler does not unroll
    more = True
    while more:
        start = int32(int32(position[1] + int32(position[0] * table[T.C_IN])) + offset)
        valid = (position[1] != OUTSIDE) & (uint32(position[0]) < uint32(width)) & (position[2] > 0)
        if masked:
            copy4(shared, to, 0, windows, start, valid, 0, True)
        else:
            copy16(shared, to, 0, windows, start, valid)
        more = to != last
        to = int32(to + to_step)
        position[2] = int32(position[2] - step)
        position[0] = int32(position[0] + int32(step * stride_w))
        end = load_int(walk, own, END * stride)
        if position[0] >= end:
            rows_h, line = load_int(table, fields, T.ROWS_H), int32(load_int(table, fields, T.ROWS_W) * stride_w)
            sample, row = load_int(walk, own, SAMPLE * stride), load_int(walk, own, ROW * stride)
            while position[0] >= end:
                position[0] = int32(position[0] - line)
                row = int32(row + 1)
                if row == rows_h:
                    row = int32(0)
                    sample = int32(sample + 1)
            store_int(walk, own, SAMPLE * stride, sample)
            store_int(walk, own, ROW * stride, row)
            position[1] = find_line(table, fields, sample, row, load_int(walk, own, DOWN * stride))


@inlined
def copy_points(shared, to, to_step, points, table, place, end, step, copies, masked):
    """Copy this thread's numbers of a right slice, `step` positions apart; gives where the next slice starts."""
    stride = int32(step * table[T.C_OUT])
    last = fresh(int32(to + (copies - 1) * to_step))  # a loop that the compiler does not unroll
    more = True
    while more:
        if masked:
            copy4(shared, to, 0, points, place, place < end, 0, True)
        else:
            copy16(shared, to, 0, points, place, place < end)
        more = to != last
        to = int32(to + to_step)
        place = uint32(place + uint32(stride))
    return place


@inlined
def slice_product(
    windows, points, partial, table, rows_of_slice, shared, walk, own, stride, sums, m_tile, n_tile, threads, shares,
    stages, chunk, swizzle_mask, swizzle_shift, masked, start_reading, multiply, store,
):  # fmt: skip
    """Make this block's tile of one slice.

    Math     partial[s, g, (t, c), o] = sum over positions p of slice s: windows[p * stride + t * dilation - lo, c] *
             points[p, o], channels of group g
    Shapes   flat, channels last . shared: `stages` parts of the slice, of both operands, in words of four bytes . walk:
             WALK numbers a thread . sums: this thread's part of the tile
    Tile     (m_tile, n_tile) by `threads` threads; `chunk` numbers are 16 bytes. Masked, they are read one by one
    Depth    a part of a slice has one or two shares of 4 * chunk positions; half the threads multiply each of two
    Swizzle  in row k of a part, chunk c stands in place c ^ ((k & swizzle_mask) << swizzle_shift)
    Grid     z over (slice, group)
    """
    fields = int32(T.HEADER)
    slice_ = int32(int32(cuda.blockIdx.z) // table[T.GROUPS])
    group = int32(int32(cuda.blockIdx.z) - int32(slice_ * table[T.GROUPS]))
    row_tile, column_tile = tile_of_block(int32(0))
    first_row, first_column = int32(row_tile * m_tile), int32(column_tile * n_tile)
    thread = int32(cuda.threadIdx.x)
    width = 1 if masked else chunk  # numbers of a copy
    words = 1 if masked else 4
    depth = 4 * chunk * shares
    left_size = WORDS * m_tile * shares
    stage_size = left_size + WORDS * n_tile * shares
    first = int32(slice_ * rows_of_slice)
    limit = int32(table[T.SAMPLES] * int32(table[fields + T.ROWS_H] * table[fields + T.ROWS_W]))
    limit = min(limit, int32(first + rows_of_slice))

    # Left: this thread's tap and channel, and its first position.
    chunks = m_tile // width
    left_row = int32(thread // chunks)
    slot = int32(int32(thread - int32(left_row * chunks)) ^ int32((left_row & swizzle_mask) << swizzle_shift))
    row = int32(first_row + int32(width * slot))
    channels = table[T.C_IN_GROUP]
    taps_w = table[fields + T.TAPS_W]
    tap = int32(row // channels)
    offset = int32(int32(row - int32(tap * channels)) + int32(group * channels))
    tap_h = int32(tap // taps_w)
    tap_w = int32(tap - int32(tap_h * taps_w))
    down = int32(int32(tap_h * table[fields + T.DILATION_H]) - table[fields + T.LO_H])
    along = int32(int32(tap_w * table[fields + T.DILATION_W]) - table[fields + T.LO_W])
    position = cuda.local.array(3, int32)
    sample, h, w = split_row(table, fields, int32(first + left_row))
    stride_w = table[fields + T.STRIDE_W]
    position[0] = int32(int32(w * stride_w) + along)
    position[1] = find_line(table, fields, sample, h, down)
    position[2] = int32(limit - int32(first + left_row))
    if tap_h >= table[fields + T.TAPS_H]:
        position[2] = int32(0)
    store_int(walk, own, SAMPLE * stride, sample)
    store_int(walk, own, ROW * stride, h)
    store_int(walk, own, DOWN * stride, down)
    store_int(walk, own, END * stride, int32(int32(table[fields + T.ROWS_W] * stride_w) + along))
    left_step = threads // chunks

    # Right: this thread's channels of the points.
    right_chunks = n_tile // width
    right_row = int32(thread // right_chunks)
    slot = int32(int32(thread - int32(right_row * right_chunks)) ^ int32((right_row & swizzle_mask) << swizzle_shift))
    column = int32(first_column + int32(width * slot))
    end = uint32(int32(limit * table[T.C_OUT]))
    start = int32(int32(first + right_row) * table[T.C_OUT])
    start = int32(int32(start + int32(group * table[T.C_OUT_GROUP])) + column)
    place = uint32(start) if column < table[T.C_OUT_GROUP] else uint32(BEYOND)
    right_step = threads // right_chunks

    reading = cuda.local.array(2, int32)
    start_reading(thread, m_tile, n_tile, left_size, reading, sums)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            sums[i, j] = float32(0)

    remaining = int32(int32(int32(limit - first) + (depth - 1)) // depth)
    read = int32(0)
    ahead = remaining  # parts that are still to be copied: `stages - 1` copies come before the first product
    while remaining > 0:
        write = int32(int32(remaining - ahead) * stage_size)
        if int32(remaining - ahead) >= stages - 1:
            if stages == 2:
                copy_wait0()
            else:
                copy_wait1()
            cuda.syncthreads()
            write = next_stage(read, stage_size, stages, stages - 1)
        if ahead > 0:
            copy_windows(
                shared, int32(write + int32(words * thread)), words * threads, windows, table, fields, left_step,
                depth // left_step, position, walk, own, stride, offset, masked,
            )  # fmt: skip
            place = copy_points(
                shared, int32(write + int32(left_size + words * thread)), words * threads, points, table, place,
                end, right_step, depth // right_step, masked,
            )  # fmt: skip
        copy_commit()
        if int32(remaining - ahead) >= stages - 1:
            multiply(shared, read, reading, m_tile, n_tile, sums)
            read = next_stage(read, stage_size, stages, 1)
            remaining = int32(remaining - 1)
        ahead = int32(ahead - 1)
    if shares == 2:
        cuda.syncthreads()
        join_shares(shared, sums, thread, threads)
    store(partial, table, sums, m_tile, n_tile)


@inlined
def result_place(table, zero, m_tile, n_tile):
    """Give (first row, first column, rows, columns, place of row 0): this block's tile, and the result it lies in."""
    block = int32(int32(cuda.blockIdx.z) + zero)
    row_tile, column_tile = tile_of_block(zero)
    columns = table[T.C_OUT_GROUP]
    rows = int32(int32(table[T.HEADER + T.TAPS_H] * table[T.HEADER + T.TAPS_W]) * table[T.C_IN_GROUP])
    return int32(row_tile * m_tile), int32(column_tile * n_tile), rows, columns, int32(int32(block * rows) * columns)
