"""im2col and col2im: windows as rows, for convolutions that people write themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arrays import check_array
from .geometry import ConvSpec, bind_window
from .parameters import per_axis

__all__ = ["col2im", "im2col"]


def im2col(x: np.ndarray, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> np.ndarray:
    """Gather every window of a channels-last array into a row.

    Parameters
    ----------
    x : ndarray, shape (N, L, C), (L, C), (N, H, W, C) or (H, W, C)
        float32, float64, float16 or bfloat16; any strides.
    kernel_size : int or tuple
        One int an axis: ``k`` or ``(k,)`` in one dimension, ``(kh, kw)`` in two. A bare int means two dimensions where
        `x` has four axes.
    stride, padding, dilation
        As in `conv1d` and `conv2d`; the padding is zeros.

    Returns
    -------
    ndarray, shape (N, L_out, K * C) or (N, H_out, W_out, KH * KW * C)
        C-contiguous, taps first, then channels; without N where `x` has none.

    Raises
    ------
    ValueError, TypeError
        As `conv1d`.

    Examples
    --------
    A convolution of one's own is one line; here it is `conv1d`, written out:

    >>> import numpy as np, nbconv
    >>> x, w = np.ones((1, 6, 2)), np.ones((3, 2, 5))            # (N, L, C_in), (C_out, C_in, K)
    >>> y = nbconv.im2col(x, 5, padding=2) @ w.transpose(2, 1, 0).reshape(5 * 2, 3)
    >>> bool((y == nbconv.conv1d(x, w, padding=2)).all())
    True
    """
    x = check_array("im2col", "x", x)
    kernel = _kernel("im2col", kernel_size, 2 if x.ndim == 4 else 1)
    spec = _spec("im2col", len(kernel), stride, padding, dilation)
    geometry = bind_window(spec, x.shape, kernel)
    columns = np.empty(geometry.output_shape, x.dtype)
    from .cpu.columns import unfold

    unfold(geometry, x, columns)
    return columns


def col2im(
    cols: np.ndarray, spatial_shape: Any, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> np.ndarray:
    """Add windows back into place: the exact adjoint of `im2col`.

    Parameters
    ----------
    cols : ndarray, shape (N, L_out, K * C) or (N, H_out, W_out, KH * KW * C)
        Windows as `im2col` lays them out; N may be missing.
    spatial_shape : int or tuple
        ``L``, ``(L,)`` or ``(H, W)``: the spatial axes of the array that the windows came from.
    kernel_size, stride, padding, dilation
        As they were given to `im2col`.

    Returns
    -------
    ndarray, shape (N, L, C) or (N, H, W, C)
        C-contiguous; each number is the sum of all windows' entries that came from it.

    Raises
    ------
    ValueError
        Where `cols` is not of the shape that `im2col` would give.
    TypeError
        As `conv1d`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> nbconv.col2im(nbconv.im2col(np.ones((5, 1)), 3), 5, 3).ravel()
    array([1., 2., 3., 2., 1.])
    """
    cols = check_array("col2im", "cols", cols)
    ndim = len(spatial_shape) if isinstance(spatial_shape, (tuple, list)) else 1
    spatial = per_axis("col2im", "spatial_shape", spatial_shape, ndim, least=0)
    kernel = _kernel("col2im", kernel_size, ndim)
    if ndim not in (1, 2) or len(kernel) != ndim:
        raise ValueError(f"col2im: kernel_size {kernel_size!r} does not fit spatial_shape {spatial_shape!r}")
    spec = _spec("col2im", ndim, stride, padding, dilation)
    taps = math.prod(kernel)
    if cols.ndim not in (ndim + 1, ndim + 2) or cols.shape[-1] % taps:
        raise ValueError(
            f"col2im: cols must have {ndim + 1} or {ndim + 2} axes, the last a multiple of {taps} taps; "
            f"got {cols.shape}"
        )
    x_shape = (*cols.shape[: cols.ndim - ndim - 1], *spatial, cols.shape[-1] // taps)
    geometry = bind_window(spec, x_shape, kernel)
    if geometry.output_shape != cols.shape:
        raise ValueError(f"col2im: cols has shape {cols.shape}, windows of x {x_shape} have {geometry.output_shape}")
    x = np.empty(x_shape, cols.dtype)
    from .cpu.columns import fold

    fold(geometry, cols, x)
    return x


def _kernel(op: str, kernel_size: Any, ndim: int) -> tuple[int, ...]:
    if isinstance(kernel_size, (tuple, list)):
        ndim = len(kernel_size)
    if ndim not in (1, 2):
        raise ValueError(f"{op}: kernel_size must have one or two ints; got {kernel_size!r}")
    return per_axis(op, "kernel_size", kernel_size, ndim, least=1)


def _spec(op: str, ndim: int, stride: Any, padding: Any, dilation: Any) -> ConvSpec:
    return ConvSpec.of(op, stride, padding, dilation, ndim=ndim)
