"""Results for those whose arrays offer DLPack and nothing else: arrays on a device that do the same.

Source: the Python side of DLPack, https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from .dlpack import CUDA, DELETER, FRESH, Managed, type_of

__all__ = ["Offered"]

_new = ctypes.pythonapi.PyCapsule_New
_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, _DESTRUCTOR)
# By address: a destructor's capsule has no references left, and must not be given new ones.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_held: dict[int, Any] = {}  # what the tensors that are out hold, by their addresses


@DELETER
def _free(managed: Any) -> None:
    _held.pop(ctypes.addressof(managed.contents), None)


@_DESTRUCTOR
def _drop(capsule: int) -> None:
    if _is_valid(capsule, FRESH):  # nobody took what is in it
        _held.pop(_pointer_of(capsule, FRESH), None)


class Offered:
    """An array on a device, C-contiguous, that offers DLPack; `array` is the same memory as an array of Numba."""

    def __init__(self, array: Any, pointer: int, device: int, shape: tuple[int, ...], dtype: str) -> None:
        self.array, self.shape, self.dtype = array, shape, dtype
        self._pointer, self._device = pointer, device
        self.come_before: Callable[[int], None] | None = None
        """Makes a stream, given its handle, wait for what computes the numbers."""

    def __repr__(self) -> str:
        return f"<{self.dtype} {self.shape} on CUDA device {self._device}, by DLPack>"

    def __dlpack_device__(self) -> tuple[int, int]:
        """Say where the memory is."""
        return CUDA, self._device

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        """Give a capsule; work on `stream` (None: the default stream) finds the numbers computed, with -1 it may not.

        Raises
        ------
        BufferError
            Where `options` of later versions of DLPack ask for a copy, or for another device.
        """
        if options.get("dl_device") not in (None, self.__dlpack_device__()):
            raise BufferError(f"the array is on CUDA device {self._device}; got dl_device {options['dl_device']!r}")
        if options.get("copy"):
            raise BufferError("the array is offered as it is: copy it on its device")
        if stream != -1 and self.come_before is not None:
            self.come_before(int(stream or 0))
        sizes = (ctypes.c_int64 * len(self.shape))(*self.shape)
        managed = Managed(deleter=_free)
        tensor = managed.tensor
        tensor.data, tensor.device_type, tensor.device_id = self._pointer, CUDA, self._device
        tensor.type_code, tensor.type_bits = type_of(self.dtype)
        tensor.type_lanes, tensor.ndim = 1, len(self.shape)
        tensor.shape = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
        address = ctypes.addressof(managed)
        _held[address] = managed, sizes, self
        return _new(address, FRESH, _drop)
