"""What compiling a kernel gives, kept: in memory, and between processes where ``NBCONV_CUDA_ARTIFACTS`` names a folder.

python -m tests.cuda.checks.artifacts 0 2      compiles every second kernel of the listing, from number 0 on
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nbconv
from tests.cuda.checks import sass
from tests.cuda.checks.toolchain import SM_90A, Architecture, Compiled, Resources, compile_kernel

FOLDER = os.environ.get("NBCONV_CUDA_ARTIFACTS", "")
PROCESSES = int(os.environ.get("NBCONV_TEST_PROCESSES", "1"))

Result = TypeVar("Result")


class MachineCode(NamedTuple):
    """Statistics of a kernel's machine code."""

    resources: Resources
    opcodes: Counter[str]
    loops: list[sass.Loop]

    def hot_loop(self, family: str) -> sass.Loop:
        """Give the loop in which an opcode has the greatest share."""
        return sass.hottest(self.loops, family)


class Artifacts:
    """One kernel for arguments of some types."""

    def __init__(self, kernel: Any, types: Sequence[Any]) -> None:
        self._kernel, self._types = kernel, tuple(types)
        self._compiled: Compiled | None = None
        self._known: dict[str, Any] = {}

    def ptx(self, architecture: Architecture = SM_90A) -> str:
        """Give the PTX."""
        return self._get(f"ptx {architecture}", lambda: self._frontend().ptx(architecture))

    def resources(self, architecture: Architecture) -> Resources:
        """Count what a launch takes."""
        return self._get(f"resources {architecture}", lambda: self._frontend().resources(architecture))

    def has_atomics(self) -> bool:
        """Say whether threads add to the same place, in an order that nobody knows."""
        return self._get("atomics", lambda: "atomicrmw" in self._frontend().llvm)

    def machine_code(self, architecture: Architecture) -> MachineCode:
        """Take the machine code's listing apart."""

        def build() -> MachineCode:
            listing = self._frontend().sass(architecture)
            return MachineCode(self.resources(architecture), sass.opcodes(listing), sass.loops(listing))

        return self._get(f"machine code {architecture}", build)

    def _frontend(self) -> Compiled:
        if self._compiled is None:
            self._compiled = compile_kernel(self._kernel, self._types)
            if FOLDER:
                self.ptx()  # another process will ask for it, and should be spared the frontend
        return self._compiled

    def _get(self, part: str, build: Callable[[], Result]) -> Result:
        if part not in self._known:
            self._known[part] = self._from_disk(part, build) if FOLDER else build()
        return self._known[part]  # type: ignore[no-any-return]

    def _from_disk(self, part: str, build: Callable[[], Result]) -> Result:
        function = self._kernel.py_func
        name = f"{function.__module__}.{function.__qualname__} {self._types} {sources_digest()} {part}"
        path = Path(FOLDER) / hashlib.sha256(name.encode()).hexdigest()
        if path.exists():
            return pickle.loads(path.read_bytes())  # type: ignore[no-any-return]
        result = build()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(pickle.dumps(result))
        Path(file.name).replace(path)
        return result


@cache
def artifacts(kernel: Any, types: tuple[Any, ...]) -> Artifacts:
    """Give the artifacts of a kernel of the package for arguments of these types."""
    return Artifacts(kernel, types)


@cache
def sources_digest() -> str:
    """Digest all that machine code depends on: the sources of kernels and the versions of the compilers."""
    digest = hashlib.sha256()
    here, package = Path(__file__).parent, Path(nbconv.__file__).parent
    compilers = [here / name for name in ("artifacts.py", "sass.py", "toolchain.py")]
    for path in [*sorted((package / "cuda").glob("*.py")), package / "geometry.py", *compilers]:
        digest.update(path.read_bytes())
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if name.startswith(("numba", "llvmlite", "nvidia", "cuda")):
            digest.update(f"{name} {distribution.version}".encode())
    return digest.hexdigest()


def compile_side_by_side() -> None:
    """Fill the folder with several processes, where the environment asks for that."""
    if not FOLDER or PROCESSES < 2:
        return
    command = [sys.executable, "-m", __name__]
    started = [subprocess.Popen([*command, str(i), str(PROCESSES)]) for i in range(PROCESSES)]
    codes = [process.wait() for process in started]
    assert not any(codes), f"compiling ended with {codes}"


def main(first: int, step: int) -> None:
    """Compile part of the listing."""
    from tests.cuda.checks.listing import entries

    for entry in entries()[first::step]:
        entry.compile_all()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
