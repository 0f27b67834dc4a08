"""The LLVM IR of dot tiles: few outputs, vectors along the reduction, and each sum added up at the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .machine_code import Code
from .tile_frame import LINE, Loop, Operands, Rows, Slide, ask_for, kernel_of, over_taps, over_tiles, row_of
from .vector_code import I64, VectorCode

__all__ = ["dot_code", "sliding_dot_code"]

_AHEAD = 8192  # bytes: what memory delivers in the time that it takes to answer, some times over


def dot_code(dtype: np.dtype, rows: int, columns: int, width: int) -> Code:
    """Make the code of tiles of `rows` x `columns` dot products."""

    def emit(code: VectorCode, o: Operands) -> None:
        x_rows, w_rows = Rows(code, o.a_row, rows), Rows(code, o.b_k, columns)

        def products(sums: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
            def add(sums: list[Any], x: Sequence[Any], w: Sequence[Any], lanes: Any) -> None:
                weights = [code.load(w_rows.at(w, v), lanes) for v in range(columns)]
                for m in range(rows):
                    factor = code.load(x_rows.at(x, m), lanes)
                    for v in range(columns):
                        sums[m * columns + v] = code.multiply_add(factor, weights[v], sums[m * columns + v])

            return _over_run(code, o, (x_rows, [a_tap]), (w_rows, [b_tap]), sums, add)

        def tile(a: Any, c: Any, init: Any) -> None:
            _prefetch(code, o, a, rows)
            sums = over_taps(code, o, a, o.b, [code.zero] * (rows * columns), products)
            _finish(code, o, c, init, sums, columns)

        over_tiles(code, o, rows, tile)

    return kernel_of(dtype, width, emit)


def sliding_dot_code(dtype: np.dtype, slide: Slide, rows: int, columns: int, width: int) -> Code:
    """Make the code of such tiles whose window slides along their rows, as `spreading_code` has it.

    A plain one loads a vector of x for each multiply-add with one column, mostly across two lines of the cache.
    """
    meetings = slide.reads(rows)

    def emit(code: VectorCode, o: Operands) -> None:
        builder = code.builder
        x_rows = Rows(code, builder.sdiv(o.a_row, I64(slide.stride)), max(meetings, default=0) + 1)
        w_rows = Rows(code, o.b_k, *[columns] * slide.taps)

        def add(sums: list[Any], x: Sequence[Any], w: Sequence[Any], lanes: Any) -> None:
            weights = [[code.load(w_rows.at(w, v, k), lanes) for v in range(columns)] for k in range(slide.taps)]
            for place, pairs in meetings.items():
                factor = code.load(x_rows.at(x, place), lanes)
                for (m, k), v in itertools.product(pairs, range(columns)):
                    sums[m * columns + v] = code.multiply_add(factor, weights[k][v], sums[m * columns + v])

        def tile(a: Any, c: Any, init: Any) -> None:
            _prefetch(code, o, a, rows)
            loop = Loop(code, o.taps, [code.zero] * (rows * columns), slide.taps, tests=True)
            a_tap = code.at(a, builder.load(code.at(o.a_taps, loop.number)))
            tables = [code.at(code.at(o.b_taps, loop.number), k) for k in range(slide.taps)]
            b_taps = [code.at(o.b, builder.load(table)) for table in tables]
            sums = loop.close(_over_run(code, o, (x_rows, [a_tap]), (w_rows, b_taps), loop.values, add))
            _finish(code, o, c, init, sums, columns)

        over_tiles(code, o, rows, tile)

    return kernel_of(dtype, width, emit)


def _over_run(
    code: VectorCode, o: Operands, x: tuple[Rows, list[Any]], w: tuple[Rows, list[Any]], sums: list[Any],
    add: Callable[[list[Any], Sequence[Any], Sequence[Any], Any], None],
) -> list[Any]:  # fmt: skip
    """Write the loop over a run, a vector at a time: `add` is given the sums, both operands' rows, the valid lanes."""
    (x_rows, x_starts), (w_rows, w_starts) = x, w
    cut = x_rows.size, x_rows.size + w_rows.size
    carried = [*x_rows.begin(*x_starts), *w_rows.begin(*w_starts), *sums]
    loop = Loop(code, o.run, carried, code.width, tests=False)
    x_here, w_here, sums = loop.values[: cut[0]], loop.values[cut[0] : cut[1]], loop.values[cut[1] :]
    x_here, w_here = x_rows.hide(x_here), w_rows.hide(w_here)
    add(sums, x_here, w_here, code.first_lanes(code.builder.sub(o.run, loop.number)))
    step = I64(code.width)
    return loop.close([*x_rows.move(x_here, step), *w_rows.move(w_here, step), *sums])[cut[1] :]


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
