"""Gradients for every parameter and type: of the weight, of the bias, and what padding that repeats data adds to x's.

The weight's gradient is a product whose reduction runs over positions. Both operations tie positions together in the
same way (`Geometry.adjoint`): the array that is read through taps are the windows (x of a convolution, grad_output of a
transposed one), the other are the points, one row a position. So the kernels take the table of the convolution from
windows to points, and one of the two operations needs nothing of its own.

Sums over positions are cut into slices whose number depends on shapes only. Each slice is summed in order by one thread
for each result; a second kernel adds the slices in order. The bits are the same on every run and every device.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy import int32

from ..geometry import Geometry
from . import table as T
from .driver import cuda, inlined, kernel
from .integers import quotient, source_position, split
from .packing import FIRST, SECOND, START, TAP_H, TAP_W
from .storage import add_slices, narrow, widen

__all__ = [
    "THREADS",
    "bias_slices",
    "fold_rim",
    "items",
    "rim_table",
    "sum_bias_slices",
    "sum_weight_slices",
    "weight_slices_narrow",
    "weight_slices_wide",
]

THREADS = 128
WIDE_LEFT, WIDE = 4, 8  # channels of windows and of points that a thread of the wide kernel multiplies

# The fields of fold_rim's second table: positions [0, LOW) and [HIGH, size) of each axis are shown in the padding.
# ADDS says that the gradient is of the compute type: then what its own positions receive is there and stays.
LOW_H, HIGH_H, LOW_W, HIGH_W, ADDS = range(5)


def items(pairs: Geometry) -> int:
    """Count the threads of a slice of `weight_slices_wide`."""
    windows, points = (-(-channels // pairs.groups) for channels in (pairs.c_in, pairs.c_out))
    taps = prod(axis.taps for axis in pairs.axes)
    return taps * -(-windows // WIDE_LEFT) * pairs.groups * -(-points // WIDE)


@inlined
def _slice(windows, points, partial, table, rows_of_slice, sums):
    """Sum this thread's part of the weight's gradient over the positions of one slice, (windows, points) channels."""
    high, wide = int32(sums.shape[0]), int32(sums.shape[1])
    c_window, c_point = table[T.C_IN_GROUP], table[T.C_OUT_GROUP]
    window_blocks = quotient(int32(c_window + int32(high - int32(1))), high)
    point_blocks = quotient(int32(c_point + int32(wide - int32(1))), wide)
    fields = int32(T.HEADER)
    rows_h, rows_w = table[fields + T.ROWS_H], table[fields + T.ROWS_W]
    taps_h, taps_w = table[fields + T.TAPS_H], table[fields + T.TAPS_W]
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    line, point = split(item, point_blocks)
    line, group = split(line, table[T.GROUPS])
    tap, window = split(line, window_blocks)
    point, window = int32(point * wide), int32(window * high)
    if tap >= int32(taps_h * taps_w):
        return
    tap_h, tap_w = split(tap, taps_w)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            sums[i, j] = 0
    zero = sums.dtype.type(0)
    row = int32(int32(cuda.blockIdx.y) * rows_of_slice)
    end = min(int32(table[T.SAMPLES] * int32(rows_h * rows_w)), int32(row + rows_of_slice))
    line, w = split(row, rows_w)
    sample, h = split(line, rows_h)
    while row < end:
        at_h = int32(int32(h * table[fields + T.STRIDE_H]) + int32(tap_h * table[fields + T.DILATION_H]))
        at_w = int32(int32(w * table[fields + T.STRIDE_W]) + int32(tap_w * table[fields + T.DILATION_W]))
        at_h = source_position(int32(at_h - table[fields + T.LO_H]), table[T.SIZE_H], table[T.PADDING_MODE])
        at_w = source_position(int32(at_w - table[fields + T.LO_W]), table[T.SIZE_W], table[T.PADDING_MODE])
        if at_h >= int32(0) and at_w >= int32(0):
            line = int32(int32(int32(int32(sample * table[T.SIZE_H]) + at_h) * table[T.SIZE_W]) + at_w)
            left = int32(int32(line * table[T.C_IN]) + int32(int32(group * c_window) + window))
            right = int32(int32(row * table[T.C_OUT]) + int32(int32(group * c_point) + point))
            for i in range(sums.shape[0]):
                value = zero
                if int32(window + int32(i)) < c_window:
                    value = widen(windows[int32(left + int32(i))])
                for j in range(sums.shape[1]):
                    if int32(point + int32(j)) < c_point:
                        sums[i, j] += value * widen(points[int32(right + int32(j))])
        row = int32(row + int32(1))
        w = int32(w + int32(1))
        if w == rows_w:
            w, h = int32(0), int32(h + int32(1))
        if h == rows_h:
            h, sample = int32(0), int32(sample + int32(1))
    plane = int32(int32(int32(cuda.blockIdx.y) * table[T.GROUPS]) + group)
    at = int32(int32(int32(plane * int32(taps_h * taps_w)) + tap) * c_window)
    at = int32(int32(int32(at + window) * c_point) + point)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            if int32(window + int32(i)) < c_window and int32(point + int32(j)) < c_point:
                partial[int32(int32(at + int32(int32(i) * c_point)) + int32(j))] = sums[i, j]


@kernel()
def weight_slices_wide(windows, points, partial, table, rows_of_slice):
    """Sum the weight's gradient over slices of positions, `WIDE_LEFT` x `WIDE` pairs of channels a thread.

    Math     partial[s, g, t, c, o] = sum over positions p of slice s: windows[p * stride + t * dilation - lo, c] *
             points[p, o], channels of group g
    Shapes   partial (slices, groups, taps, c_in / groups, c_out / groups) of the compute type
    Threads  one-dimensional blocks over (taps, windows' channels, groups, points' channels); grid y over slices
    """
    sums = cuda.local.array((WIDE_LEFT, WIDE), partial.dtype)
    _slice(windows, points, partial, table, rows_of_slice, sums)


@kernel()
def weight_slices_narrow(windows, points, partial, table, rows_of_slice):
    """Sum the weight's gradient over slices of positions, one pair of channels a thread: for small groups."""
    sums = cuda.local.array((1, 1), partial.dtype)
    _slice(windows, points, partial, table, rows_of_slice, sums)


@kernel()
def sum_weight_slices(partial, slices, grad, table, places):
    """Add the slices in order and write the gradient where `places` (as `pack_operands` reads a weight) says."""
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    fields = int32(T.HEADER)
    taps_h, taps_w = table[fields + T.TAPS_H], table[fields + T.TAPS_W]
    plane = int32(int32(table[T.C_IN_GROUP] * table[T.C_OUT]) * int32(taps_h * taps_w))
    if item >= plane:
        return
    total = add_slices(partial, item, plane, slices)
    line, point = split(item, table[T.C_OUT_GROUP])
    rest, window = split(line, table[T.C_IN_GROUP])
    group, tap = split(rest, int32(taps_h * taps_w))
    tap_h, tap_w = split(tap, taps_w)
    first = int32(int32(group * table[T.C_OUT_GROUP]) + point)
    to = int32(int32(places[START] + int32(first * places[FIRST])) + int32(window * places[SECOND]))
    to = int32(to + int32(tap_h * places[TAP_H]))
    grad[int32(to + int32(tap_w * places[TAP_W]))] = narrow(total, grad)


@kernel()
def bias_slices(grad_output, partial, channels, rows, rows_of_slice):
    """Sum grad_output (rows, channels) over slices of rows into partial (slices, channels); grid y over slices."""
    channel = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    if channel >= channels:
        return
    row = int32(int32(cuda.blockIdx.y) * rows_of_slice)
    end = min(rows, int32(row + rows_of_slice))
    at = int32(int32(row * channels) + channel)
    total = partial.dtype.type(0)
    while row < end:
        total += widen(grad_output[at])
        at = int32(at + channels)
        row = int32(row + int32(1))
    partial[int32(int32(int32(cuda.blockIdx.y) * channels) + channel)] = total


@kernel()
def sum_bias_slices(partial, slices, grad, channels):
    """Add the slices of each channel in order."""
    channel = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    if channel >= channels:
        return
    grad[channel] = narrow(add_slices(partial, channel, channels, slices), grad)


# ---- padding that repeats data --------------------------------------------------------------------------------------


def rim_table(rims: list[tuple[int, int]], adds: bool) -> np.ndarray:
    """Give the ranges of positions that padding shows, (low, high) an axis: `[0, low)` and `[high, size)`; and ADDS."""
    both = [(0, 1)] * (2 - len(rims)) + rims
    return np.array([*(number for rim in both for number in rim), adds], np.int32)


@cuda.jit(device=True)
def _shown(position, size, mode, lo, last, i):
    """Give the `i`-th padded position, at most `last`, that shows `position`: `last + 1` where there is none.

    The first is the position itself. Those beyond `last`, the farthest that a tap reads, matter to nobody.
    """
    none = int32(last + int32(1))
    if mode == int32(T.REPLICATE):
        first = int32(-lo) if position == int32(0) else position
        end = last if position == int32(size - int32(1)) else position
        at = int32(first + i)
        return at if at <= end else none
    if i == int32(0):
        return position
    at = none
    if mode == int32(T.REFLECT):
        if i == int32(1) and position > int32(0):
            at = int32(-position)
        if i == int32(2) and position < int32(size - int32(1)):
            at = int32(int32(int32(2) * int32(size - int32(1))) - position)
    else:
        at = int32(position - size) if i == int32(1) else int32(position + size)
    return at if at >= int32(-lo) and at < none else none


@cuda.jit(device=True)
def _shown_count(position, size, mode, lo, last):
    """Count the values of `i` that `_shown` is to be asked for."""
    if mode != int32(T.REPLICATE):
        return int32(3)
    first = int32(-lo) if position == int32(0) else position
    end = last if position == int32(size - int32(1)) else position
    return max(int32(0), int32(int32(end - first) + int32(1)))


@kernel()
def fold_rim(grad_output, weight, grad, zeros, table, places, rims):
    """Complete the gradient of x at the positions that padding shows elsewhere.

    What comes from there is added; half types, to be rounded once, are computed anew in full.

    Math     grad[p, c] = sum over padded positions q that show p: sum_t sum_o grad_output[r, o] * w[o, c, t]
             where r * stride + t * dilation - lo = q
    Shapes   grad_output, grad flat; weight flat as `places` says; zeros one number of the compute type
    Threads  one for each sample, position and channel
    """
    fields = int32(T.HEADER)
    size_h, size_w, mode = table[T.SIZE_H], table[T.SIZE_W], table[T.PADDING_MODE]
    rows_h, rows_w = table[fields + T.ROWS_H], table[fields + T.ROWS_W]
    stride_h, stride_w = table[fields + T.STRIDE_H], table[fields + T.STRIDE_W]
    dilation_h, dilation_w = table[fields + T.DILATION_H], table[fields + T.DILATION_W]
    lo_h, lo_w = table[fields + T.LO_H], table[fields + T.LO_W]
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    line, channel = split(item, table[T.C_IN])
    # Whole lines first, then the rest of the other lines.
    lines = int32(rims[LOW_H] + int32(size_h - rims[HIGH_H]))
    ends = int32(rims[LOW_W] + int32(size_w - rims[HIGH_W]))
    whole = int32(lines * size_w)
    count = int32(whole + int32(int32(size_h - lines) * ends))
    sample, index = split(line, max(count, int32(1)))
    if sample >= table[T.SAMPLES] or count == int32(0):
        return
    if index < whole:
        h, w = split(index, size_w)
        h = h if h < rims[LOW_H] else int32(int32(h - rims[LOW_H]) + rims[HIGH_H])
    else:
        h, w = split(int32(index - whole), ends)
        h = int32(h + rims[LOW_H])
        w = w if w < rims[LOW_W] else int32(int32(w - rims[LOW_W]) + rims[HIGH_W])
    last_h = int32(int32(int32(rows_h - int32(1)) * stride_h) - lo_h)
    last_h = int32(last_h + int32(int32(table[fields + T.TAPS_H] - int32(1)) * dilation_h))
    last_w = int32(int32(int32(rows_w - int32(1)) * stride_w) - lo_w)
    last_w = int32(last_w + int32(int32(table[fields + T.TAPS_W] - int32(1)) * dilation_w))
    group, inner = split(channel, table[T.C_IN_GROUP])
    columns = table[T.C_OUT_GROUP]
    total = zeros[0]
    to = int32(int32(int32(int32(int32(sample * size_h) + h) * size_w) + w) * table[T.C_IN])
    adds = rims[ADDS] != int32(0)
    if adds:
        total = widen(grad[int32(to + channel)])
    i_h, count_h = int32(0), _shown_count(h, size_h, mode, lo_h, last_h)
    count_w = _shown_count(w, size_w, mode, lo_w, last_w)
    while i_h < count_h:
        shown_h = _shown(h, size_h, mode, lo_h, last_h, i_h)
        i_w = int32(0)
        while i_w < count_w and shown_h <= last_h:
            shown_w = _shown(w, size_w, mode, lo_w, last_w, i_w)
            if adds and shown_h == h and shown_w == w:
                shown_w = int32(last_w + int32(1))
            tap_h = int32(0)
            while tap_h < table[fields + T.TAPS_H] and shown_w <= last_w:
                row_h = int32(int32(shown_h + lo_h) - int32(tap_h * dilation_h))
                at_h, rest_h = split(max(row_h, int32(0)), stride_h)
                if row_h >= int32(0) and rest_h == int32(0) and at_h < rows_h:
                    tap_w = int32(0)
                    while tap_w < table[fields + T.TAPS_W]:
                        row_w = int32(int32(shown_w + lo_w) - int32(tap_w * dilation_w))
                        at_w, rest_w = split(max(row_w, int32(0)), stride_w)
                        if row_w >= int32(0) and rest_w == int32(0) and at_w < rows_w:
                            line = int32(int32(int32(sample * rows_h) + at_h) * rows_w)
                            at = int32(int32(int32(line + at_w) * table[T.C_OUT]) + int32(group * columns))
                            tap = int32(int32(tap_h * places[TAP_H]) + int32(tap_w * places[TAP_W]))
                            tap = int32(int32(tap + places[START]) + int32(inner * places[SECOND]))
                            tap = int32(tap + int32(int32(group * columns) * places[FIRST]))
                            column = int32(0)
                            while column < columns:
                                total += widen(grad_output[at]) * widen(weight[tap])
                                at = int32(at + int32(1))
                                tap = int32(tap + places[FIRST])
                                column = int32(column + int32(1))
                        tap_w = int32(tap_w + int32(1))
                tap_h = int32(tap_h + int32(1))
            i_w = int32(i_w + int32(1))
        i_h = int32(i_h + int32(1))
    grad[int32(to + channel)] = narrow(total, grad)
