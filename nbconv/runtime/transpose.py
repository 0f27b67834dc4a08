"""Transposing a small block of numbers in registers, with its plain-Python twin.

Layers of real networks keep the taps of a weight innermost, tiles keep its channels there. Number by number such a
change of order costs more than the convolution of a short sequence; a block of vectors at a time it runs at the speed
of memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .jit import emitted
from .target import lanes

__all__ = ["transpose_block"]

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def transpose_block(
    to: np.ndarray, to_rows: np.ndarray, source: np.ndarray, source_rows: np.ndarray, rows: int, columns: int
) -> None:
    """Write the transpose of a block of at most a vector's numbers each way.

    Math     to[to_rows[j] + i] = source[source_rows[i] + j]   for i < rows, j < columns
    Shapes   to, source flat, float32 or float64 . to_rows, source_rows int64, of at least a vector's length
    """
    for j in range(columns):
        for i in range(rows):
            to[to_rows[j] + i] = source[source_rows[i] + j]


@emitted(transpose_block)
def _transpose_block(typing_context, to, to_rows, source, source_rows, rows, columns):
    dtype = np.dtype(to.dtype.name)
    width, size = lanes(dtype), dtype.itemsize
    scalar = ir.FloatType() if size == 4 else ir.DoubleType()
    vector, mask_type = ir.VectorType(scalar, width), ir.VectorType(ir.IntType(1), width)
    indices, suffix = ir.VectorType(_I32, width), f"v{width}f{8 * size}.p0"

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_rows, source, source_rows = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:4], args[:4], strict=True)
        )
        rows, columns = args[4:]
        lane = ir.Constant(indices, list(range(width)))

        def place(base: Any, table: Any, i: int) -> Any:
            offset = builder.load(builder.gep(table, [_I64(i)]))
            return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

        def shuffle(a: Any, b: Any, pattern: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(indices, pattern))

        def first_lanes(count: Any) -> Any:
            one = builder.insert_element(ir.Constant(indices, ir.Undefined), builder.trunc(count, _I32), _I32(0))
            return builder.icmp_signed("<", lane, shuffle(one, one, [0] * width))

        def masks(count: Any, limit: Any) -> list[Any]:
            """Give the lanes below `count` for each of the first `limit` rows, and none for the others."""
            lanes_there, none = first_lanes(count), ir.Constant(mask_type, None)
            rows_there = [builder.icmp_signed("<", _I64(i), limit) for i in range(width)]
            return [builder.select(is_there, lanes_there, none) for is_there in rows_there]

        def transpose(block: list[Any]) -> list[Any]:
            # Each round exchanges the off-diagonal quarters of ever smaller squares.
            half = width // 2
            while half:
                low = [j if not j & half else width + j - half for j in range(width)]
                high = [j + half if not j & half else width + j for j in range(width)]
                for i in range(width):
                    if not i & half:
                        a, b = block[i], block[i + half]
                        block[i], block[i + half] = shuffle(a, b, low), shuffle(a, b, high)
                half //= 2
            return block

        is_whole = builder.and_(
            builder.icmp_signed("==", rows, _I64(width)), builder.icmp_signed("==", columns, _I64(width))
        )
        with builder.if_else(is_whole) as (whole, partial):
            with whole:
                block = transpose([builder.load(place(source, source_rows, i), align=size) for i in range(width)])
                for j in range(width):
                    builder.store(block[j], place(to, to_rows, j), align=size)
            with partial:
                load = cgutils.get_or_insert_function(
                    builder.module,
                    ir.FunctionType(vector, [vector.as_pointer(), _I32, mask_type, vector]),
                    f"llvm.masked.load.{suffix}",
                )
                store = cgutils.get_or_insert_function(
                    builder.module,
                    ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), _I32, mask_type]),
                    f"llvm.masked.store.{suffix}",
                )
                nothing = ir.Constant(vector, None)
                block = [
                    builder.call(load, [place(source, source_rows, i), _I32(size), mask, nothing])
                    for i, mask in enumerate(masks(columns, rows))
                ]
                for j, (row, mask) in enumerate(zip(transpose(block), masks(rows, columns), strict=True)):
                    builder.call(store, [row, place(to, to_rows, j), _I32(size), mask])
        return context.get_dummy_value()

    return types.void(to, to_rows, source, source_rows, types.intp, types.intp), codegen
