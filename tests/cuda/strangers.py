"""Arrays of other packages, made up: what nbconv touches of PyTorch's, CuPy's and others' arrays on a device.

Their memory is the host's, as a pretended device's is.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest


class Tensor:
    """What nbconv touches of a `torch.Tensor` on a CUDA device."""

    __module__ = "torch"

    def __init__(self, array: np.ndarray, *, requires_grad: bool = False, device: int = 0) -> None:
        self.array, self.requires_grad = array, requires_grad
        self.shape = array.shape
        self.dtype = TorchType(array.dtype.name)
        self.device = SimpleNamespace(type="cuda", index=device)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.index

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)


class TorchType:
    """A `torch.dtype`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"


class Stream:
    """A `torch.cuda.Stream`, or one of CuPy."""

    def __init__(self, handle: int) -> None:
        self.cuda_stream = self.ptr = handle


class Torch(ModuleType):
    """A made-up module torch: its current stream has the handle 0."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.Tensor, self.grad = Tensor, True
        self.streams: list[int] = []
        for name in ("float16", "bfloat16", "float32", "float64"):
            setattr(self, name, TorchType(name))
        current = SimpleNamespace(handle=0)

        @contextmanager
        def stream(one: Any) -> Any:
            before, current.handle = current.handle, one.cuda_stream
            self.streams.append(one.cuda_stream)
            yield
            current.handle = before

        self.cuda = SimpleNamespace(
            current_stream=lambda device: Stream(current.handle),
            stream=stream,
            ExternalStream=lambda handle, device: Stream(handle),
        )

    def is_grad_enabled(self) -> bool:
        return self.grad

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: TorchType, device: Any) -> Tensor:
        kind = np.dtype(ml_dtypes.bfloat16 if dtype.name == "bfloat16" else dtype.name)
        return Tensor(aligned(np.full(shape, np.nan, kind)))


class CupyArray:
    """What nbconv touches of a `cupy.ndarray`."""

    __module__ = "cupy"

    def __init__(self, array: np.ndarray, stream: int | None = None, readonly: bool = False, device: int = 0) -> None:
        self.array, self.dtype, self.shape = array, array.dtype, array.shape
        self.stream, self.readonly = stream, readonly
        self.device = SimpleNamespace(id=device)
        self.data = SimpleNamespace(ptr=array.ctypes.data)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        contiguous = self.array.flags.c_contiguous
        interface = {
            "shape": self.array.shape, "strides": None if contiguous else self.array.strides, "version": 3,
            "typestr": self.array.dtype.str, "data": (self.array.ctypes.data, self.readonly),
        }  # fmt: skip
        return interface if self.stream is None else {**interface, "stream": self.stream}


class Cupy(ModuleType):
    """A made-up module cupy."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.ndarray = CupyArray
        self.cuda = SimpleNamespace(get_current_stream=lambda: Stream(0))

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: Any) -> CupyArray:
        return CupyArray(aligned(np.full(shape, np.nan, dtype)))


class Interface:
    """An array that offers `__cuda_array_interface__` and nothing else."""

    def __init__(self, **interface: Any) -> None:
        self.__cuda_array_interface__ = {"version": 3, "strides": None, **interface}

    @staticmethod
    def of(array: np.ndarray) -> Interface:
        made = Interface(shape=array.shape, typestr=array.dtype.str, data=(array.ctypes.data, False))
        made.array = array  # type: ignore[attr-defined]
        return made


class Capsule:
    """An array that offers DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.streams += [] if stream is None else [stream]
        return self.array.__dlpack__()


def aligned(array: np.ndarray) -> np.ndarray:
    """Copy to an address that is a multiple of 256, as a device's allocations are."""
    raw = np.empty(array.nbytes + 256, np.uint8)
    start = -raw.ctypes.data % 256
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    """Put a made-up torch in the place of the real one."""
    module = Torch()
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Cupy:
    """Put a made-up cupy in the place of the real one."""
    module = Cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module
