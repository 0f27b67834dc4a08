"""Convolutions as the product kernels take them, run by the interpreter and compared with the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from nbconv.cuda.table import build_table, pack
from nbconv.geometry import ConvSpec, Geometry, bind
from tests import reference
from tests.cases import Case
from tests.cuda.checks.ptx_interpreter import Report, launch
from tests.cuda.checks.ptx_memory import GlobalMemory
from tests.helpers import arrays_of, compute_dtype, rng_for, whole_numbers

Array = Any
Grid = tuple[Sequence[int], Sequence[int], int]
"""Blocks and threads of a launch, (x, y, z), and bytes of dynamic shared memory."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def geometry_of(case: Case) -> Geometry:
    """Bind a case, as the public functions do."""
    params = dict(case.params)
    names = ("stride", "padding", "dilation", "groups", "output_padding", "padding_mode")
    spec = ConvSpec.of(case.op, **{name: params[name] for name in names if name in params})
    return bind(spec, case.x_shape, case.weight_shape)


def stored(array: Array) -> Array:
    """Lay an array out flat, as kernels take it: bfloat16 as uint16 words."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint16) if flat.dtype == BFLOAT16 else flat


@dataclass
class Problem:
    """One product: its arrays, and what must come out of it."""

    case: Case
    dtype: np.dtype
    activation: str | None = None
    residual: bool = False
    draw: Any = whole_numbers

    def __post_init__(self) -> None:
        self.geometry = geometry_of(self.case)
        self.x, self.weight, self.bias = arrays_of(self.case, self.dtype, self.draw)
        self.added = None
        if self.residual:
            self.added = self.draw(rng_for(self.case, "residual"), self.geometry.output_shape, self.dtype)
        self.table = build_table(self.geometry, self.activation, self.residual)

    def expected(self) -> Array:
        """Ask the oracle; float64."""
        y = reference.run(self.case.op, self.x, self.weight, self.bias, **self.case.params)
        y = y if self.added is None else y + self.added.astype(np.float64)
        return y if self.activation is None else reference.ACTIVATIONS[self.activation](y)

    def operands(self, parameter: float = 0.0) -> tuple[Array, Array, Array, Array | None, Array]:
        """Give x, packed weight, bias, residual and table as a kernel takes them."""
        geometry = self.geometry
        bias = np.zeros(geometry.c_out + 1, compute_dtype(self.dtype))
        bias[:-1] = 0 if self.bias is None else self.bias
        bias[-1] = parameter
        packed = stored(pack(geometry, self.weight))
        return stored(self.x), packed, bias, None if self.added is None else stored(self.added), self.table

    def run(self, ptx: str, grid: Grid, parameter: float = 0.0) -> tuple[Array, Report]:
        """Interpret a kernel; gives y, of the storage dtype, NaN where nothing was written."""
        blocks, threads, shared = grid
        memory = GlobalMemory()
        x, weight, bias, added, table = self.operands(parameter)
        y = memory.add(stored(np.full(self.geometry.output_shape, np.nan, self.dtype)), "write")
        residual = y if added is None else memory.add(added)
        arguments = [memory.add(x), memory.add(weight), memory.add(bias), residual, y, memory.add(table)]
        report = launch(ptx, blocks, threads, arguments, memory, dynamic_shared=shared)
        return y.content().view(self.dtype).reshape(self.geometry.output_shape), report


@dataclass
class SliceProblem:
    """The first pass of a convolution's weight gradient: sums over slices of positions."""

    case: Case
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))

    def __post_init__(self) -> None:
        self.geometry = geometry_of(self.case)
        self.windows = whole_numbers(rng_for(self.case, "x"), self.case.x_shape, self.dtype)
        self.points = whole_numbers(rng_for(self.case, "grad_output"), self.geometry.output_shape, self.dtype)

    def expected(self) -> Array:
        """Sum over all positions: (groups, taps, c_in / groups, c_out / groups), float64."""
        geometry, params = self.geometry, self.case.params
        kernel, ndim = self.case.weight_shape[2:], self.case.ndim
        strides, dilations = (reference.each_axis(params.get(name, 1), ndim) for name in ("stride", "dilation"))
        sizes, outs = self.case.x_shape[1:-1], geometry.output_shape[1:-1]
        pads = reference.forward_pads(sizes, kernel, strides, params.get("padding", 0), dilations)
        padded = reference.pad(reference.exact(self.windows), pads, params.get("padding_mode", "zeros"))
        groups, positions = geometry.groups, geometry.n * int(np.prod(outs))
        right = reference.exact(self.points).reshape(positions, groups, -1)
        taps = []
        for tap in np.ndindex(*kernel):
            left = padded[reference.window_of(tap, strides, dilations, outs)].reshape(positions, groups, -1)
            taps.append(np.einsum("pgc,pgo->gco", left, right))
        return np.stack(taps, 1)

    def arrays(self) -> tuple[Array, Array, Array]:
        """Give windows, points and the table as a kernel takes them."""
        return stored(self.windows), stored(self.points), build_table(self.geometry)

    def total(self, partial: Array, slices: int) -> Array:
        """Add the slices up, as `expected` gives them."""
        geometry = self.geometry
        shape = (slices, geometry.groups, -1, geometry.c_in // geometry.groups, geometry.c_out // geometry.groups)
        return partial.astype(np.float64).reshape(shape).sum(0)

    def run(self, ptx: str, grid: Grid, slices: int, rows_of_slice: int) -> tuple[Array, Report]:
        """Interpret a kernel; gives the sum of its slices, NaN where nothing was written."""
        blocks, threads, shared = grid
        memory = GlobalMemory()
        partial = memory.add(np.full(slices * int(np.prod(self.case.weight_shape)), np.nan, np.float32), "write")
        windows, points, table = map(memory.add, self.arrays())
        arguments = [windows, points, partial, table, rows_of_slice]
        report = launch(ptx, blocks, threads, arguments, memory, dynamic_shared=shared)
        return self.total(partial.content(), slices), report
