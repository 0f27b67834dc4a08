"""The micro-kernel alone: each kind and size against its plain twin, exactly, with guards of NaN around its output."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from nbconv.cpu.tiles import (
    max_dot_columns,
    max_dot_rows,
    max_grouped_rows,
    max_grouped_vectors,
    max_narrow_rows,
    max_rows,
    max_vectors,
    sliding_rows,
)
from nbconv.runtime.jit import serial
from nbconv.runtime.memory import place
from nbconv.runtime.microkernel import (
    DENSE,
    DEPTHWISE,
    DOT,
    NARROW,
    TRIMMED,
    Slide,
    adding_kernel,
    correlating_kernel,
    far_kernel,
    grouped,
    kind_lanes,
    rim_kernel,
    run_tile,
    run_tile_at,
    short_kernel,
    sliding_kernel,
    spreading_kernel,
    tile_kernel,
)
from nbconv.runtime.target import host_target, lanes
from nbconv.runtime.workspace import aligned_empty

FLOATS = [np.dtype(np.float32), np.dtype(np.float64)]
GAP = 3  # numbers between the rows of an output


@serial
def compiled_run_tile(
    kernel, a, a_start, a_row, a_k, a_taps, b, b_start, b_k, b_taps, tap, tap_end, run,
    init, init_start, init_row, c, c_start, c_row, columns, tiles,
):  # fmt: skip
    run_tile(
        kernel, a, a_start, a_row, a_k, a_taps, b, b_start, b_k, b_taps, tap, tap_end, run,
        init, init_start, init_row, c, c_start, c_row, columns, tiles,
    )  # fmt: skip


def sizes(kind: int, dtype: np.dtype) -> list[tuple[int, int]]:
    """List (rows, vectors): the full tile of each width, and tiles of one row."""
    if kind == NARROW:
        widths = [(max_narrow_rows(vectors), vectors) for vectors in range(1, max_vectors() + 1)]
    elif kind & DOT:
        widths = [(max_dot_rows(columns), columns) for columns in range(1, max_dot_columns(dtype) + 1)]
    elif kind & DEPTHWISE and kind not in (DEPTHWISE, DEPTHWISE | TRIMMED):
        widths = [(max_grouped_rows(vectors), vectors) for vectors in range(1, max_grouped_vectors() + 1)]
    else:
        widths = [(max_rows(vectors, bool(kind & DEPTHWISE)), vectors) for vectors in range(1, max_vectors() + 1)]
    return widths + [(1, vectors) for _, vectors in widths]


def from_line(numbers: np.ndarray, dtype: np.dtype, start: int) -> np.ndarray:
    """Copy numbers to a place that lies so many of them behind the begin of a line of the cache."""
    placed = aligned_empty(start + numbers.size, dtype)[start:]
    placed[:] = numbers
    return placed


def check_tile(dtype: np.dtype, kind: int, rows: int, vectors: int, last: int, run: int, tiles: int) -> None:
    rng = np.random.default_rng(0)
    width = kind_lanes(kind, dtype)
    columns = vectors if kind & DOT else (vectors - 1) * width + last
    all_rows, taps = rows * tiles, 3

    def numbers(size: int) -> np.ndarray:
        return rng.integers(-4, 5, size).astype(dtype)

    # Rows of `a` overlap, as the windows of a convolution do.
    a_row, a_k = (columns + 2, columns) if kind & DEPTHWISE else (run + 1, 1)
    b_k = run + 2 if kind & DOT else vectors * width + (kind != NARROW)
    a = numbers(all_rows * a_row + taps * 5 + run * max(a_k, 1) + columns + 1)
    b_tap = (vectors if kind & DOT else run) * b_k
    b = numbers(taps * b_tap + width + 1)
    a_taps, b_taps = np.array([1, 6, 4]), np.arange(taps) * b_tap + 1
    bias = numbers(columns + 1)
    c = np.full(GAP + all_rows * (columns + GAP), np.nan, dtype)
    arguments: tuple[Any, ...] = (
        a, 0, a_row, a_k, a_taps, b, 0, b_k, b_taps, 0, taps, run, bias, 1, 0,
    )  # fmt: skip
    place = (GAP, columns + GAP, columns, tiles)
    compiled_run_tile(tile_kernel(dtype, kind, rows, vectors), *arguments, c, *place)

    expected = np.full_like(c, np.nan)
    twin = (kind << 16) | (rows << 8) | vectors
    run_tile(twin, *arguments, expected, *place)
    np.testing.assert_array_equal(c, expected)
    assert np.isnan(c).sum() == GAP + all_rows * GAP
    if kind in (DENSE, DENSE | TRIMMED):
        c[:] = np.nan
        compiled_run_tile(far_kernel(dtype, kind, rows, vectors), *arguments, c, *place)
        np.testing.assert_array_equal(c, expected)
        check_adding_tile(arguments[:-3], c, place, kind, rows, vectors)
    if kind == DENSE:
        by_hand = bias[1 : 1 + columns] + sum(
            a[t + m * a_row : t + m * a_row + run][:, None] * b[u + np.arange(run)[:, None] * b_k + np.arange(columns)]
            for m in [0]
            for t, u in zip(a_taps, b_taps, strict=True)
        ).sum(axis=0)
        np.testing.assert_array_equal(c[GAP : GAP + columns], by_hand)


def check_adding_tile(
    operands: tuple[Any, ...], c: np.ndarray, place: tuple[int, ...], kind: int, rows: int, vectors: int
) -> None:
    """Add a product to what is in c: trimmed, or of whole vectors."""
    if not kind & TRIMMED and place[2] % lanes(c.dtype):
        return
    expected = c.copy()
    run_tile((kind << 16) | (rows << 8) | vectors, *operands, expected, *place[:2], expected, *place)
    for pace in (0, 1, 2, 4):
        sums = c.copy()
        compiled_run_tile(adding_kernel(c.dtype, kind, rows, vectors, pace), *operands, sums, *place[:2], sums, *place)
        np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", [DENSE, DENSE | TRIMMED, DEPTHWISE, DEPTHWISE | TRIMMED])
@pytest.mark.parametrize("tiles", [1, 3])
def test_tiles_of_vectors(dtype: np.dtype, kind: int, tiles: int) -> None:
    for rows, vectors in sizes(kind, dtype):
        for last in {1, lanes(dtype) - 1, lanes(dtype)}:
            check_tile(dtype, kind, rows, vectors, last, 4, tiles)


@pytest.mark.skipif(host_target().vector_bytes < 64, reason="narrow tiles are for registers of 64 bytes")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("run", [1, 4, 7])
def test_narrow_tiles(dtype: np.dtype, run: int) -> None:
    for rows, vectors in sizes(NARROW, dtype):
        for last in {1, kind_lanes(NARROW, dtype)}:
            check_tile(dtype, NARROW, rows, vectors, last, run, 2)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("taps", [1, 2], ids=("even", "of two rows"))
@pytest.mark.parametrize(
    "slide",
    [
        Slide(3, 1, 1), Slide(3, 2, 1), Slide(5, 1, 2), Slide(2, 3, 2), Slide(7, 1, 1), Slide(7, 1, 1, 3, 3),
        Slide(3, 2, 1, 1, 0), Slide(5, 1, 2, 0, 4), Slide(3, 1, 4, 4, 4), Slide(3, 1, 1, 99, 0), Slide(3, 1, 1, 5, 0),
    ],
    ids=str,
)  # fmt: skip
def test_sliding_tiles(dtype: np.dtype, slide: Slide, taps: int) -> None:
    """They give what plain depthwise tiles give, to the bit, and read nothing in their margins."""
    rng, width, tiles = np.random.default_rng(0), lanes(dtype), 1 if slide.left or slide.right else 2
    whole, long = sliding_rows(slide.taps)[0], 70 * width
    # Long rows that begin in the middle of a line, in both operands, are cut where lines begin, and into blocks. Those
    # that follow each other share the vectors between them. Where rows of c begin with lines, whole vectors go past the
    # caches.
    cases = (
        (whole, 1, width - 1, 0, long), (3, 4, 3, 0, long), (3, 2, width, 1, long), (1, 2, 1, 2, long),
        (2, 8, 2, 3, long), (4, 69, 5, 3, long), (whole, 2, width, 1, 2 * width), (3, 7, width, 3, 7 * width),
        (1, 2, width, width - 1, 2 * width), (3, 1, width, 1, width), (2, 70, width, 1, long),
    )  # fmt: skip
    for rows, vectors, last, start, step in cases:
        columns = (vectors - 1) * width + last
        span = (rows * tiles - 1) * slide.stride + (slide.taps - 1) * slide.dilation + 1
        guard = np.full(width, np.nan)
        a = from_line(np.concatenate([guard, rng.standard_normal((2 * span + 2) * step), guard]), dtype, start)
        b = rng.standard_normal(taps * slide.taps * vectors * width).astype(dtype)
        bias, c_row = rng.standard_normal(columns).astype(dtype), step if taps == 1 or start == 0 else columns + GAP
        if columns == step:
            c_row = step
        c = [from_line(np.full(rows * tiles * c_row + 2 * width, np.nan), dtype, start) for _ in range(2)]
        a_taps, b_taps = np.array([0, (span + 1) * step]), np.arange(taps) * slide.taps * vectors * width
        margins = [i for i in range(span) if i < slide.left or i >= span - slide.right]
        far = min(taps, rows // 2)
        kernels = (
            sliding_kernel(dtype, slide, rows, taps == 1, far, streams=True),
            tile_kernel(dtype, DEPTHWISE, rows, vectors),
        )
        for kernel, result, margin in zip(kernels, c, (np.nan, 0), strict=True):
            for tap, i in itertools.product(a_taps, margins):
                a[width + tap + i * step :][:columns] = margin
            compiled_run_tile(
                kernel, a, width, slide.stride * step, slide.dilation * step, a_taps, b, 0, vectors * width, b_taps,
                0, taps, slide.taps, bias, 0, 0, result, width, c_row, columns, tiles,
            )  # fmt: skip
        np.testing.assert_array_equal(*c)
        assert np.isnan(c[0]).sum() == rows * tiles * (c_row - columns) + 2 * width


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("kind", "terms"),
    [(DENSE, 1), (DENSE, 3), (NARROW, 8), (grouped(2), 2), (grouped(4), 4), (grouped(8), 8), (DOT, 21)],
)
@pytest.mark.parametrize(
    "slide", [Slide(3, 1, 1), Slide(3, 2, 1), Slide(5, 1, 1, 2, 0), Slide(4, 3, 1, 0, 1), Slide(3, 1, 1, 2, 2)], ids=str
)
def test_spreading_tiles(dtype: np.dtype, kind: int, terms: int, slide: Slide) -> None:
    """They give what plain tiles give, exactly for whole numbers, and read nothing in their margins."""
    if kind == NARROW and host_target().vector_bytes < 64:
        pytest.skip("narrow tiles are for registers of 64 bytes")
    width, step = kind_lanes(kind, dtype), 90
    if kind & DEPTHWISE and width % terms:
        pytest.skip("a vector holds whole groups")
    rng, taps, tiles = np.random.default_rng(0), 2 * slide.taps, 1 if slide.left or slide.right else 2
    for rows, vectors, last, looped in (4, 1, width, True), (7, 2, width, False), (1, 2, min(terms, width), False):
        columns = vectors if kind == DOT else (vectors - 1) * width + last
        span = (rows * tiles - 1) * slide.stride + slide.taps
        a = rng.integers(-4, 5, (2 * span + 2) * step).astype(dtype)
        b = rng.integers(-4, 5, taps * terms * vectors * width).astype(dtype)
        bias, c = rng.integers(-4, 5, columns).astype(dtype), np.full((2, rows * tiles, columns + GAP), np.nan, dtype)
        a_taps = np.array([3 + h * span * step + k * step for h in range(2) for k in range(slide.taps)])
        b_taps = np.arange(taps) * terms * vectors * width
        margins = [i for i in range(span) if i < slide.left or i >= span - slide.right]
        spreading = spreading_kernel(
            dtype, kind, slide, 0 if looped else terms, 0 if looped else step, rows, vectors, looped
        )
        kernels = spreading, tile_kernel(dtype, kind, rows, vectors)
        for kernel, result, margin in zip(kernels, c, (np.nan, 0), strict=True):
            for tap, i in itertools.product(a_taps[:: slide.taps], margins):
                a[tap + i * step :][: max(columns, terms)] = margin
            compiled_run_tile(
                kernel, a, 0, slide.stride * step, 1, a_taps, b, 0, vectors * width, b_taps, 0, taps, terms, bias, 0, 0,
                result.ravel(), 0, columns + GAP, columns, tiles,
            )  # fmt: skip
        np.testing.assert_array_equal(*c)
        assert np.isnan(c[0]).sum() == rows * tiles * GAP


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", [DENSE, NARROW])
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(
    "slide", [Slide(3, 1, 1, 1, 0), Slide(5, 2, 1, 2, 2), Slide(4, 1, 3, 0, 7), Slide(3, 1, 1, 9, 0)], ids=str
)
def test_rim_tiles(dtype: np.dtype, kind: int, far: bool, slide: Slide) -> None:
    """They give what plain tiles give with zeros around x, to the bit, and read nothing there."""
    if kind == NARROW and host_target().vector_bytes < 64:
        pytest.skip("narrow tiles are for registers of 64 bytes")
    rng, width, terms, step, gap = np.random.default_rng(0), kind_lanes(kind, dtype), 9, 21, 40
    taps = 2 * slide.taps
    for rows, vectors, last in (5, 2, width), (7, 1, 1), (1, 3, width - 1):
        columns, span = (vectors - 1) * width + last, (rows - 1) * slide.stride + (slide.taps - 1) * slide.dilation + 1
        a = rng.standard_normal(2 * (span * step + gap)).astype(dtype)
        b = rng.standard_normal(taps * terms * vectors * width).astype(dtype)
        start, c = rng.standard_normal(rows * columns).astype(dtype), np.full((2, rows, columns + GAP), np.nan, dtype)
        a_taps = np.array(
            [h * (span * step + gap) + k * slide.dilation * step for h in range(2) for k in range(slide.taps)]
        )
        b_taps = np.arange(taps) * terms * vectors * width
        margins = [i for i in range(span) if i < slide.left or i >= span - slide.right]
        kernels = (
            rim_kernel(dtype, kind, slide, rows, vectors, far and kind == DENSE),
            tile_kernel(dtype, kind, rows, vectors),
        )
        for kernel, result, margin in zip(kernels, c, (np.nan, 0), strict=True):
            for h, i in itertools.product(range(2), margins):
                a[h * (span * step + gap) + i * step :][:terms] = margin
            compiled_run_tile(
                kernel, a, 0, slide.stride * step, 1, a_taps, b, 0, vectors * width, b_taps, 0, taps, terms,
                start, 0, columns, result.ravel(), 0, columns + GAP, columns, 1,
            )  # fmt: skip
        np.testing.assert_array_equal(*c)
        assert np.isnan(c[0]).sum() == rows * GAP


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", [DENSE, NARROW])
@pytest.mark.parametrize("terms", [1, 8, 15])
def test_short_tiles(dtype: np.dtype, kind: int, terms: int) -> None:
    """They give what tiles with a loop give, to the bit."""
    if kind == NARROW and host_target().vector_bytes < 64:
        pytest.skip("narrow tiles are for registers of 64 bytes")
    rng, width, taps, tiles, step = np.random.default_rng(0), kind_lanes(kind, dtype), 3, 2, 21
    for rows, columns in (7, width), (3, 1), (1, width - 1):
        a = rng.standard_normal(rows * tiles * step + 60).astype(dtype)
        b = rng.standard_normal(taps * terms * width).astype(dtype)
        bias, c = rng.standard_normal(columns).astype(dtype), np.full((2, rows * tiles, columns + GAP), np.nan, dtype)
        a_taps, b_taps = np.array([3, 40, 17]), np.arange(taps) * terms * width
        kernels = short_kernel(dtype, kind, terms, rows), tile_kernel(dtype, kind, rows, 1)
        for kernel, result in zip(kernels, c, strict=True):
            compiled_run_tile(
                kernel, a, 0, step, 1, a_taps, b, 0, width, b_taps, 0, taps, terms, bias, 0, 0,
                result.ravel(), 0, columns + GAP, columns, tiles,
            )  # fmt: skip
        np.testing.assert_array_equal(*c)
        assert np.isnan(c[0]).sum() == rows * tiles * GAP


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["dense", "depthwise", "groups", "short", "rim"])
def test_tiles_past_the_caches(dtype: np.dtype, name: str) -> None:
    """They write what others write, where rows begin with lines of memory and where they do not, and nothing beside."""
    rng, width, taps, rows, tiles, run = np.random.default_rng(0), lanes(dtype), 3, 5, 2, 8 if name == "short" else 2
    kind = {"depthwise": DEPTHWISE, "groups": grouped(2)}.get(name, DENSE)
    for vectors, last, start in (1, width, 0), (1, width, 1), (1, width - 1, 0), (2, width, 0), (2, 1, 0):
        if name == "short" and vectors > 1:
            continue
        columns, c_row = (vectors - 1) * width + last, (vectors + 1) * width
        a_row, a_k = (columns, columns) if kind & DEPTHWISE else (run + 1, 1)
        a = rng.standard_normal(rows * tiles * a_row + run * columns + 60).astype(dtype)
        b = rng.standard_normal(taps * run * vectors * width).astype(dtype)
        a_taps, b_taps = np.array([3, 40, 17]), np.arange(taps) * run * vectors * width
        bias, c = rng.standard_normal(columns).astype(dtype), []
        for streams in False, True:
            if name == "short":
                kernel = short_kernel(dtype, kind, run, rows, streams)
            elif name == "rim":
                kernel = rim_kernel(dtype, kind, Slide(3, 1, 1, 1, 1), rows, vectors, streams=streams)
            else:
                kernel = tile_kernel(dtype, kind, rows, vectors, streams)
            c.append(from_line(np.full(rows * tiles * c_row, np.nan), dtype, start))
            compiled_run_tile(
                kernel, a, 0, a_row, a_k, a_taps, b, 0, vectors * width, b_taps, 0, taps, run, bias, 0, 0,
                c[-1], 0, c_row, columns, tiles,
            )  # fmt: skip
        np.testing.assert_array_equal(*c)
        assert np.isnan(c[0]).sum() == rows * tiles * (c_row - columns)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("steps", [(1, 1), (2, 1), (1, 3), (2, 2)], ids=str)
@pytest.mark.parametrize("run", [1, 4, 11])
def test_correlating_tiles(dtype: np.dtype, steps: tuple[int, int], run: int) -> None:
    """They give what plain depthwise tiles give, to the bit."""
    rng, width, step, taps, tiles = np.random.default_rng(0), lanes(dtype), 70, 2, 2
    for rows, vectors, kind, last in (3, 2, DEPTHWISE, width), (5, 1, DEPTHWISE + TRIMMED, 1), (2, 4, DEPTHWISE, width):
        columns = (vectors - 1) * width + last
        a_row, a_k = steps[0] * step, steps[1] * step
        a = rng.standard_normal(rows * tiles * a_row + run * a_k + 9 * step).astype(dtype)
        b = rng.standard_normal(taps * run * step).astype(dtype)
        bias, c = rng.standard_normal(columns).astype(dtype), np.full((2, rows * tiles, columns + GAP), np.nan, dtype)
        a_taps, b_taps = np.array([3, 7 * step]), np.arange(taps) * run * step
        kernels = correlating_kernel(dtype, kind, *steps, rows, vectors), tile_kernel(dtype, kind, rows, vectors)
        for kernel, result in zip(kernels, c, strict=True):
            compiled_run_tile(
                kernel, a, 0, a_row, a_k, a_taps, b, 0, step, b_taps, 0, taps, run, bias, 0, 0, result.ravel(), 0,
                columns + GAP, columns, tiles,
            )  # fmt: skip
        np.testing.assert_array_equal(*c)
        assert np.isnan(c[0]).sum() == rows * tiles * GAP


@serial
def run_lines(
    kernel,
    a,
    a_start,
    a_row,
    a_taps,
    b,
    b_k,
    b_taps,
    run,
    bias,
    c,
    c_start,
    c_row,
    columns,
    tiles,
    lines,
    a_line,
    c_line,
):
    run_tile_at(
        kernel, place(a, a_start), a_row, a_row, place(a_taps, 0), place(b, 0), b_k, place(b_taps, 0), a_taps.size, run,
        place(bias, 0), 0, place(c, c_start), c_row, columns, tiles, place(b, 0), 0, lines, a_line, c_line,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("vectors", "last", "start"), [(1, 1, 0), (8, 3, 3), (90, 5, 2), (4, 0, 1), (3, 0, 0)])
def test_sliding_lines(dtype: np.dtype, vectors: int, last: int, start: int) -> None:
    """One call for several lines of an image gives what calls for each of them give, to the bit."""
    rng, width, rows, tiles, lines, slide = np.random.default_rng(0), lanes(dtype), 3, 2, 4, Slide(3, 1, 1)
    columns = (vectors - 1) * width + last
    row = (vectors + 1) * width if last else columns
    a_line, c_line = 9 * row, 7 * row
    a = from_line(rng.standard_normal((lines + 3) * a_line), dtype, start)
    b, bias = rng.standard_normal(6 * row).astype(dtype), rng.standard_normal(columns).astype(dtype)
    together, alone = (from_line(np.full(lines * c_line, np.nan), dtype, start) for _ in range(2))
    kernel = sliding_kernel(dtype, slide, rows)
    arguments = row, np.array([0, 2 * a_line]), b, row, np.array([0, 3 * row]), slide.taps, bias
    run_lines(kernel, a, 0, *arguments, together, 0, row, columns, tiles, lines, a_line, c_line)
    for i in range(lines):
        run_lines(kernel, a, i * a_line, *arguments, alone, i * c_line, row, columns, tiles, 1, 0, 0)
    np.testing.assert_array_equal(together, alone)
    assert np.isnan(together).sum() == lines * (c_line - rows * tiles * columns)


@serial
def run_windows(kernel, a, a_row, a_k, a_taps, b, b_k, b_taps, run, init, init_row, c, c_row, columns, line_step):
    taps = a_taps.size
    run_tile_at(
        kernel, place(a, 0), a_row, a_k, place(a_taps, 0), place(b, 0), b_k, place(b_taps, 0), taps, run,
        place(init, 0), init_row, place(c, 0), c_row, columns, 1, place(a, 0), line_step,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("columns", [1, "vector", "vector and one"])
def test_correlating_windows(dtype: np.dtype, columns: int | str) -> None:
    """The lines of a window give what each of them gives alone, to the bit."""
    rng, width, step, rows, lines, run = np.random.default_rng(0), lanes(dtype), 70, 3, 3, 6
    n = {1: 1, "vector": width, "vector and one": width + 1}[columns]
    vectors, line_step = -(-n // width), 20 * step
    a, b = rng.standard_normal(100 * step).astype(dtype), rng.standard_normal(20 * step).astype(dtype)
    starts = rng.standard_normal((lines * rows, n + GAP)).astype(dtype)
    a_taps, b_taps = np.array([0, 7 * step]), np.array([2, 9 * step])
    together, alone = np.full((2, lines * rows, n + GAP), np.nan, dtype)
    arguments = (a, step, 2 * step, a_taps, b, step, b_taps, run)

    def run_kernel(kernel: int, line: int, *to: np.ndarray) -> None:
        given, result = (array[line * rows :].ravel() for array in to)
        run_windows(kernel, a[line * line_step :], *arguments[1:], given, n + GAP, result, n + GAP, n, line_step)

    kind = DEPTHWISE + TRIMMED
    run_kernel(correlating_kernel(dtype, kind, 1, 2, rows, vectors, lines), 0, starts, together)
    for line in range(lines):
        run_kernel(correlating_kernel(dtype, kind, 1, 2, rows, vectors), line, starts, alone)
    np.testing.assert_array_equal(together, alone)
    assert np.isnan(together).sum() == lines * rows * GAP


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels", [2, 4, 8])
@pytest.mark.parametrize("tiles", [1, 2])
def test_tiles_of_small_groups(dtype: np.dtype, channels: int, tiles: int) -> None:
    kind = grouped(channels)
    for rows, vectors in sizes(kind, dtype):
        for last in range(channels, lanes(dtype) + 1, channels):
            check_tile(dtype, kind, rows, vectors, last, channels, tiles)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("run", [1, 7, 16, 33])
@pytest.mark.parametrize("tiles", [1, 2])
def test_tiles_of_dot_products(dtype: np.dtype, run: int, tiles: int) -> None:
    for rows, columns in sizes(DOT, dtype) or [(2, 3)]:
        check_tile(dtype, DOT, rows, columns, 1, run, tiles)


@pytest.mark.parametrize("kind", [DENSE, DEPTHWISE, DOT])
def test_no_taps_carry_the_initial_sums_over(kind: int) -> None:
    dtype = np.dtype(np.float32)
    bias, c = np.arange(1, 65, dtype=dtype), np.full(64, np.nan, dtype)
    nothing, taps = np.zeros(1, dtype), np.zeros(1, np.int64)
    columns = 2 if kind == DOT else lanes(dtype)
    kernel = tile_kernel(dtype, kind, 1, 2 if kind == DOT else 1)
    arguments = (nothing, 0, 0, 1, taps, nothing, 0, 0, taps, 0, 0, 0, bias, 0, 0, c, 0, 0, columns, 1)
    compiled_run_tile(kernel, *arguments)
    np.testing.assert_array_equal(c[:columns], bias[:columns])
    assert np.isnan(c[columns:]).all()
