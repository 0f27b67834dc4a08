"""PyTorch as a second oracle: of the reference, and of the package itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbconv
from tests import reference
from tests.cases import CASES, Case, small_perf_cases
from tests.helpers import (
    Array,
    arrays_of,
    assert_close,
    assert_equal,
    case_params,
    optional,
    real_numbers,
    rng_for,
    sum_tolerance,
    whole_numbers,
)

torch = optional("torch", "NBCONV_REQUIRE_TORCH")
F = torch.nn.functional

pytestmark = pytest.mark.torch


def torch_takes(case: Case) -> bool:
    """PyTorch refuses empty shapes, but for an empty batch."""
    y = reference.run(case.op, np.zeros(case.x_shape), np.zeros(case.weight_shape), **case.params)
    return 0 not in (*case.x_shape[1:], *case.weight_shape, *y.shape[1:])


TORCH_CASES = [case for case in CASES if torch_takes(case)]


def channels_first(x: Array) -> Any:
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def torch_run(case: Case, x: Array, weight: Array, bias: Array | None) -> Array:
    """Compute a case with PyTorch: its own parameters where it has the form, padding by hand where it has not."""
    ndim, params = case.ndim, dict(case.params)
    batched = x.ndim == ndim + 2
    for key in ("stride", "dilation", "output_padding"):
        if key in params:
            params[key] = reference.each_axis(params[key], ndim)
    kernel = weight.shape[2:]
    strides, dilations = params.get("stride", (1,) * ndim), params.get("dilation", (1,) * ndim)
    sizes, padding = case.x_shape[-1 - ndim : -1], params.pop("padding", 0)
    tensor, w = channels_first(x if batched else x[None]), torch.from_numpy(weight)
    b = None if bias is None else torch.from_numpy(bias)
    operation = getattr(F, case.op)
    if case.transposed:
        crops = reference.transposed_crops(kernel, strides, padding, dilations)
        if all(lo == hi for lo, hi in crops):
            y = operation(tensor, w, b, padding=[lo for lo, _ in crops], **params)
        else:
            extras = params.pop("output_padding", (0,) * ndim)
            full = operation(tensor, w, **params)
            y = F.pad(full, [c for (lo, hi), e in zip(crops[::-1], extras[::-1], strict=True) for c in (-lo, e - hi)])
            y = y if b is None else y + b.reshape(-1, *[1] * ndim)
    else:
        mode = params.pop("padding_mode", "zeros")
        pads = reference.forward_pads(sizes, kernel, strides, padding, dilations)
        if mode == "zeros" and all(lo == hi for lo, hi in pads):
            y = operation(tensor, w, b, padding=[lo for lo, _ in pads], **params)
        else:
            flat = [p for pair in pads[::-1] for p in pair]
            y = operation(F.pad(tensor, flat, mode={"zeros": "constant"}.get(mode, mode)), w, b, **params)
    y = np.moveaxis(y.numpy(), 1, -1)
    return y if batched else y[0]


@pytest.mark.parametrize("case", case_params(TORCH_CASES))
def test_reference_agrees_exactly_on_whole_numbers(case: Case) -> None:
    x, weight, bias = arrays_of(case, np.float64)
    np.testing.assert_array_equal(
        reference.run(case.op, x, weight, bias, **case.params), torch_run(case, x, weight, bias)
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("op", ["conv1d", "conv2d"])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_reference_pads_same_as_torch_at_stride_1(op: str, taps: int, dilation: int) -> None:
    ndim, rng = int(op[4]), rng_for(op, taps, dilation)
    x = whole_numbers(rng, (2, *(7, 6)[:ndim], 3), np.float64)
    weight = whole_numbers(rng, (4, 3, *(taps, 3)[:ndim]), np.float64)
    y = getattr(F, op)(channels_first(x), torch.from_numpy(weight), padding="same", dilation=dilation)
    expected = np.moveaxis(y.numpy(), 1, -1)
    np.testing.assert_array_equal(reference.conv(x, weight, padding="same", dilation=dilation), expected)


@pytest.mark.parametrize("where", ["x", "weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "case", case_params([case for case in TORCH_CASES if "smoke" in case.tags and "edge" not in case.tags])
)
def test_reference_propagates_nan_and_inf_by_definition(case: Case, value: float, where: str) -> None:
    """In the definition padded zeros take part; PyTorch's kernels may skip them, so it gets them as data."""
    x, weight, bias = arrays_of(case, np.float64)
    array = {"x": x, "weight": weight}[where]
    array.flat[array.size // 2] = value
    case_by_hand = case
    if not case.transposed and case.params.get("padding_mode", "zeros") == "zeros":
        kernel = case.weight_shape[2:]
        strides, dilations = (reference.each_axis(case.params.get(k, 1), case.ndim) for k in ("stride", "dilation"))
        sizes = case.x_shape[-1 - case.ndim : -1]
        pads = reference.forward_pads(sizes, kernel, strides, case.params.get("padding", 0), dilations)
        batch = [(0, 0)] * (x.ndim - case.ndim - 1)
        x_by_hand = np.pad(x, [*batch, *pads, (0, 0)])
        case_by_hand = Case(case.op, x_by_hand.shape, case.weight_shape, {**case.params, "padding": 0}, case.bias)
    else:
        x_by_hand = x
    np.testing.assert_array_equal(
        reference.run(case.op, x, weight, bias, **case.params), torch_run(case_by_hand, x_by_hand, weight, bias)
    )


@pytest.mark.parametrize("name", sorted(reference.ACTIVATIONS))
def test_reference_activations(name: str) -> None:
    y = np.concatenate([np.linspace(-12, 12, 2001), [np.inf, np.nan, 1e5, -1e5, 1e-300]])
    other_names = {
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "gelu_tanh": lambda tensor: F.gelu(tensor, approximate="tanh"),
        "softplus": lambda tensor: F.softplus(tensor, threshold=40),
    }
    expected = other_names.get(name) or getattr(F, name)
    np.testing.assert_allclose(reference.ACTIVATIONS[name](y), expected(torch.from_numpy(y)).numpy(), 1e-12, 1e-13)


@pytest.mark.parametrize("case", case_params([*TORCH_CASES, *small_perf_cases()]))
def test_package_agrees_with_torch(case: Case) -> None:
    x, weight, bias = arrays_of(case, np.float32)
    y = getattr(nbconv, case.op)(x, weight, bias, **case.params)
    assert_equal(y, torch_run(case, x, weight, bias))
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    y = getattr(nbconv, case.op)(x, weight, bias, **case.params)
    expected = torch_run(case, x, weight, bias).astype(np.float64)
    assert_close(y, expected, 2 * sum_tolerance(case, x, weight, bias))
