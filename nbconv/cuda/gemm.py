"""Products in float32 on the FFMA units: implicit matrix multiplication, one tile of the result a block.

What the backend calls: `gemm_tiles.choose` names a tile; `KERNELS[tile, masked]` is its kernel, with the product
kernels' arguments; `gemm_tiles.launch` gives its grid and block.
"""

from __future__ import annotations

from typing import Any

from numpy import float32, int32

from .driver import cuda, inlined, kernel
from .gemm_core import WORDS, product
from .intrinsics import ALIGNMENT, fresh, load4, store4

__all__ = ["KERNELS"]

# Two stages are enough: a slice of 16 is 2000 cycles of a multiprocessor's work, more than memory takes to answer.
STAGES = 2
CHUNK = 4  # numbers of 16 bytes
PAD = 16  # words between the ends of the finish's rows: neighbouring rows then lie on different banks
FROM_LEFT, FROM_RIGHT = 0, 1


@inlined
def own_place(thread, n_tile, columns):
    """Give the first row and column of a thread in the tile: a warp's lanes go two rows, eight columns, two rows.

    The thread's eight rows are 4 apart; its columns are four, and four more 32 further on.
    """
    warp, lane = int32(thread >> 5), int32(thread & 31)
    warp_columns = int32(n_tile // (8 * columns))
    warp_row = int32(warp // warp_columns)
    warp_column = int32(warp - int32(warp_row * warp_columns))
    own_row = int32(32 * warp_row + 2 * int32(lane >> 4) + int32(lane & 1))
    return own_row, int32(8 * columns * warp_column + 4 * (int32(lane >> 1) & 7))


@inlined
def multiply4(shared, left, right, step, m_tile, n_tile, sums):
    """Add steps `4 * step` to `4 * step + 3` of a slice to a thread's sums, (8, 4 or 8)."""
    a = cuda.local.array((8, 4), float32)
    for i in range(8):
        offset = (step >> 1) * 8 * m_tile + 32 * i + 4 * ((step ^ i) & 1)
        a[i, 0], a[i, 1], a[i, 2], a[i, 3] = load4(shared, left, int32(offset))
    for k in range(4):
        for part in range(sums.shape[1] // 4):
            b = load4(shared, right, int32((4 * step + k) * n_tile + 32 * part))
            for i in range(8):
                for j in range(4):
                    sums[i, 4 * part + j] += a[i, k] * b[j]


@inlined
def multiply(shared, read, reading, m_tile, n_tile, sums):
    """Add the slice that stands at `read` to a thread's sums."""
    left, right = int32(read + reading[FROM_LEFT]), int32(read + reading[FROM_RIGHT])
    multiply4(shared, left, right, 0, m_tile, n_tile, sums)
    multiply4(shared, left, right, 1, m_tile, n_tile, sums)
    multiply4(shared, left, right, 2, m_tile, n_tile, sums)
    multiply4(shared, left, right, 3, m_tile, n_tile, sums)


@inlined
def read_narrow(thread, m_tile, n_tile, reading):
    """Find where a thread of 8 x 4 numbers reads in a stage."""
    own_row, own_column = own_place(thread, n_tile, 4)
    reading[FROM_LEFT], reading[FROM_RIGHT] = fresh(int32(8 * own_row)), fresh(int32(WORDS * m_tile + own_column))


@inlined
def read_wide(thread, m_tile, n_tile, reading):
    """Find where a thread of 8 x 8 numbers reads in a stage."""
    own_row, own_column = own_place(thread, n_tile, 8)
    reading[FROM_LEFT], reading[FROM_RIGHT] = fresh(int32(8 * own_row)), fresh(int32(WORDS * m_tile + own_column))


@inlined
def lay(shared, sums, base, count, pitch, thread, n_tile):
    """Lay those of a thread's sums into shared memory that belong to rows `base` to `base + count` of the tile."""
    own_row, own_column = own_place(thread, n_tile, sums.shape[1])
    row = int32(own_row - base)
    if row >= 0 and row < count:
        for i in range(8):
            for part in range(sums.shape[1] // 4):
                at = int32(int32(row + 4 * i) * pitch + own_column + 32 * part)
                four = (sums[i, 4 * part], sums[i, 4 * part + 1], sums[i, 4 * part + 2], sums[i, 4 * part + 3])
                store4(shared, at, four)


@inlined
def tile(x, weight, bias, residual, y, table, shared, walk, sums, m_tile, n_tile, threads, masked, start_reading):
    """Make a tile on the FFMA units; the walk's numbers stand in shared memory, one column a thread."""
    product(
        x, weight, bias, residual, y, table, shared, walk, int32(cuda.threadIdx.x), threads, sums, m_tile, n_tile,
        threads, 2 * m_tile // threads, STAGES, CHUNK, 0, 0, PAD, masked, start_reading, multiply, lay,
    )  # fmt: skip


@kernel(launch_bounds=(256, 2))
def ffma_128x128(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 5, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, False, read_wide)


@kernel(launch_bounds=(256, 2))
def ffma_128x128_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 5, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, True, read_wide)


@kernel(launch_bounds=(128, 3))
def ffma_128x64(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 8, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, False, read_wide)


@kernel(launch_bounds=(128, 3))
def ffma_128x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 8, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, True, read_wide)


@kernel(launch_bounds=(128, 4))
def ffma_64x64(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 5, int32)
    sums = cuda.local.array((8, 4), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, False, read_narrow)


@kernel(launch_bounds=(128, 4))
def ffma_64x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 5, int32)
    sums = cuda.local.array((8, 4), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, True, read_narrow)


@kernel(launch_bounds=(256, 2))
def ffma_256x32(x, weight, bias, residual, y, table):
    """Make tiles of 256 rows and 32 columns."""
    shared = cuda.shared.array(2 * 16 * 288, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 8, int32)
    sums = cuda.local.array((8, 4), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 256, 32, 256, False, read_narrow)


@kernel(launch_bounds=(256, 2))
def ffma_256x32_masked(x, weight, bias, residual, y, table):
    """Make tiles of 256 rows and 32 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 288, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 8, int32)
    sums = cuda.local.array((8, 4), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 256, 32, 256, True, read_narrow)


KERNELS: dict[tuple[str, bool], Any] = {
    ("128x128", False): ffma_128x128,
    ("128x128", True): ffma_128x128_masked,
    ("128x64", False): ffma_128x64,
    ("128x64", True): ffma_128x64_masked,
    ("64x64", False): ffma_64x64,
    ("64x64", True): ffma_64x64_masked,
    ("256x32", False): ffma_256x32,
    ("256x32", True): ffma_256x32_masked,
}
"""The kernel of (tile, masked)."""
