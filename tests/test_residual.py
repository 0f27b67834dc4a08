"""The residual: added before the activation, whatever way outputs come about."""

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
    WRITTEN,
    Array,
    arrays_of,
    case_params,
    rng_for,
    spaced,
    whole_numbers,
    widen,
)
from tests.helpers import LAYOUTS as OUT_LAYOUTS
from tests.test_activations import WAYS

LAYERS = {"conv1d": "Conv1d", "conv2d": "Conv2d", "conv_transpose1d": "ConvTranspose1d"}
LAYOUTS: dict[str, Any] = {
    "contiguous": lambda a: a,
    "spaced": spaced,
    "turned": lambda a: a[..., ::-1].copy()[..., ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1, ..., :1], a.shape),
}


def parts(case: Case, dtype: Any = np.float32) -> tuple[Array, Array, Array | None, Array, Array]:
    """Make x, weight, bias, a residual, and the sum without it in float64."""
    x, weight, bias = arrays_of(case, dtype)
    y = reference.run(case.op, x, weight, bias, **case.params)
    return x, weight, bias, whole_numbers(rng_for(case, "residual"), y.shape, dtype), y


@pytest.mark.parametrize("case", case_params([*WAYS, *(case for case in CASES if "smoke" in case.tags)]))
def test_whole_numbers_are_exact(case: Case) -> None:
    check(case, np.dtype(np.float32), "auto")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", WAYS, ids=str)
def test_every_type_and_way(case: Case, dtype: np.dtype[Any], algorithm: str) -> None:
    check(case, dtype, algorithm)


def check(case: Case, dtype: np.dtype[Any], algorithm: str) -> None:
    x, weight, bias, residual, y = parts(case, dtype)
    expected = np.maximum(y + widen(residual), 0).astype(dtype)
    options = {**case.params, "activation": "relu", "residual": residual, "algorithm": algorithm}
    result = getattr(nbconv, case.op)(x, weight, bias, **options)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", WAYS, ids=str)
def test_any_strides(case: Case, layout: str) -> None:
    x, weight, bias, residual, y = parts(case)
    residual = LAYOUTS[layout](residual)
    call = getattr(nbconv, case.op)
    np.testing.assert_array_equal(call(x, weight, bias, residual=residual, **case.params), y + residual)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("layout", WRITTEN)
@pytest.mark.parametrize("case", WAYS, ids=str)
def test_any_strides_of_out(case: Case, layout: str, dtype: np.dtype[Any]) -> None:
    x, weight, bias, residual, y = parts(case, dtype)
    out = OUT_LAYOUTS[layout](np.zeros_like(residual))
    getattr(nbconv, case.op)(x, weight, bias, activation="relu", residual=residual, out=out, **case.params)
    np.testing.assert_array_equal(out, np.maximum(y + widen(residual), 0).astype(dtype))


@pytest.mark.parametrize("case", [case for case in WAYS if case.op in LAYERS], ids=str)
def test_layers(case: Case) -> None:
    x, weight, bias, residual, y = parts(case)
    layer = getattr(nbconv, LAYERS[case.op])(weight, bias, **case.params)
    for _ in range(2):
        np.testing.assert_array_equal(layer(x, residual=residual), y + residual)
        np.testing.assert_array_equal(layer(x), y)


def test_unbatched() -> None:
    x, weight = np.ones((6, 2), np.float32), np.ones((3, 2, 2), np.float32)
    residual = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_array_equal(nbconv.conv1d(x, weight, residual=residual), residual + 4)


def test_errors() -> None:
    x, weight = np.ones((1, 6, 2), np.float32), np.ones((3, 2, 2), np.float32)
    layer = nbconv.Conv1d(weight)
    for call in (lambda **options: nbconv.conv1d(x, weight, **options), lambda **options: layer(x, **options)):
        with pytest.raises(ValueError, match=r"residual has shape \(1, 5, 2\), the result has \(1, 5, 3\)"):
            call(residual=np.ones((1, 5, 2), np.float32))
        with pytest.raises(TypeError, match="residual has dtype float64"):
            call(residual=np.ones((1, 5, 3)))
        with pytest.raises(TypeError, match=r"residual must be a NumPy array; got list"):
            call(residual=[1.0])
        same = np.ones((1, 5, 3), np.float32)
        with pytest.raises(ValueError, match="out shares memory with an input"):
            call(residual=same, out=same)
