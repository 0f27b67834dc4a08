"""What meets what: how many (output position, tap) pairs of a convolution touch real data, without running it.

Three sets take part in every convolution: output positions, taps, input positions. A *pair* is one (output position,
tap) that reads an input position. Every exact count of the package is a number of pairs, less the number of targets
that received at least one: a sum over the taps, and a union over them. Both split into one factor an axis.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from .geometry import Axis, Geometry

__all__ = ["Incidence", "axis_incidence", "incidence"]

Run = tuple[int, int]


class Incidence(NamedTuple):
    """Sizes of what takes part; of one axis, or (multiplied) of all of them.

    `pairs` are the (output position, tap) pairs that meet data, `outputs` the output positions met by at least one
    tap, `inputs` the input positions read at least once, `taps` the taps that meet data at all.
    """

    pairs: int
    outputs: int
    inputs: int
    taps: int


@lru_cache(maxsize=1024)
def incidence(geometry: Geometry) -> Incidence:
    """Multiply the incidences of a geometry's axes: a position takes part iff its coordinate on every axis does."""
    spec = geometry.spec
    each = [axis_incidence(axis, spec.transposed, spec.padding_mode) for axis in geometry.axes]
    return Incidence(*(math.prod(factors) for factors in zip(*each, strict=True)))


def axis_incidence(axis: Axis, transposed: bool, padding_mode: str = "zeros") -> Incidence:
    """Count what meets what along one axis, in O(taps).

    Parameters
    ----------
    axis
        The bound axis.
    transposed
        Whether it belongs to a transposed convolution.
    padding_mode
        With any mode but ``"zeros"`` padding is data: it stands for an input position, so every tap meets data.

    Examples
    --------
    Two inputs and three taps, transposed: the four outputs meet 1, 2, 2 and 1 taps.

    >>> axis_incidence(Axis(size=2, taps=3, stride=1, dilation=1, lo=0, hi=0, out=4), transposed=True)
    Incidence(pairs=6, outputs=4, inputs=2, taps=3)
    """
    # One side of the axis is walked in strides (outputs of a convolution, inputs of its transpose), the other is dense:
    # tap t joins strided position p to dense position p*stride + t*dilation - lo, if that lies within the dense side.
    strided, dense = (axis.size, axis.out) if transposed else (axis.out, axis.size)
    shifts = [tap * axis.dilation - axis.lo for tap in range(axis.taps)]
    inside = [_positions_inside(strided, dense, axis.stride, shift) for shift in shifts]
    landings = [_Landing(shift, 1, run) for shift, run in zip(shifts, inside, strict=True)]
    if padding_mode != "zeros":
        for shift, (first, end) in zip(shifts, inside, strict=True):
            landings += _folded(padding_mode, dense, axis.stride, shift, (0, first), (end, strided))
        inside = [(0, strided)] * axis.taps
    pairs = sum(end - first for first, end in inside)
    strided_met = _union_size(inside)
    dense_met = _landed(landings, axis.stride)
    outputs, inputs = (dense_met, strided_met) if transposed else (strided_met, dense_met)
    return Incidence(pairs, outputs, inputs, sum(first < end for first, end in inside))


class _Landing(NamedTuple):
    """Dense positions `shift + direction*stride*p` for `p` in `[first, end)` of `run`."""

    shift: int
    direction: int
    run: Run


def _positions_inside(count: int, bound: int, stride: int, shift: int) -> Run:
    """Return the range of positions `p` in `[0, count)` with `0 <= p*stride + shift < bound`."""
    first = min(max(0, -(shift // stride)), count)
    return first, max(first, min(count, -((shift - bound) // stride)))


def _folded(mode: str, size: int, stride: int, shift: int, below: Run, above: Run) -> Iterator[_Landing]:
    """Say where the padding rule sends what falls below and above the data; one fold suffices, `bind` sees to it."""
    if mode == "replicate":
        for edge, (first, end) in ((0, below), (size - 1, above)):
            yield _Landing(edge, 1, (0, min(1, end - first)))
    elif mode == "reflect":
        yield _Landing(-shift, -1, below)
        yield _Landing(2 * (size - 1) - shift, -1, above)
    else:
        yield _Landing(shift + size, 1, below)
        yield _Landing(shift - size, 1, above)


def _landed(landings: Iterable[_Landing], stride: int) -> int:
    """Count distinct dense positions: landings of one residue modulo the stride are runs of whole strides."""
    runs: defaultdict[int, list[Run]] = defaultdict(list)
    for shift, direction, (first, end) in landings:
        whole, residue = divmod(shift, stride)
        runs[residue].append((whole + first, whole + end) if direction > 0 else (whole - end + 1, whole - first + 1))
    return sum(_union_size(same) for same in runs.values())


def _union_size(runs: Iterable[Run]) -> int:
    total = 0
    covered: int | None = None
    for first, end in sorted(run for run in runs if run[0] < run[1]):
        start = first if covered is None else max(first, covered)
        if end > start:
            total += end - start
            covered = end
    return total
