"""Packing: weights copied once into the order in which tiles read them; see `layout`.

Packed weights are a transposition with zeros between: a few copies between strided views say it all, and NumPy's own
copy is as fast as compiled code, but where the numbers of one output channel lie together in a large weight. There,
blocks are transposed in registers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays import compute_dtype, flat_data
from ..geometry import ConvSpec
from ..runtime.microkernel import DENSE, DEPTHWISE, DOT
from ..runtime.target import lanes
from ..runtime.threads import launch
from ..runtime.transpose import transpose_block
from ..runtime.twins import twins
from ..runtime.workspace import aligned_empty
from . import tables as T
from .layout import Packed, channels_of
from .memory_layout import half_code

__all__ = ["Packing", "pack", "packer", "plan_packing"]

_TOGETHER = 1 << 16  # numbers of the weights that are read together: each line comes to L2 once for all its taps
_WORTH_BLOCKS = 1 << 17  # numbers; those of fewer stay in cache however far apart they lie
_FEW = 1 << 12  # numbers: an aligned place for them would take longer than their loads from any other
_PACKING_WORK = 32  # operations that take as long as to pack one number
_LONG_RUN = 7  # taps that fill a vector so well that a block of them is faster than a strided copy

Axes = tuple[tuple[int, int, int], ...]
"""Sizes, and steps in the packed and in the given weights."""


class _Copy(NamedTuple):
    """Two strided views of one shape, in bytes; the second begins where the weights do, and further."""

    shape: tuple[int, ...]
    to: int
    to_strides: tuple[int, ...]
    source: int
    source_strides: tuple[int, ...]


class Packing(NamedTuple):
    """How weights of one shape, memory layout and type are copied into a layout."""

    size: int
    half: int
    dtype: np.dtype
    axes: tuple[int, ...] | None
    """Those of the weight in the order in which it is packed, where that is all, or nearly."""
    reverses: bool
    """Whether its taps are reversed, too."""
    padded: bool
    """Whether zeros lie between."""
    copies: list[_Copy]
    blocks: list[tuple[Any, ...]]
    """Arguments of `_transpose_blocks`."""


def pack(packing: Packing, weight: np.ndarray, workers: int = 1) -> np.ndarray:
    """Copy a weight, in as many threads where it is large; half types are widened."""
    if packing.axes is not None:
        turned = _turned(packing, weight)
        packed = aligned_empty(weight.size, weight.dtype)
        packed.reshape(turned.shape)[...] = turned
        return packed
    dtype = packing.dtype
    weight, start = flat_data(weight)
    if packing.half == T.FLOAT16:
        weight = weight.view(np.float16).astype(dtype)
    elif packing.half == T.BFLOAT16:
        weight = (weight.astype(np.uint32) << 16).view(dtype)
    packed = aligned_empty(packing.size, dtype)
    if packing.padded:
        packed[:] = 0
    for shape, to, to_strides, source, source_strides in packing.copies:
        target = np.ndarray(shape, dtype, packed, to, to_strides)
        target[...] = np.ndarray(shape, dtype, weight, source + start * dtype.itemsize, source_strides)
    for vectors, *block in packing.blocks:
        work = _PACKING_WORK * weight.size
        launch(_transpose_blocks, len(vectors), work, workers, packed, weight, start, vectors, *block)
    return packed


def packer(packing: Packing | None, workers: int) -> Callable[[np.ndarray], np.ndarray]:
    """Give `pack` for weights of one shape, memory layout and type, sooner where they are few; None leaves them."""
    if packing is None:
        return lambda weight: weight
    if packing.axes is None or packing.size > _FEW:
        return partial(pack, packing, workers=workers)
    return lambda weight: _turned(packing, weight).copy()


def _turned(packing: Packing, weight: np.ndarray) -> np.ndarray:
    """View a weight in the order in which it is packed."""
    if packing.reverses:
        weight = weight[:, :, ::-1] if weight.ndim == 3 else weight[:, :, ::-1, ::-1]
    return weight.transpose(packing.axes)


def plan_packing(
    layout: Packed, spec: ConvSpec, shape: tuple[int, ...], steps: tuple[int, ...], dtype: np.dtype
) -> Packing:
    """Tabulate the copies of all phases that have weights; `steps` are the strides of the weight, in numbers."""
    half, dtype = half_code(dtype), compute_dtype(dtype)
    c_group, o_group = channels_of(spec, shape)
    o_step, c_step = steps[:2][::-1] if spec.transposed else steps[:2]
    kernel = [sum(i * s for i, s in zip(tap, steps[2:], strict=True)) for tap in np.ndindex(*shape[2:])]
    padded = False
    copies: list[_Copy] = []
    blocks: list[tuple[Any, ...]] = []
    for at, taps, columns, merged in zip(layout.starts, layout.taps, layout.columns, layout.merged, strict=True):
        terms = len(taps) * c_group
        if not terms or not columns:
            continue
        padded = padded or (layout.kind != DOT and any(column[T.COLUMNS] < column[T.WEIGHT_K] for column in columns))
        sources = _sources(spec, shape, steps, merged)
        offsets = [kernel[tap] for tap in taps]
        lie_together = o_step > c_step or (len(taps) * merged >= _LONG_RUN and o_step > abs(steps[-1]))
        large = terms * len(sources) >= _WORTH_BLOCKS
        if large and lie_together and layout.kind == DENSE and _is_even(columns, o_group, merged):
            first_row = columns[0][T.WEIGHT_K]
            of_taps = [
                (residue * o_group * terms // first_row + t * c_group, offset + residue * steps[-1])
                for residue in range(merged)
                for t, offset in enumerate(offsets)
            ]
            vectors = _vectors(at, columns, sources[: len(sources) // merged], lanes(dtype))
            blocks.append((vectors, o_step, *_runs(of_taps, c_group, c_step, lanes(dtype))))
            continue
        for row in {column[T.WEIGHT_K] for column in columns}:
            # In a dot tile columns lie `row` apart and terms together, in the others the other way round.
            one, term = (row, 1) if layout.kind == DOT else (1, row)
            places = [
                (at + column[T.WEIGHT_OFFSET] + i * one, sources[column[T.OUT_CHANNEL] + i])
                for column in columns
                if column[T.WEIGHT_K] == row
                for i in range(column[T.COLUMNS])
            ]
            tap_boxes = _boxes([(t * c_group * term, offset) for t, offset in enumerate(offsets)])
            together = max(1, _TOGETHER // (len(taps) * merged * o_group))
            for (to, source, axes), (tap_to, tap_source, tap_axes) in itertools.product(_boxes(places), tap_boxes):
                for c in range(0, c_group, together):
                    channels = (min(together, c_group - c), term, c_step)
                    axes_here = (*axes, *tap_axes, channels)
                    copies.append(_copy(to + tap_to + c * term, source + tap_source + c * c_step, axes_here, dtype))
    order = _all_axes(layout, spec, shape) if half == T.NOT_HALF else None
    reverses = bool(layout.taps) and len(layout.taps[0]) > 1 and layout.taps[0][0] > 0
    return Packing(layout.size, half, dtype, order, reverses, padded, copies, blocks)


def _all_axes(layout: Packed, spec: ConvSpec, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Give the weight's axes in their order in a layout that only transposes it, or reverses taps too; else None."""
    every = tuple(range(math.prod(shape[2:])))
    if layout.taps not in ((every,), (every[::-1],)) or layout.merged != (1,) or not layout.columns[0]:
        return None
    c_group, o_group = channels_of(spec, shape)
    kernel, c, o = range(2, len(shape)), 1 - spec.transposed, int(spec.transposed)
    row = layout.columns[0][0][T.WEIGHT_K]
    if layout.kind == DEPTHWISE:  # all columns share their rows
        return (*kernel, 1, 0) if c_group == o_group == 1 and row == spec.groups else None
    if spec.groups > 1 or len(layout.columns[0]) != 1:
        return None
    if layout.kind == DOT:
        return (o, *kernel, c) if row == len(every) * c_group else None
    return (*kernel, c, o) if row == o_group else None


def _sources(spec: ConvSpec, shape: tuple[int, ...], steps: tuple[int, ...], merged: int) -> list[int]:
    """Give where the weights of each output column begin; beyond an output's residue lies the next: one tap further."""
    c_group, o_group = channels_of(spec, shape)
    further = steps[-1] if merged > 1 else steps[0] * (c_group if spec.transposed else o_group)
    o_step = steps[1 if spec.transposed else 0]
    return [
        major * further + o * o_step for major in range(merged if merged > 1 else spec.groups) for o in range(o_group)
    ]


def _boxes(places: list[tuple[int, int]]) -> list[tuple[int, int, Axes]]:
    """Fold pairs of places into boxes: where one begins in either, and its axes."""
    boxes: list[tuple[int, int, Axes]] = [(to, source, ()) for to, source in places]
    before = 0
    while len(boxes) != before:
        before, i = len(boxes), 0
        folded: list[tuple[int, int, Axes]] = []
        while i < before:
            to, source, axes = boxes[i]
            size, steps = 1, None
            while i + size < before and boxes[i + size][2] == axes:
                last, following = boxes[i + size - 1], boxes[i + size]
                step = following[0] - last[0], following[1] - last[1]
                if steps is not None and step != steps:
                    break
                size, steps = size + 1, step
            folded.append((to, source, axes if steps is None else ((size, *steps), *axes)))
            i += size
        boxes = folded
    return boxes


def _copy(to: int, source: int, axes: Axes, dtype: np.dtype) -> _Copy:
    sizes, to_steps, source_steps = zip(*axes, strict=True)
    size = dtype.itemsize
    return _Copy(
        sizes, to * size, tuple(step * size for step in to_steps), source * size,
        tuple(step * size for step in source_steps),
    )  # fmt: skip


def _is_even(columns: tuple[tuple[int, ...], ...], o_group: int, merged: int) -> bool:
    """Say whether the tiles of each residue lie as those of the one before."""
    row = columns[0][T.WEIGHT_K]
    return merged == 1 or (o_group % row == 0 and all(column[T.WEIGHT_K] == row for column in columns))


def _vectors(at: int, columns: tuple[tuple[int, ...], ...], sources: list[int], width: int) -> np.ndarray:
    """Tabulate vectors of output channels: where they begin, how long rows are, where their weights lie, how many."""
    return np.array(
        [
            (at + column[T.WEIGHT_OFFSET] + i, column[T.WEIGHT_K], sources[column[T.OUT_CHANNEL] + i],
             min(width, column[T.COLUMNS] - i))
            for column in columns
            if column[T.OUT_CHANNEL] < len(sources)
            for i in range(0, column[T.COLUMNS], width)
        ], np.int64
    )  # fmt: skip


def _runs(taps: list[tuple[int, int]], c_group: int, c_step: int, width: int) -> tuple[np.ndarray, ...]:
    """Cut what lies in an output channel into runs of `width` places: where they begin, how many are used, and by what.

    `taps` are terms and places of each tap's first channel.
    """
    channel = np.arange(c_group)
    first_terms, first_places = np.array(taps, np.int64).T
    terms = np.add.outer(first_terms, channel).reshape(-1)
    places = np.add.outer(first_places, channel * c_step).reshape(-1)
    first = places.min()
    run, lane = np.divmod(places - first, width)
    runs, number = np.unique(run, return_inverse=True)
    used = np.zeros(len(runs), np.int64)
    np.maximum.at(used, number, lane + 1)
    of_places = np.full((len(runs), width), -1, np.int64)
    of_places[number, lane] = terms
    # A number of another phase is written where the next one of this phase will be.
    for j in range(width - 2, -1, -1):
        of_places[:, j] = np.where(of_places[:, j] < 0, of_places[:, j + 1], of_places[:, j])
    return first + runs * width, used, of_places


@twins
def _transpose_blocks(vector, vector_end, worker, packed, weight, start, vectors, o_step, runs, used, terms):
    """Write blocks of output channels x what lies together in each of them, transposed in registers.

    Shapes   packed, weight flat . vectors (begin, row, source, channels)
             . runs, used (runs,): where each begins in an output channel, its length . terms (runs, places)
    Threads  over `vectors`: each is written by itself
    """
    width = terms.shape[1]
    to, source = np.empty(width, np.int64), np.empty(width, np.int64)
    for v in range(vector, vector_end):
        begin, row, first = vectors[v, 0], vectors[v, 1], start + vectors[v, 2]
        for i in range(runs.size):
            for j in range(width):
                to[j] = begin + terms[i, j] * row
                source[j] = first + runs[i] + j * o_step
            transpose_block(packed, to, weight, source, vectors[v, 3], used[i])
