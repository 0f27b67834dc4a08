"""Direct calls: those that one thread runs, made a second time, go a shorter way that must not show in the result."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.cpu import ready
from nbconv.runtime.entry import can_enter
from nbconv.runtime.jit import pure
from tests.cases import CASES, Case
from tests.helpers import DTYPES, LAYERS, LAYOUTS, Array, arrays_of, assert_equal, case_params, real_numbers

SMOKE = [case for case in CASES if "smoke" in case.tags]
TINY = Case("conv1d", (1, 16, 8), (8, 8, 3), {"padding": 1})
LONGER = Case("conv1d", (1, 600, 24), (48, 24, 3), {"padding": 1})  # too long to hold the interpreter's lock
# Rows of 2 KB come back to a set of L1 after two of them, so outputs are placed beside x.
PLACED = Case("conv1d", (1, 200, 512), (512, 1, 3), {"padding": 1, "groups": 512})
only_compiled = pytest.mark.skipif(pure(), reason="interpreted kernels have no entries")


@only_compiled
def test_this_interpreter_has_entries() -> None:
    assert can_enter()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("case", case_params(SMOKE))
def test_a_second_call_gives_the_same_bits(case: Case, dtype: np.dtype) -> None:
    x, weight, bias = arrays_of(case, dtype, real_numbers)
    layer, run = LAYERS[case.op](weight, bias, **case.params), getattr(nbconv, case.op)
    for call in lambda: layer(x), lambda: run(x, weight, bias, **case.params):
        first, second = call(), call()
        assert first is not second
        assert_equal(second, first)


@pytest.mark.parametrize("which", range(3), ids=("x", "weight", "bias"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_a_second_time(layout: str, which: int) -> None:
    arrays = list(arrays_of(TINY, np.float32, real_numbers))
    expected = nbconv.conv1d(*arrays, padding=1)
    arrays[which] = LAYOUTS[layout](arrays[which])
    before = arrays[which].copy()
    for _ in range(3):
        assert_equal(nbconv.conv1d(*arrays, padding=1), expected)
        assert_equal(nbconv.Conv1d(*arrays[1:], padding=1)(arrays[0]), expected)
    assert_equal(arrays[which], before)


@only_compiled
def test_small_calls_are_brief_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = arrays_of(TINY)
    layer = nbconv.Conv1d(weight, bias, padding=1)
    expected = layer(x), nbconv.conv1d(x, weight, bias, padding=1)
    for threads in (1, 2, 8):
        with nbconv.num_threads(threads):
            layer(x)

    def launch(*_: Any, **__: Any) -> None:
        raise AssertionError("a small call went the usual way")

    monkeypatch.setattr(ready, "launch_plan", launch)
    for threads in (1, 2, 8):
        with nbconv.num_threads(threads):
            assert_equal(layer(x), expected[0])
            assert_equal(nbconv.conv1d(x, weight, bias, padding=1), expected[1])


@only_compiled
@pytest.mark.parametrize("case", [LONGER, PLACED], ids=("longer", "placed"))
def test_one_thread_calls_directly(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = arrays_of(case)
    layer = nbconv.Conv1d(weight, bias, **case.params)

    def launch(*_: Any, **__: Any) -> None:
        raise AssertionError("a call of one thread went the usual way")

    with nbconv.num_threads(1):
        expected = layer(x), nbconv.conv1d(x, weight, bias, **case.params)
        monkeypatch.setattr(ready, "launch_plan", launch)
        assert_equal(layer(x), expected[0])
        assert_equal(nbconv.conv1d(x, weight, bias, **case.params), expected[1])


@only_compiled
@pytest.mark.parametrize("byte", [0, 4, 6], ids=("aligned", "across vectors", "across numbers"))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("channels", "period"), [(512, 2048), (1024, 4096), (544, 64)])
def test_depthwise_outputs_lie_beside_x(channels: int, period: int, threads: int, byte: int) -> None:
    case = Case("conv1d", (1, 200, channels), (channels, 1, 3), {"padding": 1, "groups": channels})
    plain, weight, bias = arrays_of(case, np.float32, real_numbers)
    memory = np.zeros(plain.nbytes + byte, np.uint8)
    x = np.ndarray(plain.shape, plain.dtype, memory, byte)
    x[...] = plain
    layer, shift = nbconv.Conv1d(weight, bias, **case.params), period // 2 if period > 64 else 0
    with nbconv.num_threads(threads):
        first = layer(x)
        for y in layer(x), layer(x):
            assert_equal(y, first)
            assert y.flags.carray
            assert (x.ctypes.data + shift - y.ctypes.data) % period < y.itemsize


@only_compiled
@pytest.mark.parametrize("threads", [1, 2])
def test_large_outputs_begin_with_a_line_of_the_cache(threads: int) -> None:
    x, weight, bias = arrays_of(Case("conv1d", (1, 3000, 8), (24, 8, 1)), np.float32, real_numbers)
    layer = nbconv.Conv1d(weight, bias)
    with nbconv.num_threads(threads):
        first = layer(x), nbconv.conv1d(x, weight, bias)
        for _ in range(3):
            for before, y in zip(first, (layer(x), nbconv.conv1d(x, weight, bias)), strict=True):
                assert_equal(y, before)
                assert y.flags.carray
                assert y.ctypes.data % 64 == 0


@pytest.mark.parametrize("case", [TINY, LONGER, PLACED], ids=("tiny", "longer", "placed"))
def test_nothing_is_kept_and_nothing_is_lost(case: Case) -> None:
    x, weight, bias = arrays_of(case)
    layer = nbconv.Conv1d(weight, bias, **case.params)
    layer(x)
    nbconv.conv1d(x, weight, bias, **case.params)
    counts = [sys.getrefcount(array) for array in (x, weight, bias)]
    for _ in range(5):
        y = layer(x), nbconv.conv1d(x, weight, bias, **case.params)
    assert counts == [sys.getrefcount(array) for array in (x, weight, bias)]
    references = [weakref.ref(array) for array in (layer.weight, *y)]
    del layer, weight, y
    gc.collect()
    assert not any(reference() is not None for reference in references)


def test_results_outlive_the_layer() -> None:
    x, weight, bias = arrays_of(TINY)
    layer = nbconv.Conv1d(weight, bias, padding=1)
    expected, y = layer(x), layer(x)
    del layer
    gc.collect()
    assert_equal(y, expected)


def test_weights_that_become_infinite_are_noticed() -> None:
    """A transposed convolution never multiplies a weight by a zero that is not there, whatever it did before."""
    x, weight = np.ones((1, 4, 2), np.float32), np.ones((2, 3, 3), np.float32)
    for value in (1, 1, np.inf, np.inf, 2):
        weight[0, 0, 0] = value
        expected = nbconv.conv_transpose1d(x.astype(float), weight.astype(float), stride=2)
        assert_equal(nbconv.conv_transpose1d(x, weight, stride=2), expected)
        assert not np.isnan(expected).any()


@pytest.mark.parametrize("mistake", [1.0, np.int64(1), [1], (1.0,)], ids=repr)
def test_equal_parameters_of_other_types_are_looked_at(mistake: Any) -> None:
    """What equals 1, or cannot be a key, gets the answer of a first call."""
    x, weight, _ = arrays_of(TINY)

    def answer() -> Any:
        try:
            return nbconv.conv1d(x, weight, padding=1, stride=mistake).tolist()
        except (TypeError, ValueError) as error:
            return str(error)

    before = answer()
    nbconv.conv1d(x, weight, padding=1, stride=1)
    nbconv.conv1d(x, weight, padding=1, stride=1)
    assert answer() == before


@pytest.mark.parametrize(
    "case",
    [Case("conv1d", (1, 16, 6), (8, 6, 3), {"padding": 1}), Case("conv1d", (1, 600, 23), (45, 23, 3), {"padding": 1})],
    ids=("one after the other", "side by side"),
)
def test_threads_call_at_once(case: Case) -> None:
    """Those that hold the interpreter's lock share one scratch; others have their own."""
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    layer = nbconv.Conv1d(weight, bias, padding=1)
    inputs = [x * scale for scale in range(8)]
    expected = [layer(one) for one in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        def results() -> list[Array]:
            return [layer(inputs[number]), nbconv.conv1d(inputs[number], weight, bias, padding=1)]

        with nbconv.num_threads(1):
            for _ in range(50 if pure() else 2000):
                wrong.extend(number for y in results() if not (y == expected[number]).all())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
