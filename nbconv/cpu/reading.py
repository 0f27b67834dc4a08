"""How a plan's tiles read x: in place or gathered, sliding or not, and which taps that meet no data they leave out.

What tiles read follows from the shapes, never from how work is cut: an output adds up in one order on any threads.
"""

from __future__ import annotations

from dataclasses import replace

from ..geometry import UNIT_PHASE, Axis, Geometry
from ..runtime.microkernel import DENSE, DEPTHWISE, DOT, NARROW, group_of, kind_lanes
from ..runtime.threads import is_shared
from . import tables as T
from .layout import Layout, Packed
from .panels import padded_length
from .plan_rows import Memory, lie_alike, list_phases, outputs_times_taps
from .strips import line_reach
from .tiles import (
    MOST_SLIDING_COLUMNS,
    blocking,
    is_better_sliding,
    is_crowded,
    max_dot_rows,
    max_grouped_rows,
    max_narrow_rows,
    max_rows,
    rim_grows,
    rims_fit,
    rows_apart,
    sliding_rows,
    spreading_rows,
    uncrowded,
)

__all__ = ["Reading"]

# Taps of a window that are worth a copy of what a job reads, where lines of x are so many times what their sets hold,
# and more where windows move further: then each line is read for fewer outputs.
_COPIED_TAPS, _COPIED_CROWD = 25, 2


class Reading:
    """What a plan's tiles read, and how; `make_plan` describes what it is made of."""

    def __init__(
        self,
        geometry: Geometry,
        memory: Memory,
        layout: Layout,
        algorithm: str,
        workers: int,
        finite: bool,
        known: bool,
    ) -> None:
        self.geometry, self.memory, self.layout = geometry, memory, layout
        self.blocking, self.lanes = blocking(memory.compute), kind_lanes(layout.kind, memory.compute)
        self.depthwise = bool(layout.kind & DEPTHWISE)
        self.dense = layout.kind in (DENSE, NARROW)
        self.group_channels = geometry.c_in // geometry.groups
        self.repeat = geometry.c_out // geometry.c_in if self.depthwise else 1
        self.channels = geometry.c_out if self.depthwise else geometry.c_in
        self.widest = layout.widest
        self.h, self.w = (UNIT_PHASE.axis,) * (2 - len(geometry.axes)) + geometry.axes
        self.phases = list(list_phases(geometry, layout, self.lanes))
        self.flops = 2 * geometry.n * self.group_channels * outputs_times_taps(self.phases)
        # Blocks for several would only cost, where one does all of them.
        self.workers = workers if workers > 1 and is_shared(self.flops) else 1
        full_rows = self._full_rows()
        self.spreads = algorithm != "im2col" and finite and self._may_spread()
        # Padded zeros take part in a convolution: they may be left out where all weights are finite.
        self.leaves_out = finite and known and geometry.spec.padding_mode == "zeros"
        self.fits = self.leaves_out and algorithm != "im2col" and not self.spreads and self._may_fit(full_rows)
        self.open, self.in_place, self.panels_only = self._choose_reading(algorithm, finite, full_rows)
        _, _, step_w, step_c = memory.y_steps
        gaps = step_c != 1 or (max(layout.merged) > 1 and step_w != geometry.c_out)
        self.scratch = gaps or memory.y_half != T.NOT_HALF
        self.even = len(geometry.axes) == 1 and not self.scratch and lie_alike(memory, self.phases)
        sizes = max((self.sliding_rows(phase.w.axis) for phase in self.phases), default=())
        # Tiles that slide start from one row, the bias: the sums of an earlier chunk are many.
        self.slides = self.spreads or (
            layout.kind == DEPTHWISE and self.in_place and bool(sizes) and self.has_one_chunk()
        )
        self.source, pitch = memory.x_steps, padded_length(self.widest * self.lanes)
        self.copied_lines = self._copied_lines(pitch) if layout.kind == DEPTHWISE and self.in_place else 0
        if self.copied_lines:
            self.memory, self.even = replace(memory, x_steps=(0, self.w.size * pitch, pitch, 1)), False
            sizes = self.sliding_rows(self.phases[0].w.axis)
        self.rows = sizes[0] if self.slides and self.open == T.ALL_OPEN else full_rows
        self.far = layout.kind == DENSE and isinstance(layout, Packed) and layout.size > self.blocking.uncached
        vectors = max((sum(c[T.VECTORS] for c in columns) for columns in layout.columns), default=0)
        grows = rim_grows(self.rows, vectors, self.h.taps, self.w.taps * self.group_channels, self.lanes)
        self.whole_tiles = self.dense and self.open != T.ALL_OPEN and grows
        self.lines = self._gathers_lines()

    def has_one_chunk(self) -> bool:
        """Say whether the weights of the whole reduction are in cache together."""
        return self.h.taps * self.w.taps * self.group_channels <= self.blocking.reduction

    def _copied_lines(self, pitch: int) -> int:
        """Give the lines of an image for which a job had better copy what it reads, to columns so far apart; else 0.

        It pays where columns of x that a tile reads lie in few sets of L1, if few lines are copied twice; and where
        windows too long to slide load a vector for each multiply-add: none of the copy's lie across lines.
        """
        if len(self.phases) != 1 or self.scratch:
            return 0
        h, w = self.phases[0].h.axis, self.phases[0].w.axis
        sizes, (_, _, step_w, step_c) = sliding_rows(w.taps, self.even), self.memory.x_steps
        met = h.taps * self.columns_of(sizes[0], w) if sizes else 0
        pays = (
            (not self.slides or is_crowded(met // (_COPIED_CROWD * w.stride), step_w * self.memory.compute.itemsize))
            and self.open == T.ALL_OPEN
            and h.taps * w.taps >= _COPIED_TAPS
            and (not self.slides or self.channels > self.widest * self.lanes)
            and step_c == 1
        )
        reach = self.columns_of(0, h)
        most = (self.blocking.panel // max(1, w.size * pitch) - reach) // h.stride if pays else 0
        lines = max((n for n in range(1, min(most, h.out) + 1) if h.out % n == 0), default=0)
        return lines if lines == h.out or 2 * reach <= lines * h.stride else 0

    def sliding_rows(self, w: Axis) -> tuple[int, ...]:
        """List the rows of tiles whose window may slide along an axis."""
        if self.spreads:
            return self._spreading_rows(w)
        sizes = sliding_rows(w.taps, self.even)
        lines = self.h.taps * self.columns_of(sizes[0], w) if sizes else 0
        return uncrowded(sizes, lines, self.memory.x_steps[2] * self.memory.compute.itemsize)

    def _spreading_rows(self, w: Axis) -> tuple[int, ...]:
        row_bytes, is_group = self.memory.x_steps[2] * self.memory.compute.itemsize, group_of(self.layout.kind) > 0
        return spreading_rows(w.taps, w.stride, self.widest, row_bytes, is_group)

    def _may_spread(self) -> bool:
        """Say whether tiles, not depthwise ones, slide along rows of x, over their borders too."""
        geometry, memory, layout = self.geometry, self.memory, self.layout
        if layout.kind == DOT:
            # Taps of a row are no longer one run.
            gains = self.group_channels >= self.lanes and self.widest <= MOST_SLIDING_COLUMNS
        else:
            # Of several vectors of columns, tiles that do not slide have more rows, and load as little.
            is_group = geometry.groups > 1 and (layout.kind != DENSE or self.widest == 1)
            gains = is_group or is_better_sliding(self.group_channels, self.widest, memory.compute)
            gains = gains and layout.kind != DEPTHWISE and max(layout.merged) == 1
        return (
            gains
            and isinstance(layout, Packed)
            and geometry.spec.padding_mode == "zeros"
            and memory.x_half == T.NOT_HALF
            and memory.x_steps[3] == 1
            and self.has_one_chunk()
            and bool(self.phases)
            and all(self._spreads_all_along(phase.w.axis) for phase in self.phases)
        )

    def _spreads_all_along(self, w: Axis) -> bool:
        """Say whether all tiles of a line can slide: they add up in an order of their own, however a line is cut."""
        sizes = self._spreading_rows(w)
        right = (w.out - 1) * w.stride - w.lo + w.taps - w.size
        # At either end one tile reaches over the border.
        return bool(sizes) and w.dilation == 1 and w.out >= sizes[-1] and max(w.lo, right) <= sizes[-1] * w.stride

    def _may_fit(self, rows: int) -> bool:
        """Say whether kernels made for the rims of x pay, of tiles that have so many rows."""
        most_taps = self.blocking.row // max(1, self.group_channels * self.widest * self.lanes)
        return (
            self.dense
            and self.memory.x_half == T.NOT_HALF
            and (self.layout.kind == DENSE or self.memory.x_steps[3] == 1)
            and self.group_channels > 0
            and bool(self.phases)
            and all(0 < p.w.axis.taps <= most_taps and rims_fit(p.w.axis, rows, self.widest) for p in self.phases)
        )

    def _gathers_lines(self) -> bool:
        """Say whether columns of lines are gathered, not windows: they are fewer, and enough fit in the panel."""
        reaches = [self.columns_of(self.rows, phase.w.axis) for phase in self.phases]
        return (
            self.geometry.spec.ndim == 1
            and not self.panels_only
            and self.open != T.ALL_OPEN
            and all(p.w.axis.stride <= line_reach(0, p.w.axis.taps, p.w.axis.dilation) for p in self.phases)
            and all(columns <= self.rows * p.w.axis.taps for columns, p in zip(reaches, self.phases, strict=True))
            and self.group_channels > 0
            and bool(self.phases)
            and max(reaches) * min(self.group_channels, self.blocking.reduction) <= self.blocking.panel
        )

    def columns_of(self, rows: int, w: Axis) -> int:
        """Give the columns of x that so many positions, one after the other, reach over."""
        return rows * w.stride + line_reach(w.stride, w.taps, w.dilation)

    def _full_rows(self) -> int:
        kind = self.layout.kind
        if kind == DOT:
            row_bytes = self.w.stride * abs(self.memory.x_steps[2]) * self.memory.compute.itemsize
            return max_dot_rows(self.widest, row_bytes, self.h.taps * self.w.taps)
        if kind == NARROW:
            return max_narrow_rows(self.widest)
        if kind == DENSE:
            row_bytes = self.w.stride * self.memory.x_steps[2] * self.memory.compute.itemsize
            return rows_apart(max_rows(self.widest, False), row_bytes)
        return max_rows(self.widest, True) if kind == DEPTHWISE else max_grouped_rows(self.widest)

    def _choose_reading(self, algorithm: str, finite: bool, full_rows: int) -> tuple[int, bool, bool]:
        """Choose which taps without data are left out, whether x is read in place, and if not by choice."""
        geometry, layout = self.geometry, self.layout
        transposed = geometry.spec.transposed
        if self.fits:
            return T.ALL_OPEN, True, False
        if transposed and not finite:
            # It has no padding: an infinite weight must not meet a zero that only fills a panel.
            return T.ALL_OPEN, True, False
        lines_are_short = self.w.out < full_rows * (self.w.stride if transposed else 1)
        slides = self.depthwise or self.spreads
        panels_only = algorithm == "im2col" or (algorithm == "auto" and lines_are_short and not slides)
        # A half-precision row is widened in a panel; other than dense tiles read neighbouring channels.
        in_place = not panels_only and self.memory.x_half == T.NOT_HALF and self.repeat == 1
        if layout.kind != DENSE and self.memory.x_steps[3] != 1:
            in_place = False
        is_open = in_place and self.leaves_out
        if self.spreads or (is_open and layout.kind == DEPTHWISE and self.has_one_chunk()):
            return T.ALL_OPEN, in_place, panels_only
        return (T.LINES_OPEN if is_open else T.CLOSED), in_place, panels_only
