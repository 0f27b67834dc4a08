"""The four forward functions on every case, dtype and algorithm, and on every kind of array that users hold."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import nbconv
from nbconv import functional
from nbconv.cpu import backend, plan, reading, tiles
from nbconv.cpu import tables as T
from nbconv.cpu.tiles import blocking
from nbconv.geometry import ConvSpec, Geometry, bind
from tests.cases import CASES, Case, small_perf_cases
from tests.helpers import (
    ALGORITHMS,
    DTYPES,
    LAYERS,
    LAYOUTS,
    Array,
    arrays_of,
    assert_close,
    assert_equal,
    assert_guard_intact,
    case_params,
    expected_of,
    guarded,
    real_numbers,
    rng_for,
    sum_tolerance,
    whole_numbers,
)

ALL = case_params([*CASES, *small_perf_cases()])
SMOKE = case_params([case for case in CASES if "smoke" in case.tags])
FIND_PLAN, PREPARE_WEIGHTS = backend.find_plan, backend.prepare_weights
with_dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
with_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


def run(case: Case, x: Array, weight: Array, bias: Array | None, **options: Any) -> Array:
    """Call the package."""
    return getattr(nbconv, case.op)(x, weight, bias, **case.params, **options)


# ---- the numbers ---------------------------------------------------------------------------------------------------


@with_algorithms
@with_dtypes
@pytest.mark.parametrize("case", ALL)
def test_whole_numbers_are_exact(case: Case, dtype: np.dtype[Any], algorithm: str) -> None:
    x, weight, bias = arrays_of(case, dtype)
    y = run(case, x, weight, bias, algorithm=algorithm)
    assert y.dtype == dtype
    assert y.flags.c_contiguous
    assert y.flags.writeable
    assert_equal(y, expected_of(case, x, weight, bias))


@with_dtypes
@pytest.mark.parametrize("case", ALL)
def test_real_numbers_are_close(case: Case, dtype: np.dtype[Any]) -> None:
    x, weight, bias = arrays_of(case, dtype, real_numbers)
    expected, tolerance = expected_of(case, x, weight, bias), sum_tolerance(case, x, weight, bias)
    for algorithm in ALGORITHMS:
        assert_close(run(case, x, weight, bias, algorithm=algorithm), expected, tolerance, algorithm)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", SMOKE)
def test_asking_ahead_changes_no_number(case: Case, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all weights came from memory, in chunks of few terms: each asks for the next one of its thread."""
    x, weight, bias = arrays_of(case, np.dtype(np.float32))
    always = blocking(x.dtype)._replace(uncached=-1, reduction=8, rows_span=1)
    monkeypatch.setattr(reading, "blocking", lambda dtype: always)
    monkeypatch.setattr(backend, "find_plan", find_new_plan)
    with nbconv.num_threads(threads):
        y = LAYERS[case.op](weight, bias, **case.params)(x)
    assert_equal(y, expected_of(case, x, weight, bias))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", SMOKE)
def test_writing_past_the_caches_changes_no_number(case: Case, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no cache held the outputs: those that begin with a line of memory are written there, others are not."""
    x, weight, bias = arrays_of(case, np.dtype(np.float32))
    never = blocking(x.dtype)._replace(remote=-1)
    monkeypatch.setattr(reading, "blocking", lambda dtype: never)
    monkeypatch.setattr(backend, "find_plan", find_new_plan)
    layer, expected = LAYERS[case.op](weight, bias, **case.params), expected_of(case, x, weight, bias)
    size = expected.size * x.itemsize
    with nbconv.num_threads(threads):
        for past in 0, x.itemsize:
            memory = np.full(size + 128, 0xFF, np.uint8)
            begin = -memory.ctypes.data % 64 + past
            y = memory[begin : begin + size].view(x.dtype).reshape(expected.shape)
            assert_equal(layer(x, out=y), expected)
            assert (memory[:begin] == 0xFF).all()
            assert (memory[begin + size :] == 0xFF).all()


@pytest.mark.parametrize("terms", [64, 8192])
def test_rows_of_any_length_make_one_job(terms: int) -> None:
    """A job reads a chunk of each row; cut by whole rows, many jobs would each read all weights of a long reduction."""
    x = np.zeros((1, 80, terms), np.float32)
    geometry = bind(ConvSpec.of("conv1d"), x.shape, (16, terms, 1), None)
    weights = backend.keep_weights(geometry.spec, np.zeros((16, terms, 1), np.float32))
    with nbconv.num_threads(1):
        assert FIND_PLAN(geometry, x, weights, np.zeros((1, 80, 16), np.float32), "auto", False).jobs == 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("op", "window", "params"),
    [
        ("conv1d", (27,), {"padding": 13}),
        ("conv1d", (40,), {"padding": 13, "stride": 2}),  # too long to slide
        ("conv2d", (5, 5), {"padding": 2}),
        ("conv2d", (5, 5), {"padding": (3, 1), "stride": (1, 2)}),
        ("conv2d", (5, 5), {"padding": ((4, 0), (2, 2)), "stride": (2, 1)}),
        ("conv2d", (5, 5), {"padding": 5, "dilation": (1, 2)}),
        ("conv_transpose2d", (5, 5), {"padding": 2}),
    ],
    ids=str,
)
def test_copies_of_x_change_no_number(
    op: str, window: tuple[int, ...], params: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns of x that share sets of L1 are copied: a whole image for each job, or some lines of it."""
    sizes = (24, 16)[-len(window) :]
    case = Case(op, (2, *sizes, 80), (80, 1, *window), {"groups": 80, **params})
    x, weight, bias = arrays_of(case, np.dtype(np.float32))
    apart = np.zeros((2, *sizes, 1024), x.dtype)[..., 7:87]
    apart[:] = x
    expected, tables, blocks = expected_of(case, x, weight, bias), [], []

    def spy(*arguments: Any) -> plan.Plan:
        made = find_new_plan(*arguments)
        tables.append(made.table)
        return made

    monkeypatch.setattr(backend, "find_plan", spy)
    with nbconv.num_threads(threads):
        for _ in "images", "lines":
            assert_equal(LAYERS[op](weight, bias, **case.params)(apart), expected)
            assert tables[-1][T.COPIED] == 1
            blocks.append(tables[-1][tables[-1][T.PHASES] + T.LINES_PER_BLOCK])
            small = blocking(x.dtype)._replace(panel=20 * int(tables[-1][T.X_STEP_H]))
            monkeypatch.setattr(reading, "blocking", lambda dtype, small=small: small)
    assert op == "conv1d" or blocks[0] == expected.shape[1] > blocks[1]


def find_new_plan(
    geometry: Geometry, x: Array, weights: backend.Weights, y: Array, algorithm: str, again: bool
) -> plan.Plan:  # fmt: skip
    """Plan as `find_plan` does for a first call, and keep nothing."""
    weights.layout.plans.clear()
    made = FIND_PLAN(geometry, x, weights, y, algorithm, again)
    weights.layout.plans.clear()
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ALL)
def test_nothing_is_written_around_out(case: Case, dtype: str) -> None:
    x, weight, bias = arrays_of(case, DTYPES[dtype])
    expected = expected_of(case, x, weight, bias)
    for algorithm in ALGORITHMS:
        buffer, out = guarded(expected.shape, DTYPES[dtype])
        assert run(case, x, weight, bias, out=out, algorithm=algorithm) is out
        assert_equal(out, expected, algorithm)
        assert_guard_intact(buffer, out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ALL)
def test_threads_do_not_change_a_bit(case: Case, dtype: str, restore_threads: None) -> None:
    x, weight, bias = arrays_of(case, DTYPES[dtype], real_numbers)
    results = []
    for threads in (1, 2):
        nbconv.set_num_threads(threads)
        results.append(run(case, x, weight, bias).tobytes())
    assert results[0] == results[1]


# ---- NaN and infinity ----------------------------------------------------------------------------------------------


def with_specials(array: Array, values: tuple[float, ...]) -> Array:
    """Put each value at a place of its own, spread over the array."""
    array = array.copy()
    for i, value in enumerate(values):
        array.flat[(2 * i + 1) * array.size // (2 * len(values))] = value
    return array


NOT_EMPTY = case_params([case for case in CASES if 0 not in case.x_shape + case.weight_shape])


@pytest.mark.parametrize("values", [(np.nan,), (np.inf, -np.inf)], ids=["nan", "inf"])
@pytest.mark.parametrize("case", NOT_EMPTY)
def test_nan_and_inf_in_x_go_where_the_definition_sends_them(case: Case, values: tuple[float, ...]) -> None:
    x, weight, bias = arrays_of(case)
    x = with_specials(x, values)
    expected = expected_of(case, x, weight, bias)
    for algorithm in ALGORITHMS:
        assert_equal(run(case, x, weight, bias, algorithm=algorithm), expected, algorithm)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("case", NOT_EMPTY)
def test_nan_and_inf_in_weight_go_where_the_definition_sends_them(case: Case, value: float) -> None:
    """A padded zero takes part: zero times infinity is NaN. A transposed sum has no padding, so no such NaN."""
    x, weight, bias = arrays_of(case)
    weight = with_specials(weight, (value,))
    expected = expected_of(case, x, weight, bias)
    for algorithm in ALGORITHMS:
        assert_equal(run(case, x, weight, bias, algorithm=algorithm), expected, algorithm)


# ---- the arrays that users hold ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", SMOKE)
def test_any_layout_of_the_inputs(case: Case, layout: str) -> None:
    arrays = arrays_of(case)
    expected = expected_of(case, *arrays)
    x, weight, bias = (None if a is None else LAYOUTS[layout](a) for a in arrays)
    for algorithm in ALGORITHMS:
        assert_equal(run(case, x, weight, bias, algorithm=algorithm), expected, algorithm)
    for array, untouched in zip((x, weight, bias), arrays, strict=True):
        np.testing.assert_array_equal(array, untouched)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "big-endian"])
@pytest.mark.parametrize("case", SMOKE[::3])
def test_any_layout_in_other_dtypes(case: Case, layout: str, dtype: str) -> None:
    arrays = arrays_of(case, DTYPES[dtype])
    x, weight, bias = (None if a is None else LAYOUTS[layout](a) for a in arrays)
    assert_equal(run(case, x, weight, bias), expected_of(case, *arrays))


@pytest.mark.parametrize("axis", range(4))
def test_broadcast_inputs(axis: int) -> None:
    rng = rng_for("broadcast", axis)
    shape = [2, 9, 8, 5]
    shape[axis] = 1
    x = np.broadcast_to(whole_numbers(rng, shape), (2, 9, 8, 5))
    weight = np.broadcast_to(whole_numbers(rng, (1, 5, 3, 1)), (7, 5, 3, 3))
    bias = np.broadcast_to(np.float32(2), (7,))
    case = Case("conv2d", x.shape, weight.shape, {"padding": 1})
    assert_equal(run(case, x, weight, bias), expected_of(case, x, weight, bias))


@pytest.mark.parametrize("kernel", [(3,), (3, 2)])
def test_keras_weights_drop_in_as_a_view(kernel: tuple[int, ...]) -> None:
    ndim, rng = len(kernel), rng_for("keras", kernel)
    x, keras_weight = whole_numbers(rng, (2, *(9, 8)[:ndim], 5)), whole_numbers(rng, (*kernel, 5, 7))
    weight = keras_weight.transpose(ndim + 1, ndim, *range(ndim))
    case = Case(f"conv{ndim}d", x.shape, weight.shape, {"padding": "same"})
    expected = expected_of(case, x, np.ascontiguousarray(weight), None)
    for algorithm in ALGORITHMS:
        assert_equal(run(case, x, weight, None, algorithm=algorithm), expected)


@pytest.mark.parametrize("pays", [False, True], ids=("in place", "packed"))
@pytest.mark.parametrize("op", LAYERS)
def test_one_call_packs_where_that_pays(op: str, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in the order of Keras, which tiles could read in place; a second call goes a shorter way."""
    monkeypatch.setattr(functional, "_ready", {})
    monkeypatch.setattr(tiles, "is_far_slow", lambda: pays)
    sizes, kernel = ((40, 16), (9, 2)) if "2d" in op else ((100,), (18,))
    kept = whole_numbers(rng_for("one call", op), (*kernel, 128, 128))
    weight = kept.transpose(*((-2, -1) if "transpose" in op else (-1, -2)), *range(len(kernel)))
    case = Case(op, (1, *sizes, 128), weight.shape)
    x, _, bias = arrays_of(case)
    expected = expected_of(case, x, np.ascontiguousarray(weight), bias)
    found = []

    def spy(*arguments: Any) -> backend.Weights:
        found.append(PREPARE_WEIGHTS(*arguments))
        return found[-1]

    monkeypatch.setattr(backend, "prepare_weights", spy)
    for _ in range(2):
        assert_equal(run(case, x, weight, bias), expected)
    assert np.shares_memory(found[0].data, weight) == (not pays)


@pytest.mark.parametrize("case", SMOKE[::4])
def test_memory_mapped_inputs(case: Case, tmp_path: Path) -> None:
    x, weight, bias = arrays_of(case)
    if x.size == 0:
        x = np.ones((1, *x.shape[1:]), np.float32)  # an empty file cannot be mapped
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    y = run(case, mapped, weight, bias)
    assert type(y) is np.ndarray
    assert_equal(y, expected_of(case, x, weight, bias))


def test_offsets_beyond_32_bits(tmp_path: Path) -> None:
    """A sparse file: only the few pages that the taps meet are ever read."""
    far, count = 2**31, 50
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(far + count, 1))
    x[:count, 0], x[far:, 0] = np.arange(count), 1000 * np.arange(count)
    y = nbconv.conv1d(x, np.array([[[1, 2]]], np.float32), dilation=far)
    np.testing.assert_array_equal(y[:, 0], 2001 * np.arange(count))
    y = nbconv.conv2d(x.reshape(2, -1, 1)[:, 25:, :], np.array([[[[1], [2]]]], np.float32), stride=(1, far // 2 + 24))
    np.testing.assert_array_equal(y[0, :, 0], [x[25, 0] + 2 * x[far // 2 + 50, 0]])


def compiled_variants() -> int:
    """Count the specialisations of every compiled function in the process."""
    return sum(len(found.signatures) for found in gc.get_objects() if issubclass(type(found), Dispatcher))


@pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="counts what Numba compiles")
def test_layouts_cost_no_compilation() -> None:
    x, weight, bias = (whole_numbers(rng_for(i), shape) for i, shape in enumerate([(2, 9, 5), (4, 5, 3), (4,)]))
    nbconv.conv1d(x, weight, bias)
    nbconv.conv1d(x, LAYOUTS["spaced"](weight), bias)
    before = compiled_variants()
    assert before > 0
    for layout in LAYOUTS.values():
        nbconv.conv1d(layout(x), layout(weight), layout(bias))
    assert compiled_variants() == before


# ---- out= ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("readonly", "big-endian")])
@pytest.mark.parametrize("case", SMOKE)
def test_any_layout_of_out(case: Case, layout: str) -> None:
    x, weight, bias = arrays_of(case)
    expected = expected_of(case, x, weight, bias)
    for algorithm in ALGORITHMS:
        out = LAYOUTS[layout](np.full(expected.shape, np.nan, np.float32))
        assert run(case, x, weight, bias, out=out, algorithm=algorithm) is out
        assert_equal(out, expected, algorithm)


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_out_may_lie_between_the_inputs(op: str) -> None:
    """Channels of one buffer: x in the first, out in the last; interleaved in memory, yet nowhere the same."""
    buffer = whole_numbers(rng_for(op), (2, 20, 11))
    x, out = buffer[..., :5], buffer[..., 5:]
    weight = whole_numbers(rng_for(op, "weight"), (6, 5, 3) if op == "conv1d" else (5, 6, 3))
    case = Case(op, x.shape, weight.shape, {"padding": 1})
    expected = expected_of(case, x, weight, None)
    run(case, x, weight, None, out=out)
    assert_equal(out, expected)


# ---- activations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ALL)
def test_relu_of_every_output(case: Case) -> None:
    x, weight, bias = arrays_of(case)
    expected = np.maximum(expected_of(case, x, weight, bias), 0)
    for algorithm in ALGORITHMS:
        y = run(case, x, weight, bias, algorithm=algorithm, activation="relu")
        assert_equal(y, expected, algorithm)
