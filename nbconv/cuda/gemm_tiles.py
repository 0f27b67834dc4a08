"""Which tile a product takes: sizes, rates and limits as data, and the choice between them, in plain integers."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ..geometry import Geometry
from .table import channelwise, packed_phases

__all__ = ["TILES", "Tile", "choose", "covers", "launch", "needs_mask"]


class Tile(NamedTuple):
    """One block's part of the result: rows are positions, columns output channels of a group."""

    rows: int
    columns: int
    threads: int
    rate: float
    """Numbers a multiprocessor makes in a unit of time, relative to the best tile."""


# Each thread makes 8 x 8 numbers: 16 loads from shared memory feed 256 multiplications. In 64x64 that would leave half
# of a multiprocessor's four schedulers without a warp, so twice as many threads share each slice and add their sums up.
# The rates fall with what a tile reads for each multiplication; yet the smaller ones leave fewer columns of a narrow
# layer, or fewer multiprocessors in a small one, without work.
TILES = {
    "128x128": Tile(128, 128, 256, 1.0),
    "128x64": Tile(128, 64, 128, 0.97),
    "64x64": Tile(64, 64, 128, 0.92),
    "256x32": Tile(256, 32, 128, 0.9),
}
MULTIPROCESSORS = 132  # of an H100 or H200
MOST_GRID = 65535  # blocks along z
LEAST_COLUMNS = 8  # with fewer, three quarters of the narrowest tile make nothing: the general kernel is better


def covers(geometry: Geometry) -> bool:
    """Say whether the tiled kernels make this product well; they need every array at a multiple of 16 bytes.

    Padding that repeats data must have become part of x, see `rim.padded`.
    """
    depth = geometry.groups * len(packed_phases(geometry)[0])
    zeros = geometry.spec.padding_mode == "zeros"
    return (
        zeros
        and not channelwise(geometry)
        and geometry.c_out // geometry.groups >= LEAST_COLUMNS
        and depth <= MOST_GRID
    )


def needs_mask(geometry: Geometry, itemsize: int) -> bool:
    """Say whether x, of numbers of `itemsize` bytes, must be read number by number."""
    return geometry.c_in // geometry.groups % (16 // itemsize) != 0


@lru_cache(maxsize=1024)
def choose(geometry: Geometry, multiprocessors: int = MULTIPROCESSORS, names: tuple[str, ...] = tuple(TILES)) -> str:
    """Name the tile, out of `names`, that should finish first.

    That is when the busiest multiprocessor has made its share of tiles, one after another.
    """

    def time(name: str) -> float:
        tile = TILES[name]
        columns = -(-(geometry.c_out // geometry.groups) // tile.columns)
        rows = sum(-(-geometry.n * phase.rows // tile.rows) for phase in packed_phases(geometry)[0])
        share = -(-rows * columns * geometry.groups // multiprocessors)
        return share * tile.rows * tile.columns / tile.rate

    return min(names, key=time)


def launch(geometry: Geometry, name: str, slices: int = 1) -> tuple[tuple[int, int, int], int]:
    """Give the grid, (tiles of rows, tiles of columns, slices times groups times phases), and a block's threads."""
    tile = TILES[name]
    phases = packed_phases(geometry)[0]
    rows = max((-(-geometry.n * phase.rows // tile.rows) for phase in phases), default=0)
    columns = -(-(geometry.c_out // geometry.groups) // tile.columns)
    return (rows, columns, slices * geometry.groups * len(phases)), tile.threads
