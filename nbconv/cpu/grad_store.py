"""From a block of sums to the weight's gradient: the order of axes that tiles leave, into the strides of the weight.

Sums lie as (kernel row, tap, wide channel, narrow channel), or, swapped, as (kernel row, narrow channel, tap, wide
channel).
"""

from __future__ import annotations

import numpy as np

from ..runtime.jit import helper, maker
from ..runtime.memory import copy_run
from ..runtime.transpose import transpose_block
from . import grad_tables as G
from .loops import store_numbers

__all__ = ["store_block"]


@helper
def store_block(grad, grad_start, sums, at, block, call):
    """Write a block's sums where the weight's strides have them."""
    grad_start += (block[G.BLOCK_GROUP] * call[G.C_NARROW] + block[G.BLOCK_CHANNEL]) * call[G.GRAD_FIRST]
    if call[G.STORE] == G.BY_NUMBER:
        _store_by_number(grad, grad_start, sums, at, block, call)
        return
    grad_start += block[G.BLOCK_WIDE] * call[G.GRAD_SECOND]
    if call[G.STORE] == G.BY_ROW:
        _store_by_row(grad, grad_start, sums, at, block, call)
    elif call[G.SWAPPED]:
        _store_swapped(grad, grad_start, sums, at, block, call)
    else:
        _store_transposed(grad, grad_start, sums, at, block, call)


@maker
def _store_transposed(grad, grad_start, sums, at, block, call):
    """Store all taps of the block's channels where they are innermost: (narrow, wide, tap) from (tap, wide, narrow)."""
    width, n = call[G.WIDTH], block[G.BLOCK_CHANNEL_END] - block[G.BLOCK_CHANNEL]
    wide = block[G.BLOCK_WIDE_END] - block[G.BLOCK_WIDE]
    taps = (block[G.BLOCK_ROW_END] - block[G.BLOCK_ROW]) * call[G.KERNEL_W]
    to, source = np.zeros(width, np.int64), np.zeros(width, np.int64)
    together = call[G.STORE_TOGETHER]
    for low in range(0, n, together):
        here, tap = at + low, 0
        for first in range(0, wide * taps, width):
            rows = min(width, wide * taps - first)
            for i in range(rows):
                source[i] = here
                here, tap = here + wide * n, tap + 1
                if tap == taps:
                    here, tap = here - (taps * wide - 1) * n, 0
            for column in range(low, min(low + together, n), width):
                columns = min(width, n - column)
                for j in range(columns):
                    to[j] = grad_start + (column + j) * call[G.GRAD_FIRST] + first
                transpose_block(grad, to, sums, source, rows, columns)
                for i in range(rows):
                    source[i] += width


@maker
def _store_swapped(grad, grad_start, sums, at, block, call):
    """Store (narrow, wide, tap) from (kernel row, narrow, tap, wide)."""
    width, n = call[G.WIDTH], block[G.BLOCK_CHANNEL_END] - block[G.BLOCK_CHANNEL]
    wide = block[G.BLOCK_WIDE_END] - block[G.BLOCK_WIDE]
    taps = (block[G.BLOCK_ROW_END] - block[G.BLOCK_ROW]) * call[G.KERNEL_W]
    to, source = np.zeros(width, np.int64), np.zeros(width, np.int64)
    for channel in range(n):
        for first in range(0, taps, width):
            rows = min(width, taps - first)
            for i in range(rows):
                row, tap = divmod(first + i, call[G.KERNEL_W])
                source[i] = at + ((row * n + channel) * call[G.KERNEL_W] + tap) * wide
            for column in range(0, wide, width):
                columns = min(width, wide - column)
                for j in range(columns):
                    to[j] = grad_start + channel * call[G.GRAD_FIRST] + (column + j) * taps + first
                transpose_block(grad, to, sums, source, rows, columns)
                for i in range(rows):
                    source[i] += width


@helper
def _store_by_row(grad, grad_start, sums, at, block, call):
    """Store runs of narrow channels, which are innermost in the weight too."""
    n = block[G.BLOCK_CHANNEL_END] - block[G.BLOCK_CHANNEL]
    for row in range(block[G.BLOCK_ROW], block[G.BLOCK_ROW_END]):
        for tap in range(block[G.BLOCK_TAP], block[G.BLOCK_TAP_END]):
            to = grad_start + row * call[G.GRAD_H] + tap * call[G.GRAD_W]
            for _ in range(block[G.BLOCK_WIDE], block[G.BLOCK_WIDE_END]):
                copy_run(grad, to, sums, at, n)
                at += n
                to += call[G.GRAD_SECOND]


@maker
def _store_by_number(grad, grad_start, sums, at, block, call):
    """Store any strides and types; of merged groups, only the products of a group with itself."""
    n, n_wide = block[G.BLOCK_CHANNEL_END] - block[G.BLOCK_CHANNEL], block[G.BLOCK_WIDE_END] - block[G.BLOCK_WIDE]
    n_taps = block[G.BLOCK_TAP_END] - block[G.BLOCK_TAP]
    step = 1 if call[G.SWAPPED] else n
    values = np.empty(n_wide, sums.dtype)
    for i in range(n):
        own = (block[G.BLOCK_CHANNEL] + i) // call[G.GROUP_NARROW] * call[G.GROUP_WIDE]
        begin = max(block[G.BLOCK_WIDE], own)
        end = max(begin, min(block[G.BLOCK_WIDE_END], own + call[G.GROUP_WIDE]))  # a block may hold none of the group
        for row in range(block[G.BLOCK_ROW_END] - block[G.BLOCK_ROW]):
            for tap in range(n_taps):
                source = at + ((row * n_taps + tap) * n_wide) * n + i
                if call[G.SWAPPED]:
                    source = at + ((row * n + i) * n_taps + tap) * n_wide
                for j in range(end - begin):
                    values[j] = sums[source + (begin - block[G.BLOCK_WIDE] + j) * step]
                to = (
                    grad_start + i * call[G.GRAD_FIRST] + (begin - own) * call[G.GRAD_SECOND]
                    + (block[G.BLOCK_ROW] + row) * call[G.GRAD_H] + (block[G.BLOCK_TAP] + tap) * call[G.GRAD_W]
                )  # fmt: skip
                store_numbers(grad, to, call[G.GRAD_SECOND], values, 0, end - begin, call[G.HALF])
