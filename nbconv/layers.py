"""Layers: objects that hold arrays and configuration only. No autograd, no state between calls."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .arrays import check_array, one_dtype
from .backward import GRADIENTS, ConvGrads, check_needs, gradients
from .call_keys import results_key
from .counting import OperationCount, count_bound
from .devices import device_number, on_device
from .functional import check_residual, elsewhere, output
from .geometry import ConvSpec, bind
from .options import Activation, check_activation, check_algorithm
from .parameters import per_axis, whole

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]

_READY_KEPT = 64


class _Layer:
    """What all four layers share. Immutable after construction, so that threads may call one together."""

    ndim: ClassVar[int]
    transposed: ClassVar[bool]
    _DEFAULTS: ClassVar[dict[str, Any]] = {
        "stride": 1,
        "padding": 0,
        "output_padding": 0,
        "dilation": 1,
        "groups": 1,
        "padding_mode": "zeros",
        "activation": None,
        "algorithm": "auto",
        "precision": "high",
    }

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None, parameters: dict[str, Any]) -> None:
        name = type(self).__name__
        self._parameters = parameters
        p = {**self._DEFAULTS, **parameters}
        weight = check_array(name, "weight", weight)
        bias = None if bias is None else check_array(name, "bias", bias)
        self._dtype = one_dtype(name, weight=weight, bias=bias)
        self._spec = ConvSpec.of(
            name, p["stride"], p["padding"], p["dilation"], p["groups"], p["output_padding"], p["padding_mode"]
        )
        self._activation = check_activation(name, p["activation"])
        check_algorithm(name, p["algorithm"])
        elsewhere(name, p["precision"], None, None)
        self._algorithm: str = p["algorithm"]
        self._precision: str = p["precision"]
        self._remote: Any = None  # the weights on a device, where the layer is there
        self._bias_shape = None if bias is None else bias.shape
        self.weight, self.bias = weight, bias
        self._weight_shape = weight.shape
        self._check_weight()
        from .cpu import backend
        from .cpu.ready import ready_layer
        from .runtime.threads import get_num_threads

        self._backend, self._make_ready = backend, ready_layer
        self._get_num_threads = get_num_threads
        self._ready: dict[Any, Any] = {}  # calls that were made before, by all that they depend on but the numbers
        self._packed = backend.keep_weights(self._spec, weight)
        self._numbers = backend.prepare_bias(None if bias is None else bias.copy(), self.c_out, self._dtype)
        self._address = backend.activation_address(self._activation, self._dtype)

    def _check_weight(self) -> None:
        """Refuse at construction what no input could make right: bind to an input that fits any window."""
        shape = self.weight.shape
        if len(shape) == self.ndim + 2:
            padding = () if isinstance(self._spec.padding, str) else self._spec.padding
            room = 2 + sum(lo + hi for lo, hi in padding)
            sizes = (d * k + room for d, k in zip(self._spec.dilation, shape[2:], strict=True))
            x_shape = (*sizes, self.c_in)
        else:
            x_shape = (1,) * (self.ndim + 1)
        bind(self._spec, x_shape, shape, self._bias_shape)

    @property
    def c_in(self) -> int:
        """Channels of the input."""
        return int(self.weight.shape[0] if self.transposed else self.weight.shape[1] * self._spec.groups)

    @property
    def c_out(self) -> int:
        """Channels of the output."""
        return int(self.weight.shape[1] * self._spec.groups if self.transposed else self.weight.shape[0])

    def __call__(
        self, x: np.ndarray, *, residual: np.ndarray | None = None, out: np.ndarray | None = None, stream: Any = None
    ) -> np.ndarray:
        """Run the layer on `x`, channels last, of the weights' dtype; see the function of the same name."""
        key: tuple[Any, ...] | None = None
        if type(x) is np.ndarray and x.dtype is self._dtype and stream is None:
            key = x.shape, x.strides, self._get_num_threads()
            if residual is out is None:
                ready = self._ready.get(key)
                if ready is not None:
                    return ready(x)  # type: ignore[no-any-return]
            else:
                results = results_key(self._dtype, residual, out)
                key = key + results if results else None
                ready = self._ready.get(key)
                y = None if ready is None else ready(x, residual, out)
                if y is not None:
                    return y  # type: ignore[no-any-return]
        if self._remote is not None:
            return self._remote(x, residual, out, self._precision, stream)  # type: ignore[no-any-return]
        if key is None:
            self._refuse_devices(stream, x=x, residual=residual, out=out)
            x = check_array(self._spec.op, "x", x)
            residual = None if residual is None else check_array(self._spec.op, "residual", residual)
            one_dtype(self._spec.op, x=x, weight=self.weight, residual=residual)
        geometry = bind(self._spec, x.shape, self._weight_shape, self._bias_shape)
        check_residual(geometry, residual)
        y = output(geometry, self._dtype, out, x, self.weight, self.bias, residual)
        again = self._activation is not None or residual is not None
        plan = self._backend.find_plan(geometry, x, self._packed, y, self._algorithm, again)
        self._backend.run_plan(plan, x, self._packed, self._numbers, y, self._address, residual)
        if key is not None and self._packed.finite:
            if len(self._ready) >= _READY_KEPT:
                self._ready.clear()
            given = self.weight, self.bias
            ready = self._make_ready(plan, x, self._packed, self._numbers, self._address, residual, out, given)
            if ready is not None:
                self._ready[key] = ready
        return y

    def to(self, device: str) -> Any:
        """Give this layer on "cuda" (or "cuda:1", ...), its weights packed there, or on "cpu"; this one stays as it is.

        A layer on a device takes and gives arrays of that device, and no others. Call it once on a stream before its
        work is captured in a CUDA graph.
        """
        moved = copy.copy(self)
        moved._remote, moved._ready = None, {}
        if device_number(self._spec.op, device) is not None:
            from .cuda.entry import DeviceOperands

            moved._remote = DeviceOperands(self._spec, self.weight, self.bias, self._activation, device)
        return moved

    def _refuse_devices(self, stream: Any, **arrays: Any) -> None:
        """Refuse arrays on a device, where the layer is not."""
        for name, value in arrays.items():
            if on_device(value):
                raise TypeError(
                    f"{self._spec.op}: {name} ({type(value).__name__}) is on a device, the layer is not: call "
                    "layer.to('cuda')"
                )
        elsewhere(self._spec.op, self._precision, None, stream)

    def backward(
        self, grad_output: np.ndarray, x: np.ndarray, *, needs: Sequence[str] | None = None, stream: Any = None
    ) -> ConvGrads:
        """Compute gradients from that of the result, as the ``*_backward`` function of the operation does.

        Nothing is recorded by a call: `x`, shape (N, *spatial, C_in), is given again. `grad_output` has the shape of
        ``layer(x)``. `needs` names the gradients; by default all that the layer has. A layer with an activation has no
        `backward`: its gradient needs what came before the activation, which the layer does not keep.
        """
        name = self._spec.op
        if self._activation is not None:
            raise ValueError(
                f"{name}: backward needs a layer without activation; got activation "
                f"{self._parameters['activation']!r}: apply it, and its derivative, outside of the layer"
            )
        if needs is None:
            needs = GRADIENTS if self.bias is not None else GRADIENTS[:2]
        if self._remote is not None:
            needed = check_needs(name, needs)
            return ConvGrads(*self._remote.backward(grad_output, x, needed, self._precision, stream))
        self._refuse_devices(stream, x=x, grad_output=grad_output)
        grad_output, x = check_array(name, "grad_output", grad_output), check_array(name, "x", x)
        one_dtype(name, x=x, weight=self.weight, grad_output=grad_output)
        geometry = bind(self._spec, x.shape, self.weight.shape)
        return gradients(geometry, grad_output, x, self.weight, check_needs(name, needs))

    def output_shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of the result for an input of `x_shape`, e.g. ``(N, L, C_in) -> (N, L_out, C_out)``."""
        return bind(self._spec, tuple(x_shape), self.weight.shape, self._bias_shape).output_shape

    def count_operations(self, x_shape: tuple[int, ...]) -> OperationCount:
        """Count exactly what an input of `x_shape` costs, the activation apart; see `nbconv.count_operations`."""
        sizes = tuple(whole(self._spec.op, "x_shape", size, least=0) for size in x_shape)
        geometry = bind(self._spec, sizes, self.weight.shape, self._bias_shape)
        return count_bound(geometry, bias=self.bias is not None, activation=self._parameters["activation"])

    def __repr__(self) -> str:
        """Read like the call that made the layer, arrays as dtype and shape."""
        arrays = [f"weight=<{self.weight.dtype} {self.weight.shape}>"]
        if self.bias is not None:
            arrays.append(f"bias=<{self.bias.dtype} {self.bias.shape}>")
        changed = [f"{k}={v!r}" for k, v in self._parameters.items() if v != self._DEFAULTS[k]]
        return f"{type(self).__name__}({', '.join(arrays + changed)})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Packed weights suit this processor only: a pickle carries the weights as given and packs them anew.
        device = None if self._remote is None else self._remote.name
        return _rebuild, (type(self), self.weight, self.bias, self._parameters, device)

    @classmethod
    def random(
        cls, c_in: int, c_out: int, kernel_size: Any, *, rng: np.random.Generator, bias: bool = True,
        dtype: Any = np.float32, groups: int = 1, **parameters: Any,
    ) -> Any:  # fmt: skip
        """Make a layer with random weights, drawn from `rng` within PyTorch's bounds; other parameters as the class."""
        weight, numbers = cls._random_arrays(c_in, c_out, kernel_size, rng, bias, groups, dtype)
        return _rebuild(cls, weight, numbers, {"groups": groups, **parameters})

    @classmethod
    def _random_arrays(
        cls, c_in: int, c_out: int, kernel_size: Any, rng: np.random.Generator, bias: bool, groups: int, dtype: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw PyTorch's default initialisation: uniform within 1 / sqrt(weight.shape[1] * taps)."""
        name = cls.__name__
        c_in, c_out = whole(name, "c_in", c_in, least=1), whole(name, "c_out", c_out, least=1)
        groups = whole(name, "groups", groups, least=1)
        if c_in % groups or c_out % groups:
            raise ValueError(f"{name}: groups={groups} must divide c_in={c_in} and c_out={c_out}")
        kernel = per_axis(name, "kernel_size", kernel_size, cls.ndim, least=1)
        first, second = (c_in, c_out // groups) if cls.transposed else (c_out, c_in // groups)
        bound = 1 / math.sqrt(second * math.prod(kernel))
        weight = rng.uniform(-bound, bound, (first, second, *kernel)).astype(dtype)
        return weight, rng.uniform(-bound, bound, c_out).astype(dtype) if bias else None


def _rebuild(
    cls: type[_Layer], weight: np.ndarray, bias: np.ndarray | None, parameters: dict[str, Any],
    device: str | None = None,
) -> _Layer:  # fmt: skip
    make: Callable[..., _Layer] = cls
    layer = make(weight, bias, **parameters)
    return layer if device is None else layer.to(device)


class _Conv(_Layer):
    transposed = False

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        padding_mode: str = "zeros",
        activation: Activation = None,
        algorithm: str = "auto",
        precision: str = "high",
    ) -> None:
        parameters = {
            "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
            "padding_mode": padding_mode, "activation": activation, "algorithm": algorithm,
            "precision": precision,
        }  # fmt: skip
        super().__init__(weight, bias, parameters)


class _ConvTranspose(_Layer):
    transposed = True

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
        *,
        activation: Activation = None,
        algorithm: str = "auto",
        precision: str = "high",
    ) -> None:
        parameters = {
            "stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups,
            "dilation": dilation, "activation": activation, "algorithm": algorithm, "precision": precision,
        }  # fmt: skip
        super().__init__(weight, bias, parameters)


class Conv1d(_Conv):
    """`conv1d` with its weights packed once, at construction.

    Parameters
    ----------
    weight : ndarray, shape (C_out, C_in / groups, K)
        Any strides. The array is kept, for pickles, and must not be changed afterwards.
    bias : ndarray, shape (C_out,), optional
        Added to each output position.
    stride, padding, dilation, groups, padding_mode, activation, algorithm, precision
        As in `conv1d`.

    Raises
    ------
    ValueError, TypeError
        As `conv1d`, at construction where possible.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> layer = nbconv.Conv1d(np.ones((4, 2, 3), np.float32), stride=2, padding="same")
    >>> layer(np.ones((1, 10, 2), np.float32)).shape
    (1, 5, 4)
    >>> layer
    Conv1d(weight=<float32 (4, 2, 3)>, stride=2, padding='same')
    """

    ndim = 1


class Conv2d(_Conv):
    """`conv2d` with its weights packed once; see `Conv1d`.

    Parameters
    ----------
    weight : ndarray, shape (C_out, C_in / groups, KH, KW)
        Any strides. The array is kept, for pickles, and must not be changed afterwards.
    bias : ndarray, shape (C_out,), optional
        Added to each output position.
    stride, padding, dilation, groups, padding_mode, activation, algorithm, precision
        As in `conv2d`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> nbconv.Conv2d(np.ones((8, 3, 3, 3)), padding=1).output_shape((1, 32, 32, 3))
    (1, 32, 32, 8)
    """

    ndim = 2


class ConvTranspose1d(_ConvTranspose):
    """`conv_transpose1d` with its weights packed once, phase by phase; see `Conv1d`.

    Parameters
    ----------
    weight : ndarray, shape (C_in, C_out / groups, K)
        Any strides. The array is kept, for pickles, and must not be changed afterwards.
    bias : ndarray, shape (C_out,), optional
        Added to each output position.
    stride, padding, output_padding, groups, dilation, activation, algorithm, precision
        As in `conv_transpose1d`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> nbconv.ConvTranspose1d(np.ones((2, 1, 4)), stride=2, padding=1).output_shape((1, 10, 2))
    (1, 20, 1)
    """

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """`conv_transpose2d` with its weights packed once, phase by phase; see `Conv1d`.

    Parameters
    ----------
    weight : ndarray, shape (C_in, C_out / groups, KH, KW)
        Any strides. The array is kept, for pickles, and must not be changed afterwards.
    bias : ndarray, shape (C_out,), optional
        Added to each output position.
    stride, padding, output_padding, groups, dilation, activation, algorithm, precision
        As in `conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> nbconv.ConvTranspose2d(np.ones((4, 2, 2, 2)), stride=2).output_shape((7, 7, 4))
    (14, 14, 2)
    """

    ndim = 2
