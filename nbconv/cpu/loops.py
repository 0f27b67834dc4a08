"""The loops of every convolution: jobs, tiles, chunks of the reduction, tiles of columns.

One nest serves one and two dimensions, convolution and transposed convolution, dense, grouped and depthwise: the planner
has turned each into phases, lines, segments and columns (see `tables`).
"""

from __future__ import annotations

import numpy as np

from ..runtime.calls import map_tile
from ..runtime.halves import float_to_bfloat16, float_to_float16
from ..runtime.jit import overload, prange, serial, twins
from ..runtime.microkernel import run_tile
from . import tables as T
from .panels import fill_panel

__all__ = ["convolve"]

# Columns of a job's list of tiles.
_TILE_ROWS, _TILE_X, _TILE_PANEL, _TILE_POSITION, _TILE_SUMS, _TILE_FIELDS = range(6)
_GATHERED = np.iinfo(np.int64).min  # in _TILE_X: this tile reads the panel


@twins
def convolve(  # type: ignore[no-untyped-def]
    job, job_end, workers, x, x_start, w, w_start, bias, y, y_start, activation,
    call, phases, chunks, columns, kernels, x_segments, w_segments,
):  # fmt: skip
    """Run the jobs `[job, job_end)`.

    Math     y[p, o] = activation(bias[o] + sum over taps t and channels c of x[p*stride + t*dilation - lo, c] * w[t, c, o])
    Shapes   x, w, y flat, with the strides of `call` and `phases` . bias (c_out,)
    Threads  over jobs: every job owns its outputs, so the bits do not depend on the number of threads
    """
    for worker in prange(workers):
        first = job + (job_end - job) * worker // workers
        last = job + (job_end - job) * (worker + 1) // workers
        if first < last:
            _run_jobs(
                first, last, x, x_start, w, w_start, bias, y, y_start, activation,
                call, phases, chunks, columns, kernels, x_segments, w_segments,
            )  # fmt: skip


@serial
def _run_jobs(  # type: ignore[no-untyped-def]
    job, job_end, x, x_start, w, w_start, bias, y, y_start, activation,
    call, phases, chunks, columns, kernels, x_segments, w_segments,
):  # fmt: skip
    panel = np.empty(call[T.PANEL_SIZE], w.dtype)
    scratch = np.empty(call[T.SCRATCH_SIZE], w.dtype)
    tiles = np.empty((call[T.MAX_TILES], _TILE_FIELDS), np.int64)
    panel_segments = np.empty(call[T.MAX_SEGMENTS], np.int64)
    n_columns, blocks = columns.shape[0], call[T.COLUMN_BLOCKS]
    number = 0
    for here in range(job, job_end):
        while here >= phases[number, T.JOB_END]:
            number += 1
        phase = phases[number]
        begin = phases[number - 1, T.JOB_END] if number else 0
        block, column_block = divmod(here - begin, blocks)
        count = _list_tiles(tiles, x_start, block, call, phase)
        column, column_end = n_columns * column_block // blocks, n_columns * (column_block + 1) // blocks
        tile = 0
        while tile < count:
            tile_end = _take_group(tiles, tile, count, call)
            for chunk in range(phase[T.CHUNK], phase[T.CHUNK_END]):
                _run_chunk(
                    chunk == phase[T.CHUNK], chunk == phase[T.CHUNK_END] - 1, chunks[chunk],
                    tiles[tile:tile_end], columns[column:column_end], x, x_start, w, w_start, bias, y, y_start,
                    activation, call, phase, kernels, x_segments, w_segments, panel, panel_segments, scratch,
                )  # fmt: skip
            tile = tile_end


@serial
def _list_tiles(tiles, x_start, block, call, phase):  # type: ignore[no-untyped-def]
    """List the tiles of one block of positions; say for each whether its rows can be read in place."""
    length = phase[T.LINE_LENGTH]
    if phase[T.BLOCKS_PER_LINE] > 1:
        line, part = divmod(block, phase[T.BLOCKS_PER_LINE])
        line_end = line + 1
        start = part * phase[T.BLOCK]
        stop = min(start + phase[T.BLOCK], length)
    else:
        line = block * phase[T.LINES_PER_BLOCK]
        line_end = min(line + phase[T.LINES_PER_BLOCK], phase[T.LINES])
        start, stop = 0, length
    count = 0
    for line in range(line, line_end):
        sample, out_h = divmod(line, phase[T.OUT_H])
        inside = phase[T.H_FIRST] <= out_h < phase[T.H_END]
        x_line = (
            x_start + sample * call[T.X_STEP_N] + (out_h * phase[T.STRIDE_H] - phase[T.LO_H]) * call[T.X_STEP_H]
            - phase[T.LO_W] * call[T.X_STEP_W]
        )  # fmt: skip
        n_tiles = -(-(stop - start) // call[T.ROWS])
        for i in range(n_tiles):
            low = start + (stop - start) * i // n_tiles
            high = start + (stop - start) * (i + 1) // n_tiles
            tiles[count, _TILE_ROWS] = high - low
            tiles[count, _TILE_POSITION] = line * length + low
            if inside and phase[T.W_FIRST] <= low and high <= phase[T.W_END]:
                tiles[count, _TILE_X] = x_line + low * phase[T.STRIDE_W] * call[T.X_STEP_W]
            else:
                tiles[count, _TILE_X] = _GATHERED
            count += 1
    return count


@serial
def _take_group(tiles, tile, count, call):  # type: ignore[no-untyped-def]
    """Find how many tiles the panel and the scratch can serve at once, and give them their places."""
    gathered, held = 0, 0
    end = tile
    while end < count:
        rows = tiles[end, _TILE_ROWS]
        needs = rows if tiles[end, _TILE_X] == _GATHERED else 0
        if gathered + needs > call[T.PANEL_ROWS] or held + rows > call[T.SCRATCH_ROWS]:
            break
        tiles[end, _TILE_PANEL] = gathered
        tiles[end, _TILE_SUMS] = held
        gathered += needs
        held += rows
        end += 1
    return end


@serial
def _run_chunk(  # type: ignore[no-untyped-def]
    is_first, is_last, chunk, tiles, columns, x, x_start, w, w_start, bias, y, y_start,
    activation, call, phase, kernels, x_segments, w_segments, panel, panel_segments, scratch,
):  # fmt: skip
    """Add one chunk of the reduction to all tiles of a group."""
    segment, segment_end, run = chunk[T.CHUNK_SEGMENT], chunk[T.CHUNK_SEGMENT_END], chunk[T.CHUNK_RUN]
    base = phase[T.SEGMENT]
    low, high = columns[0, T.CHANNEL], columns[-1, T.CHANNEL_END]
    width = high - low - call[T.GROUP_CHANNELS] + chunk[T.CHUNK_CHANNEL_END] - chunk[T.CHUNK_CHANNEL]
    panel_row = (chunk[T.CHUNK_TAP_END] - chunk[T.CHUNK_TAP]) * width
    for s in range(segment, segment_end):
        panel_segments[base + s] = (s - segment) * phase[T.SEGMENT_TAPS] * width
    for t in range(tiles.shape[0]):
        if tiles[t, _TILE_X] == _GATHERED:
            fill_panel(
                panel, tiles[t, _TILE_PANEL] * panel_row, x, x_start, tiles[t, _TILE_POSITION], tiles[t, _TILE_ROWS],
                chunk[T.CHUNK_TAP], chunk[T.CHUNK_TAP_END], low + chunk[T.CHUNK_CHANNEL], width, call, phase,
            )  # fmt: skip
    held_columns = columns[-1, T.OUT_CHANNEL] + columns[-1, T.COLUMNS] - columns[0, T.OUT_CHANNEL]
    step_w = phase[T.Y_STEP_W]
    for j in range(columns.shape[0]):
        column = columns[j]
        out_channel = column[T.OUT_CHANNEL]
        w_at = (
            w_start + phase[T.WEIGHT_START] + column[T.WEIGHT_OFFSET] * phase[T.WEIGHT_TERMS]
            + chunk[T.CHUNK_K] * column[T.WEIGHT_K]
        )  # fmt: skip
        w_taps = w_segments[column[T.VECTORS]]
        for t in range(tiles.shape[0]):
            rows, position = tiles[t, _TILE_ROWS], tiles[t, _TILE_POSITION]
            kernel = kernels[column[T.VECTORS], rows]
            line, out_w = divmod(position, phase[T.OUT_W])
            sample, out_h = divmod(line, phase[T.OUT_H])
            y_at = (
                y_start + phase[T.Y_OFFSET] + sample * call[T.Y_STEP_N] + out_h * phase[T.Y_STEP_H] + out_w * step_w
                + out_channel * call[T.Y_STEP_C]
            )  # fmt: skip
            if call[T.SCRATCH]:
                sums_at = tiles[t, _TILE_SUMS] * held_columns + out_channel - columns[0, T.OUT_CHANNEL]
                sums_row = held_columns
            else:
                sums_at, sums_row = y_at, step_w
            if tiles[t, _TILE_X] == _GATHERED and call[T.SKIP]:
                _product_of_real_taps(
                    kernels[column[T.VECTORS], 1], panel, tiles[t, _TILE_PANEL] * panel_row + column[T.CHANNEL] - low,
                    panel_row, width, panel_segments, w, w_at - chunk[T.CHUNK_K] * column[T.WEIGHT_K], w_taps, rows,
                    is_first, bias, scratch, y, sums_at, sums_row, position, call, phase, chunk, column,
                )  # fmt: skip
            elif tiles[t, _TILE_X] == _GATHERED:
                _product(
                    kernel, panel, tiles[t, _TILE_PANEL] * panel_row + column[T.CHANNEL] - low, panel_row, 1,
                    panel_segments, w, w_at, column[T.WEIGHT_K], w_taps, base + segment, base + segment_end, run,
                    is_first, bias, out_channel, call[T.SCRATCH], scratch, y, sums_at, sums_row, column[T.LAST_COLUMNS],
                )  # fmt: skip
            else:
                _product(
                    kernel, x, tiles[t, _TILE_X] + (column[T.CHANNEL] + chunk[T.CHUNK_K]) * call[T.X_STEP_C],
                    phase[T.STRIDE_W] * call[T.X_STEP_W], call[T.X_STEP_C],
                    x_segments, w, w_at, column[T.WEIGHT_K], w_taps, base + segment, base + segment_end, run,
                    is_first, bias, out_channel, call[T.SCRATCH], scratch, y, sums_at, sums_row, column[T.LAST_COLUMNS],
                )  # fmt: skip
            if is_last:
                if call[T.SCRATCH]:
                    map_tile(activation, scratch, sums_at, rows, sums_row, column[T.COLUMNS])
                    _store_rows(
                        scratch, sums_at, sums_row, rows, column[T.COLUMNS], y, y_start + out_channel * call[T.Y_STEP_C],
                        position, call, phase,
                    )  # fmt: skip
                else:
                    map_tile(activation, y, sums_at, rows, sums_row, column[T.COLUMNS])


@serial
def _product(  # type: ignore[no-untyped-def]
    kernel, a, a_start, a_row, a_k, a_taps, w, w_start, w_k, w_taps, tap, tap_end, run,
    is_first, bias, out_channel, in_scratch, scratch, y, sums_at, sums_row, last,
):  # fmt: skip
    """Run one tile, from the bias or from the sums so far, into `scratch` or straight into `y`."""
    if in_scratch:
        if is_first:
            run_tile(
                kernel, a, a_start, a_row, a_k, a_taps, w, w_start, w_k, w_taps, tap, tap_end, run,
                bias, out_channel, 0, scratch, sums_at, sums_row, last,
            )  # fmt: skip
        else:
            run_tile(
                kernel, a, a_start, a_row, a_k, a_taps, w, w_start, w_k, w_taps, tap, tap_end, run,
                scratch, sums_at, sums_row, scratch, sums_at, sums_row, last,
            )  # fmt: skip
    elif is_first:
        run_tile(
            kernel, a, a_start, a_row, a_k, a_taps, w, w_start, w_k, w_taps, tap, tap_end, run,
            bias, out_channel, 0, y, sums_at, sums_row, last,
        )  # fmt: skip
    else:
        run_tile(
            kernel, a, a_start, a_row, a_k, a_taps, w, w_start, w_k, w_taps, tap, tap_end, run,
            y, sums_at, sums_row, y, sums_at, sums_row, last,
        )  # fmt: skip


@serial
def _product_of_real_taps(  # type: ignore[no-untyped-def]
    kernel, panel, panel_at, panel_row, width, panel_segments, w, w_at, w_taps, rows,
    is_first, bias, scratch, y, sums_at, sums_row, position, call, phase, chunk, column,
):  # fmt: skip
    """Run a gathered tile row by row, tap by tap, leaving out the taps that meet no data.

    A transposed convolution has no padding: an infinite weight must not meet a zero that only fills the panel.
    """
    fuse, base = phase[T.SEGMENT_TAPS], phase[T.SEGMENT]
    channels = chunk[T.CHUNK_CHANNEL_END] - chunk[T.CHUNK_CHANNEL]
    for m in range(rows):
        line, out_w = divmod(position + m, phase[T.OUT_W])
        out_h = line % phase[T.OUT_H]
        at = sums_at + m * sums_row
        if is_first:
            _product(
                kernel, panel, 0, 0, 1, panel_segments, w, w_at, column[T.WEIGHT_K], w_taps, 0, 0, 0,
                True, bias, column[T.OUT_CHANNEL], call[T.SCRATCH], scratch, y, at, 0, column[T.LAST_COLUMNS],
            )  # fmt: skip
        for tap in range(chunk[T.CHUNK_TAP], chunk[T.CHUNK_TAP_END]):
            tap_h, tap_w = divmod(tap, phase[T.TAPS_W])
            row = out_h * phase[T.STRIDE_H] + tap_h * phase[T.DILATION_H] - phase[T.LO_H]
            place = out_w * phase[T.STRIDE_W] + tap_w * phase[T.DILATION_W] - phase[T.LO_W]
            if 0 <= row < call[T.X_H] and 0 <= place < call[T.X_W]:
                segment, inner = divmod(tap, fuse)
                segment += base
                term = inner * call[T.GROUP_CHANNELS] + chunk[T.CHUNK_CHANNEL]
                a_at = panel_at + m * panel_row + (tap - chunk[T.CHUNK_TAP]) * width - panel_segments[segment]
                _product(
                    kernel, panel, a_at, panel_row, 1, panel_segments, w, w_at + term * column[T.WEIGHT_K],
                    column[T.WEIGHT_K], w_taps, segment, segment + 1, channels,
                    False, bias, 0, call[T.SCRATCH], scratch, y, at, 0, column[T.LAST_COLUMNS],
                )  # fmt: skip


@serial
def _store_rows(scratch, sums_at, sums_row, rows, count, y, y_start, position, call, phase):  # type: ignore[no-untyped-def]
    """Write finished sums to `y`: any strides, any storage type, rows anywhere."""
    for m in range(rows):
        line, out_w = divmod(position + m, phase[T.OUT_W])
        sample, out_h = divmod(line, phase[T.OUT_H])
        at = (
            y_start + phase[T.Y_OFFSET] + sample * call[T.Y_STEP_N] + out_h * phase[T.Y_STEP_H]
            + out_w * phase[T.Y_STEP_W]
        )  # fmt: skip
        store_numbers(y, at, call[T.Y_STEP_C], scratch, sums_at + m * sums_row, count, call[T.HALF])


def store_numbers(y, at, step, sums, start, count, half):  # type: ignore[no-untyped-def]
    """Copy `count` numbers out of the compute type, rounding to half types."""
    for i in range(count):
        value = sums[start + i]
        if half == T.FLOAT16:
            value = float_to_float16(value)
        elif half == T.BFLOAT16:
            value = float_to_bfloat16(value)
        y[at + i * step] = value


@overload(store_numbers)
def _store_numbers(y, at, step, sums, start, count, half):  # type: ignore[no-untyped-def]
    def store_words(y, at, step, sums, start, count, half):  # type: ignore[no-untyped-def]
        if half == T.FLOAT16:
            for i in range(count):
                y[at + i * step] = float_to_float16(sums[start + i])
        else:
            for i in range(count):
                y[at + i * step] = float_to_bfloat16(sums[start + i])

    def store_floats(y, at, step, sums, start, count, half):  # type: ignore[no-untyped-def]
        for i in range(count):
            y[at + i * step] = sums[start + i]

    return store_words if y.dtype.bitwidth == 16 else store_floats
