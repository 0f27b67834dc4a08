"""Streams in whatever form they come, and the order between them."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .arrays import DeviceArray
from .driver import SIMULATED, cuda

__all__ = ["choose_stream", "follow", "stream_handle"]

_LEGACY = 1  # another name of the default stream's handle, 0


def choose_stream(op: str, stream: Any, arrays: Sequence[DeviceArray]) -> Any:
    """Give the stream to launch on: the caller's, else the current one of the package that made the first array.

    Where an array says that its maker works on another stream, ours waits for what is in flight there. Nothing here
    makes the host wait.

    Raises
    ------
    TypeError
        Where `stream` is no stream.
    """
    if SIMULATED:
        return 0
    handle = _current(arrays[0]) if stream is None else stream_handle(op, stream)
    ours = _stream(arrays[0].device, handle)
    for other in {array.stream for array in arrays if array.stream is not None}:
        theirs = 0 if other == _LEGACY else other
        if theirs != handle:
            _follow(ours, _stream(arrays[0].device, theirs))
    return ours


def follow(device: int, handle: int, theirs: Any) -> None:
    """Make the stream of a handle wait for what is in flight on another; `device` must be the current one."""
    ours = _stream(device, 0 if handle == _LEGACY else handle)
    if ours is not theirs:
        _follow(ours, theirs)


def _follow(ours: Any, theirs: Any) -> None:
    event = cuda.event(timing=False)
    event.record(theirs)
    event.wait(ours)


@lru_cache(maxsize=256)
def _stream(device: int, handle: int) -> Any:
    """Wrap a handle; the default stream of the device `device`, too, which must be the current one."""
    return cuda.external_stream(handle) if handle else cuda.default_stream()


def _current(array: DeviceArray) -> int:
    if array.maker == "torch":
        handle = sys.modules["torch"].cuda.current_stream(array.device).cuda_stream
    elif array.maker == "cupy":
        handle = sys.modules["cupy"].cuda.get_current_stream().ptr
    else:
        handle = array.stream or 0
    return 0 if handle == _LEGACY else int(handle)


def stream_handle(op: str, stream: Any) -> int:
    """Give the handle of a stream in any form."""
    handle = stream
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        handle = (protocol() if callable(protocol) else protocol)[1]
    else:
        for name in ("cuda_stream", "ptr", "handle"):  # of PyTorch, CuPy, Numba
            handle = getattr(stream, name, handle)
    handle = getattr(handle, "value", handle) or 0
    try:
        handle = operator.index(handle)
    except TypeError:
        raise TypeError(
            f"{op}: stream must be a CUDA stream of PyTorch, CuPy, Numba or cuda.core, or its handle as an int; "
            f"got {stream!r}"
        ) from None
    return 0 if handle == _LEGACY else handle
