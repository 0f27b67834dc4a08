"""HiFi-GAN V1's generator in nbconv layers, channels last throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba
import numpy as np

from bench.networks import Layer
from bench.peers import LAYERS
from tests.helpers import Array

SLOPE, LAST_SLOPE = 0.1, 0.01
BLOCKS, DILATIONS = 3, 3  # residual blocks a level, pairs of convolutions a block
PER_LEVEL = 1 + 2 * BLOCKS * DILATIONS


def passes(threads: int) -> tuple[Callable[..., None], ...]:
    """Compile what no convolution does, each one pass over flat arrays, results first."""
    compiled = numba.njit(parallel=threads > 1, fastmath={"contract", "nsz", "arcp"}, error_model="numpy", nogil=True)

    @compiled
    def activate(a: Array, x: Array, slope: float) -> None:
        for i in numba.prange(x.size):
            a[i] = x[i] if x[i] > 0 else slope * x[i]

    @compiled
    def mean_activate(a: Array, x: Array, y: Array, z: Array, slope: float) -> None:
        for i in numba.prange(a.size):
            value = np.float32(1 / BLOCKS) * (x[i] + y[i] + z[i])
            a[i] = value if value > 0 else slope * value

    return activate, mean_activate


class Generator:
    """Called with mel frames, (1, frames, 80); gives sound, (1, samples, 1). One call at a time: it keeps its arrays.

    LeakyReLU is fused where it alone reads a convolution: after the first, and within each pair. Residual sums are
    fused into the convolutions that they follow; the mean of the three blocks and its LeakyReLU are one pass.
    """

    def __init__(self, weights: Sequence[tuple[Layer, Array, Array]], threads: int) -> None:
        self.activate, self.mean_activate = passes(threads)
        self.levels = (len(weights) - 2) // PER_LEVEL
        self.layers = [
            LAYERS[layer.op](weight, bias, **layer.params, activation=after)
            for (layer, weight, bias), after in zip(weights, self._activations(), strict=True)
        ]
        self.arrays: dict[tuple[int, ...], list[Array]] = {}

    def _activations(self) -> Iterator[Any]:
        yield ("leaky_relu", SLOPE)
        for i in range(self.levels * PER_LEVEL):
            yield ("leaky_relu", SLOPE) if i % PER_LEVEL % 2 == 1 else None
        yield "tanh"

    def __call__(self, mel: Array) -> Array:
        layers = iter(self.layers)
        a = next(layers)(mel)
        for level in range(self.levels):
            slope = np.float32(LAST_SLOPE if level == self.levels - 1 else SLOPE)
            a = self._blocks(layers, next(layers)(a), slope)
        return next(layers)(a)

    def _blocks(self, layers: Iterator[Any], x: Array, last_slope: Any) -> Array:
        """Run a level's three residual blocks; give LeakyReLU of their mean."""
        start, hidden, a, *spare = self._spare(x.shape)
        slope, ends = np.float32(SLOPE), spare[:BLOCKS]
        self.activate(start.ravel(), x.ravel(), slope)
        for end in ends:
            before, given = x, start
            for i in range(DILATIONS):
                next(layers)(given, out=hidden)
                after = end if i == DILATIONS - 1 else spare[BLOCKS + i % 2]
                next(layers)(hidden, residual=before, out=after)
                before, given = after, a
                if after is not end:
                    self.activate(a.ravel(), after.ravel(), slope)
        self.mean_activate(a.ravel(), *(end.ravel() for end in ends), last_slope)
        return a

    def _spare(self, shape: tuple[int, ...]) -> list[Array]:
        if shape not in self.arrays:
            self.arrays[shape] = [np.empty(shape, np.float32) for _ in range(3 + BLOCKS + 2)]
        return self.arrays[shape]
