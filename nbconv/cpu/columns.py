"""im2col and col2im as arrays: every window as a row, and the sum of windows back into place."""

from __future__ import annotations

import numpy as np

from ..arrays import compute_dtype, flat_view
from ..geometry import Geometry
from ..runtime.jit import maker
from ..runtime.threads import get_num_threads, launch
from ..runtime.twins import twins
from . import tables as T
from .loops import store_numbers
from .memory_layout import four_steps, half_code
from .panels import copy_numbers, fill_panel
from .plan_rows import Memory, plan_windows

__all__ = ["fold", "unfold"]

_BLOCK = 64  # positions, or rows of x, that a thread takes at a time
_WORK = 4  # operations that take as long as moving a number


def unfold(geometry: Geometry, x: np.ndarray, columns: np.ndarray) -> None:
    """Write the windows of `x` (N, *spatial, C) as rows of `columns` (N, *out, taps * C), C-contiguous."""
    flat = flat_view(x)
    steps = four_steps(flat, geometry)
    call, phase = plan_windows(geometry, Memory(steps, (0, 0, 0, 0), T.NOT_HALF, T.NOT_HALF, flat.data.dtype))
    taps = geometry.c_out // geometry.c_in if geometry.c_in else 0
    positions = columns.size // geometry.c_out if geometry.c_out else 0
    blocks = -(-positions // _BLOCK)
    if columns.size:
        launch(
            _unfold, blocks, _WORK * columns.size, get_num_threads(),
            positions, flat_view(columns).data, flat.data, flat.start, taps, geometry.c_in, call, phase,
        )  # fmt: skip


def fold(geometry: Geometry, columns: np.ndarray, x: np.ndarray) -> None:
    """Write into `x` (N, *spatial, C), C-contiguous, the sum of all windows in `columns` that cover each position."""
    flat, to = flat_view(columns), flat_view(x)
    compute = compute_dtype(x.dtype)
    steps = four_steps(flat, geometry)
    call, phase = plan_windows(geometry, Memory(steps, (0, 0, 0, 0), half_code(x.dtype), T.NOT_HALF, compute))
    sizes = (1,) * (2 - len(geometry.axes)) + tuple(axis.size for axis in geometry.axes)
    kernel = (1,) * (2 - len(geometry.axes)) + tuple(axis.taps for axis in geometry.axes)
    if x.size:
        launch(
            _fold, geometry.n * sizes[0], _WORK * columns.size, get_num_threads(),
            to.data, flat.data, flat.start, np.empty(0, compute), sizes, kernel, geometry.c_in, call, phase,
        )  # fmt: skip


@twins
def _unfold(start, end, worker, positions, columns, x, x_start, taps, channels, call, phase):
    """Gather blocks of windows; every thread owns its rows of `columns`."""
    for block in range(start, end):
        first = block * _BLOCK
        rows = min(_BLOCK, positions - first)
        at = first * taps * channels
        fill_panel(columns, at, taps * channels, x, x_start, first, rows, 0, taps, 0, channels, call, phase)


@twins
def _fold(first, last, worker, x, columns, start, like, sizes, kernel, channels, call, phase):
    """Add up windows; every thread owns its rows of x, and adds tap by tap in one order."""
    for row in range(first, last):
        _fold_row(row, x, columns, start, like, sizes, kernel, channels, call, phase)


@maker
def _fold_row(row, x, columns, start, like, sizes, kernel, channels, call, phase):
    """Sum one image row.

    Math     x[i, c] = sum over taps t and positions p with p*stride + t*dilation - lo == i of columns[p, t, c]
    """
    sums, window = np.empty(channels, like.dtype), np.empty(channels, like.dtype)
    sample, h = divmod(row, sizes[0])
    for w in range(sizes[1]):
        sums[:] = 0
        for tap_h in range(kernel[0]):
            out_h, rest_h = divmod(h + phase[T.LO_H] - tap_h * phase[T.DILATION_H], phase[T.STRIDE_H])
            if rest_h != 0 or out_h < 0 or out_h >= phase[T.OUT_H]:
                continue
            for tap_w in range(kernel[1]):
                out_w, rest_w = divmod(w + phase[T.LO_W] - tap_w * phase[T.DILATION_W], phase[T.STRIDE_W])
                if rest_w != 0 or out_w < 0 or out_w >= phase[T.OUT_W]:
                    continue
                at = (
                    start + sample * call[T.X_STEP_N] + out_h * call[T.X_STEP_H] + out_w * call[T.X_STEP_W]
                    + (tap_h * kernel[1] + tap_w) * channels * call[T.X_STEP_C]
                )  # fmt: skip
                copy_numbers(window, 0, columns, at, call[T.X_STEP_C], channels, call[T.HALF])
                for c in range(channels):
                    sums[c] += window[c]
        store_numbers(x, (row * sizes[1] + w) * channels, 1, sums, 0, channels, call[T.HALF])
