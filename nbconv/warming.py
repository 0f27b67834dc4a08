"""Compiling ahead: what inference needs, so that no user waits for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import compute_dtype
from .options import ACTIVATIONS

__all__ = ["DTYPES", "warmup"]

DTYPES = ("float32", "float64", "float16")
_OPS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")

Step = tuple[str, Callable[[], Any]]

# Taps and strides of depthwise layers, of networks for images, and for sounds, whose windows have a single row.
_WINDOWS = {False: ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1)), True: ((3, 1), (5, 1), (7, 1))}

# The window of most dense layers, at the left end of a line, at its right end, and where one tile is all of it.
_RIMS = (3, 1, 1, 1, 0), (3, 1, 1, 0, 1), (3, 1, 1, 1, 1)


def warmup(
    dtypes: Sequence[npt.DTypeLike] = DTYPES,
    *,
    gradients: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Compile what convolutions need, or load it from the cache on disk, and leave it there for other processes.

    Kernels for the windows of layers of few channels, few outputs or small groups are compiled at their first call, and
    so are those for the rims of windows that do not have three columns and steps of one.

    Parameters
    ----------
    dtypes : sequence of dtype
        Types of the arrays to come. bfloat16 shares all code with float16.
    gradients : bool
        Compile the gradients of the four convolutions too.
    progress : callable, optional
        Called as ``progress(done, total, what)`` before each step, and once at the end.

    Returns
    -------
    dict
        ``cache``: the folder, or why there is none. ``loaded``, ``compiled``, ``kept``: how many pieces of code this
        process has taken from it, compiled, and put there so far. ``problem``: why the last one could not be kept.

    Raises
    ------
    TypeError
        For a dtype that nbconv does not compute.

    Examples
    --------
    >>> import nbconv
    >>> report = nbconv.warmup([])
    >>> sorted(report)
    ['cache', 'compiled', 'kept', 'loaded', 'problem']
    """
    types = [_dtype(dtype) for dtype in dtypes]
    from .runtime.cache import cache_info

    steps = list(dict(step for dtype in types for step in _steps(dtype, gradients)).items())
    for i, (what, step) in enumerate(steps):
        if progress is not None:
            progress(i, len(steps), what)
        step()
    if progress is not None:
        progress(len(steps), len(steps), "done")
    return cache_info()


def _dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    if isinstance(dtype, str) and dtype == "bfloat16":
        return np.dtype(np.float16)
    dtype = np.dtype(dtype)
    if dtype.name == "bfloat16":
        return np.dtype(np.float16)
    if dtype.name not in DTYPES:
        raise TypeError(f"warmup: dtype must be one of {', '.join(DTYPES)} and bfloat16; got {dtype}")
    return dtype


def _steps(dtype: np.dtype[Any], gradients: bool) -> Iterator[Step]:
    """Name every step and what does it; of two steps with one name, one is enough."""
    from .cpu.backend import activation_address
    from .cpu.loops import direct_entry, exchange_rows
    from .cpu.tiles import (
        SHORT_RUNS,
        dense_kind,
        full_tiles,
        max_narrow_rows,
        max_reducing_vectors,
        max_rows,
        sliding_rows,
    )
    from .runtime.calls import addition
    from .runtime.entry import can_enter
    from .runtime.microkernel import (
        DENSE,
        NARROW,
        Slide,
        adding_kernel,
        kind_lanes,
        rim_kernel,
        short_kernel,
        sliding_kernel,
        tile_kernel,
    )

    compute = compute_dtype(dtype)
    yield f"{dtype} loops", partial(_convolve, dtype, 64, threads=1)
    yield f"{dtype} loops, threads", partial(_convolve, dtype, 4096, threads=2)
    if can_enter():
        for length, releases in ("brief", False), ("longer", True):
            yield f"{dtype} {length} calls", partial(direct_entry, compute, dtype, releases)
    stored = np.dtype(np.uint16) if dtype.itemsize == 2 else compute
    yield f"{dtype} rows with gaps", partial(exchange_rows, compute, stored)
    yield f"{dtype} columns", partial(_columns, dtype)
    for name, kind, full, vectors in full_tiles(compute):
        for rows in range(1, full + 1):
            yield f"{compute} {name} tile {rows}x{vectors}", partial(tile_kernel, compute, kind, rows, vectors)
        if kind == DENSE:
            for rows, rim in itertools.product(range(full // 2, full + 1), _RIMS):
                what = f"{compute} {name} tile {rows}x{vectors}, margins {rim[3]} and {rim[4]}"
                yield what, partial(rim_kernel, compute, kind, Slide(*rim), rows, vectors)
    for run in SHORT_RUNS:
        kind = dense_kind(run, compute)
        if run <= kind_lanes(kind, compute):
            for rows in range(1, (max_narrow_rows(1) if kind == NARROW else max_rows(1, False)) + 1):
                yield f"{compute} run of {run}, tile {rows}x1", partial(short_kernel, compute, kind, run, rows)
    for even, (taps, stride) in ((even, window) for even, windows in _WINDOWS.items() for window in windows):
        places = (0,) if even else (0, min(stride, taps))
        for rows, left, right, far in itertools.product(sliding_rows(taps, even), *[(0, taps // 2)] * 2, places):
            slide = Slide(taps, stride, 1, left, right)
            place = "single" if even else "far" if far else "near"
            name = f"{compute} window of {taps} by {stride}, {place}, {rows} rows, margins {left} and {right}"
            yield name, partial(sliding_kernel, compute, slide, rows, even, far)
    for activation, parameter in ACTIVATIONS.items():
        yield f"{compute} {activation}", partial(activation_address, (activation, parameter), compute)
    for name in ("float16", "bfloat16") if dtype.itemsize == 2 else (dtype.name,):
        yield f"{name} residual", partial(addition, name)
    if gradients:
        for vectors in range(1, max_reducing_vectors() + 1):
            for rows in range(1, max_rows(vectors, False) + 1):
                yield f"{compute} adding tile {rows}x{vectors}", partial(adding_kernel, compute, DENSE, rows, vectors)
        yield f"{dtype} gradients", partial(_differentiate, dtype, 64, threads=1)
        yield f"{dtype} gradients, threads", partial(_differentiate, dtype, 4096, threads=2)


def _convolve(dtype: np.dtype[Any], length: int, threads: int) -> None:
    from . import functional
    from .runtime.threads import num_threads

    x = np.zeros((1, length, 32), dtype)
    with num_threads(threads):
        # Large weights are packed by compiled code, small ones are not.
        functional.conv1d(x, np.zeros((128, 32, 32), dtype))


def _columns(dtype: np.dtype[Any]) -> None:
    from .columns import col2im, im2col

    col2im(im2col(np.zeros((8, 2), dtype), 3), 8, 3)


def _differentiate(dtype: np.dtype[Any], length: int, threads: int) -> None:
    from . import backward
    from .runtime.threads import num_threads

    with num_threads(threads):
        for op in _OPS:
            ndim, transposed = int(op[-2]), "transpose" in op
            sizes = (length,) if ndim == 1 else (8, length // 8)
            x = np.zeros((1, *sizes, 32), dtype)
            weight = np.zeros((32, 64, *(3,) * ndim) if transposed else (64, 32, *(3,) * ndim), dtype)
            out = (size + 2 if transposed else size - 2 for size in sizes)
            getattr(backward, f"{op}_backward")(np.zeros((1, *out, 64), dtype), x, weight)
