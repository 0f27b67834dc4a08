"""Twins: one body, run by one worker, or shared among several through its address.

Numba compiles a parallel function twice over, and anew for each. Here it is the body that is compiled, once; what runs
in parallel is a few lines that call it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numba import prange

from .calls import address_of, call
from .jit import compile_on_use

__all__ = ["Twins", "twins"]

F = TypeVar("F", bound=Callable[..., Any])


class Twins(Generic[F]):
    """A body `(job, job_end, worker, *arguments)` that runs the jobs `[job, job_end)`, as `serial` and as `parallel`.

    Jobs are independent of each other, hence the bits are the same. A `worker` is told its number for its own scratch.
    """

    def __init__(self, body: F) -> None:
        self.serial: F = compile_on_use(body, no_cfunc_wrapper=True)
        self._addresses: dict[tuple[np.dtype, ...], int] = {}

    def parallel(self, job: int, job_end: int, workers: int, *arguments: Any) -> None:
        """Share the jobs `[job, job_end)` among `workers`."""
        # Arguments of one body differ in nothing else: dimensions, and all that is no array.
        key = tuple([argument.dtype for argument in arguments if type(argument) is np.ndarray])
        address = self._addresses.get(key)
        if address is None:
            address = self._addresses[key] = address_of(self.serial, (job, job_end, 0, *arguments))
        _share(address, job, job_end, workers, *arguments)


def twins(body: F) -> Twins[F]:
    """Compile a body for one worker and for several, each on first use."""
    return Twins(body)


def _share_jobs(address, job, job_end, workers, *arguments):
    for worker in prange(workers):
        first = job + (job_end - job) * worker // workers
        last = job + (job_end - job) * (worker + 1) // workers
        if first < last:
            call(address, (first, last, worker, *arguments))


_share = compile_on_use(_share_jobs, parallel=True, no_cfunc_wrapper=True)
