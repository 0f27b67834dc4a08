"""The decorators of the house: every compiled function of the package is made here.

Flags are a named set without `nnan` and `ninf`: NaN and infinity must propagate as in the definition.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy.ma  # noqa: F401  (Numba does at its first call, where a fork in another thread would meet it)
from llvmlite.binding import ffi
from numba import extending
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUTargetOptions
from numba.core.typing import templates

from . import cache
from .linked import link_only
from .patience import compile_patiently

__all__ = [
    "SAFE_MATH",
    "callback",
    "compile_on_use",
    "compiler_lock",
    "emitted",
    "helper",
    "llvm_lock",
    "maker",
    "overload",
    "pure",
    "serial",
    "serial_math",
]

compile_patiently()

SAFE_MATH = frozenset({"contract", "nsz", "arcp"})

# Numba compiles in one thread at a time. No other lock may be held meanwhile: a fork waits for these two only.
compiler_lock = global_compiler_lock
# Held in each call of LLVM, also where no one compiles: as what was compiled from is freed, which may take a while.
llvm_lock: Any = getattr(ffi.lib, "_lock", None) or contextlib.nullcontext()

F = TypeVar("F", bound=Callable[..., Any])

_COMMON: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# Private, and handed on to what is called; without it helpers count references, which only costs.
_COUNTS = "_nrt" if hasattr(CPUTargetOptions, "_nrt") else None


def pure() -> bool:
    """Say whether kernels run as plain Python (``NUMBA_DISABLE_JIT=1``)."""
    return bool(numba.config.DISABLE_JIT)


def compile_on_use(function: F, **options: Any) -> F:
    """Compile for the types of a first call, or load: see `cache`."""
    options |= _COMMON
    compiled = numba.njit(**options)(function)
    # What a closure holds is not in the source that the cache's key stands for.
    if function.__closure__ is None:
        cache.attach(compiled, f"{function.__module__}.{function.__qualname__}", options)
    return compiled


def serial(function: F) -> F:
    """Compile for one thread."""
    return compile_on_use(function)


def _counting(counts: bool) -> dict[str, Any]:
    return {} if _COUNTS is None else {_COUNTS: counts}


def helper(function: F) -> F:
    """Compile for one thread, to be called by compiled code only: cheaper to compile.

    It makes no arrays, and borrows those that it is given: to count its references to them would take as long as a
    small tile.
    """
    return numba.njit(**_counting(False), **_COMMON, **link_only())(function)


def maker(function: F) -> F:
    """Compile a helper that makes arrays."""
    return numba.njit(**_counting(True), **_COMMON, **link_only())(function)


def overload(plain: Callable[..., Any]) -> Callable[[F], F]:
    """Say what compiled code runs where it calls `plain`: what the decorated function returns for given types."""
    return extending.overload(plain, jit_options={"error_model": "numpy", **link_only()})


def emitted(plain: Callable[..., Any]) -> Callable[[F], F]:
    """Say what LLVM code stands where compiled code calls `plain`: the decorated function is as one of `intrinsic`.

    Nothing is compiled around it, as there would be with `overload`.
    """

    def register(define: F) -> F:
        template = templates.make_intrinsic_template(plain, define, plain.__name__)
        templates.infer(template)
        templates.infer_global(plain, types.Function(template))
        return define

    return register


def serial_math(function: F) -> F:
    """Compile a scalar function with the safe flags; it disappears into its caller, whose loop can then vectorise."""
    return numba.njit(fastmath=set(SAFE_MATH), forceinline=True, **_COMMON)(function)


def callback(signature: Any, function: Callable[..., None], name: str | None, *, fast: bool = False) -> Any:
    """Compile a function now, for calls through its `address`.

    `name` must say all that the function's closure holds, for the cache; None keeps it out of the cache.
    """
    options: dict[str, Any] = {"nopython": True}
    if fast:
        options["fastmath"] = set(SAFE_MATH)
    compiled = CFunc(function, (signature.args, signature.return_type), locals={}, options=options)
    if name is not None:
        cache.attach(compiled, f"{function.__module__}.{name}", options)
    compiled.compile()
    return compiled
