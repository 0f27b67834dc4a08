"""The oracle against results worked out by hand."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import reference
from tests.helpers import whole_numbers


def column(*numbers: float) -> np.ndarray[Any, Any]:
    """One channel as (L, 1)."""
    return np.array(numbers)[:, None]


def taps(*numbers: float) -> np.ndarray[Any, Any]:
    """One filter of one channel as (1, 1, K)."""
    return np.array(numbers)[None, None]


@pytest.mark.parametrize(
    ("kernel", "params", "expected"),
    [
        ((1, 1, 5), {}, (8, 17)),
        ((1, 1, 5), {"padding": 1}, (2 + 1 * 5, 8, 17, 1 + 3)),
        ((1, 1, 5), {"stride": 2, "padding": 1}, (7, 17)),
        ((1, 10), {"dilation": 2}, (2 + 10, 1 + 30)),
        ((1, 10), {"padding": "same"}, (12, 11, 31, 3)),
        ((1, 10), {"padding": "same", "stride": 2}, (12, 31)),
        ((1, 10), {"padding": "same", "stride": 3}, (12, 3)),
        ((1, 10), {"padding": "causal"}, (20, 12, 11, 31)),
        ((1, 10), {"padding": ((0, 1),)}, (12, 11, 31, 3)),
        ((1, 10, 100), {"padding": ((2, 0),), "padding_mode": "reflect"}, (1 + 10 + 200, 1 + 20 + 100, 112, 311)),
        ((1, 10, 100), {"padding": ((2, 0),), "padding_mode": "replicate"}, (222, 2 + 20 + 100, 112, 311)),
        ((1, 10, 100), {"padding": ((2, 0),), "padding_mode": "circular"}, (1 + 30 + 200, 3 + 20 + 100, 112, 311)),
    ],
)
def test_conv1d_of_2_1_1_3(kernel: tuple[int, ...], params: dict[str, Any], expected: tuple[int, ...]) -> None:
    y = reference.conv(column(2, 1, 1, 3), taps(*kernel), **params)
    assert y[:, 0].tolist() == list(expected)


@pytest.mark.parametrize(
    ("signal", "kernel", "params", "expected"),
    [
        ((2, 1, 1, 3), (1, 1, 5), {"padding": 2}, (12, 9)),
        ((1, 1), (1, 1, 1), {}, (1, 2, 2, 1)),
        ((1, 2), (1, 10, 100), {}, (1, 12, 120, 200)),
        ((1, 2), (1, 10, 100), {"stride": 2}, (1, 10, 102, 20, 200)),
        ((1, 2), (1, 10), {"stride": 3}, (1, 10, 0, 2, 20)),
        ((1, 2), (1, 10), {"stride": 3, "output_padding": 2}, (1, 10, 0, 2, 20, 0, 0)),
        ((1, 2), (1, 10), {"stride": 3, "padding": 1, "output_padding": 2}, (10, 0, 2, 20, 0)),
        ((1, 2), (1, 10), {"dilation": 3}, (1, 2, 0, 10, 20)),
        ((1, 2), (1, 10, 100), {"padding": ((2, 0),)}, (120, 200)),
        ((1, 2), (1, 10, 100), {"padding": ((0, 1),)}, (1, 12, 120)),
        ((1, 2), (1, 10, 100), {"padding": "same"}, (12, 120)),
        ((1, 2), (1, 10, 100), {"padding": "same", "stride": 2}, (1, 10, 102, 20)),
        ((1, 2), (1, 10), {"padding": "same", "stride": 3}, (1, 10, 0, 2, 20, 0)),
        ((1, 2), (1, 10, 100), {"padding": "causal"}, (1, 12)),
        ((1, 2), (1,), {"padding": "causal", "stride": 2}, (1, 0, 2, 0)),
    ],
)
def test_conv_transpose1d_by_hand(
    signal: tuple[int, ...], kernel: tuple[int, ...], params: dict[str, Any], expected: tuple[int, ...]
) -> None:
    y = reference.conv_transpose(column(*signal), taps(*kernel), **params)
    assert y[:, 0].tolist() == list(expected)


def test_grouped_transposed_gives_8_8_10_10() -> None:
    weight = np.array([1, 1, 2] * 8).reshape(4, 2, 3)
    x = np.stack([[1, 1, 1], [1, 1, 1], [1, 1, 2], [1, 1, 2]], axis=-1)
    y = reference.conv_transpose(x[None], weight, padding=2, groups=2)
    assert y.tolist() == [[[8, 8, 10, 10]]]


def test_bias_channels_and_taps_are_in_their_places() -> None:
    x = np.array([[1, 10], [100, 1000]])
    weight = np.array([[[1, 2], [3, 4]], [[0, 0], [0, 1]]])
    y = reference.conv(x, weight, np.array([0, 50000]))
    assert y.tolist() == [[1 + 200 + 30 + 4000, 1000 + 50000]]


def test_conv2d_by_hand() -> None:
    x = np.arange(6).reshape(2, 3, 1)
    weight = np.array([1, 10, 100, 1000]).reshape(1, 1, 2, 2)
    assert reference.conv(x, weight)[..., 0].tolist() == [[0 + 10 + 300 + 4000, 1 + 20 + 400 + 5000]]
    assert reference.conv(x, weight, padding=((1, 0), (0, 1)), stride=(2, 1))[..., 0].tolist() == [[1000, 2100, 200]]


def test_conv_transpose2d_by_hand() -> None:
    weight = np.array([1, 10, 100, 1000]).reshape(1, 1, 2, 2)
    x = np.array([[1, 2]]).reshape(1, 2, 1)
    assert reference.conv_transpose(x, weight)[..., 0].tolist() == [[1, 12, 20], [100, 1200, 2000]]
    assert reference.conv_transpose(x, weight, stride=(1, 2), padding=((1, 0), (0, 2)))[..., 0].tolist() == [
        [100, 1000]
    ]


@pytest.mark.parametrize("op", ["conv1d", "conv2d"])
@pytest.mark.parametrize("groups", [2, 3])
def test_groups_are_separate_convolutions(op: str, groups: int) -> None:
    rng, ndim = np.random.default_rng(0), int(op[4])
    x = whole_numbers(rng, (2, *(7, 6)[:ndim], 2 * groups), np.int64)
    weight = whole_numbers(rng, (3 * groups, 2, *(3, 2)[:ndim]), np.int64)
    parts = [reference.conv(x[..., 2 * g : 2 * g + 2], weight[3 * g : 3 * g + 3], padding=1) for g in range(groups)]
    np.testing.assert_array_equal(reference.conv(x, weight, padding=1, groups=groups), np.concatenate(parts, -1))


def test_padded_zeros_take_part_but_missing_inputs_do_not() -> None:
    x, weight = column(1.0, 1, 1), taps(np.inf, 1)
    np.testing.assert_array_equal(reference.conv(x, weight, padding=1)[:, 0], [np.nan, np.inf, np.inf, np.inf])
    np.testing.assert_array_equal(reference.conv_transpose(x, weight)[:, 0], [np.inf, np.inf, np.inf, 1])


def test_im2col_and_col2im_by_hand() -> None:
    x = np.array([[1, 10], [2, 20], [3, 30]])
    assert reference.im2col(x, 2).tolist() == [[1, 10, 2, 20], [2, 20, 3, 30]]
    assert reference.im2col(x, 3, padding=1, stride=2).tolist() == [[0, 0, 1, 10, 2, 20], [2, 20, 3, 30, 0, 0]]
    assert reference.col2im(np.array([[1, 2], [3, 4]]), (3,), 2).tolist() == [[1], [5], [4]]
    image = np.arange(6).reshape(2, 3, 1)
    assert reference.im2col(image, (2, 2)).tolist() == [[[0, 1, 3, 4], [1, 2, 4, 5]]]


def test_nothing_of_the_package_is_imported() -> None:
    tree = ast.parse(Path(reference.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name for name in imported if name.split(".")[0] in ("nbconv", "tests")}
