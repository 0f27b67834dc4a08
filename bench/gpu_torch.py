"""PyTorch beside us on a device, where it is installed: its convolutions, its matrix product, its CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.gpu_shapes import Product
from tests.cases import Case
from tests.helpers import real_numbers
from tests.reference import each_axis

Call = Callable[[], object]


def import_torch() -> Any:
    """Give the module, or None where it is not installed or sees no device."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


class Torch:
    """PyTorch on its current device."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        torch.backends.cudnn.benchmark = True  # its fastest algorithm, chosen at the first call

    def placer(self, dtype: str) -> Callable[[np.ndarray], Any]:
        """Give the function that brings an array to the device as a tensor of a type."""
        kind = getattr(self.torch, dtype)
        return lambda array: self.torch.from_numpy(array).to("cuda", kind)

    def allow_tf32(self, allowed: bool) -> None:
        """Let float32 be rounded to TF32, or not."""
        self.torch.backends.cudnn.allow_tf32 = allowed
        self.torch.backends.cuda.matmul.allow_tf32 = allowed

    def calls(self, case: Case, what: str, arrays: tuple[Any, ...], *, tf32: bool) -> dict[str, Call]:
        """Make the calls of a pass: conv1d as a user of channels-last arrays pays it, and conv2d in channels_last.

        `arrays` are x, weight, bias and grad_output, channels last, on the device.
        """
        found = {"conv2d channels_last": self._channels_last(case, what, arrays, tf32)}
        if case.ndim == 1:
            found["conv1d"] = self._channels_first(case, what, arrays, tf32)
        return found

    def _channels_first(self, case: Case, what: str, arrays: tuple[Any, ...], tf32: bool) -> Call:
        """Turn channels around before and after, which costs the copies that PyTorch makes of them."""
        x, weight, bias, grad_output = arrays
        run = self._run(case, what, tf32, 1)

        def call() -> Any:
            result = run(x.transpose(1, 2), weight, bias, grad_output.transpose(1, 2))
            return result if what == "grad_weight" else result.transpose(1, 2).contiguous()

        return call

    def _channels_last(self, case: Case, what: str, arrays: tuple[Any, ...], tf32: bool) -> Call:
        """Give the same memory as images, of one line in one dimension, in channels_last: no copies."""
        x, weight, bias, grad_output = arrays
        if case.ndim == 1:
            x, grad_output, weight = x[:, None], grad_output[:, None], weight[:, :, None]
        x, grad_output = x.permute(0, 3, 1, 2), grad_output.permute(0, 3, 1, 2)
        weight = weight.contiguous(memory_format=self.torch.channels_last)
        run = self._run(case, what, tf32, 2)
        return lambda: run(x, weight, bias, grad_output)

    def _run(self, case: Case, what: str, tf32: bool, ndim: int) -> Callable[..., Any]:
        def numbers(name: str, unit: int) -> list[int]:
            return [*[unit] * (ndim - case.ndim), *each_axis(case.params.get(name, unit), case.ndim)]

        stride, padding, dilation = numbers("stride", 1), numbers("padding", 0), numbers("dilation", 1)
        extra, groups = numbers("output_padding", 0), case.groups
        mask = [what == "grad_x", what == "grad_weight", False]
        forward, backward = self.torch.ops.aten.convolution, self.torch.ops.aten.convolution_backward
        options = (stride, padding, dilation, case.transposed, extra, groups)

        def run(x: Any, weight: Any, bias: Any, grad_output: Any) -> Any:
            self.allow_tf32(tf32)
            if what == "forward":
                return forward(x, weight, bias, *options)
            return backward(grad_output, x, weight, None, *options, mask)[0 if what == "grad_x" else 1]

        return run

    def product(self, product: Product, dtype: str, *, tf32: bool) -> Call:
        """Multiply matrices of the sizes that a layer amounts to."""
        make = self.placer(dtype)
        rng = np.random.default_rng(0)
        left, right = make(real_numbers(rng, (product.m, product.k))), make(real_numbers(rng, (product.k, product.n)))
        return self._product(left, right, tf32)

    def square_product(self, size: int, dtype: str, tf32: bool) -> Call:
        """Multiply large matrices."""
        matrices = [self.torch.randn(size, size, device="cuda", dtype=getattr(self.torch, dtype)) for _ in range(2)]
        return self._product(*matrices, tf32)

    def _product(self, left: Any, right: Any, tf32: bool) -> Call:
        def call() -> Any:
            self.allow_tf32(tf32)
            return left @ right

        return call

    def graph(self, call: Call) -> Call:
        """Capture a call in a CUDA graph; gives its replay."""
        torch = self.torch
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            call()
        return graph.replay  # type: ignore[no-any-return]
