"""What is laid out before a product: packed weights and the bias in the compute type; contiguous copies of arrays."""

from __future__ import annotations

import numpy as np
from numpy import int32

from . import table as T
from .driver import cuda, inlined, kernel
from .integers import split
from .storage import widen

__all__ = ["THREADS", "copy_strided", "copy_table", "pack_operands", "pack_table", "widen_numbers"]

THREADS = 256

# The fields of pack_operands' second table: strides in numbers of the weight (PyTorch's axes) and of the bias.
START, FIRST, SECOND, TAP_H, TAP_W, BIAS_START, BIAS_STEP, HAS_BIAS, PACK_FIELDS = range(9)
# Those of copy_strided's: shape, then start and steps of both arrays.
SHAPE, FROM, FROM_STEPS, TO, TO_STEPS, COPY_FIELDS = 0, 4, 5, 9, 10, 14


def pack_table(start: int, steps: tuple[int, ...], bias: tuple[int, int] | None) -> np.ndarray:
    """Give the places of a weight (flat, from `start` on, with `steps` of its axes) and of a bias (start, step)."""
    first, second, *taps = steps
    bias_start, bias_step = bias or (0, 0)
    numbers = (start, first, second, *((0, *taps)[-2:]), bias_start, bias_step, bias is not None)
    return np.array(numbers, np.int32)


def copy_table(
    shape: tuple[int, ...], start: int, steps: tuple[int, ...], to: int, to_steps: tuple[int, ...]
) -> np.ndarray:
    """Give the places of two arrays of one shape, of at most four axes."""
    more = (0,) * (4 - len(shape))
    return np.array((*(1 for _ in more), *shape, start, *more, *steps, to, *more, *to_steps), np.int32)


@kernel()
def pack_operands(weight, bias, packed, numbers, table, places, parameter):
    """Lay weights out as `table` says, and the bias in the compute type, followed by the activation's parameter.

    Shapes   weight, bias flat, as `places` says . packed, numbers (c_out + 1) flat
    Threads  one for `COLUMN_BLOCK` numbers; grid z over phases, one more for the bias
    """
    item = int32(int32(T.COLUMN_BLOCK) * int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x)))
    end = int32(item + int32(T.COLUMN_BLOCK))
    part = int32(cuda.blockIdx.z)
    while part < table[T.PHASES]:
        _pack_run(weight, packed, table, places, int32(int32(T.HEADER) + int32(part * int32(T.PHASE_FIELDS))), item)
        part = int32(part + int32(cuda.gridDim.z))
    if part == table[T.PHASES]:
        c_out = table[T.C_OUT]
        while item < min(end, c_out):
            value = numbers.dtype.type(0)
            if places[HAS_BIAS]:
                value = widen(bias[int32(places[BIAS_START] + int32(item * places[BIAS_STEP]))])
            numbers[item] = value
            item = int32(item + int32(1))
        if item == c_out and item < end:
            numbers[item] = parameter


@inlined
def _pack_run(weight, packed, table, places, fields, item):
    """Pack the `COLUMN_BLOCK` numbers of a phase from `item` on: they belong to one tap and one channel."""
    taps_w, c_group, o_group = table[fields + T.TAPS_W], table[T.C_IN_GROUP], table[T.C_OUT_GROUP]
    rows = int32(int32(table[fields + T.TAPS_H] * taps_w) * c_group)
    row_step = table[T.WEIGHT_ROW_STEP]
    channelwise = table[fields + T.WEIGHT_GROUP_STEP] == int32(1)
    groups = int32(1) if channelwise else table[T.GROUPS]
    if item >= int32(int32(groups * rows) * row_step):
        return
    line, column = split(item, row_step)
    group, row = split(line, rows)
    tap, channel = split(row, c_group)
    tap_h, tap_w = split(tap, taps_w)
    tap_h = int32(table[fields + T.TAP_START_H] + int32(tap_h * table[fields + T.TAP_STEP_H]))
    tap_w = int32(table[fields + T.TAP_START_W] + int32(tap_w * table[fields + T.TAP_STEP_W]))
    # Of depthwise weights, neighbouring columns are groups.
    columns = table[T.GROUPS] if channelwise else o_group
    first, second = int32(int32(group * o_group) + column), channel
    first_step, second_step = places[FIRST], places[SECOND]
    step = first_step
    if table[T.TRANSPOSED] and not channelwise:
        first, second, step = int32(int32(group * c_group) + channel), column, second_step
    at = int32(int32(places[START] + int32(first * first_step)) + int32(second * second_step))
    at = int32(int32(at + int32(tap_h * places[TAP_H])) + int32(tap_w * places[TAP_W]))
    to = int32(table[fields + T.WEIGHT_START] + item)
    for i in range(T.COLUMN_BLOCK):
        value = packed.dtype.type(0)
        if int32(column + int32(i)) < columns:
            value = weight[int32(at + int32(int32(i) * step))]
        packed[int32(to + int32(i))] = value


@kernel()
def copy_strided(source, target, places):
    """Copy an array of at most four axes to one of other strides, both of one type.

    Shapes   source, target flat, as `places` says
    Threads  one a number, in the order of the axes
    """
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    start, to = places[FROM], places[TO]
    left = item
    for axis in range(3, 0, -1):
        left, index = split(left, places[SHAPE + axis])
        start = int32(start + int32(index * places[FROM_STEPS + axis]))
        to = int32(to + int32(index * places[TO_STEPS + axis]))
    if left < places[SHAPE]:
        start = int32(start + int32(left * places[FROM_STEPS]))
        to = int32(to + int32(left * places[TO_STEPS]))
        target[to] = source[start]


@kernel()
def widen_numbers(source, target):
    """Copy flat numbers to the compute type, one a thread; the target may be longer."""
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    if item < source.size:
        target[item] = widen(source[item])
