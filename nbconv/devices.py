"""Arrays that live on a device, told apart without importing any of the packages that make them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["DeviceError", "on_device"]

_CUDA_KINDS = (2, 13)  # of DLPack: device memory, managed memory


class DeviceError(RuntimeError):
    """No device can do what was asked: a package, a driver or the device itself is missing; the text says which."""


def on_device(value: Any) -> bool:
    """Say whether `value` is an array in the memory of a CUDA device."""
    if type(value) is np.ndarray or value is None:
        return False
    kind = type(value)
    if hasattr(kind, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) in _CUDA_KINDS
    # Numba's arrays, real and simulated, are told by the first name.
    return hasattr(kind, "__cuda_ndarray__") or hasattr(value, "__cuda_array_interface__")
