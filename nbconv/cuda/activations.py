"""The named activations as one device function of their code in the table.

A product kernel holds it once: it is called in a loop that the compiler does not unroll, on numbers that rotate through
one register, because a dozen functions inlined for each number of a tile would not fit the instruction cache.
NaN stays NaN: comparisons are written so that it falls through.
"""

from __future__ import annotations

import math

from .driver import cuda
from .table import ACTIVATIONS

__all__ = ["activate"]

(
    _RELU, _LEAKY_RELU, _RELU6, _ELU, _GELU, _GELU_TANH, _SILU, _TANH, _SIGMOID, _SOFTPLUS, _HARDSWISH, _HARDSIGMOID,
) = range(1, len(ACTIVATIONS) + 1)  # fmt: skip
assert ACTIVATIONS == tuple(
    "relu leaky_relu relu6 elu gelu gelu_tanh silu tanh sigmoid softplus hardswish hardsigmoid".split()
)
_ROOT_HALF = math.sqrt(0.5)
_ROOT = math.sqrt(2 / math.pi)


@cuda.jit(device=True)
def _sigmoid(x):
    number = type(x)
    e = number(math.exp(-abs(x)))
    return (number(1) if x > number(0) else e) / (number(1) + e)


@cuda.jit(device=True)
def _six_at_most(x):
    number = type(x)
    return number(6) if x > number(6) else (number(0) if x < number(0) else x)


@cuda.jit(device=True)
def activate(code, x, parameter):
    """Apply the activation of `code` (0: none) to a number of the compute type.

    `parameter` is the slope of leaky_relu or the alpha of elu, of the same type; the others do not read it.
    """
    number = type(x)
    zero, half, one = number(0), number(0.5), number(1)
    if code == _RELU:
        return zero if x < zero else x
    if code == _LEAKY_RELU:
        return x * parameter if x < zero else x
    if code == _RELU6:
        return _six_at_most(x)
    if code == _ELU:
        return parameter * number(math.expm1(x)) if x < zero else x
    if code == _GELU:
        return half * x * number(math.erfc(-x * number(_ROOT_HALF)))
    if code == _GELU_TANH:
        return half * x * (one + number(math.tanh(number(_ROOT) * (x + number(0.044715) * x * x * x))))
    if code == _SILU:
        return x * _sigmoid(x)
    if code == _TANH:
        return number(math.tanh(x))
    if code == _SIGMOID:
        return _sigmoid(x)
    if code == _SOFTPLUS:
        # log1p of a number in [0, 1]: no overflow for large x, full accuracy for very negative x
        return number(math.log1p(math.exp(-abs(x)))) + (zero if x < zero else x)
    if code == _HARDSWISH:
        return x * _six_at_most(x + number(3)) / number(6)
    if code == _HARDSIGMOID:
        return _six_at_most(x + number(3)) / number(6)
    return x
