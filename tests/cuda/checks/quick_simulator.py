"""Numba's CUDA simulator several times as fast: who runs when is arranged anew, what is computed stays as it was.

The simulator starts a thread for each one of a block and polls them all, against which they fight for the interpreter;
each call of a device function looks through its module's names under a lock; every array is wrapped twice. Here threads
wait without polling and stay for the next block, and names and arrays are replaced once a launch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator import kernelapi

PACKAGE = "nbconv.cuda"
_idle: list[Worker] = []
_prepared: set[str] = set()


class Aborted(Exception):
    """Another thread of the block has failed."""


class Worker(threading.Thread):
    """Runs simulated threads, one after the other; `_manager` and `thread_id` are what the simulator's own have."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.go = threading.Lock()
        self.go.acquire()
        self._manager: Any = None
        self.thread_id = 0
        self.threadIdx = self.blockIdx = kernelapi.Dim3(0, 0, 0)
        self.start()

    def run(self) -> None:
        """Wait for work for ever."""
        while True:
            self.go.acquire()
            self._manager.run_thread()

    def syncthreads(self) -> None:
        """Wait for the block's other threads."""
        self._manager.meet(self)


class Block:
    """The threads of one block, which end or meet."""

    def __init__(self, function: Any, arguments: Sequence[Any], workers: list[Worker]) -> None:
        self._function, self._arguments, self._workers = function, arguments, workers
        self._lock, self._ended = threading.Lock(), threading.Lock()
        self._ended.acquire()
        self._live, self._waiting = len(workers), list[Worker]()
        self.failure: tuple[Exception, Worker] | None = None

    def run(self) -> None:
        """Run all threads to their ends."""
        for worker in self._workers:
            worker._manager = self
            worker.go.release()
        self._ended.acquire()

    def run_thread(self) -> None:
        """Be the calling thread's part of the block."""
        worker: Any = threading.current_thread()
        try:
            self._function(*self._arguments)
        except Exception as error:
            self._fail(error, worker)
        with self._lock:
            self._live -= 1
            if self._live == 0:
                self._ended.release()
            else:
                self._release()

    def meet(self, worker: Worker) -> None:
        """Wait until all threads that have not ended wait."""
        with self._lock:
            self._waiting.append(worker)
            self._release()
        worker.go.acquire()
        if self.failure:
            raise Aborted

    def _release(self) -> None:
        if len(self._waiting) == self._live or self.failure:
            for worker in self._waiting:
                worker.go.release()
            self._waiting = []

    def _fail(self, error: Exception, worker: Worker) -> None:
        with self._lock:
            self.failure = self.failure or (error, worker)
            self._release()
        for warp in self.__dict__.get("_warps", {}).values():
            warp.abort()


def _run_block(function: Any, block: tuple[int, ...], shape: tuple[int, ...], arguments: list[Any]) -> None:
    points = list(np.ndindex(*shape))
    while len(_idle) < len(points):
        _idle.append(Worker())
    workers = [_idle.pop() for _ in points]
    for worker, (x, y, z) in zip(workers, points, strict=True):
        worker.threadIdx, worker.blockIdx = kernelapi.Dim3(x, y, z), kernelapi.Dim3(*block)
        worker.thread_id = x + shape[0] * (y + shape[1] * z)
    state = Block(function, arguments, workers)
    state.run()
    _idle.extend(workers)
    if state.failure:
        error, worker = state.failure
        raise type(error)(f"thread {worker.threadIdx} of block {worker.blockIdx}: {error}") from error


def _modules() -> list[ModuleType]:
    """List the package's modules; device functions there become plain ones, as `cuda` is replaced for all at once."""
    modules = [module for name, module in sys.modules.items() if name.startswith(PACKAGE)]
    for module in modules:
        if module.__name__ not in _prepared:
            _prepared.add(module.__name__)
            for name, value in list(vars(module).items()):
                if isinstance(value, simulator.FakeCUDAKernel) and value._device:
                    setattr(module, name, value.fn)
    return modules


@contextmanager
def _within_kernel(kernel: Any, inside: Any) -> Iterator[None]:
    outside = sys.modules["nbconv.cuda.driver"].cuda
    replaced = [names for names in (*map(vars, _modules()), kernel.fn.__globals__) if names.get("cuda") is outside]
    for names in replaced:
        names["cuda"] = inside
    try:
        yield
    finally:
        for names in replaced:
            names["cuda"] = outside


def _launch(kernel: Any, *arguments: Any) -> None:
    grid, shape = simulator.normalize_kernel_dimensions(kernel.grid_dim, kernel.block_dim)
    plain = [getattr(argument, "_ary", argument) for argument in arguments]
    inside = kernelapi.FakeCUDAModule(grid, shape, kernel.dynshared_size)
    with _within_kernel(kernel, inside):
        for block in np.ndindex(*grid):
            inside._shared = _Shared()
            _run_block(kernel.fn, block, shape, plain)


def _call(kernel: Any, *arguments: Any) -> Any:
    return kernel.fn(*arguments) if kernel._device else _launch(kernel, *arguments)


class _Shared:
    """Shared arrays of a block, known by the line that asks for them; their bytes are 255 until they are written."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def array(self, shape: int, dtype: Any, alignment: None = None) -> Any:
        """Give the block's array."""
        frame = sys._getframe(1)
        place = (frame.f_code.co_filename, frame.f_lineno)
        with self._lock:
            if place not in self._arrays:
                self._arrays[place] = np.frombuffer(bytearray(b"\xff") * np.dtype(dtype).itemsize * shape, dtype)
            return self._arrays[place]


def install() -> None:
    """Take the place of the simulator's own launch."""
    sys.setswitchinterval(1)  # threads give way where they wait, and need not be made to
    simulator.FakeCUDAKernel.__call__ = _call
