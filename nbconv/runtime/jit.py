"""The decorators of the house: every compiled function of the package is made here.

Flags are a named set without `nnan` and `ninf`: NaN and infinity must propagate as in the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numba
from numba import prange
from numba.extending import overload

__all__ = ["SAFE_MATH", "Twins", "overload", "prange", "pure", "serial", "serial_math", "twins"]

SAFE_MATH = frozenset({"contract", "nsz", "arcp"})

F = TypeVar("F", bound=Callable[..., Any])

_COMMON: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def pure() -> bool:
    """Say whether kernels run as plain Python (``NUMBA_DISABLE_JIT=1``)."""
    return bool(numba.config.DISABLE_JIT)


def serial(function: F) -> F:
    """Compile for one thread."""
    return numba.njit(**_COMMON)(function)  # type: ignore[no-any-return]


def serial_math(function: F) -> F:
    """Compile a scalar function with the safe flags; it disappears into its caller, whose loop can then vectorise."""
    return numba.njit(fastmath=set(SAFE_MATH), forceinline=True, **_COMMON)(function)  # type: ignore[no-any-return]


class Twins(Generic[F]):
    """One loop over `prange`, compiled twice, each on first use: `serial` and `parallel` give the same bits."""

    def __init__(self, function: F) -> None:
        self.serial: F = numba.njit(**_COMMON)(function)
        self.parallel: F = numba.njit(parallel=True, **_COMMON)(function)


def twins(function: F) -> Twins[F]:
    """Compile one body as a serial and a parallel function."""
    return Twins(function)
