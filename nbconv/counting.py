"""Exact operation counts of convolutions: every multiplication and addition that touches real data, nothing else.

A convolution starts each output from its bias, or from its first product, and adds one product after the other. Padding
with zeros is not data: it is neither multiplied nor added. So with `T` the (output position, tap) pairs that meet data
and `P` the output positions met by at least one tap (`nbconv.incidence` has both, in time proportional to the taps),

    multiplications          N * C_out * (C_in/g) * T
    additions, with bias     N * C_out * (C_in/g) * T
    additions, without       N * C_out * ((C_in/g) * T - P)

An output met by no tap is its bias and costs nothing.

Two inputs and three taps, transposed, show why the published counts differ. The four outputs receive 1, 2, 2 and 1
products: 6 multiplications, and 2 additions where a second product arrives. That is 8.

>>> count_operations("conv_transpose1d", x_shape=(1, 2, 1), weight_shape=(1, 1, 3)).total
8

`moduleprofiler` takes Lo * k = 12 multiplications, as if all three taps met data at each of the four outputs, and the
same 2 additions: 14.

>>> count_operations("conv_transpose1d", x_shape=(1, 2, 1), weight_shape=(1, 1, 3), convention="moduleprofiler")
14

`torch.utils.flop_counter` counts 2 for each of the 2 * 3 products, although a first product is added to nothing: 12.

>>> count_operations("conv_transpose1d", x_shape=(1, 2, 1), weight_shape=(1, 1, 3), convention="flop_counter")
12
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from . import conventions
from .geometry import ConvSpec, Geometry, bind
from .incidence import incidence
from .options import check_activation
from .parameters import whole

__all__ = ["CONVENTIONS", "OPERATIONS", "OperationCount", "count_activation", "count_bound", "count_operations"]

Activation = str | tuple[str, float] | Callable[..., Any] | None

CONVENTIONS = ("exact", "moduleprofiler", "flop_counter")
GRADIENTS = ("x", "weight", "bias")
FORWARD_OPERATIONS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
OPERATIONS = (*FORWARD_OPERATIONS, *(f"{op}_backward" for op in FORWARD_OPERATIONS))


@dataclass(frozen=True, repr=False)
class OperationCount:
    """Operations on real data, as whole numbers of any size; counts add up with ``+``.

    `comparisons` and `activation_operations` belong to activations and stand apart: `total` leaves them out.
    """

    multiplications: int = 0
    additions: int = 0
    comparisons: int = 0
    activation_operations: int = 0

    @property
    def total(self) -> int:
        """Multiplications and additions of the convolution."""
        return self.multiplications + self.additions

    def __add__(self, other: OperationCount) -> OperationCount:
        return OperationCount(
            self.multiplications + other.multiplications,
            self.additions + other.additions,
            self.comparisons + other.comparisons,
            self.activation_operations + other.activation_operations,
        )

    def __repr__(self) -> str:
        text = f"multiplications={self.multiplications}, additions={self.additions}"
        if self.comparisons or self.activation_operations:
            text += f", comparisons={self.comparisons}, activation_operations={self.activation_operations}"
        return f"OperationCount({text})"


@overload
def count_operations(
    op: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: Any = ...,
    padding: Any = ...,
    dilation: Any = ...,
    groups: Any = ...,
    output_padding: Any = ...,
    padding_mode: str = ...,
    bias: bool = ...,
    activation: Activation = ...,
    needs: Sequence[str] | None = ...,
    convention: Literal["exact"] = ...,
) -> OperationCount: ...
@overload
def count_operations(
    op: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: Any = ...,
    padding: Any = ...,
    dilation: Any = ...,
    groups: Any = ...,
    output_padding: Any = ...,
    padding_mode: str = ...,
    bias: bool = ...,
    activation: Activation = ...,
    needs: Sequence[str] | None = ...,
    convention: Literal["moduleprofiler", "flop_counter"],
) -> int: ...
def count_operations(
    op: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    output_padding: Any = 0,
    padding_mode: str = "zeros",
    bias: bool = False,
    activation: Activation = None,
    needs: Sequence[str] | None = None,
    convention: str = "exact",
) -> OperationCount | int:
    """Count the operations of a convolution, or of its gradients, from shapes alone.

    Parameters
    ----------
    op
        ``"conv1d"``, ``"conv2d"``, ``"conv_transpose1d"``, ``"conv_transpose2d"``, or one of them with ``"_backward"``.
    x_shape
        ``(N, L, C_in)``, ``(N, H, W, C_in)``, or either without ``N``.
    weight_shape
        ``(C_out, C_in/groups, *kernel)``; transposed: ``(C_in, C_out/groups, *kernel)``.
    stride, padding, dilation, groups, output_padding, padding_mode
        As in the convolution of that name.
    bias
        Whether a bias is added; the gradients do not depend on it.
    activation
        As in the convolution; counted apart (see `count_activation`), and by the exact convention only.
    needs
        The gradients to count in a backward operation, out of ``"x"``, ``"weight"`` and ``"bias"``; all three if None.
    convention
        ``"exact"``, or the figure that ``"moduleprofiler"`` or ``"flop_counter"`` (PyTorch's) gives for the layer.

    Returns
    -------
    OperationCount or int
        An `OperationCount` from the exact convention, one number from the others.

    Raises
    ------
    ValueError, TypeError
        What the convolution itself raises for these shapes and parameters, with the same text; also for an unknown
        name, and for gradients by ``"moduleprofiler"``, which publishes none.

    Examples
    --------
    >>> layer = dict(x_shape=(1, 32, 512), weight_shape=(512, 256, 16), stride=8, padding=4, bias=True)
    >>> count_operations("conv_transpose1d", **layer)
    OperationCount(multiplications=66060288, additions=66060288)
    >>> count_operations("conv_transpose1d", **layer).total
    132120576
    >>> count_operations("conv_transpose1d", **layer, convention="moduleprofiler")
    602931200
    >>> count_operations("conv1d_backward", (8, 100, 16), (32, 16, 3), padding=1, needs=("weight",))
    OperationCount(multiplications=1220608, additions=1219072)
    """
    geometry, targets = bind_operation(
        op, x_shape, weight_shape, stride, padding, dilation, groups, output_padding, padding_mode, needs
    )
    if not isinstance(bias, bool):
        raise TypeError(f"{op}: bias must be True or False, no array is needed to count; got {type(bias).__name__}")
    if activation is not None and targets != ("output",):
        raise ValueError(f"{op}: activation belongs to the forward pass; got {activation!r}")
    if not callable(activation):
        check_activation(op, activation)
    if convention == "exact":
        return count_bound(geometry, bias=bias, activation=activation, targets=targets)
    if convention == "flop_counter":
        return sum(conventions.flop_counter(geometry, target) for target in targets)
    if convention != "moduleprofiler":
        raise ValueError(f"{op}: convention must be one of {', '.join(CONVENTIONS)}; got {convention!r}")
    if targets != ("output",):
        raise ValueError(f"{op}: moduleprofiler publishes no formula for gradients; ask for exact or flop_counter")
    return conventions.moduleprofiler(geometry, bias)


def bind_operation(
    op: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    output_padding: Any = 0,
    padding_mode: str = "zeros",
    needs: Sequence[str] | None = None,
) -> tuple[Geometry, tuple[str, ...]]:
    """Bind an operation that was asked for by name; return its geometry and the targets that `count_bound` takes."""
    if op not in OPERATIONS:
        raise ValueError(f"op must be one of {', '.join(OPERATIONS)}; got {op!r}")
    if output_padding != 0 and "transpose" not in op:
        raise ValueError(f"{op}: output_padding is for transposed convolutions; got {output_padding!r}")
    if not op.endswith("_backward"):
        if needs is not None:
            raise ValueError(f"{op}: needs is for backward operations; got {needs!r}")
        targets: tuple[str, ...] = ("output",)
    else:
        unknown = [need for need in needs or () if need not in GRADIENTS]
        if unknown or isinstance(needs, str):
            raise ValueError(f"{op}: needs must be a tuple out of {', '.join(GRADIENTS)}; got {needs!r}")
        targets = tuple(name for name in GRADIENTS if needs is None or name in needs)
    spec = ConvSpec.of(op, stride, padding, dilation, groups, output_padding, padding_mode)
    x_sizes = tuple(whole(op, "x_shape", size, least=0) for size in x_shape)
    weight_sizes = tuple(whole(op, "weight_shape", size, least=0) for size in weight_shape)
    return bind(spec, x_sizes, weight_sizes), targets


def count_bound(
    geometry: Geometry,
    *,
    bias: bool = False,
    activation: Activation = None,
    targets: Sequence[str] = ("output",),
) -> OperationCount:
    """Count the operations of a bound convolution exactly: what layers call.

    Parameters
    ----------
    geometry
        The bound convolution.
    bias, activation
        As in `count_operations`.
    targets
        ``"output"`` for the forward pass, or any of the gradients ``"x"``, ``"weight"``, ``"bias"``.

    Returns
    -------
    OperationCount
        The sum over the targets.
    """
    count = sum((_count_target(geometry, target, bias) for target in targets), OperationCount())
    return count + count_activation(activation, math.prod(geometry.output_shape))


def _count_target(geometry: Geometry, target: str, bias: bool) -> OperationCount:
    """Count one pass.

    <grad_output, conv(x, weight)> is a sum of products grad_output * x * weight, one for every sample, every two
    channels of a group and every pair: N * C_out * (C_in/g) * T. Each of the three derivatives drops its own factor and
    sums the products of the other two, so all have the same multiplications. A sum that starts from its first
    product has one addition less than products, so the additions lack the number of sums that received any:

        output         N * C_out * (output positions met)         none lacks where the sums start from a bias
        grad_x         N * C_in * (input positions read)          the transposed convolution of grad_output
        grad_weight    C_out * (C_in/g) * (taps that met data)
        grad_bias      C_out sums of N * Lo numbers each, no products
    """
    met = incidence(geometry)
    n, c_in, c_out = geometry.n, geometry.c_in, geometry.c_out
    if target == "bias":
        numbers = n * math.prod(axis.out for axis in geometry.axes)
        return OperationCount(0, c_out * max(0, numbers - 1))
    products = n * c_out * (c_in // geometry.groups) * met.pairs
    if not products or (target == "output" and bias):
        return OperationCount(products, products)
    targets = {
        "output": n * c_out * met.outputs,
        "x": n * c_in * met.inputs,
        "weight": c_out * (c_in // geometry.groups) * met.taps,
    }
    return OperationCount(products, products - targets[target])


# Per element: comparisons, then other operations, of the formula beside it. A call of exp, log1p, erf, ... is one.
ACTIVATION_COSTS = {
    "relu": (1, 0),  # max(v, 0)
    "leaky_relu": (1, 1),  # v >= 0 ? v : slope*v
    "relu6": (2, 0),  # min(max(v, 0), 6)
    "elu": (1, 2),  # v > 0 ? v : alpha*expm1(v)
    "tanh": (0, 1),  # tanh(v)
    "sigmoid": (0, 4),  # 1 / (1 + exp(-v))
    "silu": (0, 4),  # v / (1 + exp(-v))
    "softplus": (0, 2),  # log1p(exp(v))
    "gelu": (0, 5),  # (v/2) * (1 + erf(v*c))
    "gelu_tanh": (0, 9),  # (v/2) * (1 + tanh(v*c * (1 + d*v*v)))
    "hardsigmoid": (2, 2),  # min(max(v + 3, 0), 6) / 6
    "hardswish": (2, 3),  # v * min(max(v + 3, 0), 6) / 6
}


def count_activation(activation: Activation, elements: int) -> OperationCount:
    """Count an activation on a number of elements: comparisons, and operations of every other kind.

    Both sides of a branch are counted, since which one is taken is the data's choice. A function of the user's own
    counts as one operation an element: the call.

    Examples
    --------
    >>> count_activation("relu6", 100)
    OperationCount(multiplications=0, additions=0, comparisons=200, activation_operations=0)
    """
    if activation is None:
        return OperationCount()
    name = activation[0] if isinstance(activation, tuple) else activation
    comparisons, operations = ACTIVATION_COSTS[name] if isinstance(name, str) else (0, 1)
    return OperationCount(comparisons=comparisons * elements, activation_operations=operations * elements)
