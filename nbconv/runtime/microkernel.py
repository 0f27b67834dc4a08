"""The micro-kernel: one tile of a product, emitted as LLVM IR, with its plain-Python twin.

`tile_kernel` compiles a kernel for one tile size on first use and returns its address; `run_tile` calls it. Loops are
compiled without knowing any tile size, so a shape costs only the few small kernels that it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from inspect import signature
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import types
from numpy.lib.stride_tricks import as_strided

from .adding_code import adding_code
from .dot_code import dot_code, sliding_dot_code
from .jit import emitted, pure
from .machine_code import Code, address_of_code
from .memory import Place, element_pointer
from .sliding_code import correlating_code, sliding_code
from .spreading_code import spreading_code
from .target import lanes
from .tile_code import (
    DENSE,
    DEPTHWISE,
    DOT,
    NARROW,
    TRIMMED,
    group_of,
    grouped,
    kind_lanes,
    short_code,
    tile_code,
)
from .tile_frame import N_ARGS, Slide
from .vector_code import I64

__all__ = [
    "DENSE",
    "DEPTHWISE",
    "DOT",
    "NARROW",
    "TRIMMED",
    "Slide",
    "adding_kernel",
    "correlating_kernel",
    "far_kernel",
    "group_of",
    "grouped",
    "kind_lanes",
    "rim_kernel",
    "run_tile",
    "run_tile_at",
    "short_kernel",
    "sliding_kernel",
    "spreading_kernel",
    "tile_kernel",
]

F = TypeVar("F", bound=Callable[..., int])

_slides: list[Slide] = []


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
    columns: int,
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
    Edges    rows and vectors of columns are the kernel's own, where it does not slide; only `columns`, less than a
             vector fewer, are read from `init` (and from a depthwise `a`) and written to `c`. `b` is read whole: it
             must be padded, unless the kernel is trimmed.
    """
    # This body is the plain twin: the documentation of the compiled one, and what runs interpreted.
    kind, rows, vectors = (kernel >> 16) & 255, (kernel >> 8) & 255, kernel & 255
    rows *= tiles
    if kind & DOT:
        to = _view(c, c_start, (rows, vectors), (c_row, 1))
        dots = _view(init, init_start, (rows, vectors), (init_row, 1)).copy()
        for t in range(tap, tap_end):
            here = _rows_inside(kernel, t - tap, rows)
            x = _view(a, a_start + a_taps[t] + here.start * a_row, (len(here), 1, run), (a_row, 0, 1))
            w = _view(b, b_start + b_taps[t], (vectors, run), (b_k, 1))
            dots[here.start : here.stop] += (x * w).sum(axis=2)  # a matrix product would round by the number of rows
        to[...] = dots
        return
    tile = _view(init, init_start, (rows, columns), (init_row, 1)).copy()
    for t in range(tap, tap_end):
        if kind & DEPTHWISE and not group_of(kind):
            for k in range(run):
                here = _rows_inside(kernel, k, rows)
                x = _view(a, a_start + a_taps[t] + here.start * a_row + k * a_k, (len(here), columns), (a_row, 1))
                w = _view(b, b_start + b_taps[t] + k * b_k, (columns,), (1,))
                tile[here.start : here.stop] += x * w
            continue
        here = _rows_inside(kernel, t - tap, rows)
        start, inside = a_start + a_taps[t] + here.start * a_row, tile[here.start : here.stop]
        if group_of(kind):
            x = _view(a, start, (len(here), columns // run, run), (a_row, run, 1)).repeat(run, axis=1)
        else:
            x = _view(a, start, (len(here), 1, run), (a_row, 0, a_k))
        for k in range(run):
            inside += x[:, :, k] * _view(b, b_start + b_taps[t] + k * b_k, (columns,), (1,))
    _view(c, c_start, (rows, columns), (c_row, 1))[...] = tile


def _rows_inside(kernel: int, tap: int, rows: int) -> range:
    """Give the rows of a tile that meet data at a tap: all, but where it slides over a margin."""
    if not kernel >> 32:
        return range(rows)
    slide = _slides[(kernel >> 32) - 1]
    inside = slide.rows_inside(rows)[tap % slide.taps]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def run_tile_at(
    kernel: int, a: Place, a_row: int, a_k: int, a_taps: Place, b: Place, b_k: int, b_taps: Place, taps: int, run: int,
    init: Place, init_row: int, c: Place, c_row: int, columns: int, tiles: int, ahead: Place, ahead_step: int,
    lines: int = 1, a_line: int = 0, c_line: int = 0,
) -> None:  # fmt: skip
    """Compute as `run_tile` does, given places; `taps` are counted from those of the tables of taps.

    A tile of `far_kernel` asks, at each term, for the line at `ahead`, and goes on from there by `ahead_step` bytes,
    one of an `adding_kernel` at every few terms. What they are to a `correlating_kernel`, is said there. A
    `sliding_kernel` runs all tiles of each of some `lines` of the image, so many numbers apart; others take one.
    """
    x_taps, w_taps = (taps_at.array[taps_at.start :] for taps_at in (a_taps, b_taps))
    windows, rows = max(1, kernel >> 24 & 255), kernel >> 8 & 255
    if windows > 1:
        for line in range(windows):
            below = [(place.array, place.start + line * rows * row) for place, row in ((init, init_row), (c, c_row))]
            run_tile(
                kernel, a.array, a.start + line * ahead_step, a_row, a_k, x_taps, *b, b_k, w_taps, 0, taps, run,
                *below[0], init_row, *below[1], c_row, columns,
            )  # fmt: skip
        return
    for line in range(lines):
        run_tile(
            kernel, a.array, a.start + line * a_line, a_row, a_k, x_taps, *b, b_k, w_taps, 0, taps, run,
            *init, init_row, c.array, c.start + line * c_line, c_row, columns, tiles,
        )  # fmt: skip


def _view(flat: np.ndarray, start: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    return as_strided(flat[start:], shape, tuple(step * flat.itemsize for step in steps))


def _compiled_once(compile_kernel: F) -> F:
    """Keep the address for each kernel, also where a default is said: `functools.cache` takes that for another one."""
    kept, parameters = cache(compile_kernel), signature(compile_kernel)

    @wraps(compile_kernel)
    def address(*given: Any, **named: Any) -> int:
        bound = parameters.bind(*given, **named)
        bound.apply_defaults()
        return kept(*bound.args)

    return address  # type: ignore[return-value]


@_compiled_once
def tile_kernel(dtype: np.dtype, kind: int, rows: int, vectors: int, streams: bool = False) -> int:
    """Compile the kernel for tiles of `rows` x (`vectors` registers) and return its address.

    One that `streams`, here and below, writes past the caches where rows of c begin with lines of memory; no dot tile.
    """
    if pure():
        return (kind << 16) | (rows << 8) | vectors
    width = kind_lanes(kind, dtype)
    if kind & DOT:
        tile, streams = dot_code(dtype, rows, vectors, width), False
    else:
        tile = tile_code(dtype, kind, rows, vectors, width, streams=streams)
    return _compile(tile, f"tile_{dtype.name}_{kind}_{rows}x{vectors}x{width}_{int(streams)}")


@_compiled_once
def far_kernel(dtype: np.dtype, kind: int, rows: int, vectors: int) -> int:
    """Compile a dense kernel, trimmed or not, that asks ahead for lines beyond L2, as `run_tile_at` says."""
    if pure():
        return tile_kernel(dtype, kind, rows, vectors)
    tile = tile_code(dtype, kind, rows, vectors, lanes(dtype), True)
    return _compile(tile, f"far_{dtype.name}_{kind}_{rows}x{vectors}x{lanes(dtype)}")


@_compiled_once
def rim_kernel(
    dtype: np.dtype, kind: int, slide: Slide, rows: int, vectors: int, far: bool = False, streams: bool = False
) -> int:  # fmt: skip
    """Compile a dense kernel that passes over what lies outside of x, as `slide` says; else as `tile_kernel`.

    Taps are segments, those of a row of the kernel one after the other.
    """
    if pure():
        _slides.append(slide)
        return tile_kernel(dtype, kind, rows, vectors) | len(_slides) << 32
    width = kind_lanes(kind, dtype)
    tile = tile_code(dtype, kind, rows, vectors, width, far, slide, streams)
    numbers = "_".join(map(str, (kind, *slide, int(far), int(streams))))
    return _compile(tile, f"rim_{dtype.name}_{numbers}_{rows}x{vectors}x{width}")


@_compiled_once
def adding_kernel(dtype: np.dtype, kind: int, rows: int, vectors: int, pace: int = 0) -> int:
    """Compile a dense kernel, trimmed or not, whose `init` is `c`; it writes whole vectors where it is not trimmed.

    If `pace` is not 0, it asks ahead once in so many terms, counted over all tiles of a call.
    """
    if pure():
        return tile_kernel(dtype, kind, rows, vectors)
    tile = adding_code(dtype, kind, rows, vectors, pace, lanes(dtype))
    return _compile(tile, f"add_{dtype.name}_{kind}_{rows}x{vectors}x{lanes(dtype)}_{pace}")


@_compiled_once
def short_kernel(dtype: np.dtype, kind: int, terms: int, rows: int, streams: bool = False) -> int:
    """Compile a dense kernel of one vector for a `run` of `terms`, known now; neither operand leaves gaps."""
    if pure():
        return tile_kernel(dtype, kind, rows, 1)
    width = kind_lanes(kind, dtype)
    return _compile(
        short_code(dtype, terms, rows, width, streams), f"short_{dtype.name}_{terms}_{rows}x{width}_{int(streams)}"
    )


@_compiled_once
def sliding_kernel(
    dtype: np.dtype, slide: Slide, rows: int, even: bool = False, far: int = 0, streams: bool = False
) -> int:  # fmt: skip
    """Compile a depthwise kernel that loads each vector of a row once for all of its taps; `run` is `slide.taps`.

    It serves any number of columns, and all rows start from one: `init_row` is 0. An `even` one takes 1 for `taps`, and
    `c_row` is one step of x. It asks ahead for lines of x that the last `far` rows of the kernel meet.
    """
    if pure():
        _slides.append(slide)
        return tile_kernel(dtype, DEPTHWISE, rows, 0) | len(_slides) << 32
    width = lanes(dtype)
    tile = sliding_code(dtype, slide, rows, even, far, streams, width)
    name = f"slide_{dtype.name}_{'_'.join(map(str, slide))}_{rows}x{width}_{int(even)}_{far}_{int(streams)}"
    return _compile(tile, name)


@_compiled_once
def spreading_kernel(
    dtype: np.dtype, kind: int, slide: Slide, terms: int, step: int, rows: int, vectors: int, far: bool = False
) -> int:
    """Compile a kernel, not a depthwise one, that loads each number of a row once for all of its taps.

    Taps are segments, those of a row of the kernel one after the other; neither operand leaves gaps. `terms`, if not 0,
    is `run`, known now, and so is `step`: from one column of x to the next. Dot products look at neither. In the others
    all rows start from one, `init_row` is 0, and of x and c that are `far` away lines are asked for ahead.
    """
    if pure():
        _slides.append(slide)
        return tile_kernel(dtype, kind, rows, vectors) | len(_slides) << 32
    width = kind_lanes(kind, dtype)
    if kind & DOT:
        tile, terms, step = sliding_dot_code(dtype, slide, rows, vectors, width), 0, 0
    else:
        tile = spreading_code(dtype, kind, slide, terms, step, rows, vectors, far, width)
    numbers = "_".join(map(str, (kind, *slide, terms, step, int(far))))
    return _compile(tile, f"spread_{dtype.name}_{numbers}_{rows}x{vectors}x{width}")


@_compiled_once
def correlating_kernel(
    dtype: np.dtype, kind: int, row_steps: int, term_steps: int, rows: int, vectors: int, lines: int = 1
) -> int:
    """Compile a depthwise kernel whose `a_row` and `a_k` are so many times one step: it loads less.

    A tile has `rows` of each of some `lines`, one below the other, which lie `ahead_step` numbers apart in a. It writes
    whole vectors where it is not trimmed.
    """
    if pure():
        return tile_kernel(dtype, kind, rows, vectors) | (lines << 24 if lines > 1 else 0)
    width = kind_lanes(kind, dtype)
    tile = correlating_code(dtype, kind, row_steps, term_steps, rows, lines, vectors, width)
    name = f"{dtype.name}_{kind}_{row_steps}_{term_steps}_{lines}x{rows}x{vectors}x{width}"
    return _compile(tile, f"correlate_{name}")


def _compile(tile: Code, name: str) -> int:
    return address_of_code(name, N_ARGS, tile)


def _call(builder: Any, kernel: Any, arguments: Sequence[Any]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64] * N_ARGS)
    builder.call(builder.inttoptr(kernel, kind.as_pointer()), arguments)


@emitted(run_tile_at)
def _run_tile_at(
    typing_context, kernel, a, a_row, a_k, a_taps, b, b_k, b_taps, taps, run, init, init_row, c, c_row, columns, tiles,
    ahead, ahead_step, lines=1, a_line=0, c_line=0,
):  # fmt: skip
    """Call the kernel at the address `kernel`, which takes places as they are."""

    def codegen(context, builder, signature, args):
        _call(builder, args[0], args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * (N_ARGS + 1)), codegen


@emitted(run_tile)
def _run_tile(
    typing_context, kernel, a, a_start, a_row, a_k, a_taps, b, b_start, b_k, b_taps, tap, tap_end, run,
    init, init_start, init_row, c, c_start, c_row, columns, tiles=1,
):  # fmt: skip
    """Call the kernel at the address `kernel`."""

    def codegen(context, builder, signature, args):
        def address(array, start):
            pointer = element_pointer(context, builder, signature.args[array], args[array], args[start])
            return builder.ptrtoint(pointer, I64)

        arguments = [
            address(1, 2), args[3], args[4], address(5, 10), address(6, 7), args[8], address(9, 10),
            builder.sub(args[11], args[10]), args[12], address(13, 14), args[15], address(16, 17), args[18], args[19],
            args[20], address(6, 7), I64(0), I64(1), I64(0), I64(0),
        ]  # fmt: skip
        _call(builder, args[0], arguments)
        return context.get_dummy_value()

    number = types.intp
    return types.void(
        number, a, number, number, number, a_taps, b, number, number, b_taps, number, number, number,
        init, number, number, c, number, number, number, number,
    ), codegen  # fmt: skip
