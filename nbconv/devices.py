"""Arrays that live on a device, told apart without importing any of the packages that make them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["DeviceError", "device_number", "on_device", "refuse_mixed"]

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


def device_number(op: str, device: Any) -> int | None:
    """Read the name of a device: the number of a CUDA device, or None for "cpu".

    Raises
    ------
    ValueError
        For anything else.
    """
    if device == "cpu":
        return None
    kind, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind != "cuda" or (colon and not (number.isdigit() and number.isascii())):
        raise ValueError(f"{op}: device must be 'cpu', 'cuda' or 'cuda:' and a number; got {device!r}")
    return int(number or 0)


def refuse_mixed(op: str, arrays: dict[str, Any]) -> None:
    """Refuse arrays of which some are on a device and some on the host; those that are None are not there.

    Raises
    ------
    TypeError
        The text names one of each.
    """
    sides: dict[bool, str] = {}
    for name, value in arrays.items():
        if value is not None:
            sides.setdefault(on_device(value), name)
    if len(sides) == 2:
        there, here = sides[True], sides[False]
        kinds = type(arrays[there]).__name__, type(arrays[here]).__name__
        raise TypeError(
            f"{op}: {there} ({kinds[0]}) is on a device, {here} ({kinds[1]}) on the CPU; nothing is copied silently: "
            f"bring {here} to the device, or {there} to the CPU"
        )
