"""The LLVM IR of dot tiles: few outputs, vectors along the reduction, and each sum added up at the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .sliding_code import Slide
from .tile_frame import LINE, Loop, Operands, ask_for, kernel_of, over_taps, over_tiles, row_of
from .vector_code import I64, VectorCode

__all__ = ["dot_code", "sliding_dot_code"]

_AHEAD = 8192  # bytes: what memory delivers in the time that it takes to answer, some times over


def dot_code(dtype: np.dtype, rows: int, columns: int, width: int) -> Any:
    """Make the intrinsic of tiles of `rows` x `columns` dot products."""

    def emit(code: VectorCode, o: Operands) -> None:
        def products(sums: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
            def add(sums: list[Any], a: Any, b_taps: list[Any], here: Any) -> None:
                weights = [code.load(row_of(code, b_taps[0], o.b_k, v), here) for v in range(columns)]
                for m in range(rows):
                    factor = code.load(row_of(code, a, o.a_row, m), here)
                    for v in range(columns):
                        sums[m * columns + v] = code.multiply_add(factor, weights[v], sums[m * columns + v])

            return _over_run(code, o, a_tap, [b_tap], sums, add)

        def tile(a: Any, c: Any, init: Any) -> None:
            _prefetch(code, o, a, rows)
            sums = over_taps(code, o, a, o.b, [code.zero] * (rows * columns), products)
            _finish(code, o, c, init, sums, columns)

        over_tiles(code, o, rows, tile)

    return kernel_of(dtype, width, emit)


def sliding_dot_code(dtype: np.dtype, slide: Slide, rows: int, columns: int, width: int) -> Any:
    """Make the intrinsic of such tiles whose window slides along their rows, as `sliding_code.spreading_code` has it.

    A plain one loads a vector of x for each multiply-add with one column, mostly across two lines of the cache.
    """
    meetings = slide.reads(rows)

    def emit(code: VectorCode, o: Operands) -> None:
        builder = code.builder
        a_step = builder.sdiv(o.a_row, I64(slide.stride))

        def add(sums: list[Any], a: Any, b_taps: list[Any], here: Any) -> None:
            weights = [[code.load(row_of(code, b, o.b_k, v), here) for v in range(columns)] for b in b_taps]
            reached = 0
            for place, pairs in meetings.items():
                a, reached = row_of(code, a, a_step, place - reached) if place > reached else a, place
                factor = code.load(a, here)
                for (m, k), v in itertools.product(pairs, range(columns)):
                    sums[m * columns + v] = code.multiply_add(factor, weights[k][v], sums[m * columns + v])

        def tile(a: Any, c: Any, init: Any) -> None:
            _prefetch(code, o, a, rows)
            loop = Loop(code, o.taps, [code.zero] * (rows * columns), slide.taps, tests=True)
            a_tap = code.at(a, builder.load(code.at(o.a_taps, loop.number)))
            tables = [code.at(code.at(o.b_taps, loop.number), k) for k in range(slide.taps)]
            b_taps = [code.at(o.b, builder.load(table)) for table in tables]
            sums = loop.close(_over_run(code, o, a_tap, b_taps, loop.values, add))
            _finish(code, o, c, init, sums, columns)

        over_tiles(code, o, rows, tile)

    return kernel_of(dtype, width, emit)


def _over_run(
    code: VectorCode, o: Operands, a_tap: Any, b_taps: list[Any], sums: list[Any],
    add: Callable[[list[Any], Any, list[Any], Any], None],
) -> list[Any]:  # fmt: skip
    """Write the loop over a run, a vector at a time: `add` is given the sums, a, b at each tap, and the valid lanes."""
    loop = Loop(code, o.run, [a_tap, *b_taps, *sums], code.width, tests=False)
    a, b_here, sums = loop.values[0], loop.values[1 : 1 + len(b_taps)], loop.values[1 + len(b_taps) :]
    add(sums, a, b_here, code.first_lanes(code.builder.sub(o.run, loop.number)))
    return loop.close([*(code.at(place, code.width) for place in (a, *b_here)), *sums])[1 + len(b_taps) :]


def _prefetch(code: VectorCode, o: Operands, a: Any, rows: int) -> None:
    """Few outputs, much input: as much as a tile reads is asked for in time, further on."""
    builder = code.builder
    reads = builder.sdiv(builder.mul(builder.mul(o.taps, o.run), I64(rows)), I64(code.width))
    lines = builder.sdiv(builder.mul(o.a_row, I64(rows * code.size)), I64(LINE))
    lines = builder.select(builder.icmp_signed("<", lines, reads), lines, reads)
    ask_for(code, code.at(a, _AHEAD // code.size), lines)


def _finish(code: VectorCode, o: Operands, c: Any, init: Any, sums: list[Any], columns: int) -> None:
    """Add up the lanes of each sum, and what it starts from, and store it."""
    builder, width, totals = code.builder, code.width, code.add_up(sums)
    # Mostly outputs lie together, and so do the sums so far, where these are not the bias.
    begins = builder.icmp_signed("==", o.init_row, I64(0))
    goes_on = builder.icmp_signed("==", o.init_row, I64(columns))
    lie_together = builder.icmp_signed("==", o.c_row, I64(columns))
    with builder.if_else(builder.and_(lie_together, builder.or_(begins, goes_on))) as (together, apart):
        with together:
            bias = code.collect([code.at(init, v) for v in range(columns)])
            for first, total in zip(range(0, len(sums), width), totals, strict=True):
                count = I64(min(width, len(sums) - first))
                so_far = code.load(code.at(init, first), code.first_lanes(builder.select(begins, I64(0), count)))
                repeated = code.shuffle(bias, [(first + i) % columns for i in range(width)])
                start = builder.select(begins, repeated, so_far)
                code.store(builder.fadd(start, total), code.at(c, first), code.first_lanes(count))
        with apart:
            for i in range(len(sums)):
                m, v = divmod(i, columns)
                start = builder.load(code.at(row_of(code, init, o.init_row, m), v), align=code.size)
                total = builder.extract_element(totals[i // width], I64(i % width))
                builder.store(builder.fadd(start, total), code.at(row_of(code, c, o.c_row, m), v), align=code.size)
