"""Panels: gathered rows for the tiles that cannot read `x` in place.

This is the one home of borders. A panel row holds the window of one output position: tap by tap, channel by channel,
with the padding rule applied and half types widened. In one dimension a panel holds columns of lines, in which windows
overlap as they do in x. Rows at the rim of the image, rows of half-precision input and tiles that cross image rows come
from here. Columns of x that share few sets of the cache are copied, as they are; all others are read straight from `x`.
"""

from __future__ import annotations

import numpy as np

from ..geometry import PADDING_MODES
from ..runtime.halves import bfloat16_to_float, float16_to_float
from ..runtime.integers import larger, smaller
from ..runtime.jit import helper, overload
from ..runtime.memory import copy_run, zero_run
from . import strips as S
from . import tables as T

__all__ = [
    "copy_lines",
    "copy_numbers",
    "fill_lines",
    "fill_panel",
    "padded_length",
    "padded_row",
    "read_number",
    "source_position",
]

_LINE = 16  # numbers: 64 bytes of float32, 128 of float64
_REFLECT, _REPLICATE, _CIRCULAR = (PADDING_MODES.index(mode) for mode in ("reflect", "replicate", "circular"))


def padded_length(length):
    """Give the step between panel rows of so many numbers: an odd number of cache lines.

    Rows that lie a power of two apart would compete for a few sets of the cache.
    """
    return ((length + _LINE - 1) // _LINE | 1) * _LINE


padded_row = helper(padded_length)


@helper
def source_position(position, size, mode):
    """Map a padded position to the real one that it repeats, or to -1 for a zero."""
    if 0 <= position < size:
        return position
    if mode == _REPLICATE:
        return smaller(larger(position, 0), size - 1)
    if mode == _CIRCULAR:
        return position % size
    if mode == _REFLECT:
        return -position if position < 0 else 2 * (size - 1) - position
    return -1


def read_number(source, i, half):
    """Read one number in the compute type, widening half types."""
    if half == T.FLOAT16:
        return float16_to_float(source[i])
    return bfloat16_to_float(source[i]) if half == T.BFLOAT16 else source[i]


@overload(read_number)
def _read_number(source, i, half):
    def read_word(source, i, half):
        return float16_to_float(source[i]) if half == T.FLOAT16 else bfloat16_to_float(source[i])

    return read_word if source.dtype.bitwidth == 16 else lambda source, i, half: source[i]


def copy_numbers(to, at, source, start, step, count, half):
    """Copy `count` numbers into the compute type, widening half types."""
    for i in range(count):
        to[at + i] = read_number(source, start + i * step, half)


@overload(copy_numbers)
def _copy_numbers(to, at, source, start, step, count, half):
    # Views with a unit step, indexed from zero, are what becomes vector code.
    def copy_words(to, at, source, start, step, count, half):
        if step == 1:
            words, numbers = source[start : start + count], to[at : at + count]
            if half == T.FLOAT16:
                for i in range(count):
                    numbers[i] = float16_to_float(words[i])
            else:
                for i in range(count):
                    numbers[i] = bfloat16_to_float(words[i])
        elif half == T.FLOAT16:
            for i in range(count):
                to[at + i] = float16_to_float(source[start + i * step])
        else:
            for i in range(count):
                to[at + i] = bfloat16_to_float(source[start + i * step])

    def copy_floats(to, at, source, start, step, count, half):
        if step == 1:
            copy_run(to, at, source, start, count)
        else:
            for i in range(count):
                to[at + i] = source[start + i * step]

    return copy_floats if source.dtype == to.dtype else copy_words


@helper
def fill_panel(panel, start, row_step, x, x_start, first, rows, tap, tap_end, channel, width, call, phase):
    """Gather the windows of `rows` positions into panel rows `row_step` numbers apart.

    Shapes   panel (rows, taps of the chunk, width) written from `start` on . x read at any strides
    Cost     rows * taps * width copies, against rows * taps * width * columns multiply-adds of the tile
    """
    taps_w = phase[T.TAPS_W]
    for position in range(first, first + rows):
        line, out_w = divmod(position, phase[T.OUT_W])
        sample, out_h = divmod(line, phase[T.OUT_H])
        top = out_h * phase[T.STRIDE_H] - phase[T.LO_H]
        left = out_w * phase[T.STRIDE_W] - phase[T.LO_W]
        at = start + (position - first) * row_step
        here = tap
        while here < tap_end:
            tap_h, tap_w = divmod(here, taps_w)
            taps = smaller(taps_w - tap_w, tap_end - here)
            row = source_position(top + tap_h * phase[T.DILATION_H], call[T.X_H], call[T.PADDING_MODE])
            if row < 0:
                zero_run(panel, at, taps * width)
            else:
                x_row = x_start + sample * call[T.X_STEP_N] + row * call[T.X_STEP_H]
                column = left + tap_w * phase[T.DILATION_W]
                _gather_columns(panel, at, x, x_row, column, taps, phase[T.DILATION_W], channel, width, call)
            at += taps * width
            here += taps


@helper
def fill_lines(notes, strip, strip_end, panel, x, x_start, tap, tap_end, channel, width, call, phase):
    """Gather what a group of strips reads of the lines of a one-dimensional x, each column of a line once.

    Shapes   panel (columns, width) . x read at any strides
    """
    stride, dilation = phase[T.STRIDE_W], phase[T.DILATION_W]
    behind, end = np.int64(-1), np.int64(0)
    for i in range(strip, strip_end, S.STRIP_FIELDS):
        if notes[i + S.PART] & S.GATHERED:
            rows = notes[i + S.ROWS] * notes[i + S.TILES]
            sample, out_w = divmod(notes[i + S.POSITION], phase[T.OUT_W])
            left = out_w * stride - phase[T.LO_W] + tap * dilation
            # What the strip before it reads too is there.
            done = larger(0, end - left) if notes[i + S.POSITION] == behind and out_w > 0 else 0
            columns = (rows - 1) * stride + (tap_end - 1 - tap) * dilation + 1
            _gather_columns(
                panel, (notes[i + S.PANEL] + done) * width, x, x_start + sample * call[T.X_STEP_N], left + done,
                columns - done, 1, channel, width, call,
            )  # fmt: skip
            behind, end = notes[i + S.POSITION] + rows, left + columns


@helper
def _gather_columns(panel, at, x, x_row, column, count, step, channel, width, call):
    """Gather `count` columns of a row of x, `step` apart, one after the other; the padding rule says what is beyond."""
    half, mode, repeat, size = call[T.HALF], call[T.PADDING_MODE], call[T.REPEAT], call[T.X_W]
    step_w, step_c = call[T.X_STEP_W], call[T.X_STEP_C]
    fused = step == 1 and step_c == 1 and step_w == width and repeat == 1
    pieces, piece = (1, width) if repeat == 1 else (width, 1)
    # Of the columns, those in [inside, inside_end) lie in x one after the other: one copy.
    inside = smaller(larger(0, -column), count) if fused else count
    inside_end = smaller(count, size - column)
    t = 0
    while t < count:
        source = source_position(column + t * step, size, mode)
        run = inside_end - inside if t == inside and inside_end > inside else 1
        to, x_at = at + t * width, x_row + source * step_w
        if source < 0:
            zero_run(panel, to, width)
        else:
            for i in range(pieces):
                here_c = x_at + (channel + i) // repeat * step_c
                copy_numbers(panel, to + i, x, here_c, step_c, run * piece, half)
        t += run


@helper
def copy_lines(to, x, x_start, block, low, high, plan, phase):
    """Copy the channels `[low, high)` of the lines that a block of an image meets; give where x would begin in `to`.

    In the copy columns lie apart as `padded_length` says.
    """
    sample, out_h = divmod(block * plan[phase + T.LINES_PER_BLOCK], plan[phase + T.OUT_H])
    first = out_h * plan[phase + T.STRIDE_H] - plan[phase + T.LO_H]
    last = first + (plan[phase + T.LINES_PER_BLOCK] - 1) * plan[phase + T.STRIDE_H]
    top, end = larger(first, 0), last + (plan[phase + T.TAPS_H] - 1) * plan[phase + T.DILATION_H] + 1
    for h in range(top, smaller(end, plan[T.X_H])):
        at, start = (h - top) * plan[T.X_STEP_H], x_start + sample * plan[T.SOURCE_N] + h * plan[T.SOURCE_H] + low
        for w in range(plan[T.X_W]):
            source = start + w * plan[T.SOURCE_W]
            copy_numbers(to, at + w * plan[T.X_STEP_W], x, source, 1, high - low, T.NOT_HALF)
    return -low - top * plan[T.X_STEP_H]
