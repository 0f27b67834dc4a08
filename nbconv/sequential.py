"""Networks without branches: layers called one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .counting import OperationCount

__all__ = ["Sequential"]


class Sequential:
    """Layers, or any functions of one array, called one after the other.

    Parameters
    ----------
    layers : callables, in order
        Each takes an array, shape (N, *spatial, C), and returns one.

    Examples
    --------
    >>> import numpy as np, nbconv
    >>> rng = np.random.default_rng(0)
    >>> net = nbconv.Sequential(
    ...     nbconv.Conv1d.random(1, 8, 3, rng=rng, padding="same", activation="relu"),
    ...     nbconv.Conv1d.random(8, 1, 3, rng=rng, padding="same"),
    ... )
    >>> net(np.zeros((1, 16, 1), np.float32)).shape
    (1, 16, 1)
    """

    def __init__(self, *layers: Callable[[np.ndarray], np.ndarray]) -> None:
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"Sequential: layer {i} is not callable: {layer!r}")
        self.layers = layers

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run all layers on `x`."""
        for layer in self.layers:
            x = layer(x)
        return x

    def to(self, device: str) -> Sequential:
        """Give this network with all its layers on `device`; each must have a `to` of its own, as nbconv's do."""
        for i, layer in enumerate(self.layers):
            if not hasattr(layer, "to"):
                raise TypeError(f"Sequential: layer {i} cannot be brought to a device: {layer!r}")
        return Sequential(*(layer.to(device) for layer in self.layers))  # type: ignore[attr-defined]

    def output_shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of the result for an input of `x_shape`; each layer must have an `output_shape` of its own."""
        for i, layer in enumerate(self.layers):
            if not hasattr(layer, "output_shape"):
                raise TypeError(f"Sequential: layer {i} does not tell its output shape: {layer!r}")
            x_shape = layer.output_shape(x_shape)
        return x_shape

    def count_operations(self, x_shape: tuple[int, ...]) -> OperationCount:
        """Count exactly what an input of `x_shape` costs; each layer must count its own, as nbconv's do."""
        count = OperationCount()
        for i, layer in enumerate(self.layers):
            if not hasattr(layer, "count_operations") or not hasattr(layer, "output_shape"):
                raise TypeError(f"Sequential: layer {i} does not count its operations: {layer!r}")
            count += layer.count_operations(x_shape)
            x_shape = layer.output_shape(x_shape)
        return count

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Callable[[np.ndarray], np.ndarray]:
        return self.layers[i]

    def __iter__(self) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        return iter(self.layers)

    def __repr__(self) -> str:
        """Read like the call that made the network."""
        return f"Sequential({', '.join(map(repr, self.layers))})"
