"""grad_bias: the sum of grad_output over samples and positions, in an order that no number of threads changes."""

from __future__ import annotations

import numpy as np

from ..arrays import compute_dtype, flat_view
from ..geometry import Geometry
from ..runtime import threads
from ..runtime.jit import helper, prange, serial, twins
from ..runtime.microkernel import DEPTHWISE, run_tile, tile_kernel
from ..runtime.target import lanes
from .loops import store_numbers
from .memory_layout import four_steps, half_code
from .panels import copy_numbers
from .tables import NOT_HALF

__all__ = ["grad_bias"]

_ROWS = 8  # sums of each column that grow side by side: they hide the latency of an addition
_CHUNK = 4096  # positions of a line that are summed at once
_PARTS = 16
_PANEL = 32 * 1024  # numbers of half types that are widened at a time

# What the loops need to know.
_LINES, _LENGTH, _PIECES, _INNER, _OUTER_STEP, _INNER_STEP, _STEP, _CHANNEL_STEP, _CHANNELS, _TOGETHER, _HALF = range(
    11
)


def grad_bias(geometry: Geometry, grad_output: np.ndarray, grad: np.ndarray) -> None:
    """Write the gradient of the bias into `grad` (c_out,), contiguous; `grad_output` has the shape of the output."""
    if grad_output.size == 0:
        grad[...] = 0
        return
    flat, result, compute, half = (
        flat_view(grad_output),
        flat_view(grad),
        compute_dtype(grad.dtype),
        half_code(grad.dtype),
    )
    sample_step, h_step, step, channel_step = four_steps(flat, geometry)
    h, length = ((1,) * (2 - len(geometry.axes)) + tuple(axis.out for axis in geometry.axes))[:2]
    lines = [(geometry.n, sample_step), (h, h_step)]
    while lines and (lines[-1][0] == 1 or lines[-1][1] == length * step):
        length *= lines.pop()[0]  # positions that lie evenly make one line
    (outer, outer_step), (inner, inner_step) = [(1, 0)] * (2 - len(lines)) + lines
    channels, copied = grad.size, half != NOT_HALF or channel_step != 1
    chunk = max(1, min(_CHUNK, _PANEL // channels)) if copied else _CHUNK
    pieces = -(-length // chunk)
    # Few channels: several positions side by side fill a vector.
    side_by_side = max(1, lanes(compute) // channels) if copied or step == channels else 1
    numbers = np.array([outer * inner, length, pieces, inner, outer_step, inner_step, step, channel_step, channels,
                        side_by_side, half], np.int64)  # fmt: skip
    parts = min(_PARTS, outer * inner * pieces)
    sums = np.zeros((parts, channels), compute)
    kernels = np.array([tile_kernel(compute, DEPTHWISE, rows, 1) for rows in (1, _ROWS)], np.int64)
    panel_size = min(chunk, length) * channels if copied else 0
    threads.launch(
        _sum_parts, parts, grad_output.size, sums, flat.data, flat.start, numbers, kernels, panel_size, lanes(compute)
    )
    _store_sum(result.data, sums, half)


@twins
def _sum_parts(part, part_end, workers, sums, y, y_start, numbers, kernels, panel_size, width):
    """Sum the parts `[part, part_end)`.

    Shapes   sums (parts, channels), of the compute type, zero before . y flat, with the strides of `numbers`
    Threads  over parts, whose number depends on the shape alone
    """
    for here in prange(part, part_end):
        _sum_part(here, sums, y, y_start, numbers, kernels, panel_size, width)


@helper
def _sum_part(part, sums, y, y_start, numbers, kernels, panel_size, width):
    channels, pieces, length, together = numbers[_CHANNELS], numbers[_PIECES], numbers[_LENGTH], numbers[_TOGETHER]
    columns = channels * together
    rows = np.zeros(_ROWS * columns, sums.dtype)
    ones, nowhere = np.ones(width, sums.dtype), np.zeros(1, np.int64)
    panel = np.empty(panel_size, sums.dtype)
    chunks = numbers[_LINES] * pieces
    for chunk in range(chunks * part // sums.shape[0], chunks * (part + 1) // sums.shape[0]):
        line, piece = divmod(chunk, pieces)
        outer, inner = divmod(line, numbers[_INNER])
        first, end = length * piece // pieces, length * (piece + 1) // pieces
        at = y_start + outer * numbers[_OUTER_STEP] + inner * numbers[_INNER_STEP] + first * numbers[_STEP]
        if panel_size:
            for i in range(end - first):
                copy_numbers(
                    panel, i * channels, y, at + i * numbers[_STEP], numbers[_CHANNEL_STEP], channels, numbers[_HALF]
                )  # fmt: skip
            _sum_rows(rows, panel, 0, channels, end - first, columns, together, kernels, ones, nowhere, width)
        else:
            _sum_rows(rows, y, at, numbers[_STEP], end - first, columns, together, kernels, ones, nowhere, width)
    for i in range(_ROWS * together):
        for c in range(channels):
            sums[part, c] += rows[i * channels + c]


@helper
def _sum_rows(rows, y, at, step, count, columns, together, kernels, ones, nowhere, width):
    """Add `count` positions: position i to row (i // together) % _ROWS, and those that are left over to the first."""
    step *= together
    whole, rest = divmod(count, together)
    steps = whole // _ROWS
    for column in range(0, columns, width):
        last = min(width, columns - column)
        if steps > 0:
            run_tile(
                kernels[1], y, at + column, step, _ROWS * step, nowhere, ones, 0, 0, nowhere, 0, 1, steps,
                rows, column, columns, rows, column, columns, last,
            )  # fmt: skip
        if whole > steps * _ROWS:
            run_tile(
                kernels[0], y, at + steps * _ROWS * step + column, 0, step, nowhere, ones, 0, 0, nowhere, 0, 1,
                whole - steps * _ROWS, rows, column, columns, rows, column, columns, last,
            )  # fmt: skip
    if rest > 0:  # together > 1: the columns are one vector
        run_tile(
            kernels[0], y, at + whole * step, 0, 0, nowhere, ones, 0, 0, nowhere, 0, 1, 1,
            rows, 0, columns, rows, 0, columns, rest * columns // together,
        )  # fmt: skip


@serial
def _store_sum(grad, sums, half):
    """Add the parts in order and store them."""
    total = sums[0].copy()
    for part in range(1, sums.shape[0]):
        total += sums[part]
    store_numbers(grad, 0, 1, total, 0, total.size, half)
