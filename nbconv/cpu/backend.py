"""The CPU's front: lays out weights, plans, launches."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..arrays import compute_dtype, flat_data, flat_steps, flat_view
from ..geometry import ConvSpec, Geometry
from ..runtime.calls import NOTHING, addition, elementwise
from ..runtime.microkernel import DENSE
from ..runtime.threads import get_num_threads, launch
from ..runtime.workspace import give_back, take
from .activations import activation_function
from .layout import Layout, Packed, in_place_layout, packed_layout
from .loops import convolve
from .memory_layout import four_steps, half_code
from .plan import Memory, Plan, make_plan
from .weights import pack

__all__ = ["Weights", "activation_address", "prepare_weights", "run", "run_plan"]


_PLANS_KEPT = 256  # for each shape of weights: one for each shape and memory layout of x


class Weights(NamedTuple):
    """Weights as the loops read them."""

    layout: Layout
    data: np.ndarray
    start: int
    finite: bool
    """False where a weight may be infinite or NaN: a transposed convolution must then not multiply it by a zero."""


def prepare_weights(spec: ConvSpec, weight: np.ndarray, *, may_view: bool) -> Weights:
    """Pack the weights, or, where `may_view`, view them in place if they lie so that tiles can read them."""
    data, start = flat_data(weight)
    finite = not _may_leave_out(spec) or _is_finite(weight)
    layout, steps = _layout(spec, weight.shape, weight.strides, weight.dtype, may_view, finite)
    if isinstance(layout, Packed):
        compute = compute_dtype(weight.dtype)
        data, start = pack(layout, spec, data, weight.shape, steps, start, half_code(weight.dtype), compute), 0
    return Weights(layout, data, start, finite)


def _may_leave_out(spec: ConvSpec) -> bool:
    """Say whether taps that meet no data are left out: must be, or may be where all weights are finite."""
    return spec.transposed or ((spec.ndim == 2 or spec.groups > 1) and spec.padding_mode == "zeros")


def _is_finite(weight: np.ndarray) -> bool:
    """Say whether no weight is infinite or NaN: either shows in the sum. A sum that overflows only costs time."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(weight.sum(dtype=compute_dtype(weight.dtype))))


@lru_cache(maxsize=1024)
def _layout(
    spec: ConvSpec, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype, may_view: bool, finite: bool
) -> tuple[Layout, tuple[int, ...]]:
    """Choose how weights of these strides (in bytes) lie for the tiles; give their strides in numbers too."""
    compute = compute_dtype(dtype)
    steps = flat_steps(shape, strides, dtype.itemsize)
    in_place = in_place_layout(spec, shape, steps, compute) if may_view and dtype == compute else None
    return in_place or packed_layout(spec, shape, compute, finite), steps


def prepare_bias(bias: np.ndarray | None, c_out: int, dtype: np.dtype) -> np.ndarray:
    """Give the bias in the compute type, contiguous; zeros for none."""
    compute = compute_dtype(dtype)
    if bias is None:
        return np.zeros(c_out, compute)
    if bias.dtype == compute and bias.flags.c_contiguous and bias.flags.writeable:
        return bias
    return np.array(bias, compute)


def activation_address(activation: tuple[str, float | None] | None, dtype: np.dtype) -> int:
    """Compile a named activation for arrays of `dtype`, on first use."""
    if activation is None:
        return NOTHING
    compute = compute_dtype(dtype)
    return elementwise(activation_function(*activation, compute), compute, "{}({!r})".format(*activation))


def run(
    geometry: Geometry, x: np.ndarray, weights: Weights, bias: np.ndarray, y: np.ndarray, activation: int,
    algorithm: str, residual: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Compute one convolution into `y`; everything has been checked."""
    layout = weights.layout
    if not weights.finite and geometry.spec.transposed:
        x = _readable_in_place(x, layout)
    key = (geometry, x.strides, y.strides, x.dtype, algorithm, weights.finite, get_num_threads())
    plan = layout.plans.get(key)
    if plan is None:
        if len(layout.plans) >= _PLANS_KEPT:
            layout.plans.clear()
        plan = layout.plans[key] = _plan(geometry, x, y, weights, algorithm)
    run_plan(plan, x, weights, bias, y, activation, residual)


def run_plan(
    plan: Plan, x: np.ndarray, weights: Weights, bias: np.ndarray, y: np.ndarray, activation: int,
    residual: np.ndarray | None,
) -> None:  # fmt: skip
    """Compute into `y` as planned for arrays of these shapes and strides."""
    if plan.jobs == 0:
        return
    if plan.merged > 1:
        bias = np.tile(bias, plan.merged)
    x_data, x_start = flat_data(x)
    y_data, y_start = flat_data(y)
    added, added_start, addition_address = y_data, y_start, NOTHING
    if residual is not None:
        # It is read at the places of y.
        same = residual if residual.strides == y.strides else _laid_as(y, residual)
        (added, added_start), addition_address = flat_data(same), addition(y.dtype)
    workers = min(get_num_threads(), plan.jobs)
    scratch = take(bias.dtype, workers * plan.work_size, workers * plan.notes_size)
    launch(
        convolve, plan.jobs, plan.flops,
        x_data, x_start, weights.data, weights.start, bias, added, added_start, y_data, y_start, activation,
        addition_address, plan.table, scratch.numbers, scratch.integers,
    )  # fmt: skip
    give_back(scratch)


def _laid_as(y: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Copy an array to memory laid out as that of `y`."""
    copy = np.empty_like(y)
    if copy.strides != y.strides:  # not to be had by a copy of its axes in some order: gaps, turned axes
        spans = [abs(step) * (size - 1) for step, size in zip(y.strides, y.shape, strict=True)]
        memory = np.empty(sum(spans) // y.itemsize + 1, y.dtype)
        start = sum(span for span, step in zip(spans, y.strides, strict=True) if step < 0) // y.itemsize
        copy = as_strided(memory[start:], y.shape, y.strides)
    copy[...] = array
    return copy


def _readable_in_place(x: np.ndarray, layout: Layout) -> np.ndarray:
    """Give x, or a copy that tiles can read without a panel: there only can they leave taps out."""
    if x.itemsize == 2 or (layout.kind != DENSE and x.strides[-1] != x.itemsize):
        return np.ascontiguousarray(x, compute_dtype(x.dtype))
    return x


def _plan(geometry: Geometry, x: np.ndarray, y: np.ndarray, weights: Weights, algorithm: str) -> Plan:
    x_steps, y_steps = four_steps(flat_view(x), geometry), four_steps(flat_view(y), geometry)
    memory = Memory(x_steps, y_steps, half_code(y.dtype), compute_dtype(y.dtype))
    return make_plan(geometry, memory, weights.layout, algorithm, get_num_threads(), weights.finite)
