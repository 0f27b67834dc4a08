"""The FMA peak of one core, measured: what the speed of a convolution is a share of."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import overload, serial
from .target import host_target, lanes

__all__ = ["measure_peak"]

_UNROLL = 4  # multiply-adds of each register between two tests of the loop
_OPERANDS = 2  # registers that hold the factor and the term; all the others accumulate
_SECONDS = 0.1
_ROUNDS = 50_000  # of a run: some milliseconds, longer than the clock's ramp, shorter than a scheduler's time slice
_I64 = ir.IntType(64)


def measure_peak(dtype: npt.DTypeLike) -> float:
    """Measure how many floating-point operations one core can do in a second.

    A loop of multiply-adds that stays in registers, as wide and as many as the processor has, best of the runs of a
    tenth of a second. A multiply-add counts as two operations. The first call of a process compiles the loop; the
    result is kept, so that all shares given by one process are shares of one number.

    Parameters
    ----------
    dtype
        float32 or float64.

    Returns
    -------
    float
        Operations a second (flop/s) of one core.

    Raises
    ------
    TypeError
        For any other dtype.

    Examples
    --------
    >>> measure_peak("float32") > measure_peak("float64") > 0
    True
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"measure_peak: dtype must be float32 or float64; got {dtype}")
    return _measure(dtype)


@lru_cache(maxsize=2)
def _measure(dtype: np.dtype[Any]) -> float:
    sums = np.zeros((host_target().registers - _OPERANDS, lanes(dtype)), dtype)
    factor, term = dtype.type(1), dtype.type(0)
    _spin(sums, factor, term, 1)
    shortest, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        _spin(sums, factor, term, _ROUNDS)
        shortest = min(shortest, time.perf_counter() - start)
    return 2.0 * _UNROLL * _ROUNDS * sums.size / shortest


@serial
def _spin(sums: Any, factor: Any, term: Any, rounds: int) -> None:
    repeat_multiply_add(sums, factor, term, rounds)


def repeat_multiply_add(sums: npt.NDArray[Any], factor: Any, term: Any, rounds: int) -> None:
    """Replace `sums` by ``sums * factor + term``, ``4 * rounds`` times; ``(registers, lanes)``, C-contiguous."""
    for _ in range(_UNROLL * rounds):
        sums *= factor
        sums += term


@overload(repeat_multiply_add)
def _repeat_multiply_add(sums, factor, term, rounds):
    dtype = np.dtype(sums.dtype.name)
    spin = _spin_intrinsic(dtype, host_target().registers - _OPERANDS)
    return lambda sums, factor, term, rounds: spin(sums.ctypes.data, factor, term, rounds)


def _spin_intrinsic(dtype: np.dtype[Any], registers: int) -> Any:
    scalar = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
    width = lanes(dtype)
    vector = ir.VectorType(scalar, width)

    @intrinsic
    def spin(typing_context, address, factor, term, rounds):
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            start, end = builder.inttoptr(args[0], scalar.as_pointer()), args[3]
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{width}f{8 * dtype.itemsize}"
            )
            splat = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)

            def broadcast(value: Any) -> Any:
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
                return builder.shuffle_vector(one, one, splat)

            def place(i: int) -> Any:
                return builder.bitcast(builder.gep(start, [_I64(i * width)]), vector.as_pointer())

            x, y = broadcast(args[1]), broadcast(args[2])
            first = [builder.load(place(i), align=dtype.itemsize) for i in range(registers)]
            entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            count, phis = builder.phi(_I64), [builder.phi(vector) for _ in first]
            sums = phis
            for _ in range(_UNROLL):
                sums = [builder.call(multiply_add, [value, x, y]) for value in sums]
            following = builder.add(count, _I64(1))
            for phi, before, after in zip([count, *phis], [_I64(0), *first], [following, *sums], strict=True):
                phi.add_incoming(before, entry)
                phi.add_incoming(after, loop)
            builder.cbranch(builder.icmp_signed("<", following, end), loop, done)
            builder.position_at_end(done)
            for i, value in enumerate(sums):
                builder.store(value, place(i), align=dtype.itemsize)
            return context.get_dummy_value()

        element = types.float32 if dtype.itemsize == 4 else types.float64
        return types.void(types.intp, element, element, types.intp), codegen

    return spin
