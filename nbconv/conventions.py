"""Operation counts as two other projects give them, for comparison; both overcount (see `nbconv.counting`)."""

from __future__ import annotations

import math

from .geometry import Geometry
from .incidence import incidence

__all__ = ["flop_counter", "moduleprofiler"]


def flop_counter(geometry: Geometry, target: str = "output") -> int:
    """Count as ``torch.utils.flop_counter`` does: two operations for every tap of every position, met or not.

    Parameters
    ----------
    geometry
        The bound convolution.
    target
        ``"output"`` for the forward pass, else the gradient: ``"x"``, ``"weight"`` or ``"bias"``.

    Returns
    -------
    int
        Bias and its gradient count nothing.

    Notes
    -----
    Follows ``conv_flop_count`` and ``conv_backward_flop`` of PyTorch 2.13. The latter forgets the groups in the
    gradient of the weight: a grouped layer counts `groups` times as much there as in its other two passes.
    """
    if target == "bias":
        return 0
    taps = math.prod(axis.taps for axis in geometry.axes)
    positions = math.prod(axis.size if geometry.spec.transposed else axis.out for axis in geometry.axes)
    groups = 1 if target == "weight" else geometry.groups
    return 2 * geometry.n * positions * taps * geometry.c_out * geometry.c_in // groups


def moduleprofiler(geometry: Geometry, bias: bool) -> int:
    """Count a forward pass by the formulas that ``moduleprofiler`` publishes for its convolution layers.

    Parameters
    ----------
    geometry
        The bound convolution.
    bias
        Whether the layer has one.

    Returns
    -------
    int
        The formula's value, in whole numbers throughout.

    Notes
    -----
    From the pages ``Conv1d``, ``Conv2d`` and ``ConvTranspose1d`` of its documentation; ``ConvTranspose2d`` is the same
    with `k` and `Lo` multiplied over the axes. The published `additions_per_filter`, the sum of `y - 1` over a
    transposed convolution `y` of ones with ones, is `pairs - Lo` here. The program builds its `y` without the output
    padding and sums it in floating point: there, and at very large sizes, it can differ from its own formula.
    """
    taps = math.prod(axis.taps for axis in geometry.axes)
    out = math.prod(axis.out for axis in geometry.axes)
    filters = geometry.c_in * geometry.c_out // geometry.groups
    if geometry.spec.transposed:
        additions_per_filter = incidence(geometry).pairs - out
        operations = filters * (out * (taps + 1) + additions_per_filter)
    else:
        operations = 2 * taps * filters * out
    return geometry.n * (operations - (0 if bias else geometry.c_out * out))
