"""A plan, its rows that follow from the geometry and the memory alone, and the list of its phases."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..geometry import PADDING_MODES, UNIT_PHASE, Geometry, Phase, axis_phases, merge_phases
from ..runtime.microkernel import DOT
from . import tables as T
from .layout import Layout

__all__ = [
    "LaidPhase",
    "Memory",
    "Plan",
    "Table",
    "call_row",
    "lie_alike",
    "list_phases",
    "outputs_times_taps",
    "phase_row",
    "plan_windows",
]


@dataclass(frozen=True)
class Memory:
    """How x and y lie in memory: strides in numbers, as (N, H, W, C), and what a number is."""

    x_steps: tuple[int, int, int, int]
    y_steps: tuple[int, int, int, int]
    x_half: int
    """As `tables` names storage types; where both x and y are of half types, they are of one."""
    y_half: int
    compute: np.dtype
    y_again: bool = False
    """Whether the call looks at its outputs again: an activation does, and what is added to them."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything of a convolution but the arrays."""

    table: np.ndarray
    """The call's row and all others, as `tables` names them."""
    jobs: int
    flops: int
    is_one_call: bool
    """Whether it is so small that nothing is to be decided at each launch."""
    workers: int
    """As many as there is scratch for."""
    work_size: int
    """Numbers of scratch for all workers."""
    notes_size: int
    """Integers of scratch for all workers."""
    output_shape: tuple[int, ...]
    merged: int
    """Copies of the bias that the widest phase needs side by side."""
    beside: bool
    """Whether an output had better lie in memory as x does: its tiles work on vectors of both side by side."""


@lru_cache(maxsize=256)
def plan_windows(geometry: Geometry, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate what gathering the windows of a convolution needs: the call and its one phase."""
    axes = (UNIT_PHASE.axis,) * (2 - len(geometry.axes)) + geometry.axes
    call = call_row(geometry, memory)
    call[T.REPEAT] = 1
    row = phase_row(UNIT_PHASE._replace(axis=axes[0]), UNIT_PHASE._replace(axis=axes[1]), memory)
    return np.array(call, np.int64), np.array(row, np.int64)


def call_row(geometry: Geometry, memory: Memory) -> list[int]:
    """Describe x."""
    sizes = (1,) * (2 - len(geometry.axes)) + tuple(axis.size for axis in geometry.axes)
    call = [0] * T.CALL_FIELDS
    call[T.HALF] = memory.x_half or memory.y_half
    call[T.PADDING_MODE] = PADDING_MODES.index(geometry.spec.padding_mode)
    call[T.X_H], call[T.X_W] = sizes
    call[T.X_STEP_N], call[T.X_STEP_H], call[T.X_STEP_W], call[T.X_STEP_C] = memory.x_steps
    return call


def phase_row(phase_h: Phase, phase_w: Phase, memory: Memory) -> list[int]:
    """Describe where a phase's positions read x and write y."""
    h, w = phase_h.axis, phase_w.axis
    row = [0] * T.PHASE_FIELDS
    row[T.OUT_H], row[T.OUT_W] = h.out, w.out
    row[T.STRIDE_H], row[T.STRIDE_W] = h.stride, w.stride
    row[T.DILATION_H], row[T.DILATION_W] = h.dilation, w.dilation
    row[T.LO_H], row[T.LO_W] = h.lo, w.lo
    row[T.TAPS_H], row[T.TAPS_W] = h.taps, max(1, w.taps)
    row[T.LINES_TOGETHER] = 1
    _, step_h, step_w, _ = memory.y_steps
    row[T.Y_OFFSET] = phase_h.out_start * step_h + phase_w.out_start * step_w
    row[T.Y_STEP_H], row[T.Y_STEP_W] = phase_h.out_step * step_h, phase_w.out_step * step_w
    return row


class LaidPhase(NamedTuple):
    """A phase along both axes, and the layout's number and columns for it."""

    number: int
    h: Phase
    w: Phase
    columns: tuple[tuple[int, ...], ...]


def _first_columns(columns: tuple[tuple[int, ...], ...], count: int, lanes: int) -> Iterator[tuple[int, ...]]:
    """Trim tiles of columns to the first `count` of all; a dot tile's vectors have one lane."""
    for column in columns:
        left = min(column[T.COLUMNS], count - column[T.OUT_CHANNEL])
        if left > 0:
            fields = list(column)
            fields[T.COLUMNS] = left
            fields[T.KERNEL_VECTORS] = -(-left // lanes)
            yield tuple(fields)


def outputs_times_taps(phases: Sequence[LaidPhase]) -> int:
    """Count pairs of an output number of one sample and a tap of its phase."""
    return sum(
        p.h.axis.taps * p.w.axis.taps * p.h.axis.out * p.w.axis.out * sum(c[T.COLUMNS] for c in p.columns)
        for p in phases
    )


def lie_alike(memory: Memory, phases: Sequence[LaidPhase]) -> bool:
    """Say whether positions along a line lie as far apart in y as columns in x."""
    return memory.x_steps[2] == memory.y_steps[2] and all(phase.w.out_step == 1 for phase in phases)


class Table:
    """The rows behind the call's and the phases', which `start` at some place of the plan."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.numbers: list[int] = []

    def add(self, *rows: Sequence[int]) -> tuple[int, int]:
        """Append rows; give where they begin and end."""
        begin = self.start + len(self.numbers)
        self.numbers += itertools.chain(*rows)
        return begin, self.start + len(self.numbers)


def list_phases(geometry: Geometry, layout: Layout, lanes: int) -> Iterator[LaidPhase]:
    """Match the geometry's phases with the layout's; what merged residues do not share is a phase of its own."""
    axes = [axis_phases(axis, geometry.spec.transposed) for axis in geometry.axes]
    phases_h = axes[0] if len(axes) == 2 else (UNIT_PHASE,)
    groups = merge_phases(axes[-1]) if max(layout.merged) > 1 else tuple((phase,) for phase in axes[-1])
    for h, phase_h in enumerate(phases_h):
        for w, group in enumerate(groups):
            index = h * layout.phases_w + w
            columns, first = layout.columns[index], group[0]
            outs = [phase.axis.out for phase in group]
            shared = min(outs) if len(group) == layout.merged[index] else 0
            if shared:
                axis = first.axis._replace(out=shared)
                yield LaidPhase(index, phase_h, first._replace(axis=axis), columns)
            if shared < outs[0]:
                # The first residues have one output more.
                more = sum(out > shared for out in outs) * geometry.c_out
                axis = first.axis._replace(out=outs[0] - shared, lo=first.axis.lo - shared * first.axis.stride)
                rest = first._replace(axis=axis, out_start=first.out_start + shared * first.out_step)
                yield LaidPhase(
                    index,
                    phase_h,
                    rest,
                    tuple(_first_columns(columns, more, 1 if layout.kind == DOT else lanes)),
                )
