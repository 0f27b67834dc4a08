"""The least time that a convolution can take on a machine of given speed: the roofline model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .counting import bind_operation, count_bound
from .geometry import Geometry
from .incidence import incidence

__all__ = ["ITEM_SIZES", "Roofline", "elements_moved", "roofline"]

ITEM_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Roofline:
    """Work, traffic and the time that they need at least.

    `flops` are exact multiplications and additions, `bytes_moved` is the least traffic with memory, `peak` is in flop/s
    and `bandwidth` in bytes/s; either may be None where it is not known.
    """

    flops: int
    bytes_moved: int
    peak: float | None = None
    bandwidth: float | None = None

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, flop a byte."""
        return self.flops / self.bytes_moved if self.bytes_moved else 0.0

    @property
    def compute_time(self) -> float | None:
        """Seconds for the arithmetic alone."""
        return None if self.peak is None else self.flops / self.peak

    @property
    def memory_time(self) -> float | None:
        """Seconds for the traffic alone."""
        return None if self.bandwidth is None else self.bytes_moved / self.bandwidth

    @property
    def time(self) -> float | None:
        """Floor of the run time in seconds: the longer of the two, which at best overlap."""
        return max((time for time in (self.compute_time, self.memory_time) if time is not None), default=None)

    @property
    def bound(self) -> str | None:
        """What sets the floor, ``"compute"`` or ``"memory"``; None unless both speeds are known."""
        if self.compute_time is None or self.memory_time is None:
            return None
        return "compute" if self.compute_time >= self.memory_time else "memory"


def roofline(
    op: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    output_padding: Any = 0,
    padding_mode: str = "zeros",
    bias: bool = False,
    needs: Sequence[str] | None = None,
    dtype: Any = "float32",
    peak: float | None = None,
    bandwidth: float | None = None,
) -> Roofline:
    """Bound the run time of a convolution from below.

    Parameters
    ----------
    op, x_shape, weight_shape, stride, padding, dilation, groups, output_padding, padding_mode, bias, needs
        As in `count_operations`.
    dtype
        ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``, as a name or a NumPy dtype: the stored numbers.
    peak
        Fastest arithmetic of the machine, flop/s.
    bandwidth
        Fastest traffic with its memory, bytes/s.

    Returns
    -------
    Roofline
        Exact flops; the least bytes (every number of an operand that takes part is read once, every result is written
        once); their ratio; and the time floor for the speeds that were given.

    Raises
    ------
    ValueError, TypeError
        As `count_operations`; also for another dtype and for speeds that are not positive.

    Notes
    -----
    The floor is that of the direct method. An algorithm with fewer multiplications (Winograd, Toom-Cook) can undercut
    the arithmetic, never the traffic.

    Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009.

    Examples
    --------
    >>> floor = roofline("conv1d", (1, 1000, 64), (128, 64, 3), padding=1, bias=True, peak=250e9, bandwidth=20e9)
    >>> floor.flops, floor.bytes_moved, floor.bound
    (49119232, 866816, 'compute')
    >>> f"{floor.intensity:.1f} flop/byte, {floor.time * 1e6:.0f} us"
    '56.7 flop/byte, 196 us'
    """
    geometry, targets = bind_operation(
        op, x_shape, weight_shape, stride, padding, dilation, groups, output_padding, padding_mode, needs
    )
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", None)
    if name not in ITEM_SIZES:
        raise TypeError(f"{op}: dtype must be one of {', '.join(ITEM_SIZES)}; got {dtype!r}")
    for what, speed in (("peak", peak), ("bandwidth", bandwidth)):
        if speed is not None and not speed > 0:
            raise ValueError(f"{op}: {what} must be positive; got {speed!r}")
    count = count_bound(geometry, bias=bias, targets=targets)
    return Roofline(count.total, elements_moved(geometry, targets, bias) * ITEM_SIZES[name], peak, bandwidth)


def elements_moved(geometry: Geometry, targets: Sequence[str] = ("output",), bias: bool = False) -> int:
    """Count the numbers that must cross the memory bus, given a cache that holds everything.

    What no tap meets is not read (a stride that exceeds the reach skips inputs); results are written whole, zeros
    included. Gradients computed together share what they read.
    """
    met = incidence(geometry)
    n, c_in, c_out = geometry.n, geometry.c_in, geometry.c_out
    weights = c_out * (c_in // geometry.groups)
    taps = math.prod(axis.taps for axis in geometry.axes)
    inputs = n * c_in * math.prod(axis.size for axis in geometry.axes)
    outputs = n * c_out * math.prod(axis.out for axis in geometry.axes)
    read_x = n * c_in * met.inputs if c_out else 0
    read_weight = weights * met.taps if n else 0
    read_outputs = n * c_out * met.outputs if c_in else 0
    if "output" in targets:
        read_bias = c_out if bias and outputs else 0
        return read_x + read_weight + read_bias + outputs
    moved = 0
    if "x" in targets:
        moved += read_weight + inputs
    if "weight" in targets:
        moved += read_x + weights * taps
    if "bias" in targets:
        moved += outputs + c_out
    elif targets:
        moved += read_outputs
    return moved
