"""How user arrays are described to the tables."""

from __future__ import annotations

import numpy as np

from ..arrays import Flat
from ..geometry import Geometry
from . import tables as T

__all__ = ["four_steps", "half_code", "name_steps"]


def half_code(dtype: np.dtype) -> int:
    """Name the storage type as the tables do."""
    if dtype.itemsize != 2:
        return T.NOT_HALF
    return T.FLOAT16 if dtype.kind == "f" else T.BFLOAT16


def four_steps(flat: Flat, geometry: Geometry) -> tuple[int, int, int, int]:
    """Name the strides (N, H, W, C), whatever axes the array has."""
    return name_steps(flat.steps, geometry)


def name_steps(steps: tuple[int, ...], geometry: Geometry) -> tuple[int, int, int, int]:
    """Name the strides (N, H, W, C) of an array that is not at hand."""
    if not geometry.batched:
        steps = (0, *steps)
    return steps if len(steps) == 4 else (steps[0], 0, *steps[1:])  # type: ignore[return-value]
