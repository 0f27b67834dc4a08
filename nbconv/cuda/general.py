"""The product kernels for every parameter and type: what the fast kernels do not cover comes here.

Every thread owns `ROWS` neighbouring positions of a phase and some output channels of one group, and sums over all taps
and channels in order, from global memory through the caches. Nothing is shared between threads.
"""

from __future__ import annotations

from numpy import int32, int64

from . import table as T
from .activations import activate
from .driver import cuda, inlined, kernel
from .integers import quotient, source_position, split
from .storage import narrow, widen

__all__ = ["ROWS", "THREADS", "WIDE", "product_narrow", "product_wide"]

THREADS = 128
ROWS = 4
WIDE = 8  # columns of a thread of `product_wide`; divides table.COLUMN_BLOCK
_ZEROS, _NOTHING = -1, -2  # in place of an offset in x


@inlined
def _sum_taps(x, weight, table, phase, first, group, column, offsets, sums):
    """Add all taps and channels of the rows from `first` on to `sums`, shape (ROWS, columns from `column` on)."""
    size_h, size_w, c_in, c_group = table[T.SIZE_H], table[T.SIZE_W], table[T.C_IN], table[T.C_IN_GROUP]
    rows_h, rows_w = table[phase + T.ROWS_H], table[phase + T.ROWS_W]
    taps_h, taps_w = table[phase + T.TAPS_H], table[phase + T.TAPS_W]
    mode = table[T.PADDING_MODE]
    outside = int32(_NOTHING) if table[T.TRANSPOSED] else int32(_ZEROS)
    row_step = table[T.WEIGHT_ROW_STEP]
    at = int32(table[phase + T.WEIGHT_START] + int32(group * table[phase + T.WEIGHT_GROUP_STEP]) + column)
    rows = int32(table[T.SAMPLES] * int32(rows_h * rows_w))
    tap_h = int32(0)
    while tap_h < taps_h:
        tap_w = int32(0)
        while tap_w < taps_w:
            for i in range(ROWS):
                row = int32(first + int32(i))
                offsets[i] = int32(_NOTHING)
                if row < rows:
                    line, w = split(row, rows_w)
                    sample, h = split(line, rows_h)
                    h = int32(int32(h * table[phase + T.STRIDE_H]) + int32(tap_h * table[phase + T.DILATION_H]))
                    w = int32(int32(w * table[phase + T.STRIDE_W]) + int32(tap_w * table[phase + T.DILATION_W]))
                    h = source_position(int32(h - table[phase + T.LO_H]), size_h, mode)
                    w = source_position(int32(w - table[phase + T.LO_W]), size_w, mode)
                    if h < int32(0) or w < int32(0):
                        offsets[i] = outside
                    else:
                        line = int32(int32(int32(sample * size_h) + h) * size_w)
                        offsets[i] = int32(int32(int32(line + w) * c_in) + int32(group * c_group))
            channel = int32(0)
            while channel < c_group:
                for i in range(ROWS):
                    if offsets[i] != int32(_NOTHING):
                        value = sums.dtype.type(0)
                        if offsets[i] >= int32(0):
                            value = widen(x[int32(offsets[i] + channel)])
                        for j in range(sums.shape[1]):
                            sums[i, j] += value * widen(weight[int32(at + int32(j))])
                at = int32(at + row_step)
                channel = int32(channel + int32(1))
            tap_w = int32(tap_w + int32(1))
        tap_h = int32(tap_h + int32(1))


@inlined
def _store(bias, residual, y, table, phase, first, group, column, sums):
    """Add bias and residual, apply the activation and write; `sums` is used up.

    The numbers rotate through `sums[0, 0]`: the loops stay loops, and the activation is there once.
    """
    rows_h, rows_w = table[phase + T.ROWS_H], table[phase + T.ROWS_W]
    rows = int32(table[T.SAMPLES] * int32(rows_h * rows_w))
    c_out, columns = table[T.C_OUT], table[T.C_OUT_GROUP]
    code, parameter = table[T.ACTIVATION], bias[table[T.C_OUT]]
    row = first
    end = min(rows, int32(first + int32(ROWS)))
    last = min(columns, int32(column + int32(sums.shape[1])))
    while row < end:
        line, w = split(row, rows_w)
        sample, h = split(line, rows_h)
        h = int32(table[phase + T.OUT_START_H] + int32(h * table[phase + T.OUT_STEP_H]))
        w = int32(table[phase + T.OUT_START_W] + int32(w * table[phase + T.OUT_STEP_W]))
        line = int32(int32(int32(int32(sample * table[T.OUT_H]) + h) * table[T.OUT_W]) + w)
        at = int32(column + int32(group * columns))
        to = int32(int32(line * c_out) + at)
        left = column
        while left < last:
            value = sums[0, 0] + bias[at]
            if table[T.HAS_RESIDUAL]:
                value += widen(residual[to])
            y[to] = narrow(activate(code, value, parameter), y)
            for j in range(sums.shape[1] - 1):
                sums[0, j] = sums[0, j + 1]
            at = int32(at + int32(1))
            to = int32(to + int32(1))
            left = int32(left + int32(1))
        for i in range(ROWS - 1):
            for j in range(sums.shape[1]):
                sums[i, j] = sums[i + 1, j]
        row = int32(row + int32(1))


@inlined
def _product(x, weight, bias, residual, y, table, offsets, sums):
    """Compute this thread's tile of every phase that falls to it; neighbouring threads take neighbouring columns."""
    width = int32(sums.shape[1])
    blocks = quotient(int32(table[T.C_OUT_GROUP] + int32(width - int32(1))), width)
    column_blocks = int32(blocks * table[T.GROUPS])
    phase = int32(cuda.blockIdx.z)
    while phase < table[T.PHASES]:
        fields = int32(int32(T.HEADER) + int32(phase * int32(T.PHASE_FIELDS)))
        rows = int32(table[T.SAMPLES] * int32(table[fields + T.ROWS_H] * table[fields + T.ROWS_W]))
        row_blocks = quotient(int32(rows + int32(ROWS - 1)), int32(ROWS))
        item = int64(cuda.blockIdx.x) * int64(THREADS) + int64(cuda.threadIdx.x)
        if item < int64(row_blocks) * int64(column_blocks):
            row_block, rest = split(int32(item), column_blocks)
            group, column = split(rest, blocks)
            column = int32(column * width)
            first = int32(row_block * int32(ROWS))
            for i in range(ROWS):
                for j in range(sums.shape[1]):
                    sums[i, j] = 0
            _sum_taps(x, weight, table, fields, first, group, column, offsets, sums)
            _store(bias, residual, y, table, fields, first, group, column, sums)
        phase = int32(phase + int32(cuda.gridDim.z))


@kernel()
def product_wide(x, weight, bias, residual, y, table):
    """Compute a convolution, each thread `ROWS` positions and `WIDE` channels.

    Math     y[p, o] = f(sum_t sum_c x[p * stride + t * dilation - lo, c] * w[t, c, o] + bias[o] + residual[p, o])
    Shapes   all flat; x (samples, *size, c_in) . weight as `table` says . bias (c_out + 1), the last the parameter of f
    Threads  one-dimensional blocks over (rows, groups, columns); grid z over phases
    """
    offsets = cuda.local.array(ROWS, int32)
    sums = cuda.local.array((ROWS, WIDE), bias.dtype)
    _product(x, weight, bias, residual, y, table, offsets, sums)


@kernel()
def product_narrow(x, weight, bias, residual, y, table):
    """Compute a convolution, each thread `ROWS` positions of one channel: for groups with few output channels."""
    offsets = cuda.local.array(ROWS, int32)
    sums = cuda.local.array((ROWS, 1), bias.dtype)
    _product(x, weight, bias, residual, y, table, offsets, sums)
