"""Keys of calls: what a call depends on but the numbers, to find again what was planned for one like it."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["are_exact", "function_key", "results_key"]

_holds_exact = frozenset((int, str)).issuperset
_holds_names = frozenset((str, type(None))).issuperset


def are_exact(values: tuple[Any, ...]) -> bool:
    """Say whether values are of type int or str, or tuples of such."""
    if _holds_exact(map(type, values)):  # the usual case first: small calls are made of these microseconds
        return True
    return all(type(value) in (int, str) or (type(value) is tuple and are_exact(value)) for value in values)


def function_key(
    parameters: tuple[Any, ...], x: np.ndarray, weight: np.ndarray, bias: Any, activation: Any, algorithm: Any,
    precision: Any, residual: Any, out: Any,
) -> Any:  # fmt: skip
    """Name all that a call depends on but the numbers; None where it cannot be a key."""
    dtype = x.dtype
    if weight.dtype is not dtype or not dtype.isnative:
        return None
    _, stride, padding, dilation, groups, output_padding, mode = parameters
    if not (  # the usual case first
        activation is None
        and type(stride) is type(padding) is type(dilation) is type(groups) is type(output_padding) is int
        and type(mode) is type(algorithm) is type(precision) is str
    ) and not (are_exact(parameters) and _are_names((activation, algorithm, precision))):
        return None
    bias_shape = bias_strides = None
    if bias is not None:
        if type(bias) is not np.ndarray or bias.dtype is not dtype:
            return None
        bias_shape, bias_strides = bias.shape, bias.strides
    results = None if residual is out is None else results_key(dtype, residual, out)
    if results == ():
        return None
    return (
        parameters, x.shape, x.strides, weight.shape, weight.strides, bias_shape, bias_strides, dtype.num, activation,
        algorithm, precision, results,
    )  # fmt: skip


def results_key(dtype: np.dtype, residual: Any, out: Any) -> tuple[Any, ...]:
    """Name how what is added, and what is written to, lie in memory; () where they are not as results are."""
    parts: list[Any] = []
    for array in residual, out:
        if array is not None and (type(array) is not np.ndarray or array.dtype is not dtype):
            return ()
        parts.append(None if array is None else (array.shape, array.strides))
    return tuple(parts)


def _are_names(values: tuple[Any, ...]) -> bool:
    """Say whether values are names, names with numbers, or None."""
    return all(
        _holds_names((type(value),)) or (type(value) is tuple and {str, int, float}.issuperset(map(type, value)))
        for value in values
    )
