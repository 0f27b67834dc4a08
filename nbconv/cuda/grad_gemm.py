"""The weight's gradient in float32 on the FFMA units.

What the backend calls: `choose` names a tile and the number of slices; `KERNELS[tile, masked]` is its kernel, with the
arguments of `grad_general.weight_slices_wide`; `launch` gives its grid and block.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from numpy import float32, int32, int64, uint32

from ..geometry import Geometry
from .driver import cuda, inlined, kernel
from .gemm_core import WORDS
from .gemm_tiles import MOST_GRID, MULTIPROCESSORS, TILES
from .grad_core import WALK, result_place, slice_product
from .intrinsics import ALIGNMENT, fresh, load4, store4

__all__ = ["KERNELS", "choose", "covers", "launch", "needs_mask"]

DEPTH = 32  # positions that the deepest part of a slice holds
STAGES = 2
CHUNK = 4  # numbers of 16 bytes
FROM_LEFT, FROM_RIGHT = 0, 1


@inlined
def multiply1(shared, left, right, k, m_tile, n_tile, sums):
    """Add position `k` of a slice to a thread's sums: four rows and columns, and four more further on."""
    a = cuda.local.array(8, float32)
    for part in range(2):
        offset = int32(k * m_tile + 16 * part)
        a[4 * part], a[4 * part + 1], a[4 * part + 2], a[4 * part + 3] = load4(shared, left, offset)
    for part in range(2):
        b = load4(shared, right, int32(k * n_tile + 32 * part))
        for i in range(8):
            for j in range(4):
                sums[i, 4 * part + j] += a[i] * b[j]


@inlined
def multiply4(shared, left, right, k, m_tile, n_tile, sums):
    """Add positions `k` to `k + 3` of a slice."""
    multiply1(shared, left, right, k, m_tile, n_tile, sums)
    multiply1(shared, left, right, k + 1, m_tile, n_tile, sums)
    multiply1(shared, left, right, k + 2, m_tile, n_tile, sums)
    multiply1(shared, left, right, k + 3, m_tile, n_tile, sums)


@inlined
def multiply(shared, read, reading, m_tile, n_tile, sums):
    """Add the share of the part that stands at `read` to a thread's sums."""
    left, right = int32(read + reading[FROM_LEFT]), int32(read + reading[FROM_RIGHT])
    multiply4(shared, left, right, 0, m_tile, n_tile, sums)
    multiply4(shared, left, right, 4, m_tile, n_tile, sums)
    multiply4(shared, left, right, 8, m_tile, n_tile, sums)
    multiply4(shared, left, right, 12, m_tile, n_tile, sums)


@inlined
def own_place(thread, n_tile):
    """Give the first row and column of a thread in the tile; rows beyond it stand for its second share.

    A warp's lanes go two rows, eight columns, two rows. The thread has four rows, and four more 16 further on, and four
    columns, and four more 32 further on.
    """
    warp, lane = int32(thread >> 5), int32(thread & 31)
    warp_columns = int32(n_tile // 64)
    warp_row = int32(warp // warp_columns)
    warp_column = int32(warp - int32(warp_row * warp_columns))
    own_row = int32(32 * warp_row + 4 * int32(2 * int32(lane >> 4) + int32(lane & 1)))
    return own_row, int32(64 * warp_column + 4 * (int32(lane >> 1) & 7))


@inlined
def read_share(thread, m_tile, n_tile, left_size, reading, sums):
    """Find where a thread reads in a stage: its rows and columns of its share."""
    own_row, own_column = own_place(thread, n_tile)
    share = int32(uint32(own_row) // uint32(m_tile))
    row = int32(own_row - int32(share * m_tile))
    reading[FROM_LEFT] = fresh(int32(row + int32(share * (WORDS * m_tile))))
    reading[FROM_RIGHT] = fresh(int32(int32(left_size + own_column) + int32(share * (WORDS * n_tile))))


@inlined
def store_sums(partial, table, sums, m_tile, n_tile):
    """Write this thread's part of the tile where it lies inside of the result."""
    zero = fresh(int32(0))
    first_row, first_column, rows, columns, start = result_place(table, zero, m_tile, n_tile)
    own_row, own_column = own_place(int32(int32(cuda.threadIdx.x) + zero), n_tile)
    if own_row >= m_tile:
        return
    for i in range(8):
        row = int32(int32(first_row + own_row) + (i & 3) + 16 * (i >> 2))
        line = int32(start + int32(row * columns))
        for part in range(2):
            at = int32(int32(first_column + own_column) + 32 * part)
            if row < rows:
                if int32(columns & 3) == int32(0):
                    if at < columns:
                        four = (sums[i, 4 * part], sums[i, 4 * part + 1], sums[i, 4 * part + 2], sums[i, 4 * part + 3])
                        store4(partial, int32(line + at), four)
                else:
                    for j in range(4):
                        if int32(at + j) < columns:
                            partial[int32(line + at) + j] = sums[i, 4 * part + j]


@inlined
def tile(windows, points, partial, table, rows_of_slice, shared, sums, m_tile, n_tile, threads, masked):
    """Make a tile on the FFMA units, 8 x 8 numbers a thread; the second half of so many take the second share."""
    walk = cuda.local.array(WALK, int32)
    slice_product(
        windows, points, partial, table, rows_of_slice, shared, walk, 0, 1, sums, int64(m_tile), int64(n_tile),
        int64(threads), int64(64 * threads // (m_tile * n_tile)), STAGES, CHUNK, 0, 0, masked, read_share, multiply,
        store_sums,
    )  # fmt: skip


@kernel(launch_bounds=(256, 2))
def grad_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 8), float32)
    tile(windows, points, partial, table, rows_of_slice, shared, sums, 128, 128, 256, False)


@kernel(launch_bounds=(256, 2))
def grad_128x128_masked(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns; numbers read one by one."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 8), float32)
    tile(windows, points, partial, table, rows_of_slice, shared, sums, 128, 128, 256, True)


@kernel(launch_bounds=(128, 4))
def grad_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 32 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 8), float32)
    tile(windows, points, partial, table, rows_of_slice, shared, sums, 64, 64, 128, False)


@kernel(launch_bounds=(128, 4))
def grad_64x64_masked(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns; numbers read one by one."""
    shared = cuda.shared.array(2 * 32 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 8), float32)
    tile(windows, points, partial, table, rows_of_slice, shared, sums, 64, 64, 128, True)


KERNELS: dict[tuple[str, bool], Any] = {
    ("128x128", False): grad_128x128,
    ("128x128", True): grad_128x128_masked,
    ("64x64", False): grad_64x64,
    ("64x64", True): grad_64x64_masked,
}
"""The kernel of (tile, masked)."""

MOST_PARTIAL = 2**25  # numbers of all slices
LEAST_ROWS = 256  # positions of a slice: fewer would cost more to add than to sum


def _product_shape(pairs: Geometry) -> tuple[int, int, int]:
    """Give (rows, columns, positions) of the product of one group."""
    taps = math.prod(axis.taps for axis in pairs.axes)
    positions = pairs.n * math.prod(axis.out for axis in pairs.axes)
    return taps * (pairs.c_in // pairs.groups), pairs.c_out // pairs.groups, positions


def covers(pairs: Geometry) -> bool:
    """Say whether these kernels make the gradient well; they need every array at a multiple of 16 bytes.

    `pairs` is the convolution from windows to points, as everywhere here. Padding that repeats data must have become
    part of the windows, see `rim.padded`.
    """
    rows, columns, positions = _product_shape(pairs)
    zeros = pairs.spec.padding_mode == "zeros"
    return zeros and rows >= 16 and columns >= 8 and positions >= DEPTH and pairs.groups <= MOST_GRID


def needs_mask(pairs: Geometry) -> bool:
    """Say whether windows and points must be read number by number."""
    c_window, c_point = pairs.c_in // pairs.groups, pairs.c_out // pairs.groups
    return c_window % 4 != 0 or c_point % 4 != 0


@lru_cache(maxsize=1024)
def choose(pairs: Geometry, multiprocessors: int = MULTIPROCESSORS) -> tuple[str, int]:
    """Name the tile and give the positions of a slice, which depend on shapes (and the device's size).

    Slices are as many as fill the device twice over, yet long enough that adding them costs little.
    """
    rows, columns, positions = _product_shape(pairs)

    def slices_of(name: str) -> tuple[int, int]:
        tile = TILES[name]
        tiles = -(-rows // tile.rows) * -(-columns // tile.columns) * pairs.groups
        most = min(positions // LEAST_ROWS, MOST_PARTIAL // (rows * columns * pairs.groups), MOST_GRID // pairs.groups)
        return tiles, max(1, min(most, 4 * multiprocessors // tiles))

    def time(name: str) -> float:
        tile = TILES[name]
        tiles, slices = slices_of(name)
        share = -(-tiles * slices // multiprocessors)
        return share * tile.rows * tile.columns / slices / tile.rate

    name = min(("128x128", "64x64"), key=time)
    _, slices = slices_of(name)
    rows_of_slice = -(-positions // slices)
    return name, -(-rows_of_slice // DEPTH) * DEPTH


def launch(pairs: Geometry, name: str, rows_of_slice: int) -> tuple[tuple[int, int, int], int]:
    """Give the grid, (tiles of rows, tiles of columns, slices times groups), and the threads of a block."""
    tile = TILES[name]
    rows, columns, positions = _product_shape(pairs)
    slices = -(-positions // rows_of_slice)
    return (-(-rows // tile.rows), -(-columns // tile.columns), slices * pairs.groups), tile.threads
