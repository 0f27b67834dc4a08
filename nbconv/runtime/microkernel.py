"""The micro-kernel: one tile of a product, emitted as LLVM IR, with its plain-Python twin.

`tile_kernel` compiles a kernel for one tile size on first use and returns its address; `run_tile` calls it. Loops are
compiled without knowing any tile size, so a shape costs only the few small kernels that it uses.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.lib.stride_tricks import as_strided

from .jit import callback, overload, pure
from .target import lanes

__all__ = ["DENSE", "DEPTHWISE", "DOT", "TRIMMED", "grouped", "run_tile", "tile_kernel"]

DENSE, DEPTHWISE = 0, 1
DOT = 4  # few columns: vectors lie along the reduction, and each sum is added up at the end
TRIMMED = 2  # added to either: `b` is no padded copy but user memory, of whose last vector only valid columns are read
_GROUP_SHIFT = 3  # a depthwise kernel of small groups carries their channels in its kind
_N_ARGS = 15
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_kept_alive: list[Any] = []


def grouped(channels: int) -> int:
    """Give the kind whose every output reads the `channels` of its group: depthwise is one of them."""
    return DEPTHWISE | (channels << _GROUP_SHIFT if channels > 1 else 0)


def run_tile(
    kernel: int,
    a: np.ndarray,
    a_start: int,
    a_row: int,
    a_k: int,
    a_taps: np.ndarray,
    b: np.ndarray,
    b_start: int,
    b_k: int,
    b_taps: np.ndarray,
    tap: int,
    tap_end: int,
    run: int,
    init: np.ndarray,
    init_start: int,
    init_row: int,
    c: np.ndarray,
    c_start: int,
    c_row: int,
    last_columns: int,
    tiles: int = 1,
) -> None:
    """Compute one tile of `c`, or a strip of `tiles` of them, each below the other.

    Math     c[m, o] = init[m, o] + sum_t sum_k a[m, t, k] * b[t, k, o]     (dense)
             c[m, o] = init[m, o] + sum_t sum_k a[m, t, k, o] * b[t, k, o]  (depthwise)
             c[m, o] = init[m, o] + sum_t sum_k a[m, t, o // g * g + k] * b[t, k, o]  (groups of g channels, run is g)
             c[m, o] = init[m, o] + sum_t sum_k a[m, t, k] * b[t, o, k]     (dot: `vectors` counts columns, a_k is 1)
             for the taps t in [tap, tap_end), k in [0, run), in that order, one fused multiply-add a term
    Shapes   all arrays are flat; element [m, t, k] of a lies at a_start + a_taps[t] + m * a_row + k * a_k (depthwise:
             + o, any strides),
             element [t, k, o] of b at b_start + b_taps[t] + k * b_k + o (dot: [t, o, k] at ... + o * b_k + k)
    Edges    rows and vectors of columns are the kernel's own; of its last vector only `last_columns` are read from
             `init` (and from a depthwise `a`) and written to `c`. `b` is read whole: it must be padded, unless the
             kernel is trimmed.
    """
    # This body is the plain twin: the documentation of the compiled one, and what runs interpreted.
    kind, rows, vectors, width = (kernel >> 24) & 255, (kernel >> 16) & 255, (kernel >> 8) & 255, kernel & 255
    rows *= tiles
    if kind & DOT:
        to = _view(c, c_start, (rows, vectors), (c_row, 1))
        dots = _view(init, init_start, (rows, vectors), (init_row, 1)).copy()
        for t in range(tap, tap_end):
            x = _view(a, a_start + a_taps[t], (rows, run), (a_row, 1))
            w = _view(b, b_start + b_taps[t], (vectors, run), (b_k, 1))
            dots += (x[:, None] * w).sum(axis=2)  # a matrix product would round by the number of rows
        to[...] = dots
        return
    columns = (vectors - 1) * width + last_columns
    tile = _view(init, init_start, (rows, columns), (init_row, 1)).copy()
    for t in range(tap, tap_end):
        if kind >> _GROUP_SHIFT:
            x = _view(a, a_start + a_taps[t], (rows, columns), (a_row, 1)).reshape(rows, -1, run)
            for k in range(run):
                tile += x[:, :, k].repeat(run, axis=1) * _view(b, b_start + b_taps[t] + k * b_k, (columns,), (1,))
        elif kind & DEPTHWISE:
            for k in range(run):
                x = _view(a, a_start + a_taps[t] + k * a_k, (rows, columns), (a_row, 1))
                tile += x * _view(b, b_start + b_taps[t] + k * b_k, (columns,), (1,))
        else:
            x = _view(a, a_start + a_taps[t], (rows, run), (a_row, a_k))
            for k in range(run):
                tile += x[:, k, None] * _view(b, b_start + b_taps[t] + k * b_k, (columns,), (1,))
    _view(c, c_start, (rows, columns), (c_row, 1))[...] = tile


def _view(flat: np.ndarray, start: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    return as_strided(flat[start:], shape, tuple(step * flat.itemsize for step in steps))


@cache
def tile_kernel(dtype: np.dtype, kind: int, rows: int, vectors: int) -> int:
    """Compile the kernel for tiles of `rows` x (`vectors` registers) and return its address."""
    width = lanes(dtype)
    if pure():
        return (kind << 24) | (rows << 16) | (vectors << 8) | width
    tile = _tile_intrinsic(dtype, kind, rows, vectors, width)

    def kernel(a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, last, tiles):
        tile(a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, last, tiles)

    name = f"tile_{dtype.name}_{kind}_{rows}x{vectors}x{width}"
    compiled = callback(types.void(*[types.intp] * _N_ARGS), kernel, name)
    _kept_alive.append(compiled)
    return int(compiled.address)


@overload(run_tile)
def _run_tile(
    kernel, a, a_start, a_row, a_k, a_taps, b, b_start, b_k, b_taps, tap, tap_end, run,
    init, init_start, init_row, c, c_start, c_row, last_columns, tiles=1,
):  # fmt: skip
    def call(
        kernel, a, a_start, a_row, a_k, a_taps, b, b_start, b_k, b_taps, tap, tap_end, run,
        init, init_start, init_row, c, c_start, c_row, last_columns, tiles=1,
    ):  # fmt: skip
        size = c.itemsize
        _call_address(
            kernel,
            a.ctypes.data + size * a_start, a_row, a_k, a_taps.ctypes.data + 8 * tap,
            b.ctypes.data + size * b_start, b_k, b_taps.ctypes.data + 8 * tap, tap_end - tap, run,
            init.ctypes.data + size * init_start, init_row,
            c.ctypes.data + size * c_start, c_row, last_columns, tiles,
        )  # fmt: skip

    return call


@intrinsic
def _call_address(
    typing_context, address, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, last, tiles
):
    """Call the tile kernel at `address`."""

    def codegen(context, builder, signature, args):
        kernel_type = ir.FunctionType(ir.VoidType(), [_I64] * _N_ARGS)
        builder.call(builder.inttoptr(args[0], kernel_type.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * (_N_ARGS + 1)), codegen


def _tile_intrinsic(dtype: np.dtype, kind: int, rows: int, vectors: int, width: int) -> Any:
    """Make the intrinsic of one tile: accumulators stay in registers from the first tap to the store."""
    scalar = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
    vector, size = ir.VectorType(scalar, width), dtype.itemsize
    mask_type, name = ir.VectorType(ir.IntType(1), width), f"v{width}f{8 * size}"
    tile = [(m, v) for m in range(rows) for v in range(vectors)]

    def codegen(context, builder, signature, args):
        a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, last, tiles = args

        def function(result, arguments, symbol):
            return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), symbol)

        multiply_add = function(vector, [vector] * 3, f"llvm.fmuladd.{name}")
        masked_load = function(vector, [vector.as_pointer(), _I32, mask_type, vector], f"llvm.masked.load.{name}.p0")
        masked_store = function(
            ir.VoidType(), [vector, vector.as_pointer(), _I32, mask_type], f"llvm.masked.store.{name}.p0"
        )

        def pointer(address, of):
            return builder.inttoptr(address, of.as_pointer())

        def splat(value, lane_type):
            one = builder.insert_element(ir.Constant(ir.VectorType(lane_type, width), ir.Undefined), value, _I32(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, width), [0] * width))

        lane = ir.Constant(ir.VectorType(_I32, width), list(range(width)))
        mask = builder.icmp_signed("<", lane, splat(builder.trunc(last, _I32), _I32))

        # NumPy promises the alignment of one number, never of a vector.
        def vector_pointer(start, v):
            return builder.bitcast(builder.gep(start, [_I64(v * width)]), vector.as_pointer())

        def load(start, v, trim):
            address = vector_pointer(start, v)
            if trim and v == vectors - 1:
                return builder.call(masked_load, [address, _I32(size), mask, ir.Constant(vector, None)])
            return builder.load(address, align=size)

        def store(value, start, v):
            if v == vectors - 1:
                builder.call(masked_store, [value, vector_pointer(start, v), _I32(size), mask])
            else:
                builder.store(value, vector_pointer(start, v), align=size)

        def add_up(value):
            # Halves are added to halves: a fixed order, the same on every run.
            length = width
            while length > 1:
                length //= 2
                lanes_type = ir.VectorType(_I32, length)
                low, high = (
                    builder.shuffle_vector(value, value, ir.Constant(lanes_type, list(range(first, first + length))))
                    for first in (0, length)
                )
                value = builder.fadd(low, high)
            return builder.extract_element(value, _I32(0))

        def row_pointer(start, row_stride, m):
            return builder.gep(start, [builder.mul(row_stride, _I64(m))])

        def phis(block, values):
            made = [builder.phi(vector) for _ in values]
            for phi, value in zip(made, values, strict=True):
                phi.add_incoming(value, block)
            return made

        a, b, c, init = (pointer(address, scalar) for address in (a, b, c, init))
        a_taps, b_taps = pointer(a_taps, _I64), pointer(b_taps, _I64)
        entry = builder.block
        next_tile, tap_head, tap_body, k_loop, tap_end, tile_end, done = (
            builder.append_basic_block(name)
            for name in ("next_tile", "tap_head", "tap_body", "k_loop", "tap_end", "tile_end", "done")
        )
        builder.branch(next_tile)

        builder.position_at_end(next_tile)
        number, a_tile, c_tile, init_tile = builder.phi(_I64), *(builder.phi(a.type) for _ in range(3))
        for phi, value in ((number, _I64(0)), (a_tile, a), (c_tile, c), (init_tile, init)):
            phi.add_incoming(value, entry)
        if kind & DOT:
            start = [ir.Constant(vector, None)] * len(tile)
        else:
            start = [load(row_pointer(init_tile, init_row, m), v, True) for m, v in tile]
        builder.branch(tap_head)

        builder.position_at_end(tap_head)
        t = builder.phi(_I64)
        t.add_incoming(_I64(0), next_tile)
        outer = phis(next_tile, start)
        builder.cbranch(builder.icmp_signed("<", t, taps), tap_body, tile_end)

        builder.position_at_end(tap_body)
        a_tap = builder.gep(a_tile, [builder.load(builder.gep(a_taps, [t]))])
        b_tap = builder.gep(b, [builder.load(builder.gep(b_taps, [t]))])
        builder.branch(k_loop)

        builder.position_at_end(k_loop)
        k, a_here, b_here = builder.phi(_I64), builder.phi(a.type), builder.phi(b.type)
        for phi, value in ((k, _I64(0)), (a_here, a_tap), (b_here, b_tap)):
            phi.add_incoming(value, tap_body)
        inner = phis(tap_body, outer)
        sums = []
        if kind & DOT:
            left = splat(builder.trunc(builder.sub(run, k), _I32), _I32)
            here = builder.icmp_signed("<", lane, left)

            def load_here(start):
                address = builder.bitcast(start, vector.as_pointer())
                return builder.call(masked_load, [address, _I32(size), here, ir.Constant(vector, None)])

            weights = [load_here(row_pointer(b_here, b_k, v)) for v in range(vectors)]
            for m in range(rows):
                factor = load_here(row_pointer(a_here, a_row, m))
                for v in range(vectors):
                    sums.append(builder.call(multiply_add, [factor, weights[v], inner[m * vectors + v]]))
            steps = _I64(width), _I64(width), _I64(width)
        elif kind >> _GROUP_SHIFT:
            channels = kind >> _GROUP_SHIFT
            sums = list(inner)
            x = [load(row_pointer(a_here, a_row, m), v, True) for m, v in tile]
            for c_in in range(channels):
                of_group = ir.Constant(
                    ir.VectorType(_I32, width), [i // channels * channels + c_in for i in range(width)]
                )
                weights = [load(row_pointer(b_here, b_k, c_in), v, False) for v in range(vectors)]
                for i, (_, v) in enumerate(tile):
                    factor = builder.shuffle_vector(x[i], x[i], of_group)
                    sums[i] = builder.call(multiply_add, [factor, weights[v], sums[i]])
            steps = _I64(channels), _I64(0), _I64(0)
        else:
            weights = [load(b_here, v, bool(kind & TRIMMED)) for v in range(vectors)]
            for m in range(rows):
                row = row_pointer(a_here, a_row, m)
                if not kind & DEPTHWISE:
                    factors = [splat(builder.load(row, align=size), scalar)] * vectors
                else:
                    factors = [load(row, v, True) for v in range(vectors)]
                for v in range(vectors):
                    sums.append(builder.call(multiply_add, [factors[v], weights[v], inner[m * vectors + v]]))
            steps = _I64(1), a_k, b_k
        k_next = builder.add(k, steps[0])
        for phi, value in (
            (k, k_next), (a_here, builder.gep(a_here, [steps[1]])), (b_here, builder.gep(b_here, [steps[2]]))
        ):  # fmt: skip
            phi.add_incoming(value, k_loop)
        for phi, value in zip(inner, sums, strict=True):
            phi.add_incoming(value, k_loop)
        builder.cbranch(builder.icmp_signed("<", k_next, run), k_loop, tap_end)

        builder.position_at_end(tap_end)
        t.add_incoming(builder.add(t, _I64(1)), tap_end)
        for phi, value in zip(outer, sums, strict=True):
            phi.add_incoming(value, tap_end)
        builder.branch(tap_head)

        builder.position_at_end(tile_end)
        for (m, v), value in zip(tile, outer, strict=True):
            if kind & DOT:
                place = builder.gep(row_pointer(init_tile, init_row, m), [_I64(v)])
                total = builder.fadd(builder.load(place, align=size), add_up(value))
                builder.store(total, builder.gep(row_pointer(c_tile, c_row, m), [_I64(v)]), align=size)
            else:
                store(value, row_pointer(c_tile, c_row, m), v)
        number_next = builder.add(number, _I64(1))
        number.add_incoming(number_next, tile_end)
        for phi, row in ((a_tile, a_row), (c_tile, c_row), (init_tile, init_row)):
            phi.add_incoming(row_pointer(phi, row, rows), tile_end)
        builder.cbranch(builder.icmp_signed("<", number_next, tiles), next_tile, done)

        builder.position_at_end(done)
        return context.get_dummy_value()

    @intrinsic
    def tile_product(
        typing_context, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, last, tiles
    ):
        return types.void(*[types.intp] * _N_ARGS), codegen

    return tile_product
