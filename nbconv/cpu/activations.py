"""Named activations: scalar functions that the loops apply to each finished tile while it is in cache.

float32 versions are polynomials without branches or library calls, so that LLVM vectorises them; their errors are a few
units in the last place of the value or of 1, whichever is larger. float64 versions call the mathematics library.
NaN stays NaN: comparisons are written so that it falls through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ..runtime.jit import serial_math

__all__ = ["activation_function"]

_f = np.float32
_LOG2_E = _f(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = _f(0.693359375), _f(-2.12194440e-4)
_ROUND = _f(12582912.0)  # 1.5 * 2**23: adding it rounds to a whole number, which the sum's low bits then hold
_ROUND_BITS = 0x4B400000
_ONE, _HALF, _TWO, _ZERO = _f(1), _f(0.5), _f(2), _f(0)

# Chebyshev interpolations, degree chosen for float32. exp(r) = 1 + r + r*r*P(r) for |r| <= ln(2)/2;
# tanh(x) = x + x*s*P(s), s = x*x <= 0.64**2; erf(x) = x*P(s), s = x*x <= 1; ln(1 - erf(t)) = P(t), 0.99 <= t <= 4.
_E0, _E1, _E2, _E3, _E4 = map(
    _f, (0.5, 0.1666657702559799, 0.041666554662050534, 0.008363173074513711, 0.001392617611993558)
)
_T0, _T1, _T2, _T3, _T4, _T5 = map(
    _f,
    (
        -0.3333333312343919, 0.133332963528113, -0.053957595132456244, 0.02175570034585329, -0.008301695360635958,
        0.0022460036855930362,
    ),
)  # fmt: skip
_R0, _R1, _R2, _R3, _R4, _R5, _R6 = map(
    _f,
    (
        1.1283791658483509, -0.37612626666720334, 0.11283594715160218, -0.026854212010626412, 0.005189087423433974,
        -0.000801686428716587, 7.875875062685488e-05,
    ),
)  # fmt: skip
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = map(
    _f,
    (
        0.0003209143829899536, -1.1302367226333574, -0.6318202467817906, -0.11008568029183151, 0.02642437092729083,
        -0.004760747710826218, 0.0005970529461310062, -4.608744728982591e-05, 1.6386373248754714e-06,
    ),
)  # fmt: skip


@serial_math
def _exp32(x):
    x = _f(89) if x > _f(89) else (_f(-104) if x < _f(-104) else x)
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = (((_E4 * r + _E3) * r + _E2) * r + _E1) * r + _E0
    p = p * r * r + r + _ONE
    power = np.int32(_f(shifted).view(np.int32) - np.int32(_ROUND_BITS))
    # Two factors reach subnormal results and infinity, where one power of two has no exponent left.
    half = np.int32(power >> np.int32(1))
    low = np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
    high = np.int32((power - half + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * low * high


@serial_math
def _tanh32(x):
    s = x * x
    small = x + x * s * (((((_T5 * s + _T4) * s + _T3) * s + _T2) * s + _T1) * s + _T0)
    large = _ONE - _TWO / (_exp32(_TWO * abs(x)) + _ONE)
    large = large if x > _ZERO else -large
    return small if s < _f(0.4) else large


@serial_math
def _erf32(x):
    s = x * x
    small = x * ((((((_R6 * s + _R5) * s + _R4) * s + _R3) * s + _R2) * s + _R1) * s + _R0)
    t = abs(x)
    t = _f(4) if t > _f(4) else t
    p = ((((_C8 * t + _C7) * t + _C6) * t + _C5) * t + _C4) * t + _C3
    p = ((p * t + _C2) * t + _C1) * t + _C0
    large = _ONE - _exp32(p)
    large = large if x > _ZERO else -large
    return small if s < _ONE else large


@serial_math
def _sigmoid32(x):
    return _ONE / (_ONE + _exp32(-x))


def _functions(dtype: np.dtype) -> dict[str, Any]:
    """Give exp, tanh, erf and sigmoid for a compute type."""
    if dtype.itemsize == 4:
        return {"exp": _exp32, "tanh": _tanh32, "erf": _erf32, "sigmoid": _sigmoid32}

    @serial_math
    def exp(x):
        return np.exp(x)

    @serial_math
    def sigmoid(x):
        return 1.0 / (1.0 + np.exp(-x)) if x > 0.0 else np.exp(x) / (1.0 + np.exp(x))

    @serial_math
    def tanh(x):
        return math.tanh(x)

    @serial_math
    def erf(x):
        return math.erf(x)

    return {"exp": exp, "tanh": tanh, "erf": erf, "sigmoid": sigmoid}


@lru_cache(maxsize=256)
def activation_function(name: str, parameter: float | None, dtype: np.dtype) -> Callable[[Any], Any]:
    """Make the scalar function of a named activation in one compute type (float32 or float64)."""
    number = dtype.type
    zero, one, half, three, six = number(0), number(1), number(0.5), number(3), number(6)
    value = number(0 if parameter is None else parameter)
    functions = _functions(dtype)
    exp, tanh, erf, sigmoid = functions["exp"], functions["tanh"], functions["erf"], functions["sigmoid"]

    def relu(x):
        return zero if x < zero else x

    def leaky_relu(x):
        return x * value if x < zero else x

    def relu6(x):
        return six if x > six else (zero if x < zero else x)

    def elu(x):
        return value * (exp(x) - one) if x < zero else x

    root_half = number(math.sqrt(0.5))

    def gelu(x):
        return half * x * (one + erf(x * root_half))

    root, cubic = number(math.sqrt(2 / math.pi)), number(0.044715)

    def gelu_tanh(x):
        return half * x * (one + tanh(root * (x + cubic * x * x * x)))

    def silu(x):
        return x * sigmoid(x)

    def softplus(x):
        # log1p of a number in [0, 1]: no overflow for large x, full accuracy for very negative x
        return number(math.log1p(exp(-abs(x)))) + (x if x > zero else zero)

    def hardsigmoid(x):
        return (six if x > three else (zero if x < -three else x + three)) / six

    def hardswish(x):
        return x * (six if x > three else (zero if x < -three else x + three)) / six

    table = {
        "relu": relu, "leaky_relu": leaky_relu, "relu6": relu6, "elu": elu, "gelu": gelu, "gelu_tanh": gelu_tanh,
        "silu": silu, "tanh": tanh, "sigmoid": sigmoid, "softplus": softplus, "hardswish": hardswish,
        "hardsigmoid": hardsigmoid,
    }  # fmt: skip
    function = table[name]
    return function if function in functions.values() else serial_math(function)
