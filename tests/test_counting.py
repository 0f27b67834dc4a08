"""Exact counts against an interpreter that convolves number by number."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import nbconv
from nbconv.counting import ACTIVATION_COSTS, OperationCount, count_activation, count_operations
from nbconv.geometry import Axis
from nbconv.incidence import Incidence, axis_incidence
from nbconv.options import ACTIVATIONS
from tests import reference
from tests.cases import CASES, Case
from tests.counting_calls import call_of, calls, count
from tests.counting_oracle import Call, Ran, given_number, interpret
from tests.helpers import case_params

GRADIENTS = ("x", "weight", "bias")


def seen(ran: Ran, *targets: str) -> OperationCount:
    return sum((OperationCount(*ran.tallies[target]) for target in targets), OperationCount())


SMALL_CASES = [case for case in CASES if case.macs <= 20_000]


# ---- exact counts --------------------------------------------------------------------------------------------------


def check_counts(call: Call) -> None:
    ran = interpret(call)
    if ran is None:
        with pytest.raises(ValueError, match=f"^{call.op}: "):
            count(call)
        return
    assert count(call, bias=call.bias) == seen(ran, "output")
    backward = f"{call.op}_backward"
    for target in GRADIENTS:
        assert count(call, backward, needs=(target,)) == seen(ran, target), target
    assert count(call, backward) == seen(ran, *GRADIENTS)


@settings(max_examples=4000)
@given(calls(ndim=1))
def test_count_equals_what_the_interpreter_saw_1d(call: Call) -> None:
    check_counts(call)


@settings(max_examples=2000)
@given(calls(ndim=2))
def test_count_equals_what_the_interpreter_saw_2d(call: Call) -> None:
    check_counts(call)


@pytest.mark.parametrize("case", case_params(SMALL_CASES))
def test_count_of_case(case: Case) -> None:
    ran = interpret(call_of(case))
    arguments = (case.x_shape, case.weight_shape)
    if ran is None:
        with pytest.raises(ValueError, match=f"^{case.op}: "):
            count_operations(case.op, *arguments, **case.params)
        return
    assert count_operations(case.op, *arguments, bias=case.bias, **case.params) == seen(ran, "output")
    assert count_operations(f"{case.op}_backward", *arguments, **case.params) == seen(ran, *GRADIENTS)


@pytest.mark.parametrize("case", case_params([case for case in SMALL_CASES if "smoke" in case.tags]))
def test_interpreter_convolves(case: Case) -> None:
    call = call_of(case)
    ran = interpret(call)
    assert ran is not None

    def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.array([given_number(name, index) for index in np.ndindex(shape)], dtype=int).reshape(shape)

    x, weight = array("x", call.x_shape), array("weight", call.weight_shape)
    bias = array("bias", (call.c_out,)) if call.bias else None
    y = np.zeros(ran.output_shape, dtype=int)
    for index, number in ran.sums["output"].items():
        y[index] = number.value
    np.testing.assert_array_equal(y, reference.run(case.op, x, weight, bias, **case.params))

    def paired(target: str, name: str) -> int:
        return sum(number.value * given_number(name, index) for index, number in ran.sums[target].items())

    # <dx, x> == <dw, w>, and both are <y, dy> less what the bias adds.
    from_bias = paired("bias", "bias") if call.bias else 0
    assert paired("x", "x") == paired("weight", "weight") == paired("output", "grad_output") - from_bias


TABLE = [  # (C_in, C_out, L, k, s, p, d, op, g, bias), taps met by each output, exact total, moduleprofiler
    ((1, 1, 2, 3, 1, 0, 1, 0, 1, False), [1, 2, 2, 1], 8, 14),
    ((1, 1, 2, 3, 1, 0, 1, 0, 1, True), [1, 2, 2, 1], 12, 18),
    ((4, 4, 3, 3, 1, 2, 1, 0, 2, False), [3], 44, 44),
    ((1, 1, 3, 2, 4, 0, 1, 0, 1, False), [1, 1, 0, 0, 1, 1, 0, 0, 1, 1], 6, 16),
    ((1, 1, 4, 3, 2, 0, 2, 0, 1, False), [1, 0, 2, 0, 3, 0, 2, 0, 3, 0, 1], 18, 34),
    ((2, 3, 5, 3, 2, 1, 1, 1, 1, True), [1, 2, 1, 2, 1, 2, 1, 2, 1, 1], 168, 264),
    ((512, 256, 32, 16, 8, 4, 1, 0, 1, True), None, 132_120_576, 602_931_200),
]


@pytest.mark.parametrize(("row", "taps", "exact", "published"), TABLE)
def test_worked_table(row: tuple[Any, ...], taps: list[int] | None, exact: int, published: int) -> None:
    c_in, c_out, size, k, s, p, d, extra, g, bias = row
    layer: dict[str, Any] = {"x_shape": (1, size, c_in), "weight_shape": (c_in, c_out // g, k), "bias": bias}
    layer |= {"stride": s, "padding": p, "dilation": d, "output_padding": extra, "groups": g}
    assert count_operations("conv_transpose1d", **layer).total == exact
    assert count_operations("conv_transpose1d", **layer, convention="moduleprofiler") == published
    if taps is not None:
        met = axis_incidence(Axis(size, k, s, d, p, p, len(taps)), transposed=True)
        assert (met.pairs, met.outputs) == (sum(taps), sum(t > 0 for t in taps))


def test_worked_table_splits() -> None:
    count = count_operations("conv_transpose1d", (1, 2, 1), (1, 1, 3))
    assert (count.multiplications, count.additions) == (6, 2)
    count = count_operations("conv_transpose1d", (1, 3, 4), (4, 2, 3), padding=2, groups=2)
    assert (count.multiplications, count.additions) == (24, 20)


@given(calls(ndim=1) | calls(ndim=2))
def test_gradient_of_x_is_the_transposed_convolution(call: Call) -> None:
    if call.transposed or call.padding_mode != "zeros" or isinstance(call.padding, str):
        return
    ran = interpret(call)
    if ran is None:
        return
    grad_shape = ran.output_shape
    # What the stride left over at the far end of x is the output padding of the way back.
    spans = zip(call.sizes, call.kernel, call.stride, call.dilation, call.padding, grad_shape[1:-1], strict=True)
    back = [(o - 1) * s + d * (k - 1) + 1 - lo - hi for size, k, s, d, (lo, hi), o in spans]
    extra = tuple(size - length for size, length in zip(call.sizes, back, strict=True))
    if 0 in call.sizes or min(back) < 0:
        return
    op = call.op.replace("conv", "conv_transpose")
    params = {**call.params, "output_padding": extra}
    del params["padding_mode"]
    forward = count_operations(op, grad_shape, call.weight_shape, **params)
    assert forward == count(call, f"{call.op}_backward", needs=("x",))


def test_whole_numbers_of_any_size_at_once() -> None:
    big = 10**15
    started = time.perf_counter()
    count = count_operations("conv_transpose1d", (big, big, big), (big, big, 3), stride=2, padding=((1, 0),), bias=True)
    assert time.perf_counter() - started < 0.5
    # Only tap 0 of the first input is cropped.
    assert count.multiplications == count.additions == big**3 * (3 * big - 1)
    assert all(type(number) is int for number in vars(count).values())
    wide = count_operations("conv2d", (1, big, big, 1), (1, 1, 3, 3), padding="same")
    assert wide == OperationCount((3 * big - 2) ** 2, (3 * big - 2) ** 2 - big**2)


def test_numpy_integers_do_not_overflow() -> None:
    big = np.int32(2**30)
    count = count_operations("conv1d", np.array([big, 9, big]), np.array([8, big, 3]))  # type: ignore[arg-type]
    assert count.multiplications == 2**60 * 8 * 21
    assert type(count.multiplications) is int


def test_unbatched_counts_as_one_sample() -> None:
    assert count_operations("conv1d", (9, 4), (6, 4, 3)) == count_operations("conv1d", (1, 9, 4), (6, 4, 3))


def test_padding_modes_meet_data_everywhere() -> None:
    axis = Axis(size=5, taps=3, stride=1, dilation=1, lo=2, hi=2, out=7)
    assert axis_incidence(axis, False, "zeros") == Incidence(pairs=15, outputs=7, inputs=5, taps=3)
    for mode in ("reflect", "replicate", "circular"):
        assert axis_incidence(axis, False, mode) == Incidence(pairs=21, outputs=7, inputs=5, taps=3)


def test_counts_add_up() -> None:
    one, two = OperationCount(1, 2, 3, 4), OperationCount(10, 20, 30, 40)
    assert one + two == OperationCount(11, 22, 33, 44)
    assert (one + two).total == 33
    assert repr(one) == "OperationCount(multiplications=1, additions=2, comparisons=3, activation_operations=4)"


# ---- activations ---------------------------------------------------------------------------------------------------


def test_every_activation_has_its_cost() -> None:
    assert ACTIVATION_COSTS.keys() == ACTIVATIONS.keys()


def test_activation_is_counted_apart() -> None:
    plain = count_operations("conv1d", (2, 7, 3), (4, 3, 3))
    for name, (comparisons, operations) in ACTIVATION_COSTS.items():
        count = count_operations("conv1d", (2, 7, 3), (4, 3, 3), activation=name)
        assert (count.multiplications, count.additions, count.total) == (plain.multiplications, plain.additions, 680)
        assert (count.comparisons, count.activation_operations) == (40 * comparisons, 40 * operations)


def test_own_activation_is_one_operation() -> None:
    assert count_activation(lambda v: v * v, 40) == OperationCount(activation_operations=40)
    assert count_activation(None, 40) == OperationCount()


def test_activation_with_its_parameter() -> None:
    assert count_activation(("leaky_relu", 0.2), 40) == count_activation("leaky_relu", 40)


# ---- layers --------------------------------------------------------------------------------------------------------


def small_network() -> nbconv.Sequential:
    return nbconv.Sequential(
        nbconv.Conv1d(np.ones((8, 3, 5)), np.ones(8), stride=2, padding="same", activation=("leaky_relu", 0.1)),
        nbconv.Sequential(nbconv.ConvTranspose1d(np.ones((8, 2, 4)), stride=2, padding=1, groups=2)),
        nbconv.Conv1d(np.ones((1, 4, 3)), np.ones(1), padding=1, padding_mode="reflect", activation="relu6"),
    )


def test_layer_counts_itself() -> None:
    layer = small_network()[0]
    expected = count_operations(
        "conv1d", (2, 11, 3), (8, 3, 5), stride=2, padding="same", bias=True, activation="leaky_relu"
    )
    assert layer.count_operations((2, 11, 3)) == expected
    assert expected.comparisons == expected.activation_operations == 2 * 6 * 8
    image = nbconv.ConvTranspose2d(np.ones((4, 2, 3, 2)), stride=(2, 1), output_padding=(1, 0))
    assert image.count_operations((5, 6, 4)) == count_operations(
        "conv_transpose2d", (5, 6, 4), (4, 2, 3, 2), stride=(2, 1), output_padding=(1, 0)
    )


def test_network_counts_its_layers() -> None:
    net = small_network()
    expected = [
        net[0].count_operations((2, 11, 3)),
        count_operations("conv_transpose1d", (2, 6, 8), (8, 2, 4), stride=2, padding=1, groups=2),
        count_operations(
            "conv1d", (2, 12, 4), (1, 4, 3), padding=1, padding_mode="reflect", bias=True, activation="relu6"
        ),
    ]
    assert net.count_operations((2, 11, 3)) == sum(expected, OperationCount())
    assert nbconv.Sequential().count_operations((2, 11, 3)) == OperationCount()


def test_layers_refuse_what_they_cannot_count() -> None:
    with pytest.raises(TypeError, match=r"^Sequential: layer 1 does not count its operations: <ufunc 'negative'>$"):
        nbconv.Sequential(small_network(), np.negative).count_operations((2, 11, 3))
    with pytest.raises(ValueError, match=r"^Conv1d: x has 4 channels, weight expects 3"):
        small_network().count_operations((2, 11, 4))
    with pytest.raises(TypeError, match=r"^Conv1d: x_shape must be a whole number; got 11\.0"):
        small_network().count_operations((2, 11.0, 3))  # type: ignore[arg-type]


# ---- errors --------------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("conv3d", {}, ValueError, r"^op must be one of conv1d, .*; got 'conv3d'$"),
    ("conv1d", {"output_padding": 1}, ValueError, "^conv1d: output_padding is for transposed convolutions; got 1$"),
    ("conv1d", {"needs": ("x",)}, ValueError, "^conv1d: needs is for backward operations"),
    (
        "conv1d_backward",
        {"needs": ("y",)},
        ValueError,
        r"^conv1d_backward: needs must be .*x, weight, bias; got \('y',\)$",
    ),
    ("conv1d_backward", {"needs": "x"}, ValueError, "^conv1d_backward: needs must be a tuple"),
    ("conv1d_backward", {"activation": "relu"}, ValueError, "^conv1d_backward: activation belongs to the forward pass"),
    ("conv1d_backward", {"convention": "moduleprofiler"}, ValueError, "^conv1d_backward: moduleprofiler publishes no"),
    ("conv1d", {"convention": "mine"}, ValueError, "^conv1d: convention must be one of exact, .*; got 'mine'$"),
    ("conv1d", {"activation": "rely"}, ValueError, "^conv1d: activation must be None or one of relu, .*; got 'rely'$"),
    ("conv1d", {"bias": np.ones(4)}, TypeError, "^conv1d: bias must be True or False, .*; got ndarray$"),
    ("conv1d", {"x_shape": (1, 2.5, 3)}, TypeError, r"^conv1d: x_shape must be a whole number; got 2.5 \(float\)$"),
    ("conv1d", {"x_shape": (1, -2, 3)}, ValueError, "^conv1d: x_shape must be at least 0; got -2$"),
]


@pytest.mark.parametrize(("op", "change", "error", "text"), WRONG)
def test_errors(op: str, change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        count_operations(op, **{"x_shape": (1, 9, 3), "weight_shape": (4, 3, 3), **change})


REFUSED: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("conv1d", (1, 9, 6), (4, 4, 3), {"groups": 2}),
    ("conv1d", (9,), (4, 4, 3), {}),
    ("conv1d", (1, 9, 4), (4, 4, 3, 3), {}),
    ("conv1d", (1, 9, 4), (4, 4, 0), {}),
    ("conv1d", (1, 2, 4), (4, 4, 3), {"dilation": 2}),
    ("conv1d", (1, 9, 4), (5, 2, 3), {"groups": 2}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"stride": 0}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"stride": 1.5}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"padding": (1, 2)}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"padding": -1}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"padding": "full"}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"padding": 9, "padding_mode": "reflect"}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"padding_mode": "mirror"}),
    ("conv1d", (1, 9, 4), (4, 4, 3), {"activation": ("relu", 2)}),
    ("conv2d", (1, 9, 9, 4), (4, 4, 3, 3), {"dilation": (1, 2, 3)}),
    ("conv2d", (1, 9, 9, 4), (4, 4, 3, 3), {"padding": "causal"}),
    ("conv_transpose1d", (1, 9, 4), (5, 4, 3), {}),
    ("conv_transpose1d", (1, 9, 4), (4, 4, 3), {"output_padding": 1}),
    ("conv_transpose1d", (1, 2, 4), (4, 4, 3), {"padding": 5}),
    ("conv_transpose2d", (1, 9, 9, 3), (3, 4, 3, 3), {"groups": 2}),
]


@pytest.mark.parametrize(("op", "x_shape", "weight_shape", "params"), REFUSED)
def test_errors_are_those_of_the_convolution(
    op: str, x_shape: tuple[int, ...], weight_shape: tuple[int, ...], params: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, TypeError)) as convolution:
        getattr(nbconv, op)(np.zeros(x_shape), np.zeros(weight_shape), **params)
    with pytest.raises(type(convolution.value)) as counting:
        nbconv.count_operations(op, x_shape, weight_shape, **params)
    assert str(counting.value) == str(convolution.value)
