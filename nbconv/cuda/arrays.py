"""Device arrays in and out: taken apart without a copy, and made by the package that made the caller's.

An array comes through PyTorch's own attributes, through `__cuda_array_interface__` or through DLPack. Kernels take flat
one-dimensional views of the memory, with strides in numbers beside them; bfloat16 as uint16 words.
"""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..arrays import contiguous_steps, flat_data, flat_steps
from . import dlpack
from .driver import SIMULATED, cuda, pointer_device, simulated_array, wait
from .offered import Offered
from .table import MOST_NUMBERS

__all__ = [
    "POOLS",
    "DeviceArray",
    "download",
    "empty",
    "flat",
    "memory_of",
    "overlap",
    "overlaps_itself",
    "read_array",
    "scratch",
    "upload",
    "words",
]

_own = threading.local()
packed_steps = lru_cache(maxsize=4096)(contiguous_steps)
POOLS = ("torch", "cupy")  # packages that keep freed memory for work on the same stream
COMPUTED = ("float32", "float64", "float16", "bfloat16")


class DeviceArray(NamedTuple):
    """An array on a device, taken apart; `steps` are its strides in numbers."""

    value: Any
    """What the caller gave, or what `empty` made."""
    maker: str
    """The package that makes arrays of this kind: "torch", "cupy" or "numba"; "dlpack" where the array does not say."""
    device: int
    pointer: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    dtype: str
    stream: int | None = None
    """The stream that its maker works on, where the array says so."""
    owner: Any = None
    """What keeps the memory, where it is not `value`."""
    readonly: bool = False
    host_dtype: Any = None
    """NumPy's own type, of arrays that came from the host."""

    @property
    def size(self) -> int:
        """Count of its numbers."""
        return prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Say whether its numbers lie side by side in the order of its axes."""
        return self.steps == packed_steps(self.shape)

    @property
    def aligned(self) -> bool:
        """Say whether it starts at a multiple of 16 bytes."""
        return self.pointer % 16 == 0

    @property
    def span(self) -> tuple[int, int]:
        """Give the first place of its memory, in numbers from its own first number, and the length of it all."""
        if not self.size or self.contiguous:
            return 0, self.size
        reaches = [(size - 1) * step for size, step in zip(self.shape, self.steps, strict=True)]
        low = sum(reach for reach in reaches if reach < 0)
        return low, sum(reach for reach in reaches if reach > 0) - low + 1


@lru_cache(maxsize=16)
def words(dtype: str) -> np.dtype[Any]:
    """Give the type of the numbers that kernels see: bfloat16 as uint16 words."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def read_array(op: str, name: str, value: Any, stream: int | None = None) -> DeviceArray:
    """Take an array on a device apart; `stream` is the handle of the one that will work on it, if the caller named one.

    Raises
    ------
    TypeError
        Where its numbers are of a type that nbconv does not compute, or it records gradients.
    """
    if SIMULATED:
        array = _read_simulated(value)
    elif _is(value, "torch", "Tensor"):
        array = _read_torch(op, name, value)
    elif hasattr(value, "__cuda_array_interface__"):
        array = _read_interface(op, name, value)
    else:
        array = _read_dlpack(op, name, value, stream)
    if array.dtype not in COMPUTED:
        raise TypeError(
            f"{op}: {name} has dtype {array.dtype}; nbconv computes {', '.join(COMPUTED[:-1])} and {COMPUTED[-1]}"
        )
    if array.span[1] > MOST_NUMBERS:
        raise ValueError(
            f"{op}: {name} spans {array.span[1]} numbers; kernels on a device count to {MOST_NUMBERS}: "
            "split the samples"
        )
    return array


def _is(value: Any, package: str, kind: str) -> bool:
    """Say whether `value` is an array of a package, which then is loaded."""
    module = sys.modules.get(package)
    return module is not None and isinstance(value, getattr(module, kind))


def _read_simulated(value: Any) -> DeviceArray:
    array = value._ary
    pointer, steps = array.__array_interface__["data"][0], flat_steps(array.shape, array.strides, array.itemsize)
    return DeviceArray(value, "numba", 0, pointer, array.shape, steps, array.dtype.name)


def _read_torch(op: str, name: str, tensor: Any) -> DeviceArray:
    if tensor.requires_grad and sys.modules["torch"].is_grad_enabled():
        raise TypeError(
            f"{op}: {name} requires grad, which nbconv would not record; use {name}.detach() or torch.no_grad()"
        )
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    steps = flat_steps(shape, tuple(tensor.stride()), 1)
    return DeviceArray(tensor, "torch", tensor.device.index, tensor.data_ptr(), shape, steps, dtype)


def _read_interface(op: str, name: str, value: Any) -> DeviceArray:
    interface = value.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise TypeError(f"{op}: {name} is a masked array, whose mask would be ignored")
    dtype = np.dtype(interface["typestr"])
    named = getattr(getattr(value, "dtype", dtype), "name", dtype.name)
    if not dtype.isnative:
        raise TypeError(f"{op}: {name} has dtype {dtype}, of the other byte order; convert it on its device")
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    if strides is not None and any(step % dtype.itemsize for step in strides):
        raise TypeError(f"{op}: {name} has strides {strides}, no multiples of its {dtype.itemsize} bytes: copy it")
    steps = packed_steps(shape) if strides is None else flat_steps(shape, tuple(strides), dtype.itemsize)
    pointer = interface["data"][0] or 0
    maker = "cupy" if _is(value, "cupy", "ndarray") else "numba"
    device = value.device.id if maker == "cupy" else pointer_device(pointer)
    stream, readonly = interface.get("stream"), bool(interface["data"][1])
    return DeviceArray(value, maker, device, pointer, shape, steps, named, stream, readonly=readonly)


def _read_dlpack(op: str, name: str, value: Any, stream: int | None) -> DeviceArray:
    # The maker lets that stream wait for its own work; 1 is the default stream, whose handle 0 DLPack does not take.
    tensor = dlpack.take(value, **({} if stream is None else {"stream": stream or 1}))
    if tensor.dtype is None:
        raise TypeError(f"{op}: {name} ({type(value).__name__}) has numbers of a type that nbconv does not compute")
    steps = packed_steps(tensor.shape) if tensor.steps is None else flat_steps(tensor.shape, tensor.steps, 1)
    return DeviceArray(
        value, "dlpack", tensor.device, tensor.pointer, tensor.shape, steps, tensor.dtype, owner=tensor.owner
    )


def memory_of(array: DeviceArray) -> tuple[Any, int]:
    """View all the memory that an array spans as flat words; give the place of its first number too.

    The view does not keep the memory: the array must live until the launch.
    """
    if SIMULATED:
        data, start = flat_data(array.value._ary)
        return simulated_array(data.view(words(array.dtype))), start
    kind = words(array.dtype)
    if array.contiguous:
        return _view(array.pointer, array.size, kind, array.device), 0
    low, length = array.span
    return _view(array.pointer + low * kind.itemsize, length, kind, array.device), -low


def flat(array: DeviceArray) -> Any:
    """View a contiguous array as flat words, for a kernel; the array must live until the launch."""
    return memory_of(array)[0]


@lru_cache(maxsize=4096)
def _view(pointer: int, length: int, kind: np.dtype[Any], device: int) -> Any:
    """Name memory for a kernel: an address and a length, found again when the same memory comes again."""
    data = (pointer if length else 0, False)
    return cuda.from_cuda_array_interface(
        {"shape": (length,), "strides": None, "typestr": kind.str, "data": data, "version": 3}
    )


def empty(shape: tuple[int, ...], dtype: str, like: DeviceArray) -> DeviceArray:
    """Make an uninitialised C-contiguous array on the device of `like`, by the package that made that one."""
    steps = packed_steps(shape)
    if like.maker == "torch":
        torch = sys.modules["torch"]
        tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=like.value.device)
        return DeviceArray(tensor, "torch", like.device, tensor.data_ptr(), shape, steps, dtype)
    # Of bfloat16 the caller has the type, NumPy has not; where he has not either, its words are what he gets.
    own = getattr(like.value, "dtype", None)
    kind = own if isinstance(own, np.dtype) and own.name == dtype else words(dtype)
    if like.maker == "cupy":
        array = sys.modules["cupy"].empty(shape, kind)
        return DeviceArray(array, "cupy", like.device, array.data.ptr, shape, steps, dtype)
    array = cuda.device_array(shape, kind)
    if SIMULATED:
        return _read_simulated(array)
    pointer = array.__cuda_array_interface__["data"][0] or 0
    value = Offered(array, pointer, like.device, shape, dtype) if like.maker == "dlpack" else array
    return DeviceArray(value, like.maker, like.device, pointer, shape, steps, dtype)


def upload(array: np.ndarray, device: int) -> DeviceArray:
    """Copy an array of the host to the current device, whose number is `device`."""
    kind = words(array.dtype.name)
    copy = cuda.to_device(np.ascontiguousarray(array).view(kind))
    wait(cuda.default_stream())  # its end, which other streams do not wait for, may still be under way
    pointer = 0 if SIMULATED else copy.__cuda_array_interface__["data"][0]
    steps = packed_steps(array.shape)
    dtype = array.dtype
    return DeviceArray(copy, "numba", device, pointer, array.shape, steps, dtype.name, host_dtype=dtype)


def download(array: DeviceArray, dtype: np.dtype[Any], out: np.ndarray | None, stream: Any) -> np.ndarray:
    """Copy a contiguous array to the host, as an array of `dtype` or into `out`; this waits for it."""
    result: np.ndarray = array.value.copy_to_host(stream=stream)
    wait(stream)
    result = result.view(dtype)
    if out is None:
        return result
    out[...] = result
    return out


def overlap(one: DeviceArray, other: DeviceArray) -> bool:
    """Say whether the memory that two arrays span overlaps."""
    spans = []
    for array in (one, other):
        low, length = array.span
        item = words(array.dtype).itemsize
        spans.append((array.pointer + low * item, array.pointer + (low + length) * item))
    (start, end), (other_start, other_end) = spans
    return one.device == other.device and start < other_end and other_start < end


def overlaps_itself(array: DeviceArray) -> bool:
    """Say whether two places of an array may share memory: each axis must step over all that the finer ones span."""
    span = 1
    for step, size in sorted((abs(step), size) for step, size in zip(array.steps, array.shape, strict=True)):
        if size > 1 and array.size:
            if step < span:
                return True
            span += step * (size - 1)
    return False


def scratch(slot: int, count: int, dtype: str, like: DeviceArray, stream: Any) -> DeviceArray:
    """Give `count` numbers, uninitialised, on the device of `like`, for work on `stream` within one call.

    PyTorch and CuPy pool memory by stream. Numba does not, and freeing makes it wait for the device: so each thread
    keeps what it once needed in a `slot` for work on a stream, whose order makes it free for the next call.
    """
    if like.maker in POOLS:
        return empty((count,), dtype, like)
    kept: dict[Any, DeviceArray] = _own.__dict__.setdefault("scratch", {})
    key = like.device, stream, slot, dtype
    if key not in kept or kept[key].size < count:
        kept[key] = empty((count,), dtype, like)
    return kept[key]
