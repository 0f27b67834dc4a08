"""Segments: runs of the reduction whose terms lie evenly in x and in the weights, and where each begins in either."""

from __future__ import annotations

from ..runtime.microkernel import DEPTHWISE, DOT
from . import tables as T
from .layout import InPlace, Layout, Packed
from .plan_rows import LaidPhase, Memory, Table

__all__ = ["Segments", "weights_fuse"]


class Segments:
    """The segments of all phases, one after the other."""

    def __init__(self, layout: Layout, memory: Memory, channels: int, lanes: int) -> None:
        self.layout, self.x_steps, self.channels, self.lanes = layout, memory.x_steps, channels, lanes
        self.x: list[int] = []
        # One list for each width of a column tile: the rows of a packed tile are as wide as the tile.
        self.weights: list[list[int]] = [[] for _ in range(layout.widest + 1)]

    def add(self, row: list[int], phase: LaidPhase, fuse: int) -> None:
        """Cut the taps of a phase, `fuse` of a row of the kernel together, and say in its row where they are."""
        layout, taps_w, dilation_w = self.layout, phase.w.axis.taps, phase.w.axis.dilation
        _, step_h, step_w, step_c = self.x_steps
        row[T.SEGMENT], row[T.SEGMENT_TAPS] = len(self.x), fuse
        row[T.X_TERM] = dilation_w * step_w if layout.kind == DEPTHWISE else step_c
        firsts = [(h, w) for h in range(phase.h.axis.taps) for w in range(0, taps_w, fuse)]
        self.x += [h * phase.h.axis.dilation * step_h + w * dilation_w * step_w for h, w in firsts]
        if isinstance(layout, Packed):
            row[T.WEIGHT_START] = layout.starts[phase.number]
        for vectors, starts in enumerate(self.weights):
            if isinstance(layout, InPlace):
                taps = layout.taps[phase.number]
                starts += [layout.tap_offsets[taps[h * taps_w + w]] for h, w in firsts]
            else:
                term = 1 if layout.kind == DOT else vectors * self.lanes
                if layout.kind == DEPTHWISE and phase.columns:
                    term = phase.columns[0][T.WEIGHT_TERM]
                starts += [(h * taps_w + w) * self.channels * term for h, w in firsts]

    def add_to(self, table: Table, call: list[int]) -> None:
        """Append all of them to a plan, and say in the call's row where."""
        call[T.X_SEGMENTS], _ = table.add(self.x or [0])
        call[T.W_SEGMENTS], _ = table.add(*(starts or [0] for starts in self.weights))
        call[T.SEGMENTS] = max(1, len(self.x))


def weights_fuse(layout: Layout, phase: LaidPhase, channels: int) -> bool:
    """Say whether, along a row of the kernel, each tap's weights follow the previous tap's."""
    if not isinstance(layout, InPlace):
        return True
    k_step = phase.columns[0][T.WEIGHT_K] if phase.columns else 0
    taps, offsets = layout.taps[phase.number], layout.tap_offsets
    return {offsets[taps[w + 1]] - offsets[taps[w]] for w in range(phase.w.axis.taps - 1)} == {channels * k_step}
