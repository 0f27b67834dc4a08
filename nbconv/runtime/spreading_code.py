"""The LLVM IR of dense tiles, or tiles of small groups, that load what they read of x once.

A plain tile loads a number, or shuffles a vector, for each multiply-add. Here windows slide as in `sliding_code`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .machine_code import Code
from .tile_code import group_of
from .tile_frame import LINE, Loop, Operands, Slide, kernel_of, over_tiles, row_of, store_tile
from .vector_code import I64, VectorCode

__all__ = ["spreading_code"]

_WEIGHTS = 12  # vectors of them in registers, where those of x are shuffled
_TILES_AHEAD, _LONG_TILES_AHEAD = 8, 2  # that many short or long ones are done while memory answers


def spreading_code(
    dtype: np.dtype, kind: int, slide: Slide, terms: int, step: int, rows: int, vectors: int, far: bool, width: int
) -> Code:  # fmt: skip
    """Make the code of dense tiles, or tiles of small groups, whose window slides along their rows.

    Every tap is a segment; those of a row of the kernel follow each other. `terms` of a tap are written out, of 0 as
    many as `run` says; `step` is how far columns of x lie apart, or 0: as `a_row` says. Neither operand leaves gaps. A
    sum takes its terms tap by tap within each of them, or within a few. Of x and c that are `far` away lines are asked
    for ahead.
    """
    group, places = group_of(kind), list(itertools.product(range(rows), range(vectors)))
    meetings, ahead = slide.reads(rows), _TILES_AHEAD if step else _LONG_TILES_AHEAD

    def emit(code: VectorCode, o: Operands) -> None:
        builder = code.builder
        a_step = I64(step) if step else builder.sdiv(o.a_row, I64(slide.stride))
        # Terms that share a step of their shuffles, as far as their weights stay in registers.
        together = code.near(group) if code.near(group) < group else 1
        while together > 1 and together * slide.taps > _WEIGHTS:
            together //= 2
        masks = [None] * (vectors - 1) + [code.first_lanes(builder.sub(o.columns, I64((vectors - 1) * width)))]

        def factors(here: Any, terms: range, v: int) -> list[Any]:
            """Load what some terms of a column of x give to vector `v`."""
            if not group:
                return [code.broadcast(here)]
            near = code.bring_near(code.load(here, masks[v]), group, terms.start // code.near(group) * code.near(group))
            return [code.pick(near, group, term) for term in terms]

        def add_terms(sums: list[Any], a: Any, b_taps: list[Any], terms: range, of: range) -> None:
            """Add what some terms of all taps of a row of the kernel give to some vectors of each sum."""
            places_in_b = [(term * vectors + v) * width for term in terms for v in of]
            weights = [[code.load(code.at(b, place)) for place in places_in_b] for b in b_taps]
            # One pointer walks along: as many addresses would not stay in registers.
            here, reached = code.at(a, of.start * width if group else terms.start), 0
            for place, pairs in meetings.items():
                here, reached = row_of(code, here, a_step, place - reached) if place > reached else here, place
                for i, x in enumerate(factors(here, terms, of.start)):
                    for (m, k), (j, v) in itertools.product(pairs, enumerate(of)):
                        factor = weights[k][i * len(of) + j]
                        sums[m * vectors + v] = code.multiply_add(x, factor, sums[m * vectors + v])

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
                for first in range(0, group or terms, together):
                    for of in [range(v, v + 1) for v in range(vectors)] if group else [range(vectors)]:
                        add_terms(sums, a, b_taps, range(first, first + together), of)
            else:
                inner = Loop(code, o.run, [a, *b_taps, *sums], tests=False)
                a, b_here, sums = inner.values[0], inner.values[1 : 1 + slide.taps], inner.values[1 + slide.taps :]
                add_terms(sums, a, b_here, range(1), range(vectors))
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
