"""grad_bias: the sum of grad_output over samples and positions, in an order that no number of threads changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays import compute_dtype, flat_view
from ..geometry import Geometry
from ..runtime.jit import helper, maker
from ..runtime.microkernel import DEPTHWISE, run_tile, tile_kernel
from ..runtime.target import lanes
from ..runtime.threads import get_num_threads, launch
from ..runtime.twins import twins
from .memory_layout import four_steps, half_code
from .panels import copy_numbers
from .tables import NOT_HALF

__all__ = ["BiasPlan", "grad_bias", "plan_grad_bias"]

_ROWS, _VECTORS = 4, 4  # sums that grow side by side: they hide the latency of an addition
_CHUNK, _LEAST_CHUNK, _MOST_CHUNK = 64 * 1024, 64, 4096  # numbers that are summed at once; positions of a line
_PART = 16 * 1024  # numbers that pay for a part of its own
_PARTS = 16

# What the loops need to know.
_LINES, _LENGTH, _PIECES, _INNER, _OUTER_STEP, _INNER_STEP, _STEP, _CHANNEL_STEP, _CHANNELS, _TOGETHER = range(10)
_HALF, _WIDTH, _PANEL = range(10, 13)


class BiasPlan(NamedTuple):
    """Everything of a bias gradient but the arrays."""

    dtype: np.dtype
    compute: np.dtype
    shape: tuple[int, int]
    """(parts, channels) of the parts' sums."""
    work: int
    tables: tuple[Any, ...]
    """As `_sum_parts` takes them."""


def grad_bias(plan: BiasPlan, grad_output: tuple[np.ndarray, int]) -> np.ndarray:
    """Give the gradient of the bias (c_out,); `grad_output` is flat, with its start."""
    sums = np.zeros(plan.shape, plan.compute)
    launch(_sum_parts, plan.shape[0], plan.work, get_num_threads(), sums, *grad_output, *plan.tables)
    total: np.ndarray = sums[0] if len(sums) == 1 else np.add.reduce(sums, axis=0)
    if plan.dtype == plan.compute:
        return total
    with np.errstate(over="ignore"):  # beyond a half type lies infinity
        return total.astype(plan.dtype)


def plan_grad_bias(geometry: Geometry, grad_output: np.ndarray) -> BiasPlan:
    """Plan for a `grad_output` laid out as this one, of the shape of `geometry`'s output."""
    half, compute = half_code(grad_output.dtype), compute_dtype(grad_output.dtype)
    sample_step, h_step, step, channel_step = four_steps(flat_view(grad_output), geometry)
    h, length = (1,) * (2 - len(geometry.axes)) + tuple(axis.out for axis in geometry.axes)
    lines = [(geometry.n, sample_step), (h, h_step)]
    while lines and (lines[-1][0] == 1 or lines[-1][1] == length * step):
        length *= lines.pop()[0]  # positions that lie evenly make one line
    (outer, outer_step), (inner, inner_step) = [(1, 0)] * (2 - len(lines)) + lines
    channels, copied, width = geometry.c_out, half != NOT_HALF or channel_step != 1, lanes(compute)
    chunk = min(max(_CHUNK // channels, 1 if copied else _LEAST_CHUNK), _MOST_CHUNK)
    pieces = -(-length // chunk)
    # Few channels: several positions side by side fill a vector.
    side_by_side = max(1, width // channels) if copied or step == channels else 1
    panel = -(-length // pieces) * channels if copied else 0
    numbers = np.array(
        [outer * inner, length, pieces, inner, outer_step, inner_step, step, channel_step, channels, side_by_side,
         half, width, panel], np.int64
    )  # fmt: skip
    parts = min(_PARTS, outer * inner * pieces, max(1, outer * inner * length * channels // _PART))
    vectors = -(-channels * side_by_side // width)
    kernels = np.zeros((2, _VECTORS + 1), np.int64)
    for v in {min(vectors, _VECTORS), vectors % _VECTORS} - {0}:
        kernels[:, v] = [tile_kernel(compute, DEPTHWISE, rows, v) for rows in (1, _ROWS)]
    tables = numbers, kernels, np.ones(_VECTORS * width, compute), np.zeros(1, np.int64)
    return BiasPlan(grad_output.dtype, compute, (parts, channels), grad_output.size, tables)


@twins
def _sum_parts(part, part_end, worker, sums, y, y_start, numbers, kernels, ones, nowhere):
    """Sum the parts `[part, part_end)`.

    Shapes   sums (parts, channels), of the compute type, zero before . y flat, with the strides of `numbers`
    Threads  over parts, whose number depends on the shape alone
    """
    for here in range(part, part_end):
        _sum_part(here, sums, y, y_start, numbers, kernels, ones, nowhere)


@maker
def _sum_part(part, sums, y, y_start, numbers, kernels, ones, nowhere):
    channels, pieces, length, together = numbers[_CHANNELS], numbers[_PIECES], numbers[_LENGTH], numbers[_TOGETHER]
    columns = channels * together
    rows = np.zeros(_ROWS * columns, sums.dtype)
    panel = np.empty(numbers[_PANEL], sums.dtype)
    chunks = numbers[_LINES] * pieces
    for chunk in range(chunks * part // sums.shape[0], chunks * (part + 1) // sums.shape[0]):
        line, piece = divmod(chunk, pieces)
        outer, inner = divmod(line, numbers[_INNER])
        first, end = length * piece // pieces, length * (piece + 1) // pieces
        at = y_start + outer * numbers[_OUTER_STEP] + inner * numbers[_INNER_STEP] + first * numbers[_STEP]
        if numbers[_PANEL]:
            for i in range(end - first):
                copy_numbers(
                    panel, i * channels, y, at + i * numbers[_STEP], numbers[_CHANNEL_STEP], channels, numbers[_HALF]
                )  # fmt: skip
            _sum_rows(rows, panel, 0, channels, end - first, columns, together, kernels, ones, nowhere, numbers[_WIDTH])
        else:
            step = numbers[_STEP]
            _sum_rows(rows, y, at, step, end - first, columns, together, kernels, ones, nowhere, numbers[_WIDTH])
    for i in range(_ROWS * together):
        for c in range(channels):
            sums[part, c] += rows[i * channels + c]


@helper
def _sum_rows(rows, y, at, step, count, columns, together, kernels, ones, nowhere, width):
    """Add `count` positions: position i to row (i // together) % _ROWS, and those that are left over to the first."""
    step *= together
    whole, rest = divmod(count, together)
    steps = whole // _ROWS
    for column in range(0, columns, _VECTORS * width):
        wide = min(_VECTORS * width, columns - column)
        vectors = -(-wide // width)
        if steps > 0:
            run_tile(
                kernels[1, vectors], y, at + column, step, _ROWS * step, nowhere, ones, 0, 0, nowhere, 0, 1, steps,
                rows, column, columns, rows, column, columns, wide,
            )  # fmt: skip
        if whole > steps * _ROWS:
            run_tile(
                kernels[0, vectors], y, at + steps * _ROWS * step + column, 0, step, nowhere, ones, 0, 0, nowhere, 0, 1,
                whole - steps * _ROWS, rows, column, columns, rows, column, columns, wide,
            )  # fmt: skip
    if rest > 0:  # together > 1: the columns are one vector
        run_tile(
            kernels[0, 1], y, at + whole * step, 0, 0, nowhere, ones, 0, 0, nowhere, 0, 1, 1,
            rows, 0, columns, rows, 0, columns, rest * columns // together,
        )  # fmt: skip
