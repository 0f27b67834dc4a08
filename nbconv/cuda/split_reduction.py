"""Products with fewer tiles than the device has multiprocessors, and a long reduction: cut into slices.

Blocks sum tiles over one slice of the reduction each, as if it were the product, without bias and activation; a second
kernel adds the slices in order and finishes. Where the cuts are depends on shapes only, and so do the bits.
"""

from __future__ import annotations

from numpy import int32

from ..geometry import Geometry
from . import gemm_tiles
from . import table as T
from .activations import activate
from .driver import cuda, kernel
from .storage import add_slices, narrow, widen

__all__ = ["THREADS", "slice_steps", "slices", "sum_slices"]

THREADS = 128
# Of a slice: in less time it would not make up for the second kernel's launch. bfloat16 and float16 are so fast that
# few layers are long enough, and they are not cut.
LEAST_STEPS = 768
STEPS = 32  # what slices are multiples of: the deepest that a block multiplies at once


def slice_steps(geometry: Geometry, tile: str) -> int:
    """Give the steps of the reduction of each slice: all, `table.WHOLE`, where it is not cut."""
    (rows, columns, depth), _ = gemm_tiles.launch(geometry, tile)
    phases, _ = T.packed_phases(geometry)
    steps = max((phase.taps for phase in phases), default=0) * (geometry.c_in // geometry.groups)
    slices = min(gemm_tiles.MULTIPROCESSORS // max(1, rows * columns * depth), steps // LEAST_STEPS)
    return -(-steps // (slices * STEPS)) * STEPS if slices > 1 else T.WHOLE


def slices(geometry: Geometry, steps: int) -> int:
    """Count the slices of so many steps."""
    phases, _ = T.packed_phases(geometry)
    return max([1, *(-(-phase.taps * (geometry.c_in // geometry.groups) // steps) for phase in phases)])


@kernel()
def sum_slices(partial, bias, residual, y, table, slices):
    """Add the slices of each number in order, bias and residual; apply the activation.

    Shapes   partial (slices, size of y) . bias (c_out + 1), the last the parameter of the activation . y, residual flat
    Threads  one for each number of y
    """
    item = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    size = int32(int32(int32(table[T.SAMPLES] * table[T.OUT_H]) * table[T.OUT_W]) * table[T.C_OUT])
    if item >= size:
        return
    total = add_slices(partial, item, size, slices)
    total += bias[int32(item % table[T.C_OUT])]
    if table[T.HAS_RESIDUAL]:
        total += widen(residual[item])
    y[item] = narrow(activate(table[T.ACTIVATION], total, bias[table[T.C_OUT]]), y)
