"""Gradients of the four convolutions, without autograd: check, bind, run.

Each gradient is one of the operations that are there already. The gradient in x is the adjoint in x: the transposed
convolution of a convolution and the other way round, of grad_output, with the same weight (`Geometry.adjoint`). The
gradient of the weight is a tile product whose reduction runs over positions (`cpu.grad_weight`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .arrays import check_array, one_dtype
from .devices import refuse_mixed
from .functional import elsewhere, make_spec
from .geometry import ConvSpec, Geometry, bind

if TYPE_CHECKING:
    from .gradients import Gradients

__all__ = ["ConvGrads", "conv1d_backward", "conv2d_backward", "conv_transpose1d_backward", "conv_transpose2d_backward"]

GRADIENTS = ("x", "weight", "bias")


class ConvGrads(NamedTuple):
    """Gradients of one call; those that were not asked for are None.

    Parameters
    ----------
    x : ndarray, shape (N, *spatial, C_in) or (*spatial, C_in), or None
        The shape of x, C-contiguous.
    weight : ndarray, shape (first, second, *kernel), or None
        The shape of the weight, in its memory order.
    bias : ndarray, shape (C_out,), or None
        Of the dtype of all.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> grads = nbconv.conv1d_backward(np.ones((3, 1)), np.ones((5, 1)), np.ones((1, 1, 3)), needs=("bias",))
    >>> grads.x is None, grads.bias
    (True, array([3.]))
    """

    x: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None


def conv1d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    needs: Sequence[str] = GRADIENTS,
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> ConvGrads:
    """Compute the gradients of `conv1d` from the gradient of its result.

    Parameters
    ----------
    grad_output : ndarray, shape (N, L_out, C_out) or (L_out, C_out)
        The gradient of a number (a loss) in each output: of the shape that ``conv1d(x, weight, ...)`` gives, any
        strides.
    x : ndarray, shape (N, L, C_in) or (L, C_in)
        As it was given to `conv1d`. All arrays share one dtype.
    weight : ndarray, shape (C_out, C_in / groups, K)
        As it was given to `conv1d`.
    stride, padding, dilation, groups, padding_mode
        As they were given to `conv1d`.
    needs : tuple of str
        Which gradients to compute, out of "x", "weight" and "bias"; the others are None and cost nothing.
    precision, device, stream
        As in `conv1d`; arrays on a device give gradients of the same kind there.

    Returns
    -------
    ConvGrads
        ``x`` of the shape of `x`, C-contiguous; ``weight`` of the shape of `weight`; ``bias`` (C_out,). Half types are
        summed in float32 and rounded once. The bits do not depend on the number of threads.

    Raises
    ------
    ValueError
        Where shapes or parameters do not fit each other.
    TypeError
        Where an argument is of a type that nbconv does not compute.

    Examples
    --------
    One step down the slope of half the sum of squares of a layer's error:

    >>> import numpy as np, nbconv
    >>> x, target = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[2.0], [3.0], [4.0]])
    >>> weight = np.zeros((1, 1, 2))
    >>> error = nbconv.conv1d(x, weight) - target
    >>> grads = nbconv.conv1d_backward(error, x, weight)
    >>> grads.weight.ravel()
    array([-20., -29.])
    >>> weight -= 0.02 * grads.weight
    """
    spec = make_spec("conv1d_backward", stride, padding, dilation, groups, 0, padding_mode)
    return _backward(spec, grad_output, x, weight, needs, precision, device, stream)


def conv2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    needs: Sequence[str] = GRADIENTS,
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> ConvGrads:
    """Compute the gradients of `conv2d` from the gradient of its result; all as `conv1d_backward`.

    Parameters
    ----------
    grad_output : ndarray, shape (N, H_out, W_out, C_out) or (H_out, W_out, C_out)
        Of the shape that ``conv2d(x, weight, ...)`` gives.
    x : ndarray, shape (N, H, W, C_in) or (H, W, C_in)
        As it was given to `conv2d`.
    weight : ndarray, shape (C_out, C_in / groups, KH, KW)
        As it was given to `conv2d`.
    stride, padding, dilation, groups, padding_mode
        As they were given to `conv2d`.
    needs : tuple of str
        Out of "x", "weight" and "bias".
    precision, device, stream
        As in `conv1d`.

    Returns
    -------
    ConvGrads
        As `conv1d_backward`.

    Raises
    ------
    ValueError, TypeError
        As `conv1d_backward`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> grads = nbconv.conv2d_backward(np.ones((1, 2, 2, 1)), np.ones((1, 4, 4, 1)), np.ones((1, 1, 3, 3)))
    >>> grads.x[0, :, :, 0]
    array([[1., 2., 2., 1.],
           [2., 4., 4., 2.],
           [2., 4., 4., 2.],
           [1., 2., 2., 1.]])
    """
    spec = make_spec("conv2d_backward", stride, padding, dilation, groups, 0, padding_mode)
    return _backward(spec, grad_output, x, weight, needs, precision, device, stream)


def conv_transpose1d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    needs: Sequence[str] = GRADIENTS,
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> ConvGrads:
    """Compute the gradients of `conv_transpose1d` from the gradient of its result.

    Parameters
    ----------
    grad_output : ndarray, shape (N, L_out, C_out) or (L_out, C_out)
        Of the shape that ``conv_transpose1d(x, weight, ...)`` gives.
    x : ndarray, shape (N, L, C_in) or (L, C_in)
        As it was given to `conv_transpose1d`.
    weight : ndarray, shape (C_in, C_out / groups, K)
        As it was given to `conv_transpose1d`.
    stride, padding, output_padding, groups, dilation
        As they were given to `conv_transpose1d`.
    needs : tuple of str
        Out of "x", "weight" and "bias".
    precision, device, stream
        As in `conv1d`.

    Returns
    -------
    ConvGrads
        As `conv1d_backward`.

    Raises
    ------
    ValueError, TypeError
        As `conv1d_backward`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> y = np.ones((4, 1))
    >>> nbconv.conv_transpose1d_backward(y, np.ones((2, 1)), np.ones((1, 1, 3)), needs=("x",)).x.ravel()
    array([3., 3.])
    """
    spec = make_spec("conv_transpose1d_backward", stride, padding, dilation, groups, output_padding, "zeros")
    return _backward(spec, grad_output, x, weight, needs, precision, device, stream)


def conv_transpose2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    needs: Sequence[str] = GRADIENTS,
    precision: str = "high",
    device: str | None = None,
    stream: Any = None,
) -> ConvGrads:
    """Compute the gradients of `conv_transpose2d` from the gradient of its result.

    Parameters
    ----------
    grad_output : ndarray, shape (N, H_out, W_out, C_out) or (H_out, W_out, C_out)
        Of the shape that ``conv_transpose2d(x, weight, ...)`` gives.
    x : ndarray, shape (N, H, W, C_in) or (H, W, C_in)
        As it was given to `conv_transpose2d`.
    weight : ndarray, shape (C_in, C_out / groups, KH, KW)
        As it was given to `conv_transpose2d`.
    stride, padding, output_padding, groups, dilation
        As they were given to `conv_transpose2d`.
    needs : tuple of str
        Out of "x", "weight" and "bias".
    precision, device, stream
        As in `conv1d`.

    Returns
    -------
    ConvGrads
        As `conv1d_backward`.

    Raises
    ------
    ValueError, TypeError
        As `conv1d_backward`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> y, x, weight = np.ones((1, 4, 4, 2)), np.ones((1, 2, 2, 3)), np.ones((3, 2, 2, 2))
    >>> grads = nbconv.conv_transpose2d_backward(y, x, weight, stride=2)
    >>> grads.x.shape, grads.weight.shape, grads.bias
    ((1, 2, 2, 3), (3, 2, 2, 2), array([16., 16.]))
    """
    spec = make_spec("conv_transpose2d_backward", stride, padding, dilation, groups, output_padding, "zeros")
    return _backward(spec, grad_output, x, weight, needs, precision, device, stream)


def _backward(
    spec: ConvSpec, grad_output: Any, x: Any, weight: Any, needs: Sequence[str], precision: str, device: str | None,
    stream: Any,
) -> ConvGrads:  # fmt: skip
    key = None
    if type(x) is type(weight) is type(grad_output) is np.ndarray and type(needs) is tuple:
        key = _key(spec, grad_output, x, weight, needs, precision, device, stream)
        ready = _ready.get(key)
        if ready is not None and ready.fits():
            return ConvGrads(*ready(grad_output, x, weight))
    op = spec.op
    if elsewhere(op, precision, device, stream, grad_output, x, weight):
        refuse_mixed(op, {"grad_output": grad_output, "x": x, "weight": weight})
        from .cuda import entry

        needed = check_needs(op, needs)
        return ConvGrads(*entry.gradients(spec, grad_output, x, weight, needed, precision, device, stream))
    grad_output, x = check_array(op, "grad_output", grad_output), check_array(op, "x", x)
    weight = check_array(op, "weight", weight)
    one_dtype(op, x=x, weight=weight, grad_output=grad_output)
    geometry = bind(spec, x.shape, weight.shape)
    found = _find(geometry, grad_output, x, weight, check_needs(op, needs))
    if key is not None:
        if len(_ready) >= _READY_KEPT:
            _ready.clear()
        _ready[key] = found
    return ConvGrads(*found(grad_output, x, weight))


_READY_KEPT = 256
_ready: dict[Any, Any] = {}  # what is planned of calls that were made before, on arrays that lay as these


def _key(
    spec: ConvSpec, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[Any, ...], *rest: Any
) -> Any:
    """Name all that a call depends on but the numbers; None where it cannot be a key."""
    dtype = x.dtype
    if weight.dtype is not dtype or grad_output.dtype is not dtype or not dtype.isnative:
        return None
    if rest != ("high", None, None) or not all(type(need) is str for need in needs):
        return None
    return (
        spec, grad_output.shape, grad_output.strides, x.shape, x.strides, weight.shape, weight.strides, dtype.num, needs
    )  # fmt: skip


def check_needs(op: str, needs: Sequence[str]) -> tuple[str, ...]:
    """Refuse anything but a tuple of names of gradients."""
    if not isinstance(needs, (tuple, list, set, frozenset)) or any(need not in GRADIENTS for need in needs):
        raise ValueError(f"{op}: needs must be a tuple out of {', '.join(map(repr, GRADIENTS))}; got {needs!r}")
    return tuple(needs)


def gradients(
    geometry: Geometry, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[str, ...]
) -> ConvGrads:
    """Compute gradients of arrays that share a dtype and were bound; `grad_output` may still have a wrong shape."""
    return ConvGrads(*_find(geometry, grad_output, x, weight, needs)(grad_output, x, weight))


def _find(
    geometry: Geometry, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[str, ...]
) -> Gradients:
    if grad_output.shape != geometry.output_shape:
        raise ValueError(
            f"{geometry.spec.op}: grad_output has shape {grad_output.shape}, the forward call gives "
            f"{geometry.output_shape}; x {x.shape}, weight {weight.shape}"
        )
    from .gradients import find_gradients

    return find_gradients(geometry, grad_output, x, weight, needs)
