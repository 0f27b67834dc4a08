"""A CUDA device that is none: the package's own front on arrays in host memory, each launch run by the interpreter.

Everything from the public functions down to the instructions is the real thing, except for the memory and the launch:
the choice of kernels, their grids, tables and packed weights are checked along with the kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from tests.cuda.checks.artifacts import artifacts
from tests.cuda.checks.ptx_interpreter import Report, launch
from tests.cuda.checks.ptx_memory import Buffer, GlobalMemory
from tests.cuda.checks.toolchain import SM_90A, Architecture

DEVICES = [SimpleNamespace(id=0, name=b"a pretended device", compute_capability=(9, 0), MULTIPROCESSOR_COUNT=132)]


class PretendArray:
    """A NumPy array that looks like numba-cuda's device arrays."""

    def __init__(self, array: np.ndarray, owner: Any = None) -> None:
        self.array, self.owner = array, owner
        self.shape, self.dtype, self.size, self.ndim = array.shape, array.dtype, array.size, array.ndim
        self.strides, self.nbytes = array.strides, array.nbytes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Tell where the memory is."""
        contiguous = self.array.flags.c_contiguous
        return {
            "shape": self.shape,
            "strides": None if contiguous else self.strides,
            "typestr": self.dtype.str,
            "data": (self.array.ctypes.data if self.size else 0, False),
            "version": 3,
        }

    def copy_to_host(self, ary: Any = None, stream: Any = 0) -> np.ndarray:
        """Copy what is there."""
        if ary is None:
            return self.array.copy()
        ary[...] = self.array
        return np.asarray(ary)

    def __getitem__(self, index: Any) -> Any:
        """Give a view, as numba-cuda does."""
        return PretendArray(self.array[index], self)


def to_device(array: Any, stream: Any = 0, copy: bool = True, to: Any = None) -> PretendArray:
    """Copy an array to the pretended device."""
    return PretendArray(_aligned_copy(np.asarray(array)))


def device_array(shape: Any, dtype: Any = np.float64, strides: Any = None, order: str = "C", stream: Any = 0) -> Any:
    """Allocate an array; all of its bytes are 255, so that what is never written is NaN."""
    empty = _aligned_copy(np.empty(shape, dtype))
    empty.view(np.uint8 if empty.ndim else empty.dtype)[...] = 255
    return PretendArray(empty)


def from_cuda_array_interface(interface: dict[str, Any], owner: Any = None, sync: bool = True) -> PretendArray:
    """View memory of the pretended device."""
    (pointer, _), (count,) = interface["data"], interface["shape"]
    dtype = np.dtype(interface["typestr"])
    if not count:
        return PretendArray(np.empty(0, dtype), owner)
    raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(pointer)
    return PretendArray(np.frombuffer(raw, dtype), owner)


def _aligned_copy(array: np.ndarray) -> np.ndarray:
    """Copy to an address that is a multiple of 256, as a device's allocations are."""
    raw = np.empty(array.nbytes + 256, np.uint8)
    start = -raw.ctypes.data % 256
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@dataclass
class Device:
    """The pretended device: what was launched, and the reports."""

    architecture: Architecture = SM_90A
    launches: list[tuple[str, Report]] = field(default_factory=list)

    def launch(self, kernel: Any, grid: Any, block: int, shared: int, arguments: tuple[Any, ...]) -> None:
        """Interpret one launch; results are written back to the arrays."""
        memory = GlobalMemory()
        buffers: dict[tuple[int, int], Buffer] = {}
        arrays = []
        given: list[Any] = []
        for argument in arguments:
            if not isinstance(argument, PretendArray):
                given.append(argument)
                continue
            key = (argument.array.ctypes.data, argument.nbytes)
            if key not in buffers:
                _refuse_overlap(key, buffers)
                buffers[key] = memory.add(argument.array, "both")
                arrays.append((argument.array, buffers[key]))
            given.append(buffers[key])
        ptx = artifacts(kernel, tuple(map(type_of, arguments))).ptx(self.architecture)
        report = launch(ptx, grid, (block, 1, 1), given, memory, dynamic_shared=shared)
        for array, buffer in arrays:
            if array.flags.writeable and (buffer.writers >= 0).any():
                array[...] = buffer.content()
        self.launches.append((kernel.py_func.__name__, report))


def _refuse_overlap(key: tuple[int, int], buffers: dict[tuple[int, int], Buffer]) -> None:
    start, size = key
    for other, length in buffers:
        if size and length and start < other + length and other < start + size:
            raise NotImplementedError("arguments that overlap in part")


def type_of(argument: Any) -> Any:
    """Give Numba's type of an argument of a kernel."""
    from numba.cuda import types
    from numba.cuda.np.numpy_support import from_dtype

    if isinstance(argument, PretendArray):
        return types.Array(from_dtype(argument.dtype), argument.ndim, "C")
    if isinstance(argument, np.generic):
        return from_dtype(argument.dtype)
    return {int: types.int64, float: types.float64}[type(argument)]


@contextmanager
def pretended_device() -> Iterator[Device]:
    """Let the package believe that there is a device, and that numba-cuda's arrays are pretended ones."""
    from nbconv.cuda import plan
    from nbconv.cuda.driver import cuda

    device = Device()

    def run(self: Any, stream: Any, *arguments: Any) -> None:
        if 0 not in self.grid:
            device.launch(self.kernel, self.grid, self.block, self.shared, arguments)

    replaced = {
        "is_available": lambda: True,
        "gpus": DEVICES,
        "to_device": to_device,
        "device_array": device_array,
        "from_cuda_array_interface": from_cuda_array_interface,
        "default_stream": lambda: 0,
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(cuda, name, value))
        stack.enter_context(mock.patch.object(plan.Launch, "__call__", run))
        try:
            yield device
        finally:
            _forget_device_arrays()


def _forget_device_arrays() -> None:
    """Empty the package's caches of what it keeps on devices."""
    import functools
    import sys

    names = [name for name in sys.modules if name.startswith("nbconv.cuda")]
    for name in names:
        for value in list(vars(sys.modules[name]).values()):
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()
