"""The oracle: every operation computed from its definition, in float64 or in exact integers.

It imports nothing of the package, works out lengths and padding on its own, and prefers the obvious to the fast.
Arrays are channels-last, ``(N, L, C)`` or ``(L, C)`` in one dimension and ``(N, H, W, C)`` or ``(H, W, C)`` in two;
weights have PyTorch's shapes. Integer arrays are computed as int64, every other dtype as float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pads = list[tuple[int, int]]

NUMPY_PAD = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@np.errstate(invalid="ignore")  # inf - inf and 0 * inf are meant to give NaN
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Array:
    """Cross-correlate: pad the input, then sum over the taps. A padded zero takes part in the sum (0 * inf is NaN)."""
    x, weight = exact(x), exact(weight)
    kernel = weight.shape[2:]
    if x.ndim == len(kernel) + 1:
        return conv(x[None], weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode)[0]
    strides, dilations = each_axis(stride, len(kernel)), each_axis(dilation, len(kernel))
    pads = forward_pads(x.shape[1:-1], kernel, strides, padding, dilations)
    outs = forward_lengths(x.shape[1:-1], kernel, strides, pads, dilations)
    padded = pad(x, pads, padding_mode)
    y = np.zeros((len(x), *outs, len(weight)), np.result_type(x, weight))
    for tap in np.ndindex(*kernel):
        y += group_product(padded[window_of(tap, strides, dilations, outs)], weight[(..., *tap)], groups)
    return y if bias is None else y + exact(bias)


@np.errstate(invalid="ignore")
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    """Scatter: every input position adds its taps to the full output, which is then cropped (and its end extended)."""
    x, weight = exact(x), exact(weight)
    kernel = weight.shape[2:]
    if x.ndim == len(kernel) + 1:
        return conv_transpose(x[None], weight, bias, stride, padding, output_padding, groups, dilation)[0]
    ndim, sizes = len(kernel), x.shape[1:-1]
    strides, dilations, extras = (each_axis(value, ndim) for value in (stride, dilation, output_padding))
    crops = transposed_crops(kernel, strides, padding, dilations)
    outs = transposed_lengths(sizes, kernel, strides, crops, dilations, extras)
    fulls = [
        max((size - 1) * s + d * (k - 1) + 1, lo + out)
        for size, k, s, d, (lo, _), out in zip(sizes, kernel, strides, dilations, crops, outs, strict=True)
    ]
    c_in, c_out = weight.shape[0], weight.shape[1] * groups
    per_group = weight.reshape(groups, c_in // groups, c_out // groups, *kernel).swapaxes(1, 2)
    as_forward = per_group.reshape(c_out, c_in // groups, *kernel)
    full = np.zeros((len(x), *fulls, c_out), np.result_type(x, weight))
    for tap in np.ndindex(*kernel):
        full[window_of(tap, strides, dilations, sizes)] += group_product(x, as_forward[(..., *tap)], groups)
    y = full[(slice(None), *(slice(lo, lo + out) for (lo, _), out in zip(crops, outs, strict=True)))]
    return y.copy() if bias is None else y + exact(bias)


def im2col(x: Array, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Array:
    """Give every output position its window as one row: taps outermost, channels innermost."""
    ndim = kernel_ndim(x.ndim, kernel_size)
    kernel = each_axis(kernel_size, ndim)
    if x.ndim == ndim + 1:
        return im2col(x[None], kernel, stride, padding, dilation)[0]
    strides, dilations = each_axis(stride, ndim), each_axis(dilation, ndim)
    pads = forward_pads(x.shape[1:-1], kernel, strides, padding, dilations)
    outs = forward_lengths(x.shape[1:-1], kernel, strides, pads, dilations)
    padded = pad(x, pads, "zeros")
    windows = [padded[window_of(tap, strides, dilations, outs)] for tap in np.ndindex(*kernel)]
    return np.concatenate(windows, axis=-1)


def col2im(
    cols: Array, spatial_shape: Any, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> Array:
    """Add every row of columns back to the positions it was taken from: the adjoint of `im2col`."""
    sizes = tuple(spatial_shape) if isinstance(spatial_shape, (tuple, list)) else (spatial_shape,)
    ndim = len(sizes)
    if cols.ndim == ndim + 1:
        return col2im(cols[None], sizes, kernel_size, stride, padding, dilation)[0]
    cols = exact(cols)
    kernel, strides, dilations = (each_axis(value, ndim) for value in (kernel_size, stride, dilation))
    pads = forward_pads(sizes, kernel, strides, padding, dilations)
    outs = forward_lengths(sizes, kernel, strides, pads, dilations)
    channels = cols.shape[-1] // math.prod(kernel)
    padded_sizes = [size + lo + hi for size, (lo, hi) in zip(sizes, pads, strict=True)]
    padded = np.zeros((len(cols), *padded_sizes, channels), cols.dtype)
    for i, tap in enumerate(np.ndindex(*kernel)):
        padded[window_of(tap, strides, dilations, outs)] += cols[..., i * channels : (i + 1) * channels]
    inner = (slice(lo, lo + size) for size, (lo, _) in zip(sizes, pads, strict=True))
    return padded[(slice(None), *inner)].copy()


def run(op: str, x: Array, weight: Array, bias: Array | None = None, **params: Any) -> Array:
    """Compute operation `op` as users name it: ``"conv1d"``, ..., ``"conv_transpose2d"``."""
    return (conv_transpose if "transpose" in op else conv)(x, weight, bias, **params)


# ---- lengths and padding -------------------------------------------------------------------------------------------


def forward_pads(sizes: Any, kernel: Any, strides: Any, padding: Any, dilations: Any) -> Pads:
    """Read `padding` as one (lo, hi) pair an axis."""
    if padding == "same":  # just enough for ceil(size / stride) windows, the odd one on the right
        totals = [
            max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        return [(total // 2, total - total // 2) for total in totals]
    if padding == "causal":
        return [(d * (k - 1), 0) for k, d in zip(kernel, dilations, strict=True)]
    return explicit_pads(padding, len(kernel))


def forward_lengths(sizes: Any, kernel: Any, strides: Any, pads: Pads, dilations: Any) -> list[int]:
    """Count the windows that fit, one after the other."""
    lengths = []
    for size, k, s, d, (lo, hi) in zip(sizes, kernel, strides, dilations, pads, strict=True):
        last_tap = d * (k - 1)
        lengths.append(len(range(0, size + lo + hi - last_tap, s)))
    return lengths


def transposed_crops(kernel: Any, strides: Any, padding: Any, dilations: Any) -> Pads:
    """Read `padding` as what is cut off both ends of the full output (negative: what is added)."""
    reaches = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if padding == "same":  # what forward "same" pads to an input of size * stride; short kernels leave a tail of zeros
        lows = [max(reach - s, 0) // 2 for reach, s in zip(reaches, strides, strict=True)]
        return [(lo, reach - s - lo) for lo, reach, s in zip(lows, reaches, strides, strict=True)]
    if padding == "causal":
        return [(0, reach - s) for reach, s in zip(reaches, strides, strict=True)]
    return explicit_pads(padding, len(kernel))


def transposed_lengths(sizes: Any, kernel: Any, strides: Any, crops: Pads, dilations: Any, extras: Any) -> list[int]:
    """Length of the full output, less the crops, plus `output_padding`."""
    return [
        (size - 1) * s + d * (k - 1) + 1 - lo - hi + extra
        for size, k, s, d, (lo, hi), extra in zip(sizes, kernel, strides, dilations, crops, extras, strict=True)
    ]


def explicit_pads(padding: Any, ndim: int) -> Pads:
    """Read an int, one int an axis or one pair an axis; a tuple of one serves every axis."""
    if padding == "valid":
        padding = 0
    entries = padding if isinstance(padding, (tuple, list)) else (padding,)
    pairs = [tuple(entry) if isinstance(entry, (tuple, list)) else (entry, entry) for entry in entries]
    return pairs * ndim if len(pairs) == 1 else pairs


def each_axis(value: Any, ndim: int) -> tuple[int, ...]:
    """One int an axis."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * ndim if len(values) == 1 else values


def kernel_ndim(x_ndim: int, kernel_size: Any) -> int:
    """Spatial axes of a window: as many as it has sizes; an int leaves the choice to x, taken as batched."""
    return len(kernel_size) if isinstance(kernel_size, (tuple, list)) else max(x_ndim - 2, 1)


# ---- the parts -----------------------------------------------------------------------------------------------------


def exact(a: Array) -> Array:
    """Widen to int64 or float64."""
    a = np.asarray(a)
    return a.astype(np.int64 if a.dtype.kind in "iu" else np.float64)


def pad(x: Array, pads: Pads, mode: str) -> Array:
    """Pad the spatial axes as `numpy.pad` does."""
    if not any(lo or hi for lo, hi in pads):
        return x
    return np.pad(x, [(0, 0), *pads, (0, 0)], mode=NUMPY_PAD[mode])


def window_of(tap: tuple[int, ...], strides: Any, dilations: Any, counts: Any) -> tuple[slice, ...]:
    """Index of the positions that `tap` meets: `count` of them an axis, `stride` apart, from `tap * dilation` on."""
    axes = zip(tap, strides, dilations, counts, strict=True)
    return (slice(None), *(slice(t * d, t * d + s * count, s) for t, s, d, count in axes))


def group_product(rows: Array, weight: Array, groups: int) -> Array:
    """Multiply rows ``(..., c_in)`` with one tap's weight ``(c_out, c_in/groups)``, each group by itself."""
    c_out, per_group = weight.shape
    left = rows.reshape(math.prod(rows.shape[:-1]), groups, per_group).swapaxes(0, 1)
    right = weight.reshape(groups, c_out // groups, per_group).swapaxes(1, 2)
    return (left @ right).swapaxes(0, 1).reshape(*rows.shape[:-1], c_out)


# ---- activations ---------------------------------------------------------------------------------------------------

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(y: Array) -> Array:
    """1 / (1 + exp(-y)), where exp may overflow to infinity."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-y))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda y: np.maximum(y, 0),
    "leaky_relu": lambda y: np.where(y > 0, y, 0.01 * y),
    "gelu": lambda y: y * 0.5 * erfc(-y / math.sqrt(2)),
    "silu": lambda y: y * sigmoid(y),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "elu": lambda y: np.where(y > 0, y, np.expm1(np.minimum(y, 0))),
    "relu6": lambda y: np.minimum(np.maximum(y, 0), 6),
    "hardswish": lambda y: y * np.minimum(np.maximum(y + 3, 0), 6) / 6,
    "hardsigmoid": lambda y: np.minimum(np.maximum(y + 3, 0), 6) / 6,
    "softplus": lambda y: np.maximum(y, 0) + np.log1p(np.exp(-np.abs(y))),
    "gelu_tanh": lambda y: y * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))),
}
