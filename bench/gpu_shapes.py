"""What bench/gpu.py measures: layers large enough to fill a device, and the matrix products that they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests import reference
from tests.cases import PERF_CASES, Case, Shape

PASSES = ("forward", "grad_x", "grad_weight")


def _case(name: str, op: str, x_shape: Shape, weight_shape: Shape, **params: Any) -> Case:
    return Case(op, x_shape, weight_shape, params, True, frozenset({"perf"}), name)


def _batched(name: str, samples: int) -> Case:
    """Take a layer of a real network with more samples, as devices are given them."""
    case = next(case for case in PERF_CASES if case.name == name)
    x_shape = (samples, *case.x_shape[1:])
    return Case(case.op, x_shape, case.weight_shape, case.params, case.bias, case.tags, f"{name} x{samples}")


DENSE = (
    # Whole tiles and many waves: what the arithmetic gives.
    _case("bulk 1-D", "conv1d", (32, 4096, 256), (256, 256, 3), padding=1),
    _case("bulk 2-D", "conv2d", (32, 56, 56, 256), (256, 256, 3, 3), padding=1),
    _case("pointwise", "conv1d", (32, 4096, 512), (512, 512, 1)),
    # Real layers.
    _batched("seed", 32),
    _batched("vocoder block 2", 16),
    _batched("vocoder up 2", 16),
    _batched("whisper 2", 16),
    _batched("resnet layer 1", 64),
    _batched("resnet layer 3", 64),
    _batched("resnet down", 64),
    _batched("resnext block", 64),
    _batched("unet up", 16),
)
"""Of these the first three carry the goals of arithmetic."""

DEPTHWISE = (
    _case("depthwise 1-D k3", "conv1d", (32, 8192, 512), (512, 1, 3), padding=1, groups=512),
    _case("depthwise 1-D k7", "conv1d", (32, 8192, 512), (512, 1, 7), padding=3, groups=512),
    _case("depthwise 2-D k3", "conv2d", (64, 56, 56, 256), (256, 1, 3, 3), padding=1, groups=256),
    _batched("mobilenet wide", 64),
)

TINY = _case("tiny", "conv1d", (1, 16, 8), (8, 8, 3), padding=1)
"""So small that a call is all overhead."""


class Product(NamedTuple):
    """A layer as a matrix product (m, k) x (k, n), `groups` times."""

    m: int
    n: int
    k: int
    groups: int

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.n * self.k * self.groups


def product_of(case: Case, what: str = "forward") -> Product:
    """Tell which product a pass of a layer is: rows, columns and reduction of a group.

    Where positions come in stride phases (transposed layers, gradients of x) these are several products; the one given
    has as many operations.
    """
    taps = math.prod(case.weight_shape[2:])
    first, second = case.weight_shape[0] // case.groups, case.weight_shape[1]
    c_out, c_in = (second, first) if case.transposed else (first, second)
    if what == "grad_weight":
        return Product(taps * c_in, c_out, _points(case), case.groups)
    columns, channels = (c_out, c_in) if what == "forward" else (c_in, c_out)
    return Product(_points(case), columns, taps * channels, case.groups)


def _points(case: Case) -> int:
    """Count the positions that have a whole window: outputs of a convolution, inputs of a transposed one."""
    return math.prod((case.x_shape if case.transposed else output_shape(case))[:-1])


def output_shape(case: Case) -> Shape:
    """Work the result's shape out, as the oracle does."""
    sizes, kernel, params = case.x_shape[1:-1], case.weight_shape[2:], case.params
    strides, dilations = (reference.each_axis(params.get(name, 1), case.ndim) for name in ("stride", "dilation"))
    padding = params.get("padding", 0)
    if case.transposed:
        crops = reference.transposed_crops(kernel, strides, padding, dilations)
        extras = reference.each_axis(params.get("output_padding", 0), case.ndim)
        outs = reference.transposed_lengths(sizes, kernel, strides, crops, dilations, extras)
    else:
        pads = reference.forward_pads(sizes, kernel, strides, padding, dilations)
        outs = reference.forward_lengths(sizes, kernel, strides, pads, dilations)
    return (case.x_shape[0], *outs, case.c_out)


def least_bytes(case: Case, item: int) -> int:
    """Count what must move at least: x and the weight read once, the result written once."""
    return item * (math.prod(case.x_shape) + math.prod(case.weight_shape) + math.prod(output_shape(case)))


# Ceilings and goals on an H200: TFLOP/s of the first dense layers, TB/s of depthwise ones.
GOALS: Mapping[str, tuple[float, str]] = {
    "fp32": (42.0, "TFLOP/s"),
    "3xtf32": (65.0, "TFLOP/s"),
    "tf32": (180.0, "TFLOP/s"),
    "bf16": (380.0, "TFLOP/s"),
    "float16": (380.0, "TFLOP/s"),
    "depthwise": (3.7, "TB/s"),
}
