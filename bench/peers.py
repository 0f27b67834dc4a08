"""One layer on every engine: nbconv, and whichever of PyTorch, ONNX Runtime and JAX is installed.

Each engine gets its data in the layout that it likes, and padding that it has no form for as an input that is padded
already, for free. "torch NLC" is what somebody who holds channels-last arrays pays for PyTorch in one dimension: a
transpose on the way in, and a result that is contiguous again. In two dimensions channels_last is that layout.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import nbconv
from bench.floors import copy_contestant, peak_contestant
from bench.kinds import ENGINES
from bench.race import Contestant
from tests import reference
from tests.cases import Case
from tests.helpers import Array, arrays_of, real_numbers

LAYERS = {
    "conv1d": nbconv.Conv1d,
    "conv2d": nbconv.Conv2d,
    "conv_transpose1d": nbconv.ConvTranspose1d,
    "conv_transpose2d": nbconv.ConvTranspose2d,
}


def installed() -> list[str]:
    """Name the engines that can be imported."""
    needs = {"onnxruntime": ("onnxruntime", "onnx")}
    return [name for name in ENGINES if all(map(importlib.util.find_spec, needs.get(name, (name,))))]


def enter(engine: str, case: Case, threads: int, functions: bool = False) -> dict[str, Contestant]:
    """Make the contestants of an engine for one layer; its numbers depend on the case alone."""
    arrays = arrays_of(case, np.float32, real_numbers)
    if engine == "nbconv":
        return own_ways(case, *arrays, functions)
    ways: dict[str, Callable[..., dict[str, Contestant]]] = {
        "torch": torch_ways, "onnxruntime": onnxruntime_way, "jax": jax_way
    }  # fmt: skip
    return ways[engine](Geometry(case), *arrays, threads)


def own_ways(case: Case, x: Array, weight: Array, bias: Array | None, functions: bool) -> dict[str, Contestant]:
    """Enter the layer; with `functions`, the function too, whose weight lies as PyTorch's or as Keras' and JAX's."""
    layer, run = LAYERS[case.op](weight, bias, **case.params), getattr(nbconv, case.op)
    ways = {"layer": Contestant(lambda: layer(x))}
    if functions:
        in_taps = np.moveaxis(np.ascontiguousarray(weight.transpose(2, 1, 0)), (0, 2), (2, 0))
        ways["function"] = Contestant(lambda: run(x, weight, bias, **case.params))
        ways["function KIO"] = Contestant(lambda: run(x, in_taps, bias, **case.params))
    return {**ways, "peak": peak_contestant(), "copy": copy_contestant(case)}


class Geometry:
    """A case in words that the engines share: symmetric padding and a rest, of the input or of the output."""

    def __init__(self, case: Case) -> None:
        ndim, params = case.ndim, case.params
        self.case, self.ndim, self.transposed = case, ndim, case.transposed
        self.stride, self.dilation, self.extra = (
            list(reference.each_axis(params.get(key, default), ndim))
            for key, default in (("stride", 1), ("dilation", 1), ("output_padding", 0))
        )
        kernel, padding = case.weight_shape[2:], params.get("padding", 0)
        if case.transposed:
            self.pads = reference.transposed_crops(kernel, self.stride, padding, self.dilation)
        else:
            self.pads = reference.forward_pads(case.x_shape[1:-1], kernel, self.stride, padding, self.dilation)
        self.mode = params.get("padding_mode", "zeros")
        self.even = self.mode == "zeros" and all(lo == hi for lo, hi in self.pads)
        self.padding = [lo for lo, _ in self.pads] if self.even else [0] * ndim

    def input(self, x: Array, any_pads: bool = False) -> Array:
        """Pad what the engine cannot; `any_pads`: it can pad both ends differently, with zeros."""
        if self.transposed or self.even or (any_pads and self.mode == "zeros"):
            return x
        return reference.pad(x, self.pads, self.mode)

    def crop(self) -> tuple[slice, ...]:
        """Slice of a channels-first output that was not cropped on its way."""
        if self.even or not self.transposed:
            return ()
        return (..., *(slice(lo, -hi or None) for lo, hi in self.pads))


def torch_ways(g: Geometry, x: Array, weight: Array, bias: Array | None, threads: int) -> dict[str, Contestant]:
    """Enter PyTorch in its own layout, as channels_last (in one dimension: of images one row high), and as NLC."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    functional, crop = torch.nn.functional, g.crop()
    w, b = torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)
    held = torch.from_numpy(np.ascontiguousarray(g.input(x)))
    first = held.movedim(-1, 1).contiguous()

    def way(source: Any, weight: Any, ndim: int) -> Callable[[], Any]:
        run = getattr(functional, g.case.op.replace("1d", f"{ndim}d"))

        def sizes(values: Sequence[int], unit: int) -> list[int]:
            return [unit] * (ndim - g.ndim) + list(values)

        dilation, groups = sizes(g.dilation, 1), g.case.groups
        rest = (sizes(g.extra, 0), groups, dilation) if g.transposed else (dilation, groups)
        args = (b, sizes(g.stride, 1), sizes(g.padding, 0), *rest)
        return lambda: run(source, weight, *args)[crop] if crop else run(source, weight, *args)

    def last(y: Any) -> Array:
        return y.movedim(1, -1).numpy()

    ways = {"torch": Contestant(way(first, w, g.ndim), last)}
    if g.ndim == 2:
        images, kernels = (a.contiguous(memory_format=torch.channels_last) for a in (first, w))
        return {**ways, "torch channels_last": Contestant(way(images, kernels, 2), last)}
    images, kernels = (a.unsqueeze(2).contiguous(memory_format=torch.channels_last) for a in (first, w))
    ways["torch channels_last"] = Contestant(way(images, kernels, 2), lambda y: last(y.squeeze(2)))
    run, args = getattr(functional, g.case.op), (b, g.stride, g.padding)
    args = (*args, g.extra, g.case.groups, g.dilation) if g.transposed else (*args, g.dilation, g.case.groups)

    def user() -> Any:
        y = run(held.transpose(1, 2), w, *args)
        return (y[crop] if crop else y).transpose(1, 2).contiguous()

    return {**ways, "torch NLC": Contestant(user, lambda y: y.numpy())}


def onnxruntime_way(g: Geometry, x: Array, weight: Array, bias: Array | None, threads: int) -> dict[str, Contestant]:
    """Enter a model of one node, its input and output bound, channels first."""
    from onnx import TensorProto, helper, numpy_helper

    inputs = ["x", "w"] if bias is None else ["x", "w", "b"]
    constants = [numpy_helper.from_array(weight, "w"), *([] if bias is None else [numpy_helper.from_array(bias, "b")])]
    attributes = {"strides": g.stride, "dilations": g.dilation, "group": g.case.groups}
    if g.transposed or g.mode == "zeros":
        attributes["pads"] = [lo for lo, _ in g.pads] + [hi for _, hi in g.pads]
    if g.transposed:
        attributes["output_padding"] = g.extra
    node = helper.make_node("ConvTranspose" if g.transposed else "Conv", inputs, ["y"], **attributes)
    source = np.ascontiguousarray(np.moveaxis(g.input(x, any_pads=True), -1, 1))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "layer", ends[:1], ends[1:], constants)
    return {"onnxruntime": onnxruntime_contestant(graph, source, threads)}


def onnxruntime_contestant(graph: Any, source: Array, threads: int) -> Contestant:
    """Run a graph from x to y."""
    import onnxruntime
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": source})
    binding = session.io_binding()
    result = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(y))
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(source))
    binding.bind_ortvalue_output(session.get_outputs()[0].name, result)
    return Contestant(
        lambda: session.run_with_iobinding(binding), lambda _: np.moveaxis(result.numpy(), 1, -1)
    )  # fmt: skip


def jax_way(g: Geometry, x: Array, weight: Array, bias: Array | None, threads: int) -> dict[str, Contestant]:
    """Enter the compiled general convolution, channels last; its threads are those that the process may use."""
    import jax

    if g.transposed:
        raise ValueError(f"jax enters no transposed layers: {g.case}")
    taps = "HW"[-g.ndim :]
    layout = (f"N{taps}C", f"{taps}IO", f"N{taps}C")

    @jax.jit
    def run(x: Any, w: Any, b: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            x, w, g.stride, g.pads if g.mode == "zeros" else [(0, 0)] * g.ndim, rhs_dilation=g.dilation,
            dimension_numbers=layout, feature_group_count=g.case.groups,
        )  # fmt: skip
        return y if b is None else y + b

    kernel = np.ascontiguousarray(np.moveaxis(weight, (1, 0), (-2, -1)))
    source, w, b = jax.device_put((g.input(x, any_pads=True), kernel, bias))
    return {"jax": Contestant(lambda: run(source, w, b).block_until_ready())}
