"""The planner: turns a bound geometry into the tables that the loops run. Integers only; cached on every input.

Here it is decided which positions form lines, which taps fuse into one run, how the reduction is cut into chunks, and
how work is cut into jobs.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..geometry import UNIT_PHASE, Axis, Geometry
from ..runtime.microkernel import DENSE, DEPTHWISE, DOT, NARROW, kind_lanes
from ..runtime.threads import is_one_call, is_shared
from . import tables as T
from .chunks import cut_reduction, cut_rows, even_cuts
from .kernels import Kernels
from .layout import Layout, Packed
from .loops import exchange_rows
from .panels import padded_row
from .plan_rows import LaidPhase, Memory, Plan, Table, call_row, lie_alike, list_phases, outputs_times_taps, phase_row
from .segments import Segments, weights_fuse
from .strips import STRIP_FIELDS, WIDE, Margins, Strip, cut_line
from .tiles import (
    FAR_POSITIONS,
    MOST_FAR_TAPS,
    MOST_SLIDING_COLUMNS,
    blocking,
    is_better_sliding,
    max_dot_rows,
    max_grouped_rows,
    max_narrow_rows,
    max_rows,
    rim_grows,
    rims_fit,
    round_up,
    rows_apart,
    sliding_rows,
    spreading_rows,
)

__all__ = ["make_plan"]


def make_plan(
    geometry: Geometry, memory: Memory, layout: Layout, algorithm: str, workers: int, finite: bool = True
) -> Plan:
    """Plan one convolution for `workers` threads; `finite` says that no weight is infinite or NaN."""
    return _Builder(geometry, memory, layout, algorithm, workers, finite).build()


class _Builder:
    def __init__(
        self, geometry: Geometry, memory: Memory, layout: Layout, algorithm: str, workers: int, finite: bool
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
        self.fits = algorithm != "im2col" and finite and self.dense and not self.spreads and self._may_fit(full_rows)
        self.open, self.in_place, self.panels_only = self._choose_reading(algorithm, finite, full_rows)
        _, _, step_w, step_c = memory.y_steps
        gaps = step_c != 1 or (max(layout.merged) > 1 and step_w != geometry.c_out)
        self.scratch = gaps or memory.y_half != T.NOT_HALF
        self.even = len(geometry.axes) == 1 and not self.scratch and lie_alike(memory, self.phases)
        sizes = max((self._sliding_rows(phase.w.axis) for phase in self.phases), default=())
        # Tiles that slide start from one row, the bias: the sums of an earlier chunk are many.
        self.slides = self.spreads or (
            layout.kind == DEPTHWISE and self.in_place and bool(sizes) and self._has_one_chunk()
        )
        self.rows = sizes[0] if self.slides and self.open == T.ALL_OPEN else full_rows
        self.far = layout.kind == DENSE and isinstance(layout, Packed) and layout.size > self.blocking.uncached
        vectors = max((sum(c[T.VECTORS] for c in columns) for columns in layout.columns), default=0)
        grows = rim_grows(self.rows, vectors, self.h.taps, self.w.taps * self.group_channels, self.lanes)
        self.whole_tiles = self.dense and self.open != T.ALL_OPEN and grows
        self.panel_channels = self.held_columns = 1
        self.kernels = self._choose_kernels()

    def _has_one_chunk(self) -> bool:
        return self.h.taps * self.w.taps * self.group_channels <= self.blocking.reduction

    def _sliding_rows(self, w: Axis) -> tuple[int, ...]:
        """List the rows of tiles whose window may slide along an axis."""
        return self._spreading_rows(w) if self.spreads else sliding_rows(w.taps, self.even)

    def _spreading_rows(self, w: Axis) -> tuple[int, ...]:
        return spreading_rows(w.taps, w.stride, self.widest, self.memory.x_steps[2] * self.memory.compute.itemsize)

    def _may_spread(self) -> bool:
        """Say whether tiles, not depthwise ones, slide along rows of x, over their borders too."""
        geometry, memory, layout = self.geometry, self.memory, self.layout
        if layout.kind == DOT:
            # Taps of a row are no longer one run.
            gains = self.group_channels >= self.lanes and self.widest <= MOST_SLIDING_COLUMNS
        else:
            gains = geometry.groups > 1 or is_better_sliding(self.group_channels, self.widest, memory.compute)
            gains = gains and layout.kind != DEPTHWISE and max(layout.merged) == 1
        return (
            gains
            and isinstance(layout, Packed)
            and geometry.spec.padding_mode == "zeros"
            and memory.x_half == T.NOT_HALF
            and memory.x_steps[3] == 1
            and self._has_one_chunk()
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
            self.geometry.spec.padding_mode == "zeros"
            and self.memory.x_half == T.NOT_HALF
            and (self.layout.kind == DENSE or self.memory.x_steps[3] == 1)
            and self.group_channels > 0
            and bool(self.phases)
            and all(0 < p.w.axis.taps <= most_taps and rims_fit(p.w.axis, rows, self.widest) for p in self.phases)
        )

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
        # Padded zeros take part in a convolution: they may be left out where all weights are finite.
        is_open = in_place and geometry.spec.padding_mode == "zeros" and finite
        if self.spreads or (is_open and layout.kind == DEPTHWISE and self._has_one_chunk()):
            return T.ALL_OPEN, in_place, panels_only
        lines_open = is_open and geometry.spec.ndim == 2
        return (T.LINES_OPEN if lines_open else T.CLOSED), in_place, panels_only

    def build(self) -> Plan:
        call = self._start_call()
        rows, most_positions = [], 1
        for phase in self.phases:
            row = phase_row(phase.h, phase.w, self.memory)
            if self.in_place:
                row[T.H_FIRST], row[T.H_END] = phase.h.axis.interior
                row[T.W_FIRST], row[T.W_END] = phase.w.axis.interior
            most_positions = max(most_positions, self._cut_blocks(row, phase))
            rows.append(row)
        call[T.COLUMN_BLOCKS] = self._column_blocks(sum(row[T.JOB_END] for row in rows))
        call[T.PHASES] = T.CALL_FIELDS
        table = Table(T.CALL_FIELDS + len(rows) * T.PHASE_FIELDS)
        segments = Segments(self.layout, self.memory, self.group_channels, self.lanes)
        jobs = self._number_jobs(call, rows)
        panel_terms, runs = 1, []
        for row, phase in zip(rows, self.phases, strict=True):
            segments.add(row, phase, self._fused_taps(phase, self.in_place))
            chunks, row_terms = self._cut_reduction(phase, row[T.SEGMENT_TAPS])
            panel_terms = max(panel_terms, row_terms)
            row[T.CHUNK], row[T.CHUNK_END] = table.add(*chunks)
            row[T.COLUMN], row[T.COLUMN_END] = table.add(*phase.columns)
            runs.append({chunk[T.CHUNK_RUN] for chunk in chunks})
        segments.add_to(table, call)
        self._size_scratch(call, panel_terms, most_positions)
        for row, phase, phase_runs in zip(rows, self.phases, runs, strict=True):
            self._add_strips(call, row, phase.w.axis, phase_runs.pop() if len(phase_runs) == 1 else 0, table)
        workers = max(1, min(self.workers, jobs))
        return Plan(
            np.array([*call, *itertools.chain(*rows), *table.numbers], np.int64),
            jobs if any(phase.columns for phase in self.phases) else 0,
            self.flops,
            is_one_call(jobs, self.flops),
            workers,
            call[T.WORK_SIZE] * workers,
            call[T.NOTES_SIZE] * workers,
            self.geometry.output_shape,
            max(self.layout.merged),
            self.slides and not self.spreads,
        )

    def _cut_reduction(self, phase: LaidPhase, fuse: int) -> tuple[list[list[int]], int]:
        """Cut a phase's reduction into chunks; give the most terms of a row of the panel, too."""
        h, w, limit = phase.h.axis, phase.w.axis, self.blocking.reduction
        if self.fits:
            return cut_rows(h.taps, w.taps, self.group_channels, limit), 1
        taps = h.taps * w.taps if self.geometry.c_in else 0
        # All rows of a tile, with the channels of all of a job's groups, must fit in the panel.
        fitting = taps if self.open == T.ALL_OPEN else self.blocking.panel // (self.panel_channels * self.rows)
        may_part = self.geometry.groups == 1
        chunks, most_taps, channels = cut_reduction(taps, fuse, self.group_channels, may_part, limit, fitting)
        return chunks, most_taps * (channels or self.panel_channels)

    def _choose_kernels(self) -> Kernels:
        geometry, layout, memory = self.geometry, self.layout, self.memory
        inputs = geometry.n * self.channels * self.h.size * self.w.size
        is_remote = inputs + math.prod(geometry.output_shape) > self.blocking.remote
        is_far = is_remote and self.h.taps * self.w.taps <= MOST_FAR_TAPS  # each line has few uses
        columns = [column for phase in self.phases for column in phase.columns]
        leaves_gaps = (
            (self.open == T.ALL_OPEN and not self.fits)
            or not isinstance(layout, Packed)
            or (self.in_place and memory.x_steps[3] != 1)
            or any(column[T.KERNEL_VECTORS] != column[T.VECTORS] for column in columns)
        )
        return Kernels(
            kind=layout.kind,
            dtype=memory.compute,
            slides=self.slides,
            spreads=self.spreads,
            fits=self.fits,
            even=self.even,
            step=self.group_channels if memory.x_steps[2] == self.group_channels else 0,
            far_rows=max((min(p.h.axis.stride, p.h.axis.taps) for p in self.phases), default=0) if is_far else 0,
            far_weights=self.far,
            written_out=self.dense and not leaves_gaps,
            widths={column[T.KERNEL_VECTORS] for column in columns},
            widest=self.widest,
            rows=self.rows,
        )

    def _number_jobs(self, call: list[int], rows: list[list[int]]) -> int:
        """Count the jobs of all phases, and say in each row where its own end."""
        counts = [row[T.JOB_END] * call[T.COLUMN_BLOCKS] for row in rows]
        # Phases that read the same of x follow each other where the weights of all of them stay in cache. Where they
        # differ in taps, threads that have as many jobs would not have as much work.
        differ = self.workers > 1 and len({p.h.axis.taps * p.w.axis.taps for p in self.phases}) > 1
        fitting = isinstance(self.layout, Packed) and self.layout.size <= self.blocking.resident
        in_turn = len(rows) > 1 and (differ or fitting)
        call[T.TURNS] = len(rows) if in_turn else 1
        ends = counts if in_turn else list(itertools.accumulate(counts))
        for row, end in zip(rows, ends, strict=True):
            row[T.JOB_END] = end
        return len(rows) * max(counts) if in_turn else sum(counts)

    def _fused_taps(self, phase: LaidPhase, in_place: bool) -> int:
        """Give the taps of a row of the kernel that one segment takes: all of them, or one."""
        taps_w, channels = phase.w.axis.taps, self.group_channels
        if self.layout.kind == DEPTHWISE:
            return max(1, taps_w)  # along a row of the kernel, tap follows tap as terms do elsewhere
        if (
            self.depthwise
            or self.spreads
            or self.fits
            or self.geometry.groups > 1
            or not phase.h.axis.taps
            or taps_w < 2
        ):
            return 1
        _, _, step_w, step_c = self.memory.x_steps
        x_fuses = not in_place or (step_c == 1 and step_w == channels and phase.w.axis.dilation == 1)
        return taps_w if x_fuses and weights_fuse(self.layout, phase, channels) else 1

    def _cut_blocks(self, row: list[int], phase: LaidPhase) -> int:
        """Cut a phase's positions into lines and blocks; give the most positions in one."""
        n, h, w = self.geometry.n, phase.h.axis, phase.w.axis
        lines, length = n * h.out, w.out
        step_n = self.memory.y_steps[0]
        evenly = row[T.Y_STEP_H] == w.out * row[T.Y_STEP_W] and (n == 1 or step_n == h.out * row[T.Y_STEP_H])
        if self.panels_only and (evenly or self.scratch):
            lines, length = 1, lines * length  # tiles may cross the rows of the image
        limit = self._block_limit(w)
        if self.workers > 1:
            # Four blocks for each thread let the last ones finish together; far weights are worth some more positions.
            share = -(-lines * length // (4 * self.workers))
            share = max(share, FAR_POSITIONS if self.far else 1)
            limit = max(self.rows, min(limit, round_up(share, self.rows)))
        row[T.LINES], row[T.LINE_LENGTH] = lines, length
        row[T.BLOCKS_PER_LINE] = row[T.LINES_PER_BLOCK] = row[T.BLOCK] = 1
        if lines * length == 0:
            return 1
        if length > limit:
            count = -(-length // limit)
            if self.workers > 1 and not self.spreads:
                # As many positions for each worker; tiles of a row fewer cost less than waiting for the last.
                row[T.BLOCK] = -(-length // (count if lines % self.workers == 0 else round_up(count, self.workers)))
            else:
                row[T.BLOCK] = round_up(-(-length // count), self.rows)
                while self.spreads and 0 < length % row[T.BLOCK] < self._sliding_rows(w)[-1]:
                    row[T.BLOCK] += self.rows
            row[T.BLOCKS_PER_LINE] = -(-length // row[T.BLOCK])
            row[T.JOB_END] = lines * row[T.BLOCKS_PER_LINE]
            return row[T.BLOCK]
        each = min(max(1, limit // length), lines)
        if self.workers > 1:  # as few lines as the busiest worker can have, in blocks as large as can be
            each = min(range(each, each // 2, -1), key=lambda each: -(-lines // (each * self.workers)) * each)
        row[T.BLOCK], row[T.LINES_PER_BLOCK] = length, each
        row[T.JOB_END] = -(-lines // row[T.LINES_PER_BLOCK])
        return row[T.LINES_PER_BLOCK] * length

    def _add_strips(self, call: list[int], row: list[int], w: Axis, run: int, table: Table) -> None:
        """Cut the blocks of a line into strips and compile their kernels, for runs of so many terms; 0: they differ."""
        cuts: dict[int, list[tuple[Strip, ...]]] = {}
        sizes: dict[Margins | None, set[int]] = {}
        all_open = self.open != T.CLOSED or (row[T.H_FIRST] == 0 and row[T.H_END] == row[T.OUT_H])
        for field, is_open in (T.CUTS, True), (T.CLOSED_CUTS, False):
            some = row[T.JOB_END] > 0 and not (all_open if not is_open else self.open == T.CLOSED and not self.in_place)
            length = row[T.LINE_LENGTH] if some else 0
            blocks = [(start, min(start + row[T.BLOCK], length)) for start in range(0, length, row[T.BLOCK])]
            cuts[field] = [tuple(cut_line(*block, is_open, call, row, self._sliding_rows(w))) for block in blocks]
        all_slide = all(strip.part & WIDE for strip in itertools.chain(*cuts[T.CUTS])) and not self.scratch
        if all_slide and self.kernels.slide_along(w, run) and not self.kernels.far_rows:
            # What one line has read, the next finds in L1. From memory x comes sooner in order.
            row[T.LINES_TOGETHER] = row[T.LINES_PER_BLOCK]
        for strip in itertools.chain(*cuts[T.CUTS], *cuts[T.CLOSED_CUTS]):
            sizes.setdefault(strip.margins, set()).add(strip.rows)
        kernels = {m: table.add(self.kernels.list_addresses(w, run, m, sizes[m]))[0] for m in sizes}
        for field, lines in cuts.items():
            known = {line: table.add(*(strip.fields(kernels) for strip in line)) for line in dict.fromkeys(lines)}
            row[field], _ = table.add(*(known[line] for line in lines))

    def _block_limit(self, w: Axis) -> int:
        read = w.stride * self.channels
        if self.dense and self.geometry.groups == 1:
            read = min(read, self.blocking.reduction)  # a chunk's part of each row
        span = self.blocking.rows_span // max(1, read)
        limit = max(self.rows, min(self.blocking.max_positions, span))
        return max(1, limit // self.rows) * self.rows

    def _column_blocks(self, n_blocks: int) -> int:
        """Cut the columns too where positions alone do not keep the threads busy, or groups would widen the panel."""
        most = max((len(phase.columns) for phase in self.phases), default=0)
        blocks = 1
        # Each job gathers its panels, and waits for its first far weights, by itself: then one for each thread is best.
        wanted = self.workers if self.far or self.panels_only else 4 * self.workers
        if self.workers > 1 and n_blocks < wanted:
            blocks = -(-wanted // max(1, n_blocks))
        if self.geometry.groups > 1:
            terms = self.h.taps * self.w.taps * self.channels * self.rows
            blocks = max(blocks, -(-terms // self.blocking.panel))
        blocks = max(1, min(blocks, most))
        for columns in {phase.columns for phase in self.phases}:
            for low, high in even_cuts(len(columns), blocks):
                if low < high:
                    first, last = columns[low], columns[high - 1]
                    self.panel_channels = max(self.panel_channels, last[T.CHANNEL_END] - first[T.CHANNEL])
                    held = last[T.OUT_CHANNEL] + last[T.COLUMNS] - first[T.OUT_CHANNEL]
                    self.held_columns = max(self.held_columns, held)
        return blocks

    def _start_call(self) -> list[int]:
        call, memory = call_row(self.geometry, self.memory), self.memory
        call[T.OPEN], call[T.REPEAT] = self.open, self.repeat
        call[T.FITS] = int(self.fits)
        # Sums that are held over several chunks must not be added to twice.
        call[T.OVERLAP] = int(self.slides and self.open == T.ALL_OPEN and self._has_one_chunk())
        call[T.GROUP_CHANNELS] = self.group_channels
        call[T.ROWS] = self.rows
        call[T.FAR] = int(self.far)
        call[T.WHOLE_TILES] = int(self.whole_tiles)
        call[T.PANEL_TERM] = int(self.layout.kind != DEPTHWISE)
        if self.scratch:
            compute = self.memory.compute
            call[T.EXCHANGE] = exchange_rows(compute, np.dtype(np.uint16) if self.memory.y_half else compute)
        call[T.KERNEL_ROW] = self.rows + 1
        call[T.Y_STEP_N], _, call[T.Y_STEP_POSITION], call[T.Y_STEP_C] = memory.y_steps
        call[T.OUT_CHANNELS] = self.geometry.c_out
        return call

    def _size_scratch(self, call: list[int], panel_terms: int, max_positions: int) -> None:
        """Bound what a worker holds at once: rows of the panel, rows of sums, strips."""
        panel_terms = getattr(padded_row, "py_func", padded_row)(panel_terms)
        panel_rows = max(self.rows, min(self.blocking.panel // panel_terms, max_positions))
        call[T.PANEL_ROWS] = panel_rows
        call[T.PANEL_SIZE] = panel_rows * panel_terms if self.open != T.ALL_OPEN else 0
        scratch_rows = max(self.rows, min(self.blocking.panel // self.held_columns, max_positions))
        call[T.SCRATCH_ROWS] = scratch_rows if self.scratch else max_positions
        # Depthwise tiles that slide take all columns of a job. Their outputs are still near when they are done.
        wide = self.slides and not self.spreads
        near = max(self.rows, self.blocking.near // max(1, self.channels))
        call[T.WIDE] = int(wide)
        call[T.STRIP_ROWS] = min(near, call[T.SCRATCH_ROWS]) if wide else call[T.SCRATCH_ROWS]
        call[T.WORK_SIZE] = call[T.PANEL_SIZE] + (scratch_rows * self.held_columns if self.scratch else 0)
        # Where taps are left out of unfused rows of the kernel, a position has a strip for each of those.
        parts = max((p.h.axis.taps for p in self.phases), default=1) if self.open == T.ALL_OPEN else 1
        strips = max_positions * max(1, parts)
        call[T.PANEL_SEGMENTS] = strips * STRIP_FIELDS
        call[T.NOTES_SIZE] = call[T.PANEL_SEGMENTS] + call[T.SEGMENTS]
