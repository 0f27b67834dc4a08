"""Calls that were made before, on arrays that lay as these: all is known of them but the numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np

from ..arrays import begins_lowest, compute_dtype, flat_data
from ..geometry import Geometry
from ..runtime.calls import NOTHING, addition
from ..runtime.entry import can_enter
from ..runtime.threads import get_num_threads
from ..runtime.workspace import give_back, hold, take
from .backend import Weights, find_layout_once, is_finite, launch_plan, lay_out, must_look, prepare_bias, repeated
from .loops import direct_entry
from .outputs import output_maker, output_taker
from .plan_rows import Plan
from .tiles import sets_apart
from .weights import packer

__all__ = ["ReadyCall", "ready_function", "ready_layer"]

ReadyCall = Callable[..., "np.ndarray | None"]

_BRIEF_WORK = 500_000  # operations: as many activations take a few milliseconds, when no other thread of Python runs
_BRIEF_BYTES = 1 << 20  # of scratch


def ready_layer(
    plan: Plan, x: np.ndarray, weights: Weights, bias: np.ndarray, activation: int, residual: np.ndarray | None,
    out: np.ndarray | None, given: tuple[np.ndarray | None, ...],
) -> ReadyCall | None:  # fmt: skip
    """Give a layer's call, as `ready_function` does: of x, or of x, residual and out where one of these is not None.

    `given` are arrays that `out` must not share memory with, whatever the call.
    """
    bias = repeated(bias, plan.merged)
    direct = _direct_call(plan, x, bias.dtype, activation, residual)
    if direct is not None:
        run = partial(direct, weights.data[weights.start :], bias)
    else:
        run = partial(_run, plan, activation, (weights.data, weights.start, bias))
    if residual is out is None:
        new_output = _output_maker(plan, x)

        def call(x: np.ndarray) -> np.ndarray:
            y = new_output(x)
            return run(x, y, y)

        return call
    result = _result_maker(plan, out, x, residual, *given)
    if result is None:
        return None

    def call_into(x: np.ndarray, residual: np.ndarray | None, out: np.ndarray | None) -> np.ndarray | None:
        y = result(out, x, residual, *given)
        return None if y is None else run(x, y if residual is None else residual, y)

    return call_into


def ready_function(
    geometry: Geometry, plan: Plan, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, activation: int,
    residual: np.ndarray | None = None, out: np.ndarray | None = None,
) -> ReadyCall | None:  # fmt: skip
    """Give a function's call `(x, weight, bias, residual=None, out=None)` on arrays that lie in memory as these.

    It gives None where not all weights are finite, the threads are others than now, or `out` must be looked at. There
    is none where that must always be.
    """
    dtype, result = x.dtype, _result_maker(plan, out, x, residual, weight, bias)
    if result is None:
        return None
    spec, c_out, compute = geometry.spec, geometry.c_out, compute_dtype(dtype)
    looks, threads = must_look(spec, weight.shape, dtype), get_num_threads()
    _, packing = find_layout_once(geometry, weight, True)

    def lay_out_bias(bias: np.ndarray | None) -> np.ndarray:
        return repeated(prepare_bias(bias, c_out, dtype), plan.merged)

    direct = _direct_call(plan, x, compute, activation, residual)
    if direct is not None and (packing is not None or begins_lowest(weight)):
        pack_directly, brief = packer(packing, threads), _is_brief(plan, compute)
        as_it_is = bias is not None and (bias.dtype, bias.strides, plan.merged) == (compute, (compute.itemsize,), 1)

        def call_directly(
            x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, residual: np.ndarray | None = None,
            out: np.ndarray | None = None,
        ) -> np.ndarray | None:  # fmt: skip
            if not (brief or threads == get_num_threads()) or (looks and not is_finite(weight)):
                return None
            y = result(out, x, residual, weight, bias)
            if y is None:
                return None
            added, bias = y if residual is None else residual, bias if as_it_is else lay_out_bias(bias)
            return direct(pack_directly(weight), bias, x, added, y)

        return call_directly

    def call(
        x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, residual: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray | None:  # fmt: skip
        if threads != get_num_threads() or (looks and not is_finite(weight)):
            return None
        y = result(out, x, residual, weight, bias)
        if y is None:
            return None
        operands = *lay_out(weight, packing, threads), lay_out_bias(bias)
        return _run(plan, activation, operands, x, y if residual is None else residual, y)

    return call


def _run(
    plan: Plan, activation: int, operands: tuple[np.ndarray, int, np.ndarray], x: np.ndarray, added: np.ndarray,
    y: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Run a plan the usual way; where nothing is `added`, it is y."""
    if plan.jobs:
        # As `flat_data` gives it, sooner.
        flat_y = flat_data(y) if y.itemsize == 2 else (y.ravel(), 0)
        launch_plan(plan, x, operands, y, flat_y, activation, None if added is y else added)
    return y


def _direct_call(
    plan: Plan, x: np.ndarray, compute: np.dtype, activation: int, residual: np.ndarray | None
) -> Callable[..., np.ndarray] | None:
    """Give `(w, bias, x, added, y) -> y` for a plan that one call runs, by an entry; None where there is none for it.

    Without a residual, `added` is any array of the type of y.
    """
    if not (plan.is_one_call and plan.jobs > 0 and begins_lowest(x) and can_enter()):
        return None
    if residual is not None and not residual.flags.c_contiguous:
        return None
    brief = _is_brief(plan, compute)
    enter, address = direct_entry(compute, x.dtype, not brief)
    addition_address = NOTHING if residual is None else addition(x.dtype.name)
    call_row = np.array([address, plan.jobs, activation, addition_address], np.int64)
    if brief:
        return partial(enter, call_row, plan.table, *hold(compute, plan.work_size, plan.notes_size))

    def call(w: np.ndarray, bias: np.ndarray, x: np.ndarray, added: np.ndarray, y: np.ndarray) -> np.ndarray:
        scratch = take(compute, plan.work_size, plan.notes_size)
        enter(call_row, plan.table, scratch.numbers, scratch.integers, w, bias, x, added, y)
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


def _result_maker(
    plan: Plan, out: np.ndarray | None, x: np.ndarray, *others: np.ndarray | None
) -> Callable[..., np.ndarray | None] | None:
    """Give `(out, x, *others) -> y`: a new array, or `out` itself, or None where it must be looked at."""
    if out is not None:
        return output_taker(out, x, *others)
    new_output = _output_maker(plan, x)
    return lambda out, x, *_: new_output(x)
