"""The depthwise product: a window of x slides through registers, four channels at a time, in float32.

Such a product reads and writes far more than it multiplies, so that memory sets its pace: x should be read from it
once. Each thread makes `RUN` outputs of one line and four channels. Where taps lie `dilation` positions apart and a
whole number of strides, outputs that many strides apart share all but one of their inputs with the next tap: the thread
takes those, and loads one vector a tap instead of `RUN`. Elsewhere (stride 2, dilation 1) the cache serves the rest.
The threads of a block stand side by side in channels, then in neighbouring lines of the image, whose taps overlap.
"""

from __future__ import annotations

from typing import Any

from numpy import float32, int32, uint32

from ..geometry import Geometry
from . import table as T
from .activations import activate
from .driver import cuda, inlined, kernel
from .integers import quotient, source_position, split
from .intrinsics import load4, store4

__all__ = ["KERNELS", "covers", "launch", "slides"]

THREADS = 256
RUN = 8  # outputs of a thread: with their window 64 registers
_LANES = 32  # vectors of channels side by side in a block, at most: 512 bytes of float32, what a warp reads at a time


def covers(geometry: Geometry) -> bool:
    """Say whether the kernel takes this product; it needs every array at a multiple of 16 bytes."""
    return T.channelwise(geometry) and geometry.c_out % 4 == 0 and all(axis.size for axis in geometry.axes)


def launch(geometry: Geometry) -> tuple[tuple[int, int, int], int]:
    """Give the grid, (runs of outputs, chunks of channels, phases), and the threads of a block."""
    chunks, lanes = _chunks(geometry.c_out // 4)
    phases, _ = T.packed_phases(geometry)
    runs = max((geometry.n * phase.h.axis.out * _runs_of_line(phase) for phase in phases), default=0)
    return (-(-runs // (THREADS // lanes)), chunks, min(len(phases), 65535)), THREADS


def _chunks(vectors: int) -> tuple[int, int]:
    """Cut the channels into equal chunks: give their number, and the vectors of each."""
    chunks = -(-vectors // _LANES)
    return chunks, -(-vectors // max(chunks, 1))


def slides(geometry: Geometry) -> bool:
    """Say whether taps lie a whole number of strides apart: the phases of a transposed convolution always do."""
    axis = geometry.axes[-1]
    return geometry.spec.transposed or axis.dilation % axis.stride == 0


def _runs_of_line(phase: T.PackedPhase) -> int:
    axis = phase.w.axis
    apart = axis.dilation // axis.stride if axis.dilation % axis.stride == 0 else 1
    outputs = -(-axis.out // apart)
    return apart * -(-outputs // RUN)


@inlined
def _read(x, line, position, size, mode, repeats, c_in, channel, vector):
    """Load four channels of a position of a line; zeros outside of it. `line` is -1 outside of the image.

    Something is loaded in any case: loads without branches between them are all under way at the same time.
    """
    at = position
    if repeats:
        last = int32(size - int32(1))
        reflected = int32(last - abs(int32(last - abs(position))))
        wrapped = int32(position + size) if position < int32(0) else position
        wrapped = int32(wrapped - size) if wrapped > last else wrapped
        at = reflected if mode == int32(T.REFLECT) else wrapped
        at = min(max(position, int32(0)), last) if mode == int32(T.REPLICATE) else at
    inside = uint32(at) < uint32(size) and line >= int32(0)
    start = int32(int32(line + at) * c_in) if inside else int32(0)
    v = load4(x, int32(start + channel), int32(0))
    for k in range(4):
        vector[k] = v[k] if inside else float32(0)


@inlined
def _slide(x, weight, line, first, step, taps, size, mode, repeats, c_in, channel, at, row_step, window, vector, sums):
    """Add the taps of one line: tap `t` of output `j` reads position `first + (j + t) * step`."""
    position = first
    for j in range(RUN - 1):
        _read(x, line, position, size, mode, repeats, c_in, channel, vector)
        for k in range(4):
            window[j, k] = vector[k]
        position = int32(position + step)
    tap = int32(0)
    while tap < taps:
        _read(x, line, position, size, mode, repeats, c_in, channel, vector)
        for k in range(4):
            window[RUN - 1, k] = vector[k]
        w = load4(weight, at, int32(0))
        for j in range(RUN):
            for k in range(4):
                sums[j, k] += window[j, k] * w[k]
        for j in range(RUN - 1):
            for k in range(4):
                window[j, k] = window[j + 1, k]
        position = int32(position + step)
        at = int32(at + row_step)
        tap = int32(tap + int32(1))


@inlined
def _stride(x, weight, line, first, step, stride, taps, size, mode, repeats, c_in, channel, at, row_step, vector, sums):
    """Add the taps of one line: tap `t` of output `j` reads position `first + j * stride + t * step`."""
    tap = int32(0)
    while tap < taps:
        w = load4(weight, at, int32(0))
        position = int32(first + int32(tap * step))
        for j in range(RUN):
            _read(x, line, position, size, mode, repeats, c_in, channel, vector)
            for k in range(4):
                sums[j, k] += vector[k] * w[k]
            position = int32(position + stride)
        at = int32(at + row_step)
        tap = int32(tap + int32(1))


@inlined
def _finish(bias, residual, y, table, to, step, count, channel, vector, sums):
    """Add bias and residual, apply the activation, write `count` vectors `step` numbers apart; `sums` is used up.

    The numbers rotate through registers: the loops stay loops, and the activation is there once.
    """
    code, parameter = table[T.ACTIVATION], bias[table[T.C_OUT]]
    b = load4(bias, channel, int32(0))
    left = count
    while left > int32(0):
        for k in range(4):
            vector[k] = sums[0, k] + b[k]
        if table[T.HAS_RESIDUAL]:
            r = load4(residual, to, int32(0))
            for k in range(4):
                vector[k] += r[k]
        if code != int32(0):
            turn = int32(0)
            while turn < int32(4):
                value = activate(code, vector[0], parameter)
                vector[0], vector[1], vector[2] = vector[1], vector[2], vector[3]
                vector[3] = value
                turn = int32(turn + int32(1))
        store4(y, to, (vector[0], vector[1], vector[2], vector[3]))
        for j in range(RUN - 1):
            for k in range(4):
                sums[j, k] = sums[j + 1, k]
        to = int32(to + step)
        left = int32(left - int32(1))


@inlined
def _product(x, weight, bias, residual, y, table, slides, repeats):
    """Compute a depthwise convolution, each thread `RUN` outputs of four channels.

    Math     y[p, c] = f(sum_t x[p * stride + t * dilation - lo, c] * w[t, c] + bias[c] + residual[p, c])
    Shapes   all flat, float32 or half types, at multiples of 16 bytes; weight as `table` says, rows (taps, groups)
    Cost     reads x and writes y once where the cache holds the lines between
    Threads  (lines and runs, channels); grid x over runs, y over chunks of channels, z over phases
    """
    sums, window = cuda.local.array((RUN, 4), float32), cuda.local.array((RUN, 4), float32)
    vector = cuda.local.array(4, float32)
    c_in = table[T.C_IN]
    vectors = int32(c_in >> int32(2))
    chunks = quotient(int32(vectors + int32(_LANES - 1)), int32(_LANES))
    lanes = quotient(int32(vectors + int32(chunks - int32(1))), chunks)
    block_row, lane = split(int32(cuda.threadIdx.x), lanes)
    channel = int32(int32(4) * int32(int32(int32(cuda.blockIdx.y) * lanes) + lane))
    block_rows = quotient(int32(THREADS), lanes)
    run = int32(int32(int32(cuda.blockIdx.x) * block_rows) + block_row)
    if block_row >= block_rows or channel >= c_in:
        return
    size_h, size_w, mode = table[T.SIZE_H], table[T.SIZE_W], table[T.PADDING_MODE]
    row_step = table[T.WEIGHT_ROW_STEP]
    phase = int32(cuda.blockIdx.z)
    while phase < table[T.PHASES]:
        fields = int32(int32(T.HEADER) + int32(phase * int32(T.PHASE_FIELDS)))
        rows_h, rows_w = table[fields + T.ROWS_H], table[fields + T.ROWS_W]
        stride, dilation = table[fields + T.STRIDE_W], table[fields + T.DILATION_W]
        apart = quotient(dilation, stride) if slides else int32(1)
        runs = quotient(int32(quotient(int32(rows_w + int32(apart - int32(1))), apart) + int32(RUN - 1)), int32(RUN))
        # Lines come first: threads that follow each other then share rows of x.
        line, h = split(run, max(rows_h, int32(1)))
        sample, line = split(line, max(int32(runs * apart), int32(1)))
        w, residue = split(line, apart)
        w = int32(int32(w * int32(int32(RUN) * apart)) + residue)
        if sample < table[T.SAMPLES] and w < rows_w:
            for j in range(RUN):
                for k in range(4):
                    sums[j, k] = float32(0)
            first = int32(int32(w * stride) - table[fields + T.LO_W])
            at = int32(table[fields + T.WEIGHT_START] + channel)
            taps_w = table[fields + T.TAPS_W]
            tap_h = int32(0)
            while tap_h < table[fields + T.TAPS_H]:
                row = int32(int32(h * table[fields + T.STRIDE_H]) + int32(tap_h * table[fields + T.DILATION_H]))
                row = source_position(int32(row - table[fields + T.LO_H]), size_h, mode)
                start = int32(int32(int32(sample * size_h) + row) * size_w) if row >= int32(0) else int32(-1)
                if slides:
                    _slide(
                        x, weight, start, first, dilation, taps_w, size_w, mode, repeats, c_in, channel, at, row_step,
                        window, vector, sums,
                    )  # fmt: skip
                else:
                    _stride(
                        x, weight, start, first, dilation, stride, taps_w, size_w, mode, repeats, c_in, channel, at,
                        row_step, vector, sums,
                    )  # fmt: skip
                at = int32(at + int32(taps_w * row_step))
                tap_h = int32(tap_h + int32(1))
            row = int32(table[fields + T.OUT_START_H] + int32(h * table[fields + T.OUT_STEP_H]))
            column = int32(table[fields + T.OUT_START_W] + int32(w * table[fields + T.OUT_STEP_W]))
            to = int32(int32(int32(int32(sample * table[T.OUT_H]) + row) * table[T.OUT_W]) + column)
            step = int32(int32(apart * table[fields + T.OUT_STEP_W]) * c_in)
            count = min(int32(RUN), quotient(int32(int32(rows_w - w) + int32(apart - int32(1))), apart))
            _finish(bias, residual, y, table, int32(int32(to * c_in) + channel), step, count, channel, vector, sums)
        phase = int32(phase + int32(cuda.gridDim.z))


@kernel(launch_bounds=(THREADS, 2))
def slide(x, weight, bias, residual, y, table):
    """Compute a depthwise convolution whose taps lie a whole number of strides apart."""
    _product(x, weight, bias, residual, y, table, True, False)


@kernel(launch_bounds=(THREADS, 2))
def slide_repeated(x, weight, bias, residual, y, table):
    """Compute as `slide`, with padding that repeats data."""
    _product(x, weight, bias, residual, y, table, True, True)


@kernel(launch_bounds=(THREADS, 2))
def stride(x, weight, bias, residual, y, table):
    """Compute a depthwise convolution whose taps lie elsewhere than its strides."""
    _product(x, weight, bias, residual, y, table, False, False)


@kernel(launch_bounds=(THREADS, 2))
def stride_repeated(x, weight, bias, residual, y, table):
    """Compute as `stride`, with padding that repeats data."""
    _product(x, weight, bias, residual, y, table, False, True)


KERNELS: dict[tuple[bool, bool], Any] = {
    (True, False): slide,
    (True, True): slide_repeated,
    (False, False): stride,
    (False, True): stride_repeated,
}
"""The kernel of (slides, padding repeats data)."""
