"""Products on the tensor cores, by `mma.sync`: tf32, 3xTF32, bfloat16 and float16, all with sums in float32.

tf32 rounds float32 operands to 10 bits of fraction. 3xTF32 splits each operand into a large and a small tf32 number and
adds three products, the small ones first: the error is that of float32 sums, but infinite numbers give NaN.

What the backend calls: `gemm_tiles.choose(geometry, names=TILE_NAMES)` names a tile; `KERNELS[kind, tile, masked]` is
its kernel, with the product kernels' arguments; `gemm_tiles.launch` gives its grid and block. Arrays of bfloat16 come
as uint16 words, those of float16 as float16.
"""

from __future__ import annotations

from typing import Any

from numpy import float32, int32

from .driver import cuda, kernel
from .intrinsics import ALIGNMENT
from .tensor_fragments import (
    multiply_bf16,
    multiply_f16,
    multiply_tf32,
    tile_of_floats,
    tile_of_halves,
    tile_of_split_floats,
)

__all__ = ["KERNELS", "KINDS", "TILE_NAMES"]

KINDS = ("tf32", "tf32x3", "bf16", "f16")
TILE_NAMES = ("128x128", "128x64", "64x64")


@kernel(launch_bounds=(256, 2))
def tf32_128x128(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_floats(x, weight, bias, residual, y, table, shared, sums, 128, 128, 256, False, multiply_tf32)


@kernel(launch_bounds=(256, 2))
def tf32_128x128_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_floats(x, weight, bias, residual, y, table, shared, sums, 128, 128, 256, True, multiply_tf32)


@kernel(launch_bounds=(128, 3))
def tf32_128x64(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 192, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_floats(x, weight, bias, residual, y, table, shared, sums, 128, 64, 128, False, multiply_tf32)


@kernel(launch_bounds=(128, 3))
def tf32_128x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 192, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_floats(x, weight, bias, residual, y, table, shared, sums, 128, 64, 128, True, multiply_tf32)


@kernel(launch_bounds=(128, 4))
def tf32_64x64(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_floats(x, weight, bias, residual, y, table, shared, sums, 64, 64, 128, False, multiply_tf32)


@kernel(launch_bounds=(128, 4))
def tf32_64x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_floats(x, weight, bias, residual, y, table, shared, sums, 64, 64, 128, True, multiply_tf32)


@kernel(launch_bounds=(256, 2))
def tf32x3_128x128(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 6, int32)
    sums = cuda.local.array((4, 16), float32)
    tile_of_split_floats(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, False)


@kernel(launch_bounds=(256, 2))
def tf32x3_128x128_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 256, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(256 * 6, int32)
    sums = cuda.local.array((4, 16), float32)
    tile_of_split_floats(x, weight, bias, residual, y, table, shared, walk, sums, 128, 128, 256, True)


@kernel(launch_bounds=(128, 3))
def tf32x3_128x64(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 10, int32)
    sums = cuda.local.array((4, 16), float32)
    tile_of_split_floats(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, False)


@kernel(launch_bounds=(128, 3))
def tf32x3_128x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 192, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 10, int32)
    sums = cuda.local.array((4, 16), float32)
    tile_of_split_floats(x, weight, bias, residual, y, table, shared, walk, sums, 128, 64, 128, True)


@kernel(launch_bounds=(128, 4))
def tf32x3_64x64(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 6, int32)
    sums = cuda.local.array((2, 16), float32)
    tile_of_split_floats(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, False)


@kernel(launch_bounds=(128, 4))
def tf32x3_64x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(2 * 16 * 128, float32, alignment=ALIGNMENT)
    walk = cuda.shared.array(128 * 6, int32)
    sums = cuda.local.array((2, 16), float32)
    tile_of_split_floats(x, weight, bias, residual, y, table, shared, walk, sums, 64, 64, 128, True)


@kernel(launch_bounds=(256, 2))
def bf16_128x128(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 128, 256, False, multiply_bf16)


@kernel(launch_bounds=(256, 2))
def bf16_128x128_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 128, 256, True, multiply_bf16)


@kernel(launch_bounds=(128, 3))
def bf16_128x64(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 192, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 64, 128, False, multiply_bf16)


@kernel(launch_bounds=(128, 3))
def bf16_128x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 192, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 64, 128, True, multiply_bf16)


@kernel(launch_bounds=(128, 4))
def bf16_64x64(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 64, 64, 128, False, multiply_bf16)


@kernel(launch_bounds=(128, 4))
def bf16_64x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 64, 64, 128, True, multiply_bf16)


@kernel(launch_bounds=(256, 2))
def f16_128x128(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 128, 256, False, multiply_f16)


@kernel(launch_bounds=(256, 2))
def f16_128x128_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 128 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 256, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 128, 256, True, multiply_f16)


@kernel(launch_bounds=(128, 3))
def f16_128x64(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 192, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 64, 128, False, multiply_f16)


@kernel(launch_bounds=(128, 3))
def f16_128x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 128 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 192, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((4, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 128, 64, 128, True, multiply_f16)


@kernel(launch_bounds=(128, 4))
def f16_64x64(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 64, 64, 128, False, multiply_f16)


@kernel(launch_bounds=(128, 4))
def f16_64x64_masked(x, weight, bias, residual, y, table):
    """Make tiles of 64 rows and 64 columns; x number by number."""
    shared = cuda.shared.array(3 * 16 * 128, float32, alignment=ALIGNMENT)
    sums = cuda.local.array((2, 16), float32)
    tile_of_halves(x, weight, bias, residual, y, table, shared, sums, 64, 64, 128, True, multiply_f16)


KERNELS: dict[tuple[str, str, bool], Any] = {
    ("tf32", "128x128", False): tf32_128x128,
    ("tf32", "128x128", True): tf32_128x128_masked,
    ("tf32", "128x64", False): tf32_128x64,
    ("tf32", "128x64", True): tf32_128x64_masked,
    ("tf32", "64x64", False): tf32_64x64,
    ("tf32", "64x64", True): tf32_64x64_masked,
    ("tf32x3", "128x128", False): tf32x3_128x128,
    ("tf32x3", "128x128", True): tf32x3_128x128_masked,
    ("tf32x3", "128x64", False): tf32x3_128x64,
    ("tf32x3", "128x64", True): tf32x3_128x64_masked,
    ("tf32x3", "64x64", False): tf32x3_64x64,
    ("tf32x3", "64x64", True): tf32x3_64x64_masked,
    ("bf16", "128x128", False): bf16_128x128,
    ("bf16", "128x128", True): bf16_128x128_masked,
    ("bf16", "128x64", False): bf16_128x64,
    ("bf16", "128x64", True): bf16_128x64_masked,
    ("bf16", "64x64", False): bf16_64x64,
    ("bf16", "64x64", True): bf16_64x64_masked,
    ("f16", "128x128", False): f16_128x128,
    ("f16", "128x128", True): f16_128x128_masked,
    ("f16", "128x64", False): f16_128x64,
    ("f16", "128x64", True): f16_128x64_masked,
    ("f16", "64x64", False): f16_64x64,
    ("f16", "64x64", True): f16_64x64_masked,
}
"""The kernel of (kind, tile, masked)."""
