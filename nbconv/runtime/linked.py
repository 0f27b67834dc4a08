"""Helpers that are only ever linked into their callers.

Numba optimises and assembles each function alone, and again wherever it is linked into a caller: five floors of helpers
are optimised fifteen times. What is called by compiled code only is left raw here, and optimised once, in its caller.
The hooks are private; where one is gone, helpers are compiled as all functions are.
"""

from __future__ import annotations

import itertools
from typing import Any

from numba.core import codegen, compiler

__all__ = ["link_only"]

_number = itertools.count()
_HOOKS = (
    "_ensure_finalized",
    "_finalize_dynamic_globals",
    "_finalize_final_module",
    "_optimize_final_module",
    "_optimize_functions",
)


def link_only() -> dict[str, Any]:
    """Give the options of a function that is compiled for its callers only."""
    library = getattr(codegen, "JITCodeLibrary", None)
    if library is None or not all(hasattr(library, name) for name in _HOOKS) or not hasattr(compiler, "Compiler"):
        return {}
    return {"pipeline_class": _compiler_of(library), "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _compiler_of(library_class: Any) -> Any:
    class Raw(library_class):  # type: ignore[misc]
        """Code as it left Numba: neither optimised nor assembled, for linking."""

        @property
        def codegen(self) -> Any:
            return _Codegen(super().codegen)

        def get_pointer_to_function(self, name: str) -> int:
            self._ensure_finalized()
            return 0

        def _optimize_functions(self, module: Any) -> None:
            module.data_layout = self._codegen._data_layout

        def _optimize_final_module(self) -> None:
            pass

        def _finalize_final_module(self) -> None:
            self._finalize_dynamic_globals()
            self._finalized = True

    class Compiler(compiler.Compiler):  # type: ignore[misc]
        def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
            if library is None:
                library = Raw(target_context.codegen(), f"nbconv.helper{next(_number)}")
            super().__init__(typing_context, target_context, library, *rest)

    return Compiler


class _Codegen:
    """The code generator, but for the environment of a function that has no address of its own."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Leave the environment alone: code that cannot raise does not look at it."""
