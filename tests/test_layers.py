"""Layers: what the functions compute, from objects that hold arrays and configuration only."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.cpu import backend
from tests.cases import CASES, Case
from tests.helpers import (
    ALGORITHMS,
    DTYPES,
    LAYERS,
    LAYOUTS,
    Array,
    arrays_of,
    assert_equal,
    assert_guard_intact,
    case_params,
    expected_of,
    guarded,
    real_numbers,
    rng_for,
    whole_numbers,
)

SMOKE = [case for case in CASES if "smoke" in case.tags]
with_ops = pytest.mark.parametrize("op", LAYERS)


def layer_of(case: Case, weight: Array, bias: Array | None, **options: Any) -> Any:
    """Make the layer that computes a case."""
    return LAYERS[case.op](weight, bias, **case.params, **options)


def any_layer(op: str, **options: Any) -> Any:
    """Make a small layer with 6 channels in and 4 out."""
    ndim, transposed = int(op[-2]), "transpose" in op
    weight = whole_numbers(rng_for(op), (6, 4, *(3,) * ndim) if transposed else (4, 6, *(3,) * ndim))
    return LAYERS[op](weight, whole_numbers(rng_for(op, "bias"), (4,)), **options)


def any_input(op: str) -> Array:
    """Make an input for `any_layer`."""
    return whole_numbers(rng_for(op, "x"), (2, *(9,) * int(op[-2]), 6))


# ---- results -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", case_params(CASES))
def test_same_as_the_function(case: Case, dtype: np.dtype[Any]) -> None:
    x, weight, bias = arrays_of(case, dtype)
    expected = expected_of(case, x, weight, bias)
    layer = layer_of(case, weight, bias)
    y = layer(x)
    assert y.dtype == dtype
    assert y.flags.c_contiguous
    assert_equal(y, expected)
    assert layer.output_shape(x.shape) == expected.shape
    assert_equal(layer(x), expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", case_params(SMOKE))
def test_same_bits_as_the_function(case: Case, algorithm: str) -> None:
    x, weight, bias = arrays_of(case, draw=real_numbers)
    options = {"activation": "gelu", "algorithm": algorithm}
    y = layer_of(case, weight, bias, **options)(x)
    assert y.tobytes() == getattr(nbconv, case.op)(x, weight, bias, **case.params, **options).tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", case_params(SMOKE[::4]))
def test_any_layout(case: Case, layout: str) -> None:
    arrays = arrays_of(case)
    x, weight, bias = (None if a is None else LAYOUTS[layout](a) for a in arrays)
    assert_equal(layer_of(case, weight, bias)(x), expected_of(case, *arrays))


@with_ops
def test_out(op: str) -> None:
    layer, x = any_layer(op), any_input(op)
    expected = layer(x)
    buffer, out = guarded(expected.shape, np.float32)
    assert layer(x, out=out) is out
    assert_equal(out, expected)
    assert_guard_intact(buffer, out)


@with_ops
def test_any_input_length_after_another(op: str) -> None:
    layer = any_layer(op, padding=1)
    for size in (9, 4, 30, 1, 9):
        x = whole_numbers(rng_for(op, size), (2, *(size,) * int(op[-2]), 6))
        case = Case(op, x.shape, layer.weight.shape, {"padding": 1})
        assert_equal(layer(x), expected_of(case, x, layer.weight, layer.bias))


@with_ops
def test_weights_are_packed_once(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = any_layer(op), any_input(op)
    expected = layer(x)

    def pack(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were laid out again by a call")

    monkeypatch.setattr(backend, "keep_weights", pack)
    monkeypatch.setattr(backend, "prepare_weights", pack)
    monkeypatch.setattr(backend, "pack", pack)
    assert_equal(layer(x), expected)


@with_ops
def test_later_changes_of_the_arrays_are_not_seen(op: str) -> None:
    ndim, transposed = int(op[-2]), "transpose" in op
    shape = (6, 4, *(3,) * ndim) if transposed else (4, 6, *(3,) * ndim)
    weight, bias, x = np.ones(shape, np.float32), np.ones(4, np.float32), any_input(op)
    layer = LAYERS[op](weight, bias)
    expected = layer(x)
    weight[...], bias[...] = 5, 7
    assert_equal(layer(x), expected)


# ---- objects -------------------------------------------------------------------------------------------------------


@with_ops
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_compute_the_same(op: str, copied: Any) -> None:
    layer, x = any_layer(op, stride=2, padding=1, activation=("leaky_relu", 0.5)), any_input(op)
    other = copied(layer)
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)
    assert other(x).tobytes() == layer(x).tobytes()


def test_pickles_hold_the_weights_but_once() -> None:
    layer = nbconv.Conv1d(np.ones((64, 64, 9), np.float32))
    assert len(pickle.dumps(layer)) < 1.1 * layer.weight.nbytes + 2000


@with_ops
def test_repr_reads_like_the_call(op: str) -> None:
    name = LAYERS[op].__name__
    plain = repr(any_layer(op))
    assert plain == f"{name}(weight=<float32 {any_layer(op).weight.shape}>, bias=<float32 (4,)>)"
    text = repr(any_layer(op, stride=2, padding="same", activation="relu"))
    assert text.startswith(f"{name}(")
    assert text.endswith(", stride=2, padding='same', activation='relu')")


@with_ops
def test_repr_without_bias_names_none(op: str) -> None:
    assert "bias" not in repr(LAYERS[op](any_layer(op).weight))


@with_ops
def test_holds_its_arrays(op: str) -> None:
    ndim = int(op[-2])
    layer = any_layer(op)
    assert layer.weight.shape == ((6, 4) if "transpose" in op else (4, 6)) + (3,) * ndim
    assert layer.bias.shape == (4,)


@with_ops
def test_output_shape_refuses_what_the_call_refuses(op: str) -> None:
    layer, name = any_layer(op), LAYERS[op].__name__
    ndim = int(op[-2])
    for shape in ((2, *(9,) * ndim, 5), (6,), (1, 1, *(9,) * ndim, 6)):
        with pytest.raises(ValueError, match=f"^{name}: ") as from_shape:
            layer.output_shape(shape)
        with pytest.raises(ValueError, match=f"^{name}: ") as from_call:
            layer(np.ones(shape, np.float32))
        assert str(from_shape.value) == str(from_call.value)


@with_ops
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"stride": 0}, "stride"),
        ({"dilation": 0}, "dilation"),
        ({"padding": "full"}, "padding"),
        ({"groups": 5}, "groups"),
        ({"activation": "swish"}, "activation"),
        ({"algorithm": "fft"}, "algorithm"),
        ({"bias": np.ones(3, np.float32)}, "bias"),
        ({"weight": np.ones((4, 4), np.float32)}, "weight"),
    ],
)
def test_refused_at_construction(op: str, options: dict[str, Any], name: str) -> None:
    arguments = {"weight": any_layer(op).weight, **options}
    with pytest.raises(ValueError, match=f"^{LAYERS[op].__name__}: ") as caught:
        LAYERS[op](**arguments)
    assert name in str(caught.value)


@with_ops
def test_types_refused_at_construction_and_at_the_call(op: str) -> None:
    name, weight = LAYERS[op].__name__, any_layer(op).weight
    with pytest.raises(TypeError, match=f"^{name}: weight"):
        LAYERS[op](weight.astype(np.int32))
    with pytest.raises(TypeError, match=f"^{name}: weight must be a NumPy array"):
        LAYERS[op](weight.tolist())
    with pytest.raises(TypeError, match=f"^{name}: weight has dtype float32, bias has dtype float64"):
        LAYERS[op](weight, np.ones(4))
    with pytest.raises(TypeError, match=f"^{name}: x has dtype float64, weight has dtype float32"):
        LAYERS[op](weight)(any_input(op).astype(np.float64))
    with pytest.raises(TypeError, match=f"^{name}: x"):
        LAYERS[op](weight)(any_input(op).tolist())


# ---- random --------------------------------------------------------------------------------------------------------


@with_ops
@pytest.mark.parametrize("groups", [1, 4])
def test_random_is_uniform_within_pytorchs_bounds(op: str, groups: int) -> None:
    ndim, transposed = int(op[-2]), "transpose" in op
    layer = LAYERS[op].random(32, 64, 3, rng=np.random.default_rng(0), groups=groups, stride=2)
    assert type(layer) is LAYERS[op]
    first, second = (32, 64 // groups) if transposed else (64, 32 // groups)
    assert layer.weight.shape == (first, second, *(3,) * ndim)
    assert layer.bias.shape == (64,)
    bound = 1 / math.sqrt(second * 3**ndim)  # PyTorch's fan-in is weight.shape[1] * taps, transposed or not
    for array in (layer.weight, layer.bias):
        assert array.dtype == np.float32
        assert np.abs(array).max() <= bound
        assert np.abs(array).max() > 0.9 * bound
        assert abs(array.mean()) < bound / 4
    size = 5
    x = real_numbers(rng_for(op), (1, *(size,) * ndim, 32))
    assert layer(x).shape == (1, *((2 * size + 1 if transposed else 2),) * ndim, 64)


@with_ops
def test_random_follows_its_generator(op: str) -> None:
    one, same = (LAYERS[op].random(2, 3, 3, rng=np.random.default_rng(7)) for _ in range(2))
    rng = np.random.default_rng(7)
    first, second = (LAYERS[op].random(2, 3, 3, rng=rng) for _ in range(2))
    assert_equal(one.weight, same.weight)
    assert_equal(one.weight, first.weight)
    assert (first.weight != second.weight).any()


@with_ops
def test_random_options(op: str) -> None:
    kernel = (3, 2)[: int(op[-2])]
    layer = LAYERS[op].random(2, 3, kernel, rng=np.random.default_rng(0), bias=False, activation="relu")
    assert layer.bias is None
    assert layer.weight.shape[2:] == kernel
    assert "activation='relu'" in repr(layer)
    with pytest.raises(ValueError, match="groups"):
        LAYERS[op].random(4, 4, 3, rng=np.random.default_rng(0), groups=3)


# ---- Sequential ----------------------------------------------------------------------------------------------------


def upscaler() -> nbconv.Sequential:
    """Two doublings: C to 2C channels, then a frame of 2C read as two of C."""
    rng = np.random.default_rng(0)
    return nbconv.Sequential(
        nbconv.Conv1d.random(3, 8, 3, rng=rng, padding="same", activation="relu"),
        nbconv.Conv1d.random(8, 5, 4, rng=rng, padding="causal"),
        nbconv.ConvTranspose1d.random(5, 2, 4, rng=rng, stride=2, padding=1),
    )


def test_sequential_calls_one_after_the_other() -> None:
    net, x = upscaler(), real_numbers(rng_for("sequential"), (2, 11, 3))
    y = x
    for layer in net:
        y = layer(y)
    assert net(x).tobytes() == y.tobytes()
    assert net.output_shape(x.shape) == y.shape == (2, 22, 2)
    assert len(net) == 3
    assert net[-1](net[1](net[0](x))).tobytes() == y.tobytes()


def test_sequential_is_an_object_like_the_others() -> None:
    net, x = upscaler(), real_numbers(rng_for("sequential"), (2, 11, 3))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(other) == repr(net)
        assert other(x).tobytes() == net(x).tobytes()
    assert repr(net) == f"Sequential({', '.join(repr(layer) for layer in net)})"


def test_sequential_takes_functions() -> None:
    net = nbconv.Sequential(upscaler()[0], lambda y: y.reshape(len(y), -1, 4), np.negative)
    x = real_numbers(rng_for("functions"), (2, 11, 3))
    np.testing.assert_array_equal(net(x), -upscaler()[0](x).reshape(2, 22, 4))
    with pytest.raises(TypeError, match=r"^Sequential: layer 0 is not callable"):
        nbconv.Sequential(3)
    with pytest.raises(TypeError, match=r"^Sequential: layer 1 does not tell its output shape"):
        net.output_shape(x.shape)


def test_empty_sequential_is_the_identity() -> None:
    x = np.ones((1, 2, 3), np.float32)
    assert nbconv.Sequential()(x) is x
    assert nbconv.Sequential().output_shape((1, 2, 3)) == (1, 2, 3)
    assert repr(nbconv.Sequential()) == "Sequential()"


# ---- threads -------------------------------------------------------------------------------------------------------


def test_one_layer_from_eight_threads_at_once() -> None:
    net = upscaler()
    inputs = [real_numbers(rng_for("threads", i), (1, 5 + i, 3)) for i in range(8)]
    expected = [net(x).tobytes() for x in inputs]
    start = threading.Barrier(8)
    wrong: list[int] = []

    def work(i: int) -> None:
        start.wait()
        wrong.extend(i for _ in range(50) if net(inputs[i]).tobytes() != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


LARGE_FROM_EIGHT_THREADS = """
import threading
import numpy as np
import nbconv
nbconv.set_num_threads(2)
rng = np.random.default_rng(0)
layer = nbconv.Conv1d.random(64, 64, 3, rng=rng)
inputs = [rng.standard_normal((2, 1000 + i, 64), dtype=np.float32) for i in range(8)]
expected = [layer(x).tobytes() for x in inputs]
start = threading.Barrier(8)
right = []
def work(i):
    start.wait()
    right.extend(layer(inputs[i]).tobytes() == expected[i] for _ in range(10))
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(right) == 80 and all(right)
print("exact")
"""


def test_large_calls_from_eight_threads_at_once() -> None:
    """In a process of its own: a threading layer that cannot take it ends the process."""
    environment = {**os.environ, "PYTHONPATH": str(Path(nbconv.__file__).parents[1]), "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", LARGE_FROM_EIGHT_THREADS], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "exact\n", f"exit status {done.returncode}: {done.stderr}"
