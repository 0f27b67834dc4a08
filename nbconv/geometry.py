"""Shapes of convolutions: the only home of every length formula.

Three steps, integers only, no arrays:

1. `ConvSpec`: what the caller asked for (stride, padding, ...), checked and normalised, hashable, free of shapes;
2. `bind(spec, x_shape, weight_shape)`: the spec on concrete shapes, a `Geometry` of one `Axis` for each spatial axis;
3. `Geometry.phases()`: the plain stride-`s` correlations that make up the operation. A convolution is one phase;
   a transposed convolution is one phase for each residue of the output position modulo the stride.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

from .parameters import Pair, normalise_padding, per_axis, whole

__all__ = ["PADDING_MODES", "Axis", "ConvSpec", "Geometry", "Phase", "bind", "bind_window"]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class Axis(NamedTuple):
    """One spatial axis, bound: plain integers.

    In a convolution, tap `t` of output position `p` reads input position `p * stride + t * dilation - lo`.
    In a transposed one, tap `t` of *input* position `p` adds to output position `p * stride + t * dilation - lo`;
    `lo` and `hi` are then the crop of the full output.
    """

    size: int
    taps: int
    stride: int
    dilation: int
    lo: int
    hi: int
    out: int

    @property
    def reach(self) -> int:
        """Length of the window that the taps span."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def interior(self) -> Pair:
        """Range `[first, end)` of the output positions whose every tap meets real data (convolution)."""
        first = min(max(0, -(-self.lo // self.stride)), self.out)
        end = (self.size + self.lo - self.reach) // self.stride + 1
        return first, max(first, min(end, self.out))


class Phase(NamedTuple):
    """A stride-`axis.stride` correlation with some of the taps, written to every `out_step`-th output.

    Position `p` of the phase is output `out_start + p * out_step`; its tap `t` is tap `tap_start + t * tap_step` of
    the whole kernel and reads input position `p * axis.stride + t * axis.dilation - axis.lo`.
    """

    axis: Axis
    tap_start: int
    tap_step: int
    out_start: int
    out_step: int


UNIT_PHASE = Phase(Axis(1, 1, 1, 1, 0, 0, 1), 0, 1, 0, 1)
"""The axis that one-dimensional operations have beside their own."""


@lru_cache(maxsize=1024)
def _whole_adjoint(geometry: Geometry) -> Geometry:
    return geometry._adjoint([(0, axis.size) for axis in geometry.axes])


def axis_phases(axis: Axis, transposed: bool) -> tuple[Phase, ...]:
    """Cut one axis into phases; see `Phase`.

    Derivation for the transposed operation with stride `s`, dilation `d`, crop `lo`: output `o` receives tap `j` of
    input `i` where `i*s + j*d - lo == o`. Among the outputs `o = r + q*s` of residue `r`, tap `j` takes part iff
    `(r + lo - j*d) % s == 0`. With `g = gcd(s, d)` that is no tap unless `g` divides `r + lo`, else every `s/g`-th
    tap from some `j0` on. The input position is `i = q + (r + lo - j*d)/s`: it grows by one with `q`, and by `d/g`
    from each such tap to the one *before* it. Taken from the last tap down, these taps are an ordinary correlation of
    stride 1 and dilation `d/g`.
    """
    if not transposed:
        return (Phase(axis, 0, 1, 0, 1),)
    s, d, lo = axis.stride, axis.dilation, axis.lo
    g = math.gcd(s, d)
    phases = []
    for r in range(min(s, axis.out)):
        count = -(-(axis.out - r) // s)
        taps = [j for j in range(min(s // g, axis.taps)) if (r + lo - j * d) % s == 0]
        if not taps:
            phases.append(Phase(Axis(axis.size, 0, 1, 1, 0, 0, count), 0, 1, r, s))
            continue
        n_taps = -(-(axis.taps - taps[0]) // (s // g))
        last = taps[0] + (n_taps - 1) * (s // g)
        low = (last * d - r - lo) // s
        reach = (d // g) * (n_taps - 1) + 1
        high = count + reach - 1 - axis.size - low
        phases.append(Phase(Axis(axis.size, n_taps, 1, d // g, low, high, count), last, -(s // g), r, s))
    return tuple(phases)


def merge_phases(phases: tuple[Phase, ...]) -> tuple[tuple[Phase, ...], ...]:
    """Group neighbouring phases that read the same rows of x, each with the tap after the one before.

    Their outputs lie next to each other, so that a group is one correlation with as many times the output channels: a
    transposed convolution of kernel 16, stride 8 and crop 4 is two of them, each with four times the channels.
    """
    groups: list[list[Phase]] = []
    for phase in phases:
        before = groups[-1][-1] if groups else None
        if (
            before is not None
            and before.axis[1:5] == phase.axis[1:5]  # taps, stride, dilation, lo
            and (phase.axis.taps == 0 or phase.tap_start == before.tap_start + 1)
        ):
            groups[-1].append(phase)
        else:
            groups.append([phase])
    return tuple(map(tuple, groups))


class _HashedOnce:
    """Keeps a frozen dataclass's hash: specs and geometries are the keys of every cache on the way to a kernel."""

    _hash: int | None = None

    def __hash__(self) -> int:
        if self._hash is None:
            values = tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
            object.__setattr__(self, "_hash", hash(values))
        return self._hash  # type: ignore[return-value]


@dataclass(frozen=True)
class ConvSpec(_HashedOnce):
    """What was asked for, checked and normalised; independent of shapes. Build it with `ConvSpec.of`."""

    op: str
    ndim: int
    transposed: bool
    stride: tuple[int, ...]
    padding: tuple[Pair, ...] | str
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...]
    padding_mode: str

    __hash__ = _HashedOnce.__hash__

    @staticmethod
    def of(
        op: str,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        output_padding: Any = 0,
        padding_mode: Any = "zeros",
        *,
        ndim: int | None = None,
    ) -> ConvSpec:
        """Check the parameters of operation `op` (as users name it, e.g. ``"conv_transpose2d"``) and normalise them.

        The name says how many spatial axes there are and whether the operation is transposed; `ndim` overrides it.

        Raises
        ------
        ValueError
            For a parameter that no input shape could make right; the text begins with the operation's name.
        TypeError
            For a parameter that is not a whole number, or a tuple of them, where one is needed.
        """
        ndim = ndim or (2 if "2d" in op.lower() else 1)
        transposed = "transpose" in op.lower()
        strides = per_axis(op, "stride", stride, ndim, least=1)
        dilations = per_axis(op, "dilation", dilation, ndim, least=1)
        extra = per_axis(op, "output_padding", output_padding, ndim, least=0)
        n_groups = whole(op, "groups", groups, least=1)
        for axis, (e, s, d) in enumerate(zip(extra, strides, dilations, strict=True)):
            if transposed and e >= max(s, d):
                raise ValueError(
                    f"{op}: output_padding must be smaller than stride or dilation; "
                    f"got output_padding {e}, stride {s}, dilation {d} on axis {axis}"
                )
        if not isinstance(padding_mode, str) or padding_mode not in PADDING_MODES:
            raise ValueError(f"{op}: padding_mode must be one of {', '.join(PADDING_MODES)}; got {padding_mode!r}")
        if transposed and padding_mode != "zeros":
            raise ValueError(f"{op}: padding_mode must be 'zeros' for a transposed convolution; got {padding_mode!r}")
        return ConvSpec(
            op,
            ndim,
            transposed,
            strides,
            normalise_padding(op, padding, ndim),
            dilations,
            n_groups,
            extra,
            padding_mode,
        )


@dataclass(frozen=True)
class Geometry(_HashedOnce):
    """A `ConvSpec` bound to shapes."""

    spec: ConvSpec
    batched: bool
    n: int
    c_in: int
    c_out: int
    axes: tuple[Axis, ...]

    __hash__ = _HashedOnce.__hash__

    @property
    def groups(self) -> int:
        """Number of channel groups."""
        return self.spec.groups

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result, channels last, without the sample axis where the input had none."""
        spatial = tuple(axis.out for axis in self.axes)
        return (self.n, *spatial, self.c_out) if self.batched else (*spatial, self.c_out)

    def adjoint(self, box: Sequence[Pair] | None = None) -> Geometry:
        """Give the geometry of the adjoint in `x`: from arrays of this one's output shape to arrays of its input shape.

        Derivation: a convolution sums `x[p*s + t*d - lo] * w[t]` into output `p`; a transposed one adds `x[p] * w[t]`
        to output `p*s + t*d - lo`. So the pairs of positions that a tap ties together are the same in both, and which
        side is summed over is all that differs: the adjoint is the other operation with the same stride, dilation, `lo`
        and weight. Its output has the size of `x` whatever the stride left unread at the end; the `hi` that says so may
        be negative, and unread positions receive nothing.

        Parameters
        ----------
        box
            For each axis the range of positions of `x` that is wanted, where it is not all of them. It may reach into
            the padding: what would flow to each padded position is then told apart.
        """
        if box is None:
            return _whole_adjoint(self)
        if self.spec.transposed:
            raise ValueError("a box is for the adjoint of a convolution")
        return self._adjoint(box)

    def _adjoint(self, box: Sequence[Pair]) -> Geometry:
        axes = []
        for axis, (start, end) in zip(self.axes, box, strict=True):
            windows = axis.size if self.spec.transposed else axis.out
            lo = axis.lo + start
            hi = (windows - 1) * axis.stride + axis.reach - lo - (axis.out if self.spec.transposed else end - start)
            out = axis.size if self.spec.transposed else end - start
            axes.append(Axis(axis.out, axis.taps, axis.stride, axis.dilation, lo, hi, out))
        # Phases, and with them the order of packed weights, depend on the crop modulo the stride only.
        spec = replace(
            self.spec,
            transposed=not self.spec.transposed,
            padding=tuple((axis.lo % axis.stride, 0) for axis in axes),
            output_padding=(0,) * self.spec.ndim,
            padding_mode="zeros",
        )
        return Geometry(spec, self.batched, self.n, self.c_out, self.c_in, tuple(axes))

    def phases(self) -> Iterator[tuple[Phase, ...]]:
        """Yield one phase for each axis, over all combinations; together they write each output exactly once."""
        return itertools.product(*(axis_phases(axis, self.spec.transposed) for axis in self.axes))


@lru_cache(maxsize=4096)
def bind(
    spec: ConvSpec, x_shape: tuple[int, ...], weight_shape: tuple[int, ...], bias_shape: tuple[int, ...] | None = None
) -> Geometry:
    """Bind a spec to shapes.

    Parameters
    ----------
    spec
        What to do.
    x_shape
        ``(N, L, C)`` or ``(L, C)`` in one dimension, ``(N, H, W, C)`` or ``(H, W, C)`` in two.
    weight_shape
        ``(C_out, C_in/groups, *kernel)``; transposed: ``(C_in, C_out/groups, *kernel)``.
    bias_shape
        ``(C_out,)`` or None.

    Raises
    ------
    ValueError
        Where the shapes do not fit each other or the spec; the text names the argument and gives both numbers.
    """
    op, ndim, groups = spec.op, spec.ndim, spec.groups
    shapes = f"x {x_shape}, weight {weight_shape}"
    _check_x_rank(op, x_shape, ndim)
    kernel_names = "kernel" if ndim == 1 else "kernel_h, kernel_w"
    if len(weight_shape) != ndim + 2:
        first, second = ("C_in", "C_out/groups") if spec.transposed else ("C_out", "C_in/groups")
        raise ValueError(
            f"{op}: weight must have {ndim + 2} axes ({first}, {second}, {kernel_names}); "
            f"got {len(weight_shape)}: weight {weight_shape}"
        )
    if 0 in weight_shape[2:]:
        raise ValueError(f"{op}: the kernel must have at least one tap on every axis; got weight {weight_shape}")
    c_x = x_shape[-1]
    if spec.transposed:
        c_in, c_out = weight_shape[0], weight_shape[1] * groups
        if c_in != c_x:
            raise ValueError(f"{op}: x has {c_x} channels, weight expects {c_in}; {shapes}")
        if c_in % groups:
            raise ValueError(f"{op}: weight has {c_in} input channels, which groups={groups} does not divide; {shapes}")
    else:
        c_out, c_in = weight_shape[0], weight_shape[1] * groups
        if c_in != c_x:
            per_group = f"{weight_shape[1]} * groups({groups}) = {c_in}"
            raise ValueError(f"{op}: x has {c_x} channels, weight expects {per_group}; {shapes}")
        if c_out % groups:
            raise ValueError(
                f"{op}: weight has {c_out} output channels, which groups={groups} does not divide; {shapes}"
            )
    if bias_shape is not None and bias_shape != (c_out,):
        raise ValueError(f"{op}: bias must have shape ({c_out},), one number an output channel; got {bias_shape}")
    batched = len(x_shape) == ndim + 2
    n = x_shape[0] if batched else 1
    axes = _bind_axes(spec, x_shape[-1 - ndim : -1], weight_shape[2:])
    return Geometry(spec, batched, n, c_in, c_out, axes)


@lru_cache(maxsize=1024)
def bind_window(spec: ConvSpec, x_shape: tuple[int, ...], kernel: tuple[int, ...]) -> Geometry:
    """Bind a spec to an input and a bare window, as im2col needs it: `c_out` counts the columns (taps x channels)."""
    _check_x_rank(spec.op, x_shape, spec.ndim)
    batched = len(x_shape) == spec.ndim + 2
    c_in = x_shape[-1]
    axes = _bind_axes(spec, x_shape[-1 - spec.ndim : -1], kernel)
    return Geometry(spec, batched, x_shape[0] if batched else 1, c_in, math.prod(kernel) * c_in, axes)


def _check_x_rank(op: str, x_shape: tuple[int, ...], ndim: int) -> None:
    if len(x_shape) not in (ndim + 1, ndim + 2):
        names = "L, C" if ndim == 1 else "H, W, C"
        raise ValueError(f"{op}: x must have shape (N, {names}) or ({names}); got {len(x_shape)} axes: x {x_shape}")


def _bind_axes(spec: ConvSpec, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Axis, ...]:
    bind_one = _transposed_axis if spec.transposed else _forward_axis
    return tuple(bind_one(spec, i, size, taps) for i, (size, taps) in enumerate(zip(sizes, kernel, strict=True)))


def _forward_axis(spec: ConvSpec, i: int, size: int, taps: int) -> Axis:
    op, s, d = spec.op, spec.stride[i], spec.dilation[i]
    reach = d * (taps - 1) + 1
    if spec.padding == "same":
        total = max((-(-size // s) - 1) * s + reach - size, 0)
        lo, hi = total // 2, total - total // 2
    elif spec.padding == "causal":
        lo, hi = reach - 1, 0
    else:
        lo, hi = _pairs(spec)[i]
    if spec.padding == "same":
        out = -(-size // s)
    elif size + lo + hi < reach:
        raise ValueError(
            f"{op}: the kernel does not fit: it reaches over {reach} positions "
            f"(dilation({d}) * (kernel({taps}) - 1) + 1), x has {size} + padding({lo} + {hi}) on axis {i}"
        )
    else:
        out = (size + lo + hi - reach) // s + 1
    if spec.padding_mode != "zeros" and out:
        most = {"reflect": size - 1, "circular": size}.get(spec.padding_mode)
        if most is not None and max(lo, hi) > most:
            raise ValueError(
                f"{op}: padding_mode {spec.padding_mode!r} can pad at most {most} on axis {i} of size {size}; "
                f"got padding ({lo}, {hi})"
            )
        if size == 0:
            raise ValueError(f"{op}: padding_mode {spec.padding_mode!r} needs data; x has size 0 on axis {i}")
    return Axis(size, taps, s, d, lo, hi, out)


def _transposed_axis(spec: ConvSpec, i: int, size: int, taps: int) -> Axis:
    op, s, d, extra = spec.op, spec.stride[i], spec.dilation[i], spec.output_padding[i]
    reach = d * (taps - 1) + 1
    # The crop of "same" and "causal" is negative where the stride exceeds the reach: the output then ends in bias only.
    if spec.padding == "same":
        lo = max(reach - s, 0) // 2
        hi = reach - s - lo
    elif spec.padding == "causal":
        lo, hi = 0, reach - s
    else:
        lo, hi = _pairs(spec)[i]
    out = (size - 1) * s + reach - lo - hi + extra
    if out < 0:
        raise ValueError(
            f"{op}: nothing is left of the output: (size({size}) - 1) * stride({s}) + {reach} - padding({lo} + {hi}) "
            f"+ output_padding({extra}) = {out} on axis {i}"
        )
    return Axis(size, taps, s, d, lo, hi, out)


def _pairs(spec: ConvSpec) -> tuple[Pair, ...]:
    assert not isinstance(spec.padding, str)
    return spec.padding
