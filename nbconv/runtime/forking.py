"""What a fork must wait for, and what the child must forget. Imported with the package; loads nothing.

A lock that another thread holds at a fork stays locked in the child for ever. So the fork waits: for an import that
another thread's first call has begun, for its launch, for its compilation.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from importlib import _bootstrap
from typing import Any

__all__: list[str] = []

_PACKAGE = __name__.rsplit(".", 2)[0]
# Only these: another module's import may never end, where a program runs inside it.
_IMPORTED_LAZILY = (_PACKAGE, "llvmlite", "numba", "numpy")
_TRIES = 20
_held: list[Any] = []


def _before() -> None:
    for _ in range(_TRIES):
        for name in _unfinished_imports():
            with contextlib.suppress(ImportError):  # is raised in that thread too
                importlib.import_module(name)
        threads = sys.modules.get(f"{_PACKAGE}.runtime.threads")
        if threads is not None:
            threads.hold_for_fork()
        # An import may need what is held here, so it is not waited for now.
        if not _unfinished_imports():
            _held.extend([threads] if threads is not None else [])
            return
        if threads is not None:
            threads.resume_after_fork()


def _unfinished_imports() -> list[str]:
    # Python keeps a lock for each module that some thread imports: from before it looks for the file.
    locks: dict[str, Any] = getattr(_bootstrap, "_module_locks", {})
    return [name for name in tuple(locks) if name.partition(".")[0] in _IMPORTED_LAZILY]


def _after_in_parent() -> None:
    if _held:
        _held.pop().resume_after_fork()


def _after_in_child() -> None:
    if _held:
        _held.pop().resume_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
