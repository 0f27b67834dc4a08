"""Every kernel of the package with every type that it is launched with, and what is demanded of its machine code."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from nbconv.cuda import (
    depthwise,
    depthwise_grad,
    gemm,
    gemm_tiles,
    general,
    grad_gemm,
    grad_general,
    grad_tensor,
    packing,
    plan,
    rim,
    split_reduction,
    tensor_core,
)
from nbconv.cuda.table import channelwise
from nbconv.geometry import Geometry
from tests.cuda.checks.artifacts import Artifacts, artifacts
from tests.cuda.checks.problems import Grid
from tests.cuda.checks.toolchain import ARCHITECTURES

STORED = {"float32": "float32", "float64": "float64", "float16": "float16", "bfloat16": "uint16"}
"""Types of the public arrays, and what kernels see of them."""
DTYPES = tuple(STORED)
TENSOR_DTYPES = {"bf16": "bfloat16", "f16": "float16"}
"""Of the tensor cores' arithmetic; the others are of float32."""

REGISTER_FILE = 65536  # registers of a multiprocessor
STATIC_SHARED = 48 * 1024


@dataclass(frozen=True)
class Entry:
    """A kernel for one type, and its demands."""

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
    family: str = ""
    """Of products: the module's short name."""
    tile: str = ""
    masked: bool = False
    kind: str = ""
    """Of tensor cores: the arithmetic. Of depthwise products: how x is read."""

    def __str__(self) -> str:
        slices = "slices " * (self.family == "grad_tensor")
        return f"{slices}{self.kernel.py_func.__name__} {self.dtype}"

    @property
    def artifacts(self) -> Artifacts:
        """What compiling it gives."""
        return artifacts(self.kernel, self.types)

    @property
    def most_registers(self) -> int:
        """Registers a thread may take; the hardware gives them in eights."""
        return min(255, REGISTER_FILE // (self.threads * self.blocks) // 8 * 8)

    @property
    def has_hot_loop(self) -> bool:
        """Say whether something is demanded of its hot loop."""
        return bool(self.hot)

    def fits(self, geometry: Geometry) -> bool:
        """Say whether a tiled or depthwise kernel may be given this geometry."""
        itemsize = 4 if self.dtype == "float32" else 2
        if self.family == "grad_gemm":
            zeros = geometry.spec.padding_mode == "zeros"
            return zeros and not geometry.spec.transposed and (self.masked or not grad_gemm.needs_mask(geometry))
        if self.family == "grad_tensor":
            return not geometry.spec.transposed and grad_tensor.covers(geometry, itemsize)
        if self.family == "depthwise":
            return depthwise.covers(geometry) and self.kind == _depthwise_kind(
                depthwise.slides(geometry), geometry.spec.padding_mode != "zeros"
            )
        zeros = geometry.spec.padding_mode == "zeros"
        return zeros and not channelwise(geometry) and (self.masked or not gemm_tiles.needs_mask(geometry, itemsize))

    def grid(self, geometry: Geometry) -> Grid:
        """Give a product kernel's launch."""
        if self.family == "depthwise":
            blocks, threads = depthwise.launch(geometry)
        elif self.family == "general":
            launch = plan._general(plan.Key(geometry, self.dtype, None, True, "high", 0, True))
            assert launch.kernel is self.kernel, "the plan takes another kernel for this geometry"
            blocks, threads = launch.grid, launch.block
        else:
            blocks, threads = gemm_tiles.launch(geometry, self.tile)
        return blocks, (threads, 1, 1), 0

    def compile_all(self) -> None:
        """Make all that the tests ask for."""
        self.artifacts.ptx()
        for architecture in ARCHITECTURES:
            self.artifacts.resources(architecture)
            if self.has_hot_loop:
                self.artifacts.machine_code(architecture)


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


def slice_types(dtype: str) -> tuple[Any, ...]:
    """Give the types of a weight gradient's first pass: windows, points, partial, table, rows_of_slice."""
    from numba.cuda import types

    return flat(dtype), flat(dtype), flat(_compute(dtype)), flat("int32"), types.int32


def _bounds(kernel: Any) -> dict[str, int]:
    threads, blocks = kernel.targetoptions["launch_bounds"]
    return {"threads": threads, "blocks": blocks}


# The least part of the hot loop that multiplications must be: 1024 stand against 64 vectors from shared memory, and the
# rest is for the copies.
FFMA_SHARE = 0.85


def _depthwise_kind(slides: bool, repeats: bool) -> str:
    return ("slides" if slides else "strides") + ", repeats" * repeats


def product_entries() -> Iterator[Entry]:
    """List the tiled and the depthwise product kernels."""
    reads = ("LDS.128", "LDGSTS")
    for (tile, masked), kernel in gemm.KERNELS.items():
        yield Entry(
            kernel, product_types("float32"), **_bounds(kernel), hot="FFMA", share=FFMA_SHARE,
            expected=reads, family="gemm", tile=tile, masked=masked,
        )  # fmt: skip
    for (kind, tile, masked), kernel in tensor_core.KERNELS.items():
        dtype = TENSOR_DTYPES.get(kind, "float32")
        copies = () if masked and dtype != "float32" else ("LDGSTS",)
        yield Entry(
            kernel, product_types(dtype), dtype, **_bounds(kernel), hot="HMMA", expected=("LDSM", *copies),
            family="tensor_core", tile=tile, masked=masked, kind=kind,
        )  # fmt: skip
    for (slides, repeats), kernel in depthwise.KERNELS.items():
        for dtype in ("float32", "float16", "bfloat16"):
            kind = _depthwise_kind(slides, repeats)
            yield Entry(kernel, product_types(dtype), dtype, **_bounds(kernel), family="depthwise", kind=kind)


def slice_entries() -> Iterator[Entry]:
    """List the tiled first passes of the weight's gradient."""
    for (kind, tile), kernel in grad_tensor.KERNELS.items():
        dtype = TENSOR_DTYPES.get(kind, "float32")
        fragments = ("LDSM",) if kind in TENSOR_DTYPES else ()
        yield Entry(
            kernel, slice_types(dtype), dtype, **_bounds(kernel), hot="HMMA", expected=("LDGSTS", *fragments),
            family="grad_tensor", tile=tile, kind=kind,
        )  # fmt: skip
    for (tile, masked), kernel in grad_gemm.KERNELS.items():
        yield Entry(
            kernel, slice_types("float32"), **_bounds(kernel), hot="FFMA", share=FFMA_SHARE,
            expected=("LDS.128", "LDGSTS"), family="grad_gemm", tile=tile, masked=masked,
        )  # fmt: skip


def general_entries() -> Iterator[Entry]:
    """List the kernels that take what the tiled ones do not, and those of packing."""
    from numba.cuda import types

    table, whole = flat("int32"), types.int32
    for dtype in DTYPES:
        x, compute = flat(dtype), flat(_compute(dtype))
        of_kernel: dict[Any, tuple[Any, ...]] = {
            general.product_wide: product_types(dtype),
            general.product_narrow: product_types(dtype),
            grad_general.weight_slices_wide: slice_types(dtype),
            grad_general.weight_slices_narrow: slice_types(dtype),
            grad_general.sum_weight_slices: (compute, whole, x, table, table),
            grad_general.bias_slices: (x, compute, whole, whole, whole),
            grad_general.sum_bias_slices: (compute, whole, x, whole),
            grad_general.fold_rim: (x, x, x, compute, table, table, table),
            packing.pack_operands: (x, x, x, compute, table, table, compute.dtype),
            packing.copy_strided: (x, x, table),
        }
        if dtype != "float64":
            of_kernel |= {depthwise_grad.weight_slices: slice_types(dtype), packing.widen_numbers: (x, compute)}
            of_kernel |= {rim.lay_rim: (x, x, table, table)}
        for kernel, arguments in of_kernel.items():
            family = "general" if kernel in (general.product_wide, general.product_narrow) else ""
            yield Entry(kernel, arguments, dtype, 256, 1, family=family)
    x = flat("float32")
    yield Entry(split_reduction.sum_slices, (x, x, x, x, table, whole), threads=split_reduction.THREADS)


def kernels_of_package() -> set[Any]:
    """Find every kernel of the package's modules."""
    import nbconv.cuda

    found = set()
    for module in pkgutil.iter_modules(nbconv.cuda.__path__):
        names = vars(importlib.import_module(f"nbconv.cuda.{module.name}")).values()
        found |= {value for value in names if getattr(value, "targetoptions", {}).get("device") is False}
    return found


@cache
def entries() -> tuple[Entry, ...]:
    """List everything."""
    return (*product_entries(), *slice_entries(), *general_entries())
