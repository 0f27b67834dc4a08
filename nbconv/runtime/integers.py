"""The larger and the smaller of two integers: of its own `max` and `min`, Numba compiles a function for each caller."""

from __future__ import annotations

from typing import Any

from numba import types

from .jit import emitted

__all__ = ["larger", "smaller"]


def larger(a: int, b: int) -> int:
    """Give the larger of two integers."""
    return max(a, b)


def smaller(a: int, b: int) -> int:
    """Give the smaller of two integers."""
    return min(a, b)


@emitted(larger)
def _larger(typing_context, a, b):
    return _select(">")


@emitted(smaller)
def _smaller(typing_context, a, b):
    return _select("<")


def _select(relation: str) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed(relation, *args), *args)

    return types.intp(types.intp, types.intp), codegen
