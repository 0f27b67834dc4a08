"""Parameters as people write them, checked and normalised to plain integers; independent of shapes."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["Pair", "normalise_padding", "per_axis", "whole"]

Pair = tuple[int, int]
_MOST = 2**52  # of any parameter: positions in memory are 64-bit sums of products with kernel sizes


def normalise_padding(op: str, padding: Any, ndim: int) -> tuple[Pair, ...] | str:
    """Give one (lo, hi) pair an axis, or the name of a rule that needs the size: "same" or "causal"."""
    forms = (
        "an int, a tuple with one int or one (lo, hi) pair an axis, 'valid', 'same'"
        + (" or 'causal'" if ndim == 1 else "")
        + (f"; write (({padding[0]}, {padding[1]}),) for one pair" if ndim == 1 and _is_int_pair(padding) else "")
    )
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * ndim
        if padding == "same" or (padding == "causal" and ndim == 1):
            return padding
        raise ValueError(f"{op}: padding must be {forms}; got {padding!r}")
    if isinstance(padding, (tuple, list)):
        if len(padding) not in (1, ndim):
            raise ValueError(f"{op}: padding must be {forms}; got {padding!r}")
        pairs: list[Pair] = []
        for entry in padding:
            if isinstance(entry, (tuple, list)):
                if len(entry) != 2:
                    raise ValueError(f"{op}: padding must be {forms}; got {padding!r}")
                pairs.append((whole(op, "padding", entry[0], least=0), whole(op, "padding", entry[1], least=0)))
            else:
                value = whole(op, "padding", entry, least=0)
                pairs.append((value, value))
        return tuple(pairs) * (ndim // len(pairs))
    value = whole(op, "padding", padding, least=0)
    return ((value, value),) * ndim


def _is_int_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) for v in value)


def per_axis(op: str, name: str, value: Any, ndim: int, *, least: int) -> tuple[int, ...]:
    """Normalise an int or a tuple with one int an axis; a tuple of one int serves every axis."""
    if isinstance(value, (tuple, list)):
        if len(value) not in (1, ndim):
            raise ValueError(f"{op}: {name} must be an int or {ndim} ints, one an axis; got {value!r}")
        values = tuple(whole(op, name, v, least=least) for v in value)
        return values * ndim if len(values) == 1 else values
    return (whole(op, name, value, least=least),) * ndim


def whole(op: str, name: str, value: Any, *, least: int) -> int:
    """Return a whole number no smaller than `least`, whatever integer type it came in."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be a whole number; got {value!r} ({type(value).__name__})") from None
    if isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be a whole number; got {value!r} (bool)")
    if number < least:
        raise ValueError(f"{op}: {name} must be at least {least}; got {number}")
    if number > _MOST:
        raise ValueError(f"{op}: {name} must be at most {_MOST}; got {number}")
    return number
