"""Small layers at which tiles, groups, strides and padding end: for the interpreter, and for a device."""

from __future__ import annotations

from typing import Any

from tests.cases import Case


def layer(op: str, x: tuple[int, ...], weight: tuple[int, ...], **params: Any) -> Case:
    """Make a case with a bias."""
    return Case(op, x, weight, params)


# Each ends in the middle of a tile in one way or several: rows, columns, the reduction.
RAGGED = [
    layer("conv1d", (2, 70, 16), (40, 16, 3), padding=1),
    layer("conv1d", (1, 61, 24), (136, 24, 5), stride=2, padding=((3, 1),), dilation=2),
    layer("conv2d", (2, 9, 11, 8), (72, 8, 3, 3), padding=(1, 2), stride=(1, 2)),
    layer("conv2d", (1, 7, 30, 16), (24, 8, 3, 2), groups=2, dilation=(2, 1), padding=(2, 0)),
    layer("conv_transpose1d", (2, 50, 8), (8, 36, 7), stride=3, padding=2, output_padding=1),
    layer("conv_transpose2d", (1, 6, 7, 16), (16, 10, 2, 3), stride=(3, 2), groups=2),
    layer("conv1d", (300, 1, 8), (33, 8, 1)),
    # For those that follow x must be read number by number.
    layer("conv1d", (2, 70, 5), (40, 5, 3), padding=2, stride=2),
    layer("conv1d", (1, 61, 6), (70, 3, 4), groups=2, dilation=3, padding=4),
    layer("conv1d", (2, 40, 8), (17, 8, 4), padding=3, padding_mode="reflect"),
    layer("conv2d", (1, 9, 11, 3), (72, 3, 3, 3), padding=(1, 2), padding_mode="circular"),
    layer("conv2d", (1, 9, 11, 7), (9, 7, 3, 3), padding=(3, 1), padding_mode="replicate", stride=2),
    layer("conv_transpose1d", (1, 40, 10), (10, 20, 5), stride=2, dilation=3),
    layer("conv1d", (1, 90, 1), (40, 1, 19), padding=9, stride=2),
    layer("conv2d", (2, 9, 12, 3), (16, 3, 3, 5), stride=(1, 2)),
]
DEPTHWISE = [
    layer("conv1d", (2, 41, 12), (12, 1, 3), groups=12, padding=1),
    layer("conv1d", (1, 30, 140), (140, 1, 5), groups=140, padding="causal", dilation=3),
    layer("conv1d", (2, 41, 8), (8, 1, 5), groups=8, stride=2, padding=2),
    layer("conv1d", (2, 19, 8), (8, 1, 4), groups=8, padding=3, padding_mode="reflect"),
    layer("conv1d", (2, 19, 8), (8, 1, 4), groups=8, padding=3, padding_mode="circular", stride=3),
    layer("conv2d", (2, 7, 11, 16), (16, 1, 3, 3), groups=16, padding=1),
    layer("conv2d", (1, 7, 11, 4), (4, 1, 3, 2), groups=4, padding=(2, 1), stride=2, padding_mode="replicate"),
    layer("conv2d", (1, 9, 10, 4), (4, 1, 3, 3), groups=4, stride=(2, 1), dilation=(1, 2), padding=2),
    layer("conv_transpose1d", (2, 9, 8), (8, 1, 4), groups=8, stride=2, padding=1),
    layer("conv_transpose2d", (1, 5, 4, 8), (8, 1, 3, 3), groups=8, stride=(2, 3), output_padding=1),
]
