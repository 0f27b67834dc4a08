"""What no convolution can beat, run beside them: multiply-adds in registers, and a copy of as many bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbconv
from bench.race import Contestant
from nbconv.runtime.jit import serial
from nbconv.runtime.peak import repeat_multiply_add
from nbconv.runtime.target import host_target, lanes
from tests.cases import Case

_ROUNDS = 20_000
_OPERANDS = 2  # registers that hold the factor and the term
_FLOAT32 = np.dtype(np.float32)
_REGISTERS = (host_target().registers - _OPERANDS, lanes(_FLOAT32))


@serial
def _spin(sums: Any, factor: Any, term: Any, rounds: int) -> None:
    repeat_multiply_add(sums, factor, term, rounds)


def peak_contestant() -> Contestant:
    """One call is `spin_flops` multiplications and additions on one core."""
    sums, one, zero = np.zeros(_REGISTERS, _FLOAT32), _FLOAT32.type(1), _FLOAT32.type(0)
    return Contestant(lambda: _spin(sums, one, zero, _ROUNDS), reads=False)


def spin_flops() -> float:
    return 2.0 * 4 * _ROUNDS * _REGISTERS[0] * _REGISTERS[1]


def copy_contestant(case: Case) -> Contestant:
    """One call reads and writes as many bytes as the layer must at least."""
    source = np.ones(max(least_work(case)[1] // 8, 1), np.float32)
    target = np.zeros_like(source)
    return Contestant(lambda: np.copyto(target, source), reads=False)


def least_work(case: Case) -> tuple[int, int]:
    """Exact operations of a layer, and the bytes that it must read and write."""
    floor = nbconv.roofline(case.op, case.x_shape, case.weight_shape, bias=case.bias, **case.params)
    return floor.flops, floor.bytes_moved
