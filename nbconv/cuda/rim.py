"""What surrounds x, laid down around a copy of it: the tiled kernels then read it as any other data.

Padding that repeats data. Their copies fill with zeros what lies outside for nothing; finding out what else is shown
there would be much of the code of every tile. To lay x down is to read and write it once; a tile reads it for each tap.

Zeros, where few channels make runs. The taps of a line of x lie side by side in memory where their dilation is 1 and
there is one group: they are one tap of so many times the channels, if no tap lies outside. Number by number, as such x
is read, tiles otherwise look for the rows of another tap every few numbers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy import int32

from ..geometry import Axis, Geometry
from . import table as T
from .driver import cuda, kernel
from .integers import source_position, split

__all__ = ["THREADS", "lay_rim", "makes_runs", "padded", "size_of_x", "sizes_of_x"]

THREADS = 256
LITTLE = 4  # times fewer numbers than the result: the copy of x
SIZE_H, SIZE_W = range(2)  # the places of `sizes_of_x`


@lru_cache(maxsize=1024)
def padded(geometry: Geometry, zeros: bool = False) -> Geometry:
    """Give the same convolution on x with its padding, if that repeats data, or its `zeros` are to be laid down too."""
    spec = geometry.spec
    if spec.padding_mode == "zeros" and not zeros:
        return geometry
    axes = tuple(
        Axis(axis.lo + axis.size + axis.hi, axis.taps, axis.stride, axis.dilation, 0, 0, axis.out)
        for axis in geometry.axes
    )
    spec = replace(spec, padding=((0, 0),) * spec.ndim, padding_mode="zeros")
    return replace(geometry, spec=spec, axes=axes)


def makes_runs(geometry: Geometry) -> bool:
    """Say whether taps side by side should become one, with all padding laid down: where that copy costs little."""
    axis, channels = geometry.axes[-1], geometry.c_in
    one_line = not geometry.spec.transposed and geometry.groups == 1 and axis.dilation == 1 and axis.taps > 1
    free = all(axis.lo == axis.hi == 0 for axis in geometry.axes) or geometry.spec.padding_mode != "zeros"
    return one_line and (free or LITTLE * channels <= geometry.c_out)


def size_of_x(geometry: Geometry) -> int:
    """Count the numbers of x."""
    return geometry.n * math.prod(axis.size for axis in geometry.axes) * geometry.c_in


def sizes_of_x(geometry: Geometry) -> np.ndarray:
    """Give the sizes of x, (H, W), int32."""
    return np.array([1, *(axis.size for axis in geometry.axes)][-2:], np.int32)


@kernel()
def lay_rim(x, target, table, sizes):
    """Copy x and what padding shows around it.

    Math     target[n, h, w, c] = x[n, shown(h - lo_h), shown(w - lo_w), c], or 0 where nothing is shown
    Shapes   x, target flat, channels last; x as `table` says, target with the sizes of `sizes`
    Threads  one for each number of a line, going down the lines of all samples in steps of grid y
    """
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    fields, mode, channels = int32(T.HEADER), table[T.PADDING_MODE], table[T.C_IN]
    length = int32(sizes[SIZE_W] * channels)
    if item >= length:
        return
    w, channel = split(item, channels)
    w = source_position(int32(w - table[fields + T.LO_W]), table[T.SIZE_W], mode)
    place = int32(int32(w * channels) + channel)
    line = int32(cuda.blockIdx.y)
    while line < int32(table[T.SAMPLES] * sizes[SIZE_H]):
        sample, h = split(line, sizes[SIZE_H])
        h = source_position(int32(h - table[fields + T.LO_H]), table[T.SIZE_H], mode)
        value = target.dtype.type(0)
        if h >= int32(0) and w >= int32(0):
            start = int32(int32(int32(int32(sample * table[T.SIZE_H]) + h) * table[T.SIZE_W]) * channels)
            value = x[int32(start + place)]
        target[int32(int32(line * length) + item)] = value
        line = int32(line + int32(cuda.gridDim.y))
