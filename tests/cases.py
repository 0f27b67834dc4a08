"""THE list of convolution cases: tests and benchmarks draw from it.

Tags
----
smoke   tiny, one for each feature; also run with the kernels interpreted (``NUMBA_DISABLE_JIT=1``)
edge    where lengths, borders or tiles come to their limits
group   more than one group
perf    layers of real networks at their real size: the benchmarks' list; the unit tests take `small_perf_cases`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests import reference

Shape = tuple[int, ...]

TAGS = ("smoke", "edge", "group", "perf")


@dataclass(frozen=True)
class Case:
    """One call of an operation: shapes and parameters, no data."""

    op: str
    x_shape: Shape
    weight_shape: Shape
    params: Mapping[str, Any] = field(default_factory=dict)
    bias: bool = True
    tags: frozenset[str] = frozenset()
    name: str = ""

    @property
    def transposed(self) -> bool:
        return "transpose" in self.op

    @property
    def ndim(self) -> int:
        return len(self.weight_shape) - 2

    @property
    def groups(self) -> int:
        return self.params.get("groups", 1)

    @property
    def c_out(self) -> int:
        return self.weight_shape[1] * self.groups if self.transposed else self.weight_shape[0]

    @property
    def terms(self) -> int:
        """Most products that one output sums: taps times channels of a group."""
        c_in = self.weight_shape[0] // self.groups if self.transposed else self.weight_shape[1]
        return c_in * math.prod(self.weight_shape[2:])

    @property
    def macs(self) -> int:
        """Dense multiplications: the whole weight at every output position; transposed, at every input position."""
        batch = self.x_shape[: -1 - self.ndim]
        positions = self.x_shape[-1 - self.ndim : -1]
        if not self.transposed:
            kernel = self.weight_shape[2:]
            strides, dilations = (reference.each_axis(self.params.get(k, 1), self.ndim) for k in ("stride", "dilation"))
            pads = reference.forward_pads(positions, kernel, strides, self.params.get("padding", 0), dilations)
            positions = reference.forward_lengths(positions, kernel, strides, pads, dilations)
        return math.prod(batch) * math.prod(positions) * math.prod(self.weight_shape)

    def __str__(self) -> str:
        def shape(sizes: Shape) -> str:
            return "x".join(map(str, sizes))

        params = " ".join(f"{key}={value}".replace(" ", "") for key, value in self.params.items())
        text = f"{self.op} {shape(self.x_shape)} {shape(self.weight_shape)} {params} {'' if self.bias else 'bias=None'}"
        return " ".join(f"{self.name} {text}".split())


def _cases(op: str, tags: str, *rows: tuple[Any, ...]) -> list[Case]:
    """Rows of (x_shape, weight_shape, params); a row may end in ``"no bias"`` or ``"smoke"``."""
    cases = []
    for x_shape, weight_shape, params, *notes in rows:
        own = {*tags.split(), *({"group"} if params.get("groups", 1) > 1 else ()), *({"smoke"} & set(notes))}
        cases.append(Case(op, x_shape, weight_shape, params, "no bias" not in notes, frozenset(own)))
    return cases


_CONV1D = [
    *_cases(  # blocks of the weight's gradient that span some groups; windows that slide, however lines are cut
        "conv1d",
        "",
        ((2, 32, 32), (32, 8, 1), {"groups": 4, "stride": 3, "padding": ((2, 1),)}, "smoke"),
        ((1, 163, 64), (64, 8, 3), {"groups": 8, "padding": 1}),
        ((2, 97, 16), (16, 2, 5), {"groups": 8, "stride": 3, "padding": ((1, 3),)}),
        ((1, 132, 96), (123, 32, 4), {"groups": 3, "stride": 2, "padding": ((0, 6),)}),
        ((2, 203, 3), (70, 3, 7), {"padding": 3}),
        ((1, 40, 20), (3, 20, 5), {"padding": 2}, "smoke"),
        ((2, 61, 16), (11, 16, 3), {"padding": 1}, "smoke"),
        ((1, 90, 24), (16, 24, 4), {"padding": ((3, 2),), "stride": 3}),
    ),
    *_cases(
        "conv1d",
        "",
        ((2, 7, 3), (4, 3, 3), {}, "smoke"),
        ((2, 9, 5), (6, 5, 1), {}, "no bias"),
        ((1, 40, 16), (32, 16, 3), {"padding": 1}),
        ((3, 33, 24), (48, 24, 5), {"padding": 2}),
        ((2, 65, 31), (100, 31, 3), {"padding": 1}),
        ((2, 12, 4), (5, 4, 3), {"stride": 2, "padding": 1}, "smoke"),
        ((2, 50, 8), (17, 8, 4), {"stride": 3}),
        ((2, 30, 8), (17, 8, 3), {"stride": (2,), "padding": (1,), "dilation": (2,)}),
        ((1, 20, 3), (4, 3, 3), {"dilation": 3}, "smoke"),
        ((1, 75, 40), (40, 40, 3), {"dilation": 30, "padding": 30}),  # rims of several tiles
        ((2, 64, 12), (20, 12, 7), {"dilation": 3, "padding": 9}),
        ((2, 31, 6), (7, 6, 3), {"stride": 2, "dilation": 5, "padding": 4}),
    ),
    *_cases(  # every form of padding
        "conv1d",
        "",
        ((2, 11, 3), (4, 3, 4), {"padding": "valid"}),
        ((2, 11, 3), (4, 3, 4), {"padding": "same"}, "smoke"),
        ((2, 11, 3), (4, 3, 4), {"padding": "same", "stride": 3}),
        ((2, 12, 3), (4, 3, 5), {"padding": "same", "stride": 2, "dilation": 2}),
        ((2, 10, 3), (4, 3, 2), {"padding": "same", "stride": 4}),
        ((2, 11, 3), (4, 3, 4), {"padding": "causal"}, "smoke"),
        ((2, 11, 3), (4, 3, 3), {"padding": "causal", "stride": 2, "dilation": 2}),
        ((2, 11, 3), (4, 3, 4), {"padding": ((3, 1),)}, "smoke"),
        ((2, 11, 3), (4, 3, 4), {"padding": ((0, 5),), "stride": 2}),
        ((2, 11, 3), (4, 3, 4), {"padding": [[2, 0]], "dilation": [2]}),
        ((2, 11, 3), (4, 3, 4), {"padding": 3, "padding_mode": "reflect"}, "smoke"),
        ((2, 11, 3), (4, 3, 4), {"padding": 3, "padding_mode": "replicate"}, "smoke"),
        ((2, 11, 3), (4, 3, 4), {"padding": 3, "padding_mode": "circular"}, "smoke"),
        ((2, 70, 16), (33, 16, 5), {"padding": ((4, 1),), "padding_mode": "reflect"}),
        ((2, 70, 16), (33, 16, 5), {"padding": "same", "padding_mode": "replicate", "stride": 2}),
        ((2, 70, 16), (33, 16, 5), {"padding": "causal", "padding_mode": "circular", "dilation": 3}),
        ((2, 70, 16), (33, 16, 5), {"padding": "causal", "padding_mode": "reflect", "dilation": 2, "stride": 3}),
    ),
    *_cases(
        "conv1d",
        "edge",
        ((7, 3), (4, 3, 3), {"padding": 1}, "smoke"),
        ((1, 2), (3, 2, 1), {}),
        ((0, 7, 3), (4, 3, 3), {}, "smoke"),
        ((2, 0, 3), (4, 3, 3), {"padding": 2}),
        ((2, 0, 3), (4, 3, 3), {"padding": "same"}),
        ((2, 5, 0), (4, 0, 3), {"padding": 1}),
        ((2, 5, 3), (0, 3, 3), {"padding": 1}, "no bias"),
        ((2, 5, 3), (4, 3, 5), {}),
        ((2, 2, 3), (4, 3, 5), {"padding": 2}),
        ((2, 1, 3), (4, 3, 9), {"padding": 4}),
        ((2, 1, 3), (4, 3, 4), {"padding": "same"}),
        ((2, 4, 3), (4, 3, 2), {"padding": 6}),
        ((2, 4, 3), (4, 3, 2), {"padding": ((7, 0),), "stride": 3}),
        ((2, 4, 3), (4, 3, 3), {"padding": 11, "padding_mode": "replicate"}),
        ((2, 5, 3), (4, 3, 3), {"padding": 4, "padding_mode": "reflect"}),
        ((2, 5, 3), (4, 3, 3), {"padding": 5, "padding_mode": "circular"}),
        ((2, 1, 3), (4, 3, 3), {"padding": 1, "padding_mode": "circular"}),
        ((2, 6, 3), (4, 3, 3), {"dilation": 7, "padding": 7}),
        ((2, 6, 3), (4, 3, 2), {"dilation": 13, "padding": ((10, 9),)}),
        ((2, 29, 3), (4, 3, 2), {"stride": 5}),
        ((2, 9, 3), (4, 3, 3), {"stride": 50}),
        ((2, 37, 1), (1, 1, 3), {"padding": 1}, "smoke"),
        ((2, 37, 1), (100, 1, 7), {"padding": 3}),
        ((2, 37, 100), (1, 100, 3), {"padding": 1}),
        ((2, 37, 5), (3, 5, 3), {"padding": 1}),
        ((2, 37, 5), (17, 5, 3), {"padding": 1}),
        ((2, 37, 5), (65, 5, 3), {"padding": 1}),
        ((1, 300, 1), (1, 1, 129), {"padding": 64}),
        ((300, 2, 3), (4, 3, 2), {}),
        ((1, 5, 700), (9, 700, 3), {"padding": 1}),
        ((1, 3, 64), (300, 64, 3), {"padding": 1}),
    ),
    *_cases(
        "conv1d",
        "",
        ((2, 9, 4), (6, 2, 3), {"groups": 2, "padding": 1}, "smoke"),
        ((2, 19, 12), (9, 4, 3), {"groups": 3, "stride": 2, "dilation": 2, "padding": 2}),
        ((2, 40, 32), (96, 16, 3), {"groups": 2, "padding": 1}),
        ((2, 25, 64), (64, 4, 8), {"groups": 16, "padding": "same"}),
        ((2, 9, 5), (5, 1, 3), {"groups": 5, "padding": 1}, "smoke"),
        ((2, 9, 3), (6, 1, 3), {"groups": 3, "padding": 1}, "smoke"),
        ((2, 40, 17), (17, 1, 7), {"groups": 17, "padding": 3}),
        ((2, 40, 100), (100, 1, 3), {"groups": 100, "padding": "causal", "dilation": 4}),
        ((2, 41, 16), (48, 1, 5), {"groups": 16, "stride": 2, "padding": 2}, "no bias"),
        ((2, 41, 48), (48, 1, 4), {"groups": 48, "padding": ((3, 0),), "padding_mode": "reflect"}),
        ((2, 3, 10), (10, 1, 5), {"groups": 10, "padding": 2}),
        ((40, 33), (33, 1, 3), {"groups": 33, "padding": 1}),
        # rows of weights that would lie in one set of L1
        ((1, 5, 1024), (1024, 1, 9), {"groups": 1024, "padding": 4}),
        ((1, 40, 1019), (1019, 1, 12), {"groups": 1019, "padding": 3, "stride": 2}),
        # windows of many taps
        ((1, 40, 1024), (1024, 1, 31), {"groups": 1024, "padding": 15}),
        ((2, 61, 24), (24, 1, 40), {"groups": 24, "padding": ((30, 9),)}),
        ((2, 20, 8), (4, 2, 3), {"groups": 4, "padding": 1}),
        ((2, 20, 8), (0, 2, 3), {"groups": 4}, "no bias"),
    ),
]

_CONV2D = [
    *_cases(  # the same
        "conv2d",
        "",
        ((1, 16, 7, 8), (8, 4, 1, 1), {"groups": 2, "stride": (2, 1), "padding": ((1, 1), (0, 0))}),
        # more taps than one chunk of the reduction holds
        ((1, 72, 30, 5), (5, 1, 70, 20), {"groups": 5, "padding": (1, 3)}),
        ((1, 14, 14, 64), (64, 16, 3, 3), {"groups": 4, "padding": 1}, "smoke"),
        ((1, 33, 37, 3), (16, 3, 3, 3), {"stride": 2, "padding": 1}, "smoke"),
        ((2, 9, 28, 64), (64, 16, 4, 6), {"groups": 4, "stride": (2, 3), "padding": ((3, 5), (0, 5))}),
        # lines of x, and rows of weights, that lie in few sets of L1
        ((1, 4, 30, 512), (512, 1, 3, 3), {"groups": 512, "padding": 1}),
        ((1, 5, 16, 1023), (1023, 1, 5, 5), {"groups": 1023, "padding": 2, "stride": 2}),
        ((1, 2, 15, 1024), (1024, 16, 2, 3), {"groups": 64, "padding": 1}),
    ),
    *_cases(
        "conv2d",
        "",
        ((2, 5, 6, 3), (4, 3, 3, 3), {}, "smoke"),
        ((2, 5, 6, 5), (6, 5, 1, 1), {}, "no bias"),
        ((1, 12, 40, 16), (33, 16, 3, 3), {"padding": 1}),
        ((1, 9, 41, 20), (16, 20, 3, 5), {"padding": ((1, 1), (2, 0))}),
        ((2, 7, 7, 20), (64, 20, 3, 3), {"padding": 1}),
        ((2, 14, 14, 16), (48, 16, 3, 3), {"padding": 1}),
        ((2, 14, 14, 16), (17, 16, 3, 3), {"padding": 1, "stride": 2}),
        ((1, 7, 9, 3), (4, 3, 3, 3), {"stride": 2, "padding": 1}, "smoke"),
        ((1, 7, 9, 3), (4, 3, 3, 2), {"stride": (2, 3), "padding": (0, 1)}),
        ((1, 9, 9, 3), (4, 3, 3, 3), {"dilation": 2}, "smoke"),
        ((1, 19, 12, 3), (4, 3, 3, 4), {"dilation": (3, 2), "padding": (2, 3)}),
        ((2, 20, 17, 8), (12, 8, 5, 3), {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 3)}),
        ((1, 30, 31, 3), (32, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((2, 9, 33, 8), (16, 8, 1, 5), {"padding": (0, 2)}),
        ((2, 33, 9, 8), (16, 8, 5, 1), {"padding": (2, 0)}),
        ((2, 8, 12, 8), (16, 8, 2, 2), {"stride": 2}),
        ((2, 8, 12, 8), (16, 8, 1, 1), {"stride": 2}),
    ),
    *_cases(  # every form of padding
        "conv2d",
        "",
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": "valid"}),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": "same"}, "smoke"),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": "same", "stride": (2, 3)}),
        ((2, 6, 7, 3), (4, 3, 3, 2), {"padding": "same", "stride": 4, "dilation": (1, 2)}),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": (2,)}),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": ((1, 2), (0, 3))}, "smoke"),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": (1, (0, 3)), "stride": 2}),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": ((2, 0),)}),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": (2, 3), "padding_mode": "reflect"}, "smoke"),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": (2, 3), "padding_mode": "replicate"}, "smoke"),
        ((2, 6, 7, 3), (4, 3, 3, 4), {"padding": (2, 3), "padding_mode": "circular"}, "smoke"),
        ((2, 13, 29, 8), (17, 8, 3, 5), {"padding": ((2, 0), (1, 4)), "padding_mode": "reflect", "stride": (1, 2)}),
        ((2, 13, 29, 8), (17, 8, 3, 5), {"padding": "same", "padding_mode": "circular", "dilation": (2, 1)}),
        ((2, 13, 29, 8), (17, 8, 3, 5), {"padding": "same", "padding_mode": "replicate", "stride": 2}),
    ),
    *_cases(
        "conv2d",
        "edge",
        ((5, 6, 3), (4, 3, 3, 3), {"padding": 1}, "smoke"),
        ((0, 5, 6, 3), (4, 3, 3, 3), {}, "smoke"),
        ((2, 0, 6, 3), (4, 3, 3, 3), {"padding": 2}),
        ((2, 5, 0, 3), (4, 3, 3, 3), {"padding": 2}),
        ((2, 0, 6, 3), (4, 3, 3, 3), {"padding": "same"}),
        ((2, 5, 4, 0), (4, 0, 3, 3), {"padding": 1}),
        ((2, 3, 3, 3), (4, 3, 3, 3), {}),
        ((2, 1, 1, 3), (4, 3, 3, 3), {"padding": 1}),
        ((2, 2, 1, 3), (4, 3, 5, 4), {"padding": (2, 3)}),
        ((2, 3, 4, 3), (4, 3, 2, 2), {"padding": 5}),
        ((2, 3, 4, 3), (4, 3, 2, 3), {"padding": (4, 6), "padding_mode": "replicate"}),
        ((2, 3, 4, 3), (4, 3, 2, 3), {"padding": (2, 3), "padding_mode": "reflect"}),
        ((2, 3, 4, 3), (4, 3, 2, 3), {"padding": (3, 4), "padding_mode": "circular"}),
        ((2, 4, 5, 3), (4, 3, 3, 3), {"dilation": (5, 6), "padding": (5, 6)}),
        ((2, 9, 11, 3), (4, 3, 2, 2), {"stride": (5, 7)}),
        ((2, 9, 11, 1), (1, 1, 3, 3), {"padding": 1}, "smoke"),
        ((2, 9, 11, 1), (100, 1, 3, 3), {"padding": 1}),
        ((2, 9, 11, 30), (1, 30, 3, 3), {"padding": 1}),
        ((2, 9, 11, 5), (3, 5, 3, 3), {"padding": 1}),
        ((2, 9, 11, 5), (65, 5, 3, 3), {"padding": 1}),
        ((1, 1, 40, 6), (7, 6, 1, 3), {"padding": (0, 1)}),
        ((1, 40, 1, 6), (7, 6, 3, 1), {"padding": (1, 0)}),
        ((60, 3, 2, 3), (4, 3, 2, 2), {}),
    ),
    *_cases(
        "conv2d",
        "",
        ((2, 5, 6, 4), (6, 2, 3, 3), {"groups": 2, "padding": 1}, "smoke"),
        ((2, 9, 8, 12), (9, 4, 3, 2), {"groups": 3, "stride": 2, "dilation": (1, 2), "padding": 2}),
        ((1, 14, 14, 64), (64, 4, 3, 3), {"groups": 16, "padding": 1}),
        ((2, 5, 6, 5), (5, 1, 3, 3), {"groups": 5, "padding": 1}, "smoke"),
        ((2, 5, 6, 3), (6, 1, 3, 3), {"groups": 3, "padding": 1}, "smoke"),
        ((2, 14, 14, 33), (33, 1, 3, 3), {"groups": 33, "padding": 1, "stride": 2}),
        ((2, 7, 7, 40), (40, 1, 5, 5), {"groups": 40, "padding": "same"}, "no bias"),
        ((2, 9, 12, 16), (48, 1, 3, 3), {"groups": 16, "padding": ((0, 2), (1, 0)), "dilation": (1, 2)}),
        ((2, 9, 12, 10), (10, 1, 3, 3), {"groups": 10, "padding": 2, "padding_mode": "circular"}),
        ((9, 12, 10), (10, 1, 3, 3), {"groups": 10, "padding": 1}),
        # One call of a kernel serves the lines that meet all rows of the window.
        ((2, 7, 9, 5), (5, 1, 3, 3), {"groups": 5, "padding": 1}, "smoke"),
        ((2, 11, 14, 40), (40, 1, 3, 3), {"groups": 40, "padding": 1}),
        ((2, 12, 29, 16), (16, 1, 5, 3), {"groups": 16, "padding": ((4, 0), (1, 1)), "dilation": (2, 1)}),
        ((2, 13, 15, 112), (112, 1, 3, 3), {"groups": 112, "padding": 1, "stride": (2, 1)}),
    ),
]

_CONV_TRANSPOSE1D = [
    *_cases(  # as for conv1d
        "conv_transpose1d",
        "",
        ((1, 163, 16), (16, 4, 1), {"groups": 4, "padding": ((3, 3),)}),
        ((2, 61, 16), (16, 8, 1), {"groups": 2, "stride": 3, "padding": ((1, 2),)}, "smoke"),
        ((1, 120, 64), (64, 8, 3), {"groups": 8, "padding": 1}),
    ),
    *_cases(
        "conv_transpose1d",
        "",
        ((2, 7, 3), (3, 4, 3), {}, "smoke"),
        ((2, 9, 5), (5, 6, 1), {}, "no bias"),
        ((1, 40, 16), (16, 33, 3), {"padding": 1}),
        ((2, 7, 3), (3, 4, 4), {"stride": 2, "padding": 1}, "smoke"),
        ((2, 25, 12), (12, 20, 16), {"stride": 8, "padding": 4}),
        ((2, 25, 12), (12, 17, 7), {"stride": 3, "padding": 2}),
        ((2, 9, 3), (3, 4, 3), {"stride": 2, "output_padding": 1}, "smoke"),
        ((2, 9, 3), (3, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((2, 9, 3), (3, 4, 3), {"stride": 4, "output_padding": 3}),
        ((2, 9, 3), (3, 4, 3), {"dilation": 3, "output_padding": 2}, "smoke"),
        ((2, 9, 3), (3, 4, 3), {"stride": 2, "dilation": 3, "padding": 2, "output_padding": 2}),
        ((2, 9, 3), (3, 4, 5), {"stride": 4, "dilation": 2, "padding": 3}),
        ((2, 9, 3), (3, 4, 5), {"stride": 6, "dilation": 4, "padding": 1}),
        ((2, 30, 8), (8, 17, 4), {"stride": (2,), "padding": (3,), "dilation": (2,), "output_padding": (1,)}),
    ),
    *_cases(  # every form of padding
        "conv_transpose1d",
        "",
        ((2, 8, 3), (3, 4, 5), {"padding": "valid", "stride": 2}),
        ((2, 8, 3), (3, 4, 4), {"padding": "same"}, "smoke"),
        ((2, 8, 3), (3, 4, 4), {"padding": "same", "stride": 3}),
        ((2, 8, 3), (3, 4, 2), {"padding": "same", "stride": 5}),
        ((2, 8, 3), (3, 4, 3), {"padding": "same", "stride": 2, "dilation": 2, "output_padding": 1}),
        ((2, 8, 3), (3, 4, 4), {"padding": "causal", "stride": 2}, "smoke"),
        ((2, 8, 3), (3, 4, 2), {"padding": "causal", "stride": 3}),
        ((2, 8, 3), (3, 4, 3), {"padding": "causal", "dilation": 2}),
        ((2, 8, 3), (3, 4, 5), {"padding": ((3, 1),), "stride": 2}, "smoke"),
        ((2, 8, 3), (3, 4, 5), {"padding": ((0, 4),), "stride": 3}),
    ),
    *_cases(
        "conv_transpose1d",
        "edge",
        ((7, 3), (3, 4, 3), {"stride": 2}, "smoke"),
        ((0, 7, 3), (3, 4, 3), {}, "smoke"),
        ((2, 0, 3), (3, 4, 3), {}),
        ((2, 5, 0), (0, 4, 3), {}),
        ((2, 5, 3), (3, 0, 3), {}, "no bias"),
        ((2, 1, 3), (3, 4, 1), {}),
        ((2, 1, 3), (3, 4, 9), {"padding": 4}),
        ((2, 9, 3), (3, 4, 3), {"padding": 5}),
        ((2, 9, 3), (3, 4, 3), {"padding": ((4, 7),)}),
        ((2, 9, 3), (3, 4, 2), {"padding": ((8, 0),), "stride": 2}),
        ((2, 9, 3), (3, 4, 2), {"padding": ((0, 9),), "stride": 2}),
        ((2, 5, 3), (3, 4, 2), {"stride": 5}),
        ((2, 5, 3), (3, 4, 1), {"stride": 7, "output_padding": 6}),
        ((2, 5, 3), (3, 4, 2), {"stride": 4, "dilation": 4}),
        ((2, 3, 3), (3, 4, 2), {"dilation": 9, "padding": 2}),
        ((2, 37, 1), (1, 1, 3), {"padding": 1}, "smoke"),
        ((2, 37, 1), (1, 100, 4), {"stride": 2}),
        ((2, 37, 100), (100, 1, 4), {"stride": 2}),
        ((2, 37, 5), (5, 3, 4), {"stride": 2}),
        ((2, 37, 5), (5, 65, 4), {"stride": 2}),
        ((100, 2, 3), (3, 4, 2), {}),
    ),
    *_cases(
        "conv_transpose1d",
        "",
        ((2, 7, 4), (4, 3, 3), {"groups": 2, "padding": 1}, "smoke"),
        ((2, 9, 12), (12, 3, 4), {"groups": 3, "stride": 2, "dilation": 3, "output_padding": 1}),
        ((2, 20, 32), (32, 24, 4), {"groups": 2, "stride": 2, "padding": 1}),
        ((2, 7, 5), (5, 1, 3), {"groups": 5, "stride": 2}, "smoke"),
        ((2, 7, 3), (3, 2, 4), {"groups": 3, "stride": 2}),
        ((2, 20, 17), (17, 1, 4), {"groups": 17, "stride": 2, "padding": 1}, "no bias"),
        ((2, 20, 48), (48, 1, 5), {"groups": 48, "padding": "causal", "dilation": 2}),
        ((20, 16), (16, 3, 4), {"groups": 16, "stride": 3, "padding": ((2, 0),)}),
    ),
]

_CONV_TRANSPOSE2D = [
    *_cases(  # the same
        "conv_transpose2d",
        "",
        ((1, 14, 15, 32), (32, 8, 3, 3), {"groups": 4, "padding": 1}),
    ),
    *_cases(
        "conv_transpose2d",
        "",
        ((2, 4, 5, 3), (3, 4, 3, 3), {}, "smoke"),
        ((2, 4, 5, 5), (5, 6, 1, 1), {}, "no bias"),
        ((1, 12, 20, 16), (16, 33, 3, 3), {"padding": 1}),
        ((2, 4, 5, 3), (3, 4, 2, 2), {"stride": 2}, "smoke"),
        ((1, 14, 14, 16), (16, 24, 2, 2), {"stride": 2}),
        ((1, 7, 7, 16), (16, 24, 4, 4), {"stride": 2, "padding": 1}),
        ((2, 4, 5, 3), (3, 4, 3, 5), {"stride": (2, 3), "padding": (1, 2)}),
        ((2, 4, 5, 3), (3, 4, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}, "smoke"),
        ((2, 4, 5, 3), (3, 4, 3, 3), {"stride": (3, 1), "dilation": (1, 2), "output_padding": (2, 1)}),
        ((2, 4, 5, 3), (3, 4, 3, 2), {"stride": (4, 2), "dilation": (2, 4), "padding": (2, 1)}),
    ),
    *_cases(  # every form of padding
        "conv_transpose2d",
        "",
        ((2, 4, 5, 3), (3, 4, 3, 4), {"padding": "valid", "stride": 2}),
        ((2, 4, 5, 3), (3, 4, 3, 4), {"padding": "same"}, "smoke"),
        ((2, 4, 5, 3), (3, 4, 3, 4), {"padding": "same", "stride": (2, 3)}),
        ((2, 4, 5, 3), (3, 4, 2, 3), {"padding": "same", "stride": (3, 5), "output_padding": (1, 0)}),
        ((2, 4, 5, 3), (3, 4, 3, 4), {"padding": (2,), "stride": 2}),
        ((2, 4, 5, 3), (3, 4, 3, 4), {"padding": ((1, 2), (0, 3))}, "smoke"),
        ((2, 4, 5, 3), (3, 4, 3, 4), {"padding": (1, (0, 3)), "stride": 2}),
    ),
    *_cases(
        "conv_transpose2d",
        "edge",
        ((4, 5, 3), (3, 4, 3, 3), {"stride": 2}, "smoke"),
        ((0, 4, 5, 3), (3, 4, 3, 3), {}, "smoke"),
        ((2, 0, 5, 3), (3, 4, 3, 3), {}),
        ((2, 1, 1, 3), (3, 4, 1, 1), {}),
        ((2, 1, 1, 3), (3, 4, 5, 4), {"padding": (2, 1)}),
        ((2, 6, 5, 3), (3, 4, 2, 2), {"padding": 3, "stride": 2}),
        ((2, 2, 5, 3), (3, 4, 3, 2), {"padding": (2, 1)}),
        ((2, 3, 4, 3), (3, 4, 2, 1), {"stride": (5, 4)}),
        ((2, 3, 4, 3), (3, 4, 2, 2), {"dilation": (7, 5), "stride": (2, 5)}),
        ((2, 9, 11, 1), (1, 1, 3, 3), {"padding": 1}, "smoke"),
        ((2, 9, 11, 1), (1, 100, 2, 2), {"stride": 2}),
        ((2, 9, 11, 30), (30, 1, 2, 2), {"stride": 2}),
        ((2, 9, 11, 5), (5, 3, 3, 3), {"stride": 2}),
        ((1, 1, 20, 6), (6, 7, 1, 4), {"stride": (1, 2), "padding": (0, 1)}),
    ),
    *_cases(
        "conv_transpose2d",
        "",
        ((2, 4, 5, 4), (4, 3, 3, 3), {"groups": 2, "padding": 1}, "smoke"),
        ((2, 4, 5, 12), (12, 3, 2, 3), {"groups": 3, "stride": (2, 1), "dilation": (1, 2), "output_padding": (1, 1)}),
        ((2, 4, 5, 5), (5, 1, 3, 3), {"groups": 5, "stride": 2}, "smoke"),
        ((2, 7, 7, 33), (33, 1, 4, 4), {"groups": 33, "stride": 2, "padding": 1}, "no bias"),
        ((2, 9, 12, 32), (32, 1, 3, 3), {"groups": 32, "stride": (1, 2), "padding": 1}),
        ((6, 1, 8), (8, 1, 1, 1), {"groups": 8, "stride": (2, 1), "dilation": (2, 1), "output_padding": (1, 0)}),
        ((2, 4, 5, 16), (16, 2, 3, 3), {"groups": 16, "padding": ((2, 0), (1, 1))}),
    ),
]


def _perf(name: str, op: str, x_shape: Shape, weight_shape: Shape, bias: bool = True, **params: Any) -> Case:
    tags = {"perf", *({"group"} if params.get("groups", 1) > 1 else ())}
    return Case(op, x_shape, weight_shape, params, bias, frozenset(tags), name)


_PERF = [
    # The two shapes that the engine is held to, and the shapes of its first measurements.
    _perf("bulk", "conv1d", (8, 4096, 256), (256, 256, 3), padding=1),
    _perf("seed", "conv1d", (32, 1000, 100), (192, 100, 3), padding=1),
    _perf("dilated", "conv1d", (1, 8192, 64), (64, 64, 7), padding=9, dilation=3),
    _perf("wide", "conv1d", (1, 16000, 512), (512, 512, 3), padding=1),
    # Vocoder (HiFi-GAN V1), 100 mel frames.
    _perf("vocoder pre", "conv1d", (1, 100, 80), (512, 80, 7), padding=3),
    _perf("vocoder up 1", "conv_transpose1d", (1, 100, 512), (512, 256, 16), stride=8, padding=4),
    _perf("vocoder up 2", "conv_transpose1d", (1, 800, 256), (256, 128, 16), stride=8, padding=4),
    _perf("vocoder up 3", "conv_transpose1d", (1, 6400, 128), (128, 64, 4), stride=2, padding=1),
    _perf("vocoder up 4", "conv_transpose1d", (1, 12800, 64), (64, 32, 4), stride=2, padding=1),
    _perf("vocoder block 1", "conv1d", (1, 800, 256), (256, 256, 11), padding=25, dilation=5),
    _perf("vocoder block 2", "conv1d", (1, 6400, 128), (128, 128, 7), padding=9, dilation=3),
    _perf("vocoder block 3", "conv1d", (1, 12800, 64), (64, 64, 11), padding=5),
    _perf("vocoder block 4", "conv1d", (1, 25600, 32), (32, 32, 3), padding=1),
    _perf("vocoder post", "conv1d", (1, 25600, 32), (1, 32, 7), padding=3),
    # Audio codecs: EnCodec (causal, reflect), DAC, Mimi.
    _perf("codec first", "conv1d", (1, 75, 128), (512, 128, 7), padding=((6, 0),), padding_mode="reflect"),
    _perf("codec up", "conv_transpose1d", (1, 600, 256), (256, 128, 10), stride=5, padding="causal"),
    _perf("codec last", "conv1d", (1, 24000, 32), (1, 32, 7), padding=((6, 0),), padding_mode="reflect"),
    _perf("dac up", "conv_transpose1d", (1, 86, 1536), (1536, 768, 16), stride=8, padding=4),
    _perf("mimi up", "conv_transpose1d", (1, 25, 512), (512, 1, 4), bias=False, stride=2, padding="causal", groups=512),
    # WaveNet, TCN, denoiser, wav2vec2, Whisper, VAD, Vocos.
    _perf("wavenet layer", "conv1d", (1, 16000, 128), (256, 128, 3), padding="causal", dilation=32),
    _perf("tcn level", "conv1d", (32, 784, 25), (25, 25, 7), padding="causal", dilation=16),
    _perf("denoiser first", "conv1d", (1, 64852, 1), (48, 1, 8), stride=4),
    _perf("denoiser last", "conv_transpose1d", (1, 16212, 48), (48, 1, 8), stride=4),
    _perf("denoiser deep", "conv1d", (1, 252, 384), (768, 384, 8), stride=4),
    _perf("wav2vec2 first", "conv1d", (1, 16000, 1), (512, 1, 10), bias=False, stride=5),
    _perf("wav2vec2 second", "conv1d", (1, 3199, 512), (512, 512, 3), bias=False, stride=2),
    _perf("wav2vec2 position", "conv1d", (1, 49, 768), (768, 48, 128), padding=64, groups=16),
    _perf("whisper 1", "conv1d", (1, 3000, 80), (512, 80, 3), padding=1),
    _perf("whisper 2", "conv1d", (1, 3000, 512), (512, 512, 3), stride=2, padding=1),
    _perf("vad spectrum", "conv1d", (1, 640, 1), (258, 1, 256), bias=False, stride=128),
    _perf("vad block", "conv1d", (1, 4, 129), (128, 129, 3), padding=1),
    _perf("vocos depthwise", "conv1d", (1, 500, 512), (512, 1, 7), padding=3, groups=512),
    _perf("vocos pointwise", "conv1d", (1, 500, 512), (1536, 512, 1)),
    # Images: ResNet, ResNeXt, MobileNetV2, U-Net, OCR head, super-resolution, detection.
    _perf("resnet stem", "conv2d", (1, 224, 224, 3), (64, 3, 7, 7), bias=False, stride=2, padding=3),
    _perf("resnet layer 1", "conv2d", (1, 56, 56, 64), (64, 64, 3, 3), bias=False, padding=1),
    _perf("resnet layer 2", "conv2d", (1, 28, 28, 128), (128, 128, 3, 3), bias=False, padding=1),
    _perf("resnet layer 3", "conv2d", (1, 14, 14, 256), (256, 256, 3, 3), bias=False, padding=1),
    _perf("resnet layer 4", "conv2d", (1, 7, 7, 512), (512, 512, 3, 3), bias=False, padding=1),
    _perf("resnet down", "conv2d", (1, 56, 56, 64), (128, 64, 3, 3), bias=False, stride=2, padding=1),
    _perf("resnet pointwise", "conv2d", (1, 56, 56, 256), (64, 256, 1, 1), bias=False),
    _perf("resnet shortcut", "conv2d", (1, 56, 56, 64), (128, 64, 1, 1), bias=False, stride=2),
    _perf("resnext block", "conv2d", (1, 56, 56, 128), (128, 4, 3, 3), bias=False, padding=1, groups=32),
    _perf("mobilenet stem", "conv2d", (1, 224, 224, 3), (32, 3, 3, 3), bias=False, stride=2, padding=1),
    _perf("mobilenet wide", "conv2d", (1, 112, 112, 96), (96, 1, 3, 3), bias=False, stride=2, padding=1, groups=96),
    _perf("mobilenet deep", "conv2d", (1, 14, 14, 384), (384, 1, 3, 3), bias=False, padding=1, groups=384),
    _perf("mobilenet narrow", "conv2d", (1, 14, 14, 384), (64, 384, 1, 1), bias=False),
    _perf("unet top", "conv2d", (1, 256, 256, 64), (64, 64, 3, 3), padding=1),
    _perf("unet up", "conv_transpose2d", (1, 32, 32, 512), (512, 256, 2, 2), stride=2),
    _perf("ocr up 1", "conv_transpose2d", (1, 40, 40, 24), (24, 24, 2, 2), stride=2),
    _perf("ocr up 2", "conv_transpose2d", (1, 80, 80, 24), (24, 1, 2, 2), stride=2),
    _perf("espcn first", "conv2d", (1, 256, 256, 1), (64, 1, 5, 5), padding=2),
    _perf("espcn last", "conv2d", (1, 256, 256, 32), (9, 32, 3, 3), padding=1),
    _perf("yolo stem", "conv2d", (1, 640, 640, 3), (16, 3, 3, 3), bias=False, stride=2, padding=1),
]

CASES = [*_CONV1D, *_CONV2D, *_CONV_TRANSPOSE1D, *_CONV_TRANSPOSE2D]
PERF_CASES = _PERF


def tagged(tag: str) -> list[Case]:
    """Cases that carry a tag."""
    if tag not in TAGS:
        raise ValueError(f"no such tag: {tag}; there are {', '.join(TAGS)}")
    return [case for case in [*CASES, *PERF_CASES] if tag in case.tags]


def small_perf_cases(most_macs: int = 30_000_000) -> list[Case]:
    """Real layers that a unit test can afford."""
    return [case for case in PERF_CASES if case.macs <= most_macs]
