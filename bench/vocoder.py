"""HiFi-GAN V1's generator as a whole network: nbconv in NLC, PyTorch and ONNX Runtime in their own layout.

The layers and their shapes are those of `networks.hifigan`; random weights, scaled so that numbers keep their size.
Between the convolutions stand LeakyReLU before each, the residual sums, and the mean of three blocks a level.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numba
import numpy as np

import nbconv
from bench.floors import peak_contestant, spin_flops
from bench.generator import BLOCKS, DILATIONS, LAST_SLOPE, SLOPE, Generator
from bench.limits import Settings
from bench.networks import Layer, hifigan
from bench.peers import onnxruntime_contestant
from bench.race import Apart, Contestant, Here, race
from bench.rows import Row
from tests import reference
from tests.helpers import Array, real_numbers, rng_for

GOAL = 1.10
TOLERANCE = 2e-4  # of the largest number of the sound
Weights = list[tuple[Layer, Array, Array]]


def weights_of(frames: int) -> tuple[Array, Weights]:
    """Draw the mel frames and every layer's weight and bias."""
    rng = rng_for("vocoder", frames)
    drawn = []
    for layer in hifigan(frames=frames):
        transposed = "transpose" in layer.op
        fan_in = np.prod(layer.weight_shape) / layer.weight_shape[1 if transposed else 0]
        if transposed:
            fan_in /= layer.params["stride"]
        weight = real_numbers(rng, layer.weight_shape) / np.float32(np.sqrt(fan_in))
        channels = layer.weight_shape[1 if transposed else 0]
        drawn.append((layer, weight, real_numbers(rng, (channels,)) * np.float32(0.1)))
    return real_numbers(rng, (1, frames, 80)), drawn


def walk(ops: Any, mel: Any, count: int) -> Any:
    """Run the generator; `ops` gives conv(i, x), lrelu(x, slope), add(x, y), mean(three), tanh(x)."""
    per_level = 1 + 2 * BLOCKS * DILATIONS
    x = ops.conv(0, mel)
    for first in range(1, count - 1, per_level):
        x = ops.conv(first, ops.lrelu(x, SLOPE))
        ends = []
        for block in range(BLOCKS):
            end = x
            for pair in range(DILATIONS):
                i = first + 1 + 2 * (block * DILATIONS + pair)
                end = ops.add(ops.conv(i + 1, ops.lrelu(ops.conv(i, ops.lrelu(end, SLOPE)), SLOPE)), end)
            ends.append(end)
        x = ops.mean(ends)
    return ops.tanh(ops.conv(count - 1, ops.lrelu(x, LAST_SLOPE)))


class Oracle:
    """In float64, from the definitions."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def conv(self, i: int, x: Array) -> Array:
        layer, weight, bias = self.weights[i]
        return reference.run(layer.op, x, weight, bias, **layer.params)

    def lrelu(self, x: Array, slope: float) -> Array:
        return np.where(x > 0, x, slope * x)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def mean(self, parts: list[Array]) -> Array:
        return sum(parts) / len(parts)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)


class Torch:
    """As the generator is usually written."""

    def __init__(self, weights: Weights) -> None:
        import torch

        self.torch, self.functional, self.convs = torch, torch.nn.functional, []
        for layer, weight, bias in weights:
            run = getattr(self.functional, layer.op)
            self.convs.append(
                partial(run, weight=torch.from_numpy(weight), bias=torch.from_numpy(bias), **layer.params)
            )

    def conv(self, i: int, x: Any) -> Any:
        return self.convs[i](x)

    def lrelu(self, x: Any, slope: float) -> Any:
        return self.functional.leaky_relu(x, slope)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def mean(self, parts: list[Any]) -> Any:
        return (parts[0] + parts[1] + parts[2]) / len(parts)

    def tanh(self, x: Any) -> Any:
        return self.torch.tanh(x)


class Graph:
    """Nodes of an ONNX graph, by the names of their results."""

    def __init__(self, weights: Weights) -> None:
        from onnx import helper, numpy_helper

        self.weights, self.make, self.nodes = weights, helper.make_node, []
        self.constants = [numpy_helper.from_array(np.array(1 / BLOCKS, np.float32), "third")]
        for i, (_, weight, bias) in enumerate(weights):
            self.constants += [numpy_helper.from_array(weight, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        result = f"r{len(self.nodes)}"
        self.nodes.append(self.make(op, list(inputs), [result], **attributes))
        return result

    def conv(self, i: int, x: str) -> str:
        params = self.weights[i][0].params
        attributes = {"pads": [params["padding"]] * 2, "strides": [params.get("stride", 1)]}
        op = "ConvTranspose" if "transpose" in self.weights[i][0].op else "Conv"
        return self.node(op, x, f"w{i}", f"b{i}", dilations=[params.get("dilation", 1)], **attributes)

    def lrelu(self, x: str, slope: float) -> str:
        return self.node("LeakyRelu", x, alpha=slope)

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def mean(self, parts: list[str]) -> str:
        return self.node("Mul", self.add(self.add(parts[0], parts[1]), parts[2]), "third")

    def tanh(self, x: str) -> str:
        return self.node("Tanh", x)


# ---- the contest ---------------------------------------------------------------------------------------------------


def enter(engine: str, frames: int, threads: int) -> dict[str, Contestant]:
    """Make the contestants of an engine."""
    mel, weights = weights_of(frames)
    if engine == "nbconv":
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        generator = Generator(weights, threads)
        return {"nbconv": Contestant(lambda: generator(mel)), "peak": peak_contestant()}
    first = np.ascontiguousarray(np.moveaxis(mel, -1, 1))
    if engine == "onnxruntime":
        from onnx import TensorProto, helper

        ops = Graph(weights)
        result = walk(ops, "x", len(weights))
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", result)]
        graph = helper.make_graph(ops.nodes, "vocoder", ends[:1], ends[1:], ops.constants)
        return {"onnxruntime": onnxruntime_contestant(graph, first, threads)}
    import torch

    torch.set_num_threads(threads)
    source, ops = torch.from_numpy(first), Torch(weights)

    def eager() -> Any:
        with torch.enable_grad():
            return walk(ops, source, len(weights))

    def inference() -> Any:
        with torch.inference_mode():
            return walk(ops, source, len(weights))

    def read(y: Any) -> Array:
        return y.movedim(1, -1).numpy()

    return {"torch eager": Contestant(eager, read), "torch inference_mode": Contestant(inference, read)}


def rows(settings: Settings) -> list[Row]:
    """Race the whole network on one core and, where there are two, on two."""
    frames = 20 if settings.quick else 100
    mel, weights = weights_of(frames)
    expected = walk(Oracle(weights), mel, len(weights))
    counts = [threads for threads in (1, 2) if threads <= max(len(settings.cores), 1)]
    return [row for threads in counts for row in _rows(settings, frames, expected, threads)]


def _rows(settings: Settings, frames: int, expected: Array, threads: int) -> list[Row]:
    batches: dict[str, Callable[[int], float]] = {}
    here = Here()
    with ExitStack() as stack:
        for engine in ("nbconv", *(engine for engine in settings.engines if engine != "jax")):
            arena: Here | Apart = here if threads == 1 else settings.apart(stack, threads)
            for name, result in arena.enter(enter, engine, frames, threads).items():
                error = 0.0 if result is None else np.abs(result - expected).max()
                if not error <= TOLERANCE * np.abs(expected).max():
                    raise AssertionError(f"vocoder: {name} is off by {error:.1e}")
                batches[name] = partial(arena.batch, name)
        seconds = race(batches, 8 * settings.seconds)
    own, flops = seconds.pop("nbconv"), 2.0 * sum(_macs(layer) for layer in hifigan(frames=frames))
    floor = flops / (threads * spin_flops() / seconds.pop("peak"))
    title = f"HiFi-GAN V1, {threads} thread{'s' if threads > 1 else ''}"
    speed = f"{1e3 * own:.1f} ms, {1e-9 * flops / own:.0f} GFLOP/s, {floor / own:.0%} of the peak"
    print(f"\n{title}, {frames} frames: {speed}")
    for name, value in seconds.items():
        print(f"{name:22}{1e3 * value:9.1f} ms{value / own:7.2f}")
    if not seconds:
        return []
    ratios = {name: value / own for name, value in seconds.items()}
    least, limit = min(ratios.values()), min(seconds.values()) / floor
    text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return [Row(title, "fastest", f">= {GOAL:.2f}", text, least >= GOAL, ratios, GOAL, limit, threads > 1)]


def _macs(layer: Layer) -> int:
    count = nbconv.count_operations(
        layer.op, layer.x_shape, layer.weight_shape, **layer.params, convention="flop_counter"
    )
    return int(count) // 2
