"""Where weights lie for the tiles that read them.

Packed: for each phase, for each tile of columns, all taps (in the phase's order), all channels of the group, one row of
whole vectors, zero-filled. Depthwise tiles share rows of all columns, which may lie a vector further apart. Weights
that lie with their output channels contiguous (Keras, JAX: `(*kernel, C_in, C_out)` seen through a transposing view)
are read where they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import UNIT_PHASE, ConvSpec, Phase, axis_phases, bind, merge_phases
from ..runtime.microkernel import DENSE, DEPTHWISE, DOT, NARROW, grouped, kind_lanes
from ..runtime.target import lanes
from . import tables as T
from .tiles import (
    dense_kind,
    is_small_group,
    max_dot_columns,
    max_grouped_vectors,
    max_vectors,
    pitch_apart,
    split_columns,
)

__all__ = ["InPlace", "Layout", "Packed", "channels_of", "in_place_layout", "packed_layout"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Tables of weights, phase by phase. Made once for each shape of weights, so compared by identity."""

    kind: int
    """The tiles that read the weights: DENSE, NARROW, DEPTHWISE, `grouped` or DOT."""
    phases_w: int
    """Phases along the last axis; phase (h, w) is number ``h * phases_w + w``."""
    merged: tuple[int, ...]
    """How many residues of the stride a phase computes side by side."""
    taps: tuple[tuple[int, ...], ...]
    """Each phase's taps in reading order, as indices in the whole kernel; a merged residue's are one further each."""
    columns: tuple[tuple[tuple[int, ...], ...], ...]
    """Each phase's tiles of columns; fields as in `tables`."""
    plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    """Plans made for these weights, by everything that they depend on."""

    @property
    def widest(self) -> int:
        """The most vectors in a tile."""
        return max((column[T.VECTORS] for columns in self.columns for column in columns), default=1)


@dataclass(frozen=True, eq=False)
class Packed(Layout):
    """Weights that `weights.pack` writes."""

    starts: tuple[int, ...]
    size: int


@dataclass(frozen=True, eq=False)
class InPlace(Layout):
    """Weights read where they are."""

    tap_offsets: tuple[int, ...]
    """Offset of each tap of the whole kernel."""


def channels_of(spec: ConvSpec, weight_shape: tuple[int, ...]) -> tuple[int, int]:
    """Give the channels of x and of y in a group."""
    first, second = weight_shape[:2]
    return (first // spec.groups, second) if spec.transposed else (second, first // spec.groups)


@lru_cache(maxsize=1024)
def packed_layout(spec: ConvSpec, weight_shape: tuple[int, ...], dtype: np.dtype, finite: bool = True) -> Packed:
    """Lay out packed weights of the compute type `dtype`; independent of the shape of x.

    Weights that are not all `finite` lie for tiles that can leave taps out of any row.
    """
    c_group, o_group = channels_of(spec, weight_shape)
    phases_w, phases = _phases(spec, weight_shape, merging=spec.groups == 1)
    kind = _choose_kind(spec, weight_shape, dtype, max(merged for merged, _ in phases), finite)
    width = kind_lanes(kind, dtype)
    starts, all_columns, at = [], [], 0
    for merged, taps in phases:
        terms = len(taps) * c_group
        columns = []
        first = 0
        # All depthwise tiles share their rows, so that one may take the columns of several.
        pitch = pitch_apart(-(-o_group * spec.groups // width) * width, len(taps), width, dtype)
        if kind == DOT:
            columns.append(_dot_column(o_group * merged, c_group, terms))
            first = o_group * merged
        else:
            for out, vectors, count, group in _cut_columns(spec, o_group * merged, kind, width):
                fields = _fields(out, vectors, count)
                fields[T.CHANNEL], fields[T.CHANNEL_END] = _read_channels(kind, out, count, group, c_group)
                if kind == DEPTHWISE:
                    fields[T.WEIGHT_OFFSET] = first
                    fields[T.WEIGHT_K] = fields[T.WEIGHT_TERM] = pitch
                else:
                    fields[T.WEIGHT_OFFSET] = first * terms
                    fields[T.WEIGHT_K] = fields[T.WEIGHT_TERM] = vectors * width
                columns.append(tuple(fields))
                first += vectors * width
        starts.append(at)
        all_columns.append(tuple(columns))
        at += terms * (pitch if kind == DEPTHWISE and columns else first)
    merges, taps_of_phases = zip(*phases, strict=True)
    return Packed(kind, phases_w, merges, taps_of_phases, tuple(all_columns), tuple(starts), at)


def _choose_kind(spec: ConvSpec, weight_shape: tuple[int, ...], dtype: np.dtype, merged: int, finite: bool) -> int:
    c_group, o_group = channels_of(spec, weight_shape)
    if spec.transposed and not finite:
        return DEPTHWISE if spec.groups > 1 and c_group == o_group == 1 else DENSE
    if spec.groups > 1:
        # Tiles span groups where each reads one channel of x and has too few outputs to fill a vector.
        if c_group == 1 and o_group < lanes(dtype):
            return DEPTHWISE
        # Or where a vector holds several whole groups, which a shuffle can spread.
        small = c_group == o_group and is_small_group(c_group, dtype)
        return grouped(c_group) if small else dense_kind(o_group, dtype)
    steps = spec.stride if spec.transposed else (1,) * spec.ndim
    taps = [max(1, size // step) for size, step in zip(weight_shape[2:], steps, strict=True)]
    few = 0 < o_group * merged <= max_dot_columns(dtype, math.prod(taps) * c_group)
    # Of a row of the window, the terms that lie together in x must fill vectors too.
    run = c_group * (1 if spec.dilation[-1] > 1 else taps[-1])
    return DOT if few and run >= lanes(dtype) else dense_kind(o_group * merged, dtype)


def _dot_column(columns: int, c_group: int, terms: int) -> tuple[int, ...]:
    """Describe the one tile of few columns: each column's terms lie together."""
    fields = [0] * T.COLUMN_FIELDS
    fields[T.VECTORS] = fields[T.KERNEL_VECTORS] = fields[T.COLUMNS] = columns
    fields[T.CHANNEL_END] = c_group
    fields[T.WEIGHT_K], fields[T.WEIGHT_TERM] = terms, 1
    return tuple(fields)


@lru_cache(maxsize=1024)
def in_place_layout(
    spec: ConvSpec, weight_shape: tuple[int, ...], steps: tuple[int, ...], dtype: np.dtype
) -> InPlace | None:
    """Lay out weights in their own memory, given their strides in numbers; None where they must be packed."""
    c_group, o_group = channels_of(spec, weight_shape)
    out_axis = 1 if spec.transposed else 0
    width = lanes(dtype)
    if steps[out_axis] != 1 or o_group % width:
        return None
    if spec.transposed and spec.groups > 1:
        return None  # a group's output channels do not follow the previous group's
    columns = []
    for out, vectors, count, group in _cut_columns(spec, o_group, DENSE, width):
        fields = _fields(out, vectors, count)
        fields[T.CHANNEL], fields[T.CHANNEL_END] = _read_channels(DENSE, out, count, group, c_group)
        fields[T.WEIGHT_OFFSET] = out
        fields[T.WEIGHT_K] = fields[T.WEIGHT_TERM] = steps[1 - out_axis]
        columns.append(tuple(fields))
    offsets = [sum(i * s for i, s in zip(tap, steps[2:], strict=True)) for tap in np.ndindex(*weight_shape[2:])]
    phases_w, phases = _phases(spec, weight_shape, merging=False)
    merges, taps = zip(*phases, strict=True)
    return InPlace(DENSE, phases_w, merges, taps, (tuple(columns),) * len(phases), tuple(offsets))


def _phases(
    spec: ConvSpec, weight_shape: tuple[int, ...], *, merging: bool
) -> tuple[int, list[tuple[int, tuple[int, ...]]]]:
    """List each phase's merged residues and taps. They depend on stride, dilation and crop, never on the size of x."""
    ndim = spec.ndim
    # An x so long that every residue of the stride has an output.
    crop = (0,) * ndim if isinstance(spec.padding, str) else tuple(lo + hi for lo, hi in spec.padding)
    sizes = tuple(spec.dilation[i] * weight_shape[2 + i] + crop[i] + 2 for i in range(ndim))
    c_in = math.prod(channels_of(spec, weight_shape)[:1]) * spec.groups
    axes = bind(spec, (1, *sizes, c_in), weight_shape).axes
    phases_h = axis_phases(axes[0], spec.transposed) if ndim == 2 else (UNIT_PHASE,)
    phases_w = axis_phases(axes[-1], spec.transposed)
    groups_w = merge_phases(phases_w) if merging else tuple((phase,) for phase in phases_w)
    kernel_w = weight_shape[-1]

    def taps(phase: Phase) -> list[int]:
        return [phase.tap_start + t * phase.tap_step for t in range(phase.axis.taps)]

    return len(groups_w), [
        (len(group), tuple(h * kernel_w + w for h in taps(phase_h) for w in taps(group[0])))
        for phase_h in phases_h
        for group in groups_w
    ]


def _cut_columns(spec: ConvSpec, o_group: int, kind: int, width: int) -> list[tuple[int, int, int, int]]:
    """Cut the output channels into tiles: first channel, vectors, channels, group."""
    groups, per_group = (1, o_group * spec.groups) if kind & DEPTHWISE else (spec.groups, o_group)
    widest = max_vectors() if kind in (DENSE, NARROW, DEPTHWISE) else max_grouped_vectors()
    tiles = []
    for group in range(groups):
        first = 0
        for vectors in split_columns(-(-per_group // width), widest) if per_group else []:
            count = min(vectors * width, per_group - first)
            tiles.append((group * per_group + first, vectors, count, group))
            first += count
    return tiles


def _fields(out: int, vectors: int, count: int) -> list[int]:
    fields = [0] * T.COLUMN_FIELDS
    fields[T.VECTORS] = fields[T.KERNEL_VECTORS] = vectors
    fields[T.COLUMNS] = count
    fields[T.OUT_CHANNEL] = out
    return fields


def _read_channels(kind: int, out: int, count: int, group: int, c_group: int) -> tuple[int, int]:
    return (out, out + count) if kind & DEPTHWISE else (group * c_group, (group + 1) * c_group)
