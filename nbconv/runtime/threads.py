"""Launching: how many threads work, and whether they may. The one home of Numba's threading layers.

Numba's layers differ in what they survive. `omp` (GNU OpenMP) ends a forked process at its first parallel launch,
`workqueue` aborts the process where two threads launch at once, `tbb` survives both. Here each launch of a pair of
twins takes the parallel one only where it is safe and worth it, and the serial one otherwise: the bits are the same.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numba

from ..parameters import whole
from .jit import compiler_lock, llvm_lock
from .processors import affinity, cpu_quota
from .threading_layer import TORN, Layer, choose_layer
from .twins import Twins

__all__ = ["get_num_threads", "is_one_call", "is_shared", "launch", "num_threads", "set_num_threads", "threading_info"]

_SLICE_SECONDS = 0.1  # between two looks at Ctrl-C
_SLICE_WORK = 200_000_000  # of unknown speed: a millisecond on vector units, a fifth of a second on bad days

_threads: int | None = None
_own_threads: ContextVar[int | None] = ContextVar("nbconv_num_threads", default=None)
_gate = threading.Lock()
_layer: Layer | None = None
# the threads that started the layer or launched on it since: its own runtime may still know them
_launchers: set[int] = set()
# seconds a job, of loops that were long enough to measure
_pace: dict[tuple[Twins[Callable[..., None]], int, int, int], float] = {}


# ---- how many ------------------------------------------------------------------------------------------------------


def get_num_threads() -> int:
    """Return the number of threads that a large convolution uses.

    Returns
    -------
    int
        What `num_threads` or `set_num_threads` said; else the environment variable ``NBCONV_NUM_THREADS``; else the
        processors that this process may use (its affinity and its container's quota).

    Raises
    ------
    ValueError
        Where ``NBCONV_NUM_THREADS`` is no whole number of at least 1.

    Examples
    --------
    >>> import nbconv
    >>> nbconv.get_num_threads() >= 1
    True
    """
    global _threads
    own = _own_threads.get()
    if own is not None:
        return own
    if _threads is None:
        _threads = _default_threads()
    return _threads


def _default_threads() -> int:
    asked = os.environ.get("NBCONV_NUM_THREADS", "").strip()
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise ValueError(f"NBCONV_NUM_THREADS must be a whole number of at least 1; got {asked!r}")
        return int(asked)
    return min(affinity(), cpu_quota() or sys.maxsize, int(numba.config.NUMBA_NUM_THREADS))


def set_num_threads(n: int) -> None:
    """Set the number of threads that a large convolution uses, in this process.

    Parameters
    ----------
    n : int
        At least 1. The result's bits do not depend on it. More than Numba's pool has (``NUMBA_NUM_THREADS``, by
        default the processors) share that pool.

    Raises
    ------
    TypeError, ValueError
        Where `n` is no whole number of at least 1.

    Examples
    --------
    >>> import nbconv
    >>> before = nbconv.get_num_threads()
    >>> nbconv.set_num_threads(1)
    >>> nbconv.get_num_threads()
    1
    >>> nbconv.set_num_threads(before)
    """
    global _threads
    _threads = whole("set_num_threads", "n", n, least=1)


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use `n` threads inside a ``with`` block, in this Python thread (or asyncio task) only.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        Where `n` is no whole number of at least 1.

    Examples
    --------
    >>> import nbconv
    >>> with nbconv.num_threads(1):
    ...     nbconv.get_num_threads()
    1
    """
    token = _own_threads.set(whole("num_threads", "n", n, least=1))
    try:
        yield
    finally:
        _own_threads.reset(token)


def threading_info() -> dict[str, Any]:
    """Describe how convolutions use threads in this process, without starting any (but TBB's, where that is the layer).

    Returns
    -------
    dict
        ``threads``: what `get_num_threads` gives. ``limits``: what bounds the default. ``layer``: the threading layer
        of Numba that launches, or ``"none"``. ``safety``: what it survives. ``advice``: what to install or set, if
        anything.

    Examples
    --------
    >>> import nbconv
    >>> sorted(nbconv.threading_info())
    ['advice', 'layer', 'limits', 'safety', 'threads']
    """
    layer = _chosen_layer()
    quota, pool = cpu_quota(), numba.config.NUMBA_NUM_THREADS
    return {
        "threads": get_num_threads(),
        "limits": f"{affinity()} by affinity, {quota or 'none'} by quota, {pool} in Numba's pool",
        "layer": layer.name,
        "safety": layer.safety,
        "advice": layer.advice or "none needed",
    }


# ---- launching -----------------------------------------------------------------------------------------------------


def launch(twins: Twins[Callable[..., None]], jobs: int, work: int, workers: int, *arguments: Any) -> None:
    """Run all `jobs` of a pair of twins with `arguments`, for at most `workers` of whom there is scratch.

    `work` estimates the operations of all jobs: too few are not worth a second thread.
    Long work is cut into slices, between which Python sees Ctrl-C: what was done by then is whole jobs.
    """
    workers = min(workers, jobs)
    layer = _chosen_layer() if workers > 1 and is_shared(work) else None
    if layer is None:
        workers = 1
    _run_slices(twins, layer, jobs, workers, work, arguments)


def is_shared(work: int) -> bool:
    """Say whether `launch` shares so much work among several workers, where it may have them."""
    return work >= _chosen_layer().least_work


def is_one_call(jobs: int, work: int) -> bool:
    """Say whether `launch` would run all jobs in one call of the serial twin, as a caller in a hurry may do itself."""
    alone = min(get_num_threads(), jobs) == 1 or not is_shared(work)
    return alone and work <= _SLICE_WORK


def _run_slices(
    twins: Twins[Callable[..., None]],
    layer: Layer | None,
    jobs: int,
    workers: int,
    work: int,
    arguments: tuple[Any, ...],
) -> None:
    if work <= _SLICE_WORK or jobs <= workers:
        _run_slice(twins, layer, 0, jobs, workers, arguments)
        return
    key = twins, workers, jobs, work
    pace = _pace.get(key)
    share = jobs * _SLICE_WORK // work if pace is None else int(_SLICE_SECONDS / pace)
    first, started = 0, time.perf_counter()
    while first < jobs:
        # Whole rounds of the workers, so that none waits for the others.
        last = min(jobs, first + max(1, share // workers) * workers)
        begun = time.perf_counter()
        _run_slice(twins, layer, first, last, workers, arguments)
        took = max(time.perf_counter() - begun, 1e-9)
        share = min(4 * share, int((last - first) * _SLICE_SECONDS / took))
        first = last
    if len(_pace) > 1024:
        _pace.clear()
    _pace[key] = max((time.perf_counter() - started) / jobs, 1e-9)


def _run_slice(
    twins: Twins[Callable[..., None]],
    layer: Layer | None,
    first: int,
    last: int,
    workers: int,
    arguments: tuple[Any, ...],
) -> None:
    if layer is None or (layer.one_at_a_time and not _gate.acquire(blocking=False)):
        twins.serial(first, last, 0, *arguments)
        return
    _launchers.add(threading.get_ident())
    try:
        twins.parallel(first, last, workers, *arguments)
    finally:
        if layer.one_at_a_time:
            _gate.release()


# ---- the layer, and forks ------------------------------------------------------------------------------------------


def _chosen_layer() -> Layer:
    global _layer
    if _layer is None:
        with compiler_lock:  # for a fork must wait for this too
            _launchers.add(threading.get_ident())
            _layer = choose_layer()
    return _layer


def hold_for_fork() -> None:
    """Wait until no other thread launches or compiles what a child could not finish; see `forking`."""
    # A launch that holds the gate may compile, hence this order; it holds the gate for a slice only.
    _gate.acquire()
    compiler_lock.__enter__()
    llvm_lock.__enter__()


def resume_after_fork() -> None:
    """Let the other threads go on."""
    llvm_lock.__exit__(None, None, None)
    compiler_lock.__exit__(None, None, None)
    _gate.release()


def resume_in_child() -> None:
    """Forget what the other threads of the parent did."""
    global _layer
    resume_after_fork()
    # TBB shuts down before a fork in the thread that started it, unless another one has used it and not ended since.
    # When a thread has ended for TBB too, Python does not know: any other counts.
    torn = _layer is not None and _layer.one_starter and _launchers != {threading.get_ident()}
    _layer = TORN if torn or _layer is TORN else None
    _launchers.clear()
