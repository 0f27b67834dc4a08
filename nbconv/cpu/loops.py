"""The loops of every convolution: jobs, strips of tiles, chunks of the reduction, tiles of columns.

One nest serves one and two dimensions, convolution and transposed convolution, dense, grouped and depthwise: the
planner has turned each into phases, lines, segments and columns (see `tables`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..runtime.calls import NOTHING, add_tile, address_of, call, map_tile
from ..runtime.entry import entry
from ..runtime.halves import float_to_bfloat16, float_to_float16
from ..runtime.integers import larger, smaller
from ..runtime.jit import helper, overload, serial
from ..runtime.memory import copy_run, place, settle
from ..runtime.microkernel import run_tile_at
from ..runtime.twins import twins
from . import strips as S
from . import tables as T
from .panels import copy_lines, fill_lines, fill_panel, padded_row

__all__ = ["convolve", "direct_entry", "exchange_rows", "store_numbers"]


@twins
def convolve(
    job, job_end, worker, x, x_start, w, w_start, bias, residual, residual_start, y, y_start, activation, addition,
    plan, work, notes,
):  # fmt: skip
    """Run the jobs `[job, job_end)`.

    Math     y[p, o] = activation(bias[o] + sum_t sum_c x[p*stride + t*dilation - lo, c] * w[t, c, o] + residual[p, o])
    Shapes   x, w, y flat, with the strides of `plan` . residual flat, with those of y . bias (c_out,)
    Threads  over jobs: every job owns its outputs, so the bits do not depend on the number of threads
    """
    work, notes = work[worker * plan[T.WORK_SIZE] :], notes[worker * plan[T.NOTES_SIZE] :]
    phase, begin = plan[T.PHASES], np.int64(0)
    for here in range(job, job_end):
        phase, begin, block, column, column_end = _find_job(here, phase, begin, plan)
        if column < column_end:
            x_at = x_start
            if plan[T.COPIED]:
                low, high = plan[column + T.CHANNEL], plan[column_end - T.COLUMN_FIELDS + T.CHANNEL_END]
                x_at = copy_lines(work, x, x_start, block, low, high, plan, phase)
            end = S.list_strips(notes, x_at, y_start, block, plan, phase)
            strip = np.int64(0)  # a plain 0 would be a type of its own, and all below compiled for it
            while strip < end:
                strip_end = S.take_group(notes, strip, end, plan, phase)
                for chunk in range(plan[phase + T.CHUNK], plan[phase + T.CHUNK_END], T.CHUNK_FIELDS):
                    further = np.int64(0)
                    if plan[T.FAR]:
                        again = strip_end < end
                        further = _way_to_next(chunk, phase, begin, column, column_end, again, here, job_end, plan)
                    _run_chunk(
                        chunk, strip, strip_end, column, column_end, x, x_start, w, w_start, further, bias,
                        residual, residual_start, y, y_start, activation, addition, plan, phase, work, notes,
                    )  # fmt: skip
                strip = strip_end
    if plan[T.STREAMS]:
        settle()


@helper
def _find_job(job, phase, begin, plan):
    """Give a job's phase, the first job of that, the job's block of positions, its first column, and their end.

    The search begins at a phase that is not behind the job's. A job of no columns does nothing.
    """
    if plan[T.TURNS] > 1:
        number, turn = divmod(job, plan[T.TURNS])
        phase = plan[T.PHASES] + turn * T.PHASE_FIELDS
    else:
        while job >= plan[phase + T.JOB_END]:
            begin = plan[phase + T.JOB_END]
            phase += T.PHASE_FIELDS
        number = job - begin
    blocks, first = plan[T.COLUMN_BLOCKS], plan[phase + T.COLUMN]
    block, column_block = divmod(number, blocks)
    n_columns = (plan[phase + T.COLUMN_END] - first) // T.COLUMN_FIELDS
    if plan[T.TURNS] > 1 and number >= plan[phase + T.JOB_END]:
        n_columns = 0
    column = first + n_columns * column_block // blocks * T.COLUMN_FIELDS
    column_end = first + n_columns * (column_block + 1) // blocks * T.COLUMN_FIELDS
    return phase, begin, block, column, column_end


@helper
def _way_to_next(chunk, phase, begin, column, column_end, again, job, job_end, plan):
    """Count the numbers between a chunk's weights for its last tile of columns and those that are read next.

    Those of the next chunk; behind the last one, of the first, `again` for more strips of the job, or of the next job.
    """
    next_chunk, next_phase, next_column = chunk + T.CHUNK_FIELDS, phase, column
    if next_chunk == plan[phase + T.CHUNK_END]:
        if not again and job + 1 == job_end:
            return 0
        if not again:
            next_phase, _, _, next_column, _ = _find_job(job + 1, phase, begin, plan)
        next_chunk = plan[next_phase + T.CHUNK]
    last_column = column_end - T.COLUMN_FIELDS
    return _weights_at(next_chunk, next_phase, next_column, plan) - _weights_at(chunk, phase, last_column, plan)


@helper
def _weights_at(chunk, phase, column, plan):
    """Tell where a chunk's weights for a tile of columns begin."""
    segments = plan[T.W_SEGMENTS] + plan[column + T.VECTORS] * plan[T.SEGMENTS] + plan[phase + T.SEGMENT]
    start = plan[phase + T.WEIGHT_START] + plan[column + T.WEIGHT_OFFSET]
    term = plan[chunk + T.CHUNK_K] * plan[column + T.WEIGHT_TERM]
    return start + plan[segments + plan[chunk + T.CHUNK_SEGMENT]] + term


@helper
def _convolve_directly(call_row, plan, work, notes, w, bias, x, residual, y):
    """Run all jobs of `convolve`; its address, their number, activation and addition stand in `call_row`."""
    start = np.int64(0)
    call(
        call_row[0], (start, call_row[1], start, x, start, w, start, bias, residual, start, y, start, call_row[2],
        call_row[3], plan, work, notes),
    )  # fmt: skip


@lru_cache
def direct_entry(compute: np.dtype, stored: np.dtype, releases: bool) -> tuple[Callable[..., np.ndarray], int]:
    """Compile the entry `(call_row, plan, work, notes, w, bias, x, residual, y)`; add `convolve`'s address."""
    words = np.empty(0, np.uint16 if stored.itemsize == 2 else stored)
    integers, numbers = np.empty(0, np.int64), np.empty(0, compute)
    address = address_of(
        convolve.serial,
        (0, 0, 0, words, 0, numbers, 0, numbers, words, 0, words, 0, 0, 0, integers, numbers, integers),
    )
    dtypes = (array.dtype for array in (integers, integers, numbers, integers, numbers, numbers, words, words, words))
    enter = entry(_convolve_directly, tuple(dtypes), f"enter_{compute}_{words.dtype}", releases=releases)
    return enter, address


@helper
def _run_chunk(
    chunk, strip, strip_end, column, column_end, x, x_start, w, w_start, further, bias,
    residual, residual_start, y, y_start, activation, addition, plan, phase, work, notes,
):  # fmt: skip
    """Add one chunk of the reduction to a group of strips: from the bias, or from the sums so far, into `sums`."""
    is_first = chunk == plan[phase + T.CHUNK]
    is_last = chunk + T.CHUNK_FIELDS == plan[phase + T.CHUNK_END]
    tap, tap_end = plan[chunk + T.CHUNK_TAP], plan[chunk + T.CHUNK_TAP_END]
    segment, segment_end = plan[chunk + T.CHUNK_SEGMENT], plan[chunk + T.CHUNK_SEGMENT_END]
    term, term_end = plan[chunk + T.CHUNK_K], plan[chunk + T.CHUNK_K] + plan[chunk + T.CHUNK_RUN]
    low, high = plan[column + T.CHANNEL], plan[column_end - T.COLUMN_FIELDS + T.CHANNEL_END]
    width = high - low - plan[T.GROUP_CHANNELS] + plan[chunk + T.CHUNK_CHANNEL_END] - plan[chunk + T.CHUNK_CHANNEL]
    # In the panel, from one position to the next, from one row to the next, from one term of a segment to the next.
    panel_row = panel_step = padded_row((tap_end - tap) * width)
    panel_term = plan[T.PANEL_TERM] or width
    if plan[T.PANEL_LINES]:
        panel_row, panel_step = plan[phase + T.STRIDE_W] * width, width
        panel_term = plan[T.PANEL_TERM] or plan[phase + T.DILATION_W] * width
    if plan[T.PANEL_SIZE] > 0:
        _fill_panel(
            chunk, segment, segment_end, strip, strip_end, work, panel_row, x, x_start, low, width, plan, phase, notes
        )
    exchange = plan[T.EXCHANGE]
    in_scratch = exchange != NOTHING
    first_channel = plan[column + T.OUT_CHANNEL]
    last_column = column_end - T.COLUMN_FIELDS
    held_row = plan[last_column + T.OUT_CHANNEL] + plan[last_column + T.COLUMNS] - first_channel
    x_row, x_term = plan[phase + T.STRIDE_W] * plan[T.X_STEP_W], plan[phase + T.X_TERM]
    x_line, y_line = plan[phase + T.STRIDE_H] * plan[T.X_STEP_H], plan[phase + T.Y_STEP_H]
    last_strip = strip_end - S.STRIP_FIELDS
    all_rows = notes[last_strip + S.SUMS] + notes[last_strip + S.ROWS] * notes[last_strip + S.TILES]
    for j in range(column, column_end, T.COLUMN_FIELDS):
        out_channel, channel = plan[j + T.OUT_CHANNEL], plan[j + T.CHANNEL]
        w_at = w_start + plan[phase + T.WEIGHT_START] + plan[j + T.WEIGHT_OFFSET]
        way = further if j == last_column else plan[j + T.COLUMN_FIELDS + T.WEIGHT_OFFSET] - plan[j + T.WEIGHT_OFFSET]
        w_segments = plan[T.W_SEGMENTS] + plan[j + T.VECTORS] * plan[T.SEGMENTS] + plan[phase + T.SEGMENT]
        for i in range(strip, strip_end, S.STRIP_FIELDS):
            part = notes[i + S.PART]
            if part & S.WIDE and j > column:
                continue
            columns = held_row if part & S.WIDE else plan[j + T.COLUMNS]
            # What the chunk and the strip have in common.
            first_term, end_term = larger(term, notes[i + S.TERM]), smaller(term_end, notes[i + S.TERM_END])
            first, end = larger(segment, notes[i + S.SEGMENT]), smaller(segment_end, notes[i + S.SEGMENT_END])
            taps = end - first if end_term > first_term else 0
            if part & S.GATHERED:
                a = place(work, notes[i + S.PANEL] * panel_step + channel - low + (first_term - term) * panel_term)
                a_row, a_term = panel_row, panel_term
                a_taps = place(notes, plan[T.PANEL_SEGMENTS] + first)
            else:
                a_start = notes[i + S.X] + channel * plan[T.X_STEP_C] + first_term * x_term
                a = place(work, a_start) if plan[T.COPIED] else place(x, a_start)
                a_row, a_term = x_row, x_term
                a_taps = place(plan, plan[T.X_SEGMENTS] + plan[phase + T.SEGMENT] + first)
            if in_scratch:
                at, row = plan[T.PANEL_SIZE] + notes[i + S.SUMS] * held_row + out_channel - first_channel, held_row
                sums = place(work, at)
            else:
                at, row = notes[i + S.Y] + out_channel, plan[phase + T.Y_STEP_W]
                sums = place(y, at)
            init, init_row = sums, row
            if is_first and part & S.FIRST:
                init, init_row = place(bias, out_channel), 0
            rows, tiles = notes[i + S.ROWS], notes[i + S.TILES]
            w_here = w_at + first_term * plan[j + T.WEIGHT_TERM]
            ahead, ahead_step = place(w, w_here), 0
            if plan[T.FAR]:
                # While the tiles of all strips go through these weights, each asks for its share of the next ones.
                numbers = (segment_end - segment) * (term_end - term) * plan[j + T.WEIGHT_K]
                ahead = place(w, w_here + plan[w_segments + first] + way + numbers * notes[i + S.SUMS] // all_rows)
                ahead_step = -(-plan[j + T.WEIGHT_K] * w.itemsize * rows // all_rows)
            kernel = plan[notes[i + S.KERNELS] + plan[j + T.KERNEL_VECTORS] * plan[T.KERNEL_ROW] + rows]
            run_tile_at(
                kernel, a, a_row, a_term, a_taps,
                place(w, w_here), plan[j + T.WEIGHT_K], place(plan, w_segments + first), taps, end_term - first_term,
                init, init_row, sums, row, columns, tiles, ahead, ahead_step, notes[i + S.LINES], x_line, y_line,
            )  # fmt: skip
            if is_last and part & S.LAST:
                rows *= tiles
                position = notes[i + S.POSITION]
                if in_scratch:
                    if addition != NOTHING:
                        call(
                            exchange, (work, at, row, rows, columns, residual, residual_start, out_channel, position,
                            plan, phase, addition),
                        )  # fmt: skip
                    map_tile(activation, sums, rows, row, columns)
                    call(
                        exchange, (work, at, row, rows, columns, y, y_start, out_channel, position, plan, phase,
                        np.int64(NOTHING)),
                    )  # fmt: skip
                    continue
                if row < 0:  # the last row is the lowest, where views may begin
                    at, row = at + (rows - 1) * row, -row
                for _ in range(notes[i + S.LINES]):
                    if addition != NOTHING:
                        added = place(residual, at - y_start + residual_start)
                        add_tile(addition, place(y, at), row, added, row, 1, rows, columns)
                    map_tile(activation, place(y, at), rows, row, columns)
                    at += y_line


@helper
def _fill_panel(
    chunk, segment, segment_end, strip, strip_end, work, panel_row, x, x_start, low, width, plan, phase, notes
):  # fmt: skip
    """Gather what a chunk of the reduction reads for a group of strips, and note where its segments begin in that."""
    tap, tap_end, channel = (
        plan[chunk + T.CHUNK_TAP],
        plan[chunk + T.CHUNK_TAP_END],
        low + plan[chunk + T.CHUNK_CHANNEL],
    )
    apart = plan[phase + T.DILATION_W] if plan[T.PANEL_LINES] else np.int64(1)
    for s in range(segment, segment_end):
        notes[plan[T.PANEL_SEGMENTS] + s] = (s - segment) * plan[phase + T.SEGMENT_TAPS] * apart * width
    if plan[T.PANEL_LINES]:
        fill_lines(notes, strip, strip_end, work, x, x_start, tap, tap_end, channel, width, plan, plan[phase:])
        return
    for i in range(strip, strip_end, S.STRIP_FIELDS):
        if notes[i + S.PART] & S.GATHERED:
            fill_panel(
                work, notes[i + S.PANEL] * panel_row, panel_row, x, x_start, notes[i + S.POSITION],
                notes[i + S.ROWS] * notes[i + S.TILES], tap, tap_end, channel, width, plan, plan[phase:],
            )  # fmt: skip


@serial
def _exchange_rows(sums, at, row, rows, count, array, start, out_channel, position, plan, phase, addition):
    """Write finished sums to `array`, laid out as y: any strides, any storage type. Or add what lies there to them."""
    channels, step = plan[T.OUT_CHANNELS], plan[T.Y_STEP_C]
    for m in range(rows):
        line, out_w = divmod(position + m, plan[phase + T.OUT_W])
        sample, out_h = divmod(line, plan[phase + T.OUT_H])
        y_row = (
            start + plan[phase + T.Y_OFFSET] + sample * plan[T.Y_STEP_N] + out_h * plan[phase + T.Y_STEP_H]
            + out_w * plan[phase + T.Y_STEP_W]
        )  # fmt: skip
        done = 0
        while done < count:
            residue, channel = divmod(out_channel + done, channels)
            n = smaller(count - done, channels - channel)
            here = y_row + residue * plan[T.Y_STEP_POSITION] + channel * step
            if addition == NOTHING:
                store_numbers(array, here, step, sums, at + m * row + done, n, plan[T.HALF])
            else:
                add_tile(addition, place(sums, at + m * row + done), 0, place(array, here), 0, step, 1, n)
            done += n


@lru_cache
def exchange_rows(compute: np.dtype, stored: np.dtype) -> int:
    """Compile `_exchange_rows`, which few calls need, for these types; give its address."""
    plan, sums, array = (np.empty(0, dtype) for dtype in (np.int64, compute, stored))
    return address_of(_exchange_rows, (sums, 0, 0, 0, 0, array, 0, 0, 0, plan, 0, 0))


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
    # Views with a unit step, indexed from zero, are what becomes vector code.
    def store_words(y, at, step, sums, start, count, half):
        numbers = sums[start : start + count]
        if step == 1:
            words = y[at : at + count]
            if half == T.FLOAT16:
                for i in range(count):
                    words[i] = float_to_float16(numbers[i])
            else:
                for i in range(count):
                    words[i] = float_to_bfloat16(numbers[i])
        elif half == T.FLOAT16:
            for i in range(count):
                y[at + i * step] = float_to_float16(numbers[i])
        else:
            for i in range(count):
                y[at + i * step] = float_to_bfloat16(numbers[i])

    def store_floats(y, at, step, sums, start, count, half):
        if step == 1:
            copy_run(y, at, sums, start, count)
        else:
            for i in range(count):
                y[at + i * step] = sums[start + i]

    return store_words if y.dtype.bitwidth == 16 else store_floats
