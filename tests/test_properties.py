"""What holds for every call: the definition, the adjoint, linearity, groups and samples apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import nbconv
from tests import reference
from tests.cases import Case
from tests.helpers import (
    ALGORITHMS,
    DTYPES,
    LAYOUTS,
    Array,
    arrays_of,
    assert_equal,
    assert_guard_intact,
    expected_of,
    guarded,
    rng_for,
    whole_numbers,
)
from tests.strategies import cases

TRANSPOSE_OF = {"conv1d": "conv_transpose1d", "conv2d": "conv_transpose2d"}
LINEAR = {"modes": ("zeros",)}


def run(case: Case, x: Array, weight: Array, bias: Array | None = None, **options: Any) -> Array:
    """Call the package."""
    return getattr(nbconv, case.op)(x, weight, bias, **case.params, **options)


def inner(a: Array, b: Array) -> float:
    """Sum of products, exact for whole numbers."""
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


@settings(max_examples=400)
@given(
    case=cases(),
    dtype=st.sampled_from(sorted(DTYPES)),
    algorithm=st.sampled_from(ALGORITHMS),
    layouts=st.tuples(*[st.sampled_from([layout for layout in LAYOUTS if layout != "big-endian"])] * 3),
)
def test_every_call_is_the_definition(case: Case, dtype: str, algorithm: str, layouts: tuple[str, ...]) -> None:
    arrays = arrays_of(case, DTYPES[dtype])
    expected = expected_of(case, *arrays)
    x, weight, bias = (None if a is None else LAYOUTS[layout](a) for a, layout in zip(arrays, layouts, strict=True))
    assert_equal(run(case, x, weight, bias, algorithm=algorithm), expected)
    buffer, out = guarded(expected.shape, DTYPES[dtype])
    run(case, x, weight, bias, algorithm=algorithm, out=out)
    assert_equal(out, expected)
    assert_guard_intact(buffer, out)


@settings(max_examples=200)
@given(case=cases(ops=("conv1d", "conv2d"), **LINEAR))
def test_transposed_is_the_adjoint(case: Case) -> None:
    """<conv(x, w), y> == <x, conv_transpose(y, w)>, with the very same weight."""
    x, weight, _ = arrays_of(case)
    forward = run(case, x, weight)
    y = whole_numbers(rng_for(case, "y"), forward.shape)
    ndim, sizes = case.ndim, case.x_shape[-1 - case.ndim : -1]
    strides, dilations = (reference.each_axis(case.params[key], ndim) for key in ("stride", "dilation"))
    kernel = case.weight_shape[2:]
    pads = reference.forward_pads(sizes, kernel, strides, case.params["padding"], dilations)
    shortest = reference.transposed_lengths(
        forward.shape[-1 - ndim : -1], kernel, strides, pads, dilations, (0,) * ndim
    )
    back = getattr(nbconv, TRANSPOSE_OF[case.op])(
        y,
        weight,
        stride=strides,
        padding=tuple(pads),
        # the positions at the end that the stride left unread
        output_padding=tuple(size - short for size, short in zip(sizes, shortest, strict=True)),
        groups=case.groups,
        dilation=dilations,
    )
    assert back.shape == x.shape
    assert inner(forward, y) == inner(x, back)


@given(case=cases(**LINEAR), scale=st.integers(-3, 3))
def test_linear_in_x_and_in_weight(case: Case, scale: int) -> None:
    rng = rng_for(case)
    x, x2 = (whole_numbers(rng, case.x_shape) for _ in range(2))
    weight, weight2 = (whole_numbers(rng, case.weight_shape) for _ in range(2))
    y = run(case, x, weight)
    np.testing.assert_array_equal(run(case, x2 + scale * x, weight), run(case, x2, weight) + scale * y)
    np.testing.assert_array_equal(run(case, x, weight2 + scale * weight), run(case, x, weight2) + scale * y)


@given(case=cases())
def test_groups_are_separate_calls(case: Case) -> None:
    x, weight, bias = arrays_of(case)
    params = {key: value for key, value in case.params.items() if key != "groups"}
    parts = [
        getattr(nbconv, case.op)(
            np.split(x, case.groups, axis=-1)[group],
            np.split(weight, case.groups)[group],
            None if bias is None else np.split(bias, case.groups)[group],
            **params,
        )
        for group in range(case.groups)
    ]
    np.testing.assert_array_equal(run(case, x, weight, bias), np.concatenate(parts, axis=-1))


@given(case=cases())
def test_samples_are_separate_calls(case: Case) -> None:
    x, weight, bias = arrays_of(case)
    if x.ndim == case.ndim + 1:
        np.testing.assert_array_equal(run(case, x, weight, bias), run(case, x[None], weight, bias)[0])
        return
    y = run(case, x, weight, bias)
    assert len(y) == len(x)
    for sample, one in zip(x, y, strict=True):
        np.testing.assert_array_equal(run(case, sample, weight, bias), one)


@given(case=cases(ops=("conv1d", "conv_transpose1d")))
def test_one_dimension_is_two_with_a_unit_axis(case: Case) -> None:
    x, weight, bias = arrays_of(case)
    params = dict(case.params)
    for key, unit in (("stride", 1), ("dilation", 1), ("output_padding", 0)):
        if key in params:
            params[key] = (unit, *reference.each_axis(params[key], 1))
    if params["padding"] == "causal":
        kernel, strides, dilations = case.weight_shape[2:], params["stride"][1:], params["dilation"][1:]
        resolve = reference.transposed_crops if case.transposed else reference.forward_pads
        sizes = () if case.transposed else (case.x_shape[-2:-1],)
        (pair,) = resolve(*sizes, kernel, strides, "causal", dilations)
        if min(pair) < 0:
            return  # a negative crop has no form of its own
        params["padding"] = ((0, 0), pair)
    elif not isinstance(params["padding"], str):
        params["padding"] = ((0, 0), *reference.explicit_pads(params["padding"], 1))
    y = getattr(nbconv, case.op.replace("1d", "2d"))(x[..., None, :, :], weight[:, :, None], bias, **params)
    np.testing.assert_array_equal(run(case, x, weight, bias), y[..., 0, :, :])
