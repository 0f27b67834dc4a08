"""The adjoint of the padding modes that repeat data: what flows to the padded rim flows on to the pixels it repeats.

The gradient of the padded input is one transposed convolution. Its interior is computed straight into the result; the
positions that some padding repeats are then computed again, in small pieces, as the sum over all padded positions that
show them. No padded array is made, and every result is rounded once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from .arrays import compute_dtype
from .geometry import Axis, Geometry
from .parameters import Pair

__all__ = ["fold_rim"]

_PIECE = 512 * 1024  # bytes of what is computed at a time
_REPEATS = 8  # padded positions that repeat one border pixel, taken at a time

Run = Callable[[Geometry, np.ndarray, np.ndarray], None]


class _Shown(NamedTuple):
    """Padded positions `[low, high)` that show the positions `[start, end)`: copied, reversed or (once) repeated."""

    start: int
    end: int
    low: int
    high: int
    how: Literal["copied", "reversed", "repeated"]


def fold_rim(geometry: Geometry, grad_output: np.ndarray, grad: np.ndarray, run: Run) -> None:
    """Overwrite the positions of `grad`, of the shape of x, that padding repeats, with their full gradient.

    `run(adjoint, grad_output, target)` computes a transposed convolution into a contiguous array.
    """
    if not geometry.batched:
        geometry, grad, grad_output = replace(geometry, batched=True), grad[None], grad_output[None]
    mode, compute = geometry.spec.padding_mode, compute_dtype(grad.dtype)
    for samples, box in _pieces(geometry, compute.itemsize):
        part = replace(geometry, n=samples.stop - samples.start)
        target = grad[(samples, *(slice(*pair) for pair in box))]
        total = np.zeros(target.shape, compute)
        shown = (_shown(axis, start, end, mode) for axis, (start, end) in zip(geometry.axes, box, strict=True))
        for combination in itertools.product(*shown):
            # Starts that keep the phases of the stride need no other packing of the weight.
            starts = [one.low - one.low % axis.stride for axis, one in zip(geometry.axes, combination, strict=True)]
            ends = [one.high for one in combination]
            flow = np.empty((part.n, *(b - a for a, b in zip(starts, ends, strict=True)), geometry.c_in), compute)
            run(part.adjoint(list(zip(starts, ends, strict=True))), grad_output[samples], flow)
            flow = flow[(slice(None), *(slice(one.low - a, None) for a, one in zip(starts, combination, strict=True)))]
            for dim, one in enumerate(combination, 1):
                if one.how == "reversed":
                    flow = np.flip(flow, dim)
                elif one.how == "repeated":
                    flow = flow.sum(axis=dim, keepdims=True)
            into = (slice(one.start - a, one.end - a) for one, (a, _) in zip(combination, box, strict=True))
            total[(slice(None), *into)] += flow
        with np.errstate(over="ignore"):  # beyond a half type lies infinity
            target[...] = total


def _pieces(geometry: Geometry, itemsize: int) -> Iterator[tuple[slice, list[Pair]]]:
    """Cut what padding repeats into boxes of a bounded size; each position is in one."""
    mode = geometry.spec.padding_mode
    rims = [_repeated(axis, mode) for axis in geometry.axes]
    # What a piece is computed from is longer than itself by so much.
    more = [
        axis.stride - 1 + (min(max(axis.lo, axis.hi), _REPEATS) if mode == "replicate" else 0) for axis in geometry.axes
    ]
    most = max(1, _PIECE // (itemsize * max(1, geometry.c_in)))
    for i, axis in enumerate(geometry.axes):
        for rim in ((0, rims[i][0]), (rims[i][1], axis.size)):
            # Of the axes before, what their own rims have not covered.
            box = [*rims[:i], rim, *((0, other.size) for other in geometry.axes[i + 1 :])]
            sizes = [end - start for start, end in box]
            if min(sizes) <= 0:
                continue
            pixels = math.prod(size + m for size, m in zip(sizes, more, strict=True))
            if pixels <= most:
                step = most // pixels
                for sample in range(0, geometry.n, step):
                    yield slice(sample, min(sample + step, geometry.n)), box
                continue
            longest = sizes.index(max(sizes))
            start, end = box[longest]
            step = max(1, most * sizes[longest] // pixels)
            for sample in range(geometry.n):
                for at in range(start, end, step):
                    box[longest] = (at, min(at + step, end))
                    yield slice(sample, sample + 1), list(box)


def _repeated(axis: Axis, mode: str) -> Pair:
    """Give (low, high): all positions that padding repeats lie in `[0, low)` or `[high, size)`."""
    lo, hi, size = axis.lo, axis.hi, axis.size
    low, high = {
        "reflect": (lo + 1 if lo else 0, hi + 1 if hi else 0),
        "replicate": (min(lo, 1), min(hi, 1)),
        "circular": (hi, lo),
    }[mode]
    low = min(low, size)
    return low, max(low, size - high)


def _shown(axis: Axis, start: int, end: int, mode: str) -> list[_Shown]:
    """List where the positions `[start, end)` are shown: at themselves, and in the padding."""
    lo, hi, size = axis.lo, axis.hi, axis.size
    shown = [_Shown(start, end, start, end, "copied")]
    if mode == "circular":
        a, b = max(start, size - lo), min(end, hi)
        shown += [_Shown(a, end, a - size, end - size, "copied"), _Shown(start, b, start + size, b + size, "copied")]
    elif mode == "reflect":
        a, b, last = max(start, 1), min(end, lo + 1), 2 * (size - 1)
        shown.append(_Shown(a, b, 1 - b, 1 - a, "reversed"))
        a, b = max(start, size - 1 - hi), min(end, size - 1)
        shown.append(_Shown(a, b, last - b + 1, last - a + 1, "reversed"))
    else:
        if start == 0:
            cuts = range(-lo, 0, _REPEATS)
            shown += [_Shown(0, 1, low, min(low + _REPEATS, 0), "repeated") for low in cuts]
        if end == size:
            cuts = range(size, size + hi, _REPEATS)
            shown += [_Shown(size - 1, size, low, min(low + _REPEATS, size + hi), "repeated") for low in cuts]
    return [one for one in shown if one.start < one.end]
