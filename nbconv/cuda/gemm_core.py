"""The body of every tiled product: load slices in a ring, multiply and accumulate, finish the tile.

The steps are device functions that the kernels hand in or that stand here, so that others can take their place:

    load        `gemm_loads.copy_left`, `gemm_loads.copy_right`: a slice of x and of the weights into a stage
    read        where a thread reads in a stage: `start_reading(thread, m_tile, n_tile, left_size, reading, sums)`
    multiply    and accumulate a slice: `multiply(shared, read, reading, m_tile, n_tile, sums)`
    lay         rows `base` to `base + count` of the tile in shared memory: `lay(shared, sums, base, count, pitch, ...)`
    finish      `finish_rows`: bias, residual, activation, store
"""

from __future__ import annotations

from numpy import float32, int32, uint32

from . import table as T
from .activations import activate
from .driver import cuda, inlined
from .gemm_loads import BEYOND, copy_left, copy_right, phase_of_block, split_row, start_walk, tile_of_block
from .intrinsics import bits_of, copy_commit, copy_wait0, copy_wait1, float_of, fresh, load4, load_int, store4
from .storage import narrow, widen

__all__ = ["WORDS", "join_shares", "product"]

WORDS = 16  # of a row of a share of the left slice, four bytes each


@inlined
def product(
    x, weight, bias, residual, y, table, shared, walk, own, stride, sums, m_tile, n_tile, threads, rows, shares, stages,
    chunk, swizzle_mask, swizzle_shift, pad, masked, start_reading, multiply, lay,
):  # fmt: skip
    """Make this block's tile of a product.

    Math     y[m, o] = f(sum_k x(m, k) * w[k, o] + bias[o] + residual[m, o])
    Shapes   x, y, residual flat, channels last . weight, bias, table as `table` says . shared: `stages` slices of both
             operands, in words of four bytes . walk: see `gemm_loads` . sums: this thread's part of the tile
    Tile     (m_tile, n_tile) by `threads` threads; each copies `rows` rows of a left slice with one other thread.
             A slice has one or two shares, four chunks of `chunk` numbers deep; half the threads multiply each of two
    Swizzle  in row k of a right slice, chunk c stands in place c ^ ((k & swizzle_mask) << swizzle_shift)
    Grid     z over (part of the reduction, group, phase); each part makes a y of its own, see `split_reduction`
    """
    slice_, group, fields = phase_of_block(table, int32(0))
    fields = fresh(fields)
    first_step = int32(slice_ * table[T.SLICE_STEPS])
    row_tile, column_tile = tile_of_block(int32(0))
    first_row, first_column = int32(row_tile * m_tile), int32(column_tile * n_tile)
    limit = int32(table[T.SAMPLES] * int32(load_int(table, fields, T.ROWS_H) * load_int(table, fields, T.ROWS_W)))
    if first_row >= limit:
        return
    thread = int32(cuda.threadIdx.x)
    depth = 4 * chunk * shares
    left_size = WORDS * m_tile * shares
    stage_size = left_size + WORDS * n_tile * shares
    ring = stages * stage_size

    # Left: this thread's rows of x and its place in the reduction.
    address = cuda.local.array(4, int32)
    row, own_chunk = int32(thread >> 1), int32(int32(thread ^ (thread >> 3)) & 1)
    start_walk(table, fields, group, int32(first_row + row), threads // 2, rows, limit, walk, own, stride)
    channels = table[T.C_IN_GROUP]
    channel = int32(int32(channels + first_step) + int32(chunk * own_chunk - 2 * chunk))  # taps follow from its excess
    to = int32(4 * thread)

    # Right: this thread's rows and columns of the weights.
    chunks = n_tile // chunk  # of a row of the slice
    right_row = int32(thread // chunks)
    right_chunk = int32(int32(thread - int32(right_row * chunks)) ^ int32((right_row & swizzle_mask) << swizzle_shift))
    right_column = int32(first_column + int32(chunk * right_chunk))
    weight_step = table[T.WEIGHT_ROW_STEP]
    reduction = int32(
        int32(load_int(table, fields, T.TAPS_H) * load_int(table, fields, T.TAPS_W)) * table[T.C_IN_GROUP]
    )
    reduction = min(reduction, int32(first_step + table[T.SLICE_STEPS]))
    start = int32(load_int(table, fields, T.WEIGHT_START) + int32(group * load_int(table, fields, T.WEIGHT_GROUP_STEP)))
    end = uint32(start + int32(reduction * weight_step))
    place = uint32(int32(start + int32(int32(first_step + right_row) * weight_step)) + right_column)
    if right_column >= table[T.COLUMNS] or right_row >= depth:
        place = uint32(BEYOND)
    right_rows = min(depth, threads // chunks)  # that the block copies at a time
    copies = depth // right_rows
    right_step = uint32(right_rows * weight_step)
    takes_part = threads <= depth * chunks or right_row < depth

    reading = cuda.local.array(2, int32)
    start_reading(thread, m_tile, n_tile, left_size, reading, sums)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            sums[i, j] = float32(0)

    remaining = int32(int32(int32(reduction - first_step) + (depth - 1)) // depth)  # slices
    write = int32(0)
    while write < int32(ring - stage_size):
        if write < int32(remaining * stage_size):
            channel, right = copy_left(
                shared, int32(write + to), 4 * threads, 8 * m_tile, 2 * shares, x, table, fields, channel, channels,
                rows, walk, own, stride, address, chunk, masked,
            )  # fmt: skip
            place = copy_right(shared, right, 4 * threads, weight, place, right_step, end, copies, takes_part)
        copy_commit()
        write = int32(write + stage_size)
    read = int32(0)
    while remaining > 0:
        if stages == 2:
            copy_wait0()
        else:
            copy_wait1()
        cuda.syncthreads()
        write = next_stage(read, stage_size, stages, stages - 1)
        if remaining >= stages:
            channel, right = copy_left(
                shared, int32(write + to), 4 * threads, 8 * m_tile, 2 * shares, x, table, fields, channel, channels,
                rows, walk, own, stride, address, chunk, masked,
            )  # fmt: skip
            place = copy_right(shared, right, 4 * threads, weight, place, right_step, end, copies, takes_part)
        copy_commit()
        multiply(shared, read, reading, m_tile, n_tile, sums)
        read = next_stage(read, stage_size, stages, 1)
        remaining = int32(remaining - 1)
    copy_wait0()
    cuda.syncthreads()
    if shares == 2:
        join_shares(shared, sums, thread, threads)
    finish(bias, residual, y, table, shared, ring, sums, m_tile, n_tile, threads, pad, lay)


@inlined
def join_shares(shared, sums, thread, threads):
    """Add the sums of the second half of the threads to those of the first, through memory that nobody else uses."""
    half = threads // 2
    if thread >= half:
        place = int32(4 * int32(thread - half))
        for i in range(sums.shape[0]):
            for part in range(sums.shape[1] // 4):
                four = (sums[i, 4 * part], sums[i, 4 * part + 1], sums[i, 4 * part + 2], sums[i, 4 * part + 3])
                store4(shared, int32(place + 4 * half * (i * (sums.shape[1] // 4) + part)), four)
    cuda.syncthreads()
    if thread < half:
        place = int32(4 * thread)
        for i in range(sums.shape[0]):
            for part in range(sums.shape[1] // 4):
                four = load4(shared, place, 4 * half * (i * (sums.shape[1] // 4) + part))
                for j in range(4):
                    sums[i, 4 * part + j] += four[j]
    cuda.syncthreads()


@inlined
def next_stage(stage, stage_size, stages, steps):
    """Give the place in the ring of the stage that comes `steps` after one."""
    if stages == 2:
        return int32(stage_size - stage)
    ring = stages * stage_size
    stage = int32(stage + steps * stage_size)
    return int32(stage - ring) if stage >= ring else stage


@inlined
def finish(bias, residual, y, table, shared, room, sums, m_tile, n_tile, threads, pad, lay):
    """Lay the sums into the ring's memory, as many rows at a time as fit, and finish them there."""
    zero = fresh(int32(0))
    thread = int32(int32(cuda.threadIdx.x) + zero)
    slice_, group, fields = phase_of_block(table, zero)
    size = int32(int32(int32(table[T.SAMPLES] * table[T.OUT_H]) * table[T.OUT_W]) * table[T.C_OUT])
    offset = int32(int32(slice_ * size) + int32(group * table[T.C_OUT_GROUP]))
    row_tile, column_tile = tile_of_block(zero)
    first_row, first_column = int32(row_tile * m_tile), int32(column_tile * n_tile)
    limit = int32(table[T.SAMPLES] * int32(load_int(table, fields, T.ROWS_H) * load_int(table, fields, T.ROWS_W)))
    pitch = n_tile + pad
    fitting = room // (pitch + 1)
    count = 128 if fitting >= 128 else (64 if fitting >= 64 else 32)
    notes = count * pitch
    base = int32(0)
    while base < m_tile:
        note_outputs(shared, notes, table, fields, offset, int32(first_row + base), count, limit, thread, threads)
        lay(shared, sums, base, count, pitch, thread, n_tile)
        cuda.syncthreads()
        finish_rows(shared, pitch, notes, bias, residual, y, table, group, first_column, count, n_tile, thread, threads)
        cuda.syncthreads()
        base = int32(base + count)


@inlined
def note_outputs(shared, start, table, fields, offset, first, count, limit, thread, threads):
    """Note in shared memory where in y each row of the tile goes, `offset` further on; -1 for rows beyond the last."""
    r = thread
    while r < count:
        m = int32(first + r)
        sample, h, w = split_row(table, fields, m)
        h = int32(load_int(table, fields, T.OUT_START_H) + int32(h * load_int(table, fields, T.OUT_STEP_H)))
        w = int32(load_int(table, fields, T.OUT_START_W) + int32(w * load_int(table, fields, T.OUT_STEP_W)))
        line = int32(int32(sample * table[T.OUT_H]) + h)
        place = int32(int32(int32(line * table[T.OUT_W]) + w) * table[T.C_OUT])
        place = int32(place + offset) if m < limit else int32(-1)
        shared[start + r] = float_of(uint32(place))
        r = int32(r + threads)


@inlined
def finish_rows(shared, pitch, notes, bias, residual, y, table, group, first_column, count, columns, thread, threads):
    """Add bias and residual to `count` rows of sums in shared memory, apply the activation, store them.

    Every thread keeps its columns and goes down the rows.
    """
    code, has_residual = table[T.ACTIVATION], table[T.HAS_RESIDUAL]
    parameter = bias[table[T.C_OUT]]
    limit = int32(table[T.C_OUT_GROUP] - first_column)
    bias_start = int32(int32(group * table[T.C_OUT_GROUP]) + first_column)
    if int32(table[T.C_OUT_GROUP] & int32(3)) == int32(0):
        column = int32(int32(thread * int32(4)) & int32(columns - 1))
        if column < limit:
            b0, b1, b2, b3 = load4(bias, bias_start, column)
            row = int32(int32(thread * int32(4)) // columns)
            while row < count:
                place = int32(bits_of(shared[notes + row]))
                if place >= int32(0):
                    place = int32(place + first_column)
                    v0, v1, v2, v3 = load4(shared, int32(row * pitch), column)
                    v0, v1, v2, v3 = float32(v0 + b0), float32(v1 + b1), float32(v2 + b2), float32(v3 + b3)
                    if has_residual != int32(0):
                        r0, r1, r2, r3 = load4(residual, place, column)
                        v0, v1, v2, v3 = float32(v0 + r0), float32(v1 + r1), float32(v2 + r2), float32(v3 + r3)
                    if code != int32(0):
                        turn = int32(0)
                        while turn < int32(4):
                            v0, v1, v2, v3 = v1, v2, v3, activate(code, v0, parameter)
                            turn = int32(turn + 1)
                    store4(y, int32(place + column), (v0, v1, v2, v3))
                row = int32(row + int32(int32(threads * 4) // columns))
    else:
        column = int32(thread & int32(columns - 1))
        if column < limit:
            b0 = bias[bias_start + column]
            row = int32(thread // columns)
            while row < count:
                place = int32(bits_of(shared[notes + row]))
                if place >= int32(0):
                    place = int32(int32(place + first_column) + column)
                    v0 = float32(shared[int32(row * pitch) + column] + b0)
                    if has_residual != int32(0):
                        v0 = float32(v0 + widen(residual[place]))
                    if code != int32(0):
                        v0 = activate(code, v0, parameter)
                    y[place] = narrow(v0, y)
                row = int32(row + int32(threads // columns))
