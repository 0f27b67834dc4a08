"""The LLVM IR of the tile kernels: one tile after the other, each held in registers from its first tap to its store.

What a kernel computes is said once, in `microkernel.run_tile`; here is how. Tiles that slide, and dot products, are
elsewhere: `sliding_code`, `spreading_code`, `dot_code`.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np

from .machine_code import Code
from .target import lanes
from .tile_frame import LINE, Loop, Operands, Rows, Slide, ask_for, kernel_of, over_taps, over_tiles, row_of, store_tile
from .vector_code import I64, VectorCode

__all__ = [
    "DENSE", "DEPTHWISE", "DOT", "NARROW", "TRIMMED", "group_of", "grouped", "kind_lanes", "short_code", "tile_code",
]  # fmt: skip

DENSE, DEPTHWISE = 0, 1
DOT = 4  # few columns: vectors lie along the reduction, and each sum is added up at the end
TRIMMED = 2  # added to either: `b` is no padded copy but user memory, of whose last vector only valid columns are read
NARROW = 64  # dense, on halves of registers, so that fewer lanes lie idle; a_k is 1, and b packed without gaps
_GROUP_SHIFT = 3  # a depthwise kernel of small groups carries their channels in its kind
_MOST = 64  # lines asked for at once: what can be on its way, some times over
_MOST_APART = 2  # times what a tile reads of each of them, rows are asked for ahead
_TILES_AHEAD, _LEAST_TAPS = 2, 4  # of small groups: tiles before which memory answers, taps that leave time to ask
_UNROLL = 4  # steps of a narrow tile's reduction that share the addresses of its rows


def grouped(channels: int) -> int:
    """Give the kind whose every output reads the `channels` of its group: depthwise is one of them."""
    return DEPTHWISE | (channels << _GROUP_SHIFT if channels > 1 else 0)


def group_of(kind: int) -> int:
    """Give the channels of a group, of a kind that `grouped` made for more than one; else 0."""
    return kind >> _GROUP_SHIFT if kind & DEPTHWISE else 0


def kind_lanes(kind: int, dtype: np.dtype) -> int:
    """Give the numbers that one vector of such a tile holds."""
    return lanes(dtype) // (2 if kind == NARROW else 1)


def tile_code(
    dtype: np.dtype, kind: int, rows: int, vectors: int, width: int, far: bool = False, slide: Slide | None = None,
    streams: bool = False,
) -> Code:  # fmt: skip
    """Make the code of tiles of `rows` x `vectors`, all in registers; `far` ones ask for weights ahead.

    If they `slide`, they reach over the rim of x: a tap passes over the rows that meet no data there. Those that
    `streams` go past the caches.
    """
    inside = slide.rows_inside(rows) if slide else [list(range(rows))]
    return kernel_of(dtype, width, lambda code, o: _tiles(code, o, kind, rows, vectors, far, inside, streams))


def _tiles(
    code: VectorCode, o: Operands, kind: int, rows: int, vectors: int, far: bool, inside: list[list[int]],
    streams: bool,
) -> None:  # fmt: skip
    builder, width, group = code.builder, code.width, group_of(kind)
    # Of the last vector, only so many columns are there.
    masks = [None] * (vectors - 1) + [code.first_lanes(builder.sub(o.columns, I64((vectors - 1) * width)))]
    trims = masks if kind & TRIMMED else [None] * vectors
    places = list(itertools.product(range(rows), range(vectors)))

    def vectors_at(start: Any, masks: list[Any]) -> list[Any]:
        return [code.load(code.at(start, v * width), masks[v]) for v in range(vectors)]

    x_rows = Rows(code, o.a_row, rows)

    def step(sums: list[Any], meeting: list[int], x_here: list[Any], k: int, b: Any) -> list[Any]:
        """Add what one step along the reduction gives the rows that are `meeting` data, `k` numbers further in x."""
        sums = list(sums)
        if group:
            rows_of_x = [vectors_at(x_rows.at(x_here, m), masks) for m in range(rows)]
            for c_in in range(group):
                if c_in % code.near(group) == 0:
                    x = [code.bring_near(rows_of_x[m][v], group, c_in) for m, v in places]
                weights = vectors_at(row_of(code, b, o.b_k, c_in), [None] * vectors)
                for i, (_, v) in enumerate(places):
                    sums[i] = code.multiply_add(code.pick(x[i], group, c_in), weights[v], sums[i])
            return sums
        weights = vectors_at(b, trims)
        for m in meeting:
            row = code.at(x_rows.at(x_here, m), k)
            factors = vectors_at(row, masks) if kind & DEPTHWISE else [code.broadcast(row)] * vectors
            for v in range(vectors):
                i = m * vectors + v
                sums[i] = code.multiply_add(factors[v], weights[v], sums[i])
        return sums

    def products(steps: list[Any], meeting: list[int], state: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
        """Add to the sums, at the front of `state`; behind them are lines to ask for, that move on by `steps` bytes."""
        if not meeting:
            return state
        state, count, terms = [*x_rows.begin(a_tap), b_tap, *state], o.run, group or 1

        def rounds(count: Any, unroll: int, state: list[Any]) -> list[Any]:
            loop = Loop(code, count, state, unroll * terms, tests=kind == NARROW)
            x_here, (b, *here) = x_rows.hide(loop.values[: x_rows.size]), loop.values[x_rows.size :]
            sums, lines = here[: len(places)], here[len(places) :]
            for line in lines:
                code.prefetch(line)
            for i in range(unroll):
                sums = step(sums, meeting, x_here, i, code.at(b, i * vectors * width))
            if unroll > 1:  # a_k is 1, and b leaves no gaps
                a_step, b_step = I64(unroll), I64(unroll * vectors * width)
            else:
                a_step, b_step = o.a_k, o.b_k
            lines = [code.at_byte(line, line_step) for line, line_step in zip(lines, steps, strict=True)]
            return loop.close([*x_rows.move(x_here, a_step), code.at(b, b_step), *sums, *lines])

        if kind == NARROW:
            whole = builder.and_(o.run, I64(-_UNROLL))
            state, count = rounds(whole, _UNROLL, state), builder.sub(o.run, whole)
        return rounds(count, 1, state)[x_rows.size + 1 :]

    def at_least(number: int, value: Any) -> Any:
        return builder.select(builder.icmp_signed("<", value, I64(number)), I64(number), value)

    def lines_of_x(a: Any) -> list[tuple[Any, Any]]:
        """Ask for the next tile's rows: give a line to ask for at each term, and its step, or ask for all at once."""
        last = at_least(0, builder.sub(o.taps, I64(1)))
        last_tap = code.at(a, builder.load(code.at(o.a_taps, last)))
        first = code.at(row_of(code, last_tap, o.a_row, rows - 1), o.run)
        terms = builder.mul(o.taps, o.run)
        # Of rows far apart a tile reads little: what lies between would come for nothing, and push out the rest.
        is_near = builder.icmp_signed("<=", o.a_row, builder.mul(terms, I64(_MOST_APART)))
        size = builder.select(is_near, builder.mul(o.a_row, I64(rows * code.size)), I64(0))
        if kind != NARROW and vectors > 1:  # one vector's terms leave no time for it
            return [(first, builder.sdiv(size, at_least(1, terms)))]
        lines = builder.sdiv(size, I64(LINE))
        ask_for(code, first, builder.select(builder.icmp_signed("<", lines, I64(_MOST)), lines, I64(_MOST)))
        return []

    def ask_for_group(a: Any, c: Any) -> None:
        """Ask for the rows of c, and for those of x that a later tile is the first to read."""
        with builder.if_then(builder.icmp_signed(">=", o.taps, I64(_LEAST_TAPS))):
            last = builder.load(code.at(o.a_taps, builder.sub(o.taps, I64(1))))
            x = row_of(code, code.at(a, last), o.a_row, _TILES_AHEAD * rows)
            for m, v in places:
                # Vectors lie across lines: the tile of the columns before has asked for where this one begins.
                code.prefetch(code.at(row_of(code, x, o.a_row, m), (v + 1) * width - 1))
                if not streams:
                    code.prefetch(code.at(row_of(code, c, o.c_row, m), v * width))

    def ask_for_rows(a: Any) -> None:
        """Ask for what the next tile is the first to read of rows far apart, as those of a group among many are."""
        apart = builder.icmp_signed(">", o.a_row, builder.mul(builder.mul(o.taps, o.run), I64(_MOST_APART)))
        with builder.if_then(builder.and_(apart, builder.icmp_signed(">=", o.taps, I64(2)))):
            last, before = (builder.load(code.at(o.a_taps, builder.sub(o.taps, I64(i)))) for i in (1, 2))
            # Where windows move further than from tap to tap, so many of their last taps meet new columns.
            columns = at_least(1, builder.sdiv(o.a_row, at_least(1, builder.sub(last, before))))
            columns = builder.select(builder.icmp_signed("<", columns, o.taps), columns, o.taps)
            of_taps = Loop(code, columns, [], tests=False)
            tap = builder.load(code.at(o.a_taps, builder.sub(builder.sub(o.taps, I64(1)), of_taps.number)))
            x = row_of(code, code.at(a, tap), o.a_row, rows)
            of_run = Loop(code, at_least(1, builder.sdiv(o.run, I64(LINE // code.size))), [x], tests=False)
            for m in range(rows):
                code.prefetch(code.at(row_of(code, of_run.values[0], o.a_row, m), LINE // code.size - 1))
            of_run.close([code.at(of_run.values[0], LINE // code.size)])
            of_taps.close([])

    def begin(init: Any) -> list[Any]:
        """Load what the sums start from: mostly the bias, one row for all."""
        with builder.if_else(builder.icmp_signed("==", o.init_row, I64(0))) as (one, many):
            with one:
                repeated, after_one = vectors_at(init, masks) * rows, builder.block
            with many:
                each = [vectors_at(row_of(code, init, o.init_row, m), masks) for m in range(rows)]
                loaded, after_many = list(itertools.chain(*each)), builder.block
        sums = code.phis(repeated, after_one)
        for phi, value in zip(sums, loaded, strict=True):
            phi.add_incoming(value, after_many)
        return sums

    def tile(a: Any, c: Any, init: Any, *weights: Any) -> list[Any]:
        asked = [(line, o.ahead_step) for line in weights]
        if group:
            ask_for_group(a, c)
        if not kind & DEPTHWISE:
            # Few products wait for many lines. At once they would hold up all other loads.
            asked = lines_of_x(a) + asked
            ask_for_rows(a)
            for m, v in [] if streams else places:
                code.prefetch(code.at(row_of(code, c, o.c_row, m), v * width))
        starts = begin(init)
        lines, steps = [line for line, _ in asked], [line_step for _, line_step in asked]
        ends = over_taps(code, o, a, o.b, [*starts, *lines], *(partial(products, steps, taps) for taps in inside))
        store_tile(code, o, c, ends[: len(places)], masks, streams)
        return ends[len(ends) - len(weights) :]

    over_tiles(code, o, rows, tile, [o.ahead] if far else [])


def short_code(dtype: np.dtype, terms: int, rows: int, width: int, streams: bool = False) -> Code:
    """Make the code of dense tiles of one vector that take `terms` of each tap, written out.

    A loop of few rounds would spend as long on its addresses as on its products. Neither operand leaves gaps.
    """

    def emit(code: VectorCode, o: Operands) -> None:
        mask, x_rows = code.first_lanes(o.columns), Rows(code, o.a_row, rows)

        def products(sums: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
            weights = [code.load(code.at(b_tap, k * width)) for k in range(terms)]
            x = x_rows.hide(x_rows.begin(a_tap))
            for k, m in itertools.product(range(terms), range(rows)):
                sums[m] = code.multiply_add(code.broadcast(code.at(x_rows.at(x, m), k)), weights[k], sums[m])
            return sums

        def tile(a: Any, c: Any, init: Any) -> None:
            sums = [code.load(row_of(code, init, o.init_row, m), mask) for m in range(rows)]
            store_tile(code, o, c, over_taps(code, o, a, o.b, sums, products), [mask], streams)

        over_tiles(code, o, rows, tile)

    return kernel_of(dtype, width, emit)
