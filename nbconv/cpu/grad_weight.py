"""grad_weight of every operation: the tile product with channels as rows and positions as reduction, and its loops.

Derivation, for all four operations. Let `wide` be the operand that taps shift over and `narrow` the one with a position
for each window. A convolution sums `y[p, b] += wide[p*s + t*d - lo, a] * w[b, a, t]`: wide is x, narrow is y. A
transposed one adds `wide[p*s + t*d - lo, a] += narrow[p, b] * w[b, a, t]`: narrow is x, wide is y. The first axis of
both weights is the narrow channel. Either is linear in `w`, and the factor of `w[b, a, t]` in `<grad_output, y>` is

    grad[b, a, t] = sum over samples and positions p of  wide[p*s + t*d - lo, a] * narrow[p, b]

with grad_output in the place of y. For one tap that is a product of two matrices that lie in memory as they are: the
rows are wide channels (unit stride), the reduction steps by `s` pixels in `wide` and by one in `narrow`, the columns
are narrow channels.
"""

from __future__ import annotations

import numpy as np

from ..arrays import compute_dtype, flat_view
from ..geometry import Geometry
from ..runtime.jit import helper, overload
from ..runtime.memory import past_vector, place, zero_run
from ..runtime.microkernel import run_tile, run_tile_at
from ..runtime.threads import get_num_threads, launch
from ..runtime.twins import twins
from ..runtime.workspace import aligned_empty, give_back, take
from . import grad_tables as G
from .grad_ahead import AHEAD_FIELDS, look_ahead, next_lines, tiles_to_ask
from .grad_plan import GradMemory, GradPlan, plan_tiles
from .grad_store import store_block
from .grad_windows import Data, WindowPlan, multiply_windows, plan_windows
from .memory_layout import four_steps, half_code
from .panels import copy_numbers, source_position

__all__ = ["grad_weight", "plan_grad_weight"]

_ADDING_WORK = 32  # operations that take as long as to add and store one number


def plan_grad_weight(
    geometry: Geometry, wide: np.ndarray, narrow: np.ndarray, grad: np.ndarray, workers: int, *, finite: bool = True
) -> WindowPlan | GradPlan:
    """Choose a way and plan it for arrays laid out as these, of a geometry whose x is the wide operand.

    `finite` says that no number of `narrow` is infinite or NaN.
    """
    dtype = grad.dtype
    wide_steps, narrow_steps = four_steps(flat_view(wide), geometry), four_steps(flat_view(narrow), geometry)
    steps = flat_view(grad).steps
    windows = plan_windows(geometry, wide_steps, narrow_steps, steps, dtype, adding=False)
    if windows is not None and (finite or not windows.gaps):
        return windows
    first, second, row, tap = (*steps[:2], *(0, *steps[2:])[-2:])
    memory = GradMemory(wide_steps, narrow_steps, (first, second, row, tap), half_code(dtype), compute_dtype(dtype))
    return plan_tiles(geometry, memory, workers)


def grad_weight(plan: WindowPlan | GradPlan, grad: Data, wide: Data, narrow: Data) -> None:
    """Write the gradient of the weight into `grad`, of the weight's shape. Arrays are flat, with their starts."""
    if isinstance(plan, WindowPlan):
        multiply_windows(plan, grad, wide, narrow)
        return
    workers = get_num_threads()
    scratch = take(plan.compute, min(workers, plan.jobs) * plan.scratch_size, 0)
    parts = aligned_empty(plan.parts_size, plan.compute) if plan.parts_size else scratch.numbers
    launch(
        _accumulate, plan.jobs, plan.flops, workers, *grad, parts, scratch.numbers, *wide, *narrow, plan.call,
        plan.segments, plan.blocks, plan.kernels, plan.max_rows,
    )  # fmt: skip
    give_back(scratch)
    if plan.parts_size:
        work = _ADDING_WORK * plan.parts_size
        launch(_add_parts, len(plan.blocks), work, workers, *grad, parts, plan.call, plan.blocks)


@twins
def _accumulate(
    job, job_end, worker, grad, grad_start, parts, scratch, wide, wide_start, narrow, narrow_start,
    call, segments, blocks, kernels, max_rows,
):  # fmt: skip
    """Run the jobs `[job, job_end)`: each sums one part of the reduction for one block of the weight, or all of them.

    Shapes   grad, wide, narrow flat, with the strides of `call` . parts (parts, numbers of all blocks) or scratch
    Cost     2 * positions * taps * wide channels * narrow channels / groups flops; a few hundred KiB a thread
    Threads  over jobs: every job owns its sums, and the parts do not depend on the number of threads
    """
    own = scratch[worker * call[G.SCRATCH_SIZE] :]
    wide_panel = own[call[G.SUMS_SIZE] :]
    narrow_panel = wide_panel[call[G.WIDE_PANEL_SIZE] :]
    wide_lines, narrow_lines = np.empty(call[G.MAX_LINES], np.int64), np.empty(call[G.MAX_LINES], np.int64)
    ahead = np.zeros(AHEAD_FIELDS, np.int64)
    n_parts, chunks, apart = call[G.PARTS], call[G.CHUNKS], call[G.APART]
    for here in range(job, job_end):
        first, number = divmod(here, call[G.BLOCKS])
        block = blocks[number]
        size = _block_size(block)
        for part in range(first, first + 1 if apart else n_parts):
            sums, at = own, call[G.NEXT_SUMS] if part > 0 else 0
            if apart:
                sums, at = parts, part * call[G.TOTAL] + block[G.BLOCK_OFFSET]
            zero_run(sums, at, size)
            end = chunks * (part + 1) // n_parts
            for chunk in range(chunks * part // n_parts, end):
                _add_chunk(
                    chunk, end if apart else chunks, block, sums, at, wide, wide_start, narrow, narrow_start, call,
                    segments, kernels, max_rows, wide_panel, narrow_panel, wide_lines, narrow_lines, ahead,
                )  # fmt: skip
            if part > 0 and not apart:
                _add_run(own, 0, at, size)
        if not apart:
            store_block(grad, grad_start, own, 0, block, call)


@twins
def _add_parts(block, block_end, worker, grad, grad_start, parts, call, blocks):
    """Add the parts of the blocks `[block, block_end)` in order and store them."""
    for here in range(block, block_end):
        start, size = blocks[here, G.BLOCK_OFFSET], _block_size(blocks[here])
        for part in range(1, call[G.PARTS]):
            _add_run(parts, start, start + part * call[G.TOTAL], size)
        store_block(grad, grad_start, parts, start, blocks[here], call)


@helper
def _add_run(sums, to, start, count):
    own, other = sums[to : to + count], sums[start : start + count]
    for i in range(count):
        own[i] += other[i]


@helper
def _block_size(block):
    rows, taps = block[G.BLOCK_ROW_END] - block[G.BLOCK_ROW], block[G.BLOCK_TAP_END] - block[G.BLOCK_TAP]
    wide = block[G.BLOCK_WIDE_END] - block[G.BLOCK_WIDE]
    return rows * taps * wide * (block[G.BLOCK_CHANNEL_END] - block[G.BLOCK_CHANNEL])


@helper
def _add_chunk(
    chunk, chunks, block, sums, at, wide, wide_start, narrow, narrow_start, call, segments, kernels, max_rows,
    wide_panel, narrow_panel, wide_lines, narrow_lines, ahead,
):  # fmt: skip
    """Add the products of one chunk of positions to the sums of one block; the next of `chunks` is asked for."""
    pieces = call[G.PIECES]
    if pieces > 1:
        line, piece = divmod(chunk, pieces)
        line_end = line + 1
        first, end = call[G.OUT_W] * piece // pieces, call[G.OUT_W] * (piece + 1) // pieces
    else:
        line = chunk * call[G.LINES_PER_CHUNK]
        line_end = min(line + call[G.LINES_PER_CHUNK], call[G.LINES])
        first, end = 0, call[G.OUT_W]
    gathered, group = call[G.GATHERED], block[G.BLOCK_GROUP]
    low, high = block[G.BLOCK_CHANNEL], block[G.BLOCK_CHANNEL_END]
    # In a depthwise product the columns name the wide channels too.
    wide_low, wide_width = block[G.BLOCK_WIDE], block[G.BLOCK_WIDE_END] - block[G.BLOCK_WIDE]
    if call[G.TIED]:
        wide_low, wide_width = low, high - low
    wide_at = wide_start + (group * call[G.C_WIDE] + wide_low) * call[G.WIDE_C]
    narrow_at = narrow_start + (group * call[G.C_NARROW] + low) * call[G.NARROW_C]
    span = (end - first - 1) * call[G.STRIDE_W] + call[G.REACH_W]
    left = first * call[G.STRIDE_W] - call[G.LO_W]
    look_ahead(ahead, chunk + 1, chunks, wide_at, narrow_at, call)
    panel_row, panel_tiles, panel_tile = high - low, 1, 0
    if call[G.PACKED]:
        panel_row, panel_tiles = call[G.PACKED], _count_tiles(high - low, call)
        panel_tile = panel_row * (line_end - line) * (end - first)
    if gathered or call[G.PACKED]:
        for here in range(line, line_end):
            sample, out_h = divmod(here, call[G.OUT_H])
            source = narrow_at + sample * call[G.NARROW_N] + out_h * call[G.NARROW_H]
            for position in range(first, end):
                at_position = source + position * call[G.NARROW_W]
                to = ((here - line) * (end - first) + position - first) * panel_row
                for tile in range(panel_tiles):
                    column, column_end = _cut_columns(tile, panel_tiles, high - low, call)
                    copy_numbers(
                        narrow_panel, to + tile * panel_tile, narrow, at_position + column * call[G.NARROW_C],
                        call[G.NARROW_C], column_end - column, call[G.HALF],
                    )  # fmt: skip
    tiles, tiles_at, tiles_w = narrow, narrow_at + first * call[G.NARROW_W], call[G.NARROW_W]
    if call[G.PACKED]:
        tiles, tiles_at, tiles_w = _as_packed(narrow_panel, narrow), 0, panel_row
    rows = block[G.BLOCK_ROW_END] - block[G.BLOCK_ROW]
    row_size = _block_size(block) // rows
    if call[G.WINDOWS]:
        _add_windows(
            line, line_end, first, end, block, sums, at, wide, wide_at, narrow, narrow_at, call, segments[0], kernels,
            wide_lines, narrow_lines,
        )  # fmt: skip
    for row in range(rows):
        shift = (block[G.BLOCK_ROW] + row) * call[G.DILATION_H] - call[G.LO_H]
        count = alone = 0
        for is_whole in range(2 if call[G.WINDOWS] else 1):
            for here in range(line, line_end):
                sample, out_h = divmod(here, call[G.OUT_H])
                if _is_whole(out_h, call) != is_whole:
                    continue
                source = source_position(out_h * call[G.STRIDE_H] + shift, call[G.SIZE_H], call[G.PADDING_MODE])
                if source < 0:
                    continue
                source = sample * call[G.WIDE_N] + source * call[G.WIDE_H]
                if gathered:
                    wide_lines[count] = count * span * wide_width
                    narrow_lines[count] = (here - line) * (end - first) * panel_row
                    _gather_span(wide_panel, wide_lines[count], wide, wide_at + source, left, span, wide_width, call)
                else:
                    wide_lines[count] = source
                    narrow_lines[count] = sample * call[G.NARROW_N] + out_h * call[G.NARROW_H]
                    if call[G.PACKED]:
                        narrow_lines[count] = (here - line) * (end - first) * panel_row
                count += 1
            if not is_whole:
                alone = count
        if count == 0:
            continue
        sums_at = at + row * row_size
        for s in range(segments.shape[0]):
            segment = segments[s]
            begin = max(segment[G.SEGMENT_FIRST], first)
            run = min(segment[G.SEGMENT_END], end) - begin
            if run <= 0:
                continue
            pixel = segment[G.SEGMENT_PIXEL] + (begin - segment[G.SEGMENT_FIRST]) * segment[G.SEGMENT_PIXEL_STEP]
            # The segment of all taps is left to windows, where these take the line.
            lines = alone if call[G.WINDOWS] and s == 0 else count
            if gathered:
                _add_segment(
                    segment, block, sums, sums_at, wide_panel, (pixel - left) * wide_width, wide_width, wide_lines,
                    narrow_panel, (begin - first) * panel_row, panel_row, narrow_lines, panel_tile, narrow_panel, lines,
                    run, call, kernels, max_rows, ahead,
                )  # fmt: skip
            else:
                _add_segment(
                    segment, block, sums, sums_at, wide, wide_at + pixel * call[G.WIDE_W], call[G.WIDE_W], wide_lines,
                    tiles, tiles_at + (begin - first) * tiles_w, tiles_w, narrow_lines, panel_tile, narrow, lines, run,
                    call, kernels, max_rows, ahead,
                )  # fmt: skip


def _as_packed(panel, array):
    """Give the panel; of half types, which are gathered and never packed, the array, for its type."""
    return panel


@overload(_as_packed)
def _as_packed_types(panel, array):
    if panel == array:
        return lambda panel, array: panel
    return lambda panel, array: array


@helper
def _is_whole(out_h, call):
    """Say whether, of a line that windows take, all rows of the kernel meet data: 1 or 0."""
    top = out_h * call[G.STRIDE_H] - call[G.LO_H]
    return int(call[G.WINDOWS] and top >= 0 and top + call[G.REACH_H] <= call[G.SIZE_H])


@helper
def _add_windows(
    line, line_end, first, end, block, sums, at, wide, wide_at, narrow, narrow_at, call, segment, kernels, wide_lines,
    narrow_lines,
):  # fmt: skip
    """Add a depthwise product, all kernel rows at once, of the lines that all of them meet, for all taps at once."""
    begin = max(segment[G.SEGMENT_FIRST], first)
    run = min(segment[G.SEGMENT_END], end) - begin
    count = 0
    for here in range(line, line_end):
        sample, out_h = divmod(here, call[G.OUT_H])
        if _is_whole(out_h, call):
            top = out_h * call[G.STRIDE_H] - call[G.LO_H] + block[G.BLOCK_ROW] * call[G.DILATION_H]
            wide_lines[count] = sample * call[G.WIDE_N] + top * call[G.WIDE_H]
            narrow_lines[count] = sample * call[G.NARROW_N] + out_h * call[G.NARROW_H]
            count += 1
    if count == 0 or run <= 0:
        return
    pixel = segment[G.SEGMENT_PIXEL] + (begin - segment[G.SEGMENT_FIRST]) * segment[G.SEGMENT_PIXEL_STEP]
    wide_at, narrow_at = wide_at + pixel * call[G.WIDE_W], narrow_at + begin * call[G.NARROW_W]
    columns, width = block[G.BLOCK_CHANNEL_END] - block[G.BLOCK_CHANNEL], call[G.WIDTH]
    rows = block[G.BLOCK_ROW_END] - block[G.BLOCK_ROW]
    size, column = call[G.WINDOWS] * width, 0
    if columns >= 2 * width and call[G.WIDE_W] % width == 0:
        # A vector that lies across two lines of the cache takes two loads: the first tile ends where a line does.
        size -= past_vector(wide, wide_at, width)
    while column < columns:
        here = min(size, columns - column)
        run_tile_at(
            kernels[int(here > width), 0, rows], place(wide, wide_at + column), call[G.DILATION_W] * call[G.WIDE_W],
            segment[G.SEGMENT_PIXEL_STEP] * call[G.WIDE_W], place(wide_lines, 0), place(narrow, narrow_at + column),
            call[G.NARROW_W], place(narrow_lines, 0), count, run, place(sums, at + column), columns,
            place(sums, at + column), columns, here, 1, place(narrow, narrow_at), call[G.DILATION_H] * call[G.WIDE_H],
        )  # fmt: skip
        column, size = column + here, call[G.WINDOWS] * width


@helper
def _gather_span(panel, at, wide, start, pixel, span, width, call):
    """Copy `span` pixels of a line into the panel, the padding rule applied, half types widened."""
    for i in range(span):
        source = source_position(pixel + i, call[G.SIZE_W], call[G.PADDING_MODE])
        if source < 0:
            zero_run(panel, at + i * width, width)
        else:
            copy_numbers(
                panel, at + i * width, wide, start + source * call[G.WIDE_W], call[G.WIDE_C], width, call[G.HALF]
            )  # fmt: skip


@helper
def _add_segment(
    segment, block, sums, sums_at, wide, wide_at, wide_w, wide_lines, narrow, narrow_at, narrow_w, narrow_lines,
    narrow_tile, asked_narrow, count, run, call, kernels, max_rows, ahead,
):  # fmt: skip
    """Add the products of `run` positions of `count` lines, for the taps that segment and block share.

    Tiles of narrow channels are `narrow_tile` numbers apart, or 0: as they lie in `asked_narrow`, whose lines are asked
    for ahead.
    """
    first = max(segment[G.SEGMENT_TAP], block[G.BLOCK_TAP])
    end = min(segment[G.SEGMENT_TAP_END], block[G.BLOCK_TAP_END])
    if first >= end:
        return
    channels, width = block[G.BLOCK_CHANNEL_END] - block[G.BLOCK_CHANNEL], block[G.BLOCK_WIDE_END] - block[G.BLOCK_WIDE]
    before, terms = (first - block[G.BLOCK_TAP]) * width, (block[G.BLOCK_TAP_END] - block[G.BLOCK_TAP]) * width
    rows = (end - first) * width
    wide_at += (first - segment[G.SEGMENT_TAP]) * call[G.DILATION_W] * wide_w
    # From one term to the next: to the next tap where there is one channel, else to the next number.
    step = call[G.DILATION_W] * wide_w if call[G.C_WIDE] == 1 else 1
    wide_k = segment[G.SEGMENT_PIXEL_STEP] * wide_w
    if call[G.SWAPPED]:
        _add_tiles(
            sums, sums_at + before, terms, channels, rows,
            narrow, narrow_at, 1, narrow_w, narrow_lines, wide, wide_at, wide_k, wide_lines, 0, wide,
            count, run, call, kernels, max_rows, ahead,
        )  # fmt: skip
    else:
        _add_tiles(
            sums, sums_at + before * channels, channels, rows, channels,
            wide, wide_at, step, wide_k, wide_lines, narrow, narrow_at, narrow_w, narrow_lines, narrow_tile,
            asked_narrow, count, run, call, kernels, max_rows, ahead,
        )  # fmt: skip


@helper
def _count_tiles(columns, call):
    return -(-columns // (call[G.WIDTH] * call[G.WIDEST]))


@helper
def _cut_columns(tile, tiles, columns, call):
    """Give the first column of a tile and the end of its columns, of so many tiles of nearly as many vectors."""
    width = call[G.WIDTH]
    vectors = -(-columns // width)
    return vectors * tile // tiles * width, min(columns, vectors * (tile + 1) // tiles * width)


@helper
def _add_tiles(
    sums, at, sums_row, rows, columns, a, a_at, a_row, a_k, a_lines, b, b_at, b_k, b_lines, b_tile, asked_b,
    count, run, call, kernels, max_rows, ahead,
):  # fmt: skip
    """Add a product of `rows` x `columns`, tile by tile; a line is a tap of the micro-kernel."""
    column_tiles = _count_tiles(columns, call)
    for j in range(column_tiles):
        column, column_end = _cut_columns(j, column_tiles, columns, call)
        wide = column_end - column
        vectors = -(-wide // call[G.WIDTH])
        a_column = column if call[G.TIED] else 0
        b_here = b_at + (j * b_tile if b_tile else column)
        # The first tiles have one row more than the others; each kind is a strip.
        row_tiles = -(-rows // max_rows[vectors])
        size, larger = divmod(rows, row_tiles)
        here, a_here = at + column, a_at + a_column
        for tiles, tile_rows in ((larger, size + 1), (row_tiles - larger, size)):
            asking, asked = min(tiles, tiles_to_ask(ahead), call[G.ASKS]), 0
            while asked < asking:
                start, step, is_wide, together = next_lines(ahead, asking - asked, call)
                line = place(a, start) if is_wide != call[G.SWAPPED] else place(asked_b, start)
                run_tile_at(
                    kernels[1, vectors, tile_rows], place(a, a_here), a_row, a_k, place(a_lines, 0),
                    place(b, b_here), b_k, place(b_lines, 0), count, run, place(sums, here), sums_row,
                    place(sums, here), sums_row, wide, together, line, step * sums.itemsize,
                )  # fmt: skip
                here += together * tile_rows * sums_row
                a_here += together * tile_rows * a_row
                asked += together
            if tiles > asking:
                run_tile(
                    kernels[0, vectors, tile_rows], a, a_here, a_row, a_k, a_lines, b, b_here, b_k, b_lines, 0, count,
                    run, sums, here, sums_row, sums, here, sums_row, wide, tiles - asking,
                )  # fmt: skip
            here += (tiles - asking) * tile_rows * sums_row
            a_here += (tiles - asking) * tile_rows * a_row
