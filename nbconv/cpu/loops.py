"""The loops of every convolution: jobs, tiles, chunks of the reduction, tiles of columns.

One nest serves one and two dimensions, convolution and transposed convolution, dense, grouped and depthwise: the
planner has turned each into phases, lines, segments and columns (see `tables`).
"""

from __future__ import annotations

import numpy as np

from ..runtime.calls import map_tile
from ..runtime.halves import float_to_bfloat16, float_to_float16
from ..runtime.jit import helper, overload, prange, twins
from ..runtime.microkernel import run_tile
from . import tables as T
from .panels import fill_panel
from .strips import cut_line

__all__ = ["convolve"]

# Columns of a job's list of strips: runs of tiles of the same number of rows that lie evenly in x (or in the panel).
_ROWS, _TILES, _X, _Y, _PANEL, _POSITION, _SUMS, _STRIP_FIELDS = range(8)
_GATHERED = np.iinfo(np.int64).min  # in _X: this strip reads the panel


@twins
def convolve(
    job, job_end, workers, x, x_start, w, w_start, bias, y, y_start, activation,
    call, phases, chunks, columns, kernels, x_segments, w_segments,
):  # fmt: skip
    """Run the jobs `[job, job_end)`.

    Math     y[p, o] = activation(bias[o] + sum_t sum_c x[p*stride + t*dilation - lo, c] * w[t, c, o])
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


@helper
def _run_jobs(
    job, job_end, x, x_start, w, w_start, bias, y, y_start, activation,
    call, phases, chunks, columns, kernels, x_segments, w_segments,
):  # fmt: skip
    panel = np.empty(call[T.PANEL_SIZE], w.dtype)
    sums = choose_sums(y, np.empty(call[T.SCRATCH_SIZE], w.dtype), call[T.SCRATCH] == 1)
    strips = np.empty((call[T.MAX_STRIPS], _STRIP_FIELDS), np.int64)
    panel_segments = np.empty(call[T.MAX_SEGMENTS], np.int64)
    blocks = call[T.COLUMN_BLOCKS]
    number = 0
    for here in range(job, job_end):
        while here >= phases[number, T.JOB_END]:
            number += 1
        phase = phases[number]
        begin = phases[number - 1, T.JOB_END] if number else 0
        block, column_block = divmod(here - begin, blocks)
        count = _list_strips(strips, x_start, y_start, block, call, phase)
        first_column, n_columns = phase[T.COLUMN], phase[T.COLUMN_END] - phase[T.COLUMN]
        column = first_column + n_columns * column_block // blocks
        column_end = first_column + n_columns * (column_block + 1) // blocks
        strip = 0 if column < column_end else count
        while strip < count:
            strip_end = _take_group(strips, strip, count, call)
            for chunk in range(phase[T.CHUNK], phase[T.CHUNK_END]):
                _run_chunk(
                    chunk == phase[T.CHUNK], chunk == phase[T.CHUNK_END] - 1, chunks[chunk],
                    strips[strip:strip_end], columns[column:column_end], x, x_start, w, w_start, bias, y, y_start,
                    activation, call, phase, kernels, x_segments, w_segments, panel, panel_segments, sums,
                )  # fmt: skip
            strip = strip_end


@helper
def _list_strips(strips, x_start, y_start, block, call, phase):
    """List the strips of one block of positions, each with the place in x of its first row, or `_GATHERED`."""
    length = phase[T.LINE_LENGTH]
    if phase[T.BLOCKS_PER_LINE] > 1:
        first_line, part = divmod(block, phase[T.BLOCKS_PER_LINE])
        line_end = first_line + 1
        start = part * phase[T.BLOCK]
        stop = min(start + phase[T.BLOCK], length)
    else:
        first_line = block * phase[T.LINES_PER_BLOCK]
        line_end = min(first_line + phase[T.LINES_PER_BLOCK], phase[T.LINES])
        start, stop = 0, length
    x_row = phase[T.STRIDE_W] * call[T.X_STEP_W]
    count = 0
    for line in range(first_line, line_end):
        sample, out_h = divmod(line, phase[T.OUT_H])
        x_line = (
            x_start + sample * call[T.X_STEP_N] + (out_h * phase[T.STRIDE_H] - phase[T.LO_H]) * call[T.X_STEP_H]
            - phase[T.LO_W] * call[T.X_STEP_W]
        )  # fmt: skip
        y_line = y_start + phase[T.Y_OFFSET] + sample * call[T.Y_STEP_N] + out_h * phase[T.Y_STEP_H]
        first, end = stop, stop
        if phase[T.H_FIRST] <= out_h < phase[T.H_END]:
            first, end = cut_line(start, stop, phase[T.W_FIRST], phase[T.W_END], call[T.ROWS], call[T.WHOLE_TILES])
        position = line * length
        for low, high, gathered in ((start, first, True), (first, end, False), (end, stop, True)):
            most = call[T.SCRATCH_ROWS]
            if gathered:
                most = min(most, call[T.PANEL_ROWS])
            while low < high:
                rows = min(high - low, call[T.ROWS])
                tiles = max(1, min(high - low, most) // rows)
                strips[count, _ROWS], strips[count, _TILES] = rows, tiles
                strips[count, _X] = _GATHERED if gathered else x_line + low * x_row
                strips[count, _Y] = y_line + low * phase[T.Y_STEP_W]
                strips[count, _POSITION] = position + low
                low += rows * tiles
                count += 1
    return count


@helper
def _take_group(strips, strip, count, call):
    """Find how many strips the panel and the scratch can serve at once, and give them their places."""
    gathered, held = 0, 0
    end = strip
    while end < count:
        rows = strips[end, _ROWS] * strips[end, _TILES]
        needs = rows if strips[end, _X] == _GATHERED else 0
        if gathered + needs > call[T.PANEL_ROWS] or held + rows > call[T.SCRATCH_ROWS]:
            break
        strips[end, _PANEL] = gathered
        strips[end, _SUMS] = held
        gathered += needs
        held += rows
        end += 1
    return end


@helper
def _run_chunk(
    is_first, is_last, chunk, strips, columns, x, x_start, w, w_start, bias, y, y_start,
    activation, call, phase, kernels, x_segments, w_segments, panel, panel_segments, sums,
):  # fmt: skip
    """Add one chunk of the reduction to all strips of a group: from the bias, or from the sums so far, into `sums`."""
    base = phase[T.SEGMENT]
    segment, segment_end, run = base + chunk[T.CHUNK_SEGMENT], base + chunk[T.CHUNK_SEGMENT_END], chunk[T.CHUNK_RUN]
    low, high = columns[0, T.CHANNEL], columns[-1, T.CHANNEL_END]
    width = high - low - call[T.GROUP_CHANNELS] + chunk[T.CHUNK_CHANNEL_END] - chunk[T.CHUNK_CHANNEL]
    panel_row = (chunk[T.CHUNK_TAP_END] - chunk[T.CHUNK_TAP]) * width
    for s in range(segment, segment_end):
        panel_segments[s] = (s - segment) * phase[T.SEGMENT_TAPS] * width
    for i in range(strips.shape[0]):
        if strips[i, _X] == _GATHERED:
            fill_panel(
                panel, strips[i, _PANEL] * panel_row, x, x_start, strips[i, _POSITION],
                strips[i, _ROWS] * strips[i, _TILES],
                chunk[T.CHUNK_TAP], chunk[T.CHUNK_TAP_END], low + chunk[T.CHUNK_CHANNEL], width, call, phase,
            )  # fmt: skip
    first_channel = columns[0, T.OUT_CHANNEL]
    held_row = columns[-1, T.OUT_CHANNEL] + columns[-1, T.COLUMNS] - first_channel
    init = bias if is_first else sums
    x_row, x_c, y_row = phase[T.STRIDE_W] * call[T.X_STEP_W], call[T.X_STEP_C], phase[T.Y_STEP_W]
    in_scratch = call[T.SCRATCH] == 1
    for j in range(columns.shape[0]):
        column = columns[j]
        vectors, last, out_channel = column[T.VECTORS], column[T.LAST_COLUMNS], column[T.OUT_CHANNEL]
        w_k = column[T.WEIGHT_K]
        w_at = w_start + phase[T.WEIGHT_START] + column[T.WEIGHT_OFFSET] + chunk[T.CHUNK_K] * column[T.WEIGHT_TERM]
        w_taps = w_segments[vectors]
        for i in range(strips.shape[0]):
            rows, tiles, x_at, position = strips[i, _ROWS], strips[i, _TILES], strips[i, _X], strips[i, _POSITION]
            kernel = kernels[column[T.KERNEL_VECTORS], rows]
            panel_at = strips[i, _PANEL] * panel_row + column[T.CHANNEL] - low
            if in_scratch:
                at, row = strips[i, _SUMS] * held_row + out_channel - first_channel, held_row
            else:
                at, row = strips[i, _Y] + out_channel, y_row
            init_at, init_row = (out_channel, 0) if is_first else (at, row)
            if x_at != _GATHERED:
                run_tile(
                    kernel, x, x_at + (column[T.CHANNEL] + chunk[T.CHUNK_K]) * x_c, x_row, x_c, x_segments,
                    w, w_at, w_k, w_taps, segment, segment_end, run,
                    init, init_at, init_row, sums, at, row, last, tiles,
                )  # fmt: skip
            elif call[T.SKIP] == 0:
                run_tile(
                    kernel, panel, panel_at, panel_row, 1, panel_segments,
                    w, w_at, w_k, w_taps, segment, segment_end, run,
                    init, init_at, init_row, sums, at, row, last, tiles,
                )  # fmt: skip
            else:
                _multiply_real_taps(
                    kernels[column[T.KERNEL_VECTORS], 1], panel, panel_at, panel_row, width, panel_segments,
                    w, w_at - chunk[T.CHUNK_K] * column[T.WEIGHT_TERM], w_taps, rows * tiles,
                    init, init_at, init_row, sums, at, row, position, call, phase, chunk, column,
                )  # fmt: skip
            if is_last:
                map_tile(activation, sums, at, rows * tiles, row, column[T.COLUMNS])
                if in_scratch:
                    _store_rows(
                        sums, at, row, rows * tiles, column[T.COLUMNS], y, y_start, out_channel, position, call, phase,
                    )  # fmt: skip


@helper
def _multiply_real_taps(
    kernel, panel, panel_at, panel_row, width, panel_segments, w, w_at, w_taps, rows,
    init, init_at, init_row, sums, at, sums_row, position, call, phase, chunk, column,
):  # fmt: skip
    """Run a gathered strip row by row, tap by tap, leaving out the taps that meet no data.

    A transposed convolution has no padding: an infinite weight must not meet a zero that only fills the panel.
    """
    fuse, base, last = phase[T.SEGMENT_TAPS], phase[T.SEGMENT], column[T.LAST_COLUMNS]
    w_k, channels = column[T.WEIGHT_K], chunk[T.CHUNK_CHANNEL_END] - chunk[T.CHUNK_CHANNEL]
    first, end = chunk[T.CHUNK_TAP], chunk[T.CHUNK_TAP_END]
    for m in range(rows):
        line, out_w = divmod(position + m, phase[T.OUT_W])
        top = line % phase[T.OUT_H] * phase[T.STRIDE_H] - phase[T.LO_H]
        left = out_w * phase[T.STRIDE_W] - phase[T.LO_W]
        to = at + m * sums_row
        # Before the first tap, a product of no taps carries the initial sums over.
        for tap in range(first - 1, end):
            tap_h, tap_w = divmod(max(tap, first), phase[T.TAPS_W])
            row, place = top + tap_h * phase[T.DILATION_H], left + tap_w * phase[T.DILATION_W]
            real = tap >= first and 0 <= row < call[T.X_H] and 0 <= place < call[T.X_W]
            if real or tap < first:
                segment, inner = divmod(max(tap, first), fuse)
                segment += base
                term = inner * call[T.GROUP_CHANNELS] + chunk[T.CHUNK_CHANNEL]
                a_at = panel_at + m * panel_row + (tap - first) * width - panel_segments[segment]
                run_tile(
                    kernel, panel, a_at, panel_row, 1, panel_segments,
                    w, w_at + term * column[T.WEIGHT_TERM], w_k, w_taps, segment, segment + real, channels,
                    sums if real else init, to if real else init_at + m * init_row, 0, sums, to, 0, last,
                )  # fmt: skip


def choose_sums(y, scratch, in_scratch):
    """Give the array that holds the sums: `scratch`, or `y` itself where it is of the compute type and evenly laid."""
    return scratch if in_scratch else y


@overload(choose_sums)
def _choose_sums(y, scratch, in_scratch):
    if y.dtype != scratch.dtype:
        return lambda y, scratch, in_scratch: scratch
    return lambda y, scratch, in_scratch: scratch if in_scratch else y


@helper
def _store_rows(sums, sums_at, sums_row, rows, count, y, y_start, out_channel, position, call, phase):
    """Write finished sums to `y`: any strides, any storage type, rows anywhere."""
    channels = call[T.OUT_CHANNELS]
    for m in range(rows):
        line, out_w = divmod(position + m, phase[T.OUT_W])
        sample, out_h = divmod(line, phase[T.OUT_H])
        y_row = (
            y_start + phase[T.Y_OFFSET] + sample * call[T.Y_STEP_N] + out_h * phase[T.Y_STEP_H]
            + out_w * phase[T.Y_STEP_W]
        )  # fmt: skip
        done = 0
        while done < count:
            residue, channel = divmod(out_channel + done, channels)
            n = min(count - done, channels - channel)
            y_at = y_row + residue * call[T.Y_STEP_POSITION] + channel * call[T.Y_STEP_C]
            store_numbers(y, y_at, call[T.Y_STEP_C], sums, sums_at + m * sums_row + done, n, call[T.HALF])
            done += n


def store_numbers(y, at, step, sums, start, count, half):
    """Copy `count` numbers out of the compute type, rounding to half types where `y` holds those."""
    for i in range(count):
        value = sums[start + i]
        if half == T.FLOAT16 and y.itemsize == 2:
            value = float_to_float16(value)
        elif half == T.BFLOAT16 and y.itemsize == 2:
            value = float_to_bfloat16(value)
        y[at + i * step] = value


@overload(store_numbers)
def _store_numbers(y, at, step, sums, start, count, half):
    def store_words(y, at, step, sums, start, count, half):
        if half == T.FLOAT16:
            for i in range(count):
                y[at + i * step] = float_to_float16(sums[start + i])
        else:
            for i in range(count):
                y[at + i * step] = float_to_bfloat16(sums[start + i])

    def store_floats(y, at, step, sums, start, count, half):
        for i in range(count):
            y[at + i * step] = sums[start + i]

    return store_words if y.dtype.bitwidth == 16 else store_floats
