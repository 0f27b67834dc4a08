"""Where a tap of grad_weight meets evenly spaced pixels: every padding mode as runs of positions, without a copy."""

from __future__ import annotations

from ..geometry import Axis

__all__ = ["tap_segments"]


def tap_segments(axis: Axis, tap: int, mode: str) -> list[tuple[int, int, int, int]]:
    """List the ranges of positions for which a tap meets evenly spaced pixels: (first, end, pixel of the first, step).

    Padding needs no copy: towards the border reflected pixels run backwards, replicated ones stand still, circular ones
    go on at the other end, and zeros add nothing. Mode "padded" counts pixels on into the padding.
    """
    s, size, out = axis.stride, axis.size, axis.out
    start = tap * axis.dilation - axis.lo  # position p meets padded pixel start + p * s
    if mode == "padded":
        return [(0, out, start, s)]
    first = min(max(0, -(start // s)), out)
    end = min(max(first, (size - 1 - start) // s + 1), out)
    left, right = start, start + end * s
    ranges = {
        "zeros": [],
        "replicate": [(0, first, 0, 0), (end, out, size - 1, 0)],
        "reflect": [(0, first, -left, -s), (end, out, 2 * (size - 1) - right, -s)],
        "circular": [(0, first, left + size, s), (end, out, right - size, s)],
    }[mode]
    ranges.insert(1, (first, end, start + first * s, s))
    return [r for r in ranges if r[0] < r[1]]
