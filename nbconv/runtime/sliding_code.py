"""The LLVM IR of tiles that load what they read of x once, and multiply it wherever it is needed.

A plain depthwise tile loads a vector for each multiply-add; one of small groups shuffles one, too. Where rows and taps
lie a few steps of one length apart, they meet: what row m + 1 reads at one tap, row m has read, or will read, at
another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir

from .tile_code import TRIMMED, group_of
from .tile_frame import (
    LINE,
    Loop,
    Operands,
    Rows,
    Slide,
    begins_lines,
    kernel_of,
    over_taps,
    over_tiles,
    row_of,
    store_tile,
)
from .vector_code import I64, VectorCode

__all__ = ["correlating_code", "sliding_code", "spreading_code"]

_TERMS = 4  # of a correlation, that share their loads
# Vectors of a row that pay for one more, by which none lies across two lines of the cache: where windows move by single
# steps, and where they move further and load more.
_ALIGNED_VECTORS = 6, 4
_BLOCK_VECTORS = 512  # of both operands and the weights, that L1 keeps until the next tile, 32 of 48 KB
_TILES_AHEAD, _LONG_TILES_AHEAD = 8, 2  # that many short or long ones are done while memory answers


def sliding_code(
    dtype: np.dtype, slide: Slide, rows: int, even: bool, far: int, streams: bool, width: int
) -> Any:  # fmt: skip
    """Make the intrinsic of tiles of any number of columns whose window slides along their rows.

    The vectors of a row are loaded from left to right, one column of them after the other; a sum still takes its terms
    in the same order. Where x is far away, the last `far` rows of the kernel are the first to meet its lines. What it
    `streams` goes past the caches, where rows of c begin with lines: else a line of c is read before it is overwritten.

    The usual window of a single row is `even`: rows of c lie one step of x apart. Its tile has no loop over rows of the
    kernel and one set of addresses: half as many instructions, so that the processor, which looks some hundreds of them
    ahead, asks for lines of more tiles at once.
    """
    meetings = slide.reads(rows)
    # Of the columns of x: those that the next tile is the first to read.
    span = (rows - 1) * slide.stride + (slide.taps - 1) * slide.dilation + 1
    news = range(span, span + rows * slide.stride)

    def emit(code: VectorCode, o: Operands) -> None:
        builder = code.builder
        x_step = o.a_row if slide.stride == 1 else builder.sdiv(o.a_k, I64(slide.dilation))
        head = _lanes_to_a_line(code, o, x_step, _ALIGNED_VECTORS[slide.stride > 1])
        at_lines = begins_lines(code, o) if streams else ir.Constant(ir.IntType(1), 0)
        # Where rows are long, all tiles go through one block of columns, whose weights and last rows are still in L1,
        # before the next; where there are more lines, one goes on with what all tiles of the one before it read. The
        # first block is shorter, so that the others begin where memory's lines do.
        ahead = builder.mul(builder.sub(o.tiles, I64(1)), I64(rows * slide.stride))
        ahead = builder.select(builder.icmp_signed(">", o.lines, I64(1)), ahead, I64(0))
        a_column = builder.add(builder.mul(o.taps, builder.add(ahead, I64(len(meetings) + slide.taps))), I64(rows))
        most = builder.mul(builder.add(builder.udiv(I64(_BLOCK_VECTORS), a_column), I64(1)), I64(width))
        blocks = builder.udiv(builder.add(builder.sub(o.columns, head), I64(width - 1)), most)
        outer = Loop(code, builder.add(blocks, I64(1)), [head, o.columns, o.a, o.b, o.c, o.init], tests=False)
        head, left, *places = outer.values
        here = builder.sub(builder.add(head, most), I64(width))
        here = builder.select(builder.icmp_signed("<", left, here), left, here)
        a, b, c, init = places
        block = o._replace(b=b, init=init, columns=here)
        if even:
            sweep(code, block._replace(a=a, c=c), x_step, head, at_lines)
        else:
            lines = Loop(code, o.lines, [a, c], tests=False)
            a, c = lines.values
            sweep(code, block._replace(a=a, c=c), x_step, head, at_lines)
            lines.close([code.at(a, o.a_line), code.at(c, o.c_line)])
        left = builder.sub(left, here)
        head = builder.select(builder.icmp_signed("<", left, I64(width)), left, I64(width))
        outer.close([head, left, *(code.at(place, here) for place in places)])

    def sweep(code: VectorCode, o: Operands, x_step: Any, head: Any, at_lines: Any) -> None:
        builder, w_rows = code.builder, Rows(code, o.b_k, slide.taps)
        # Of c and, where they lie alike, of x.
        rows_at = Rows(code, x_step, rows, max(meetings, default=0) + 1) if even else Rows(code, o.c_row, rows)
        count = builder.udiv(builder.add(builder.sub(o.columns, head), I64(2 * width - 1)), I64(width))

        def walk(here: Any, places: Iterable[int]) -> Iterator[Any]:
            """Give the address of each place along a row of x: as many at once would not stay in registers."""
            reached = 0
            for place in places:
                here, reached = row_of(code, here, x_step, place - reached) if place > reached else here, place
                yield here

        def add_row(sums: list[Any], mask: Any, x_places: Iterator[Any], w_places: Iterator[Any]) -> list[Any]:
            weights = [code.load(place) for place in w_places]
            for place, pairs in zip(x_places, meetings.values(), strict=True):
                x = code.load(place, mask)
                for m, k in pairs:
                    sums[m] = code.multiply_add(x, weights[k], sums[m])
            return sums

        def tile(a_tile: Any, c_tile: Any, init_tile: Any) -> None:
            new = [code.at(a_tile, builder.load(code.at(o.a_taps, _from_last(code, o.taps, i)))) for i in range(far)]
            if even:
                a, b = (code.at(start, builder.load(at)) for start, at in ((a_tile, o.a_taps), (o.b, o.b_taps)))
                pointers, begins = [init_tile, *new], [*rows_at.begin(c_tile, a), *w_rows.begin(b)]
            else:
                pointers, begins = [init_tile, *new, a_tile, o.b], rows_at.begin(c_tile)
            loop = Loop(code, count, [head, o.columns, *pointers, *begins], tests=False)
            lanes, left, *values = loop.values
            pointers, values = values[: len(pointers)], values[len(pointers) :]
            places, w_places = rows_at.hide(values[: rows_at.size]), w_rows.hide(values[rows_at.size :])
            mask = code.first_lanes(lanes)
            for line in itertools.chain(*(walk(n, news) for n in pointers[1 : 1 + far])):
                code.prefetch(line)

            def products(sums: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
                weights = (row_of(code, b_tap, o.b_k, k) for k in range(slide.taps))
                return add_row(sums, mask, walk(a_tap, meetings), weights)

            sums = [code.load(pointers[0], mask)] * rows
            if even:
                weights = (w_rows.at(w_places, k) for k in range(slide.taps))
                sums = add_row(sums, mask, (rows_at.at(places, place, 1) for place in meetings), weights)
            else:
                a, b = pointers[-2:]
                sums = over_taps(code, o, a, b, sums, products)
            c = [rows_at.at(places, m) for m in range(rows)]
            # Without masks on vectors of 32 bytes: there a masked store is many instructions.
            with builder.if_else(builder.icmp_signed("==", lanes, I64(width))) as (whole, part):
                with whole, builder.if_else(at_lines) as (streamed, kept):
                    for branch, store in (streamed, code.stream), (kept, code.store):
                        with branch:
                            for value, to in zip(sums, c, strict=True):
                                store(value, to)
                with part:
                    for value, to in zip(sums, c, strict=True):
                        code.store(value, to, mask)
            left = builder.sub(left, lanes)
            following = builder.select(builder.icmp_signed("<", left, I64(width)), left, I64(width))
            moved = [*(code.at(place, lanes) for place in pointers), *rows_at.move(places, lanes)]
            loop.close([following, left, *moved, *w_rows.move(w_places, lanes)])

        over_tiles(code, o, rows, tile)

    return kernel_of(dtype, width, emit)


def _from_last(code: VectorCode, taps: Any, i: int) -> Any:
    """Give the tap `i` before the last, or the first."""
    tap = code.builder.sub(taps, I64(1 + i))
    return code.builder.select(code.builder.icmp_signed("<", tap, I64(0)), I64(0), tap)


def _lanes_to_a_line(code: VectorCode, o: Operands, step: Any, vectors: int) -> Any:
    """Give the lanes of a row's first vector behind which no vector lies across two lines of the cache.

    They are all of them, where rows, `step` numbers apart, or both operands lie unlike each other, or rows are short.
    """
    builder, size = code.builder, code.width * code.size
    across, across_c = (builder.and_(builder.ptrtoint(place, I64), I64(size - 1)) for place in (o.a, o.c))
    head = builder.udiv(builder.sub(I64(size), across), I64(code.size))
    steps = builder.or_(step, builder.or_(o.a_line, o.c_line))
    alike = builder.icmp_signed("==", builder.and_(steps, I64(code.width - 1)), I64(0))
    alike = builder.and_(alike, builder.icmp_signed("==", across, across_c))
    long = builder.icmp_signed(">=", o.columns, I64(vectors * code.width))
    return builder.select(
        builder.and_(alike, long),
        head,
        builder.select(builder.icmp_signed("<", o.columns, I64(code.width)), o.columns, I64(code.width)),
    )


def spreading_code(
    dtype: np.dtype, kind: int, slide: Slide, terms: int, step: int, rows: int, vectors: int, far: bool, width: int
) -> Any:  # fmt: skip
    """Make the intrinsic of dense tiles, or tiles of small groups, whose window slides along their rows.

    Every tap is a segment; those of a row of the kernel follow each other. `terms` of a tap are written out, of 0 as
    many as `run` says; `step` is how far columns of x lie apart, or 0: as `a_row` says. Neither operand leaves gaps. A
    sum takes its terms tap by tap within each of them. Of x and c that are `far` away lines are asked for ahead.
    """
    group, places = group_of(kind), list(itertools.product(range(rows), range(vectors)))
    meetings, ahead = slide.reads(rows), _TILES_AHEAD if step else _LONG_TILES_AHEAD

    def emit(code: VectorCode, o: Operands) -> None:
        builder = code.builder
        a_step = I64(step) if step else builder.sdiv(o.a_row, I64(slide.stride))
        masks = [None] * (vectors - 1) + [code.first_lanes(builder.sub(o.columns, I64((vectors - 1) * width)))]

        def add_term(sums: list[Any], a: Any, b_taps: list[Any], term: int, of: range) -> None:
            """Add what one term of all taps of a row of the kernel gives to some vectors of each sum."""
            weights = [[code.load(code.at(b, (term * vectors + v) * width)) for v in of] for b in b_taps]
            # One pointer walks along: as many addresses would not stay in registers.
            here, reached = code.at(a, of.start * width if group else term), 0
            for place, pairs in meetings.items():
                here, reached = row_of(code, here, a_step, place - reached) if place > reached else here, place
                if group:
                    lanes = [i // group * group + term for i in range(width)]
                    x = code.shuffle(code.load(here, masks[of.start]), lanes)
                else:
                    x = code.broadcast(here)
                for (m, k), (i, v) in itertools.product(pairs, enumerate(of)):
                    sums[m * vectors + v] = code.multiply_add(x, weights[k][i], sums[m * vectors + v])

        def tile(a_tile: Any, c: Any, init: Any) -> None:
            if far:
                # Along a row of x, and of y, tile follows tile, and line follows line.
                for m, v in places:
                    code.prefetch(code.at(row_of(code, c, o.c_row, ahead * rows + m), v * width))
            if far and not step:
                _ask_ahead(code, o, slide, (a_tile, a_step), ahead * rows * slide.stride, rows, vectors if group else 1)
            starts = [code.load(code.at(init, v * width), masks[v]) for v in range(vectors)] * rows
            loop = Loop(code, o.taps, starts, slide.taps, tests=True)
            a = code.at(a_tile, builder.load(code.at(o.a_taps, loop.number)))
            b_taps = [code.at(o.b, builder.load(code.at(code.at(o.b_taps, loop.number), k))) for k in range(slide.taps)]
            sums = list(loop.values)
            if far and step:
                numbers = rows * slide.stride * step
                for n in range(0, numbers, LINE // code.size):
                    code.prefetch(code.at(a, ahead * numbers + n))
            if group or terms:
                for term in range(group or terms):
                    for of in [range(v, v + 1) for v in range(vectors)] if group else [range(vectors)]:
                        add_term(sums, a, b_taps, term, of)
            else:
                inner = Loop(code, o.run, [a, *b_taps, *sums], tests=False)
                a, b_here, sums = inner.values[0], inner.values[1 : 1 + slide.taps], inner.values[1 + slide.taps :]
                add_term(sums, a, b_here, 0, range(vectors))
                b_next = [code.at(b, vectors * width) for b in b_here]
                sums = inner.close([code.at(a, 1), *b_next, *sums])[1 + slide.taps :]
            store_tile(code, o, c, loop.close(sums), masks)

        over_tiles(code, o, rows, tile)

    return kernel_of(dtype, width, emit)


def _ask_ahead(
    code: VectorCode, o: Operands, slide: Slide, x: tuple[Any, Any], first: int, rows: int, vectors: int
) -> None:  # fmt: skip
    """Ask for the lines of `vectors` that a tile, `first` columns further, is the first to read.

    `x` is where this tile begins, and its step: only the last row of the kernel meets new lines.
    """
    builder, (a, a_step) = code.builder, x
    last = builder.sub(o.taps, I64(slide.taps))
    last = builder.select(builder.icmp_signed("<", last, I64(0)), I64(0), last)
    here = code.at(a, builder.load(code.at(o.a_taps, last)))
    first += slide.taps - slide.stride
    for place in range(first, first + rows * slide.stride):
        here = row_of(code, here, a_step, 1 if place > first else place)
        for v in range(vectors):
            # Vectors lie across lines: the tile of the columns before has asked for where this one begins.
            code.prefetch(code.at(here, (v + 1) * code.width - 1))


def correlating_code(
    dtype: np.dtype, kind: int, row_steps: int, term_steps: int, rows: int, lines: int, vectors: int, width: int
) -> Any:  # fmt: skip
    """Make the intrinsic of tiles whose rows and terms lie so many steps apart, of one length; runs are of any length.

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
