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

_RELU = ACTIVATIONS.index("relu") + 1
_LEAKY_RELU = ACTIVATIONS.index("leaky_relu") + 1
_RELU6 = ACTIVATIONS.index("relu6") + 1
_ELU = ACTIVATIONS.index("elu") + 1
_GELU = ACTIVATIONS.index("gelu") + 1
_GELU_TANH = ACTIVATIONS.index("gelu_tanh") + 1
_SILU = ACTIVATIONS.index("silu") + 1
_TANH = ACTIVATIONS.index("tanh") + 1
_SIGMOID = ACTIVATIONS.index("sigmoid") + 1
_SOFTPLUS = ACTIVATIONS.index("softplus") + 1
_HARDSWISH = ACTIVATIONS.index("hardswish") + 1
_HARDSIGMOID = ACTIVATIONS.index("hardsigmoid") + 1
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
