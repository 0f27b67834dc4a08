"""Packing: weights copied once into the order in which tiles read them; see `layout`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import ConvSpec
from ..runtime.jit import helper, serial
from ..runtime.memory import zero_run
from ..runtime.microkernel import DENSE, DOT
from ..runtime.target import lanes
from ..runtime.transpose import transpose_block
from . import tables as T
from .layout import Packed, channels_of
from .panels import copy_numbers, read_number

__all__ = ["pack"]

_BLOCK = 1 << 15  # numbers of the weights that are packed together: with their copies, a quarter of L2


def pack(
    layout: Packed, spec: ConvSpec, weight: np.ndarray, shape: tuple[int, ...], steps: tuple[int, ...], start: int,
    half: int, dtype: np.dtype,
) -> np.ndarray:  # fmt: skip
    """Copy flat `weight`, whose shape and strides in numbers are given, into `layout`; half types are widened."""
    packed = np.empty(layout.size, dtype)
    pack_phase = _pack_dots if layout.kind == DOT else _pack_phase
    for arguments, inside in _pack_tables(layout, spec, shape, steps, lanes(dtype)):
        if inside is not None and half == T.NOT_HALF:
            _pack_blocks(packed, weight, start, lanes(dtype), *arguments, *inside)
        else:
            pack_phase(packed, weight, start, half, *arguments)
    return packed


@lru_cache(maxsize=1024)
def _pack_tables(
    layout: Packed, spec: ConvSpec, shape: tuple[int, ...], steps: tuple[int, ...], width: int
) -> list[tuple[Any, Any]]:
    """Give the arguments of `_pack_phase` for each phase that has weights, and those that `_pack_blocks` needs more."""
    c_group, o_group = channels_of(spec, shape)
    offsets = [sum(i * s for i, s in zip(tap, steps[2:], strict=True)) for tap in np.ndindex(*shape[2:])]
    c_axis, o_axis = (0, 1) if spec.transposed else (1, 0)
    tables = []
    for at, taps, columns, merged in zip(layout.starts, layout.taps, layout.columns, layout.merged, strict=True):
        if taps and columns:
            # Beyond a group's output channels lie the next group's, or the next residue's: its taps are one further.
            further = steps[-1] if merged > 1 else steps[0] * (c_group if spec.transposed else o_group)
            tap_offsets = np.array([offsets[tap] for tap in taps], np.int64)
            column_table = np.array(columns, np.int64)
            # Residues of one output channel are what lies one further, as other channels would.
            outputs, o_step = (merged, steps[-1]) if merged > 1 and o_group == 1 else (o_group, steps[o_axis])
            arguments = at, tap_offsets, column_table, c_group, outputs, steps[c_axis], o_step, further
            lie_inside = min(steps[:2]) >= max(offsets) + 1 and len(offsets) > 1 and steps[-1] == 1
            inside = None
            if layout.kind == DENSE and lie_inside and (merged == 1 or o_group % width == 0):
                inside = _taps_inside(tap_offsets, merged, max(offsets) + 1), merged
            tables.append((arguments, inside))
    return tables


def _taps_inside(taps: np.ndarray, merged: int, size: int) -> np.ndarray:
    """Tell for each offset within a kernel which tap of the phase lies there, and for which of its residues; or -1."""
    inside = np.full((size, 2), -1, np.int64)
    for residue in range(merged):
        for t, offset in enumerate(taps):
            inside[offset + residue] = t, residue
    return inside


@serial
def _pack_phase(packed, weight, start, half, at, taps, columns, c_group, o_group, c_step, o_step, further):
    """Write one phase: column tiles, taps, channels, output channels; the vectors' tails are zero.

    Blocks of channels are taken while they are in cache, each number in the order in which it lies in memory.
    """
    block = max(1, _BLOCK // (o_group * taps.size))
    for c0 in range(0, c_group, block):
        c1 = min(c0 + block, c_group)
        for j in range(columns.shape[0]):
            count, row = columns[j, T.COLUMNS], columns[j, T.WEIGHT_K]
            tap_row = c_group * row
            first = at + columns[j, T.WEIGHT_OFFSET]
            if row > count:
                for t in range(taps.size):
                    for c in range(c0, c1):
                        zero_run(packed, first + t * tap_row + c * row + count, row - count)
            done = 0
            while done < count:
                major, o = divmod(columns[j, T.OUT_CHANNEL] + done, o_group)
                n = min(count - done, o_group - o)
                source, to = start + major * further + o * o_step, first + done
                if o_step == 1:
                    for c in range(c0, c1):
                        for t in range(taps.size):
                            to_tap = to + t * tap_row + c * row
                            copy_numbers(packed, to_tap, weight, source + c * c_step + taps[t], 1, n, half)
                elif o_step < c_step:
                    for c in range(c0, c1):
                        from_c = source + c * c_step
                        _scatter(packed, to + c * row, 1, tap_row, weight, from_c, o_step, taps, n, half)
                else:
                    for i in range(n):
                        from_o = source + i * o_step + c0 * c_step
                        _scatter(packed, to + i + c0 * row, row, tap_row, weight, from_o, c_step, taps, c1 - c0, half)
                done += n


@serial
def _pack_blocks(
    packed, weight, start, width, at, taps, columns, c_group, o_group, c_step, o_step, further, inside, merged
):  # fmt: skip
    """Write one phase of weights whose taps lie innermost: blocks of output channels x taps, transposed in registers.

    As `_pack_phase`, for DENSE tiles. Where the next channel's taps follow, a block spans channels.
    """
    kernel = inside.shape[0]
    run, channels = (c_group * kernel, c_group) if c_step == kernel else (kernel, 1)
    vectors = 0
    for j in range(columns.shape[0]):
        vectors += columns[j, T.WEIGHT_K] // width
    # Of each vector of packed columns: where it begins, how long its tile's rows are, and whose weights it holds.
    begin, row, major = np.empty(vectors, np.int64), np.empty(vectors, np.int64), np.empty(vectors, np.int64)
    first, count = np.empty(vectors, np.int64), np.empty(vectors, np.int64)
    v = 0
    for j in range(columns.shape[0]):
        for k in range(0, columns[j, T.WEIGHT_K], width):
            begin[v], row[v] = at + columns[j, T.WEIGHT_OFFSET] + k, columns[j, T.WEIGHT_K]
            major[v], first[v] = divmod(columns[j, T.OUT_CHANNEL] + k, o_group)
            count[v] = min(width, columns[j, T.COLUMNS] - k)
            v += 1
    to, source = np.zeros(width, np.int64), np.zeros(width, np.int64)
    between = o_group // width  # vectors from one residue to the next
    for v in range(vectors):
        if merged > 1 and major[v] > 0:
            continue  # written with the first residue
        if count[v] < width:
            for i in range(taps.size * c_group):
                zero_run(packed, begin[v] + i * row[v] + count[v], width - count[v])
        here = start + (major[v] * further if merged == 1 else 0) + first[v] * o_step
        for c in range(0, c_group, channels):
            for low in range(0, run, width):
                used = 0
                for j in range(min(width, run - low)):
                    channel, offset = divmod(low + j, kernel)
                    t, residue = inside[offset, 0], inside[offset, 1]
                    if t >= 0:
                        u = v + residue * between
                        # Numbers of other phases before this one are written to the same place, and then overwritten.
                        for i in range(used, j + 1):
                            to[i] = begin[u] + (t * c_group + c + channel) * row[u]
                        used = j + 1
                if used > 0:
                    for i in range(count[v]):
                        source[i] = here + i * o_step + c * c_step + low
                    transpose_block(packed, to, weight, source, count[v], used)


@serial
def _pack_dots(packed, weight, start, half, at, taps, columns, c_group, o_group, c_step, o_step, further):
    """Write one phase of few columns: column by column, taps, channels."""
    for out in range(columns[0, T.COLUMNS]):
        major, o = divmod(out, o_group)
        source = start + major * further + o * o_step
        for t in range(taps.size):
            copy_numbers(packed, at, weight, source + taps[t], c_step, c_group, half)
            at += c_group


@helper
def _scatter(packed, to, to_step, tap_row, weight, source, step, taps, count, half):
    """Copy `count` numbers of each tap, which lie `step` apart, to places `to_step` apart."""
    for i in range(count):
        for t in range(taps.size):
            packed[to + i * to_step + t * tap_row] = read_number(weight, source + i * step + taps[t], half)
