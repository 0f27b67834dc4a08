"""The LLVM IR of dense tiles that add to what lies in memory: the sums of grad_weight, chunk by chunk."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .machine_code import Code
from .tile_code import TRIMMED
from .tile_frame import Loop, Operands, Rows, kernel_of, over_taps, over_tiles, row_of
from .vector_code import I64, VectorCode

__all__ = ["adding_code"]


def adding_code(dtype: np.dtype, kind: int, rows: int, vectors: int, pace: int, width: int) -> Code:
    """Make the code of tiles of `rows` x `vectors`; they ask ahead once in `pace` terms, if it is not 0."""

    def emit(code: VectorCode, o: Operands) -> None:
        builder, x_rows = code.builder, Rows(code, o.a_row, rows)
        masks = [None] * vectors
        if kind & TRIMMED:
            masks[-1] = code.first_lanes(builder.sub(o.columns, I64((vectors - 1) * width)))
        size = rows * vectors

        def products(state: list[Any], a_tap: Any, b_tap: Any) -> list[Any]:
            """Add a tap's to the sums, at the front of `state`; behind them is the number of terms so far."""
            loop = Loop(code, o.run, [*x_rows.begin(a_tap), b_tap, *state], tests=False)
            x, (b, *here) = x_rows.hide(loop.values[: x_rows.size]), loop.values[x_rows.size :]
            sums, terms = here[:size], here[size:]
            for term in terms:
                line = builder.mul(builder.udiv(term, I64(pace)), o.ahead_step)
                code.prefetch(code.at_byte(o.ahead, line))
            weights = [code.load(code.at(b, v * width), masks[v]) for v in range(vectors)]
            for m in range(rows):
                factor = code.broadcast(x_rows.at(x, m))
                for v in range(vectors):
                    sums[m * vectors + v] = code.multiply_add(factor, weights[v], sums[m * vectors + v])
            after = [builder.add(term, I64(1)) for term in terms]
            return loop.close([*x_rows.move(x, o.a_k), code.at(b, o.b_k), *sums, *after])[x_rows.size + 1 :]

        def tile(a: Any, c: Any, init: Any, *terms: Any) -> list[Any]:
            places = [
                (code.at(row_of(code, c, o.c_row, m), v * width), masks[v])
                for m, v in itertools.product(range(rows), range(vectors))
            ]
            ends = over_taps(code, o, a, o.b, [*itertools.starmap(code.load, places), *terms], products)
            for (address, mask), value in zip(places, ends, strict=False):
                code.store(value, address, mask)
            return ends[size:]

        over_tiles(code, o, rows, tile, [I64(0)] if pace else [])

    return kernel_of(dtype, width, emit)
