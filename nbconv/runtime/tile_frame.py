"""What all tile kernels have in common: their arguments, and the loops over tiles and over taps, as LLVM IR."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .machine_code import Code
from .vector_code import I64, VectorCode

__all__ = [
    "LINE", "N_ARGS", "Loop", "Operands", "Rows", "Slide", "ask_for", "kernel_of", "over_taps", "over_tiles", "row_of",
]  # fmt: skip

N_ARGS = 20
_ROWS_OF_A_PLACE = 9  # reached by 0 to 8 steps, of which 1, 3, 5 and 7 are kept
LINE = 64  # bytes of a cache line


class Operands(NamedTuple):
    """The arguments of a kernel, as `microkernel.run_tile` names them; places are pointers."""

    a: Any
    a_row: Any
    a_k: Any
    a_taps: Any
    b: Any
    b_k: Any
    b_taps: Any
    taps: Any
    run: Any
    init: Any
    init_row: Any
    c: Any
    c_row: Any
    columns: Any
    tiles: Any
    ahead: Any
    ahead_step: Any
    lines: Any
    a_line: Any
    c_line: Any


class Slide(NamedTuple):
    """A window that slides along a row: rows are `stride` times, taps are `dilation` times one step apart."""

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

    def rows_inside(self, rows: int) -> list[list[int]]:
        """List, for each tap, those of a tile's `rows` that meet data there."""
        inside: list[list[int]] = [[] for _ in range(self.taps)]
        for m, k in itertools.chain(*self.reads(rows).values()):
            inside[k].append(m)
        return inside


def kernel_of(dtype: np.dtype, width: int, emit: Callable[[VectorCode, Operands], None]) -> Code:
    """Make the code of `N_ARGS` integers that `emit` writes, on vectors of `width` numbers."""

    def write(builder: Any, arguments: Sequence[Any]) -> None:
        code, given = VectorCode(builder, dtype, width), Operands(*arguments)
        places = {name: code.pointer(getattr(given, name), code.scalar) for name in ("a", "b", "c", "init", "ahead")}
        tables = {name: code.pointer(getattr(given, name), I64) for name in ("a_taps", "b_taps")}
        emit(code, given._replace(**places, **tables))

    return write


class Loop:
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


def row_of(code: VectorCode, start: Any, step: Any, m: int) -> Any:
    """Step `m` times `step` numbers from `start`."""
    return code.at(start, code.builder.mul(step, I64(m)))


class Rows:
    """Rows that lie evenly, addressed from few registers: one place for nine of them, and odd multiples of their step.

    LLVM would keep a pointer for each row, move all of them on at each round of a loop, and have no registers for them.
    So what they are computed from goes through the loop hidden from it. x86 adds 1, 2, 4 or 8 steps for nothing.
    """

    def __init__(self, code: VectorCode, step: Any, *rows: int) -> None:
        """So many `rows` from each of some starts."""
        self.code, self.step, self.rows = code, step, rows
        ends = itertools.accumulate((-(-count // _ROWS_OF_A_PLACE) for count in rows), initial=0)
        *self.first_places, self.places = ends
        self.odds = sorted({_odd_part(m % _ROWS_OF_A_PLACE) for m in range(max(rows))} - {0})
        self.size = self.places + len(self.odds)

    def begin(self, *starts: Any) -> list[Any]:
        """Give the values, `size` of them, that a loop is to carry, for rows that begin at each of `starts`."""
        places = [
            row_of(self.code, start, self.step, m)
            for start, count in zip(starts, self.rows, strict=True)
            for m in range(0, count, _ROWS_OF_A_PLACE)
        ]
        return places + [self.code.builder.mul(self.step, I64(odd * self.code.size)) for odd in self.odds]

    def hide(self, carried: Sequence[Any]) -> list[Any]:
        """Give what is carried as it is to be used in this round, and moved on."""
        return [self.code.hidden(value) for value in carried]

    def at(self, hidden: Sequence[Any], m: int, start: int = 0) -> Any:
        """Give the address of row `m` from one of the starts."""
        place, m = hidden[self.first_places[start] + m // _ROWS_OF_A_PLACE], m % _ROWS_OF_A_PLACE
        if m == 0:
            return place
        odd = _odd_part(m)
        step = hidden[self.places + self.odds.index(odd)]
        times = self.code.builder.shl(step, I64((m // odd).bit_length() - 1)) if m > odd else step
        return self.code.at_byte(place, times)

    def move(self, hidden: Sequence[Any], step: Any) -> list[Any]:
        """Give what the next round carries: all rows `step` numbers further."""
        return [*(self.code.at(place, step) for place in hidden[: self.places]), *hidden[self.places :]]


def _odd_part(number: int) -> int:
    return number // (number & -number) if number else 0


def ask_for(code: VectorCode, start: Any, lines: Any) -> None:
    """Write the loop that asks for so many lines of memory, from `start` on."""
    loop = Loop(code, lines, [], tests=True)
    code.prefetch(code.at(start, code.builder.mul(loop.number, I64(LINE // code.size))))
    loop.close([])


def begins_lines(code: VectorCode, o: Operands) -> Any:
    """Say whether each row of c begins where a vector of memory does, as `VectorCode.stream` needs."""
    steps = code.builder.mul(code.builder.or_(o.c_row, o.c_line), I64(code.size))
    begins = code.builder.or_(code.builder.ptrtoint(o.c, I64), steps)
    return code.builder.icmp_signed("==", code.builder.and_(begins, I64(code.width * code.size - 1)), I64(0))


def store_tile(
    code: VectorCode, o: Operands, c: Any, sums: Sequence[Any], masks: Sequence[Any], streams: bool = False
) -> None:  # fmt: skip
    """Write the sums of a tile, row by row: past the caches if it `streams` and all of its vectors are whole lines."""
    builder, vectors = code.builder, len(masks)
    places = list(itertools.product(range(len(sums) // vectors), range(vectors)))

    def write(store: Callable[[Any, Any, Any], None], masks: Sequence[Any] = (None,) * vectors) -> None:
        for (m, v), value in zip(places, sums, strict=True):
            store(value, code.at(row_of(code, c, o.c_row, m), v * code.width), masks[v])

    # A masked store, of all lanes too, takes longer where its line is not in cache.
    with builder.if_else(builder.icmp_signed("==", o.columns, I64(vectors * code.width))) as (whole, part):
        with whole:
            if streams:
                with builder.if_else(begins_lines(code, o)) as (lines, others):
                    with lines:
                        write(lambda value, address, mask: code.stream(value, address))
                    with others:
                        write(code.store)
            else:
                write(code.store)
        with part:
            write(code.store, masks)


def over_tiles(
    code: VectorCode, o: Operands, rows: int, tile: Callable[..., list[Any] | None], carried: Sequence[Any] = ()
) -> None:
    """Write the loop over tiles, each below the other: `tile` is given where its a, c and init begin.

    What else is `carried` it is given, too, and gives for the next one.
    """
    loop = Loop(code, o.tiles, [o.a, o.c, o.init, *carried], tests=False)
    after = tile(*loop.values) or []
    steps = o.a_row, o.c_row, o.init_row
    places = [row_of(code, place, step, rows) for place, step in zip(loop.values, steps, strict=False)]
    loop.close([*places, *after])


def over_taps(
    code: VectorCode, o: Operands, a: Any, b: Any, sums: Sequence[Any],
    *products: Callable[[list[Any], Any, Any], list[Any]],
) -> list[Any]:  # fmt: skip
    """Write the loop over taps: `products` adds to the sums what a tap gives, of which it is given a and b.

    Several of them take turns, tap by tap: taps are as often so many.
    """
    loop = Loop(code, o.taps, sums, len(products), tests=True)
    sums = list(loop.values)
    for i, add in enumerate(products):
        tap = code.builder.add(loop.number, I64(i)) if i else loop.number
        a_tap, b_tap = (
            code.at(start, code.builder.load(code.at(table, tap))) for start, table in ((a, o.a_taps), (b, o.b_taps))
        )
        sums = add(sums, a_tap, b_tap)
    return loop.close(sums)
