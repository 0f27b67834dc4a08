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
from ..runtime.jit import serial
from ..runtime.target import lanes
from . import tables as T
from .panels import copy_numbers
from .tiles import max_rows, max_vectors, split_columns

__all__ = ["InPlace", "Layout", "Packed", "pack", "packed_layout", "readable_in_place"]


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
    offsets = np.array(
        [sum(i * s for i, s in zip(tap, steps[2:], strict=True)) for tap in np.ndindex(*weight_shape[2:])], np.int64
    )
    first_step, second_step = steps[:2]
    for phase_start, taps in zip(layout.phase_starts, layout.taps, strict=True):
        tap_offsets = offsets[np.array(taps, np.int64)]
        _pack_phase(
            packed, phase_start, weight, start, tap_offsets, columns, c_group, o_group, first_step, second_step,
            spec.transposed, lanes(dtype), half,
        )  # fmt: skip
    return packed


@serial
def _pack_phase(
    packed, at, weight, start, taps, columns, c_group, o_group, first_step, second_step, transposed, width, half
):
    """Write one phase: column tiles, taps, channels, output channels; the vectors' tails are zero."""
    for j in range(columns.shape[0]):
        for t in range(taps.size):
            for c in range(c_group):
                # A depthwise tile spans groups: its output channel names the group.
                count, out = columns[j, T.COLUMNS], columns[j, T.OUT_CHANNEL]
                for i in range(count):
                    group, o = divmod(out + i, o_group)
                    if transposed:
                        source = start + taps[t] + (group * c_group + c) * first_step + o * second_step
                    else:
                        source = start + taps[t] + (out + i) * first_step + c * second_step
                    copy_numbers(packed, at + i, weight, source, 1, 1, half)
                for i in range(count, columns[j, T.VECTORS] * width):
                    packed[at + i] = 0
                at += columns[j, T.VECTORS] * width
