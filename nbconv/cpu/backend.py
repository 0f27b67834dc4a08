"""The CPU's front: lays out weights, plans, launches."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..arrays import compute_dtype, flat_data, flat_steps, flat_view
from ..geometry import ConvSpec, Geometry
from ..runtime.calls import NOTHING, elementwise
from ..runtime.threads import get_num_threads, launch
from .activations import activation_function
from .layout import Layout, Packed, in_place_layout, packed_layout
from .loops import convolve
from .memory_layout import four_steps, half_code
from .plan import Memory, Plan, make_plan
from .weights import pack

__all__ = ["Weights", "activation_address", "prepare_weights", "run"]


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
    layout, steps = _layout(spec, weight.shape, weight.strides, weight.dtype, may_view)
    data, start = flat_data(weight)
    if isinstance(layout, Packed):
        compute = compute_dtype(weight.dtype)
        data, start = pack(layout, spec, data, weight.shape, steps, start, half_code(weight.dtype), compute), 0
    # Any infinity or NaN shows in the sum; a sum that overflows by itself only costs time.
    finite = True
    if spec.transposed:
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(data.sum()))
    return Weights(layout, data, start, finite)


@lru_cache(maxsize=1024)
def _layout(
    spec: ConvSpec, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype, may_view: bool
) -> tuple[Layout, tuple[int, ...]]:
    """Choose how weights of these strides (in bytes) lie for the tiles; give their strides in numbers too."""
    compute = compute_dtype(dtype)
    steps = flat_steps(shape, strides, dtype.itemsize)
    in_place = in_place_layout(spec, shape, steps, compute) if may_view and dtype == compute else None
    return in_place or packed_layout(spec, shape, compute), steps


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
    algorithm: str,
) -> None:  # fmt: skip
    """Compute one convolution into `y`; everything has been checked."""
    layout = weights.layout
    key = (geometry, x.strides, y.strides, x.dtype, algorithm, weights.finite, get_num_threads())
    plan = layout.plans.get(key)
    if plan is None:
        if len(layout.plans) >= _PLANS_KEPT:
            layout.plans.clear()
        plan = layout.plans[key] = _plan(geometry, x, y, weights, algorithm)
    if plan.jobs == 0:
        return
    if plan.merged > 1:
        bias = np.tile(bias, plan.merged)
    x_data, x_start = flat_data(x)
    y_data, y_start = flat_data(y)
    launch(
        convolve, plan.jobs, plan.flops,
        x_data, x_start, weights.data, weights.start, bias, y_data, y_start, activation, *plan.tables,
    )  # fmt: skip


def _plan(geometry: Geometry, x: np.ndarray, y: np.ndarray, weights: Weights, algorithm: str) -> Plan:
    x_steps, y_steps = four_steps(flat_view(x), geometry), four_steps(flat_view(y), geometry)
    memory = Memory(x_steps, y_steps, half_code(x.dtype), compute_dtype(x.dtype))
    return make_plan(geometry, memory, weights.layout, algorithm, get_num_threads(), weights.finite)
