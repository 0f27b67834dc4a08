"""No garbage collection while Numba compiles: it makes millions of objects and no garbage, and all would be looked at.

A tenth of the time of a first call is spent so.
"""

from __future__ import annotations

import gc
from typing import Any

from numba.core import event

__all__ = ["compile_patiently"]


class _Patience(event.Listener):  # type: ignore[misc]
    """Switches collection off while functions of this package are compiled, in one thread at a time."""

    def __init__(self) -> None:
        self.depth, self.was_enabled = 0, False

    def on_start(self, event: Any) -> None:
        """Switch off with the outermost function."""
        if not _is_own(event):
            return
        if self.depth == 0:
            self.was_enabled = gc.isenabled()
            gc.disable()
        self.depth += 1

    def on_end(self, event: Any) -> None:
        """Switch on again, as it was; Numba calls this after failures too."""
        if not _is_own(event):
            return
        self.depth -= 1
        if self.depth == 0 and self.was_enabled:
            gc.enable()


def _is_own(event: Any) -> bool:
    function = getattr(event.data.get("dispatcher"), "py_func", None)
    return getattr(function, "__module__", "").startswith(__package__.partition(".")[0] + ".")


def compile_patiently() -> None:
    """Do so from now on."""
    event.register("numba:compile", _Patience())
