"""Named activations against their float64 formulas, by themselves and at the end of a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbconv
from tests import reference
from tests.cases import CASES, Case
from tests.helpers import (
    ALGORITHMS,
    DTYPES,
    Array,
    arrays_of,
    case_params,
    compute_dtype,
    epsilon,
    expected_of,
    real_numbers,
    sum_tolerance,
    widen,
)

NAMES = sorted(reference.ACTIVATIONS)
with_names = pytest.mark.parametrize("name", NAMES)
with_dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)

# One case for each way that outputs come about: tiles, few columns, depthwise, phases, outputs that are bias only.
WAYS = [
    Case("conv1d", (2, 40, 16), (33, 16, 3), {"padding": 1}),
    Case("conv1d", (2, 37, 5), (1, 5, 3), {"stride": 2}),
    Case("conv1d", (2, 30, 20), (20, 1, 3), {"groups": 20, "padding": 1}),
    Case("conv1d", (2, 5, 0), (4, 0, 3), {"padding": 1}),
    Case("conv2d", (1, 7, 9, 6), (12, 3, 3, 3), {"groups": 2, "padding": "same"}),
    Case("conv_transpose1d", (2, 9, 6), (6, 17, 4), {"stride": 2, "padding": 1}),
    Case("conv_transpose1d", (2, 5, 3), (3, 4, 2), {"stride": 5, "output_padding": 4}),
    Case("conv_transpose2d", (2, 4, 5, 6), (6, 1, 3, 2), {"groups": 6, "stride": (4, 3)}),
]


def alone(name: str, values: Array) -> Array:
    """Apply an activation to numbers as they are: a convolution with one tap of one."""
    weight = np.ones((1, 1, 1), values.dtype)
    return nbconv.conv1d(values[:, None], weight, activation=name)[:, 0]


@with_dtypes
@with_names
def test_alone(name: str, dtype: np.dtype[Any]) -> None:
    values = np.concatenate([np.linspace(-15, 15, 4001), np.geomspace(1e-6, 60, 500), -np.geomspace(1e-6, 60, 500)])
    values = values.astype(dtype)
    expected = reference.ACTIVATIONS[name](widen(values))
    scale = 8 * epsilon(compute_dtype(dtype)) * np.maximum(1, np.abs(expected))
    error = np.abs(widen(alone(name, values)) - expected)
    assert (error <= scale + epsilon(dtype) * np.abs(expected)).all(), f"at {values[np.argmax(error / scale)]}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@with_names
def test_limits(name: str, dtype: str) -> None:
    """Far from zero every activation is its asymptote exactly: no overflow on the way."""
    values = np.array([-1e30, -1e4, -200, 0, 200, 1e4, 1e30, np.inf], DTYPES[dtype])
    expected = reference.ACTIVATIONS[name](widen(values)).astype(DTYPES[dtype])
    np.testing.assert_allclose(alone(name, values), expected, rtol=4 * epsilon(DTYPES[dtype]), atol=1e-30)


@with_dtypes
@with_names
def test_nan_stays_nan(name: str, dtype: np.dtype[Any]) -> None:
    values = np.array([1, np.nan, -1], dtype)
    assert np.isnan(widen(alone(name, values))).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("relu", 0), ("relu6", 0), ("tanh", -1), ("sigmoid", 0), ("elu", -1), ("leaky_relu", -np.inf), ("softplus", 0)],
)
def test_minus_infinity(name: str, expected: float) -> None:
    assert alone(name, np.array([-np.inf], np.float32)).tolist() == [expected]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("case", case_params(WAYS))
@with_names
def test_at_the_end_of_a_convolution(name: str, case: Case, dtype: str, algorithm: str) -> None:
    x, weight, bias = arrays_of(case, DTYPES[dtype], real_numbers)
    y = getattr(nbconv, case.op)(x, weight, bias, **case.params, activation=name, algorithm=algorithm)
    expected = reference.ACTIVATIONS[name](expected_of(case, x, weight, bias))
    # No activation is steeper than 1.2; its own error counts in units of the last place of 1 or of the result.
    own = 8 * epsilon(compute_dtype(y.dtype)) * np.maximum(1, np.abs(expected))
    allowed = 1.2 * sum_tolerance(case, x, weight, bias) + own + epsilon(y.dtype) * np.abs(expected)
    assert (np.abs(widen(y) - expected) <= allowed).all()


def test_cases_end_in_outputs_of_bias_only() -> None:
    """The list above must hold what its comment promises: outputs that no input reaches."""
    reached = [
        expected_of(case, np.ones(case.x_shape), np.ones(case.weight_shape), None) for case in WAYS if case.transposed
    ]
    assert any((y == 0).any() for y in reached)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "case", [case for case in CASES if "smoke" in case.tags and "edge" not in case.tags][::6], ids=str
)
@with_names
def test_interpreted_too(name: str, case: Case) -> None:
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    y = getattr(nbconv, case.op)(x, weight, bias, **case.params, activation=name)
    expected = reference.ACTIVATIONS[name](expected_of(case, x, weight, bias))
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-5)
