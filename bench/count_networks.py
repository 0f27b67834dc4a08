"""Count the operations of whole networks: exactly, next to the dense figure and to the published formulas.

    python -m bench.count_networks

Dense is ``torch.utils.flop_counter``, twice the multiply-accumulates (MAC) that papers give. N = 1; convolutions only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.networks import NETWORKS, Layer
from nbconv.counting import OperationCount, count_activation, count_operations

WIDTHS = (20, 8, 13, 15, 14, 14, 16, 15, 20)
HEADS = (
    *("network", "layers", "dense MMAC", "exact Mmul", "exact Madd", "exact/dense", "published/dense"),
    *("comparisons M", "activation ops M"),
)


class NetworkCount(NamedTuple):
    """Sums over the layers of a network."""

    exact: OperationCount
    flop_counter: int
    moduleprofiler: int


def count_network(layers: list[Layer]) -> NetworkCount:
    """Add up a network's layers by each convention."""
    exact = OperationCount()
    dense = published = 0
    for layer in layers:
        layer_is = (layer.op, layer.x_shape, layer.weight_shape)
        exact += count_operations(*layer_is, bias=layer.bias, activation=layer.activation, **layer.params)
        exact += count_activation(layer.before, math.prod(layer.x_shape))
        dense += count_operations(*layer_is, convention="flop_counter", **layer.params)
        published += count_operations(*layer_is, bias=layer.bias, convention="moduleprofiler", **layer.params)
    return NetworkCount(exact, dense, published)


def row(*cells: str) -> str:
    """Align the cells of a row."""
    first, *rest = (cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))
    return cells[0].ljust(len(first)) + "".join(rest)


def millions(count: float) -> str:
    return f"{count / 1e6:,.3f}"


def main() -> None:
    """Print one row a network."""
    print(row(*HEADS))
    for name, build in NETWORKS.items():
        layers = build()
        exact, dense, published = count_network(layers)
        absolute = map(millions, (dense / 2, exact.multiplications, exact.additions))
        apart = map(millions, (exact.comparisons, exact.activation_operations))
        print(row(name, str(len(layers)), *absolute, f"{exact.total / dense:.4f}", f"{published / dense:.4f}", *apart))


if __name__ == "__main__":
    main()
