"""Contestants and how they are timed: in turn, in batches, the best of which counts.

With one thread all contestants live in this process, which is pinned to one core, and the clock is the processor's
time: a busy machine takes nothing away from it. With several threads each engine lives in a process of its own, so that
threads that spin while they wait disturb nobody, and the clock is the wall's.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import nbconv
from tests.helpers import Array

BATCH_SECONDS = 0.004
LEAST_ROUNDS = 3
PAUSE_SECONDS = 0.05  # between two processes' batches: pools that spin, ONNX Runtime's longest, have gone to sleep


@dataclass(frozen=True)
class Contestant:
    """One way to a result: `read` brings what `call` returns to a channels-last NumPy array."""

    call: Callable[[], Any]
    read: Callable[[Any], Array] = np.asarray
    reads: bool = True  # False: what runs beside the others for scale, without a result


Makers = Callable[..., dict[str, Contestant]]


class Here:
    """Contestants of this process."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.clock = clock
        self.contestants: dict[str, Contestant] = {}

    def enter(self, maker: Makers, *args: Any) -> dict[str, Array | None]:
        """Take contestants in; give the results of each, to be checked."""
        entered = maker(*args)
        self.contestants |= entered
        return {name: one.read(one.call()) if one.reads else None for name, one in entered.items()}

    def batch(self, name: str, calls: int) -> float:
        """Seconds of a call, mean of a batch, after one more that finds caches and free memory as others left them."""
        call, clock = self.contestants[name].call, self.clock
        call()
        start = clock()
        for _ in range(calls):
            call()
        return (clock() - start) / calls

    def leave(self) -> None:
        """Let all contestants go."""
        self.contestants.clear()


class Apart:
    """Contestants of a process of their own; the same verbs."""

    def __init__(self, threads: int, cores: set[int], pause: float) -> None:
        self.pause = pause
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        with _environment(threads), _on(cores):  # what the libraries count at import
            self.process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
            self.process.start()
        theirs.close()

    def _ask(self, verb: str, *args: Any) -> Any:
        self.pipe.send((verb, args))
        answer, error = self.pipe.recv()
        if error:
            raise RuntimeError(error)
        return answer

    def enter(self, maker: Makers, *args: Any) -> dict[str, Array | None]:
        return self._ask("enter", maker, *args)

    def batch(self, name: str, calls: int) -> float:
        time.sleep(self.pause)
        return self._ask("batch", name, calls)

    def leave(self) -> None:
        self._ask("leave")

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function there."""
        return self._ask("run", function, *args)

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join()


def _serve(pipe: Any, threads: int) -> None:
    nbconv.set_num_threads(threads)
    here = Here(time.perf_counter)
    verbs = {
        "enter": here.enter,
        "batch": here.batch,
        "leave": here.leave,
        "run": lambda function, *args: function(*args),
    }
    while True:
        try:
            verb, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((verbs[verb](*args), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Tell libraries that read it at import how many threads to use."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def alone(threads: int, cores: set[int], pause: float = PAUSE_SECONDS) -> Iterator[Apart]:
    """Hold a process of its own, which waits so long before each batch."""
    process = Apart(threads, cores, pause)
    try:
        yield process
    finally:
        process.close()


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this process to one core, and nbconv to one thread."""
    threads = nbconv.get_num_threads()
    nbconv.set_num_threads(1)
    try:
        with _on(set(sorted(usable_cores())[:1])):
            yield
    finally:
        nbconv.set_num_threads(threads)


def usable_cores() -> set[int]:
    """Give the cores that this process may use; none where the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Stay on these cores, and start processes there, where the system lets a process choose."""
    before = usable_cores()
    if cores and before:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def race(
    batches: Mapping[str, Callable[[int], float]], seconds: float, batch: float = BATCH_SECONDS
) -> dict[str, float]:
    """Best batch of each contestant, taken in turn so that a disturbance meets all of them."""
    once = {name: min(run(1) for _ in range(LEAST_ROUNDS)) for name, run in batches.items()}
    calls = {name: max(1, min(10_000, math.ceil(batch / max(time_, 1e-7)))) for name, time_ in once.items()}
    best = dict.fromkeys(batches, math.inf)
    end, rounds = time.perf_counter() + seconds * len(batches), 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for name, run in batches.items():
            best[name] = min(best[name], run(calls[name]))
        rounds += 1
    return best
