"""The CPU's front: lays out weights, plans, launches."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from math import isfinite, prod
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..arrays import compute_dtype, flat_data, flat_steps, flat_view
from ..geometry import ConvSpec, Geometry
from ..runtime.calls import NOTHING, addition, elementwise
from ..runtime.entry import can_enter
from ..runtime.microkernel import DENSE, DOT
from ..runtime.threads import get_num_threads, launch
from ..runtime.workspace import give_back, hold, take
from .activations import activation_function
from .layout import Layout, in_place_layout, packed_layout
from .loops import convolve, direct_entry
from .memory_layout import four_steps, half_code
from .outputs import output_maker
from .plan import make_plan
from .plan_rows import Memory, Plan
from .tiles import is_better_sliding, sets_apart
from .weights import Packing, pack, packer, plan_packing

__all__ = [
    "ReadyFunction",
    "ReadyLayer",
    "Weights",
    "activation_address",
    "find_plan",
    "prepare_weights",
    "ready_function",
    "ready_layer",
    "run",
    "run_plan",
]


ReadyLayer = Callable[[np.ndarray], np.ndarray]
ReadyFunction = Callable[[np.ndarray, np.ndarray, "np.ndarray | None"], "np.ndarray | None"]

_BRIEF_WORK = 500_000  # operations: as many activations take a few milliseconds, when no other thread of Python runs
_BRIEF_BYTES = 1 << 20  # of scratch
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


def prepare_weights(spec: ConvSpec, weight: np.ndarray, *, kept: bool) -> Weights:
    """Pack the weights, or, for one call, view them in place if they lie so that tiles can read them.

    Those that are `kept` this thread packs alone: what makes layers may yet fork.
    """
    known = kept or _must_look(spec, weight.shape, weight.dtype)
    finite = not known or _is_finite(weight)
    layout, packing = _layout(spec, weight.shape, weight.strides, weight.dtype, not kept, finite)
    return Weights(layout, *_lay_out(weight, packing, 1 if kept else get_num_threads()), finite, known)


def _lay_out(weight: np.ndarray, packing: Packing | None, workers: int) -> tuple[np.ndarray, int]:
    return flat_data(weight) if packing is None else (pack(packing, weight, workers), 0)


@lru_cache(maxsize=1024)
def _must_look(spec: ConvSpec, weight_shape: tuple[int, ...], dtype: np.dtype) -> bool:
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


def _is_finite(weight: np.ndarray) -> bool:
    """Say whether no weight is infinite or NaN: either shows in a sum. One that overflows by itself only costs time."""
    with np.errstate(over="ignore", invalid="ignore"):
        if weight.itemsize > 2 and weight.flags.forc:
            flat, _ = flat_data(weight)
            return isfinite(flat.dot(flat))
        return isfinite(weight.sum(dtype=compute_dtype(weight.dtype)))


@lru_cache(maxsize=1024)
def _layout(
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
        operands = weights.data, weights.start, _repeated(bias, plan.merged)
        _launch(plan, x, operands, y, flat_data(y), activation, residual)


def _repeated(bias: np.ndarray, times: int) -> np.ndarray:
    return bias if times == 1 else np.concatenate([bias] * times)


def _launch(
    plan: Plan, x: np.ndarray, operands: tuple[np.ndarray, int, np.ndarray], y: np.ndarray,
    flat_y: tuple[np.ndarray, int], activation: int, residual: np.ndarray | None,
) -> None:  # fmt: skip
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


def ready_layer(plan: Plan, x: np.ndarray, weights: Weights, bias: np.ndarray, activation: int) -> ReadyLayer:
    """Give a layer's call on arrays of the shape and memory layout of `x`, all else known."""
    bias = _repeated(bias, plan.merged)
    new_output = _output_maker(plan, x)
    direct = _direct_call(plan, x, bias.dtype, activation)
    if direct is not None:
        run = partial(direct, weights.data[weights.start :], bias)
        return lambda x: run(x, new_output(x))
    operands = weights.data, weights.start, bias

    def call(x: np.ndarray) -> np.ndarray:
        y = new_output(x)
        if plan.jobs:
            _launch(plan, x, operands, y, _flat_new(y), activation, None)
        return y

    return call


def ready_function(
    geometry: Geometry, plan: Plan, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, activation: int
) -> ReadyFunction:
    """Give a function's call on arrays of the shapes and memory layouts of these, all else known.

    It gives None where not all weights are finite, or the threads are others than now.
    """
    dtype, new_output = x.dtype, _output_maker(plan, x)
    spec, c_out, compute = geometry.spec, geometry.c_out, compute_dtype(dtype)
    looks, threads = _must_look(spec, weight.shape, dtype), get_num_threads()
    _, packing = _layout(spec, weight.shape, weight.strides, dtype, True, True)

    def lay_out_bias(bias: np.ndarray | None) -> np.ndarray:
        return _repeated(prepare_bias(bias, c_out, dtype), plan.merged)

    direct = _direct_call(plan, x, compute, activation)
    if direct is not None and (packing is not None or _begins_lowest(weight)):
        lay_out, brief = packer(packing, threads), _is_brief(plan, compute)
        as_it_is = bias is not None and (bias.dtype, bias.strides, plan.merged) == (compute, (compute.itemsize,), 1)

        def call_directly(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray | None:
            if not (brief or threads == get_num_threads()) or (looks and not _is_finite(weight)):
                return None
            return direct(lay_out(weight), bias if as_it_is else lay_out_bias(bias), x, new_output(x))

        return call_directly

    def call(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray | None:
        if threads != get_num_threads() or (looks and not _is_finite(weight)):
            return None
        y = new_output(x)
        if plan.jobs:
            operands = *_lay_out(weight, packing, threads), lay_out_bias(bias)
            _launch(plan, x, operands, y, _flat_new(y), activation, None)
        return y

    return call


def _direct_call(plan: Plan, x: np.ndarray, compute: np.dtype, activation: int) -> Callable[..., np.ndarray] | None:
    """Give `(w, bias, x, y) -> y` for a plan that one call runs, by an entry; None where there is none for it."""
    if not (plan.is_one_call and plan.jobs > 0 and _begins_lowest(x) and can_enter()):
        return None
    brief = _is_brief(plan, compute)
    enter, address = direct_entry(compute, x.dtype, not brief)
    call_row = np.array([address, plan.jobs, activation], np.int64)
    if brief:
        return partial(enter, call_row, plan.table, *hold(compute, plan.work_size, plan.notes_size))

    def call(w: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        scratch = take(compute, plan.work_size, plan.notes_size)
        enter(call_row, plan.table, scratch.numbers, scratch.integers, w, bias, x, y)
        give_back(scratch)
        return y

    return call


def _is_brief(plan: Plan, compute: np.dtype) -> bool:
    """Say whether a call is so small that it may hold the interpreter's lock, whatever the threads."""
    work = max(plan.flops, prod(plan.output_shape))  # outputs without taps are work too
    scratch_bytes = plan.work_size * compute.itemsize + plan.notes_size * 8
    return plan.is_one_call and work <= _BRIEF_WORK and scratch_bytes <= _BRIEF_BYTES


def _output_maker(plan: Plan, x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return output_maker(plan.output_shape, x.dtype, sets_apart(x.strides[-2]) if plan.beside else None)


def _begins_lowest(array: np.ndarray) -> bool:
    """Say whether each number of an array lies a whole number of them behind its first."""
    return all(step >= 0 and step % array.itemsize == 0 for step in array.strides)


def _flat_new(y: np.ndarray) -> tuple[np.ndarray, int]:
    """Give `flat_data` of an array that was just made, sooner."""
    return flat_data(y) if y.itemsize == 2 else (y.ravel(), 0)


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
