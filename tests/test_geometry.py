"""Lengths, borders and phases by brute force: every one-line formula against counting."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbconv.geometry import Axis, ConvSpec, axis_phases, bind, bind_window

SIZES, TAPS, STEPS, PADS = range(9), (1, 2, 3, 5), (1, 2, 3, 4), ((0, 0), (1, 1), (0, 3), (2, 0), (7, 4))


def bound_axis(op: str, size: int, taps: int, **params: Any) -> Axis:
    """Bind one spatial axis; raises what `bind` raises."""
    return bind(ConvSpec.of(op, **params), (1, size, 1), (1, 1, taps)).axes[0]


def window(position: int, axis: Axis) -> list[int]:
    """Input positions that the taps of a forward output position meet, by the docstring of `Axis`."""
    return [position * axis.stride + tap * axis.dilation - axis.lo for tap in range(axis.taps)]


def check_forward(size: int, taps: int, stride: int, dilation: int, lo: int, hi: int) -> None:
    last_starts = [s for s in range(-lo, size + hi, stride) if s + dilation * (taps - 1) < size + hi]
    params = {"stride": stride, "dilation": dilation, "padding": ((lo, hi),)}
    if not last_starts:
        with pytest.raises(ValueError, match="does not fit"):
            bound_axis("conv1d", size, taps, **params)
        return
    axis = bound_axis("conv1d", size, taps, **params)
    assert axis == Axis(size, taps, stride, dilation, lo, hi, len(last_starts))
    check_interior(axis)


def check_interior(axis: Axis) -> None:
    inside = [p for p in range(axis.out) if all(0 <= row < axis.size for row in window(p, axis))]
    first, end = axis.interior
    assert 0 <= first <= end <= axis.out
    assert list(range(first, end)) == inside


def check_phases(axis: Axis) -> None:
    """Together the phases write each output once, from exactly the (input, tap) pairs of the definition."""
    expected: dict[int, set[tuple[int, int]]] = {o: set() for o in range(axis.out)}
    for i, j in itertools.product(range(axis.size), range(axis.taps)):
        o = i * axis.stride + j * axis.dilation - axis.lo
        if 0 <= o < axis.out:
            expected[o].add((i, j))
    written: dict[int, set[tuple[int, int]]] = {}
    for phase in axis_phases(axis, transposed=True):
        assert phase.axis.stride == 1
        assert phase.axis.size == axis.size
        for p in range(phase.axis.out):
            o = phase.out_start + p * phase.out_step
            assert o not in written
            rows = window(p, phase.axis)
            taps = [phase.tap_start + t * phase.tap_step for t in range(phase.axis.taps)]
            assert all(0 <= j < axis.taps for j in taps)
            written[o] = {(i, j) for i, j in zip(rows, taps, strict=True) if 0 <= i < axis.size}
        if phase.axis.taps:
            reach, rows_in_all = phase.axis.reach, axis.size + phase.axis.lo + phase.axis.hi
            assert rows_in_all - reach + 1 == phase.axis.out
            check_interior(phase.axis)
    assert written == expected


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("stride", STEPS)
def test_forward_axis_by_counting(taps: int, stride: int) -> None:
    for size, dilation, (lo, hi) in itertools.product(SIZES, STEPS, PADS):
        check_forward(size, taps, stride, dilation, lo, hi)


@given(
    size=st.integers(0, 60),
    taps=st.integers(1, 12),
    stride=st.integers(1, 20),
    dilation=st.integers(1, 20),
    lo=st.integers(0, 40),
    hi=st.integers(0, 40),
)
def test_forward_axis_drawn(size: int, taps: int, stride: int, dilation: int, lo: int, hi: int) -> None:
    check_forward(size, taps, stride, dilation, lo, hi)


@pytest.mark.parametrize("stride", STEPS)
def test_forward_same_is_ceil_with_least_padding_odd_one_right(stride: int) -> None:
    for size, taps, dilation in itertools.product(range(1, 12), TAPS, STEPS):
        axis = bound_axis("conv1d", size, taps, stride=stride, dilation=dilation, padding="same")
        assert axis.out == len(range(0, size, stride))
        assert axis.hi - axis.lo in (0, 1)
        fits = [p for p in range(axis.out) if max(window(p, axis)) < size + axis.hi]
        assert len(fits) == axis.out
        if axis.hi:  # one less would not do
            assert max(window(axis.out - 1, axis)) == size + axis.hi - 1
        check_interior(axis)


@pytest.mark.parametrize("stride", STEPS)
def test_forward_causal_never_looks_ahead(stride: int) -> None:
    for size, taps, dilation in itertools.product(range(1, 12), TAPS, STEPS):
        axis = bound_axis("conv1d", size, taps, stride=stride, dilation=dilation, padding="causal")
        assert axis.out == len(range(0, size, stride))
        assert [max(window(p, axis)) for p in range(axis.out)] == [p * stride for p in range(axis.out)]


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
def test_transposed_axis_by_counting(taps: int, stride: int) -> None:
    for size, dilation, (lo, hi), extra in itertools.product(range(6), (1, 2, 3, 4, 6), PADS, (0, 1, 3)):
        params = {"stride": stride, "dilation": dilation, "padding": ((lo, hi),), "output_padding": extra}
        if extra >= max(stride, dilation):
            with pytest.raises(ValueError, match="output_padding"):
                bound_axis("conv_transpose1d", size, taps, **params)
            continue
        last_written = (size - 1) * stride + (taps - 1) * dilation
        out = last_written + 1 - lo - hi + extra
        if out < 0:
            with pytest.raises(ValueError, match="nothing is left"):
                bound_axis("conv_transpose1d", size, taps, **params)
            continue
        axis = bound_axis("conv_transpose1d", size, taps, **params)
        assert axis == Axis(size, taps, stride, dilation, lo, hi, out)
        check_phases(axis)


@given(
    size=st.integers(1, 12),
    taps=st.integers(1, 9),
    stride=st.integers(1, 13),
    dilation=st.integers(1, 13),
    data=st.data(),
)
def test_transposed_axis_drawn(size: int, taps: int, stride: int, dilation: int, data: st.DataObject) -> None:
    extra = data.draw(st.integers(0, max(stride, dilation) - 1))
    full = (size - 1) * stride + (taps - 1) * dilation + 1
    lo = data.draw(st.integers(0, full + extra))
    hi = data.draw(st.integers(0, full + extra - lo))
    params = {"stride": stride, "dilation": dilation, "padding": ((lo, hi),), "output_padding": extra}
    axis = bound_axis("conv_transpose1d", size, taps, **params)
    assert axis.out == full - lo - hi + extra
    check_phases(axis)


@pytest.mark.parametrize("padding", ["same", "causal"])
@pytest.mark.parametrize("stride", STEPS)
def test_transposed_same_and_causal_multiply_the_length(padding: str, stride: int) -> None:
    for size, taps, dilation in itertools.product(range(1, 7), TAPS, STEPS):
        params = {"stride": stride, "dilation": dilation, "padding": padding}
        axis = bound_axis("conv_transpose1d", size, taps, **params)
        assert axis.out == size * stride
        check_phases(axis)
        forward = bound_axis("conv1d", size * stride, taps, **params)
        assert forward.out == size
        if padding == "same":
            assert axis.lo == forward.lo
        else:
            assert axis.lo == 0


def test_a_convolution_is_one_phase() -> None:
    axis = bound_axis("conv1d", 9, 3, stride=2, padding=1)
    (phase,) = axis_phases(axis, transposed=False)
    assert phase == (axis, 0, 1, 0, 1)


def test_phases_of_two_axes_are_all_combinations() -> None:
    spec = ConvSpec.of("conv_transpose2d", stride=(2, 3))
    geometry = bind(spec, (1, 4, 5, 1), (1, 1, 3, 4))
    outputs = [
        (v.out_start + p * v.out_step, h.out_start + q * h.out_step)
        for v, h in geometry.phases()
        for p in range(v.axis.out)
        for q in range(h.axis.out)
    ]
    _, height, width, _ = geometry.output_shape
    assert sorted(outputs) == list(itertools.product(range(height), range(width)))


@pytest.mark.parametrize(
    ("op", "x_shape", "weight_shape", "params", "expected"),
    [
        ("conv1d", (2, 10, 4), (6, 4, 3), {}, (2, 8, 6)),
        ("conv1d", (10, 4), (6, 2, 3), {"groups": 2, "stride": 3}, (3, 6)),
        ("conv2d", (2, 10, 9, 4), (6, 4, 3, 2), {"padding": ((1, 2), (0, 1))}, (2, 11, 9, 6)),
        ("conv2d", (10, 9, 4), (6, 4, 3, 2), {"stride": (2, 1), "dilation": (1, 3)}, (4, 6, 6)),
        ("conv_transpose1d", (2, 10, 4), (4, 6, 3), {"stride": 2, "output_padding": 1}, (2, 22, 6)),
        ("conv_transpose1d", (10, 4), (4, 3, 3), {"groups": 2}, (12, 6)),
        ("conv_transpose2d", (0, 10, 9, 4), (4, 6, 2, 2), {"stride": 2}, (0, 20, 18, 6)),
    ],
)
def test_output_shape(op: str, x_shape: Any, weight_shape: Any, params: dict[str, Any], expected: Any) -> None:
    assert bind(ConvSpec.of(op, **params), x_shape, weight_shape).output_shape == expected


def test_window_counts_columns() -> None:
    geometry = bind_window(ConvSpec.of("im2col2d", stride=2), (3, 9, 7, 5), (3, 2))
    assert geometry.output_shape == (3, 4, 3, 3 * 2 * 5)


@pytest.mark.parametrize("one", [2, np.int32(2), np.uint8(2), (2,), [2], (np.int64(2),)])
def test_specs_that_mean_the_same_are_equal(one: Any) -> None:
    spec = ConvSpec.of("conv1d", stride=one, padding=one, dilation=one)
    other = ConvSpec.of("conv1d", stride=2, padding=((2, 2),), dilation=2)
    assert spec == other
    assert hash(spec) == hash(other)


@pytest.mark.parametrize("transposed", [False, True])
def test_output_padding_is_legal_below_stride_or_dilation(transposed: bool) -> None:
    for stride, dilation, extra in itertools.product(range(1, 5), range(1, 5), range(6)):
        params = {"stride": stride, "dilation": dilation, "output_padding": extra}
        if transposed and extra >= max(stride, dilation):
            with pytest.raises(ValueError, match=f"got output_padding {extra}, stride {stride}, dilation {dilation}"):
                ConvSpec.of("conv_transpose1d", **params)
        elif transposed:
            assert ConvSpec.of("conv_transpose1d", **params).output_padding == (extra,)
