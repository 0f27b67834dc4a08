"""Calls with `out` or a residual, made a second time: the short way must refuse what the long one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.runtime.entry import can_enter
from tests.cases import CASES, Case
from tests.helpers import (
    DTYPES,
    LAYERS,
    LAYOUTS,
    WRITTEN,
    Array,
    arrays_of,
    assert_equal,
    case_params,
    real_numbers,
    rng_for,
)  # fmt: skip

SMOKE = [case for case in CASES if "smoke" in case.tags]
TINY = Case("conv1d", (1, 16, 8), (8, 8, 3), {"padding": 1})
LONG = Case("conv1d", (2, 3000, 40), (24, 40, 3), {"padding": 1})
WAYS = "layer", "function"
INPUTS = "x", "weight", "bias", "residual"
only_entered = pytest.mark.skipif(not can_enter(), reason="without entries nothing tells addresses soon enough")


def caller(way: str, case: Case, weight: Array, bias: Array | None, **options: Any) -> Callable[..., Array]:
    """Give the call of x, and what else changes from call to call."""
    if way == "layer":
        return LAYERS[case.op](weight, bias, **case.params, **options)
    run = getattr(nbconv, case.op)
    return lambda x, **more: run(x, weight, bias, **case.params, **options, **more)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("case", case_params(SMOKE))
def test_a_second_call_gives_the_same_bits(case: Case, dtype: np.dtype, way: str) -> None:
    x, weight, bias = arrays_of(case, dtype, real_numbers)
    call = caller(way, case, weight, bias, activation="relu")
    plain = call(x)
    residual = real_numbers(rng_for(case, "residual"), plain.shape, dtype)
    added = call(x, residual=residual)
    for options, expected in ({}, plain), ({"residual": residual}, added):
        for _ in range(3):
            out = np.zeros_like(plain)
            assert call(x, out=out, **options) is out
            assert_equal(out, expected)
            assert_equal(call(x, **options), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2])
def test_long_calls_too(threads: int, way: str) -> None:
    x, weight, bias = arrays_of(LONG)
    call = caller(way, LONG, weight, bias)
    residual = real_numbers(rng_for(LONG, "residual"), (2, 3000, 24))
    with nbconv.num_threads(threads):
        expected = call(x) + residual
        for _ in range(3):
            out = np.zeros_like(residual)
            assert call(x, residual=residual, out=out) is out
            assert_equal(out, expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("which", "layout"),
    [
        (which, layout)
        for which in ("x", "residual", "out")
        for layout in LAYOUTS
        if which != "out" or layout in WRITTEN
    ],
)
def test_any_memory_layout_a_second_time(which: str, layout: str, way: str) -> None:
    x, weight, bias = arrays_of(TINY)
    call = caller(way, TINY, weight, bias)
    arrays = {"x": x, "residual": call(x), "out": np.zeros((1, 16, 8), np.float32)}
    expected = call(x) + arrays["residual"]
    arrays[which] = LAYOUTS[layout](arrays[which])
    for _ in range(3):
        arrays["out"][...] = 0
        assert_equal(call(**arrays), expected)
        assert_equal(arrays["out"], expected)


@only_entered
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", [("out",), ("residual",), ("residual", "out")], ids="+".join)
def test_second_calls_are_not_looked_at_again(
    given: tuple[str, ...], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = arrays_of(TINY)
    call, y = caller(way, TINY, weight, bias), np.ones((1, 16, 8), np.float32)
    arrays = {name: y.copy() for name in given}
    expected = call(x, **arrays).copy()

    def bind(*_: Any) -> None:
        raise AssertionError("a second call was looked at again")

    for module in "functional", "layers":
        monkeypatch.setattr(f"nbconv.{module}.bind", bind)
    assert_equal(call(x, **arrays), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("side", ["before", "behind"])
def test_what_lies_in_an_input_is_refused(side: str, name: str, way: str) -> None:
    """Numbers apart and a neighbour are taken; one number in common is not."""
    x, weight, bias = arrays_of(TINY)
    arrays = {"x": x, "weight": weight, "bias": bias, "residual": np.ones((1, 16, 8), np.float32)}
    size = 16 * 8
    memory = np.zeros(arrays[name].size + 2 * size, np.float32)
    held = memory[size : size + arrays[name].size].reshape(arrays[name].shape)
    held[...] = arrays[name]
    arrays[name] = held
    call = caller(way, TINY, arrays.pop("weight"), arrays.pop("bias"))
    start = 0 if side == "before" else memory.size - size
    neighbour = memory[start : start + size].reshape(1, 16, 8)
    shift = 1 if side == "before" else -1
    inside = memory[start + shift : start + shift + size].reshape(1, 16, 8)
    for _ in range(3):
        assert call(**arrays, out=neighbour) is neighbour
    before = memory.copy()
    for _ in range(2):
        with pytest.raises(ValueError, match="out shares memory with an input"):
            call(**arrays, out=inside)
    assert_equal(memory, before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda out: out.setflags(write=False) or out, ValueError, "out is read-only"),
        (lambda out: out[:, :15], ValueError, r"out has shape \(1, 15, 8\), the result has \(1, 16, 8\)"),
        (lambda out: out.astype(np.float64), TypeError, "out has dtype float64, the result has float32"),
        (lambda out: np.broadcast_to(out[:, :1], out.shape).view(), ValueError, "out"),
        (lambda out: out.tolist(), TypeError, "out must be a NumPy array; got list"),
        (lambda out: np.ma.masked_array(out), TypeError, "out must be a NumPy array; got MaskedArray"),
    ],
    ids=("read-only", "shape", "dtype", "overlap", "list", "masked"),
)
def test_a_spoiled_out_is_refused_after_a_good_one(
    spoil: Callable[[Array], Any], error: type[Exception], text: str, way: str
) -> None:
    x, weight, bias = arrays_of(TINY)
    call = caller(way, TINY, weight, bias)
    for _ in range(2):
        call(x, out=np.zeros((1, 16, 8), np.float32))
    spoiled = spoil(np.zeros((1, 16, 8), np.float32))
    for _ in range(2):
        with pytest.raises(error, match=text):
            call(x, out=spoiled)


@pytest.mark.parametrize("way", WAYS)
def test_a_residual_of_another_shape_is_refused_after_a_good_one(way: str) -> None:
    x, weight, bias = arrays_of(TINY)
    call, residual = caller(way, TINY, weight, bias), np.ones((1, 16, 8), np.float32)
    for _ in range(2):
        call(x, residual=residual)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"residual has shape \(1, 15, 8\), the result has \(1, 16, 8\)"):
            call(x, residual=residual[:, :15])
        with pytest.raises(TypeError, match="residual has dtype float64"):
            call(x, residual=residual.astype(np.float64))
