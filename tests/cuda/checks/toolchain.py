"""Compile `@cuda.jit` kernels to PTX, machine code and its listing, with neither device nor driver.

The steps are those of numba-cuda's own launch path (frontend, NVVM to LTO-IR, nvJitLink), so that what is checked here
is what a device would run.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

Architecture = tuple[int, int, str]

SM_80: Architecture = (8, 0, "")
SM_90A: Architecture = (9, 0, "a")
ARCHITECTURES = (SM_80, SM_90A)


class Resources(NamedTuple):
    """What a kernel takes: registers a thread, and bytes of stack, of static shared memory and of local memory."""

    registers: int
    stack: int
    shared: int
    local: int


class Compiled:
    """A kernel after numba-cuda's frontend; code for an architecture is made when it is asked for."""

    def __init__(self, library: Any, entry: str) -> None:
        self._library, self.entry = library, entry
        self._listings: dict[Architecture, str] = {}

    def ptx(self, architecture: Architecture = SM_90A) -> str:
        """Give the PTX after link-time optimisation: the last text that is still independent of registers."""
        return str(self._library.get_lto_ptx(cc=architecture)).rstrip("\0")

    def cubin(self, architecture: Architecture) -> bytes:
        """Give the machine code."""
        return bytes(self._library.get_cubin(cc=architecture).code)

    def sass(self, architecture: Architecture) -> str:
        """Give the listing of the machine code."""
        if architecture not in self._listings:
            self._listings[architecture] = _read_with("nvdisasm", ["-c"], self.cubin(architecture))
        return self._listings[architecture]

    def resources(self, architecture: Architecture) -> Resources:
        """Count what a launch takes."""
        text = _read_with("cuobjdump", ["--dump-resource-usage"], self.cubin(architecture))
        counts = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
        assert counts, f"cuobjdump told no resources:\n{text}"
        return Resources(*map(int, counts.groups()))

    @cached_property
    def llvm(self) -> str:
        """The frontend's LLVM IR."""
        return str(self._library.get_llvm_str())


def compile_kernel(kernel: Any, argument_types: Sequence[Any]) -> Compiled:
    """Compile the object that `@cuda.jit` made, with its own options, for arguments of these Numba types.

    The frontend is told the lowest architecture; nothing in it depends on more.
    """
    from numba.cuda import types
    from numba.cuda.compiler import compile_cuda, kernel_fixup
    from numba.cuda.cudadrv import nvvm

    options = kernel.targetoptions
    with _pretend_device(SM_80):
        result = compile_cuda(
            kernel.py_func,
            types.void,
            tuple(argument_types),
            debug=False,
            lineinfo=False,
            forceinline=options.get("forceinline", False),
            fastmath=options.get("fastmath", False),
            nvvm_options={"fastmath": options.get("fastmath", False), "opt": 3},
            cc=SM_80[:2],
            max_registers=options.get("max_registers"),
            lto=True,
        )
    library, entry = result.library, result.fndesc.llvm_func_name
    function = library.get_function(entry)
    library._entry_name = entry
    kernel_fixup(function, False)
    nvvm.set_launch_bounds(function, options.get("launch_bounds"))
    return Compiled(library, entry)


@contextmanager
def _pretend_device(architecture: Architecture) -> Iterator[None]:
    """Answer the frontend's question, for which device its device functions are."""
    device = SimpleNamespace(compute_capability=architecture[:2])
    with (
        mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device),
        mock.patch("numba.cuda.compiler.get_current_device", return_value=device),
    ):
        yield


@cache
def tool(name: str) -> str:
    """Find a program of the CUDA toolkit, as a wheel or installed.

    Raises
    ------
    FileNotFoundError
        Where there is none.
    """
    from cuda import pathfinder

    found = pathfinder.find_nvidia_binary_utility(name)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: pip install nvidia-cuda-{name}")
    return str(found)


def _read_with(program: str, options: Sequence[str], cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([tool(program), *options, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, f"{program}: {done.stderr}"
    return done.stdout
