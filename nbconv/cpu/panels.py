"""Panels: gathered rows for the tiles that cannot read `x` in place.

This is the one home of borders. A panel row holds the window of one output position: tap by tap, channel by channel, with
the padding rule applied and half types widened. Rows at the rim of the image, rows of half-precision input and tiles
that cross image rows come from here; all others are read straight from `x`.
"""

from __future__ import annotations

from ..geometry import PADDING_MODES
from ..runtime.halves import bfloat16_to_float, float16_to_float
from ..runtime.jit import overload, serial
from . import tables as T

__all__ = ["copy_numbers", "fill_panel", "source_position"]

_ZEROS, _REFLECT, _REPLICATE, _CIRCULAR = (PADDING_MODES.index(m) for m in ("zeros", "reflect", "replicate", "circular"))


@serial
def source_position(position, size, mode):  # type: ignore[no-untyped-def]
    """Map a padded position to the real one that it repeats, or to -1 for a zero."""
    if 0 <= position < size:
        return position
    if mode == _REPLICATE:
        return min(max(position, 0), size - 1)
    if mode == _CIRCULAR:
        return position % size
    if mode == _REFLECT:
        return -position if position < 0 else 2 * (size - 1) - position
    return -1


def copy_numbers(to, to_start, source, start, step, count, half):  # type: ignore[no-untyped-def]
    """Copy `count` numbers into the compute type, widening half types."""
    for i in range(count):
        value = source[start + i * step]
        if half == T.FLOAT16:
            value = float16_to_float(value)
        elif half == T.BFLOAT16:
            value = bfloat16_to_float(value)
        to[to_start + i] = value


@overload(copy_numbers)
def _copy_numbers(to, to_start, source, start, step, count, half):  # type: ignore[no-untyped-def]
    # One loop a case, unit step apart: each becomes vector code.
    def copy_words(to, to_start, source, start, step, count, half):  # type: ignore[no-untyped-def]
        if half == T.FLOAT16:
            if step == 1:
                for i in range(count):
                    to[to_start + i] = float16_to_float(source[start + i])
            else:
                for i in range(count):
                    to[to_start + i] = float16_to_float(source[start + i * step])
        elif step == 1:
            for i in range(count):
                to[to_start + i] = bfloat16_to_float(source[start + i])
        else:
            for i in range(count):
                to[to_start + i] = bfloat16_to_float(source[start + i * step])

    def copy_floats(to, to_start, source, start, step, count, half):  # type: ignore[no-untyped-def]
        if step == 1:
            for i in range(count):
                to[to_start + i] = source[start + i]
        else:
            for i in range(count):
                to[to_start + i] = source[start + i * step]

    return copy_words if source.dtype.bitwidth == 16 else copy_floats


@serial
def fill_panel(panel, at, x, x_start, first, rows, tap, tap_end, channel, width, call, phase):  # type: ignore[no-untyped-def]
    """Gather the windows of `rows` positions into consecutive panel rows.

    Shapes   panel (rows, taps of the chunk, width) written from `at` on . x read at any strides
    Cost     rows * taps * width copies, against rows * taps * width * columns multiply-adds of the tile
    """
    half, repeat, mode = call[T.HALF], call[T.REPEAT], call[T.PADDING_MODE]
    taps_w = phase[T.TAPS_W]
    for position in range(first, first + rows):
        line, out_w = divmod(position, phase[T.OUT_W])
        sample, out_h = divmod(line, phase[T.OUT_H])
        x_sample = x_start + sample * call[T.X_STEP_N]
        tap_h, tap_w = divmod(tap, taps_w)
        for _ in range(tap, tap_end):
            row = source_position(out_h * phase[T.STRIDE_H] + tap_h * phase[T.DILATION_H] - phase[T.LO_H], call[T.X_H], mode)
            column = source_position(out_w * phase[T.STRIDE_W] + tap_w * phase[T.DILATION_W] - phase[T.LO_W], call[T.X_W], mode)
            if row < 0 or column < 0:
                for i in range(width):
                    panel[at + i] = 0
            else:
                start = x_sample + row * call[T.X_STEP_H] + column * call[T.X_STEP_W]
                if repeat == 1:
                    copy_numbers(panel, at, x, start + channel * call[T.X_STEP_C], call[T.X_STEP_C], width, half)
                else:
                    for i in range(width):
                        source = start + (channel + i) // repeat * call[T.X_STEP_C]
                        copy_numbers(panel, at + i, x, source, 1, 1, half)
            at += width
            tap_w += 1
            if tap_w == taps_w:
                tap_h, tap_w = tap_h + 1, 0
