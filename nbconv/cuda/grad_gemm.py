"""The weight's gradient in float32 on the FFMA units: a product whose reduction runs over positions.

Rows are (tap, channel of the windows' group), columns are channels of the points' group (see `grad_general` for the
names). Positions are cut into slices, each block sums one tile over one of them, and `grad_general.sum_weight_slices`
adds the slices in order: the bits depend on shapes only.

What the backend calls: `choose` names a tile and the number of slices; `KERNELS[tile, masked]` is its kernel, with the
arguments of `grad_general.weight_slices_wide`; `launch` gives its grid and block.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from numpy import float32, int32, uint32

from ..geometry import Geometry
from . import table as T
from .driver import cuda, inlined, kernel
from .gemm_loads import inside, split_row, tile_of_block
from .gemm_tiles import MOST_GRID, MULTIPROCESSORS, TILES
from .intrinsics import ALIGNMENT, copy4, copy16, copy_commit, copy_wait0, fresh, load4, load_int, store4

__all__ = ["KERNELS", "choose", "covers", "launch", "needs_mask"]

DEPTH = 16  # positions of a slice in shared memory
OUTSIDE = -(2**30)


@inlined
def multiply1(shared, left, right, k, m_tile, n_tile, sums):
    """Add position `k` of a slice to a thread's sums: four rows and columns, and four more further on."""
    a = cuda.local.array(8, float32)
    for part in range(2):
        offset = int32(k * m_tile + 16 * part)
        a[4 * part], a[4 * part + 1], a[4 * part + 2], a[4 * part + 3] = load4(shared, left, offset)
    for part in range(sums.shape[1] // 4):
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
def find_line(table, fields, sample, h, down, masked):
    """Give the address of the line of windows that position `h` reads at a tap; OUTSIDE where there is none."""
    height = table[T.SIZE_H]
    at = int32(int32(h * load_int(table, fields, T.STRIDE_H)) + down)
    if masked:
        at = inside(at, height, table[T.PADDING_MODE])
    line = int32(int32(int32(int32(sample * height) + at) * table[T.SIZE_W]) * table[T.C_IN])
    return line if uint32(at) < uint32(height) else int32(OUTSIDE)


@inlined
def copy_windows(shared, to, to_step, windows, table, fields, step, copies, position, down, along, offset, masked):
    """Copy this thread's numbers of a left slice, `step` positions apart, and walk on.

    `position` holds what changes: sample, position on H and W, address of the line, positions left.
    """
    width = table[T.SIZE_W]
    mode, stride_w = table[T.PADDING_MODE], load_int(table, fields, T.STRIDE_W)
    rows_w = load_int(table, fields, T.ROWS_W)
    last = fresh(int32(to + (copies - 1) * to_step))  # a loop that the compiler does not unroll
    more = True
    while more:
        at = int32(int32(position[2] * stride_w) + along)
        if masked:
            at = inside(at, width, mode)
        start = int32(int32(position[3] + int32(at * table[T.C_IN])) + offset)
        valid = (position[3] != OUTSIDE) & (uint32(at) < uint32(width)) & (position[4] > 0)
        if masked:
            copy4(shared, to, windows, start, valid)
        else:
            copy16(shared, to, windows, start, valid)
        more = to != last
        to = int32(to + to_step)
        position[4] = int32(position[4] - step)
        position[2] = int32(position[2] + step)
        if position[2] >= rows_w:
            rows_h = load_int(table, fields, T.ROWS_H)
            while position[2] >= rows_w:
                position[2] = int32(position[2] - rows_w)
                position[1] = int32(position[1] + 1)
                if position[1] == rows_h:
                    position[1] = int32(0)
                    position[0] = int32(position[0] + 1)
            position[3] = find_line(table, fields, position[0], position[1], down, masked)


@inlined
def copy_points(shared, to, to_step, points, table, place, end, step, copies, masked):
    """Copy this thread's numbers of a right slice, `step` positions apart; gives where the next slice starts."""
    stride = int32(step * table[T.C_OUT])
    last = fresh(int32(to + (copies - 1) * to_step))  # a loop that the compiler does not unroll
    more = True
    while more:
        if masked:
            copy4(shared, to, points, place, place < end)
        else:
            copy16(shared, to, points, place, place < end)
        more = to != last
        to = int32(to + to_step)
        place = uint32(place + uint32(stride))
    return place


@inlined
def slice_product(windows, points, partial, table, rows_of_slice, shared, sums, m_tile, n_tile, threads, masked):
    """Make this block's tile of one slice.

    Math     partial[s, g, (t, c), o] = sum over positions p of slice s: windows[p * stride + t * dilation - lo, c] *
             points[p, o], channels of group g
    Shapes   flat, channels last . shared: two slices of both operands, (16, m_tile) and (16, n_tile)
    Threads  a warp makes 32 rows and 32 or 64 columns; grid z over (slice, group)
    """
    fields = int32(T.HEADER)
    slice_ = int32(int32(cuda.blockIdx.z) // table[T.GROUPS])
    group = int32(int32(cuda.blockIdx.z) - int32(slice_ * table[T.GROUPS]))
    row_tile, column_tile = tile_of_block(int32(0))
    first_row, first_column = int32(row_tile * m_tile), int32(column_tile * n_tile)
    thread = int32(cuda.threadIdx.x)
    width = 1 if masked else 4  # numbers of a copy
    left_size, right_size = int32(DEPTH * m_tile), int32(DEPTH * n_tile)
    stage_size = int32(left_size + right_size)
    first = int32(slice_ * rows_of_slice)
    limit = int32(table[T.SAMPLES] * int32(table[fields + T.ROWS_H] * table[fields + T.ROWS_W]))
    limit = min(limit, int32(first + rows_of_slice))

    # Left: this thread's tap and channel, and its first position.
    chunks = m_tile // width
    left_row = int32(thread // chunks)
    row = int32(width * int32(thread - int32(left_row * chunks)))
    channels = table[T.C_IN_GROUP]
    taps_w = table[fields + T.TAPS_W]
    tap = int32(int32(first_row + row) // channels)
    offset = int32(int32(int32(first_row + row) - int32(tap * channels)) + int32(group * channels))
    tap_h = int32(tap // taps_w)
    tap_w = int32(tap - int32(tap_h * taps_w))
    down = int32(int32(tap_h * table[fields + T.DILATION_H]) - table[fields + T.LO_H])
    along = int32(int32(tap_w * table[fields + T.DILATION_W]) - table[fields + T.LO_W])
    position = cuda.local.array(5, int32)
    position[0], position[1], position[2] = split_row(table, fields, int32(first + left_row))
    position[3] = find_line(table, fields, position[0], position[1], down, masked)
    position[4] = int32(limit - int32(first + left_row))
    if tap_h >= table[fields + T.TAPS_H]:
        position[4] = int32(0)
    left_step = threads // chunks
    left_copies = DEPTH // left_step
    to_left = int32(width * thread)

    # Right: this thread's channels of the points.
    right_chunks = n_tile // width
    right_row = int32(thread // right_chunks)
    column = int32(first_column + int32(width * int32(thread - int32(right_row * right_chunks))))
    end = uint32(int32(limit * table[T.C_OUT]))
    start = int32(int32(first + right_row) * table[T.C_OUT])
    start = int32(int32(start + int32(group * table[T.C_OUT_GROUP])) + column)
    place = uint32(start) if column < table[T.C_OUT_GROUP] else uint32(2**31)
    right_step = threads // right_chunks
    right_copies = DEPTH // right_step
    to_right = int32(left_size + width * thread)

    for i in range(8):
        for j in range(sums.shape[1]):
            sums[i, j] = float32(0)
    own_row, own_column = own_place(thread, n_tile, sums.shape[1])
    from_left, from_right = fresh(own_row), fresh(int32(left_size + own_column))

    remaining = int32(int32(int32(limit - first) + (DEPTH - 1)) // DEPTH)
    read, write = int32(0), int32(0)
    ahead = remaining
    while remaining > 0:
        if ahead < remaining:
            copy_wait0()
            cuda.syncthreads()
            write = int32(stage_size - read)
        if ahead > 0:
            copy_windows(
                shared, int32(write + to_left), int32(left_step * m_tile), windows, table, fields, left_step,
                left_copies, position, down, along, offset, masked,
            )  # fmt: skip
            place = copy_points(
                shared, int32(write + to_right), int32(right_step * n_tile), points, table, place, end, right_step,
                right_copies, masked,
            )  # fmt: skip
        copy_commit()
        if ahead < remaining:
            a, b = int32(read + from_left), int32(read + from_right)
            multiply4(shared, a, b, 0, m_tile, n_tile, sums)
            multiply4(shared, a, b, 4, m_tile, n_tile, sums)
            multiply4(shared, a, b, 8, m_tile, n_tile, sums)
            multiply4(shared, a, b, 12, m_tile, n_tile, sums)
            read = write
            remaining = int32(remaining - 1)
        ahead = int32(ahead - 1)
    store_sums(partial, table, sums, m_tile, n_tile)


@inlined
def own_place(thread, n_tile, columns):
    """Give the first row and column of a thread in the tile: a warp's lanes go two rows, eight columns, two rows."""
    warp, lane = int32(thread >> 5), int32(thread & 31)
    warp_columns = int32(n_tile // (8 * columns))
    warp_row = int32(warp // warp_columns)
    warp_column = int32(warp - int32(warp_row * warp_columns))
    own_row = int32(32 * warp_row + 4 * int32(2 * int32(lane >> 4) + int32(lane & 1)))
    return own_row, int32(8 * columns * warp_column + 4 * (int32(lane >> 1) & 7))


@inlined
def store_sums(partial, table, sums, m_tile, n_tile):
    """Write this thread's part of the tile where it lies inside of the result."""
    zero = fresh(int32(0))
    block = int32(int32(cuda.blockIdx.z) + zero)
    row_tile, column_tile = tile_of_block(zero)
    own_row, own_column = own_place(int32(int32(cuda.threadIdx.x) + zero), n_tile, sums.shape[1])
    columns = table[T.C_OUT_GROUP]
    rows = int32(int32(table[T.HEADER + T.TAPS_H] * table[T.HEADER + T.TAPS_W]) * table[T.C_IN_GROUP])
    column = int32(int32(column_tile * n_tile) + own_column)
    for i in range(8):
        row = int32(int32(row_tile * m_tile) + own_row + (i & 3) + 16 * (i >> 2))
        line = int32(int32(int32(block * rows) + row) * columns)
        for part in range(sums.shape[1] // 4):
            at = int32(column + 32 * part)
            if row < rows:
                if int32(columns & 3) == int32(0):
                    if at < columns:
                        four = (sums[i, 4 * part], sums[i, 4 * part + 1], sums[i, 4 * part + 2], sums[i, 4 * part + 3])
                        store4(partial, int32(line + at), four)
                else:
                    for j in range(4):
                        if int32(at + j) < columns:
                            partial[int32(line + at) + j] = sums[i, 4 * part + j]


@kernel(launch_bounds=(256, 2))
def grad_128x128(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 8), float32)
    slice_product(windows, points, partial, table, rows_of_slice, shared, sums, 128, 128, 256, False)


@kernel(launch_bounds=(256, 2))
def grad_128x128_masked(windows, points, partial, table, rows_of_slice):
    """Make tiles of 128 rows and 128 columns; numbers read one by one."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 8), float32)
    slice_product(windows, points, partial, table, rows_of_slice, shared, sums, 128, 128, 256, True)


@kernel(launch_bounds=(128, 4))
def grad_64x64(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 4), float32)
    slice_product(windows, points, partial, table, rows_of_slice, shared, sums, 64, 64, 128, False)


@kernel(launch_bounds=(128, 4))
def grad_64x64_masked(windows, points, partial, table, rows_of_slice):
    """Make tiles of 64 rows and 64 columns; numbers read one by one."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((8, 4), float32)
    slice_product(windows, points, partial, table, rows_of_slice, shared, sums, 64, 64, 128, True)


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

    `pairs` is the convolution from windows to points, as everywhere here.
    """
    rows, columns, positions = _product_shape(pairs)
    return rows >= 16 and columns >= 8 and positions >= DEPTH and pairs.groups <= MOST_GRID


def needs_mask(pairs: Geometry) -> bool:
    """Say whether windows and points must be read number by number."""
    c_window, c_point = pairs.c_in // pairs.groups, pairs.c_out // pairs.groups
    return pairs.spec.padding_mode != "zeros" or c_window % 4 != 0 or c_point % 4 != 0


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
