"""Print what nbconv found on this machine: processor, tiles, threads, cache, CUDA."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator

import numpy as np

import nbconv

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `run`, which has no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print one line a fact; return the exit status."""
    try:
        for name, fact in _facts():
            print(f"{name:<15} {fact}")
    except ValueError as error:  # an environment variable of ours that says nothing sensible
        print(f"nbconv info: error: {error}", file=sys.stderr)
        return 2
    return 0


def _facts() -> Iterator[tuple[str, object]]:
    import llvmlite
    import numba

    from nbconv.cpu.tiles import max_rows, max_vectors
    from nbconv.runtime.cache import cache_info
    from nbconv.runtime.target import host_target, lanes

    yield "nbconv", nbconv.__version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "libraries", f"numpy {np.__version__}, numba {numba.__version__}, llvmlite {llvmlite.__version__}"
    target = host_target()
    yield "processor", target.cpu
    widths = ", ".join(f"{lanes(np.dtype(dtype))} {dtype}" for dtype in ("float32", "float64"))
    yield "vector width", f"{8 * target.vector_bytes} bits: {widths}; {target.registers} registers"
    for dtype in ("float32", "float64"):
        for kind, depthwise in (("dense", False), ("depthwise", True)):
            tiles = (
                f"{max_rows(vectors, depthwise)}x{vectors * lanes(np.dtype(dtype))}"
                for vectors in range(1, max_vectors() + 1)
            )
            yield f"{dtype} tiles", f"{kind:<9} " + ", ".join(tiles)
    yield "kernels", "interpreted: NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else "compiled"
    threads = nbconv.threading_info()
    yield "threads", f"{threads['threads']}; {threads['limits']}"
    yield "thread layer", f"{threads['layer']}: {threads['safety']}"
    yield "thread advice", threads["advice"]
    yield "cache folder", cache_info()["cache"]
    yield "cuda", _cuda_state()


def _cuda_state() -> str:
    from numba import cuda

    if not cuda.is_available():
        return "not available"
    device = cuda.get_current_device()
    return f"{device.name.decode()}, compute capability {'.'.join(map(str, device.compute_capability))}"
