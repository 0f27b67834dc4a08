"""Every kernel of the package with every type that it is launched with, and what is demanded of its machine code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from nbconv.cuda import gemm, gemm_tiles, general, grad_general, packing
from nbconv.geometry import Geometry
from tests.cuda.checks.problems import Grid
from tests.cuda.checks.toolchain import Compiled, compile_kernel

STORED = {"float32": "float32", "float64": "float64", "float16": "float16", "bfloat16": "uint16"}
"""Types of the public arrays, and what kernels see of them."""
DTYPES = tuple(STORED)

REGISTER_FILE = 65536  # registers of a multiprocessor
STATIC_SHARED = 48 * 1024


@dataclass(frozen=True)
class Entry:
    """A kernel for one type, and its demands."""

    name: str
    kernel: Any
    types: tuple[Any, ...]
    dtype: str = "float32"
    threads: int = 128
    blocks: int = 1
    """Of a multiprocessor at once: what its registers must leave room for."""
    hot: str = ""
    """The opcode of its hot loop."""
    share: float = 0.0
    """The least part of the hot loop that `hot` must take."""
    expected: tuple[str, ...] = ()
    """Opcodes that the hot loop must hold."""
    tile: tuple[str, bool] | None = None
    """Of a tiled product: the tile's name, and whether x is read number by number."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"

    def compiled(self) -> Compiled:
        """Compile, once."""
        return _compile(self)

    @property
    def most_registers(self) -> int:
        """Registers a thread may take; the hardware gives them in eights."""
        return min(255, REGISTER_FILE // (self.threads * self.blocks) // 8 * 8)

    def grid(self, geometry: Geometry) -> Grid:
        """Give the launch of a tiled product."""
        assert self.tile
        blocks, threads = gemm_tiles.launch(geometry, self.tile[0])
        return blocks, (threads, 1, 1), 0


@cache
def _compile(entry: Entry) -> Compiled:
    return compile_kernel(entry.kernel, entry.types)


def flat(dtype: str) -> Any:
    """Give Numba's type of a flat array as kernels see it."""
    from numba.cuda import types

    return types.Array(getattr(types, STORED.get(dtype, dtype)), 1, "C")


def _compute(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def product_types(dtype: str) -> tuple[Any, ...]:
    """Give the types of a product kernel's arguments: x, weight, bias, residual, y, table."""
    x, bias = flat(dtype), flat(_compute(dtype))
    return x, x, bias, x, x, flat("int32")


def product_entries() -> Iterator[Entry]:
    """List the tiled product kernels."""
    for (tile, masked), kernel in gemm.KERNELS.items():
        sizes = gemm_tiles.TILES[tile]
        # 8 x 8 numbers a thread: 16 loads for 256 multiplications; 8 x 4: 12 for 128; and the copies' own work.
        share = 0.0 if masked else 0.85 if sizes.rows * sizes.columns == 64 * sizes.threads else 0.75
        bounds = kernel.targetoptions["launch_bounds"]
        yield Entry(
            f"ffma_{tile}{'_masked' * masked}", kernel, product_types("float32"), threads=bounds[0], blocks=bounds[1],
            hot="FFMA", share=share, expected=("LDS.128", "LDGSTS"), tile=(tile, masked),
        )  # fmt: skip


def general_entries() -> Iterator[Entry]:
    """List the kernels that take what the tiled ones do not, and those of packing."""
    from numba.cuda import types

    table, whole = flat("int32"), types.int32
    for dtype in DTYPES:
        x, compute = flat(dtype), flat(_compute(dtype))
        for kernel in (general.product_wide, general.product_narrow):
            yield Entry(kernel.py_func.__name__, kernel, product_types(dtype), dtype, general.THREADS, 2)
        for kernel in (grad_general.weight_slices_wide, grad_general.weight_slices_narrow):
            arguments = (x, x, compute, table, whole)
            yield Entry(kernel.py_func.__name__, kernel, arguments, dtype, grad_general.THREADS, 2)
        others: dict[Any, tuple[Any, ...]] = {
            grad_general.sum_weight_slices: (compute, whole, x, table, table),
            grad_general.bias_slices: (x, compute, whole, whole, whole),
            grad_general.sum_bias_slices: (compute, whole, x, whole),
            grad_general.fold_rim: (x, x, x, compute, table, table, table),
            packing.pack_operands: (x, x, x, compute, table, table, compute.dtype),
            packing.copy_strided: (x, x, table),
        }
        for kernel, arguments in others.items():
            yield Entry(kernel.py_func.__name__, kernel, arguments, dtype, 256, 2)


def entries() -> list[Entry]:
    """List everything."""
    return [*product_entries(), *general_entries()]
