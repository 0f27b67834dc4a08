"""The doors of the CUDA side: check, bind and run calls whose arrays are on a device, or are to be brought there."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import numpy as np

from ..arrays import check_array, check_out, one_dtype
from ..devices import device_number, on_device
from ..geometry import ConvSpec, Geometry, bind
from . import gradients as gradient
from .arrays import POOLS, DeviceArray, download, empty, overlap, overlaps_itself, read_array, upload
from .backend import Operands, product
from .driver import cuda, device_count, require_device
from .offered import Offered
from .streams import choose_stream, follow, stream_handle

__all__ = ["DeviceOperands", "convolve", "gradients"]

Named = dict[str, Any]


def convolve(
    spec: ConvSpec, arrays: Named, activation: tuple[str, float | None] | None, out: Any, precision: str, device: Any,
    stream: Any,
) -> Any:  # fmt: skip
    """Run one of the four operations; `arrays` are x, weight, bias and residual by name, None where there is none."""
    given = _take(spec.op, arrays, device, stream)
    x, weight, bias = given["x"], given["weight"], given.get("bias")
    geometry = bind(spec, x.shape, weight.shape, bias.shape if bias else None)
    name, parameter = activation or (None, None)
    return _run(geometry, x, Operands(weight, bias, parameter), given.get("residual"), name, out, precision, stream)


class DeviceOperands:
    """Weights and bias of a layer, packed on a device: what a layer on a device calls."""

    def __init__(
        self, spec: ConvSpec, weight: np.ndarray, bias: np.ndarray | None, activation: tuple[str, float | None] | None,
        device: Any,
    ) -> None:  # fmt: skip
        require_device()
        self.spec = spec
        self.name, self.device = device, ordinal_of(spec.op, device)
        name, parameter = activation or (None, None)
        self._activation: str | None = name
        with _on(self.device):
            self._operands = Operands(
                upload(weight, self.device), None if bias is None else upload(bias, self.device), parameter, kept=True
            )

    def __call__(self, x: Any, residual: Any, out: Any, precision: str, stream: Any) -> Any:
        """Run on arrays of this device."""
        self._refuse_host({"x": x, "residual": residual, "out": out})
        weight, bias = self._operands.weight, self._operands.bias
        given = _take(self.spec.op, {"x": x, "residual": residual, "weight": weight}, None, stream)
        taken = given["x"]
        geometry = bind(self.spec, taken.shape, weight.shape, bias.shape if bias else None)
        return _run(
            geometry, taken, self._operands, given.get("residual"), self._activation, out, precision, stream
        )  # fmt: skip

    def _refuse_host(self, arrays: Named) -> None:
        op = self.spec.op
        for name, value in arrays.items():
            if value is not None and not on_device(value):
                raise TypeError(
                    f"{op}: {name} ({type(value).__name__}) is on the CPU, the layer on a device: bring {name} there, "
                    "or call layer.to('cpu')"
                )

    def backward(self, grad_output: Any, x: Any, needs: tuple[str, ...], precision: str, stream: Any) -> Any:
        """Give the gradients of arrays of this device."""
        self._refuse_host({"grad_output": grad_output, "x": x})
        return gradients(self.spec, grad_output, x, self._operands.weight, needs, precision, None, stream)


def _run(
    geometry: Geometry, x: DeviceArray, operands: Operands, residual: DeviceArray | None, activation: str | None,
    out: Any, precision: str, stream: Any,
) -> Any:  # fmt: skip
    op, shape = geometry.spec.op, geometry.output_shape
    if residual and residual.shape != shape:
        raise ValueError(f"{op}: residual has shape {residual.shape}, the result has {shape}")
    inputs = [array for array in (x, operands.weight, operands.bias, residual) if array]
    here = x.host_dtype is not None
    if here and out is not None:
        check_out(op, out, shape, x.host_dtype)
    with _on(x.device):
        ours = choose_stream(op, stream, inputs)
        with _allocating(x, stream):
            target = empty(shape, x.dtype, x) if here or out is None else _check_out(op, out, geometry, inputs)
            product(geometry, x, operands, residual, target, activation, precision, ours)
        return download(target, x.host_dtype, out, ours) if here else _hand_out(target, ours)


def gradients(
    spec: ConvSpec, grad_output: Any, x: Any, weight: Any, needs: tuple[str, ...], precision: str, device: Any,
    stream: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Give the gradients in x, weight and bias; None for those that are not needed."""
    op = spec.op
    given = _take(op, {"grad_output": grad_output, "x": x, "weight": weight}, device, stream)
    dy, x, weight = given.values()
    geometry = bind(spec, x.shape, weight.shape)
    if dy.shape != geometry.output_shape:
        raise ValueError(
            f"{op}: grad_output has shape {dy.shape}, the forward call gives {geometry.output_shape}; "
            f"x {x.shape}, weight {weight.shape}"
        )
    with _on(x.device):
        ours = choose_stream(op, stream, [dy, x, weight])
        with _allocating(dy, stream):
            grads = (
                gradient.grad_x(geometry, dy, weight, precision, ours) if "x" in needs else None,
                gradient.grad_weight(geometry, dy, x, weight, precision, ours) if "weight" in needs else None,
                gradient.grad_bias(geometry, dy, ours) if "bias" in needs else None,
            )
        kind = dy.host_dtype
        results = [
            grad and (_hand_out(grad, ours) if kind is None else download(grad, kind, None, ours)) for grad in grads
        ]
        return tuple(results)  # type: ignore[return-value]


# ---- what came in --------------------------------------------------------------------------------------------------


def ordinal_of(op: str, device: Any) -> int:
    """Read the name of a CUDA device as its number.

    Raises
    ------
    ValueError
        For another name, and for a device that is not there.
    """
    ordinal = device_number(op, device)
    if ordinal is None:
        raise ValueError(f"{op}: device is {device!r}, and the arrays are on a CUDA device: bring them to the CPU")
    if ordinal >= device_count():
        raise ValueError(f"{op}: there is no device {device!r}; CUDA devices: {device_count()}")
    return ordinal


def _take(op: str, arrays: Named, device: Any, stream: Any) -> dict[str, DeviceArray]:
    """Take all arrays apart, those of the host after a copy to `device`; check that they fit each other."""
    require_device()
    given = {name: value for name, value in arrays.items() if value is not None}
    first, value = next(iter(given.items()))
    if on_device(value):
        handle = None if stream is None else stream_handle(op, stream)
        taken = {
            name: value if isinstance(value, DeviceArray) else read_array(op, name, value, handle)
            for name, value in given.items()
        }
        found = taken[first].device
        if device is not None and ordinal_of(op, device) != found and ":" in device:
            raise ValueError(f"{op}: {first} is on CUDA device {found}; got device {device!r}")
    else:
        ordinal = ordinal_of(op, device)
        checked = {name: check_array(op, name, value) for name, value in given.items()}
        one_dtype(op, **checked)
        with _on(ordinal):
            taken = {name: upload(value, ordinal) for name, value in checked.items()}
    array = taken[first]
    for name, other in taken.items():
        if other.device != array.device:
            raise ValueError(f"{op}: {first} is on CUDA device {array.device}, {name} on {other.device}: move one")
        if other.dtype != array.dtype:
            raise TypeError(
                f"{op}: {first} has dtype {array.dtype}, {name} has dtype {other.dtype}; they must share one: "
                "convert one on the device"
            )
    return taken


def _check_out(op: str, out: Any, geometry: Geometry, inputs: list[DeviceArray]) -> DeviceArray:
    x, shape = inputs[0], geometry.output_shape
    target = read_array(op, "out", out)
    if target.dtype != x.dtype:
        raise TypeError(f"{op}: out has dtype {target.dtype}, the result has {x.dtype}")
    if target.shape != shape:
        raise ValueError(f"{op}: out has shape {target.shape}, the result has {shape}")
    if target.device != x.device:
        raise ValueError(f"{op}: x is on CUDA device {x.device}, out on {target.device}: move one")
    if target.readonly:
        raise ValueError(f"{op}: out is read-only")
    if overlaps_itself(target):
        raise ValueError(f"{op}: out overlaps itself (steps {target.steps} of shape {target.shape})")
    if any(overlap(target, array) for array in inputs):
        raise ValueError(f"{op}: out shares memory with an input")
    return target


def _hand_out(array: DeviceArray, stream: Any) -> Any:
    """Give the caller his array; one that offers itself by DLPack is to let others wait for our stream."""
    value, device = array.value, array.device
    if isinstance(value, Offered) and value.come_before is None:

        def come_before(handle: int) -> None:
            with _on(device):
                follow(device, handle, stream)

        value.come_before = come_before
    return value


def _on(device: int) -> Any:
    """Make a device the current one; with a single device it always is."""
    return nullcontext() if device_count() == 1 else cuda.gpus[device]


def _allocating(like: DeviceArray, stream: Any) -> Any:
    """Make the packages that pool memory by stream allocate for work on the caller's `stream`."""
    if stream is None or like.maker not in POOLS:
        return nullcontext()
    handle = stream_handle("", stream)
    if like.maker == "torch":
        torch = sys.modules["torch"]
        return torch.cuda.stream(torch.cuda.ExternalStream(handle, device=like.value.device))
    return sys.modules["cupy"].cuda.ExternalStream(handle)
