"""Gradients of layers with few positions: the weight is read and written as it lies, not packed and not transposed.

A weight whose taps lie together is a matrix W (narrow channels, wide channels x taps) in its own memory; `wide` and
`narrow` are as in `grad_weight`. Let V (positions, wide channels x taps) hold the windows of all positions, in the
order of W's rows. Then

    the gradient of the weight is  narrow^T V
    grad_x of a convolution is  narrow W,  each row added up where the window of its position lies

Gathering V, or adding up, takes a step for each number of each window; packing and transposing take one for each
weight. Padding is a matter of where windows lie: what flows to a padded position is added to the one it repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..arrays import compute_dtype, contiguous_steps, flat_view
from ..geometry import PADDING_MODES, UNIT_PHASE, Axis, Geometry
from ..runtime.jit import helper
from ..runtime.memory import copy_run
from ..runtime.microkernel import DENSE, TRIMMED, run_tile, tile_kernel
from ..runtime.target import lanes
from ..runtime.threads import get_num_threads, launch
from ..runtime.twins import Twins, twins
from ..runtime.workspace import give_back, take
from .memory_layout import four_steps, name_steps
from .panels import source_position
from .tiles import max_rows, max_vectors

__all__ = ["Data", "WindowPlan", "add_windows", "multiply_windows", "plan_adding", "plan_windows"]

_COLUMNS = 512  # of W and V that a job takes at once: rows long enough to be fetched ahead, in L2 with what they meet
_TERMS = 256  # rows of W that lie in L2 beside the products
_MOST_POSITIONS, _MOST_PLACES = 512, 1 << 16  # for which tables and scratch memory stay small
# Narrow channels for each position that pay: the more, the more weights share a window's cost.
_PAY_TO_ADD, _PAY_TO_MULTIPLY = 2, 6
_NOWHERE = np.iinfo(np.int64).min  # where zero padding lies

Steps = tuple[int, int, int, int]
Data = tuple[np.ndarray, int]
"""A flat array and where in it the first number lies: see `arrays.flat_data`."""

# What the loops need to know.
_POSITIONS, _TAPS, _WIDE, _NARROW, _BLOCKS, _WIDE_C, _NARROW_STEP, _NARROW_C, _FIRST, _WIDTH = range(10)
_WIDEST, _ROW, _SCRATCH, _IN_PLACE, _FIELDS = range(10, 15)


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Everything of such a gradient but the arrays."""

    call: np.ndarray
    places: np.ndarray
    """(positions, taps): where in `wide` each tap meets it, from its start; or `_NOWHERE`."""
    zeros: np.ndarray
    kernels: np.ndarray
    max_rows: np.ndarray
    gaps: bool
    """Whether windows reach where nothing lies: there V is zero, which no infinite number of `narrow` may meet."""
    shape: tuple[int, ...]
    """Of x."""
    jobs: int
    scratch: int
    flops: int

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        """As the loops take them."""
        return self.call, self.places, self.zeros, self.kernels, self.max_rows


def plan_windows(
    geometry: Geometry, wide: Steps, narrow: Steps, weight: tuple[int, ...], dtype: np.dtype, *, adding: bool
) -> WindowPlan | None:
    """Plan a gradient of a geometry whose x is the wide operand; None where other ways are better or the only ones.

    `adding` says which: grad_x, or else the weight's. Strides count numbers: (N, H, W, C), (first, second, *kernel).
    """
    axes = (UNIT_PHASE.axis,) * (2 - len(geometry.axes)) + geometry.axes
    h, w = axes
    positions, taps, channels = geometry.n * h.out * w.out, h.taps * w.taps, geometry.c_in
    sample_step, h_step, step, channel_step = narrow
    lies_evenly = (h.out == 1 or h_step == w.out * step) and (geometry.n == 1 or sample_step == h.out * w.out * step)
    taps_lie_together = weight[1] == taps and weight[-1] == 1 and weight[-2] in (w.taps, taps)
    pays = _PAY_TO_ADD if adding else _PAY_TO_MULTIPLY
    if (
        geometry.groups > 1
        or compute_dtype(dtype) != dtype
        or not (lies_evenly and taps_lie_together)
        or not 0 < positions <= min(_MOST_POSITIONS, geometry.c_out // pays)
        or not 1 < taps <= _COLUMNS
        or positions * taps > _MOST_PLACES
        or channels == 0
    ):
        return None
    blocks = -(-channels // (_COLUMNS // taps))
    lengths = {(channels * (b + 1) // blocks - channels * b // blocks) * taps for b in range(blocks)}
    width, widest = lanes(dtype), max_vectors()
    row = -(-max(lengths) // width)
    row += 1 - row % 2  # vectors; rows of an odd number of them do not fall on each other in a cache
    row *= width
    call = [0] * _FIELDS
    call[_POSITIONS], call[_TAPS], call[_WIDE], call[_NARROW] = positions, taps, channels, geometry.c_out
    call[_BLOCKS], call[_WIDE_C], call[_NARROW_STEP], call[_NARROW_C] = blocks, wide[3], step, channel_step
    call[_FIRST], call[_WIDTH], call[_WIDEST], call[_ROW] = weight[0], width, widest, row
    # Weights that meet one row of tiles need no copy that is read again.
    in_place = adding and positions <= max_rows(widest, False)
    call[_IN_PLACE] = int(in_place)
    call[_SCRATCH] = row * (positions + (min(_TERMS, geometry.c_out) if adding and not in_place else 0))
    limits = [1] + [max_rows(v, False) for v in range(1, widest + 1)]
    places = _places(geometry, axes, wide)
    return WindowPlan(
        call=np.array(call, np.int64),
        places=places,
        zeros=np.zeros(row, dtype),
        kernels=_kernels(lengths, positions if adding else geometry.c_out, limits, dtype),
        max_rows=np.array(limits, np.int64),
        gaps=bool((places == _NOWHERE).any()),
        shape=geometry.adjoint().output_shape,
        jobs=blocks,
        scratch=call[_SCRATCH],
        flops=2 * positions * taps * channels * geometry.c_out,
    )


def _kernels(lengths: set[int], rows: int, limits: list[int], dtype: np.dtype) -> np.ndarray:
    """Compile the tile kernels for products of so many rows and columns."""
    width, widest = lanes(dtype), len(limits) - 1
    kind = DENSE | (TRIMMED if any(length % width for length in lengths) else 0)
    kernels = np.zeros((widest + 1, max(limits) + 1), np.int64)
    for vectors in {-(-length // width) for length in lengths}:
        tiles = -(-vectors // widest)
        for v in {vectors // tiles, -(-vectors // tiles)}:
            row_tiles = -(-rows // limits[v])
            for size in {rows // row_tiles, -(-rows // row_tiles)}:
                kernels[v, size] = tile_kernel(dtype, kind, size, v)
    return kernels


def _places(geometry: Geometry, axes: tuple[Axis, ...], steps: Steps) -> np.ndarray:
    mode = PADDING_MODES.index(geometry.spec.padding_mode)
    rule = getattr(source_position, "py_func", source_position)
    h, w = (
        np.array(
            [
                [rule(p * axis.stride + t * axis.dilation - axis.lo, axis.size, mode) for t in range(axis.taps)]
                for p in range(axis.out)
            ], np.int64
        )
        for axis in axes
    )  # fmt: skip
    h, w = h[:, None, :, None], w[None, :, None, :]
    samples = np.arange(geometry.n).reshape(-1, 1, 1, 1, 1) * steps[0]
    places = np.where((h < 0) | (w < 0), _NOWHERE, samples + h * steps[1] + w * steps[2])
    return np.ascontiguousarray(places.reshape(-1, axes[0].taps * axes[1].taps))


def multiply_windows(plan: WindowPlan, grad: Data, wide: Data, narrow: Data) -> None:
    """Write the gradient of the weight."""
    _launch(_multiply, plan, *grad, *wide, *narrow)


def _launch(loop: Twins[Callable[..., None]], plan: WindowPlan, *arguments: np.ndarray | int) -> None:
    workers = min(get_num_threads(), plan.jobs)
    scratch = take(plan.zeros.dtype, workers * plan.scratch, 0)
    launch(loop, plan.jobs, plan.flops, workers, scratch.numbers, *arguments, *plan.tables)
    give_back(scratch)


def plan_adding(geometry: Geometry, grad_output: np.ndarray, weight: np.ndarray) -> WindowPlan | None:
    """Plan grad_x of a convolution for arrays laid out as these; None where other ways are better or the only ones."""
    if geometry.spec.transposed:
        return None
    wide = name_steps(contiguous_steps(geometry.adjoint().output_shape), geometry)
    narrow = four_steps(flat_view(grad_output), geometry)
    return plan_windows(geometry, wide, narrow, flat_view(weight).steps, weight.dtype, adding=True)


def add_windows(plan: WindowPlan, weight: Data, grad_output: Data) -> np.ndarray:
    """Give grad_x, the padding's share included."""
    grad = np.zeros(plan.shape, plan.zeros.dtype)
    _launch(_add, plan, grad.reshape(-1), *weight, *grad_output)
    return grad


@twins
def _multiply(
    job, job_end, worker, scratch, grad, grad_start, wide, wide_start, narrow, narrow_start,
    call, places, zeros, kernels, max_rows,
):  # fmt: skip
    """Run the jobs `[job, job_end)`: each writes the gradient of the weights of some wide channels.

    Cost     2 * positions * taps * wide channels * narrow channels flops; the scratch is a MiB a thread
    Threads  over wide channels: every job owns its numbers
    """
    positions, taps, row, wide_c = call[_POSITIONS], call[_TAPS], call[_ROW], call[_WIDE_C]
    panel = worker * call[_SCRATCH]
    for block in range(job, job_end):
        low = call[_WIDE] * block // call[_BLOCKS]
        channels = call[_WIDE] * (block + 1) // call[_BLOCKS] - low
        for p in range(positions):
            for t in range(taps):
                to, place = panel + p * row + t, places[p, t]
                source = wide_start + place + low * wide_c
                for c in range(channels):
                    scratch[to + c * taps] = 0 if place == _NOWHERE else wide[source + c * wide_c]
        _write_product(
            grad, grad_start + low * taps, call[_FIRST], zeros, 0, 0, call[_NARROW], channels * taps,
            narrow, narrow_start, call[_NARROW_C], call[_NARROW_STEP], scratch, panel, row, positions,
            call, kernels, max_rows,
        )  # fmt: skip


@twins
def _add(
    job, job_end, worker, scratch, grad, weight, weight_start, narrow, narrow_start,
    call, places, zeros, kernels, max_rows,
):  # fmt: skip
    """Run the jobs `[job, job_end)`: each adds up the gradient of some channels of x.

    Cost     2 * positions * taps * wide channels * narrow channels flops; the scratch is two MiB a thread at most
    Threads  over channels: every job owns its numbers, and adds to each of them in the order of positions
    """
    positions, taps, row, wide_c = call[_POSITIONS], call[_TAPS], call[_ROW], call[_WIDE_C]
    sums = worker * call[_SCRATCH]
    panel = sums + positions * row
    for block in range(job, job_end):
        low = call[_WIDE] * block // call[_BLOCKS]
        channels = call[_WIDE] * (block + 1) // call[_BLOCKS] - low
        columns, here = channels * taps, weight_start + low * taps
        most = call[_NARROW] if call[_IN_PLACE] else _TERMS
        for term in range(0, call[_NARROW], most):
            terms = min(most, call[_NARROW] - term)
            b, b_at, b_k = weight, here, call[_FIRST]
            if not call[_IN_PLACE]:
                b, b_at, b_k = scratch, panel, row
                for i in range(terms):
                    copy_run(scratch, panel + i * row, weight, here + (term + i) * call[_FIRST], columns)
            init, init_at, init_row = (scratch, sums, row) if term > 0 else (zeros, 0, 0)
            _write_product(
                scratch, sums, row, init, init_at, init_row, positions, columns,
                narrow, narrow_start + term * call[_NARROW_C], call[_NARROW_STEP], call[_NARROW_C], b, b_at, b_k, terms,
                call, kernels, max_rows,
            )  # fmt: skip
        for p in range(positions):
            for t in range(taps):
                source, place = sums + p * row + t, places[p, t]
                if place != _NOWHERE:
                    for c in range(channels):
                        grad[place + (low + c) * wide_c] += scratch[source + c * taps]


@helper
def _write_product(
    c, c_at, c_row, init, init_at, init_row, rows, columns, a, a_at, a_row, a_k, b, b_at, b_k, terms,
    call, kernels, max_rows,
):  # fmt: skip
    """Write init + a b, tile by tile."""
    here = kernels[0]  # no tile is of no vectors: these zeros are a table of one tap, at the start
    width = call[_WIDTH]
    vectors = -(-columns // width)
    column_tiles = -(-vectors // call[_WIDEST])
    for j in range(column_tiles):
        vector, vector_end = vectors * j // column_tiles, vectors * (j + 1) // column_tiles
        column = vector * width
        wide = min(columns, vector_end * width) - column
        # The first tiles have one row more than the others; each kind is a strip.
        row_tiles = -(-rows // max_rows[vector_end - vector])
        size, larger = divmod(rows, row_tiles)
        row = 0
        for tiles, tile_rows in ((larger, size + 1), (row_tiles - larger, size)):
            if tiles > 0:
                run_tile(
                    kernels[vector_end - vector, tile_rows], a, a_at + row * a_row, a_row, a_k, here,
                    b, b_at + column, b_k, here, 0, 1, terms, init, init_at + row * init_row + column, init_row,
                    c, c_at + row * c_row + column, c_row, wide, tiles,
                )  # fmt: skip
            row += tiles * tile_rows
