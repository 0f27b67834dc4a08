"""The CUDA side: kernels in numba-cuda, loaded only when a device array arrives or a device is asked for."""
