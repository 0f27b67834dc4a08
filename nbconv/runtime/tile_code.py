"""The LLVM IR of the tile kernels: one tile after the other, each held in registers from its first tap to its store.

What a kernel computes is said once, in `microkernel.run_tile`; here is how.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .target import lanes
from .vector_code import I64, VectorCode

__all__ = [
    "DENSE",
    "DEPTHWISE",
    "DOT",
    "NARROW",
    "N_ARGS",
    "TRIMMED",
    "Slide",
    "correlating_code",
    "group_of",
    "grouped",
    "kind_lanes",
    "short_code",
    "sliding_code",
    "tile_code",
]

DENSE, DEPTHWISE = 0, 1
DOT = 4  # few columns: vectors lie along the reduction, and each sum is added up at the end
TRIMMED = 2  # added to either: `b` is no padded copy but user memory, of whose last vector only valid columns are read
NARROW = 64  # dense, on halves of registers, so that fewer lanes lie idle; a_k is 1, and b packed without gaps
_GROUP_SHIFT = 3  # a depthwise kernel of small groups carries their channels in its kind
N_ARGS = 15
_LINE = 64  # bytes of a cache line
_AHEAD = 8192  # bytes: what memory delivers in the time that it takes to answer, some times over
_ADDRESSES = 6  # of rows, that stay in registers at once
_UNROLL = 4  # steps of a reduction at once, where they share addresses or loads


def grouped(channels: int) -> int:
    """Give the kind whose every output reads the `channels` of its group: depthwise is one of them."""
    return DEPTHWISE | (channels << _GROUP_SHIFT if channels > 1 else 0)


def group_of(kind: int) -> int:
    """Give the channels of a group, of a kind that `grouped` made for more than one; else 0."""
    return kind >> _GROUP_SHIFT & 7


def kind_lanes(kind: int, dtype: np.dtype) -> int:
    """Give the numbers that one vector of such a tile holds."""
    return lanes(dtype) // (2 if kind == NARROW else 1)


class _Loop:
    """A counted loop: ``[0, count)``, with values carried from round to round. It runs at least once unless `tests`."""

    def __init__(self, code: VectorCode, count: Any, carried: Sequence[Any], step: int = 1, *, tests: bool) -> None:
        self.builder, self.count, self.step, self.tests = code.builder, count, step, tests
        before = self.builder.block
        self.head = self.builder.append_basic_block("head")
        self.done = self.builder.append_basic_block("done")
        self.builder.branch(self.head)
        self.builder.position_at_end(self.head)
        self.number, *self.values = code.phis([I64(0), *carried], before)
        if tests:
            body = self.builder.append_basic_block("body")
            self.builder.cbranch(self.builder.icmp_signed("<", self.number, count), body, self.done)
            self.builder.position_at_end(body)

    def close(self, carried: Sequence[Any]) -> list[Any]:
        """End the body; give the carried values as they are after the loop."""
        builder, block = self.builder, self.builder.block
        following = builder.add(self.number, I64(self.step))
        for phi, value in zip([self.number, *self.values], [following, *carried], strict=True):
            phi.add_incoming(value, block)
        if self.tests:
            builder.branch(self.head)
        else:
            builder.cbranch(builder.icmp_signed("<", following, self.count), self.head, self.done)
        builder.position_at_end(self.done)
        return list(self.values if self.tests else carried)


def _row(code: VectorCode, start: Any, row_stride: Any, m: int) -> Any:
    return code.at(start, code.builder.mul(row_stride, I64(m)))


def _intrinsic(emit: Any) -> Any:
    """Make an intrinsic of fifteen integers, whose code `emit` writes."""

    def codegen(context, builder, signature, args):
        emit(builder, *args)
        return context.get_dummy_value()

    @intrinsic
    def tile_product(
        typing_context, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, columns, tiles
    ):
        return types.void(*[types.intp] * N_ARGS), codegen

    return tile_product


def tile_code(dtype: np.dtype, kind: int, rows: int, vectors: int, width: int) -> Any:
    """Make the intrinsic of tiles of `rows` x `vectors` (dot products: columns), all in registers."""

    def emit(builder, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, columns, tiles):
        code = VectorCode(builder, dtype, width)
        a, b, c, init = (code.pointer(address, code.scalar) for address in (a, b, c, init))
        a_taps, b_taps = code.pointer(a_taps, I64), code.pointer(b_taps, I64)
        last_lanes = code.first_lanes(builder.sub(columns, I64((vectors - 1) * width)))
        tile = [(m, v) for m in range(rows) for v in range(vectors)]

        def mask(v):
            return last_lanes if v == vectors - 1 else None

        def vector_at(start, v):
            return code.at(start, v * width)

        def products(sums, a_here, b_here, k):
            """Add what one step along the reduction gives."""
            sums = list(sums)
            if kind & DOT:
                here = code.first_lanes(builder.sub(run, k))
                weights = [code.load(_row(code, b_here, b_k, v), here) for v in range(vectors)]
                for m in range(rows):
                    factor = code.load(_row(code, a_here, a_row, m), here)
                    for v in range(vectors):
                        sums[m * vectors + v] = code.multiply_add(factor, weights[v], sums[m * vectors + v])
            elif group_of(kind):
                group = group_of(kind)
                x = [code.load(vector_at(_row(code, a_here, a_row, m), v), mask(v)) for m, v in tile]
                for c_in in range(group):
                    of_group = [i // group * group + c_in for i in range(width)]
                    weights = [code.load(vector_at(_row(code, b_here, b_k, c_in), v)) for v in range(vectors)]
                    for i, (_, v) in enumerate(tile):
                        sums[i] = code.multiply_add(code.shuffle(x[i], of_group), weights[v], sums[i])
            else:
                trim = mask if kind & TRIMMED else lambda v: None
                weights = [code.load(vector_at(b_here, v), trim(v)) for v in range(vectors)]
                for m in range(rows):
                    row = _row(code, a_here, a_row, m)
                    if kind & DEPTHWISE:
                        factors = [code.load(vector_at(row, v), mask(v)) for v in range(vectors)]
                    else:
                        factors = [code.broadcast(row)] * vectors
                    for v in range(vectors):
                        i = m * vectors + v
                        sums[i] = code.multiply_add(factors[v], weights[v], sums[i])
            return sums

        step = width if kind & DOT else group_of(kind) or 1
        a_step, b_step = (I64(step),) * 2 if kind & DOT else (a_k, b_k)
        tile_loop = _Loop(code, tiles, [a, c, init], tests=False)
        a_tile, c_tile, init_tile = tile_loop.values
        if kind & DOT:
            # Few outputs, much input: as much as a tile reads is asked for in time, further on.
            row_bytes = builder.mul(a_row, I64(rows * code.size))
            reads = builder.sdiv(builder.mul(builder.mul(taps, run), I64(rows)), I64(width))
            lines = builder.sdiv(row_bytes, I64(_LINE))
            lines = builder.select(builder.icmp_signed("<", lines, reads), lines, reads)
            ahead = code.at(a_tile, _AHEAD // code.size)
            prefetches = _Loop(code, lines, [], tests=True)
            code.prefetch(code.at(ahead, builder.mul(prefetches.number, I64(_LINE // code.size))))
            prefetches.close([])
            sums = [code.zero] * len(tile)
        else:
            sums = [code.load(vector_at(_row(code, init_tile, init_row, m), v), mask(v)) for m, v in tile]
        tap_loop = _Loop(code, taps, sums, tests=True)
        a_tap = code.at(a_tile, builder.load(code.at(a_taps, tap_loop.number)))
        b_tap = code.at(b, builder.load(code.at(b_taps, tap_loop.number)))
        state = [a_tap, b_tap, *tap_loop.values]
        count = run
        if kind == NARROW:
            whole = builder.and_(run, I64(-_UNROLL))
            wide_loop = _Loop(code, whole, state, _UNROLL, tests=True)
            a_here, b_here, *sums = wide_loop.values
            for i in range(_UNROLL):
                sums = products(sums, code.at(a_here, i), code.at(b_here, i * vectors * width), None)
            following = [code.at(a_here, _UNROLL), code.at(b_here, _UNROLL * vectors * width)]
            state = wide_loop.close([*following, *sums])
            count = builder.sub(run, whole)
        k_loop = _Loop(code, count, state, step, tests=kind == NARROW)
        a_here, b_here, *sums = k_loop.values
        sums = products(sums, a_here, b_here, k_loop.number)
        following = [code.at(a_here, a_step), code.at(b_here, b_step)]
        _, _, *sums = k_loop.close([*following, *sums])
        sums = tap_loop.close(sums)
        for (m, v), value in zip(tile, sums, strict=True):
            row = _row(code, c_tile, c_row, m)
            if kind & DOT:
                start = builder.load(code.at(_row(code, init_tile, init_row, m), v), align=code.size)
                builder.store(builder.fadd(start, code.add_up(value)), code.at(row, v), align=code.size)
            else:
                code.store(value, vector_at(row, v), mask(v))
        tile_loop.close([
            _row(code, place, step, rows) for place, step in ((a_tile, a_row), (c_tile, c_row), (init_tile, init_row))
        ])  # fmt: skip

    return _intrinsic(emit)


class Slide(NamedTuple):
    """A depthwise window that slides along a row: `a_row` is `stride` times, `a_k` is `dilation` times one step."""

    taps: int
    stride: int
    dilation: int
    left: int = 0
    right: int = 0
    """Steps at either end of what a tile reaches over that are zeros: nothing is read there."""

    def reads(self, rows: int) -> dict[int, list[tuple[int, int]]]:
        """List the steps that `rows` windows read, and for each of them the rows and taps that meet there."""
        meetings: dict[int, list[tuple[int, int]]] = {}
        for m, k in itertools.product(range(rows), range(self.taps)):
            meetings.setdefault(m * self.stride + k * self.dilation, []).append((m, k))
        end = max(meetings) + 1 - self.right
        return {step: pairs for step, pairs in sorted(meetings.items()) if self.left <= step < end}


def sliding_code(dtype: np.dtype, slide: Slide, rows: int, width: int) -> Any:
    """Make the intrinsic of depthwise tiles whose window slides along their rows.

    A plain depthwise tile loads a vector for each multiply-add. Here the vectors of a row are loaded once, from left to
    right, and each is multiplied into all windows that it is in, one column of vectors after the other; a sum still
    takes its terms in the same order.
    """

    def emit(builder, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, columns, tiles):
        code = VectorCode(builder, dtype, width)
        a, b, c, init = (code.pointer(address, code.scalar) for address in (a, b, c, init))
        a_taps, b_taps = code.pointer(a_taps, I64), code.pointer(b_taps, I64)
        a_step = a_row if slide.stride == 1 else builder.sdiv(a_k, I64(slide.dilation))
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(1), width), [1] * width)
        last = builder.udiv(builder.sub(columns, I64(1)), I64(width))
        last_lanes = code.first_lanes(builder.sub(columns, builder.mul(last, I64(width))))
        tile_loop = _Loop(code, tiles, [a, c, init], tests=False)
        column_loop = _Loop(code, builder.add(last, I64(1)), [*tile_loop.values, b], tests=False)
        a_tile, c_tile, init_tile, b_tile = column_loop.values
        is_last = builder.icmp_signed("==", column_loop.number, last)
        mask = builder.select(is_last, last_lanes, all_lanes)
        sums = [code.load(_row(code, init_tile, init_row, m), mask) for m in range(rows)]
        tap_loop = _Loop(code, taps, sums, tests=True)
        sums = list(tap_loop.values)
        a_tap = code.at(a_tile, builder.load(code.at(a_taps, tap_loop.number)))
        b_tap = code.at(b_tile, builder.load(code.at(b_taps, tap_loop.number)))
        weights = [code.load(_row(code, b_tap, b_k, k)) for k in range(slide.taps)]
        # One pointer walks along: as many addresses would not stay in registers.
        here, reached = a_tap, 0
        for place, pairs in slide.reads(rows).items():
            here, reached = _row(code, here, a_step, place - reached) if place > reached else here, place
            x = code.load(here, mask)
            for m, k in pairs:
                sums[m] = code.multiply_add(x, weights[k], sums[m])
        sums = tap_loop.close(sums)
        # Without masks on vectors of 32 bytes: there a masked store is many instructions.
        with builder.if_else(is_last) as (then, otherwise):
            with then:
                for m, value in enumerate(sums):
                    code.store(value, _row(code, c_tile, c_row, m), last_lanes)
            with otherwise:
                for m, value in enumerate(sums):
                    code.store(value, _row(code, c_tile, c_row, m))
        init_next = [code.at(place, width) for place in (a_tile, c_tile, init_tile, b_tile)]
        column_loop.close(init_next)
        a_tile, c_tile, init_tile = tile_loop.values
        tile_loop.close([
            _row(code, place, step, rows) for place, step in ((a_tile, a_row), (c_tile, c_row), (init_tile, init_row))
        ])  # fmt: skip

    return _intrinsic(emit)


def correlating_code(
    dtype: np.dtype, kind: int, row_steps: int, term_steps: int, rows: int, vectors: int, width: int
) -> Any:
    """Make the intrinsic of depthwise tiles whose rows and terms lie so many steps apart, of one length.

    Row m meets at term k what row m + 1 met some terms before: with several terms at once, each vector is loaded once
    for all rows that it is in. A sum takes its terms in the order of the plain tile.
    """
    reads = Slide(_UNROLL, row_steps, term_steps).reads(rows)

    def emit(builder, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, columns, tiles):
        code = VectorCode(builder, dtype, width)
        a, b, c, init = (code.pointer(address, code.scalar) for address in (a, b, c, init))
        a_taps, b_taps = code.pointer(a_taps, I64), code.pointer(b_taps, I64)
        a_step = a_row if row_steps == 1 else builder.sdiv(a_row, I64(row_steps))
        last_lanes = code.first_lanes(builder.sub(columns, I64((vectors - 1) * width)))
        masks = [None] * (vectors - 1) + [last_lanes if kind & TRIMMED else None]

        def add(sums, a_here, b_here, terms, meetings):
            sums = list(sums)
            for v, mask in enumerate(masks):
                factors = [code.load(code.at(_row(code, b_here, b_k, k), v * width), mask) for k in range(terms)]
                for step, pairs in meetings.items():
                    x = code.load(code.at(_row(code, a_here, a_step, step), v * width), mask)
                    for m, k in pairs:
                        sums[m * vectors + v] = code.multiply_add(x, factors[k], sums[m * vectors + v])
            return sums

        tile_loop = _Loop(code, tiles, [a, c, init], tests=False)
        a_tile, c_tile, init_tile = tile_loop.values
        tile = [(m, v) for m in range(rows) for v in range(vectors)]
        sums = [code.load(code.at(_row(code, init_tile, init_row, m), v * width), masks[v]) for m, v in tile]
        tap_loop = _Loop(code, taps, sums, tests=True)
        a_tap = code.at(a_tile, builder.load(code.at(a_taps, tap_loop.number)))
        b_tap = code.at(b, builder.load(code.at(b_taps, tap_loop.number)))
        whole = builder.and_(run, I64(-_UNROLL))
        state: list[Any] = [a_tap, b_tap, *tap_loop.values]
        for count, terms, meetings in (
            (whole, _UNROLL, reads),
            (builder.sub(run, whole), 1, {m * row_steps: [(m, 0)] for m in range(rows)}),
        ):
            loop = _Loop(code, count, state, terms, tests=True)
            a_here, b_here, *sums = loop.values
            sums = add(sums, a_here, b_here, terms, meetings)
            state = loop.close([_row(code, a_here, a_k, terms), _row(code, b_here, b_k, terms), *sums])
        sums = tap_loop.close(state[2:])
        for (m, v), value in zip(tile, sums, strict=True):
            code.store(value, code.at(_row(code, c_tile, c_row, m), v * width), masks[v])
        tile_loop.close([
            _row(code, place, step, rows) for place, step in ((a_tile, a_row), (c_tile, c_row), (init_tile, init_row))
        ])  # fmt: skip

    return _intrinsic(emit)


def short_code(dtype: np.dtype, terms: int, rows: int, width: int) -> Any:
    """Make the intrinsic of dense tiles of one vector that take `terms` of each tap, written out.

    A loop of few rounds would spend as long on its addresses as on its products. Neither operand leaves gaps.
    """

    def emit(builder, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, columns, tiles):
        code = VectorCode(builder, dtype, width)
        a, b, c, init = (code.pointer(address, code.scalar) for address in (a, b, c, init))
        a_taps, b_taps = code.pointer(a_taps, I64), code.pointer(b_taps, I64)
        mask = code.first_lanes(columns)
        tile_loop = _Loop(code, tiles, [a, c, init], tests=False)
        a_tile, c_tile, init_tile = tile_loop.values
        sums = [code.load(_row(code, init_tile, init_row, m), mask) for m in range(rows)]
        tap_loop = _Loop(code, taps, sums, tests=True)
        sums = list(tap_loop.values)
        a_tap = code.at(a_tile, builder.load(code.at(a_taps, tap_loop.number)))
        b_tap = code.at(b, builder.load(code.at(b_taps, tap_loop.number)))
        weights = [code.load(code.at(b_tap, k * width)) for k in range(terms)]
        for low in range(0, rows, _ADDRESSES):
            starts = [(m, _row(code, a_tap, a_row, m)) for m in range(low, min(low + _ADDRESSES, rows))]
            for k, (m, start) in itertools.product(range(terms), starts):
                sums[m] = code.multiply_add(code.broadcast(code.at(start, k)), weights[k], sums[m])
        sums = tap_loop.close(sums)
        for m, value in enumerate(sums):
            code.store(value, _row(code, c_tile, c_row, m), mask)
        tile_loop.close([
            _row(code, place, step, rows) for place, step in ((a_tile, a_row), (c_tile, c_row), (init_tile, init_row))
        ])  # fmt: skip

    return _intrinsic(emit)
