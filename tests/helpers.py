"""Data, comparisons and optional parts that the test modules share."""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import nbconv
from tests import reference
from tests.cases import Case

Array = NDArray[Any]

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
ALGORITHMS = ("auto", "direct", "im2col")
OPS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")


# ---- data ----------------------------------------------------------------------------------------------------------


LAYERS = {
    "conv1d": nbconv.Conv1d,
    "conv2d": nbconv.Conv2d,
    "conv_transpose1d": nbconv.ConvTranspose1d,
    "conv_transpose2d": nbconv.ConvTranspose2d,
}


def rng_for(*key: Any) -> np.random.Generator:
    """Make a generator seeded by what it is for, the same in every process."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, key)).encode()))


def whole_numbers(rng: np.random.Generator, shape: Iterable[int], dtype: Any = np.float32, most: int = 3) -> Array:
    """Draw small whole numbers: sums of their products have no rounding in float32."""
    return rng.integers(-most, most + 1, tuple(shape)).astype(dtype)


def real_numbers(rng: np.random.Generator, shape: Iterable[int], dtype: Any = np.float32) -> Array:
    """Draw normally distributed numbers."""
    return rng.standard_normal(tuple(shape)).astype(dtype)


def arrays_of(case: Case, dtype: Any = np.float32, draw: Any = whole_numbers) -> tuple[Array, Array, Array | None]:
    """Make x, weight and bias of a case."""
    rng = rng_for(case)
    x, weight = draw(rng, case.x_shape, dtype), draw(rng, case.weight_shape, dtype)
    return x, weight, draw(rng, (case.c_out,), dtype) if case.bias else None


def unaligned(a: Array) -> Array:
    """Copy to an address that is no multiple of the item size."""
    raw = np.empty(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def readonly(a: Array) -> Array:
    """Copy and lock."""
    a = a.copy()
    a.flags.writeable = False
    return a


def spaced(a: Array) -> Array:
    """Copy to every second place of every axis of a larger array, amid NaN."""
    larger = np.full([2 * size + 1 for size in a.shape], np.nan, a.dtype)
    view = larger[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def cropped(a: Array) -> Array:
    """Copy to the middle of a larger array, amid NaN."""
    _, view = guarded(a.shape, a.dtype, margin=1)
    view[...] = a
    return view


# Same numbers, other memory.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda a: a.copy(order="C"),
    "F": lambda a: a.copy(order="F"),
    "channels first": lambda a: np.moveaxis(np.moveaxis(a, -1, 0).copy(order="C"), 0, -1),
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "reversed channels": lambda a: a[..., ::-1].copy()[..., ::-1],
    "reversed columns": lambda a: a[..., ::-1, :].copy()[..., ::-1, :] if a.ndim > 1 else a,
    "spaced": spaced,
    "cropped": cropped,
    "unaligned": unaligned,
    "readonly": readonly,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}
WRITTEN = [name for name in LAYOUTS if name not in ("readonly", "big-endian")]  # those that `out` may have


# ---- comparisons ---------------------------------------------------------------------------------------------------


def assert_equal(actual: Array, expected: Array, note: str = "") -> None:
    """Compare the shape and every number, rounded to the actual dtype, with ==; NaN equals NaN."""
    assert actual.shape == expected.shape, note
    np.testing.assert_array_equal(widen(actual), widen(expected.astype(actual.dtype)), note)


def assert_close(actual: Array, expected: Array, tolerance: float, note: str = "") -> None:
    """Compare with the float64 result: `tolerance` for the sums, one unit in the last place for storing them."""
    assert actual.shape == expected.shape, note
    store = np.abs(expected) * epsilon(actual.dtype)
    error = np.abs(widen(actual) - expected)
    assert (error <= tolerance + store).all(), f"{note}: error {error.max()}, allowed {tolerance}"


def sum_tolerance(case: Case, x: Array, weight: Array, bias: Array | None = None) -> float:
    """Bound the rounding of a sum: 4 * eps * terms * max|x| * max|weight|, with the bias as one more term."""
    largest = [float(np.abs(widen(a)).max(initial=0)) for a in (x, weight)]
    addend = 0.0 if bias is None else float(np.abs(widen(bias)).max(initial=0))
    return 4 * epsilon(compute_dtype(x.dtype)) * (case.terms * largest[0] * largest[1] + addend)


def compute_dtype(dtype: Any) -> np.dtype[Any]:
    """Tell the dtype that sums are computed in: float32 for the half types."""
    dtype = np.dtype(dtype)
    return DTYPES["float64"] if dtype == np.float64 else DTYPES["float32"]


def epsilon(dtype: Any) -> float:
    """Distance from 1 to the next larger number of a dtype."""
    return float(ml_dtypes.finfo(dtype).eps)


def widen(a: Array) -> Array:
    """Convert to float64, which NumPy can compare and print for every dtype."""
    return a.astype(np.float64)


def expected_of(case: Case, x: Array, weight: Array, bias: Array | None) -> Array:
    """Ask the oracle."""
    return reference.run(case.op, x, weight, bias, **case.params)


def guarded(shape: tuple[int, ...], dtype: Any, margin: int = 2) -> tuple[Array, Array]:
    """Make an uninitialised-looking output of `shape` inside a larger buffer, all NaN: returns (buffer, output)."""
    buffer = np.full([size + 2 * margin for size in shape], np.nan, dtype)
    return buffer, buffer[tuple(slice(margin, margin + size) for size in shape)]


def assert_guard_intact(buffer: Array, output: Array) -> None:
    """Check that everything of `buffer` around `output` is still NaN."""
    output[...] = np.nan
    assert np.isnan(widen(buffer)).all(), "something was written outside of the output"


# ---- optional parts ------------------------------------------------------------------------------------------------


def optional(module: str, variable: str) -> ModuleType:
    """Import a part that users may lack: skip the calling module without it, or fail where `variable` is "1"."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if os.environ.get(variable) == "1":
            raise
        return pytest.skip(f"{module} is not installed", allow_module_level=True)


def case_params(cases: Iterable[Case]) -> list[Any]:
    """Wrap cases for `pytest.mark.parametrize`: readable ids, the marker `smoke` on the cases so tagged."""
    return [
        pytest.param(case, id=str(case), marks=[pytest.mark.smoke] if "smoke" in case.tags else []) for case in cases
    ]
