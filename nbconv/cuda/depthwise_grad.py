"""The depthwise gradient of the weight: four channels and four taps of a line a thread, over slices of positions.

Every position's point is loaded once for four taps, and the cache serves most of the windows: neighbouring positions
read the same ones. `grad_general` tells the rest: names, slices, and the sum of the slices.
"""

from __future__ import annotations

from numpy import float32, int32

from ..geometry import Geometry
from . import table as T
from .driver import cuda, kernel
from .integers import quotient, source_position, split
from .intrinsics import load4

__all__ = ["THREADS", "covers", "items", "weight_slices"]

THREADS = 128
TAPS = 4


def covers(pairs: Geometry) -> bool:
    """Say whether the kernel takes this gradient; it needs both arrays at multiples of 16 bytes."""
    return T.channelwise(pairs) and pairs.c_out % 4 == 0


def items(pairs: Geometry) -> int:
    """Count the threads of a slice."""
    lines = pairs.axes[0].taps if len(pairs.axes) == 2 else 1
    return lines * -(-pairs.axes[-1].taps // TAPS) * (pairs.c_out // 4)


@kernel()
def weight_slices(windows, points, partial, table, rows_of_slice):
    """Sum the weight's gradient over slices of positions, four taps of a line and four channels a thread.

    Math     partial[s, c, t] = sum over positions p of slice s: windows[p * stride + t * dilation - lo, c] *
             points[p, c]
    Shapes   windows, points flat, float32 or half types . partial (slices, channels, taps) float32
    Threads  one-dimensional blocks over (taps, channels); grid y over slices
    """
    sums = cuda.local.array((TAPS, 4), float32)
    fields = int32(T.HEADER)
    channels = table[T.C_IN]
    rows_h, rows_w = table[fields + T.ROWS_H], table[fields + T.ROWS_W]
    taps_h, taps_w = table[fields + T.TAPS_H], table[fields + T.TAPS_W]
    size_h, size_w, mode = table[T.SIZE_H], table[T.SIZE_W], table[T.PADDING_MODE]
    stride, dilation = table[fields + T.STRIDE_W], table[fields + T.DILATION_W]
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    line, channel = split(item, int32(channels >> int32(2)))
    channel = int32(int32(4) * channel)
    tap_h, tap_w = split(line, quotient(int32(taps_w + int32(TAPS - 1)), int32(TAPS)))
    tap_w = int32(tap_w * int32(TAPS))
    if tap_h >= taps_h:
        return
    for i in range(TAPS):
        for k in range(4):
            sums[i, k] = float32(0)
    row = int32(int32(cuda.blockIdx.y) * rows_of_slice)
    end = min(int32(table[T.SAMPLES] * int32(rows_h * rows_w)), int32(row + rows_of_slice))
    line, w = split(row, rows_w)
    sample, h = split(line, rows_h)
    while row < end:
        at_h = int32(int32(h * table[fields + T.STRIDE_H]) + int32(tap_h * table[fields + T.DILATION_H]))
        at_h = source_position(int32(at_h - table[fields + T.LO_H]), size_h, mode)
        line = int32(int32(int32(sample * size_h) + at_h) * size_w)
        point = load4(points, int32(int32(row * channels) + channel), int32(0))
        at = int32(int32(int32(w * stride) + int32(tap_w * dilation)) - table[fields + T.LO_W])
        for i in range(TAPS):
            at_w = source_position(at, size_w, mode)
            # Taps beyond the last add to sums that are not written, yet their windows may lie outside of the array.
            if at_h >= int32(0) and at_w >= int32(0) and int32(tap_w + int32(i)) < taps_w:
                window = load4(windows, int32(int32(int32(line + at_w) * channels) + channel), int32(0))
                for k in range(4):
                    sums[i, k] += window[k] * point[k]
            at = int32(at + dilation)
        row = int32(row + int32(1))
        w = int32(w + int32(1))
        if w == rows_w:
            w, h = int32(0), int32(h + int32(1))
        if h == rows_h:
            h, sample = int32(0), int32(sample + int32(1))
    taps = int32(taps_h * taps_w)
    to = int32(int32(int32(cuda.blockIdx.y) * channels) + channel)
    to = int32(int32(to * taps) + int32(int32(tap_h * taps_w) + tap_w))
    for i in range(TAPS):
        if int32(tap_w + int32(i)) < taps_w:
            for k in range(4):
                partial[int32(int32(to + int32(i)) + int32(int32(k) * taps))] = sums[i, k]
