"""The CPU's front: lays out weights, plans, launches."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..arrays import compute_dtype, flat_data, flat_steps, flat_view
from ..geometry import ConvSpec, Geometry
from ..runtime.calls import NOTHING, addition, elementwise
from ..runtime.microkernel import DENSE, DOT
from ..runtime.threads import get_num_threads, launch
from ..runtime.workspace import give_back, take
from .activations import activation_function
from .layout import Layout, in_place_layout, packed_layout
from .loops import convolve
from .memory_layout import four_steps, half_code
from .plan import make_plan
from .plan_rows import Memory, Plan
from .tiles import is_better_sliding, packing_pays
from .weights import Packing, pack, plan_packing

__all__ = [
    "Weights",
    "activation_address",
    "find_layout",
    "find_layout_once",
    "find_plan",
    "is_finite",
    "keep_weights",
    "launch_plan",
    "lay_out",
    "must_look",
    "prepare_bias",
    "prepare_weights",
    "repeated",
    "run",
    "run_plan",
]

_PLANS_KEPT = 256  # for each shape of weights: one for each shape and memory layout of x


class Weights(NamedTuple):
    """Weights as the loops read them."""

    layout: Layout
    data: np.ndarray
    start: int
    finite: bool
    """False where a weight may be infinite or NaN: a transposed convolution must then not multiply it by a zero."""
    known: bool
    """Whether somebody looked; else the zeros around x must be multiplied, as there may be infinite weights to meet."""


def keep_weights(spec: ConvSpec, weight: np.ndarray) -> Weights:
    """Pack weights for many calls, in this thread alone: what makes layers may yet fork."""
    finite = is_finite(weight)
    layout, packing = find_layout(spec, weight.shape, weight.strides, weight.dtype, False, finite)
    return Weights(layout, *lay_out(weight, packing, 1), finite, known=True)


def prepare_weights(geometry: Geometry, weight: np.ndarray) -> Weights:
    """Pack the weights for one call, or view them in place if they lie so that tiles can read them."""
    known = must_look(geometry.spec, weight.shape, weight.dtype)
    finite = not known or is_finite(weight)
    layout, packing = find_layout_once(geometry, weight, finite)
    return Weights(layout, *lay_out(weight, packing, get_num_threads()), finite, known)


def find_layout_once(geometry: Geometry, weight: np.ndarray, finite: bool) -> tuple[Layout, Packing | None]:
    """Give `find_layout` of weights for one call."""
    spec = geometry.spec
    positions = geometry.n * math.prod(axis.size if spec.transposed else axis.out for axis in geometry.axes)
    may_view = not packing_pays(weight.size, positions)
    return find_layout(spec, weight.shape, weight.strides, weight.dtype, may_view, finite)


def lay_out(weight: np.ndarray, packing: Packing | None, workers: int) -> tuple[np.ndarray, int]:
    """Pack the weights, or view them in place: give an array of one axis, and where in that they begin."""
    return flat_data(weight) if packing is None else (pack(packing, weight, workers), 0)


@lru_cache(maxsize=1024)
def must_look(spec: ConvSpec, weight_shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Say whether one call gains by knowing that all weights are finite: taps that meet no data may be left out then.

    Those of a transposed convolution must be, whatever the weights. In one dimension most lines are so long that it
    takes longer to look than to multiply the zeros around them.
    """
    if spec.transposed or spec.padding_mode != "zeros":
        return spec.transposed
    if spec.ndim == 2 or spec.groups > 1:
        return True
    compute = compute_dtype(dtype)
    layout = packed_layout(spec, weight_shape, compute)
    return layout.kind == DOT or is_better_sliding(weight_shape[1], layout.widest, compute)


def is_finite(weight: np.ndarray) -> bool:
    """Say whether no weight is infinite or NaN: either shows in a sum. One that overflows by itself only costs time."""
    with np.errstate(over="ignore", invalid="ignore"):
        if weight.itemsize > 2 and weight.flags.forc:
            flat, _ = flat_data(weight)
            return math.isfinite(flat.dot(flat))
        return math.isfinite(weight.sum(dtype=compute_dtype(weight.dtype)))


@lru_cache(maxsize=1024)
def find_layout(
    spec: ConvSpec, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype, may_view: bool, finite: bool
) -> tuple[Layout, Packing | None]:
    """Choose how weights of these strides (in bytes) lie for the tiles, and how they come there if not in place."""
    compute = compute_dtype(dtype)
    steps = flat_steps(shape, strides, dtype.itemsize)
    in_place = in_place_layout(spec, shape, steps, compute) if may_view and dtype == compute else None
    if in_place is not None:
        return in_place, None
    packed = packed_layout(spec, shape, compute, finite)
    return packed, plan_packing(packed, spec, shape, steps, dtype)


def prepare_bias(bias: np.ndarray | None, c_out: int, dtype: np.dtype) -> np.ndarray:
    """Give the bias in the compute type, contiguous; zeros for none."""
    compute = compute_dtype(dtype)
    if bias is None:
        return np.zeros(c_out, compute)
    if bias.dtype == compute and bias.flags.carray:
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
    again = activation != NOTHING or residual is not None
    run_plan(find_plan(geometry, x, weights, y, algorithm, again), x, weights, bias, y, activation, residual)


def find_plan(
    geometry: Geometry, x: np.ndarray, weights: Weights, y: np.ndarray, algorithm: str, again: bool
) -> Plan:  # fmt: skip
    """Give the plan for arrays of these shapes and strides, on as many threads as there are now.

    `again` says whether the call looks at its outputs again, for an activation or a residual.
    """
    plans = weights.layout.plans
    key = (
        geometry,
        x.strides,
        y.strides,
        x.dtype,
        y.dtype,
        algorithm,
        again,
        weights.finite,
        weights.known,
        get_num_threads(),
    )
    plan = plans.get(key)
    if plan is None:
        if len(plans) >= _PLANS_KEPT:
            plans.clear()
        plan = plans[key] = _plan(geometry, _readable(x, weights), y, weights, algorithm, again)
    return plan


def run_plan(
    plan: Plan, x: np.ndarray, weights: Weights, bias: np.ndarray, y: np.ndarray, activation: int,
    residual: np.ndarray | None,
) -> None:  # fmt: skip
    """Compute into `y` as planned for arrays of these shapes and strides."""
    if plan.jobs:
        x = x if weights.finite else _readable(x, weights)
        operands = weights.data, weights.start, repeated(bias, plan.merged)
        launch_plan(plan, x, operands, y, flat_data(y), activation, residual)


def repeated(bias: np.ndarray, times: int) -> np.ndarray:
    """Give as many copies of the bias side by side as a plan's widest phase needs."""
    return bias if times == 1 else np.concatenate([bias] * times)


def launch_plan(
    plan: Plan, x: np.ndarray, operands: tuple[np.ndarray, int, np.ndarray], y: np.ndarray,
    flat_y: tuple[np.ndarray, int], activation: int, residual: np.ndarray | None,
) -> None:  # fmt: skip
    """Run the jobs of a plan that has some."""
    x_data, x_start = flat_data(x)
    w_data, w_start, bias = operands
    y_data, y_start = added, added_start = flat_y
    addition_address = NOTHING
    if residual is not None:
        # It is read at the places of y.
        same = residual if residual.strides == y.strides else _laid_as(y, residual)
        (added, added_start), addition_address = flat_data(same), addition(y.dtype.name)
    scratch = take(bias.dtype, plan.work_size, plan.notes_size)
    arguments = (
        x_data, x_start, w_data, w_start, bias, added, added_start, y_data, y_start, activation, addition_address,
        plan.table, scratch.numbers, scratch.integers,
    )  # fmt: skip
    if plan.is_one_call:
        convolve.serial(0, plan.jobs, 0, *arguments)
    else:
        launch(convolve, plan.jobs, plan.flops, plan.workers, *arguments)
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


def _readable(x: np.ndarray, weights: Weights) -> np.ndarray:
    """Give x, or a copy that tiles can read without a panel where they must leave taps out: there only they can."""
    must = not weights.finite and x.size
    if must and (x.itemsize == 2 or (weights.layout.kind != DENSE and x.strides[-1] != x.itemsize)):
        return np.ascontiguousarray(x, compute_dtype(x.dtype))
    return x


def _plan(
    geometry: Geometry, x: np.ndarray, y: np.ndarray, weights: Weights, algorithm: str, again: bool
) -> Plan:  # fmt: skip
    x_steps, y_steps = four_steps(flat_view(x), geometry), four_steps(flat_view(y), geometry)
    memory = Memory(x_steps, y_steps, half_code(x.dtype), half_code(y.dtype), compute_dtype(y.dtype), again)
    return make_plan(geometry, memory, weights.layout, algorithm, get_num_threads(), weights.finite, weights.known)
