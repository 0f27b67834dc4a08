"""Hypothesis draws of whole calls: all parameters together, always a call that the definition allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests import reference
from tests.cases import Case
from tests.helpers import OPS

PADDING_MODES = ("zeros", "zeros", "reflect", "replicate", "circular")


@st.composite
def cases(draw: st.DrawFn, ops: tuple[str, ...] = OPS, modes: tuple[str, ...] = PADDING_MODES) -> Case:
    """Draw shapes and parameters of one call of one of `ops`; padding in every form, groups up to depthwise."""
    op = draw(st.sampled_from(ops))
    ndim, transposed = int(op[-2]), "transpose" in op
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8, 17]))
    per_group = st.sampled_from([1, 1, 2, 3, 5, 8, 16, 33]) if groups < 8 else st.integers(1, 2)
    first, second = draw(per_group) * groups, draw(per_group)
    kernel, strides, dilations = (draw(each_axis(ndim, most)) for most in ((7, 4), (5, 4), (4, 3)))
    params: dict[str, Any] = {"stride": as_typed(draw, strides), "dilation": as_typed(draw, dilations)}
    if groups > 1:
        params["groups"] = groups
    lows, highs = ([draw(st.integers(0, 6)) for _ in range(ndim)] for _ in range(2))
    sizes = [draw(st.integers(1, 40 if ndim == 1 else 15)) for _ in range(ndim)]
    mode = "zeros" if transposed else draw(st.sampled_from(modes))
    form = draw(st.sampled_from(["pairs", "ints", "one", "same", "valid", *(["causal"] if ndim == 1 else [])]))
    padding = {
        "pairs": tuple(zip(lows, highs, strict=True)),
        "ints": tuple(lows),
        "one": lows[0],
    }.get(form, form)
    if transposed:
        extras = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
        params["output_padding"] = as_typed(draw, extras)
        crops = reference.transposed_crops(kernel, strides, padding, dilations)
        for axis, (lo, hi) in enumerate(crops):  # long enough for the crop
            least = lo + hi - extras[axis] - dilations[axis] * (kernel[axis] - 1) - 1
            sizes[axis] = max(sizes[axis], -(-least // strides[axis]) + 1)
    else:
        for axis in range(ndim):
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            lo, hi = (0, 0) if isinstance(padding, str) else reference.explicit_pads(padding, ndim)[axis]
            if mode != "zeros":  # reflect and circular need as much data as they pad
                sizes[axis] = max(sizes[axis], reach + 1, lo + 1, hi + 1)
            elif padding != "same" and padding != "causal":
                sizes[axis] = max(sizes[axis], reach - lo - hi)
        if mode != "zeros":
            params["padding_mode"] = mode
    params["padding"] = padding
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (3,)]))
    c_x = first if transposed else second * groups
    return Case(op, (*batch, *sizes, c_x), (first, second, *kernel), params, draw(st.booleans()))


def each_axis(ndim: int, most: tuple[int, int]) -> st.SearchStrategy[list[int]]:
    """One int from 1 on for each axis; `most` in one and in two dimensions."""
    return st.lists(st.integers(1, most[ndim - 1]), min_size=ndim, max_size=ndim)


def as_typed(draw: st.DrawFn, values: list[int]) -> Any:
    """Write a parameter as users do: a tuple, or one int where all axes agree."""
    return values[0] if len(set(values)) == 1 and draw(st.booleans()) else tuple(values)
