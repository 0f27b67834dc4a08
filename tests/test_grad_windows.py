"""Gradients of layers with few positions, whose weights are read and written as they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.cpu.grad_windows import WindowPlan
from nbconv.functional import make_spec
from nbconv.geometry import bind
from nbconv.gradients import Gradients
from tests.cases import Case
from tests.helpers import Array, assert_equal, case_params, real_numbers
from tests.test_backward import backward, data_of, oracle

SMOKE = frozenset({"smoke"})

# Few positions, many narrow channels: small kernels and long, several blocks of columns, several runs of terms.
FEW = [
    Case("conv1d", (1, 4, 129), (128, 129, 3), {"padding": 1}, tags=SMOKE),
    Case("conv1d", (1, 640, 1), (258, 1, 256), {"stride": 128}),
    Case("conv1d", (2, 9, 20), (150, 20, 7), {"padding": 3, "stride": 2, "dilation": 2}),
    Case("conv1d", (3, 15, 10), (300, 10, 5), {"padding": "causal"}),
    Case("conv1d", (12, 8), (90, 8, 3), {"padding": ((2, 0),)}, tags=SMOKE),
    Case("conv1d", (2, 8, 5), (240, 5, 4), {"padding": ((6, 7),), "padding_mode": "reflect"}),
    Case("conv1d", (2, 8, 5), (240, 5, 4), {"padding": ((3, 8),), "padding_mode": "circular"}),
    Case(
        "conv1d", (2, 3, 5), (120, 5, 4), {"padding": ((9, 4),), "padding_mode": "replicate", "stride": 2}, tags=SMOKE
    ),
    Case("conv1d", (1, 40, 3), (80, 3, 4), {"padding": 9, "stride": 7, "dilation": 3}),
    Case("conv2d", (1, 7, 7, 70), (400, 70, 3, 3), {"padding": 1}),
    Case("conv2d", (2, 4, 5, 6), (256, 6, 2, 3), {"padding": (1, 2), "stride": (2, 1), "padding_mode": "reflect"}),
    Case("conv2d", (3, 4, 3), (150, 3, 1, 3), {"padding": "same", "dilation": (2, 1)}),
    Case("conv2d", (1, 9, 1, 4), (64, 4, 3, 1), {"stride": (3, 1)}),
]
FEW_TRANSPOSED = [
    Case("conv_transpose1d", (1, 9, 90), (90, 40, 16), {"stride": 8, "padding": 4}),
    Case("conv_transpose1d", (2, 5, 64), (64, 3, 5), {"stride": 2, "padding": 3, "output_padding": 1}, tags=SMOKE),
    Case("conv_transpose2d", (1, 3, 4, 80), (80, 7, 2, 3), {"stride": 2, "padding": 1, "dilation": (1, 2)}),
]


def planned(case: Case, *arrays: Array) -> Gradients:
    """Plan the package's own call."""
    params = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0, "padding_mode": "zeros"}
    spec = make_spec(case.op, *{**params, **case.params}.values())
    return Gradients(bind(spec, arrays[1].shape, arrays[2].shape), *arrays, ("x", "weight", "bias"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", case_params([*FEW, *FEW_TRANSPOSED]))
def test_whole_numbers_equal_the_oracle(case: Case, dtype: str) -> None:
    arrays = data_of(case, np.dtype(dtype))
    plans = planned(case, *arrays)
    assert isinstance(plans.weight, WindowPlan)
    assert (plans.adding is None) == case.transposed
    for actual, expected in zip(backward(case, *arrays), oracle(case, *arrays), strict=True):
        assert_equal(actual, expected)


def _turned(array: Array) -> Array:
    return np.ascontiguousarray(array[..., ::-1])[..., ::-1]


def _apart(array: Array) -> Array:
    return np.repeat(array, 3, axis=-1)[..., ::3]


@pytest.mark.parametrize("lay", [_turned, _apart])
@pytest.mark.parametrize("case", case_params([FEW[2], FEW[9], FEW_TRANSPOSED[1]]))
def test_channels_in_any_order(case: Case, lay: Any) -> None:
    grad_output, x, weight = data_of(case)
    arrays = lay(grad_output), lay(x), weight
    assert isinstance(planned(case, *arrays).weight, WindowPlan)
    for actual, expected in zip(backward(case, *arrays), oracle(case, grad_output, x, weight), strict=True):
        assert_equal(actual, expected)


def test_other_memory_and_types_go_other_ways() -> None:
    grad_output, x, weight = data_of(FEW[0])
    keras = np.ascontiguousarray(weight.transpose(2, 1, 0)).transpose(2, 1, 0)
    halves = [a.astype(np.float16) for a in (grad_output, x, weight)]
    for arrays in ((grad_output, x, keras), halves):
        plans = planned(FEW[0], *arrays)
        assert plans.adding is None
        assert not isinstance(plans.weight, WindowPlan)


@pytest.mark.parametrize("case", case_params([FEW[0], FEW[9], FEW_TRANSPOSED[0]]))
def test_bits_do_not_depend_on_threads(case: Case) -> None:
    arrays = data_of(case, np.float32, real_numbers)
    expected = backward(case, *arrays)
    for threads in (1, 2, 5):
        with nbconv.num_threads(threads):
            for a, b in zip(backward(case, *arrays), expected, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", case_params([FEW[0], FEW_TRANSPOSED[1]]))
def test_nothing_is_multiplied_where_no_pixel_lies(case: Case) -> None:
    """An infinite number of the narrow operand stays infinite at most where a window meets data."""
    grad_output, x, weight = data_of(case)
    narrow = x if case.transposed else grad_output
    narrow[0, 0, 0] = np.inf
    grad = backward(case, grad_output, x, weight).weight
    finite = np.isfinite(grad)
    assert finite[1:].all()
    padding, first = case.params["padding"], grad[0]
    assert finite[0, :, 0].all(), (padding, first)


def test_infinite_weights_stay_where_they_flow() -> None:
    grad_output, x, weight = data_of(FEW[0])
    weight[0, 0, 0] = np.inf
    grad = backward(FEW[0], grad_output, x, weight).x
    assert np.isfinite(grad[..., 1:]).all()
    assert np.isfinite(grad[0, -1, 0])  # the first tap meets the position before an output
