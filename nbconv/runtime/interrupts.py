"""Ctrl-C while modules are imported and code is compiled: what it raises there may be lost, or become another error."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["interrupts_wait"]


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Raise what Ctrl-C raises at the end of a block, not within it."""
    may_wait = threading.current_thread() is threading.main_thread()
    if not may_wait or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda *what: came.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
