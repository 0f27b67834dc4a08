"""Which kernel computes a product, on which grid: chosen once for a geometry and kept, with its table on the device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..geometry import Geometry
from . import depthwise, gemm, gemm_tiles, general, rim, split_reduction, tensor_core
from . import table as T
from .driver import SIMULATED, compute_capability, cuda, wait

__all__ = [
    "ITEMSIZES",
    "MOST_Z",
    "Key",
    "Launch",
    "Plan",
    "make_plan",
    "over_items",
    "tensor_kind",
    "tiles_run",
    "upload_table",
    "upload_zeros",
]

ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of the types that the tiled kernels multiply."""

# Of float32: three tf32 products of large and small parts keep its accuracy, and are faster than its own units.
PRECISIONS = {"high": "tf32x3", "tf32": "tf32"}
FEW_COLUMNS = 32  # half a tile of the matrix units would stay empty: what they gain over float32's own is then lost
MOST_Z = 65535  # blocks along z; kernels that may need more walk on in steps of the grid


class Reading(NamedTuple):
    """How a tiled kernel reads: the geometry with x as it is laid down, see `rim`, and options of `build_table`."""

    geometry: Geometry
    slice_steps: int = T.WHOLE
    runs: bool = False


class Launch:
    """A kernel with its grid, its block and its shared memory; called with a stream, then the kernel's arguments.

    `reading` says what the kernel's table says, where that is not just the call's geometry.
    """

    def __init__(
        self, kernel: Any, grid: tuple[int, int, int], block: int, shared: int = 0, reading: Reading | None = None
    ) -> None:
        self.kernel, self.grid, self.block, self.shared = kernel, grid, block, shared
        self.reading = reading
        self._configured: dict[Any, Any] = {}

    def __call__(self, stream: Any, *arguments: Any) -> None:
        """Launch; nothing waits for the end. An empty grid has nothing to do."""
        if 0 in self.grid:
            return
        # The simulator keeps the configuration in the kernel itself.
        configured = None if SIMULATED else self._configured.get(stream)
        if configured is None:
            if len(self._configured) > 64:
                self._configured.clear()
            with warnings.catch_warnings():
                # numba-cuda warns of fewer than 128 blocks: small work is small, and nobody can help it.
                warnings.filterwarnings("ignore", message=".*Grid size")
                configured = self.kernel[self.grid, self.block, stream, self.shared]
            self._configured[stream] = configured
        configured(*arguments)


def over_items(kernel: Any, items: int, threads: int, y: int = 1, z: int = 1) -> Launch:
    """Launch one thread an item, in blocks of at most `threads`: as many as the kernel counts with."""
    return Launch(kernel, (-(-items // threads), y, z), max(1, min(items, threads)))


class Key(NamedTuple):
    """All that the choice of a kernel depends on."""

    geometry: Geometry
    dtype: str
    activation: str | None
    residual: bool
    precision: str
    device: int
    aligned: bool


class Split(NamedTuple):
    """What a product needs whose reduction is cut: `launch` makes sums of so many slices, with `zeros` as its bias."""

    slices: int
    table: Any
    zeros: Any
    sum_up: Launch


class Rim(NamedTuple):
    """What lays `size` numbers down, x and what padding shows around it: launched with (x, target, table, sizes)."""

    launch: Launch
    size: int
    table: Any
    sizes: Any


class Plan(NamedTuple):
    """A product, ready to be launched with (x, weight, bias, residual, y, table)."""

    launch: Launch
    table: Any
    split: Split | None = None
    rim: Rim | None = None


@lru_cache(maxsize=1024)
def upload_table(numbers: bytes, device: int) -> Any:
    """Keep a table of int32 numbers on a device; the device must be the current one."""
    table = cuda.to_device(np.frombuffer(numbers, np.int32))
    wait(cuda.default_stream())  # copies from pageable memory may still be under way, and other streams do not wait
    return table


@lru_cache(maxsize=2048)
def make_plan(key: Key) -> Plan:
    """Choose the kernel for a product that has something to write."""
    T.check_sizes(key.geometry)
    launch: Launch | None = None
    for choose in CHOICES:
        launch = choose(key)
        if launch is not None:
            break
    assert launch is not None, "the general kernel takes everything"
    reading = launch.reading or Reading(key.geometry)
    table = T.build_table(reading.geometry, key.activation, key.residual, runs=reading.runs)
    return Plan(
        launch,
        upload_table(table.tobytes(), key.device),
        _split(key, reading),
        plan_rim(key.geometry, reading.geometry, key.device),
    )


def can_count(geometry: Geometry) -> bool:
    """Say whether x has no more numbers than kernels count to."""
    return rim.size_of_x(geometry) <= T.MOST_NUMBERS


@lru_cache(maxsize=1024)
def plan_rim(geometry: Geometry, whole: Geometry, device: int) -> Rim | None:
    """Plan to lay down x as `whole` reads it; None where that is x as it is."""
    if whole.axes == geometry.axes:
        return None
    sizes = rim.sizes_of_x(whole)
    lines, numbers = whole.n * int(sizes[0]), int(sizes[1]) * whole.c_in
    launch = over_items(rim.lay_rim, numbers, rim.THREADS, y=min(lines, MOST_Z))
    tables = (upload_table(table.tobytes(), device) for table in (T.build_table(geometry), sizes))
    return Rim(launch, rim.size_of_x(whole), *tables)


def _split(key: Key, reading: Reading) -> Split | None:
    geometry, steps, runs = reading
    if steps == T.WHOLE:
        return None
    table = T.build_table(geometry, slice_steps=steps, runs=runs)
    return Split(
        split_reduction.slices(geometry, steps),
        upload_table(table.tobytes(), key.device),
        upload_zeros(geometry.c_out + 1, "float32", key.device),
        over_items(split_reduction.sum_slices, math.prod(geometry.output_shape), split_reduction.THREADS),
    )


@lru_cache(maxsize=64)
def upload_zeros(count: int, dtype: str, device: int) -> Any:
    """Keep zeros of a type on a device."""
    zeros = cuda.to_device(np.zeros(count, dtype))
    wait(cuda.default_stream())
    return zeros


def tiles_run(device: int) -> bool:
    """Say whether a device has the asynchronous copies and the matrix units of the tiled kernels."""
    return compute_capability(device) >= (8, 0)


def tensor_kind(dtype: str, precision: str) -> str:
    """Name the arithmetic of the tensor cores for arrays of a type: one of `tensor_core.KINDS`."""
    return {"float16": "f16", "bfloat16": "bf16"}.get(dtype) or PRECISIONS[precision]


def _depthwise(key: Key) -> Launch | None:
    if key.dtype == "float64" or not key.aligned or not depthwise.covers(key.geometry):
        return None
    if key.dtype == "bfloat16" and not tiles_run(key.device):
        return None  # rounds in one instruction, which older devices lack
    repeats = key.geometry.spec.padding_mode != "zeros"
    return Launch(depthwise.KERNELS[depthwise.slides(key.geometry), repeats], *depthwise.launch(key.geometry))


def _tiled(key: Key) -> Launch | None:
    itemsize = ITEMSIZES.get(key.dtype)
    if itemsize is None or not key.aligned or not tiles_run(key.device):
        return None
    masked = gemm_tiles.needs_mask(key.geometry, itemsize)
    runs = masked and rim.makes_runs(key.geometry) and can_count(rim.padded(key.geometry, zeros=True))
    geometry = rim.padded(key.geometry, zeros=runs)
    if not can_count(geometry) or not gemm_tiles.covers(geometry):
        return None
    kind = tensor_kind(key.dtype, key.precision)
    if kind == "tf32x3" and geometry.c_out // geometry.groups <= FEW_COLUMNS:
        tile = gemm_tiles.choose(geometry)
        kernel = gemm.KERNELS[tile, masked]
    else:
        tile = gemm_tiles.choose(geometry, names=tensor_core.TILE_NAMES)
        kernel = tensor_core.KERNELS[kind, tile, masked]
    steps = split_reduction.slice_steps(geometry, tile) if key.dtype == "float32" else T.WHOLE
    slices = split_reduction.slices(geometry, steps)
    return Launch(kernel, *gemm_tiles.launch(geometry, tile, slices), reading=Reading(geometry, steps, runs))


def _general(key: Key) -> Launch | None:
    geometry = key.geometry
    phases, _ = T.packed_phases(geometry)
    outputs = geometry.c_out // geometry.groups
    # A group of few output channels would leave most of a wide thread's columns empty.
    wide = outputs > general.WIDE // 4 and not T.channelwise(geometry)
    width = general.WIDE if wide else 1
    rows = max((geometry.n * phase.rows for phase in phases), default=0)
    items = -(-rows // general.ROWS) * geometry.groups * -(-outputs // width)
    kernel = general.product_wide if wide else general.product_narrow
    return over_items(kernel, items, general.THREADS, z=min(len(phases), MOST_Z))


CHOICES: tuple[Callable[[Key], Launch | None], ...] = (_depthwise, _tiled, _general)
"""Who may take a product, the most special first."""
