"""Gradients on a device: what is launched for each of them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import Axis, Geometry
from . import depthwise_grad, grad_gemm, grad_tensor
from . import grad_general as general
from . import table as T
from .arrays import DeviceArray, empty, flat, memory_of, scratch
from .backend import Operands, compute_dtype, contiguous, product, with_rim
from .packing import THREADS as COPY_THREADS
from .packing import pack_table, widen_numbers
from .plan import (
    ITEMSIZES,
    Launch,
    can_count,
    over_items,
    plan_rim,
    tensor_kind,
    tiles_run,
    upload_table,
    upload_zeros,
)
from .rim import padded

__all__ = ["grad_bias", "grad_weight", "grad_x"]

_THREADS_WANTED = 2**18  # in flight: what fills the largest devices twice
_LEAST_ROWS = 64  # of a slice: fewer would cost more to add than to sum
_MOST_PARTIAL = 2**25  # numbers of all slices of a weight's gradient
_MOST_SLICES = 4096


def grad_x(
    geometry: Geometry, grad_output: DeviceArray, weight: DeviceArray, precision: str, stream: Any
) -> DeviceArray:
    """Compute the gradient in x: the adjoint's product, then what padding that repeats data adds to the rim."""
    adjoint = geometry.adjoint()
    grad = empty(adjoint.output_shape, weight.dtype, grad_output)
    grad_output = contiguous(grad_output, stream)
    product(adjoint, grad_output, Operands(weight), None, grad, None, precision, stream)
    if geometry.spec.padding_mode != "zeros" and grad.size and grad_output.size:
        _fold_rim(geometry, grad_output, weight, grad, stream)
    return grad


def _fold_rim(
    geometry: Geometry, grad_output: DeviceArray, weight: DeviceArray, grad: DeviceArray, stream: Any
) -> None:
    data, start = memory_of(weight)
    compute = compute_dtype(grad.dtype)
    launch, *tables = _rim_plan(geometry, start, weight.steps, grad.dtype == compute, grad.device)
    zeros = upload_zeros(1, compute, grad.device)
    launch(stream, flat(grad_output), data, flat(grad), zeros, *tables)


@lru_cache(maxsize=1024)
def _rim_plan(geometry: Geometry, start: int, steps: tuple[int, ...], adds: bool, device: int) -> tuple[Any, ...]:
    """Give the launch of `fold_rim` and its tables."""
    rims = [_rim(axis, geometry.spec.padding_mode) for axis in geometry.axes]
    inside = math.prod(high - low for low, high in rims)
    items = geometry.n * (math.prod(axis.size for axis in geometry.axes) - inside) * geometry.c_in
    tables = T.build_table(geometry), pack_table(start, steps, None), general.rim_table(rims, adds)
    launch = over_items(general.fold_rim, items, general.THREADS)
    return launch, *(upload_table(table.tobytes(), device) for table in tables)


def _rim(axis: Axis, mode: str) -> tuple[int, int]:
    """Give (low, high): all positions that padding shows lie in `[0, low)` or `[high, size)`."""
    lo, hi, size = axis.lo, axis.hi, axis.size
    low, high = {
        "reflect": (lo + 1 if lo else 0, hi + 1 if hi else 0),
        "replicate": (min(lo, 1), min(hi, 1)),
        "circular": (hi, lo),
    }[mode]
    low = min(low, size)
    return low, max(low, size - high)


def grad_weight(
    geometry: Geometry, grad_output: DeviceArray, x: DeviceArray, weight: DeviceArray, precision: str, stream: Any
) -> DeviceArray:
    """Compute the gradient of the weight."""
    transposed = geometry.spec.transposed
    windows, points = (grad_output, x) if transposed else (x, grad_output)
    # The convolution from windows to points: it ties positions together as the operation does.
    pairs = geometry.adjoint() if transposed else geometry
    grad = empty(weight.shape, weight.dtype, grad_output)
    if not grad.size:
        return grad
    windows, points = contiguous(windows, stream), contiguous(points, stream)
    dtype = weight.dtype
    whole = padded(pairs)
    if dtype in ITEMSIZES and tiles_run(weight.device) and grad_gemm.covers(whole) and can_count(whole):
        windows = with_rim(windows, plan_rim(pairs, whole, weight.device), stream)
        pairs = whole
    kind = _tensor_kind(pairs, dtype, windows.aligned and points.aligned, precision, weight.device)
    if kind is None and dtype in ("float16", "bfloat16") and tiles_run(weight.device) and grad_gemm.covers(pairs):
        # What is left for the tiles are those of float32: copies cost less than what they gain.
        windows, points = (_widened(array, 1 + i, stream) for i, array in enumerate((windows, points)))
        dtype = "float32"
    aligned = windows.aligned and points.aligned
    slices, rows, launch, finish = _weight_launches(pairs, dtype, kind, aligned, weight.device)
    table, places = _weight_tables(pairs, grad.steps, weight.device)
    sums = scratch(0, max(1, slices) * grad.size, compute_dtype(weight.dtype), grad_output, stream)
    launch(stream, flat(windows), flat(points), flat(sums), table, np.int32(rows))
    finish(stream, flat(sums), np.int32(slices), flat(grad), table, places)
    return grad


def _widened(array: DeviceArray, slot: int, stream: Any) -> DeviceArray:
    """Copy a contiguous array to float32 scratch memory."""
    target = scratch(slot, array.size, "float32", array, stream)
    _widen_launch(array.size)(stream, flat(array), flat(target))
    return target


@lru_cache(maxsize=256)
def _widen_launch(size: int) -> Launch:
    return over_items(widen_numbers, size, COPY_THREADS)


def _tensor_kind(pairs: Geometry, dtype: str, aligned: bool, precision: str, device: int) -> str | None:
    """Name the arithmetic of the tensor cores that makes the weight's gradient; None where they do not."""
    itemsize = ITEMSIZES.get(dtype)
    if itemsize is None or not aligned or not tiles_run(device) or not grad_tensor.covers(pairs, itemsize):
        return None
    return tensor_kind(dtype, precision)


@lru_cache(maxsize=1024)
def _weight_launches(
    pairs: Geometry, dtype: str, kind: str | None, aligned: bool, device: int
) -> tuple[int, int, Launch, Launch]:
    """Give (slices, rows of a slice, launch of the slices, launch of their sum); `kind` as `_tensor_kind` names it.

    The slices depend on shapes only, so that every device gives the same bits.
    """
    all_rows = pairs.n * math.prod(axis.out for axis in pairs.axes)
    numbers = math.prod(axis.taps for axis in pairs.axes) * (pairs.c_in // pairs.groups) * pairs.c_out
    finish = over_items(general.sum_weight_slices, numbers, general.THREADS)
    if kind or (dtype == "float32" and aligned and tiles_run(device) and grad_gemm.covers(pairs)):
        tile, rows = grad_gemm.choose(pairs)
        masked = grad_gemm.needs_mask(pairs)
        kernel = grad_tensor.KERNELS[kind, tile] if kind else grad_gemm.KERNELS[tile, masked]
        return -(-all_rows // rows), rows, Launch(kernel, *grad_gemm.launch(pairs, tile, rows)), finish
    kernel, items = general.weight_slices_narrow, numbers
    if dtype != "float64" and aligned and depthwise_grad.covers(pairs):
        kernel, items = depthwise_grad.weight_slices, depthwise_grad.items(pairs)
    elif numbers > 4 * pairs.groups * math.prod(axis.taps for axis in pairs.axes):
        kernel, items = general.weight_slices_wide, general.items(pairs)
    most = min(-(-all_rows // _LEAST_ROWS), _MOST_SLICES, _MOST_PARTIAL // numbers)
    slices = max(1, min(most, _THREADS_WANTED // items))
    rows = max(1, -(-all_rows // slices))
    slices = -(-all_rows // rows)  # none where there are no rows
    return slices, rows, over_items(kernel, items, general.THREADS, y=slices), finish


@lru_cache(maxsize=1024)
def _weight_tables(pairs: Geometry, steps: tuple[int, ...], device: int) -> tuple[Any, Any]:
    T.check_sizes(pairs)
    tables = T.build_table(pairs), pack_table(0, steps, None)
    return upload_table(tables[0].tobytes(), device), upload_table(tables[1].tobytes(), device)


def grad_bias(geometry: Geometry, grad_output: DeviceArray, stream: Any) -> DeviceArray:
    """Compute the gradient of the bias."""
    channels = geometry.c_out
    grad = empty((channels,), grad_output.dtype, grad_output)
    if not channels:
        return grad
    rows = grad_output.size // channels
    slices = max(1, min(-(-rows // _LEAST_ROWS), _MOST_SLICES, _THREADS_WANTED // channels))
    rows_of_slice = max(1, -(-rows // slices))
    slices = -(-rows // rows_of_slice)  # none where there are no rows
    partial = scratch(0, max(1, slices) * channels, compute_dtype(grad.dtype), grad_output, stream)
    source = contiguous(grad_output, stream)
    sizes = (np.int32(channels), np.int32(rows), np.int32(rows_of_slice))
    _bias_launch(general.bias_slices, channels, slices)(stream, flat(source), flat(partial), *sizes)
    _bias_launch(general.sum_bias_slices, channels, 1)(stream, flat(partial), np.int32(slices), flat(grad), sizes[0])
    return grad


@lru_cache(maxsize=256)
def _bias_launch(kernel: Any, channels: int, slices: int) -> Launch:
    return over_items(kernel, channels, general.THREADS, y=slices)
