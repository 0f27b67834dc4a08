"""Twins: one body, run by one worker, or shared among several through its address.

Numba compiles a parallel function twice over, and anew for each. Here it is the body that is compiled, once; what runs
in parallel is a few lines that call it, and those are handed to Numba's threading layer as its own compiler would.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .calls import address_of, call
from .jit import compile_on_use, compiler_lock, emitted

__all__ = ["Twins", "twins"]

F = TypeVar("F", bound=Callable[..., Any])

_INT, _WORD = ir.IntType(32), ir.IntType(64)
_BYTES, _WORDS = ir.IntType(8).as_pointer(), _WORD.as_pointer()


class Twins(Generic[F]):
    """A body `(job, job_end, worker, *arguments)` that runs the jobs `[job, job_end)`, as `serial` and as `parallel`.

    Jobs are independent of each other, hence the bits are the same. A `worker` is told its number for its own scratch.
    """

    def __init__(self, body: F) -> None:
        self.serial: F = compile_on_use(body, no_cfunc_wrapper=True)
        self._addresses: dict[tuple[np.dtype, ...], int] = {}

    def parallel(self, job: int, job_end: int, workers: int, *arguments: Any) -> None:
        """Share the jobs `[job, job_end)` among `workers`, in as many threads, or as Numba's mask allows."""
        # Arguments of one body differ in nothing else: dimensions, and all that is no array.
        key = tuple([argument.dtype for argument in arguments if type(argument) is np.ndarray])
        address = self._addresses.get(key)
        if address is None:
            address = self._addresses[key] = address_of(self.serial, (job, job_end, 0, *arguments))
        _load_layer()
        _share(address, job, job_end, workers, *arguments)


def twins(body: F) -> Twins[F]:
    """Compile a body for one worker and for several, each on first use."""
    return Twins(body)


@lru_cache
def _load_layer() -> None:
    """Load the threading layer, whose functions the code of `_share` is linked with."""
    with compiler_lock:  # as Numba holds a lock of its own meanwhile
        numba.get_num_threads()


def _share_jobs(address, job, job_end, workers, *arguments):
    _run_workers(address, job, job_end, workers, arguments)


_share = compile_on_use(_share_jobs, no_cfunc_wrapper=True)


def _run_workers(address: int, job: int, job_end: int, workers: int, arguments: Any) -> None:
    """Run each worker's part of the jobs, by a function of `address_of`."""
    for worker in range(workers):
        first, last = (job + (job_end - job) * n // workers for n in (worker, worker + 1))
        call(address, (first, last, worker, *arguments))


@emitted(_run_workers)
def _emit_run_workers(typing_context, address, job, job_end, workers, arguments):
    """Call `parallel_for(function, bases, sizes, steps, data, 0, 1, threads)` of the threading layer.

    It calls `function(bases, sizes, steps, data)` in its threads, each for a part of the range: `sizes[0]` members from
    the one to which `bases[0]` was moved on, by `steps[0]` a member. Here the members are the workers, a byte each.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *numbers, packed = args
        failed = builder.alloca(_WORD)
        builder.store(_WORD(0), failed)
        held = [failed, *numbers, *cgutils.unpack_tuple(builder, packed, len(arguments.types))]
        data = cgutils.alloca_once_value(builder, cgutils.make_anonymous_struct(builder, held))
        function = _worker(context, builder.module, data.type, arguments.types)
        base = builder.bitcast(data, _BYTES)  # layers leave a null base where it is
        workers = numbers[-1]
        places = [cgutils.alloca_once_value(builder, value) for value in (base, workers, _WORD(1))]
        given = [builder.bitcast(pointer, _BYTES) for pointer in (function, *places)]
        # A mask belongs to the Python thread, and to whatever else of Numba's the user runs in it. OpenMP's layer
        # leaves there the number of threads that it launched.
        mask = _call_layer(builder, "get_num_threads", _INT)
        wanted = builder.trunc(workers, _INT)
        threads = builder.select(builder.icmp_signed("<", wanted, mask), wanted, mask)
        _call_layer(builder, "numba_parallel_for", ir.VoidType(), *given, base, _WORD(0), _WORD(1), threads)
        _call_layer(builder, "set_num_threads", ir.VoidType(), mask)
        with cgutils.if_unlikely(builder, builder.icmp_signed("!=", builder.load(failed), _WORD(0))):
            context.call_conv.return_user_exc(builder, RuntimeError, ("a job of a parallel loop failed",))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4, arguments), codegen


def _call_layer(builder: Any, name: str, result: ir.Type, *args: Any) -> Any:
    """Call a function of the threading layer, by the name that Numba gave it for its own compiler."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _worker(context: Any, module: ir.Module, data_type: ir.Type, kinds: tuple[types.Type, ...]) -> ir.Function:
    """Build the function that the threads call: it runs the jobs of some workers."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), _WORDS, _WORDS, _BYTES])
    function = ir.Function(module, kind, module.get_unique_name("run_workers"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    bases, sizes, _, data = function.args
    held = builder.load(builder.bitcast(data, data_type))
    failed, address, job, job_end, workers, *given = [builder.extract_value(held, i) for i in range(5 + len(kinds))]
    kinds = (types.intp, types.intp, types.intp, *kinds)
    body = builder.inttoptr(address, context.call_conv.get_function_type(types.none, kinds).as_pointer())
    first_worker = builder.sub(builder.ptrtoint(builder.load(bases), _WORD), builder.ptrtoint(data, _WORD))
    with cgutils.for_range(builder, builder.load(sizes)) as loop:
        worker = builder.add(first_worker, loop.index)
        next_worker, jobs = builder.add(worker, _WORD(1)), builder.sub(job_end, job)
        first, last = (builder.add(job, builder.sdiv(builder.mul(jobs, n), workers)) for n in (worker, next_worker))
        status, _ = context.call_conv.call_function(builder, body, types.none, kinds, [first, last, worker, *given])
        with cgutils.if_unlikely(builder, status.is_error):
            builder.store(_WORD(1), failed)
    builder.ret_void()
    return function
