"""The table of integers that every kernel reads, and the layout of packed weights that it describes.

One int32 array holds all that a launch needs to know of a geometry, so that kernels take few arguments and the array
can be made once and kept on the device: `HEADER` numbers, then `PHASE_FIELDS` numbers for each phase
(`nbconv.geometry.Phase`). The constants below are the places of the numbers; those from `ROWS_H` on count from the
start of their phase, `HEADER + phase * PHASE_FIELDS`.

Position `p` of a phase is output `OUT_START + p * OUT_STEP`; its tap `t` reads input `p * STRIDE + t * DILATION - LO`.
Outside of `[0, SIZE)` the padding mode decides.

Packed weights are one flat array. Weight `[tap, channel of the group, column]` of a phase and a group stands at

    WEIGHT_START + group * WEIGHT_GROUP_STEP + (tap * C_IN_GROUP + channel) * WEIGHT_ROW_STEP + column

where `tap = tap_h * TAPS_W + tap_w`. A group has `COLUMNS` columns: its output channels, zeros up to a multiple of
`COLUMN_BLOCK`. Where each group has one channel in and one out (depthwise), groups take the place of columns instead:
the group's step is 1 and the row's step is the number of groups, rounded up, so that neighbouring channels lie side by
side. Either way every row starts at a multiple of `COLUMN_BLOCK`, so that 16-byte loads are aligned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import count
from math import prod
from typing import NamedTuple

import numpy as np

from ..geometry import PADDING_MODES, UNIT_PHASE, Geometry, Phase

__all__ = ["ACTIVATIONS", "MOST_NUMBERS", "PackedPhase", "build_table", "check_sizes", "pack", "packed_phases"]

_places = count()
SAMPLES = next(_places)
GROUPS = next(_places)
PHASES = next(_places)
SIZE_H = next(_places)  # input positions; one-dimensional operations have SIZE_H = 1
SIZE_W = next(_places)
OUT_H = next(_places)  # positions of the whole output
OUT_W = next(_places)
C_IN = next(_places)  # channels of all groups: the step between positions
C_OUT = next(_places)
C_IN_GROUP = next(_places)
C_OUT_GROUP = next(_places)
COLUMNS = next(_places)  # of packed weights: C_OUT_GROUP rounded up
PADDING_MODE = next(_places)
TRANSPOSED = next(_places)  # 1: nothing stands outside of the input, not even zeros that meet infinite weights
ACTIVATION = next(_places)
HAS_RESIDUAL = next(_places)
WEIGHT_ROW_STEP = next(_places)
SLICE_STEPS = next(_places)  # of the reduction, that one block of a tiled product makes
HEADER = next(_places)

_places = count()
ROWS_H = next(_places)  # positions of the phase
ROWS_W = next(_places)
OUT_START_H = next(_places)
OUT_STEP_H = next(_places)
OUT_START_W = next(_places)
OUT_STEP_W = next(_places)
TAPS_H = next(_places)  # may be 0: such outputs are bias only
TAPS_W = next(_places)
STRIDE_H = next(_places)
STRIDE_W = next(_places)
DILATION_H = next(_places)
DILATION_W = next(_places)
SPAN_W = next(_places)  # of the taps: how many there are times the dilation
LO_H = next(_places)
LO_W = next(_places)
WEIGHT_START = next(_places)
WEIGHT_GROUP_STEP = next(_places)
# The place of the phase's first tap in the whole kernel, and the steps between its taps: for packing.
TAP_START_H = next(_places)
TAP_STEP_H = next(_places)
TAP_START_W = next(_places)
TAP_STEP_W = next(_places)
PHASE_FIELDS = next(_places)

ZEROS, REFLECT, REPLICATE, CIRCULAR = range(4)
assert PADDING_MODES == ("zeros", "reflect", "replicate", "circular")

ACTIVATIONS = (
    "relu", "leaky_relu", "relu6", "elu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "softplus", "hardswish",
    "hardsigmoid",
)  # fmt: skip
"""Names in the order of their codes: the first is 1; 0 is no activation."""

WHOLE = 2**30  # steps of a slice that is the whole reduction
COLUMN_BLOCK = 8  # numbers: 16 bytes of a half type, 32 of float32
# Kernels count in int32; a tile may step over the end of an array by less than this before it is masked.
MOST_NUMBERS = 2**31 - 2**16


class PackedPhase(NamedTuple):
    """One phase over both axes and where its packed weights lie."""

    h: Phase
    w: Phase
    start: int
    group_step: int
    row_step: int

    @property
    def taps(self) -> int:
        """Number of taps."""
        return self.h.axis.taps * self.w.axis.taps

    @property
    def rows(self) -> int:
        """Positions of the phase in one sample."""
        return self.h.axis.out * self.w.axis.out


def columns_of(geometry: Geometry) -> int:
    """Columns of a group's packed weights."""
    return _round_up(geometry.c_out // geometry.groups)


def channelwise(geometry: Geometry) -> bool:
    """Say whether each group has one channel in and one out."""
    return geometry.c_in == geometry.c_out == geometry.groups > 1


def _round_up(number: int) -> int:
    return -(-number // COLUMN_BLOCK) * COLUMN_BLOCK


@lru_cache(maxsize=1024)
def packed_phases(geometry: Geometry) -> tuple[tuple[PackedPhase, ...], int]:
    """List the phases with the places of their packed weights; give the length of all packed weights too."""
    phases, start = [], 0
    c_group = geometry.c_in // geometry.groups
    columns = columns_of(geometry)
    for parts in geometry.phases():
        h, w = parts if len(parts) == 2 else (UNIT_PHASE, parts[0])
        rows = h.axis.taps * w.axis.taps * c_group
        if channelwise(geometry):
            row_step = _round_up(geometry.groups)
            group_step, size = 1, rows * row_step
        else:
            row_step = columns
            group_step = rows * columns
            size = group_step * geometry.groups
        phases.append(PackedPhase(h, w, start, group_step, row_step))
        start += size
    return tuple(phases), start


def build_table(
    geometry: Geometry,
    activation: str | None = None,
    residual: bool = False,
    slice_steps: int = WHOLE,
    runs: bool = False,
) -> np.ndarray:
    """Give the table of a geometry, shape (HEADER + phases * PHASE_FIELDS,), int32.

    `activation` is a name out of `ACTIVATIONS`; `residual` says whether the product adds one. `slice_steps` cuts the
    reduction of tiled products into slices; `runs` makes the taps of a line one, of so many times the channels.
    """
    phases, _ = packed_phases(geometry)
    (size_h, out_h), (size_w, out_w) = ((1, 1), *((axis.size, axis.out) for axis in geometry.axes))[-2:]
    table = np.zeros(HEADER + len(phases) * PHASE_FIELDS, np.int32)
    table[SAMPLES], table[GROUPS], table[PHASES] = geometry.n, geometry.groups, len(phases)
    table[SIZE_H], table[SIZE_W], table[OUT_H], table[OUT_W] = size_h, size_w, out_h, out_w
    table[C_IN], table[C_OUT] = geometry.c_in, geometry.c_out
    table[C_IN_GROUP], table[C_OUT_GROUP] = geometry.c_in // geometry.groups, geometry.c_out // geometry.groups
    table[COLUMNS] = columns_of(geometry)
    table[PADDING_MODE] = PADDING_MODES.index(geometry.spec.padding_mode)
    table[TRANSPOSED] = geometry.spec.transposed
    table[ACTIVATION] = 0 if activation is None else ACTIVATIONS.index(activation) + 1
    table[HAS_RESIDUAL], table[SLICE_STEPS] = residual, slice_steps
    table[WEIGHT_ROW_STEP] = _round_up(geometry.groups) if channelwise(geometry) else columns_of(geometry)
    for i, phase in enumerate(phases):
        fields = table[HEADER + i * PHASE_FIELDS :][:PHASE_FIELDS]
        fields[WEIGHT_START], fields[WEIGHT_GROUP_STEP] = phase.start, phase.group_step
        for part, places in (
            (phase.h, (ROWS_H, OUT_START_H, OUT_STEP_H, TAPS_H, STRIDE_H, DILATION_H, LO_H, TAP_START_H, TAP_STEP_H)),
            (phase.w, (ROWS_W, OUT_START_W, OUT_STEP_W, TAPS_W, STRIDE_W, DILATION_W, LO_W, TAP_START_W, TAP_STEP_W)),
        ):
            axis = part.axis
            numbers = (
                axis.out, part.out_start, part.out_step, axis.taps, axis.stride, axis.dilation, axis.lo, part.tap_start,
                part.tap_step,
            )  # fmt: skip
            fields[list(places)] = numbers
        if runs:
            table[C_IN_GROUP] *= fields[TAPS_W]
            fields[TAPS_W] = 1
        fields[SPAN_W] = fields[TAPS_W] * phase.w.axis.dilation
    return table


def check_sizes(geometry: Geometry) -> None:
    """Refuse what int32 cannot count.

    Raises
    ------
    ValueError
        Where an array has too many numbers, or a position lies too far outside of its array.
    """
    op = geometry.spec.op
    sizes: dict[str, Callable[[], int]] = {
        "x": lambda: geometry.n * prod(axis.size for axis in geometry.axes) * geometry.c_in,
        "the result": lambda: geometry.n * prod(axis.out for axis in geometry.axes) * geometry.c_out,
        # The last: where strides are huge, so are the phases of the result.
        "the packed weight": lambda: packed_phases(geometry)[1],
    }
    for name, size_of in sizes.items():
        size = size_of()
        if size > MOST_NUMBERS:
            raise ValueError(
                f"{op}: {name} has {size} numbers; kernels on a device count to {MOST_NUMBERS}: split the samples"
            )
    for i, axis in enumerate(geometry.axes):
        far = max(axis.stride, axis.dilation) + abs(axis.lo) + (axis.out + 1) * axis.stride + axis.reach + axis.size
        if far > MOST_NUMBERS:
            raise ValueError(
                f"{op}: stride {axis.stride}, dilation {axis.dilation} and padding ({axis.lo}, {axis.hi}) on axis {i} "
                f"reach {far} positions far; kernels on a device count to {MOST_NUMBERS}"
            )


def pack(geometry: Geometry, weight: np.ndarray) -> np.ndarray:
    """Lay `weight`, of PyTorch's shape, out as kernels read it: flat, of its dtype. The reference of the kernel."""
    phases, size = packed_phases(geometry)
    groups, transposed = geometry.groups, geometry.spec.transposed
    c_group, o_group = geometry.c_in // groups, geometry.c_out // groups
    packed = np.zeros(size, weight.dtype)
    weight = weight.reshape(*weight.shape[:2], *(1,) * (4 - weight.ndim), *weight.shape[2:])
    if transposed:  # (C_in, C_out/groups, h, w) -> (groups, h, w, C_in/groups, C_out/groups)
        whole = weight.reshape(groups, c_group, o_group, *weight.shape[2:]).transpose(0, 3, 4, 1, 2)
    else:  # (C_out, C_in/groups, h, w)
        whole = weight.reshape(groups, o_group, c_group, *weight.shape[2:]).transpose(0, 3, 4, 2, 1)
    for phase in phases:
        h, w = (part.tap_start + part.tap_step * np.arange(part.axis.taps) for part in (phase.h, phase.w))
        rows = whole[:, h[:, None], w].reshape(groups, phase.taps * c_group, o_group)
        for group, row, column in np.ndindex(*rows.shape):
            packed[phase.start + group * phase.group_step + row * phase.row_step + column] = rows[group, row, column]
    return packed
