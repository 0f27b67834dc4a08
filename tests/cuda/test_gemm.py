"""The tiled kernels in the CUDA simulator, called with packed weights and a table; the choice of tiles; the twins."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests import reference
from tests.cases import Case
from tests.cuda.lanes import needs_simulator
from tests.helpers import assert_close, assert_equal, real_numbers, sum_tolerance, whole_numbers

needs_simulator()

from nbconv.cuda import (  # noqa: E402
    gemm,
    gemm_tiles,
    grad_gemm,
    grad_tensor,
    intrinsics,
    intrinsics_plain,
    rim,
    split_reduction,
    tensor_core,
)
from nbconv.cuda.driver import cuda  # noqa: E402
from nbconv.cuda.table import WHOLE, build_table  # noqa: E402
from nbconv.geometry import Geometry  # noqa: E402
from tests.cuda.checks.problems import Problem, geometry_of, pack, stored  # noqa: E402

FLOAT32 = np.dtype(np.float32)
DTYPE_OF = {
    "tf32": FLOAT32,
    "tf32x3": FLOAT32,
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16": np.dtype(np.float16),
}

# Rows, columns and reductions that are no multiples of a tile; 16-byte chunks that meet the end of a tap.
STRIDED = Case(
    "conv2d", (2, 5, 6, 12), (24, 4, 3, 2), {"padding": (1, 2), "stride": (1, 2), "dilation": (2, 1), "groups": 3}
)
TRANSPOSED = Case("conv_transpose1d", (1, 21, 20), (20, 9, 5), {"padding": 1, "stride": 2})
EIGHTS = Case("conv2d", (1, 4, 5, 16), (24, 8, 3, 1), {"padding": (1, 2), "stride": (1, 2), "groups": 2})
TWO_TILES = Case("conv1d", (1, 40, 8), (70, 8, 3), {"padding": 2}, bias=False)
FEW_CHANNELS = Case("conv1d", (2, 14, 3), (9, 3, 4), {"padding": 3})
SIX_CHANNELS = Case("conv2d", (1, 4, 5, 6), (10, 6, 3, 2), {"padding": 2, "stride": (2, 1)})
FIVE_CHANNELS = Case("conv1d", (1, 9, 5), (12, 5, 3), {"padding": 4, "dilation": 2})
ONE_CHANNEL = Case("conv1d", (1, 9, 1), (12, 1, 19), {"padding": 10})
CIRCULAR = Case("conv1d", (1, 9, 8), (8, 8, 4), {"padding": ((5, 2),), "padding_mode": "circular"})
NO_TAPS = Case("conv_transpose1d", (1, 6, 8), (8, 8, 2), {"stride": 4})


def product(kernel: Any, tile: str, problem: Problem) -> np.ndarray:
    """Launch a kernel on a problem; y starts as NaN."""
    geometry = problem.geometry
    bias = np.zeros(geometry.c_out + 1, np.float32)
    bias[:-1] = 0 if problem.bias is None else problem.bias
    y = stored(np.full(geometry.output_shape, np.nan, problem.dtype))
    added = y if problem.added is None else stored(problem.added)
    grid, threads = gemm_tiles.launch(geometry, tile)
    kernel[grid, threads](stored(problem.x), stored(pack(geometry, problem.weight)), bias, added, y, problem.table)
    return y.view(problem.dtype).reshape(geometry.output_shape)


@pytest.mark.parametrize("case", [STRIDED, TRANSPOSED, TWO_TILES, NO_TAPS], ids=str)
def test_small_tile(case: Case) -> None:
    problem = Problem(case, FLOAT32, "relu", residual=case is STRIDED)
    assert_equal(product(gemm.KERNELS["64x64", False], "64x64", problem), problem.expected())


@pytest.mark.parametrize("case", [ONE_CHANNEL, FEW_CHANNELS, FIVE_CHANNELS, SIX_CHANNELS, STRIDED], ids=str)
def test_small_tile_masked(case: Case) -> None:
    problem = Problem(case, FLOAT32, residual=case is SIX_CHANNELS)
    assert_equal(product(gemm.KERNELS["64x64", True], "64x64", problem), problem.expected())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tile", ["128x64", "256x32", "128x128"])
def test_other_tiles(tile: str, masked: bool) -> None:
    problem = Problem(FEW_CHANNELS if masked else EIGHTS, FLOAT32, residual=True)
    assert_equal(product(gemm.KERNELS[tile, masked], tile, problem), problem.expected())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tile", tensor_core.TILE_NAMES)
@pytest.mark.parametrize("kind", tensor_core.KINDS)
def test_tensor_cores(kind: str, tile: str, masked: bool) -> None:
    problem = Problem(SIX_CHANNELS if masked else EIGHTS, DTYPE_OF[kind], "relu", residual=True)
    assert_equal(product(tensor_core.KERNELS[kind, tile, masked], tile, problem), problem.expected())


@pytest.mark.parametrize(("kind", "error"), [("tf32x3", 2.0**-20), ("tf32", 2.0**-9)])
def test_precision(kind: str, error: float) -> None:
    """Errors in units of the sum of the products' sizes: 3xTF32's is that of float32 sums."""
    problem = Problem(EIGHTS, FLOAT32, draw=real_numbers)
    y = product(tensor_core.KERNELS[kind, "64x64", False], "64x64", problem)
    largest = EIGHTS.terms * float(np.abs(problem.x).max()) * float(np.abs(problem.weight).max())
    assert_close(y, problem.expected(), error * largest)
    if kind == "tf32x3":
        assert_close(y, problem.expected(), sum_tolerance(EIGHTS, problem.x, problem.weight, problem.bias))


# ---- the weight's gradient -----------------------------------------------------------------------------------------


def check_grad_weight(case: Case, kernel: Any, tile: str, rows_of_slice: int, dtype: np.dtype = FLOAT32) -> None:
    """Launch a kernel on whole numbers, add its slices, compare."""
    geometry = geometry_of(case)
    rng = np.random.default_rng(3)
    x = whole_numbers(rng, case.x_shape, dtype)
    grad_output = whole_numbers(rng, geometry.output_shape, dtype)
    windows, points = (grad_output, x) if case.transposed else (x, grad_output)
    pairs = geometry.adjoint() if case.transposed else geometry
    taps = math.prod(case.weight_shape[2:])
    c_window, c_point = pairs.c_in // pairs.groups, pairs.c_out // pairs.groups
    grid, threads = grad_gemm.launch(pairs, tile, rows_of_slice)
    shape = (grid[2], taps, c_window, c_point)
    partial = np.full(math.prod(shape), np.nan, np.float32)
    kernel[grid, threads](stored(windows), stored(points), partial, build_table(pairs), np.int32(rows_of_slice))
    sums = partial.reshape(-1, pairs.groups, *shape[1:]).sum(0)  # groups, taps, windows' channels, points' channels
    actual = sums.transpose(0, 3, 2, 1).reshape(case.weight_shape)
    assert_equal(actual, expected_grad_weight(case, x, grad_output))


def expected_grad_weight(case: Case, x: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
    """Work the gradient out number by number: the operation is linear in the weight."""
    expected = np.zeros(case.weight_shape)
    for place in np.ndindex(*case.weight_shape):
        unit = np.zeros(case.weight_shape, np.int64)
        unit[place] = 1
        expected[place] = (
            reference.run(case.op, x.astype(np.int64), unit, None, **case.params) * grad_output.astype(np.int64)
        ).sum()
    return expected


GRAD_TRANSPOSED = Case("conv_transpose1d", (1, 21, 12), (12, 8, 3), {"padding": 1, "stride": 2})


@pytest.mark.parametrize("case", [STRIDED, GRAD_TRANSPOSED, EIGHTS], ids=str)
def test_grad_weight(case: Case) -> None:
    check_grad_weight(case, grad_gemm.KERNELS["64x64", False], "64x64", 48 if case is STRIDED else 16)


@pytest.mark.parametrize("case", [FEW_CHANNELS, SIX_CHANNELS], ids=str)
def test_grad_weight_masked(case: Case) -> None:
    check_grad_weight(case, grad_gemm.KERNELS["64x64", True], "64x64", 16)


@pytest.mark.parametrize("masked", [False, True])
def test_grad_weight_large_tile(masked: bool) -> None:
    check_grad_weight(EIGHTS, grad_gemm.KERNELS["128x128", masked], "128x128", 32)


@pytest.mark.parametrize(("kind", "tile"), grad_tensor.KERNELS)
def test_grad_weight_on_tensor_cores(kind: str, tile: str) -> None:
    case = Case("conv2d", (1, 4, 5, 16), (32, 8, 3, 1), {"padding": (1, 2), "stride": (1, 2), "groups": 2})
    check_grad_weight(case, grad_tensor.KERNELS[kind, tile], tile, 32, DTYPE_OF[kind])


# ---- choice --------------------------------------------------------------------------------------------------------


def geometry_of_layer(n: int, length: int, c_in: int, c_out: int, groups: int = 1) -> Geometry:
    case = Case("conv1d", (n, length, c_in), (c_out, c_in // groups, 3), {"padding": 1, "groups": groups})
    return geometry_of(case)


def test_choice_of_tile() -> None:
    assert gemm_tiles.choose(geometry_of_layer(16, 8192, 256, 256)) == "128x128"
    assert gemm_tiles.choose(geometry_of_layer(16, 8192, 64, 64)) == "128x64"
    assert gemm_tiles.choose(geometry_of_layer(16, 8192, 32, 32)) == "256x32"
    assert gemm_tiles.choose(geometry_of_layer(1, 2048, 256, 256)) == "64x64"  # 32 tiles of 128 x 128 for 132
    assert (
        gemm_tiles.choose(geometry_of_layer(16, 8192, 32, 32), names=tensor_core.TILE_NAMES) in tensor_core.TILE_NAMES
    )


@pytest.mark.parametrize("tile", gemm_tiles.TILES)
def test_grid_covers_every_output_once(tile: str) -> None:
    geometry = geometry_of(TRANSPOSED)
    (rows, columns, depth), threads = gemm_tiles.launch(geometry, tile)
    size = gemm_tiles.TILES[tile]
    assert threads == size.threads
    assert depth == 2  # phases
    assert (rows - 1) * size.rows < 22 <= rows * size.rows  # positions of a phase
    assert (columns - 1) * size.columns < 9 <= columns * size.columns


def test_slices_of_the_reduction() -> None:
    def cut(geometry: Geometry) -> tuple[int, int]:
        steps = split_reduction.slice_steps(geometry, "64x64")
        return steps, split_reduction.slices(geometry, steps)

    assert cut(geometry_of_layer(1, 64, 512, 64)) == (768, 2)
    assert cut(geometry_of_layer(1, 64, 4096, 64)) == (768, 16)
    assert cut(geometry_of_layer(1, 640, 4096, 640)) == (WHOLE, 1)  # 100 tiles
    assert cut(geometry_of_layer(1, 256, 4096, 256)) == (1536, 8)  # 16 tiles, so many times over
    assert cut(geometry_of_layer(1, 64, 511, 64)) == (WHOLE, 1)


def test_which_products_are_covered() -> None:
    assert gemm_tiles.covers(geometry_of_layer(1, 9, 3, 8))
    assert not gemm_tiles.covers(geometry_of_layer(1, 9, 3, 7))
    assert not gemm_tiles.covers(geometry_of_layer(1, 9, 16, 16, groups=16))
    assert gemm_tiles.needs_mask(geometry_of_layer(1, 9, 6, 8), 4)
    assert not gemm_tiles.needs_mask(geometry_of_layer(1, 9, 4, 8), 4)
    assert gemm_tiles.needs_mask(geometry_of_layer(1, 9, 4, 8), 2)
    assert not gemm_tiles.covers(geometry_of(CIRCULAR))
    assert gemm_tiles.covers(rim.padded(geometry_of(CIRCULAR)))


@pytest.mark.parametrize(
    "pairs",
    [
        geometry_of_layer(16, 8192, 256, 256),
        geometry_of_layer(1, 100, 16, 8),
        geometry_of_layer(64, 1 << 14, 8, 8),
        geometry_of_layer(2, 3000, 512, 512, groups=4),
    ],
    ids=lambda geometry: f"{geometry.n}x{geometry.axes[0].size}x{geometry.c_in}",
)
def test_slices_of_the_gradient(pairs: Geometry) -> None:
    tile, rows_of_slice = grad_gemm.choose(pairs)
    (_, _, depth), _ = grad_gemm.launch(pairs, tile, rows_of_slice)
    positions = pairs.n * pairs.axes[0].out
    slices = depth // pairs.groups
    assert rows_of_slice % grad_gemm.DEPTH == 0
    assert (slices - 1) * rows_of_slice < positions <= slices * rows_of_slice
    numbers = slices * 3 * pairs.c_in // pairs.groups * pairs.c_out
    assert slices == 1 or numbers <= grad_gemm.MOST_PARTIAL


def test_which_gradients_are_covered() -> None:
    assert grad_gemm.covers(geometry_of_layer(1, 99, 8, 8))
    assert not grad_gemm.covers(geometry_of_layer(1, 9, 8, 8))  # fewer positions than one part of a slice
    assert grad_tensor.covers(geometry_of_layer(1, 99, 12, 12), 4)
    assert not grad_tensor.covers(geometry_of_layer(1, 99, 12, 12), 2)
    assert not grad_tensor.covers(geometry_of(CIRCULAR), 4)


# ---- threads of the simulator ---------------------------------------------------------------------------------------


@cuda.jit
def turn_round(y):
    """Write the numbers of the block's threads in reverse; thread 3 of the second block fails first."""
    shared = cuda.shared.array(64, np.int32)
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    if thread == 3 and block == 1:
        raise ValueError("no such thread")
    shared[thread] = thread
    cuda.syncthreads()
    y[64 * block + thread] = shared[63 - thread]


@cuda.jit
def half_a_warp(x):
    """Load matrices with half a warp."""
    if cuda.threadIdx.x < 16:
        intrinsics.ldmatrix4(x, 0, 0)


def test_threads_meet_and_fail_together(monkeypatch: pytest.MonkeyPatch) -> None:
    y = np.full(128, -1)
    turn_round[1, 64](y[:64])
    np.testing.assert_array_equal(y, [*range(63, -1, -1), *[-1] * 64])
    with pytest.raises(ValueError, match=r"thread \(3, 0, 0\) of block \(1, 0, 0\): no such thread"):
        turn_round[2, 64](y)
    assert (y[64:] == -1).all()  # nobody passed the barrier
    monkeypatch.setattr(intrinsics_plain, "PATIENCE", 0.05)
    with pytest.raises(RuntimeError, match="16 threads of a warp wait for the others"):
        half_a_warp[1, 32](np.zeros(64, np.float32))
    turn_round[1, 64](y[64:])
    np.testing.assert_array_equal(y[64:], range(63, -1, -1))


# ---- the twins of intrinsics that need no warp -----------------------------------------------------------------------


def test_rounding_to_tf32() -> None:
    values = np.array([1.0, 1 + 2.0**-11, 1 + 2.0**-12, -(1 + 2.0**-11), 3.0e38, 0.0], np.float32)
    rounded = [float(intrinsics.float_of(intrinsics.round_tf32(value))) for value in values]
    assert rounded[:4] == [1.0, 1 + 2.0**-10, 1.0, -(1 + 2.0**-10)]
    assert abs(rounded[4] - 3.0e38) < 3.0e38 * 2.0**-11
    assert rounded[5] == 0


def test_copies_check_alignment() -> None:
    shared, array = np.zeros(16, np.float32), np.arange(16, dtype=np.float16)
    intrinsics.copy16(shared, 4, 0, array, 8, True)
    np.testing.assert_array_equal(shared[4:8].view(np.float16), array[8:])
    intrinsics.copy16(shared, 4, 0, array, 3, False)
    assert not shared.any()
    with pytest.raises(ValueError, match="misaligned access to 8 numbers of float16 from 4 on"):
        intrinsics.copy16(shared, 4, 0, array, 4, True)
    with pytest.raises(ValueError, match="misaligned access to 4 numbers of float32 from 2 on"):
        intrinsics.copy16(shared, 0, 2, array, 8, True)


def test_single_numbers_are_copied_where_they_are_wanted() -> None:
    shared, array = np.zeros(4, np.float32), np.arange(8, dtype=np.float32)
    intrinsics.copy4(shared, 1, 1, array, 3, True, 2, True)
    np.testing.assert_array_equal(shared, [0, 0, 5, 0])
    intrinsics.copy4(shared, 2, 0, array, 9, False, 0, False)
    np.testing.assert_array_equal(shared, [0, 0, 5, 0])
    intrinsics.copy4(shared, 2, 0, array, 9, False, 0, True)
    assert not shared.any()
