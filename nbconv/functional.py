"""The four convolutions on channels-last arrays: check, bind, run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from .arrays import check_array, check_out, one_dtype
from .call_keys import are_exact, function_key
from .devices import device_number, on_device, refuse_mixed
from .geometry import ConvSpec, Geometry, bind
from .options import PRECISIONS, Activation, check_activation, check_algorithm

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]


def conv1d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: Activation = None,
    residual: np.ndarray | None = None,
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Convolve (cross-correlate) channels-last sequences.

    Parameters
    ----------
    x : ndarray, shape (N, L, C_in) or (L, C_in)
        float32, float64, float16 or bfloat16 (``ml_dtypes``); any strides.
    weight : ndarray, shape (C_out, C_in / groups, K)
        PyTorch's shape, any strides. Keras and JAX weights `(K, C_in, C_out)` enter as ``w.transpose(2, 1, 0)``.
    bias : ndarray, shape (C_out,), optional
        Added to each output position. `x`, `weight` and `bias` share one dtype.
    stride, dilation : int or tuple of one int
        Step between output positions, and between taps, in input positions.
    padding : int, tuple or str
        Zeros at both ends: an int, ``(int,)``, one pair ``((lo, hi),)``, ``"valid"`` (none), ``"same"`` (output length
        ``ceil(L / stride)``, the odd one on the right) or ``"causal"`` (``dilation * (K - 1)`` on the left).
    groups : int
        Channels are cut into this many groups that do not see each other.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What stands in the padding.
    activation : str or (str, float), optional
        Applied to each output while it is in cache: "relu", ("leaky_relu", slope), "gelu", "silu", "tanh", "sigmoid",
        ("elu", alpha), "relu6", "hardswish", "hardsigmoid", "softplus", "gelu_tanh".
    residual : ndarray, shape of the result, optional
        Added to each output before the activation, while it is in cache.
    out : ndarray, shape of the result, optional
        Written and returned; any strides.
    algorithm : {"auto", "direct", "im2col"}
        "direct" reads rows in place, "im2col" gathers them into a small panel; whole-number data give equal results.
        Of no effect on a device.
    precision : {"high", "tf32"}
        On a device: "high" keeps the accuracy of float32 sums (an infinite input may give NaN), "tf32" multiplies
        float32 rounded to 11 bits, faster. On the host both are full precision.
    device : {None, "cpu", "cuda", "cuda:1", ...}
        Where to compute. None: where the arrays are. CuPy arrays, PyTorch tensors and others that live on a CUDA device
        are computed there, all of them on one device, and give an array of the same kind; nothing is copied silently.
        NumPy arrays and "cuda": they are copied to the device, the result back.
    stream : CUDA stream, optional
        On a device: of PyTorch, CuPy, Numba or cuda.core, or a handle; by default the current one.

    Returns
    -------
    ndarray, shape (N, L_out, C_out) or (L_out, C_out)
        C-contiguous; ``L_out = (L + lo + hi - dilation * (K - 1) - 1) // stride + 1``.

    Raises
    ------
    ValueError
        Where shapes or parameters do not fit each other.
    TypeError
        Where an argument is of a type that nbconv does not compute, or some arrays are on a device and some are not.
    DeviceError
        Where a device is asked for, or meant by the arrays, and none can be used.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> x = np.array([[2], [1], [1], [3]], np.float32)
    >>> nbconv.conv1d(x, np.array([[[1, 1, 5]]], np.float32)).ravel()
    array([ 8., 17.], dtype=float32)
    """
    parameters = "conv1d", stride, padding, dilation, groups, 0, padding_mode
    return convolve(parameters, x, weight, bias, activation, residual, out, algorithm, precision, device, stream)


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: Activation = None,
    residual: np.ndarray | None = None,
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Convolve (cross-correlate) channels-last images; all as `conv1d`, with two spatial axes.

    Parameters
    ----------
    x : ndarray, shape (N, H, W, C_in) or (H, W, C_in)
        The images.
    weight : ndarray, shape (C_out, C_in / groups, KH, KW)
        Keras and JAX weights `(KH, KW, C_in, C_out)` enter as ``w.transpose(3, 2, 0, 1)``.
    bias : ndarray, shape (C_out,), optional
        Added to each output position.
    stride, dilation : int or (int, int)
        One for both axes, or one each.
    padding : int, tuple or str
        An int, ``(h, w)``, ``((top, bottom), (left, right))``, ``"valid"`` or ``"same"``.
    groups, padding_mode, activation, residual, out, algorithm, precision, device, stream
        As in `conv1d`.

    Returns
    -------
    ndarray, shape (N, H_out, W_out, C_out) or (H_out, W_out, C_out)
        C-contiguous.

    Raises
    ------
    ValueError, TypeError
        As `conv1d`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> nbconv.conv2d(np.ones((1, 4, 4, 2)), np.ones((3, 2, 3, 3)), padding=1)[0, :, :, 0]
    array([[ 8., 12., 12.,  8.],
           [12., 18., 18., 12.],
           [12., 18., 18., 12.],
           [ 8., 12., 12.,  8.]])
    """
    parameters = "conv2d", stride, padding, dilation, groups, 0, padding_mode
    return convolve(parameters, x, weight, bias, activation, residual, out, algorithm, precision, device, stream)


def conv_transpose1d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: Activation = None,
    residual: np.ndarray | None = None,
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Transposed convolution of channels-last sequences: the exact adjoint of `conv1d` in `x`.

    Parameters
    ----------
    x : ndarray, shape (N, L, C_in) or (L, C_in)
        The sequences.
    weight : ndarray, shape (C_in, C_out / groups, K)
        PyTorch's shape, any strides. Keras weights `(K, C_out, C_in)` enter as ``w.transpose(2, 1, 0)``.
    bias : ndarray, shape (C_out,), optional
        Added to each output position.
    stride, dilation : int or tuple of one int
        Step between the outputs of successive inputs, and between taps, in output positions.
    padding : int, tuple or str
        Crop of the full output: an int, ``(int,)``, one pair ``((lo, hi),)``, ``"valid"`` (none), ``"same"`` (output
        length ``L * stride``) or ``"causal"`` (the same length, all cropped at the end).
    output_padding : int or tuple of one int
        Positions added at the end, less than ``max(stride, dilation)``.
    groups, activation, residual, out, algorithm, precision, device, stream
        As in `conv1d`.

    Returns
    -------
    ndarray, shape (N, L_out, C_out) or (L_out, C_out)
        C-contiguous; ``L_out = (L - 1) * stride + dilation * (K - 1) + 1 - lo - hi + output_padding``.

    Raises
    ------
    ValueError, TypeError
        As `conv1d`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> nbconv.conv_transpose1d(np.ones((2, 1)), np.ones((1, 1, 3))).ravel()
    array([1., 2., 2., 1.])
    """
    parameters = "conv_transpose1d", stride, padding, dilation, groups, output_padding, "zeros"
    return convolve(parameters, x, weight, bias, activation, residual, out, algorithm, precision, device, stream)


def conv_transpose2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: Activation = None,
    residual: np.ndarray | None = None,
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Transposed convolution of channels-last images: the exact adjoint of `conv2d` in `x`.

    Parameters
    ----------
    x : ndarray, shape (N, H, W, C_in) or (H, W, C_in)
        The images.
    weight : ndarray, shape (C_in, C_out / groups, KH, KW)
        Keras weights `(KH, KW, C_out, C_in)` enter as ``w.transpose(3, 2, 0, 1)``.
    bias : ndarray, shape (C_out,), optional
        Added to each output position.
    stride, dilation, output_padding : int or (int, int)
        As in `conv_transpose1d`, one for both axes or one each.
    padding : int, tuple or str
        Crop of the full output: an int, ``(h, w)``, ``((top, bottom), (left, right))``, ``"valid"`` or ``"same"``.
    groups, activation, residual, out, algorithm, precision, device, stream
        As in `conv1d`.

    Returns
    -------
    ndarray, shape (N, H_out, W_out, C_out) or (H_out, W_out, C_out)
        C-contiguous.

    Raises
    ------
    ValueError, TypeError
        As `conv1d`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> nbconv.conv_transpose2d(np.ones((1, 2, 2, 1)), np.ones((1, 1, 2, 2)), stride=2).shape
    (1, 4, 4, 1)
    """
    parameters = "conv_transpose2d", stride, padding, dilation, groups, output_padding, "zeros"
    return convolve(parameters, x, weight, bias, activation, residual, out, algorithm, precision, device, stream)


_cached_spec = lru_cache(maxsize=1024)(ConvSpec.of)


def make_spec(*parameters: Any) -> ConvSpec:
    """Give `ConvSpec.of(*parameters)`, from a cache where it may be."""
    # As a key, (1.0,) or True would find what (1,) has left: only exact types may ask the cache.
    return _cached_spec(*parameters) if are_exact(parameters) else ConvSpec.of(*parameters)


def convolve(
    parameters: tuple[Any, ...], x: Any, weight: Any, bias: Any, activation: Activation, residual: Any, out: Any,
    algorithm: str, precision: str, device: str | None, stream: Any,
) -> np.ndarray:  # fmt: skip
    """Run any of the four, given those of `make_spec`: check everything, then bind, lay out the weights and launch."""
    key = None
    if device is stream is None and type(x) is type(weight) is np.ndarray:
        key = function_key(parameters, x, weight, bias, activation, algorithm, precision, residual, out)
        ready = _ready.get(key)
        y = None if ready is None else ready(x, weight, bias, residual, out)
        if y is not None:
            return y
    spec = make_spec(*parameters)
    op = spec.op
    arrays = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    if elsewhere(op, precision, device, stream, *arrays.values(), out):
        check_algorithm(op, algorithm)
        refuse_mixed(op, {**arrays, "out": out})
        from .cuda import entry

        named = check_activation(op, activation)
        return entry.convolve(spec, arrays, named, out, precision, device, stream)  # type: ignore[no-any-return]
    x, weight = check_array(op, "x", x), check_array(op, "weight", weight)
    bias = None if bias is None else check_array(op, "bias", bias)
    residual = None if residual is None else check_array(op, "residual", residual)
    one_dtype(op, x=x, weight=weight, bias=bias, residual=residual)
    geometry = bind(spec, x.shape, weight.shape, None if bias is None else bias.shape)
    check_residual(geometry, residual)
    named = check_activation(op, activation)
    check_algorithm(op, algorithm)
    y = output(geometry, x.dtype, out, x, weight, bias, residual)
    from .cpu import backend
    from .cpu.ready import ready_function

    weights = backend.prepare_weights(geometry, weight)
    numbers = backend.prepare_bias(bias, geometry.c_out, x.dtype)
    address = backend.activation_address(named, x.dtype)
    again = named is not None or residual is not None
    plan = backend.find_plan(geometry, x, weights, y, algorithm, again)
    backend.run_plan(plan, x, weights, numbers, y, address, residual)
    if key is not None and weights.finite:
        if len(_ready) >= _READY_KEPT:
            _ready.clear()
        ready = ready_function(geometry, plan, x, weight, bias, address, residual, out)
        if ready is not None:
            _ready[key] = ready
    return y


_READY_KEPT = 256
# What is known of calls that were made before, on arrays of the same shapes and strides.
_ready: dict[Any, Callable[..., np.ndarray | None]] = {}


def output(geometry: Geometry, dtype: np.dtype, out: Any, *inputs: np.ndarray | None) -> np.ndarray:
    """Allocate the result, or check the array that is to hold it."""
    if out is None:
        return np.empty(geometry.output_shape, dtype)
    return check_out(geometry.spec.op, out, geometry.output_shape, dtype, *inputs)


def check_residual(geometry: Geometry, residual: np.ndarray | None) -> None:
    """Refuse a residual that has not the result's shape."""
    if residual is not None and residual.shape != geometry.output_shape:
        raise ValueError(
            f"{geometry.spec.op}: residual has shape {residual.shape}, the result has {geometry.output_shape}"
        )


def elsewhere(op: str, precision: str, device: str | None, stream: Any, *arrays: Any) -> bool:
    """Say whether a call is to run on a device; refuse what belongs to neither side."""
    if precision not in PRECISIONS:
        raise ValueError(f"{op}: precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if any(map(on_device, arrays)) or (device is not None and device_number(op, device) is not None):
        return True
    if stream is not None:
        raise ValueError(f"{op}: stream is for arrays on a device; got {stream!r}, with all arrays on the host")
    return False
