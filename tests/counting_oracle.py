"""An interpreter that convolves number by number and counts each multiplication and addition as it happens.

It is written from the definition, position by position, and imports nothing of the package.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

Index = tuple[int, ...]
Sums = dict[Index, "Number"]

TARGETS = ("output", "x", "weight", "bias")


@dataclass
class Tally:
    """What happened to the numbers that belong to it, and which of the given ones took part."""

    multiplications: int = 0
    additions: int = 0

    def __iter__(self) -> Any:
        return iter((self.multiplications, self.additions))


@dataclass
class Number:
    """A whole number that reports to its tally. A zero of the padding is no number: it is never made."""

    value: int
    tally: Tally

    def __mul__(self, other: Number) -> Number:
        self.tally.multiplications += 1
        return Number(self.value * other.value, self.tally)

    def __add__(self, other: Number) -> Number:
        self.tally.additions += 1
        return Number(self.value + other.value, self.tally)


class Ran(NamedTuple):
    """Tallies and sums of the output and of each gradient, and which given numbers took part in the output."""

    tallies: dict[str, Tally]
    sums: dict[str, Sums]
    output_shape: tuple[int, ...]
    read: dict[str, set[Index]]


@dataclass(frozen=True)
class Call:
    """A convolution; every parameter but `padding` with one entry an axis, `padding` so or a word."""

    op: str
    n: int
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | str
    output_padding: tuple[int, ...]
    padding_mode: str
    groups: int
    c_in: int
    c_out: int
    bias: bool

    @property
    def transposed(self) -> bool:
        return "transpose" in self.op

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.n, *self.sizes, self.c_in)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        first, second = (self.c_in, self.c_out) if self.transposed else (self.c_out, self.c_in)
        return (first, second // self.groups, *self.kernel)

    @property
    def params(self) -> dict[str, Any]:
        own = {"output_padding": self.output_padding} if self.transposed else {"padding_mode": self.padding_mode}
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups, **own)


def given_number(name: str, index: Index) -> int:
    """Value of the number at an index of a given array, small and nearly as if drawn."""
    return (sum(prime * i for prime, i in zip((3, 5, 7, 11), index, strict=False)) ** 2 + len(name)) % 7 - 3


def interpret(call: Call) -> Ran | None:
    """Run a convolution and its three gradients on `given_number`s; None where the kernel does not fit."""
    axes = [_transposed_axis(call, i) if call.transposed else _forward_axis(call, i) for i in range(len(call.sizes))]
    if any(axis is None for axis in axes):
        return None
    lengths = [length for _, length in axes]
    # One entry for each (output position, tap, input position) that belong together.
    joins = [tuple(zip(*join, strict=True)) for join in itertools.product(*(joined for joined, _ in axes))]
    tallies = {target: Tally() for target in TARGETS}
    sums: dict[str, Sums] = {target: {} for target in TARGETS}
    read: dict[str, set[Index]] = {"x": set(), "weight": set(), "grad_output": set()}

    def given(name: str, index: Index, target: str) -> Number:
        return Number(given_number(name, index), tallies[target])

    def add(target: str, index: Index, number: Number) -> None:
        there = sums[target].get(index)
        sums[target][index] = number if there is None else there + number

    outputs = list(itertools.product(range(call.n), *map(range, lengths), range(call.c_out)))
    if call.bias:
        sums["output"] = {index: given("bias", index[-1:], "output") for index in outputs}
    in_group, out_group = call.c_in // call.groups, call.c_out // call.groups
    channels = itertools.product(range(call.groups), range(in_group), range(out_group))
    for (group, i, o), n, (position, tap, source) in itertools.product(channels, range(call.n), joins):
        x, y = (n, *source, group * in_group + i), (n, *position, group * out_group + o)
        w = (x[-1], o, *tap) if call.transposed else (y[-1], i, *tap)
        add("output", y, given("x", x, "output") * given("weight", w, "output"))
        add("x", x, given("grad_output", y, "x") * given("weight", w, "x"))
        add("weight", w, given("grad_output", y, "weight") * given("x", x, "weight"))
        read["x"].add(x)
        read["weight"].add(w)
        read["grad_output"].add(y)
    for index in outputs:
        add("bias", index[-1:], given("grad_output", index, "bias"))
    return Ran(tallies, sums, (call.n, *lengths, call.c_out), read)


Joins = tuple[list[tuple[int, int, int]], int]


def _forward_axis(call: Call, i: int) -> Joins | None:
    """Lay the data out with its padding, put the window at every stride-th place, look what is under each tap."""
    size, taps, s, d = call.sizes[i], call.kernel[i], call.stride[i], call.dilation[i]
    reach = (taps - 1) * d + 1
    if call.padding == "same":
        total = max((math.ceil(size / s) - 1) * s + reach - size, 0)
        lo, hi = total // 2, total - total // 2
    elif call.padding == "causal":
        lo, hi = reach - 1, 0
    else:
        lo, hi = call.padding[i]
    starts = [start for start in range(0, lo + size + hi, s) if start + reach <= lo + size + hi]
    if not starts:
        return ([], 0) if call.padding == "same" else None
    data: list[int | None] = list(range(size))
    mode, pad = call.padding_mode, max(lo, hi)
    if mode == "zeros":
        row = [None] * lo + data + [None] * hi
    elif size == 0 or (mode == "reflect" and pad > size - 1) or (mode == "circular" and pad > size):
        return None
    elif mode == "reflect":
        row = data[1 : lo + 1][::-1] + data + data[size - 1 - hi : size - 1][::-1]
    elif mode == "replicate":
        row = data[:1] * lo + data + data[-1:] * hi
    else:
        row = data[size - lo :] + data + data[:hi]
    under = [(p, tap, row[start + tap * d]) for p, start in enumerate(starts) for tap in range(taps)]
    return [(p, tap, source) for p, tap, source in under if source is not None], len(starts)


def _transposed_axis(call: Call, i: int) -> Joins | None:
    """Put the kernel down at every stride-th place of the full output, once an input; keep what is not cropped."""
    size, taps, s, d = call.sizes[i], call.kernel[i], call.stride[i], call.dilation[i]
    reach = (taps - 1) * d + 1
    if call.padding == "same":
        lo, length = max(reach - s, 0) // 2, size * s
    elif call.padding == "causal":
        lo, length = 0, size * s
    else:
        lo, length = call.padding[i][0], (size - 1) * s + reach - sum(call.padding[i])
    length += call.output_padding[i]
    if length < 0:
        return None
    full = [(source * s + tap * d - lo, tap, source) for source in range(size) for tap in range(taps)]
    return [(p, tap, source) for p, tap, source in full if 0 <= p < length], length
