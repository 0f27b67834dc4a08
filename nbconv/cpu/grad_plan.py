"""The planner of grad_weight: turns a bound geometry into the tables that its loops run. Integers only.

What decides the order of a sum (parts, chunks, segments) depends on the shapes alone; how the weight is cut into blocks
may depend on the number of threads, since each of its numbers is summed by itself.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..geometry import PADDING_MODES, Axis, Geometry
from ..runtime.microkernel import DENSE, DEPTHWISE, TRIMMED, adding_kernel, correlating_kernel, tile_kernel
from ..runtime.target import host_target, lanes
from . import grad_tables as G
from .grad_segments import tap_segments
from .tables import NOT_HALF
from .tiles import blocking, is_far_slow, max_reducing_vectors, max_rows, round_up, rows_apart, split_columns

__all__ = ["GradMemory", "GradPlan", "plan_tiles"]

_UNIT = Axis(1, 1, 1, 1, 0, 0, 1)
_CHUNK = 1 << 17  # numbers of both operands that stay in L2
_LEAST_CHUNK, _MOST_CHUNK = 256, 2048  # positions that pay for a round of all taps; that one round takes
_SUMS = 192 * 1024  # float32 numbers of a job's sums, which L2 need not hold: they come and go in order
_MOST_VECTORS = 8  # of columns of a job: more would push out of L2 what all of them read
_PANEL = 128 * 1024  # numbers of a gathered panel
# Positions of a chunk whose narrow rows are packed for tiles of columns: L1 then holds those of a tile, beside what it
# reads of the wide ones. Channels of either operand, and rows of the product, that pay for it.
_PACKED_CHUNK, _PACKED_CHANNELS, _PACKED_ROWS = 192, 96, 384
# The reduction of a small weight is split, so that each thread has as much to do: into so many parts at most, and as
# many jobs at most, of so many positions at least, which pay for zeroing and adding one more set of sums.
_PARTS, _JOBS, _PART = 8, 16, 512
_LEAST_BLOCK = 32 * 1024  # float32 numbers: sums of a job that uses what it reads often enough
# Tiles of a whole depthwise window: the more vectors side by side, the more of a line of the cache is used at once.
_MOST_WINDOW_VECTORS, _WINDOW_REGISTERS = 2, 6  # beside the sums: what they are made of
_LINE = 64  # bytes of a cache line
_PACES = 4, 2, 1  # terms for each line that is asked for: few at a time, as they hold up what tiles load themselves

Steps = tuple[int, int, int, int]


class GradMemory(NamedTuple):
    """How the operands lie, as (N, H, W, C), and the result, as (first, second, kernel_h, kernel_w)."""

    wide: Steps
    narrow: Steps
    grad: Steps
    half: int
    compute: np.dtype


@dataclass(frozen=True, eq=False)
class GradPlan:
    """Everything of a weight gradient but the arrays."""

    call: np.ndarray
    segments: np.ndarray
    blocks: np.ndarray
    kernels: np.ndarray
    max_rows: np.ndarray
    jobs: int
    scratch_size: int
    """Numbers of a thread's scratch."""
    parts_size: int
    """Numbers of all parts where they are jobs of their own, else 0."""
    flops: int
    compute: np.dtype


def plan_tiles(geometry: Geometry, memory: GradMemory, workers: int) -> GradPlan:
    """Plan for `workers` threads; `geometry` is that of the convolution whose x is the wide operand."""
    return _Builder(geometry, memory, workers).build()


class _Builder:
    def __init__(self, geometry: Geometry, memory: GradMemory, workers: int) -> None:
        self.geometry, self.memory, self.workers = geometry, memory, workers
        self.h, self.w = (_UNIT,) * (2 - len(geometry.axes)) + geometry.axes
        self.n, self.mode = geometry.n, geometry.spec.padding_mode
        self.wide, self.narrow = memory.wide, memory.narrow
        self.lanes, self.widest = lanes(memory.compute), max_reducing_vectors()
        self.group_wide = geometry.c_in // geometry.groups
        self.group_narrow = geometry.c_out // geometry.groups
        self.tied = geometry.groups > 1 and self.group_wide == self.group_narrow == 1
        self.gathered = memory.half != NOT_HALF or self.wide[3] != 1 or self.narrow[3] != 1
        self._merge_groups()
        self._join_lines()
        self._orient()
        self.positions = self.n * self.h.out * self.w.out

    def _merge_groups(self) -> None:
        """Compute several groups as one where they are small; products across groups are computed and not stored."""
        groups = self.geometry.groups
        if self.tied:
            self.groups, self.c_wide, self.c_narrow = 1, 1, groups
            self.group_narrow = groups
            return
        # As many lanes of a vector work as before, but more sums hide the latency of each.
        most = self.lanes // max(1, self.group_narrow, self.group_wide) if groups > 1 else 1
        merged = max(m for m in range(1, max(1, most) + 1) if groups % m == 0)
        self.groups = groups // merged
        self.c_wide, self.c_narrow = merged * self.group_wide, merged * self.group_narrow

    def _join_lines(self) -> None:
        """Read a pointwise convolution's positions as one line where neither operand leaves gaps."""
        h, w = self.h, self.w
        plain = all(a.taps == 1 and a.stride == 1 and a.lo == 0 and a.size == a.out for a in (h, w))
        if plain and all(
            (h.out == 1 or step[1] == w.out * step[2]) and (self.n == 1 or step[0] == h.out * w.out * step[2])
            for step in (self.wide, self.narrow)
        ):
            positions = self.n * h.out * w.out
            self.n, self.h, self.w = 1, _UNIT, Axis(positions, 1, 1, 1, 0, 0, positions)

    def _orient(self) -> None:
        """Choose which operand's channels are the columns of tiles, and whether a kernel row's taps fuse."""
        w, c = self.w, self.c_wide
        # Terms (tap, channel) of a kernel row that lie one after the other in memory.
        run_on = w.dilation == 1 and (self.gathered or (self.wide[2] == c and self.geometry.groups == 1))
        fuses = w.taps > 1 and (run_on or c == 1)

        def share(columns: int, rows: int) -> float:
            vectors = -(-columns // self.lanes)
            return columns / (vectors * self.lanes) * min(1.0, rows * min(vectors, self.widest) / 8)

        rows_of_tile = max_rows(min(self.widest, -(-self.c_narrow // self.lanes)), False)
        fused = fuses and c < 2 * rows_of_tile
        fused_columns = w.taps > 1 and run_on and c % (self.widest * self.lanes)
        normal = share(self.c_narrow, c * w.taps if fused else c)
        swapped = share(c * w.taps if fused_columns else c, self.c_narrow)
        self.swapped = not self.tied and swapped > 1.2 * normal
        self.fused = bool(fused_columns) if self.swapped else fused
        if self.tied:
            self.fused = w.taps > 1
        self.packed = 0 if self.gathered or self.tied or self.swapped or self.fused else self._packed_row()
        self.windows = 0
        first, end = w.interior
        if self.tied and self.fused and not self.gathered and first < end:
            spare = host_target().registers - _WINDOW_REGISTERS
            self.windows = min(_MOST_WINDOW_VECTORS, spare // (self.h.taps * w.taps))

    def _packed_row(self) -> int:
        """Give the numbers of a row of the packed narrow operand, or 0 where tiles had better read it in place.

        Tiles walk through rows that lie far apart, which L1 does not keep from one tile to the next.
        """
        is_long = self.c_wide * self.h.taps * self.w.taps >= _PACKED_ROWS
        pays = is_long and min(self.c_wide, self.c_narrow) >= _PACKED_CHANNELS
        return self.widest * self.lanes if pays and is_far_slow() else 0

    def build(self) -> GradPlan:
        segments = self._segments()
        total = self.groups * self.h.taps * self.w.taps * self.c_wide * self.c_narrow
        chunk = self._chunk_positions()
        parts = self._parts(chunk, total)
        chunk = self._even_chunk(chunk, parts)
        # Blocks alone where they keep all threads busy: of parts, all must be kept and added.
        apart = parts > 1 and self.workers > 1 and total < self.workers * _LEAST_BLOCK
        cuts = self._cut(parts if apart else 1)
        sizes = tuple(max((end - low for low, end in ranges), default=0) for ranges in cuts)
        blocks, offset = [], 0
        for group in range(self.groups):
            for ranges in itertools.product(*cuts):
                blocks.append((group, *itertools.chain(*ranges), offset))
                offset += math.prod(end - low for low, end in ranges)
        call = self._call(chunk)
        call[G.PARTS], call[G.BLOCKS], call[G.TOTAL] = parts, len(blocks), total
        call[G.APART] = int(apart)
        if not apart:
            line = _LINE // self.memory.compute.itemsize
            call[G.NEXT_SUMS] = round_up(math.prod(sizes), line)
            call[G.SUMS_SIZE] = call[G.NEXT_SUMS] * min(2, parts)
        call[G.SCRATCH_SIZE] = call[G.SUMS_SIZE] + call[G.WIDE_PANEL_SIZE] + call[G.NARROW_PANEL_SIZE]
        call[G.STORE] = self._store(sizes)
        row_bytes = self.memory.grad[0] * self.memory.compute.itemsize
        call[G.STORE_TOGETHER] = max(1, rows_apart(self.c_narrow, row_bytes) // self.lanes) * self.lanes
        call[G.WIDE_LINES], call[G.NARROW_LINES], call[G.ASKS], call[G.PACE] = self._asks(sizes)
        return GradPlan(
            call=np.array(call, np.int64),
            segments=np.array(segments, np.int64).reshape(-1, G.SEGMENT_FIELDS),
            blocks=np.array(blocks, np.int64).reshape(-1, G.BLOCK_FIELDS),
            kernels=self._kernels(segments, cuts, call[G.PACE]),
            max_rows=np.array([1] + [max_rows(v, self.tied) for v in range(1, self.widest + 1)], np.int64),
            jobs=parts * len(blocks) if apart else len(blocks),
            scratch_size=call[G.SCRATCH_SIZE],
            parts_size=parts * total if apart else 0,
            flops=2 * self.positions * total,
            compute=self.memory.compute,
        )

    def _segments(self) -> list[tuple[int, ...]]:
        """Cut the positions of a line so that the pixels a tap meets are evenly spaced: see `tap_segments`."""
        w, mode = self.w, self.mode
        first, end = w.interior if self.fused else (0, 0)
        if self.gathered and mode != "zeros":
            mode = "padded"  # the panel holds the padding
            first, end = (0, w.out) if self.fused else (0, 0)
        segments: list[tuple[int, ...]] = []
        if first < end:
            segments.append((0, w.taps, first, end, first * w.stride - w.lo, w.stride))
        for tap in range(w.taps):
            for low, high, pixel, step in tap_segments(w, tap, mode):
                # What the fused segment covers is cut out of the middle.
                cuts = ((low, min(high, first)), (max(low, end), high)) if first < end else ((low, high),)
                segments += [(tap, tap + 1, a, b, pixel + (a - low) * step, step) for a, b in cuts if a < b]
        return segments

    def _cut(self, parts: int) -> list[list[tuple[int, int]]]:
        """Cut kernel rows, taps, wide and narrow channels, so that blocks of them fit and threads have as much to do.

        Each block is so many jobs.
        """
        lengths = self.h.taps, self.w.taps, self.c_wide, self.c_narrow
        row, column, of_rows, of_columns = 1, self.lanes, max_rows(self.widest, self.tied), self.widest * self.lanes
        quanta = (1, 1, column, row) if self.swapped else (1, 1, row, column)
        of_wide, of_narrow = (of_columns, of_rows) if self.swapped else (of_rows, of_columns)
        if self.tied:
            of_narrow = self.lanes
        counts = [1, 1, 1, 1]
        while True:
            sizes = [_even_piece(*axis) for axis in zip(lengths, counts, quanta, strict=True)]
            cuts = [_cuts(length, size) for length, size in zip(lengths, sizes, strict=True)]
            numbers, jobs = math.prod(sizes), self.groups * parts * math.prod(map(len, cuts))
            is_uneven = jobs % self.workers > 0 and jobs < 4 * self.workers and numbers > _LEAST_BLOCK // 4
            if numbers * self.memory.compute.itemsize <= 4 * _SUMS and not is_uneven:
                return cuts
            h, taps, wide, narrow = sizes
            # Both channel ranges long: each number that is loaded meets many. Taps last: they are neighbours in memory.
            is_broad = not self.swapped and narrow > _MOST_VECTORS * self.lanes
            if narrow > of_narrow and (is_broad or narrow >= wide or wide <= of_wide or self.fused):
                axis = 3
            elif wide > of_wide and not self.fused:
                axis = 2
            elif h > 1:
                axis = 0
            elif taps > 1 and not self.tied:
                axis = 1
            else:
                return cuts
            counts[axis] *= 2

    def _store(self, sizes: tuple[int, ...]) -> int:
        """Tell how a block of sums, narrow channels innermost, lies in the result."""
        _, second, row, tap = self.memory.grad
        h, w = self.h.taps, self.w.taps
        if self.memory.half != NOT_HALF or self.c_wide != self.group_wide or sizes[:2] != (h, w):
            return G.BY_NUMBER
        taps_inside = (w == 1 or tap == 1) and (h == 1 or row == w) and (self.c_wide == 1 or second == h * w)
        if taps_inside:
            return G.TRANSPOSED
        return G.BY_ROW if self.memory.grad[0] == 1 and not self.swapped else G.BY_NUMBER

    def _asks(self, sizes: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Choose what is asked for ahead: lines of either operand's pixel, tiles of a strip, terms for each line.

        Nothing where all is near.
        """
        h, w, (rows, taps, wide, narrow) = self.h, self.w, sizes
        numbers = self.n * (h.size * w.size * self.geometry.c_in + h.out * w.out * self.geometry.c_out)
        if self.gathered or self.tied or numbers <= blocking(self.memory.compute).far:
            return 0, 0, 0, 0
        line = _LINE // self.memory.compute.itemsize
        # Of a pixel, a block's channels may begin and end amid lines; where they are all, the next pixel goes on there.
        wide_lines, narrow_lines = (
            -(-run // line) + (run < step) for run, step in ((wide, self.wide[2]), (narrow, self.narrow[2]))
        )
        columns = min(w.stride, w.reach) * wide_lines + narrow_lines
        terms, of_columns = wide * taps if self.fused else wide, narrow
        if self.swapped:
            terms, of_columns = of_columns, terms
        strips = rows * (1 if self.fused else taps)
        widths = split_columns(-(-of_columns // self.lanes), self.widest)
        tiles = strips * sum(-(-terms // max_rows(vectors, False)) for vectors in widths)
        pace = max((pace for pace in _PACES if columns * pace <= tiles), default=1)
        return wide_lines, narrow_lines, -(-columns * pace // (strips * len(widths))), pace

    def _chunk_positions(self) -> int:
        """Choose how many positions are reduced at once; gathered, their panel must stay small."""
        if self.packed:
            return min(_PACKED_CHUNK, max(1, self.positions))
        channels = self.geometry.c_in + self.geometry.c_out
        chunk = min(max(_CHUNK // max(1, channels), _LEAST_CHUNK), _MOST_CHUNK, max(1, self.positions))
        if self.gathered:
            channels = min(self.c_narrow, _SUMS) if self.tied else self.c_wide
            while chunk > 1 and (
                self._lines(chunk) * self._span(chunk) * channels > _PANEL or chunk * self.c_narrow > _PANEL
            ):
                chunk //= 2
        return chunk

    def _pieces(self, chunk: int) -> int:
        return max(1, -(-self.w.out // chunk))

    def _lines(self, chunk: int) -> int:
        return max(1, chunk // max(1, self.w.out))

    def _span(self, chunk: int) -> int:
        longest = -(-self.w.out // self._pieces(chunk))
        return (longest - 1) * self.w.stride + self.w.reach

    def _parts(self, chunk: int, total: int) -> int:
        """Choose how many parts the reduction has: by shapes alone, as they decide the order of each sum."""
        wanted = -(-_JOBS * _LEAST_BLOCK // max(1, total))
        most = max(1, min(_PARTS, wanted, self.positions // max(_PART, chunk)))
        return 1 << (most.bit_length() - 1)  # threads are mostly as many, and then have as many of them each

    def _even_chunk(self, chunk: int, parts: int) -> int:
        """Shorten a chunk so that all parts have as many of nearly the same length."""
        lines, out = max(1, self.n * self.h.out), max(1, self.w.out)
        if out > chunk:
            even = -(-out // round_up(self._pieces(chunk), parts // math.gcd(parts, lines)))
        else:
            even = -(-lines // round_up(-(-lines // self._lines(chunk)), parts)) * out
        return even if 2 * even > chunk else chunk

    def _call(self, chunk: int) -> list[int]:
        call = [0] * G.CALL_FIELDS
        h, w, memory = self.h, self.w, self.memory
        pieces, lines = self._pieces(chunk), self._lines(chunk)
        call[G.LINES], call[G.OUT_H], call[G.OUT_W] = self.n * h.out, h.out, w.out
        call[G.PIECES], call[G.LINES_PER_CHUNK] = pieces, lines
        call[G.CHUNKS] = call[G.LINES] * pieces if pieces > 1 else -(-call[G.LINES] // lines)
        call[G.SIZE_H], call[G.SIZE_W] = h.size, w.size
        call[G.STRIDE_H], call[G.STRIDE_W] = h.stride, w.stride
        call[G.DILATION_H], call[G.DILATION_W] = h.dilation, w.dilation
        call[G.LO_H], call[G.LO_W], call[G.REACH_W] = h.lo, w.lo, w.reach
        call[G.PADDING_MODE], call[G.HALF] = PADDING_MODES.index(self.mode), memory.half
        call[G.WIDE_N : G.WIDE_C + 1] = self.wide
        call[G.NARROW_N : G.NARROW_C + 1] = self.narrow
        call[G.GRAD_FIRST : G.GRAD_W + 1] = memory.grad
        call[G.KERNEL_W] = w.taps
        call[G.GATHERED], call[G.SWAPPED], call[G.TIED] = int(self.gathered), int(self.swapped), int(self.tied)
        call[G.C_WIDE], call[G.C_NARROW] = self.c_wide, self.c_narrow
        call[G.GROUP_WIDE], call[G.GROUP_NARROW] = self.group_wide, self.group_narrow
        call[G.WIDTH], call[G.WIDEST] = self.lanes, self.widest
        channels = self.c_narrow if self.tied else self.c_wide
        if self.gathered:
            call[G.WIDE_PANEL_SIZE] = lines * self._span(chunk) * channels
            call[G.NARROW_PANEL_SIZE] = lines * min(chunk, w.out) * self.c_narrow
        if self.packed:
            call[G.PACKED] = self.packed
            call[G.NARROW_PANEL_SIZE] = lines * min(chunk, w.out) * round_up(self.c_narrow, self.packed)
        call[G.MAX_LINES] = lines
        call[G.WINDOWS] = self.windows
        call[G.LINE], call[G.REACH_H] = _LINE // memory.compute.itemsize, h.reach
        return call

    def _kernels(self, segments: list[tuple[int, ...]], cuts: list[list[tuple[int, int]]], pace: int) -> np.ndarray:
        """Compile the tile kernels that blocks of these cuts use."""
        row_cuts, tap_cuts, wide_cuts, narrow_cuts = cuts
        tap_counts = {
            min(segment[G.SEGMENT_TAP_END], end) - max(segment[G.SEGMENT_TAP], low)
            for segment in segments
            for low, end in tap_cuts
        }
        wide_lengths = {taps * (end - low) for low, end in wide_cuts for taps in tap_counts if taps > 0}
        narrow_lengths = {end - low for low, end in narrow_cuts}
        row_lengths, column_lengths = (narrow_lengths, wide_lengths) if self.swapped else (wide_lengths, narrow_lengths)
        kind = (DEPTHWISE if self.tied else DENSE) + (TRIMMED if any(n % self.lanes for n in column_lengths) else 0)
        most = max(max_rows(v, self.tied) for v in range(1, self.widest + 1))
        kernels = np.zeros((2, self.widest + 1, most + 1), np.int64)  # those that ask behind those that do not
        for columns in column_lengths:
            for vectors in set(split_columns(-(-columns // self.lanes), self.widest)):
                for rows in row_lengths:
                    tiles = -(-rows // max_rows(vectors, self.tied))
                    for size in {rows // tiles, -(-rows // tiles)}:
                        kernels[:, vectors, size] = self._kernel(kind, size, vectors)
                        if pace:
                            kernels[1, vectors, size] = adding_kernel(self.memory.compute, kind, size, vectors, pace)
        if self.windows:
            for lines in {end - low for low, end in row_cuts}:
                steps = self.w.dilation, self.w.stride
                for vectors in range(1, self.windows + 1):
                    kernels[vectors - 1, 0, lines] = correlating_kernel(
                        self.memory.compute, DEPTHWISE + TRIMMED, *steps, self.w.taps, vectors, lines
                    )
        return kernels

    def _kernel(self, kind: int, rows: int, vectors: int) -> int:
        if self.tied and rows > 1:  # rows are taps, terms positions: both lie some pixels apart
            return correlating_kernel(self.memory.compute, kind, self.w.dilation, self.w.stride, rows, vectors)
        compiled = tile_kernel if self.tied else adding_kernel
        return compiled(self.memory.compute, kind, rows, vectors)


def _even_piece(length: int, count: int, quantum: int) -> int:
    """Give how long so many pieces of a length are, of whole quanta where there are several."""
    return length if count == 1 else -(-length // (count * quantum)) * quantum


def _cuts(length: int, piece: int) -> list[tuple[int, int]]:
    return [(low, min(low + piece, length)) for low in range(0, length, max(1, piece))]
