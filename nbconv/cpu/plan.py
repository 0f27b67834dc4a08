"""The planner: turns a bound geometry into the tables that the loops run. Integers only; cached on every input.

Here it is decided which positions form lines, which taps fuse into one run, how the reduction is cut into chunks, and
how work is cut into jobs; `reading` says how tiles read x.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..geometry import Axis, Geometry
from ..runtime.microkernel import DEPTHWISE, NARROW
from ..runtime.threads import is_one_call
from . import tables as T
from .chunks import cut_reduction, cut_rows, even_cuts
from .kernels import Kernels
from .layout import Layout, Packed
from .loops import exchange_rows
from .panels import padded_length
from .plan_rows import LaidPhase, Memory, Plan, Table, call_row, phase_row
from .reading import Reading
from .segments import Segments, weights_fuse
from .strips import STRIP_FIELDS, WIDE, Margins, Strip, cut_line
from .tiles import FAR_POSITIONS, round_up

__all__ = ["make_plan"]

# Where columns of x are not whole vectors, most of these lie across two lines: what a vector of each column of a long
# line of an image brings is too much for L1. Parts of a line that reach over so many columns are better, where these
# have few vectors.
_SPLIT_COLUMNS, _MOST_SPLIT_VECTORS = 32, 8


def make_plan(
    geometry: Geometry, memory: Memory, layout: Layout, algorithm: str, workers: int, finite: bool, known: bool
) -> Plan:
    """Plan one convolution for `workers` threads; if that is `known`, `finite`: no weight is infinite or NaN."""
    return _Builder(geometry, memory, layout, algorithm, workers, finite, known).build()


class _Builder(Reading):
    panel_channels = held_columns = 1
    """The most channels and output channels of a job's columns."""

    def build(self) -> Plan:
        inputs = self.geometry.n * self.channels * self.h.size * self.w.size
        self.numbers = inputs + math.prod(self.geometry.output_shape)
        self.kernels = self._choose_kernels()
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
            self._lies_beside(),
        )

    def _cut_reduction(self, phase: LaidPhase, fuse: int) -> tuple[list[list[int]], int]:
        """Cut a phase's reduction into chunks; give the most terms of a row of the panel, too."""
        h, w, limit = phase.h.axis, phase.w.axis, self.blocking.reduction
        if self.fits:
            return cut_rows(h.taps, w.taps, self.group_channels, limit), 1
        taps = h.taps * w.taps if self.geometry.c_in else 0
        # All rows of a tile, with the channels of all of a job's groups, must fit in the panel.
        fitting = self.blocking.panel // (self.panel_channels * self.rows)
        if self.open == T.ALL_OPEN or self.lines:
            fitting = taps
        may_part = self.geometry.groups == 1
        chunks, most_taps, channels = cut_reduction(taps, fuse, self.group_channels, may_part, limit, fitting)
        return chunks, most_taps * (channels or self.panel_channels)

    def _panel_width(self) -> int:
        """Give the numbers of a column of lines in the panel, or of a tap of windows."""
        if self.geometry.groups == 1:
            return min(self.group_channels, self.blocking.reduction)
        return max(self.group_channels, self.panel_channels)

    def _choose_kernels(self) -> Kernels:
        layout, memory = self.layout, self.memory
        # Where L3 still holds most of x, depthwise tiles are done so soon that asking costs as much as it gains, and
        # more where windows move further, since a tile meets more lines.
        near = self.blocking.far // 2 if self.spreads else self.blocking.remote // 2
        if not self.spreads and any(phase.w.axis.stride > 1 for phase in self.phases):
            near = self.blocking.remote * 5 // 4
        is_far = self.numbers > near and not self.copied_lines
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
            far_rows=max((_new_taps(p.h.axis) for p in self.phases), default=0) if is_far else 0,
            streams=self.numbers > self.blocking.remote and self._may_stream(),
            far_weights=self.far,
            written_out=self.dense and not leaves_gaps,
            widths={column[T.KERNEL_VECTORS] for column in columns},
            widest=self.widest,
            rows=self.rows,
        )

    def _may_stream(self) -> bool:
        """Say whether tiles write what nobody looks at again in this call, and whole lines of memory.

        Those that spread ask for the lines of y in time, and what reads y next then finds more of it in L3.
        """
        is_final = self.has_one_chunk() and not (self.scratch or self.memory.y_again)
        return is_final and not self.spreads and self.layout.kind != NARROW

    def _lies_beside(self) -> bool:
        """Say whether y had better lie in memory as x does, and not begin with a line of the cache.

        What goes past the caches is written in whole lines: then only where the tiles find these, and where windows
        have more than one row, for which vectors of x across two lines cost more.
        """
        finds_lines = not self.even and self.memory.x_steps[2] % self.lanes == 0
        return self.slides and not self.spreads and not self.copied_lines and (finds_lines or not self.kernels.streams)

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
        in_line = not in_place or (step_c == 1 and step_w == channels)
        x_fuses = in_line and (phase.w.axis.dilation == 1 or not (in_place or self.lines))
        return taps_w if x_fuses and weights_fuse(self.layout, phase, channels) else 1

    def _cut_blocks(self, row: list[int], phase: LaidPhase) -> int:
        """Cut a phase's positions into lines and blocks; give the most positions in one."""
        n, h, w = self.geometry.n, phase.h.axis, phase.w.axis
        lines, length = n * h.out, w.out
        step_n = self.memory.y_steps[0]
        evenly = row[T.Y_STEP_H] == w.out * row[T.Y_STEP_W] and (n == 1 or step_n == h.out * row[T.Y_STEP_H])
        if self.panels_only and (evenly or self.scratch):
            lines, length = 1, lines * length  # tiles may cross the rows of the image
        limit, shares = self._block_limit(w), self.workers > 1
        if self.copied_lines:
            limit, shares = self.copied_lines * w.out, False
        if shares:
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
                while self.spreads and 0 < length % row[T.BLOCK] < self.sliding_rows(w)[-1]:
                    row[T.BLOCK] += self.rows
            row[T.BLOCKS_PER_LINE] = -(-length // row[T.BLOCK])
            row[T.JOB_END] = lines * row[T.BLOCKS_PER_LINE]
            return row[T.BLOCK]
        each = min(max(1, limit // length), lines)
        if shares:  # as few lines as the busiest worker can have, in blocks as large as can be
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
            cuts[field] = [tuple(cut_line(*block, is_open, call, row, self.sliding_rows(w))) for block in blocks]
        all_slide = all(strip.part & WIDE for strip in itertools.chain(*cuts[T.CUTS])) and not self.scratch
        is_near = self.copied_lines > 0 or self.numbers <= self.blocking.remote
        if all_slide and self.kernels.slide_along(w, run) and is_near:
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
            places = self.h.taps * self.w.taps * self.rows
            if self.lines:
                places = max(self.columns_of(self.rows, phase.w.axis) for phase in self.phases)
            terms = places * self.channels
            blocks = max(blocks, -(-terms // self.blocking.panel))
        blocks = most if self.copied_lines else max(1, min(blocks, most))
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
        call[T.COPIED] = int(self.copied_lines > 0)
        call[T.SOURCE_N], call[T.SOURCE_H], call[T.SOURCE_W], _ = self.source
        call[T.FITS], call[T.PANEL_LINES] = int(self.fits), int(self.lines)
        # Sums that are held over several chunks must not be added to twice.
        call[T.OVERLAP] = int(self.slides and self.open == T.ALL_OPEN and self.has_one_chunk())
        call[T.GROUP_CHANNELS] = self.group_channels
        call[T.ROWS] = self.rows
        call[T.FAR] = int(self.far)
        call[T.STREAMS] = int(self.kernels.streams)
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
        panel_terms = padded_length(panel_terms)
        panel_rows = max(self.rows, min(self.blocking.panel // panel_terms, max_positions))
        if self.lines:
            # Rims at both ends of a line, or one line after the other: each reaches further than its positions.
            panel_terms, least = self._panel_width(), max(self.columns_of(self.rows, p.w.axis) for p in self.phases)
            most = max(self.columns_of(max_positions, p.w.axis) + least for p in self.phases)
            panel_rows = max(least, min(self.blocking.panel // panel_terms, most))
        call[T.PANEL_ROWS] = panel_rows
        call[T.PANEL_SIZE] = panel_rows * panel_terms if self.open != T.ALL_OPEN else 0
        scratch_rows = max(self.rows, min(self.blocking.panel // self.held_columns, max_positions))
        call[T.SCRATCH_ROWS] = scratch_rows if self.scratch else max_positions
        # Depthwise tiles that slide take all columns of a job. Their outputs are still near when they are done.
        wide = self.slides and not self.spreads
        near = max(self.rows, self.blocking.near // max(1, self.channels))
        call[T.WIDE] = int(wide)
        call[T.STRIP_ROWS] = min(near, call[T.SCRATCH_ROWS]) if wide else call[T.SCRATCH_ROWS]
        row, lanes = self.memory.x_steps[2], self.lanes
        if wide and self.h.taps > 1 and row % lanes and lanes < row <= _MOST_SPLIT_VECTORS * lanes:
            spans = ((_SPLIT_COLUMNS - self.columns_of(0, p.w.axis)) // p.w.axis.stride for p in self.phases)
            call[T.STRIP_ROWS] = max(self.rows, min(call[T.STRIP_ROWS], *spans))
        call[T.WORK_SIZE] = call[T.PANEL_SIZE] + (scratch_rows * self.held_columns if self.scratch else 0)
        if self.copied_lines:
            call[T.WORK_SIZE] = self.columns_of(self.copied_lines, self.phases[0].h.axis) * call[T.X_STEP_H]
        # Where taps are left out of unfused rows of the kernel, a position has a strip for each of those.
        parts = max((p.h.axis.taps for p in self.phases), default=1) if self.open == T.ALL_OPEN else 1
        strips = max_positions * max(1, parts)
        call[T.PANEL_SEGMENTS] = strips * STRIP_FIELDS
        call[T.NOTES_SIZE] = call[T.PANEL_SEGMENTS] + call[T.SEGMENTS]


def _new_taps(h: Axis) -> int:
    """Count the taps of a position whose data no position before it has met: the last ones."""
    return min(h.stride // math.gcd(h.stride, h.dilation), h.taps)
