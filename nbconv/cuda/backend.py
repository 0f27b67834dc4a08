"""The CUDA side's front: takes arrays apart, allocates, packs, launches. Nothing here waits for the device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import Geometry
from . import table as T
from .arrays import DeviceArray, empty, flat, memory_of, scratch
from .driver import wait
from .packing import THREADS, copy_strided, copy_table, pack_operands, pack_table
from .plan import MOST_Z, Key, Launch, Plan, Rim, make_plan, over_items, upload_table

__all__ = ["Operands", "compute_dtype", "contiguous", "product", "with_rim"]


def compute_dtype(dtype: str) -> str:
    """Give the type that sums are held in."""
    return dtype if dtype == "float64" else "float32"


@lru_cache(maxsize=1024)
def _copy_launch(size: int) -> Launch:
    return over_items(copy_strided, size, THREADS)


def contiguous(array: DeviceArray, stream: Any) -> DeviceArray:
    """Give the array itself where it is C-contiguous, else a copy on its device."""
    if array.contiguous:
        return array
    copy = empty(array.shape, array.dtype, array)
    copy_into(array, copy, stream)
    return copy


def copy_into(source: DeviceArray, target: DeviceArray, stream: Any) -> None:
    """Copy between arrays of one shape and type and any strides."""
    if not source.size:
        return
    (data, start), (to, to_start) = memory_of(source), memory_of(target)
    shape, steps, to_steps = source.shape, source.steps, target.steps
    places = upload_table(copy_table(shape, start, steps, to_start, to_steps).tobytes(), source.device)
    _copy_launch(source.size)(stream, data, to, places)


def with_rim(x: DeviceArray, rim: Rim | None, stream: Any) -> DeviceArray:
    """Give a contiguous array with its padding, in scratch memory; itself where there is no rim."""
    if rim is None:
        return x
    target = scratch(3, rim.size, x.dtype, x, stream)
    rim.launch(stream, flat(x), flat(target), rim.table, rim.sizes)
    return target


class Operands:
    """Weights and bias on a device, packed for each order of phases that inputs may ask for (as a rule one).

    The bias is kept in the compute type, followed by the activation's parameter. Those of a layer are `kept`; those of
    a call live in scratch memory, until the next call on the same stream.
    """

    def __init__(
        self,
        weight: DeviceArray,
        bias: DeviceArray | None = None,
        parameter: float | None = None,
        *,
        kept: bool = False,
    ) -> None:
        self.weight, self.bias = weight, bias
        self._parameter = np.dtype(compute_dtype(weight.dtype)).type(parameter or 0)
        self._kept: dict[Any, tuple[DeviceArray, DeviceArray]] | None = {} if kept else None

    def packed(self, geometry: Geometry, stream: Any) -> tuple[DeviceArray, DeviceArray]:
        """Give (packed weights, bias numbers) for a geometry."""
        if self._kept is None:
            return self._pack(geometry, stream)
        order = _packed_order(geometry)
        if order not in self._kept:
            self._kept[order] = self._pack(geometry, stream)
            wait(stream)  # once: from now on they may be read on any stream
        return self._kept[order]

    def _pack(self, geometry: Geometry, stream: Any) -> tuple[DeviceArray, DeviceArray]:
        weight, bias = self.weight, self.bias
        _, size = T.packed_phases(geometry)
        sizes = ((size, weight.dtype), (geometry.c_out + 1, compute_dtype(weight.dtype)))
        if self._kept is None:
            packed, numbers = (scratch(i, *one, weight, stream) for i, one in enumerate(sizes))
        else:
            packed, numbers = (empty((count,), dtype, weight) for count, dtype in sizes)
        data, start = memory_of(weight)
        # Where there is no bias, its place is taken by an array that is not read.
        bias_data, bias_start = memory_of(bias) if bias else (data, 0)
        place = (bias_start, bias.steps[0]) if bias else None
        launch, table, places = _pack_plan(geometry, start, weight.steps, place, weight.device)
        launch(stream, data, bias_data, flat(packed), flat(numbers), table, places, self._parameter)
        return packed, numbers


@lru_cache(maxsize=1024)
def _pack_plan(
    geometry: Geometry, start: int, steps: tuple[int, ...], bias: tuple[int, int] | None, device: int
) -> tuple[Launch, Any, Any]:
    phases, size = T.packed_phases(geometry)
    ends = [*(phase.start for phase in phases[1:]), size]
    most = max([geometry.c_out + 1, *(end - phase.start for phase, end in zip(phases, ends, strict=True))])
    launch = over_items(pack_operands, -(-most // T.COLUMN_BLOCK), THREADS, z=min(len(phases) + 1, MOST_Z))
    table, places = T.build_table(geometry), pack_table(start, steps, bias)
    return launch, upload_table(table.tobytes(), device), upload_table(places.tobytes(), device)


@lru_cache(maxsize=1024)
def _packed_order(geometry: Geometry) -> tuple[Any, ...]:
    """Name the order of a geometry's packed weights: geometries of one name share them."""
    phases, size = T.packed_phases(geometry)
    parts = ((part.tap_start, part.tap_step, part.axis.taps) for phase in phases for part in (phase.h, phase.w))
    return size, geometry.spec.transposed, *parts


def product(
    geometry: Geometry, x: DeviceArray, operands: Operands, residual: DeviceArray | None, y: DeviceArray,
    activation: str | None, precision: str, stream: Any,
) -> None:  # fmt: skip
    """Compute one product into `y`, any strides; everything has been checked."""
    if not y.size:
        return
    target = y if y.contiguous else empty(y.shape, y.dtype, y)
    x = contiguous(x, stream)
    residual = None if residual is None else contiguous(residual, stream)
    aligned = all(array.aligned for array in (x, target, residual) if array is not None)
    key = Key(geometry, y.dtype, activation, residual is not None, precision, y.device, aligned)
    plan: Plan = make_plan(key)
    weight, bias = operands.packed(geometry, stream)
    x = with_rim(x, plan.rim, stream)
    result = flat(target)
    addend = result if residual is None else flat(residual)
    if plan.split is None:
        plan.launch(stream, flat(x), flat(weight), flat(bias), addend, result, plan.table)
    else:
        slices, table, zeros, sum_up = plan.split
        partial = flat(scratch(2, slices * y.size, "float32", y, stream))
        plan.launch(stream, flat(x), flat(weight), zeros, partial, partial, table)
        sum_up(stream, partial, flat(bias), addend, result, plan.table, np.int32(slices))
    if target is not y:
        copy_into(target, y, stream)
