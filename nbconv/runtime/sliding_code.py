"""The LLVM IR of depthwise tiles that load each vector of x once, and multiply it wherever it is needed.

A plain depthwise tile loads a vector for each multiply-add. Where rows and taps lie a few steps of one length apart,
they meet: what row m + 1 reads at one tap, row m has read, or will read, at another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from llvmlite import ir

from .machine_code import Code
from .tile_code import TRIMMED
from .tile_frame import Loop, Operands, Rows, Slide, begins_lines, kernel_of, over_taps, over_tiles, row_of
from .vector_code import I64, VectorCode

__all__ = ["correlating_code", "sliding_code"]

_TERMS = 4  # of a correlation, that share their loads
# Vectors of a row that pay for one more, by which none lies across two lines of the cache: where windows move by single
# steps, and where they move further and load more.
_ALIGNED_VECTORS = 6, 4
# Taps of a window up to which a row of two vectors pays for one of them that wraps around: with more, a tile loads less
# for each multiply-add.
_WRAPPED_TAPS = 7
_BLOCK_VECTORS = 512  # of both operands and the weights, that L1 keeps until the next tile, 32 of 48 KB


def sliding_code(
    dtype: np.dtype, slide: Slide, rows: int, even: bool, far: int, streams: bool, width: int
) -> Code:  # fmt: skip
    """Make the code of tiles of any number of columns whose window slides along their rows.

    The vectors of a row are loaded from left to right, one column of them after the other; a sum still takes its terms
    in the same order. Where x is far away, the last `far` rows of the kernel are the first to meet its lines. What it
    `streams` goes past the caches, where rows of c begin with lines: else a line of c is read before it is overwritten.

    The usual window of a single row is `even`: rows of c lie one step of x apart. Its tile has no loop over rows of the
    kernel and one set of addresses: half as many instructions, so that the processor, which looks some hundreds of them
    ahead, asks for lines of more tiles at once.

    Rows of whole vectors that begin amid a line of the cache, as NumPy's do, are worked on from the first line that
    begins in them. What lies before it, and the last columns of the row before, which are its neighbours in memory, are
    one vector: no vector lies across two lines, and there is none more.
    """
    return kernel_of(dtype, width, lambda code, o: _Sliding(code, o, slide, rows, even, far, streams).write())


class _Sliding:
    """Writes the loops of `sliding_code`: over blocks of columns, lines of an image, tiles, and vectors of a tile."""

    def __init__(
        self, code: VectorCode, o: Operands, slide: Slide, rows: int, even: bool, far: int, streams: bool
    ) -> None:  # fmt: skip
        self.code, self.builder, self.o, self.slide, self.rows = code, code.builder, o, slide, rows
        self.even, self.far = even, far
        self.x_step = o.a_row if slide.stride == 1 else self.builder.sdiv(o.a_k, I64(slide.dilation))
        self.span = (rows - 1) * slide.stride + (slide.taps - 1) * slide.dilation + 1
        # Columns of x that the next tile is the first to read.
        columns = slide._replace(left=0, right=0).reads(rows)
        self.news = sorted({column + rows * slide.stride for column in columns} - set(columns)) if slide.taps else []
        # Where a row has more than one vector, the first may have fewer lanes.
        self.head, self.wraps = self._lanes_to_a_line()
        self.at_lines = ir.Constant(ir.IntType(1), 0)
        if streams:
            self.at_lines = begins_lines(code, o._replace(c=code.at(o.c, self.head)))

    def _lanes_to_a_line(self) -> tuple[Any, Any]:
        """Give the lanes of a row's first vector behind which no vector lies across two lines of the cache.

        They are all of them, where rows or both operands lie unlike each other, or rows are short. Say whether these
        lanes and the last ones of the row before are one vector, in both operands.
        """
        builder, o, width = self.builder, self.o, self.code.width
        size = width * self.code.size
        across, across_c = (builder.and_(builder.ptrtoint(place, I64), I64(size - 1)) for place in (o.a, o.c))
        head = builder.udiv(builder.sub(I64(size), across), I64(self.code.size))
        steps = builder.or_(self.x_step, builder.or_(o.a_line, o.c_line))
        alike = builder.icmp_signed("==", builder.and_(steps, I64(width - 1)), I64(0))
        alike = builder.and_(alike, builder.icmp_signed("==", across, across_c))
        pays = builder.icmp_signed(">=", o.columns, I64(_ALIGNED_VECTORS[self.slide.stride > 1] * width))
        wraps = ir.Constant(ir.IntType(1), 0)
        if self.slide.stride == 1:
            between = builder.or_(builder.sub(self.x_step, o.columns), builder.sub(o.c_row, o.columns))
            follow = builder.icmp_signed("==", between, I64(0))
            wraps = builder.and_(builder.icmp_signed("<", head, I64(width)), builder.and_(alike, follow))
            worth = width if self.slide.taps <= _WRAPPED_TAPS else _ALIGNED_VECTORS[0] * width - 1
            wraps = builder.and_(wraps, builder.icmp_signed(">", o.columns, I64(worth)))
            pays = builder.or_(pays, wraps)
        return builder.select(builder.and_(alike, pays), head, self._at_most(o.columns, I64(width))), wraps

    def _at_most(self, number: Any, most: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", number, most), number, most)

    def write(self) -> None:
        """Write the loop over blocks of columns.

        Where rows are long, all tiles go through one block of columns, whose weights and last rows are still in L1,
        before the next; where there are more lines, one goes on with what all tiles of the one before it read. The
        first block is shorter, so that the others begin where memory's lines do.
        """
        code, builder, o, width = self.code, self.builder, self.o, I64(self.code.width)
        ahead = builder.mul(builder.sub(o.tiles, I64(1)), I64(self.rows * self.slide.stride))
        ahead = builder.select(builder.icmp_signed(">", o.lines, I64(1)), ahead, I64(0))
        numbers = builder.add(ahead, I64(len(self.slide.reads(self.rows)) + self.slide.taps))
        a_column = builder.add(builder.mul(o.taps, numbers), I64(self.rows))
        most = builder.mul(builder.add(builder.udiv(I64(_BLOCK_VECTORS), a_column), I64(1)), width)
        head, left, places = self.head, o.columns, [o.a, o.b, o.c, o.init]
        if self.slide.stride == 1:
            with builder.if_then(self.wraps):
                self._through_lines(o, self._wrap_around)
            places = [code.at(place, builder.select(self.wraps, head, I64(0))) for place in places]
            left = builder.sub(left, builder.select(self.wraps, width, I64(0)))
            head = builder.select(self.wraps, width, head)
        blocks = builder.udiv(builder.add(builder.sub(left, head), I64(self.code.width - 1)), most)
        loop = Loop(code, builder.add(blocks, I64(1)), [head, left, *places], tests=False)
        head, left, a, b, c, init = loop.values
        here = self._at_most(left, builder.sub(builder.add(head, most), width))
        block = o._replace(a=a, b=b, c=c, init=init, columns=here)
        vectors = builder.udiv(builder.add(builder.sub(here, head), I64(2 * self.code.width - 1)), width)
        self._through_lines(block, partial(self._over_vectors, head, vectors))
        left = builder.sub(left, here)
        loop.close([self._at_most(left, width), left, *(code.at(place, here) for place in (a, b, c, init))])

    def _through_lines(self, block: Operands, tile: Callable[..., None]) -> None:
        """Write the loops over lines and tiles: `tile` is given the block, and where a tile begins."""
        if self.even:
            over_tiles(self.code, block, self.rows, partial(tile, block))
            return
        lines = Loop(self.code, block.lines, [block.a, block.c], tests=False)
        a, c = lines.values
        line = block._replace(a=a, c=c)
        over_tiles(self.code, line, self.rows, partial(tile, line))
        lines.close([self.code.at(a, block.a_line), self.code.at(c, block.c_line)])

    def _wrap_around(self, block: Operands, a: Any, c: Any, init: Any) -> None:
        """Write the vectors of a tile's first lanes: they begin in the row before its first, and end in its last row.

        Of the first and the last column of x that they meet only some lanes lie where the tile reads.
        """
        code, slide = self.code, self.slide
        before = self.builder.sub(self.head, I64(code.width))
        last = code.first_lanes(self.builder.neg(before))
        first = self.builder.not_(last)

        def load(place: Any) -> Any:
            # What is the same for all rows.
            ends = code.load(code.at(place, self.builder.add(block.columns, before)), last)
            return code.load(code.at(place, before), first, ends)

        begin, end = slide.left, self.span - slide.right
        meetings = slide.reads(self.rows + 1) if begin < end else {}
        vector = _Vector(self, block, self.rows + 1, meetings, {begin: first, end: last}, load)
        carried = vector.begin(code.at(a, before), code.at(c, before), init)
        sums, c_rows = vector.add_up(vector.hide(carried), None)
        for number, mask in (0, first), (-1, last):
            code.store(sums.pop(number), c_rows.pop(number), mask)
        self._store(sums, c_rows)

    def _over_vectors(self, head: Any, vectors: Any, block: Operands, *places: Any) -> None:
        code, builder, width = self.code, self.builder, self.code.width
        vector = _Vector(self, block, self.rows, self.slide.reads(self.rows))
        begins = [head, block.columns, *vector.begin(*places)]
        loop = Loop(code, vectors, begins, tests=False)
        lanes, left, *carried = loop.values
        carried, mask = vector.hide(carried), code.first_lanes(lanes)
        sums, c_rows = vector.add_up(carried, mask)
        # Without masks on vectors of 32 bytes: there a masked store is many instructions.
        with builder.if_else(builder.icmp_signed("==", lanes, I64(width))) as (whole, part):
            with whole:
                self._store(sums, c_rows)
            with part:
                for value, place in zip(sums, c_rows, strict=True):
                    code.store(value, place, mask)
        left = builder.sub(left, lanes)
        loop.close([self._at_most(left, I64(width)), left, *vector.move(carried, lanes)])

    def _store(self, sums: Sequence[Any], c_rows: Sequence[Any]) -> None:
        with self.builder.if_else(self.at_lines) as (streamed, kept):
            for branch, store in (streamed, self.code.stream), (kept, self.code.store):
                with branch:
                    for value, place in zip(sums, c_rows, strict=True):
                        store(value, place)


class _Vector:
    """One vector of each row of a tile: what it is made of, and where that lies."""

    def __init__(
        self,
        kernel: _Sliding,
        block: Operands,
        rows: int,
        meetings: dict[int, list[tuple[int, int]]],
        rims: Mapping[int, Any] = MappingProxyType({}),
        load: Callable[[Any], Any] | None = None,
    ) -> None:
        """Of `rims`, columns of x, only some lanes count; `load` reads what is the same for all rows."""
        self.kernel, self.code, self.block = kernel, kernel.code, block
        self.rows, self.meetings, self.rims, self.load = rows, meetings, rims, load
        self.w_rows = Rows(self.code, block.b_k, kernel.slide.taps)
        # Of c and, where they lie alike, of x.
        self.places = Rows(self.code, block.c_row, rows)
        if kernel.even:
            self.places = Rows(self.code, kernel.x_step, rows, max(meetings, default=0) + 1)
        self.pointers = 1 + kernel.far + (0 if kernel.even else 2)

    def begin(self, a: Any, c: Any, init: Any) -> list[Any]:
        """Give what goes from vector to vector of a tile that begins there."""
        code, builder, block, b = self.code, self.code.builder, self.block, self.block.b
        new = []
        for i in range(self.kernel.far):
            tap = builder.sub(block.taps, I64(1 + i))
            tap = builder.select(builder.icmp_signed("<", tap, I64(0)), I64(0), tap)
            new.append(code.at(a, builder.load(code.at(block.a_taps, tap))))
        if not self.kernel.even:
            return [init, *new, a, b, *self.places.begin(c)]
        a, b = (code.at(start, builder.load(taps)) for start, taps in ((a, block.a_taps), (b, block.b_taps)))
        return [init, *new, *self.places.begin(c, a), *self.w_rows.begin(b)]

    def hide(self, carried: Sequence[Any]) -> list[Any]:
        """Give it as it is to be used in this round, and moved on."""
        first, middle = self.pointers, self.pointers + self.places.size
        hidden = [*carried[:first], *self.places.hide(carried[first:middle])]
        return [*hidden, *self.w_rows.hide(carried[middle:])]

    def move(self, hidden: Sequence[Any], lanes: Any) -> list[Any]:
        """Give it for the next vector, behind so many lanes."""
        first, middle = self.pointers, self.pointers + self.places.size
        moved = [
            *(self.code.at(place, lanes) for place in hidden[:first]),
            *self.places.move(hidden[first:middle], lanes),
        ]
        return [*moved, *self.w_rows.move(hidden[middle:], lanes)] if self.kernel.even else moved

    def add_up(self, hidden: Sequence[Any], mask: Any) -> tuple[list[Any], list[Any]]:
        """Write the products of the lanes of `mask`; give the sums, and where in c they belong."""
        code, kernel, block, taps = self.code, self.kernel, self.block, self.kernel.slide.taps
        init, *new = hidden[: 1 + kernel.far]
        for line in itertools.chain(*(self._walk(start, kernel.news) for start in new)):
            code.prefetch(line)
        load = self.load or code.load
        sums = [load(init) if self.load else code.load(init, mask)] * self.rows
        places, w_places = hidden[self.pointers :][: self.places.size], hidden[self.pointers + self.places.size :]

        def add_row(sums: list[Any], x_places: Iterator[Any], w_places: Iterator[Any]) -> list[Any]:
            weights = [load(place) for place in w_places]
            for place, (column, pairs) in zip(x_places, self.meetings.items(), strict=True):
                counts = self.rims.get(column)
                x = code.load(place, mask if counts is None else counts)
                for m, k in pairs:
                    added = code.multiply_add(x, weights[k], sums[m])
                    sums[m] = added if counts is None else code.builder.select(counts, added, sums[m])
            return sums

        def products(sums: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
            weights = (row_of(code, b_tap, block.b_k, k) for k in range(taps))
            return add_row(sums, self._walk(a_tap, self.meetings), weights)

        if kernel.even:
            weights = (self.w_rows.at(w_places, k) for k in range(taps))
            sums = add_row(sums, (self.places.at(places, column, 1) for column in self.meetings), weights)
        else:
            a, b = hidden[self.pointers - 2 : self.pointers]
            sums = over_taps(code, block, a, b, sums, products)
        return sums, [self.places.at(places, m) for m in range(self.rows)]

    def _walk(self, here: Any, columns: Iterable[int]) -> Iterator[Any]:
        """Give the address of each column of a row of x: as many at once would not stay in registers."""
        reached = 0
        for column in columns:
            here = row_of(self.code, here, self.kernel.x_step, column - reached) if column > reached else here
            reached = column
            yield here


def correlating_code(
    dtype: np.dtype, kind: int, row_steps: int, term_steps: int, rows: int, lines: int, vectors: int, width: int
) -> Code:  # fmt: skip
    """Make the code of tiles whose rows and terms lie so many steps apart, of one length; runs are of any length.

    The rows of a tile are those of `lines` windows, which lie `ahead_step` numbers apart: they share the loads of b. A
    sum takes its terms in the order of the plain tile.
    """
    together = Slide(_TERMS, row_steps, term_steps).reads(rows)
    alone = {m * row_steps: [(m, 0)] for m in range(rows)}

    def emit(code: VectorCode, o: Operands) -> None:
        builder, places = code.builder, list(itertools.product(range(lines * rows), range(vectors)))
        a_step = o.a_row if row_steps == 1 else builder.sdiv(o.a_row, I64(row_steps))
        last_lanes = code.first_lanes(builder.sub(o.columns, I64((vectors - 1) * width)))
        masks = [None] * (vectors - 1) + [last_lanes if kind & TRIMMED else None]

        def products(sums: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
            whole, b = builder.and_(o.run, I64(-_TERMS)), b_tap
            a_lines = [row_of(code, a_tap, o.ahead_step, line) for line in range(lines)]
            for count, terms, meetings in (whole, _TERMS, together), (builder.sub(o.run, whole), 1, alone):
                x_rows, w_rows = Rows(code, a_step, *[max(meetings) + 1] * lines), Rows(code, o.b_k, terms)
                x_end, w_end = x_rows.size, x_rows.size + w_rows.size
                loop = Loop(code, count, [*x_rows.begin(*a_lines), *w_rows.begin(b), *sums], terms, tests=True)
                x_here, w_here = x_rows.hide(loop.values[:x_end]), w_rows.hide(loop.values[x_end:w_end])
                sums = list(loop.values[w_end:])
                for v, mask in enumerate(masks):
                    factors = [code.load(code.at(w_rows.at(w_here, k), v * width), mask) for k in range(terms)]
                    for line, (step, pairs) in itertools.product(range(lines), meetings.items()):
                        x = code.load(code.at(x_rows.at(x_here, step, line), v * width), mask)
                        for m, k in pairs:
                            i = (line * rows + m) * vectors + v
                            sums[i] = code.multiply_add(x, factors[k], sums[i])
                x_next = x_rows.move(x_here, builder.mul(o.a_k, I64(terms)))
                ends = loop.close([*x_next, *w_rows.move(w_here, builder.mul(o.b_k, I64(terms))), *sums])
                a_lines = [ends[place] for place in x_rows.first_places]
                b, sums = ends[x_end], ends[w_end:]
            return sums

        def tile(a: Any, c: Any, init: Any) -> None:
            starts = [code.load(code.at(row_of(code, init, o.init_row, m), v * width), masks[v]) for m, v in places]
            for (m, v), value in zip(places, over_taps(code, o, a, o.b, starts, products), strict=True):
                code.store(value, code.at(row_of(code, c, o.c_row, m), v * width), masks[v])

        over_tiles(code, o, lines * rows, tile)

    return kernel_of(dtype, width, emit)
