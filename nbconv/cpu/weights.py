"""Weights in the order in which tiles read them.

Packed: for each phase, for each tile of columns, all taps (in the phase's order), all channels of the group, one row of
whole vectors, zero-filled. Weights that lie with their output channels contiguous (Keras, JAX: `(*kernel, C_in, C_out)`
seen through a transposing view) are read where they are.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..geometry import ConvSpec, Phase, axis_phases, bind
from ..runtime.jit import helper, serial
from ..runtime.memory import zero_run
from ..runtime.target import lanes
from . import tables as T
from .panels import copy_numbers, read_number
from .tiles import max_rows, max_vectors, split_columns

__all__ = ["InPlace", "Layout", "Packed", "pack", "packed_layout", "readable_in_place"]


_BLOCK = 1 << 15  # packed numbers that are filled together: with their sources, a quarter of L2


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each phase's weights lie; tables as in `tables`. Made once for each weight shape, so compared by identity."""

    depthwise: bool
    columns: tuple[tuple[int, ...], ...]
    taps: tuple[tuple[int, ...], ...]
    """For each phase, that is for each residue of the output position modulo the stride, row by row: its taps in
    reading order, as indices in the whole kernel."""


@dataclass(frozen=True, eq=False)
class Packed(Layout):
    """Weights that `pack` has written."""

    phase_starts: tuple[int, ...]
    size: int


@dataclass(frozen=True, eq=False)
class InPlace(Layout):
    """Weights read where they are."""

    tap_offsets: tuple[int, ...]
    """Offset of each tap of the whole kernel."""


def _channels(spec: ConvSpec, weight_shape: tuple[int, ...]) -> tuple[int, int]:
    """Give the channels of x and of y in a group."""
    first, second = weight_shape[:2]
    return (first // spec.groups, second) if spec.transposed else (second, first // spec.groups)


def _is_depthwise(spec: ConvSpec, weight_shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Say whether tiles should span groups: one channel of x each, and too few outputs each to fill a vector."""
    c_group, o_group = _channels(spec, weight_shape)
    return spec.groups > 1 and c_group == 1 and o_group < lanes(dtype)


def _phase_taps(spec: ConvSpec, weight_shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """List each phase's taps. They depend on stride, dilation and crop, never on the size of x."""
    ndim = spec.ndim
    # An x so long that every residue of the stride has an output.
    crop = (0,) * ndim if isinstance(spec.padding, str) else tuple(lo + hi for lo, hi in spec.padding)
    sizes = tuple(spec.dilation[i] * weight_shape[2 + i] + crop[i] + 2 for i in range(ndim))
    c_in = weight_shape[0] if spec.transposed else weight_shape[1] * spec.groups
    geometry = bind(spec, (1, *sizes, c_in), weight_shape)
    kernel = (1,) * (2 - ndim) + weight_shape[2:]
    phases: list[tuple[Phase, ...]] = [axis_phases(axis, spec.transposed) for axis in geometry.axes]
    taps = []
    for combination in itertools.product(*phases):
        lists = [range(1)] * (2 - ndim) + [
            [p.tap_start + t * p.tap_step for t in range(p.axis.taps)] for p in combination
        ]
        taps.append(tuple(h * kernel[1] + w for h in lists[0] for w in lists[1]))
    return tuple(taps)


def _columns(
    spec: ConvSpec, weight_shape: tuple[int, ...], dtype: np.dtype, depthwise: bool, row: int | None, channel_step: int
) -> tuple[tuple[int, ...], ...]:
    """Cut the output channels into tiles of columns.

    `row` is the distance between two tiles of packed weights, a vector wide (None: weights are in place).
    """
    c_group, o_group = _channels(spec, weight_shape)
    groups = 1 if depthwise else spec.groups
    if depthwise:
        o_group *= spec.groups
    width = lanes(dtype)
    columns, start = [], 0
    for group in range(groups):
        first = 0
        for vectors in split_columns(-(-o_group // width), max_vectors()) if o_group else []:
            count = min(vectors * width, o_group - first)
            out = group * o_group + first
            fields = [0] * T.COLUMN_FIELDS
            fields[T.VECTORS] = vectors
            fields[T.COLUMNS] = count
            fields[T.LAST_COLUMNS] = count - (vectors - 1) * width
            fields[T.CHANNEL] = out if depthwise else group * c_group
            fields[T.CHANNEL_END] = out + count if depthwise else (group + 1) * c_group
            fields[T.WEIGHT_OFFSET] = out if row is None else start * row
            fields[T.WEIGHT_K] = channel_step if row is None else vectors * width
            fields[T.OUT_CHANNEL] = out
            columns.append(tuple(fields))
            start += vectors
            first += count
    return tuple(columns)


@lru_cache(maxsize=1024)
def packed_layout(spec: ConvSpec, weight_shape: tuple[int, ...], dtype: np.dtype) -> Packed:
    """Lay out packed weights of the compute type `dtype`; independent of the shape of x."""
    depthwise = _is_depthwise(spec, weight_shape, dtype)
    taps = _phase_taps(spec, weight_shape)
    c_group = _channels(spec, weight_shape)[0]
    width = lanes(dtype)
    # Offsets of column tiles are those of one term of the reduction: each phase has its own number of terms.
    columns = _columns(spec, weight_shape, dtype, depthwise, width, 0)
    vectors = sum(column[T.VECTORS] for column in columns)
    starts, at = [], 0
    for phase in taps:
        starts.append(at)
        at += len(phase) * c_group * vectors * width
    return Packed(depthwise, columns, taps, tuple(starts), at)


@lru_cache(maxsize=1024)
def readable_in_place(
    spec: ConvSpec, weight_shape: tuple[int, ...], steps: tuple[int, ...], dtype: np.dtype
) -> InPlace | None:
    """Lay out weights in their own memory, given their strides in numbers; None where they must be packed."""
    c_group, o_group = _channels(spec, weight_shape)
    out_axis = 1 if spec.transposed else 0
    if steps[out_axis] != 1 or o_group % lanes(dtype):
        return None
    if spec.transposed and spec.groups > 1:
        return None  # a group's output channels do not follow the previous group's
    kernel = weight_shape[2:]
    offsets = [sum(i * s for i, s in zip(tap, steps[2:], strict=True)) for tap in np.ndindex(*kernel)]
    columns = _columns(spec, weight_shape, dtype, False, None, steps[1 - out_axis])
    return InPlace(False, columns, _phase_taps(spec, weight_shape), tuple(offsets))


def pack(layout: Packed, spec: ConvSpec, weight: np.ndarray, steps: tuple[int, ...], start: int, half: int,
         weight_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:  # fmt: skip
    """Copy flat `weight`, given its strides in numbers, into `layout`; half types are widened."""
    c_group, o_group = _channels(spec, weight_shape)
    packed = np.empty(layout.size, dtype)
    columns = np.array(layout.columns, np.int64).reshape(-1, T.COLUMN_FIELDS)
    offsets = [sum(i * s for i, s in zip(tap, steps[2:], strict=True)) for tap in np.ndindex(*weight_shape[2:])]
    taps = np.array([offsets[tap] for phase in layout.taps for tap in phase], np.int64)
    tap_ends = np.cumsum([len(phase) for phase in layout.taps])
    _pack(
        packed, np.array(layout.phase_starts, np.int64), weight, start, taps, tap_ends, columns, c_group, o_group,
        *steps[:2], spec.transposed, lanes(dtype), half,
    )  # fmt: skip
    return packed


@serial
def _pack(
    packed, phase_starts, weight, start, taps, tap_ends, columns, c_group, o_group, first_step, second_step, transposed,
    width, half,
):  # fmt: skip
    """Write all phases: column tiles, taps, channels, output channels; the vectors' tails are zero.

    All phases take a block of channels while it is in cache: their taps are neighbours in memory.
    """
    c_step = first_step if transposed else second_step
    o_step = second_step if transposed else first_step
    group_step = first_step * (c_group if transposed else o_group)
    for j in range(columns.shape[0]):
        count, out, row = columns[j, T.COLUMNS], columns[j, T.OUT_CHANNEL], columns[j, T.VECTORS] * width
        block = max(1, _BLOCK // (row * max(1, taps.size)))
        group, o = divmod(out, o_group)
        one_group = o + count <= o_group  # a depthwise tile spans groups: its output channel names the group
        for c0 in range(0, c_group, block):
            c1 = min(c0 + block, c_group)
            for phase in range(tap_ends.size):
                tap = tap_ends[phase - 1] if phase else 0
                phase_taps = taps[tap : tap_ends[phase]]
                tap_row = c_group * row
                at = phase_starts[phase] + columns[j, T.WEIGHT_OFFSET] * phase_taps.size * c_group
                if row > count:
                    for t in range(phase_taps.size):
                        for c in range(c0, c1):
                            zero_run(packed, at + t * tap_row + c * row + count, row - count)
                source = start + group * group_step + o * o_step
                if one_group and o_step == 1:
                    for c in range(c0, c1):
                        for t in range(phase_taps.size):
                            from_tap = source + c * c_step + phase_taps[t]
                            copy_numbers(packed, at + t * tap_row + c * row, weight, from_tap, 1, count, half)
                elif one_group and o_step < c_step:
                    for c in range(c0, c1):
                        from_c = source + c * c_step
                        _scatter(packed, at + c * row, 1, tap_row, weight, from_c, o_step, phase_taps, count, half)
                else:
                    for i in range(count):
                        group, o = divmod(out + i, o_group)
                        from_o = start + group * group_step + o * o_step + c0 * c_step
                        to = at + c0 * row + i
                        _scatter(packed, to, row, tap_row, weight, from_o, c_step, phase_taps, c1 - c0, half)


@helper
def _scatter(packed, to, to_step, tap_row, weight, source, step, taps, count, half):
    """Copy `count` numbers of each tap, which lie `step` apart, to places `to_step` apart."""
    for i in range(count):
        for t in range(taps.size):
            packed[to + i * to_step + t * tap_row] = read_number(weight, source + i * step + taps[t], half)
