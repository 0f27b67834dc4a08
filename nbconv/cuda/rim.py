"""Padding that repeats data, laid down around a copy of x: the tiled kernels then read it as any other data.

Their copies fill with zeros what lies outside for nothing; finding out what else is shown there would be much of the
code of every tile. The copy reads and writes x once, where a tile reads it once for each tap.
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

__all__ = ["THREADS", "lay_rim", "padded", "padded_size", "rim_sizes"]

THREADS = 256
SIZE_H, SIZE_W = range(2)  # the places of `rim_sizes`


@lru_cache(maxsize=1024)
def padded(geometry: Geometry) -> Geometry:
    """Give the same operation on the padded x: the geometry itself where padding is zeros."""
    spec = geometry.spec
    if spec.padding_mode == "zeros":
        return geometry
    axes = tuple(
        Axis(axis.lo + axis.size + axis.hi, axis.taps, axis.stride, axis.dilation, 0, 0, axis.out)
        for axis in geometry.axes
    )
    spec = replace(spec, padding=((0, 0),) * spec.ndim, padding_mode="zeros")
    return replace(geometry, spec=spec, axes=axes)


def padded_size(geometry: Geometry) -> int:
    """Count the numbers of the padded x."""
    return geometry.n * math.prod(axis.size for axis in padded(geometry).axes) * geometry.c_in


def rim_sizes(geometry: Geometry) -> np.ndarray:
    """Give the sizes of the padded x, (H, W), int32."""
    return np.array([1, *(axis.size for axis in padded(geometry).axes)][-2:], np.int32)


@kernel()
def lay_rim(x, target, table, sizes):
    """Copy x and what padding shows around it.

    Math     target[n, h, w, c] = x[n, shown(h - lo_h), shown(w - lo_w), c]
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
        start = int32(int32(int32(int32(sample * table[T.SIZE_H]) + h) * table[T.SIZE_W]) * channels)
        target[int32(int32(line * length) + item)] = x[int32(start + place)]
        line = int32(line + int32(cuda.gridDim.y))
