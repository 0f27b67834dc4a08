"""`im2col` and `col2im`: the layout of columns, the convolution they make, and each the exact adjoint of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbconv
from tests import reference
from tests.cases import CASES, Case
from tests.helpers import DTYPES, LAYOUTS, arrays_of, assert_equal, case_params, rng_for, whole_numbers
from tests.strategies import cases

WINDOW_KEYS = ("stride", "padding", "dilation")
FORWARD = [
    case
    for case in CASES
    if not case.transposed and case.groups == 1 and case.params.get("padding_mode", "zeros") == "zeros"
]
with_dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def window_of(case: Case) -> dict[str, Any]:
    """The arguments of `im2col` that give the windows of a convolution."""
    kept = {key: value for key, value in case.params.items() if key in WINDOW_KEYS}
    return {"kernel_size": case.weight_shape[2:], **kept}


def inner(a: Any, b: Any) -> float:
    """Sum of products, exact for whole numbers."""
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


@with_dtypes
@pytest.mark.parametrize("case", case_params(FORWARD))
def test_im2col(case: Case, dtype: np.dtype[Any]) -> None:
    x, _, _ = arrays_of(case, dtype)
    cols = nbconv.im2col(x, **window_of(case))
    assert cols.dtype == dtype
    assert cols.flags.c_contiguous
    assert_equal(cols, reference.im2col(x, **window_of(case)))


@with_dtypes
@pytest.mark.parametrize("case", case_params(FORWARD))
def test_col2im(case: Case, dtype: np.dtype[Any]) -> None:
    x, _, _ = arrays_of(case, dtype)
    spatial = x.shape[-1 - case.ndim : -1]
    cols = whole_numbers(rng_for(case), reference.im2col(x, **window_of(case)).shape, dtype)
    x2 = nbconv.col2im(cols, spatial, **window_of(case))
    assert x2.dtype == dtype
    assert x2.flags.c_contiguous
    assert_equal(x2, reference.col2im(cols, spatial, **window_of(case)))


@pytest.mark.parametrize("case", case_params(FORWARD))
def test_columns_times_weight_matrix_is_the_convolution(case: Case) -> None:
    x, weight, _ = arrays_of(case)
    cols = nbconv.im2col(x, **window_of(case))
    matrix = weight.transpose(*range(2, weight.ndim), 1, 0).reshape(cols.shape[-1], len(weight))
    np.testing.assert_array_equal(cols @ matrix, getattr(nbconv, case.op)(x, weight, **case.params))


@given(case=cases(ops=("conv1d", "conv2d"), modes=("zeros",)), layout=st.sampled_from(sorted(LAYOUTS)))
def test_adjoint(case: Case, layout: str) -> None:
    x, _, _ = arrays_of(case)
    spatial = x.shape[-1 - case.ndim : -1]
    cols = nbconv.im2col(LAYOUTS[layout](x), **window_of(case))
    assert_equal(cols, reference.im2col(x, **window_of(case)))
    y = whole_numbers(rng_for(case, "y"), cols.shape)
    back = nbconv.col2im(LAYOUTS[layout](y), spatial, **window_of(case))
    assert back.shape == x.shape
    assert inner(cols, y) == inner(x, back)


def test_taps_are_outermost_and_channels_innermost() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    assert nbconv.im2col(x, 3).tolist() == [[[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]]]
    image = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    assert nbconv.im2col(image, (2, 2)).tolist() == [[[[0, 1, 2, 3, 6, 7, 8, 9], [2, 3, 4, 5, 8, 9, 10, 11]]]]


def test_overlapping_windows_add_up() -> None:
    cols = np.ones((1, 4, 3), np.float32)
    assert nbconv.col2im(cols, (6,), 3).ravel().tolist() == [1, 2, 3, 3, 2, 1]


def test_results_are_copies() -> None:
    x = whole_numbers(rng_for("alone"), (2, 9, 3))
    cols = nbconv.im2col(x, 1)
    assert not np.shares_memory(x, cols)
    x2 = nbconv.col2im(cols, (9,), 1)
    assert not np.shares_memory(cols, x2)
    np.testing.assert_array_equal(x2, x)
