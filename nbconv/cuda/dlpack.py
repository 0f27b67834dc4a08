"""Arrays of other packages through DLPack, for those that offer nothing else.

Source: the structures of DLPack 0.8, https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

__all__ = ["CUDA", "DELETER", "FRESH", "Managed", "Tensor", "take", "type_of"]

_FLOAT, _BFLOAT = 2, 4
_TYPES = {(_FLOAT, 16): "float16", (_FLOAT, 32): "float32", (_FLOAT, 64): "float64", (_BFLOAT, 16): "bfloat16"}
FRESH, _USED = b"dltensor", b"used_dltensor"
"""Names of a capsule whose tensor is to be had, and of one from which it was taken."""
CUDA = 2  # the kind of device


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    """A tensor and what frees it."""


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(Managed))
Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER))

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.restype, _set_name.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)


class _Owner:
    """Keeps the memory of a tensor that was taken, until nothing needs it."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed and self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)
        self._managed = None


class Tensor(NamedTuple):
    """What a capsule holds; `steps` (strides in numbers) is None if it is contiguous, `dtype` if it is unknown."""

    pointer: int
    device: int
    shape: tuple[int, ...]
    steps: tuple[int, ...] | None
    dtype: str | None
    owner: Any


def type_of(dtype: str) -> tuple[int, int]:
    """Give DLPack's code and bits of a type."""
    return next(code for code, name in _TYPES.items() if name == dtype)


def take(value: Any, **options: Any) -> Tensor:
    """Take the tensor that `value.__dlpack__(**options)` offers; its memory lives as long as the result's `owner`."""
    capsule = value.__dlpack__(**options)
    managed = ctypes.cast(_get_pointer(capsule, FRESH), ctypes.POINTER(Managed))
    _set_name(capsule, _USED)  # from now on the owner frees it, not the capsule
    tensor = managed.contents.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    steps = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    dtype = _TYPES.get((tensor.type_code, tensor.type_bits)) if tensor.type_lanes == 1 else None
    return Tensor((tensor.data or 0) + tensor.byte_offset, tensor.device_id, shape, steps, dtype, _Owner(managed))
