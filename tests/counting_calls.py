"""Calls of convolutions, drawn and from the list of cases, for the tests that count."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from nbconv.counting import count_operations
from tests import reference
from tests.cases import Case
from tests.counting_oracle import Call


@st.composite
def calls(draw: Any, ndim: int) -> Call:
    """Draw every parameter together, small enough to run number by number."""
    transposed = draw(st.booleans())
    longest, most_taps = (12, 6) if ndim == 1 else (4, 3)
    groups = draw(st.integers(1, 3))

    mostly_some = st.sampled_from([1, 2] * 5 + [0])

    def each(entries: Any) -> Any:
        return draw(st.tuples(*[entries] * ndim))

    stride, dilation = each(st.integers(1, 5)), each(st.integers(1, 5))
    words = ["same", "causal"] if ndim == 1 else ["same"]
    pairs = st.tuples(*[st.tuples(st.integers(0, 7), st.integers(0, 7))] * ndim)
    return Call(
        op=f"conv{'_transpose' if transposed else ''}{ndim}d",
        n=draw(mostly_some),
        sizes=each(st.integers(0, longest)),
        kernel=each(st.integers(1, most_taps)),
        stride=stride,
        dilation=dilation,
        padding=draw(pairs | st.sampled_from(words)),
        output_padding=tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)),
        padding_mode="zeros"
        if transposed
        else draw(st.sampled_from(["zeros"] * 3 + ["reflect", "replicate", "circular"])),
        groups=groups,
        c_in=groups * draw(mostly_some),
        c_out=groups * draw(mostly_some),
        bias=draw(st.booleans()),
    )


def call_of(case: Case) -> Call:
    """Write a case's parameters with one entry an axis."""
    ndim, params = case.ndim, case.params
    padding = params.get("padding", 0)
    return Call(
        op=case.op,
        n=case.x_shape[0] if len(case.x_shape) == ndim + 2 else 1,
        sizes=case.x_shape[-1 - ndim : -1],
        kernel=case.weight_shape[2:],
        stride=reference.each_axis(params.get("stride", 1), ndim),
        dilation=reference.each_axis(params.get("dilation", 1), ndim),
        padding=padding if padding in ("same", "causal") else tuple(reference.explicit_pads(padding, ndim)),
        output_padding=reference.each_axis(params.get("output_padding", 0), ndim),
        padding_mode=params.get("padding_mode", "zeros"),
        groups=case.groups,
        c_in=case.x_shape[-1],
        c_out=case.c_out,
        bias=case.bias,
    )


def count(call: Call, op: str = "", **kwargs: Any) -> Any:
    return count_operations(op or call.op, call.x_shape, call.weight_shape, **call.params, **kwargs)
