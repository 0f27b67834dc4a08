"""Products in float32 on the FFMA units: implicit matrix multiplication, one tile of the result a block.

What the backend calls: `gemm_tiles.choose` names a tile; `KERNELS[tile, masked]` is its kernel, with the product
kernels' arguments; `gemm_tiles.launch` gives its grid and block.
"""

from __future__ import annotations

from typing import Any

from numpy import float32, int32, int64, uint32

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
def own_place(thread, n_tile):
    """Give the first row and column of a thread in the tile; rows beyond it stand for its second share.

    The thread's eight rows are 4 apart; its columns are four, and four more `column_step` further on. A warp's lanes go
    two rows, the columns, two rows and, where there are only 32 columns, on to the next 32 rows.
    """
    warp, lane = int32(thread >> 5), int32(thread & 31)
    if n_tile == 32:
        own_row = int32(64 * warp + 32 * int32(lane >> 4))
        return int32(own_row + int32(2 * (int32(lane >> 3) & 1) + int32(lane & 1))), int32(4 * (int32(lane >> 1) & 3))
    warp_columns = int32(n_tile // 64)
    warp_row = int32(warp // warp_columns)
    warp_column = int32(warp - int32(warp_row * warp_columns))
    own_row = int32(32 * warp_row + 2 * int32(lane >> 4) + int32(lane & 1))
    return own_row, int32(64 * warp_column + 4 * (int32(lane >> 1) & 7))


@inlined
def column_step(n_tile):
    """Give how far a thread's two groups of four columns are apart: as far as the columns of a warp's lanes go."""
    return min(32, n_tile // 2)


@inlined
def multiply4(shared, left, right, step, m_tile, n_tile, sums):
    """Add steps `4 * step` to `4 * step + 3` of a share of a slice to a thread's sums, (8, 8)."""
    a = cuda.local.array((8, 4), float32)
    for i in range(8):
        offset = (step >> 1) * 8 * m_tile + 32 * i + 4 * ((step ^ i) & 1)
        a[i, 0], a[i, 1], a[i, 2], a[i, 3] = load4(shared, left, int32(offset))
    for k in range(4):
        for part in range(2):
            b = load4(shared, right, int32((4 * step + k) * n_tile + column_step(n_tile) * part))
            for i in range(8):
                for j in range(4):
                    sums[i, 4 * part + j] += a[i, k] * b[j]


@inlined
def multiply(shared, read, reading, m_tile, n_tile, sums):
    """Add the share of the slice that stands at `read` to a thread's sums."""
    left, right = int32(read + reading[FROM_LEFT]), int32(read + reading[FROM_RIGHT])
    multiply4(shared, left, right, 0, m_tile, n_tile, sums)
    multiply4(shared, left, right, 1, m_tile, n_tile, sums)
    multiply4(shared, left, right, 2, m_tile, n_tile, sums)
    multiply4(shared, left, right, 3, m_tile, n_tile, sums)


@inlined
def read_share(thread, m_tile, n_tile, left_size, reading, sums):
    """Find where a thread reads in a stage: its rows and columns of its share."""
    own_row, own_column = own_place(thread, n_tile)
    share = int32(uint32(own_row) // uint32(m_tile))
    row = int32(own_row - int32(share * m_tile))
    reading[FROM_LEFT] = fresh(int32(8 * row + int32(share * (WORDS * m_tile))))
    reading[FROM_RIGHT] = fresh(int32(int32(left_size + own_column) + int32(share * (WORDS * n_tile))))


@inlined
def lay(shared, sums, base, count, pitch, thread, n_tile):
    """Lay those of a thread's sums into shared memory that belong to rows `base` to `base + count` of the tile."""
    own_row, own_column = own_place(thread, n_tile)
    row = int32(own_row - base)
    if row >= 0 and row < count:
        for i in range(8):
            for part in range(2):
                at = int32(int32(row + 4 * i) * pitch + own_column + column_step(n_tile) * part)
                four = (sums[i, 4 * part], sums[i, 4 * part + 1], sums[i, 4 * part + 2], sums[i, 4 * part + 3])
                store4(shared, at, four)


@inlined
def tile(x, weight, bias, residual, y, table, shared, walk, sums, m_tile, n_tile, threads, masked):
    """Make a tile on the FFMA units; the walk's numbers stand in shared memory, one column a thread.

    Every thread has 8 x 8 numbers, the second half of the threads, where there are so many, for the second share.
    """
    own = fresh(int32(cuda.threadIdx.x))  # or else it is read anew wherever the walk is, which takes long
    product(
        x, weight, bias, residual, y, table, shared, walk, own, int64(threads), sums, int64(m_tile), int64(n_tile),
        int64(threads), int64(2 * m_tile // threads), int64(64 * threads // (m_tile * n_tile)), STAGES, CHUNK, 0, 0,
        PAD, masked, read_share, multiply, lay,
    )  # fmt: skip


@kernel(launch_bounds=(256, 2))
def ffma_128x128(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 6, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, False)


@kernel(launch_bounds=(256, 2))
def ffma_128x128_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 6, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, True)


@kernel(launch_bounds=(128, 3))
def ffma_128x64(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 10, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, False)


@kernel(launch_bounds=(128, 3))
def ffma_128x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 10, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, True)


@kernel(launch_bounds=(128, 4))
def ffma_64x64(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 32 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 6, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, False)


@kernel(launch_bounds=(128, 4))
def ffma_64x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 32 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 6, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, True)


@kernel(launch_bounds=(128, 3))
def ffma_256x32(x, weight, bias, residual, y, table):
    """Make tiles of 256 rows and 32 columns."""
    shared = cuda.shared.array(2 * 16 * 288, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 18, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 256, 32, 128, False)


@kernel(launch_bounds=(128, 3))
def ffma_256x32_masked(x, weight, bias, residual, y, table):
    """Make tiles of 256 rows and 32 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 288, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 18, int32)
    sums = cuda.local.array((8, 8), float32)
    tile(x, weight, bias, residual, y, table, shared, walk, sums, 256, 32, 128, True)


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
