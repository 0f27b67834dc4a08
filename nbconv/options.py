"""Options by name: algorithms, precisions, activations."""

from __future__ import annotations

from numbers import Real
from typing import Any

__all__ = ["ACTIVATIONS", "ALGORITHMS", "PRECISIONS", "Activation", "check_activation", "check_algorithm"]

ALGORITHMS = ("auto", "direct", "im2col")
PRECISIONS = ("high", "tf32")
# name -> default of its one parameter, None where it has none
ACTIVATIONS: dict[str, float | None] = {
    "relu": None,
    "leaky_relu": 0.01,
    "relu6": None,
    "elu": 1.0,
    "gelu": None,
    "gelu_tanh": None,
    "silu": None,
    "tanh": None,
    "sigmoid": None,
    "softplus": None,
    "hardswish": None,
    "hardsigmoid": None,
}
Activation = str | tuple[str, float] | None


def check_algorithm(op: str, algorithm: str) -> None:
    """Refuse an unknown algorithm."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"{op}: algorithm must be one of {', '.join(ALGORITHMS)}; got {algorithm!r}")


def check_activation(op: str, activation: Activation) -> tuple[str, float | None] | None:
    """Split an activation into its name and its parameter."""
    if activation is None:
        return None
    parts: tuple[Any, ...] = tuple(activation) if isinstance(activation, (tuple, list)) else (activation,)
    name = parts[0] if parts and isinstance(parts[0], str) else ""
    takes = int(ACTIVATIONS.get(name) is not None)
    if name not in ACTIVATIONS or len(parts) > 1 + takes or not all(isinstance(p, Real) for p in parts[1:]):
        names = ", ".join(n if value is None else f"({n!r}, {value})" for n, value in ACTIVATIONS.items())
        raise ValueError(f"{op}: activation must be None or one of {names}; got {activation!r}")
    return name, float(parts[1]) if len(parts) > 1 else ACTIVATIONS[name]
