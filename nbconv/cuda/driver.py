"""The one place that imports numba-cuda: kernels take `cuda` from here.

Importing this module imports the compiler, but touches no driver; `require_device` does.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np

from ..devices import DeviceError

__all__ = [
    "SIMULATED",
    "compute_capability",
    "cuda",
    "device_count",
    "inlined",
    "kernel",
    "pointer_device",
    "require_device",
    "simulated_array",
    "wait",
]

INSTALL = 'pip install "nbconv[cuda12]" (or "nbconv[cuda13]", after the CUDA version that `nvidia-smi` shows)'


def _import() -> Any:
    """Import numba-cuda; the CUDA target that Numba once had inside is another, unmaintained one."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise DeviceError(f"arrays on a CUDA device need the package numba-cuda: {INSTALL}")
    # NumPy 2.5 removed names that numba-cuda 0.30 still looks up while its modules are imported, some of them only at
    # the first compilation.
    missing = {"row_stack": np.vstack}
    missing = {name: value for name, value in missing.items() if not hasattr(np, name)}
    for name, value in missing.items():
        setattr(np, name, value)
    try:
        from numba import cuda

        if not cuda.config.ENABLE_CUDASIM:
            import numba.cuda.np.arrayobj  # noqa: F401
    except ImportError as error:
        raise DeviceError(f"numba-cuda cannot be imported ({error}): {INSTALL}") from error
    finally:
        for name in missing:
            delattr(np, name)
    return cuda


cuda: Any = _import()
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
if SIMULATED:
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray


def inlined(function: Any) -> Any:
    """Make a device function that is inlined wherever it is called, so that its arrays stay in registers."""
    return cuda.jit(device=True, **({} if SIMULATED else {"forceinline": True}))(function)


def kernel(*, launch_bounds: int | tuple[int, ...] | None = None) -> Any:
    """Decorate a kernel; `launch_bounds` is (threads a block, blocks a multiprocessor), which bounds the registers."""
    return cuda.jit(**({} if SIMULATED or launch_bounds is None else {"launch_bounds": launch_bounds}))


def device_count() -> int:
    """Count the CUDA devices; 0 where no driver is found."""
    try:
        return require_device()
    except DeviceError:
        return 0


def compute_capability(device: int) -> tuple[int, int]:
    """Give what NVIDIA calls a device's generation, such as (9, 0)."""
    return (9, 0) if SIMULATED else tuple(cuda.gpus[device].compute_capability)


@lru_cache(maxsize=1)
def require_device() -> int:
    """Count the CUDA devices; raise DeviceError where there is none, so that no kernel can run."""
    if SIMULATED:
        return 1
    count = len(cuda.gpus) if cuda.is_available() else 0
    if count:
        return count
    from numba.cuda.cudadrv.driver import driver

    reason = " ".join(str(driver.initialization_error or "no device was found").split()).rstrip(".")
    raise DeviceError(f"no CUDA device can be used: {reason}; see `nvidia-smi`. To install what is needed: {INSTALL}")


def pointer_device(pointer: int) -> int:
    """Say which device the memory at an address is on; no memory at all is on the current one."""
    if SIMULATED or device_count() == 1:
        return 0
    if not pointer:
        return int(cuda.get_current_device().id)
    from cuda.bindings import driver as bindings

    attribute = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error, device = bindings.cuPointerGetAttribute(attribute, pointer)
    if int(error):
        raise DeviceError(f"the address {pointer:#x} is no memory of a CUDA device ({error})")
    return int(device)


def simulated_array(array: np.ndarray) -> Any:
    """Give the simulator's device array that shares the memory of `array`."""
    return FakeCUDAArray(array)


def wait(stream: Any) -> None:
    """Make the host wait for all work on a stream."""
    if not SIMULATED and stream:
        stream.synchronize()
