"""Channels-last convolutions for NumPy arrays, compiled by Numba: no PyTorch at run time.

Importing this package loads NumPy only; kernels are compiled, or loaded, at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .runtime import forking as _forking  # noqa: F401

__version__ = "0.1.0"

# public name -> the module that defines it
_HOMES = {
    "conv1d": "functional",
    "conv2d": "functional",
    "conv_transpose1d": "functional",
    "conv_transpose2d": "functional",
    "ConvGrads": "backward",
    "conv1d_backward": "backward",
    "conv2d_backward": "backward",
    "conv_transpose1d_backward": "backward",
    "conv_transpose2d_backward": "backward",
    "DeviceError": "devices",
    "im2col": "columns",
    "col2im": "columns",
    "Conv1d": "layers",
    "Conv2d": "layers",
    "ConvTranspose1d": "layers",
    "ConvTranspose2d": "layers",
    "Sequential": "sequential",
    "OperationCount": "counting",
    "count_operations": "counting",
    "Roofline": "time_floor",
    "roofline": "time_floor",
    "get_num_threads": "runtime.threads",
    "num_threads": "runtime.threads",
    "set_num_threads": "runtime.threads",
    "threading_info": "runtime.threads",
    "warmup": "warming",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .backward import ConvGrads as ConvGrads
    from .backward import conv1d_backward as conv1d_backward
    from .backward import conv2d_backward as conv2d_backward
    from .backward import conv_transpose1d_backward as conv_transpose1d_backward
    from .backward import conv_transpose2d_backward as conv_transpose2d_backward
    from .columns import col2im as col2im
    from .columns import im2col as im2col
    from .counting import OperationCount as OperationCount
    from .counting import count_operations as count_operations
    from .devices import DeviceError as DeviceError
    from .functional import conv1d as conv1d
    from .functional import conv2d as conv2d
    from .functional import conv_transpose1d as conv_transpose1d
    from .functional import conv_transpose2d as conv_transpose2d
    from .layers import Conv1d as Conv1d
    from .layers import Conv2d as Conv2d
    from .layers import ConvTranspose1d as ConvTranspose1d
    from .layers import ConvTranspose2d as ConvTranspose2d
    from .runtime.threads import get_num_threads as get_num_threads
    from .runtime.threads import num_threads as num_threads
    from .runtime.threads import set_num_threads as set_num_threads
    from .runtime.threads import threading_info as threading_info
    from .sequential import Sequential as Sequential
    from .time_floor import Roofline as Roofline
    from .time_floor import roofline as roofline
    from .warming import warmup as warmup
