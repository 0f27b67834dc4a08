"""The public functions in the CUDA simulator: all tagged cases, gradients by the kernels without tiles; exact."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

import nbconv
from tests import reference
from tests.cases import CASES, Case
from tests.cuda.lanes import needs_simulator
from tests.helpers import (
    DTYPES,
    LAYOUTS,
    OPS,
    Array,
    arrays_of,
    assert_close,
    assert_equal,
    assert_guard_intact,
    case_params,
    expected_of,
    guarded,
    real_numbers,
    sum_tolerance,
    whole_numbers,
)
from tests.test_backward import data_of, oracle

needs_simulator()

from nbconv.cuda import gemm_tiles, gradients, plan, split_reduction  # noqa: E402
from nbconv.cuda.driver import cuda, simulated_array  # noqa: E402
from nbconv.cuda.rim import padded  # noqa: E402
from tests.cuda.checks.problems import geometry_of  # noqa: E402

TAGGED = [case for case in CASES if case.tags & {"smoke", "edge"}]
# A number of the simulator takes microseconds. What is too large here runs below, with the kernels chosen for it.
AFFORDABLE = [case for case in TAGGED if case.macs <= 60_000 and math.prod(case.weight_shape) <= 2000]
SMOKE = [case for case in AFFORDABLE if "smoke" in case.tags]
MODES = [case for case in AFFORDABLE if case.params.get("padding_mode", "zeros") != "zeros"]


@pytest.fixture(autouse=True)
def general_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the tiled kernels out, whose blocks of hundreds of threads have tests of their own."""
    if "chosen_kernels" in request.fixturenames:
        return
    monkeypatch.setattr(plan, "CHOICES", tuple(one for one in plan.CHOICES if "tile" not in one.__name__))
    monkeypatch.setattr(gradients, "tiles_run", lambda device: False)
    plan.make_plan.cache_clear()
    gradients._weight_launches.cache_clear()


def there(array: Array | None) -> Any:
    """Bring an array to the device as it lies in memory."""
    return None if array is None else simulated_array(array.copy(order="K"))


def on_device(case: Case, x: Array, weight: Array, bias: Array | None, **options: Any) -> Array:
    """Call the package with arrays on the device."""
    y = getattr(nbconv, case.op)(there(x), there(weight), there(bias), **case.params, **options)
    return np.asarray(y.copy_to_host())


# ---- forward -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", case_params(AFFORDABLE))
def test_forward(case: Case) -> None:
    arrays = arrays_of(case)
    assert_equal(on_device(case, *arrays), expected_of(case, *arrays))


@pytest.fixture
def chosen_kernels() -> None:
    """Let every product take the kernel that a device would run."""
    plan.make_plan.cache_clear()


@pytest.mark.usefixtures("chosen_kernels")
@pytest.mark.parametrize("case", case_params([case for case in TAGGED if gemm_tiles.covers(padded(geometry_of(case)))]))
def test_forward_of_chosen_tiles(case: Case) -> None:
    arrays = arrays_of(case)
    assert_equal(on_device(case, *arrays), expected_of(case, *arrays))


@pytest.mark.usefixtures("chosen_kernels")
@pytest.mark.parametrize(
    "case",
    case_params(
        [
            Case("conv1d", (1, 21, 24), (12, 24, 5), {"padding": 2}),
            Case("conv1d", (2, 9, 12), (24, 6, 12), {"padding": 7, "groups": 2, "padding_mode": "circular"}),
            Case("conv_transpose1d", (1, 20, 32), (32, 40, 5), {"stride": 2}),  # a slice of one phase is empty
        ]
    ),
)
def test_reductions_in_slices(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_reduction, "LEAST_STEPS", 32)
    launched, run = [], plan.Launch.__call__
    monkeypatch.setattr(plan.Launch, "__call__", lambda self, *given: (launched.append(self.kernel), run(self, *given)))
    x, weight, bias = arrays_of(case)
    expected = expected_of(case, x, weight, bias)
    residual = whole_numbers(np.random.default_rng(0), expected.shape)
    y = on_device(case, x, weight, bias, residual=there(residual), activation="relu")
    assert_equal(y, np.maximum(expected + residual, 0))
    assert launched[-1] is split_reduction.sum_slices
    plan.make_plan.cache_clear()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_padding_is_laid_down(mode: str, dtype: str) -> None:
    pads = ((2, 1), (0, 3))
    case = Case("conv2d", (2, 3, 4, 5), (8, 5, 2, 3), {"padding": pads, "padding_mode": mode})
    x, _, _ = arrays_of(case, DTYPES[dtype])
    geometry = geometry_of(case)
    planned = plan.plan_rim(geometry, padded(geometry, zeros=True), 0)
    assert planned is not None
    target = np.full(planned.size + 1, np.nan, dtype)
    planned.launch(0, there(x.ravel()), simulated_array(target), planned.table, planned.sizes)
    numpy_mode: Any = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    assert_equal(target[:-1].reshape(2, 6, 7, 5), np.pad(x, ((0, 0), *pads, (0, 0)), mode=numpy_mode))
    assert np.isnan(target[-1])


@pytest.mark.usefixtures("chosen_kernels")
def test_who_lays_padding_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(c_in: int = 8, c_out: int = 8, **params: Any) -> tuple[str, bool]:
        geometry = geometry_of(Case("conv1d", (1, 50, c_in), (c_out, c_in, 3), params))
        made = plan.make_plan(plan.Key(geometry, "float32", None, False, "high", 0, True))
        return made.launch.kernel.py_func.__name__.split("_")[0], made.rim is not None

    assert chosen(padding=1) == ("ffma", False)
    assert chosen(padding=1, padding_mode="reflect") == ("ffma", True)
    assert chosen(padding_mode="reflect") == ("ffma", False)  # there is none
    assert chosen(3, 12, padding=1) == ("ffma", True)  # runs of 9 numbers
    assert chosen(3, 11, padding=1) == ("ffma", False)
    assert chosen(3, 12) == ("ffma", False)
    assert chosen(3, 12, padding=2, dilation=2) == ("ffma", False)
    monkeypatch.setattr(plan.T, "MOST_NUMBERS", 408)
    plan.make_plan.cache_clear()
    assert chosen(padding=((1, 0),), padding_mode="reflect") == ("ffma", True)
    assert chosen(padding=1, padding_mode="reflect") == ("product", False)
    plan.make_plan.cache_clear()


def test_every_tagged_case_is_run_by_its_kernel() -> None:
    assert not [case for case in TAGGED if case not in AFFORDABLE and not gemm_tiles.covers(padded(geometry_of(case)))]


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float32"])
@pytest.mark.parametrize("case", case_params(SMOKE))
def test_forward_of_every_type(case: Case, dtype: str) -> None:
    arrays = arrays_of(case, DTYPES[dtype])
    assert_equal(on_device(case, *arrays), expected_of(case, *arrays))


@pytest.mark.parametrize("channels", [4, 136])
@pytest.mark.parametrize("length", [1, 9, 21])
@pytest.mark.parametrize(
    "params",
    [
        {"padding": 3},
        {"padding": "same", "stride": 2},
        {"padding": 4, "dilation": 2},
        {"padding": ((12, 6),), "dilation": 6, "stride": 3},
        {"padding": 3, "padding_mode": "replicate"},
        {"padding": "causal", "padding_mode": "replicate", "stride": 2},
    ],
    ids=str,
)
def test_depthwise(params: dict[str, Any], length: int, channels: int) -> None:
    case = Case("conv1d", (1, length, channels), (channels, 1, 4), {**params, "groups": channels})
    arrays = arrays_of(case)
    assert_equal(on_device(case, *arrays), expected_of(case, *arrays))


@pytest.mark.parametrize(
    "case",
    case_params(
        [
            Case("conv2d", (2, 5, 11, 8), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
            Case("conv2d", (1, 6, 9, 8), (8, 1, 3, 2), {"padding": (2, 1), "stride": 2, "groups": 8}),
            Case("conv2d", (1, 5, 6, 8), (8, 1, 3, 3), {"padding": 2, "padding_mode": "reflect", "groups": 8}),
            Case("conv2d", (1, 5, 6, 8), (8, 1, 3, 3), {"padding": 3, "padding_mode": "circular", "groups": 8}),
            Case("conv2d", (1, 5, 6, 8), (8, 1, 3, 3), {"padding": 2, "dilation": (1, 3), "groups": 8}),
            Case("conv_transpose1d", (2, 9, 8), (8, 1, 5), {"stride": 3, "padding": 1, "groups": 8}),
            Case("conv_transpose2d", (1, 4, 5, 8), (8, 1, 3, 4), {"stride": (2, 1), "groups": 8}),
        ]
    ),
)
def test_depthwise_forward_and_back(case: Case) -> None:
    arrays = arrays_of(case)
    assert_equal(on_device(case, *arrays), expected_of(case, *arrays))
    check_gradients(case, np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_finishes_its_tiles(dtype: str) -> None:
    case = Case("conv1d", (1, 11, 8), (8, 1, 3), {"padding": 1, "groups": 8})
    x, weight, bias = arrays_of(case, DTYPES[dtype])
    residual = whole_numbers(np.random.default_rng(0), (1, 11, 8), DTYPES[dtype])
    y = on_device(case, x, weight, bias, residual=there(residual), activation=("leaky_relu", 0.5))
    total = expected_of(case, x, weight, bias) + residual.astype(float)
    assert_equal(y, np.where(total < 0, total / 2, total))


@pytest.mark.parametrize("dtype", DTYPES)
def test_real_numbers_are_rounded_once(dtype: str) -> None:
    case = Case("conv1d", (1, 9, 5), (3, 5, 3), {"padding": 1})
    x, weight, bias = arrays_of(case, DTYPES[dtype], real_numbers)
    expected = expected_of(case, x, weight, bias)
    assert_close(on_device(case, x, weight, bias), expected, sum_tolerance(case, x, weight, bias))


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations(name: str, dtype: str) -> None:
    x = np.linspace(-12, 12, 97).reshape(-1, 1).astype(dtype)
    y = nbconv.conv1d(there(x), there(np.ones((1, 1, 1), dtype)), activation=name).copy_to_host()
    np.testing.assert_allclose(y, reference.ACTIVATIONS[name](x.astype(float)), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("activation", [("leaky_relu", 0.25), ("elu", 2.0)])
def test_parameters_of_activations(activation: tuple[str, float]) -> None:
    x = np.array([[-1.0], [2.0]])
    y = nbconv.conv1d(there(x), there(np.ones((1, 1, 1))), activation=activation).copy_to_host()
    below = {"leaky_relu": -0.25, "elu": 2 * np.expm1(-1)}[activation[0]]
    np.testing.assert_allclose(y.ravel(), [below, 2])


@pytest.mark.parametrize("name", [*reference.ACTIVATIONS, None])
def test_nan_stays_nan(name: str | None) -> None:
    x = np.array([[np.nan], [1.0]], np.float32)
    y = nbconv.conv1d(there(x), there(np.ones((1, 1, 1), np.float32)), activation=name).copy_to_host()
    assert np.isnan(y).ravel().tolist() == [True, False]


def test_transposed_infinite_weights_meet_no_padding() -> None:
    weight = np.array([[[np.inf, 1, np.inf]]], np.float32)
    x = np.ones((3, 1), np.float32)
    y = nbconv.conv_transpose1d(there(x), there(weight), padding=1).copy_to_host()
    assert_equal(y, reference.conv_transpose(x, weight, padding=1))


@pytest.mark.parametrize("layout", ["C", "F"])
def test_residual_is_added_before_the_activation(layout: str) -> None:
    case = Case("conv1d", (2, 7, 3), (4, 3, 3), {"padding": 1})
    x, weight, bias = arrays_of(case)
    residual = whole_numbers(np.random.default_rng(0), (2, 7, 4))
    expected = np.maximum(expected_of(case, x, weight, bias) + residual, 0)
    given = there(LAYOUTS[layout](residual))
    assert_equal(on_device(case, x, weight, bias, residual=given, activation="relu"), expected)
    layer = nbconv.Conv1d(weight, bias, padding=1, activation="relu").to("cuda")
    assert_equal(layer(there(x), residual=given).copy_to_host(), expected)


# ---- memory --------------------------------------------------------------------------------------------------------

STRIDED = [name for name in LAYOUTS if name not in ("unaligned", "big-endian")]


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("op", OPS)
def test_any_strides(op: str, layout: str) -> None:
    case = next(case for case in SMOKE if case.op == op and case.bias and len(case.x_shape) == case.ndim + 2)
    x, weight, bias = arrays_of(case)
    lay = LAYOUTS[layout]
    strided = [simulated_array(lay(array)) for array in (x, weight, bias) if array is not None]
    y = getattr(nbconv, op)(*strided, **case.params).copy_to_host()
    assert_equal(y, expected_of(case, x, weight, bias))


@pytest.mark.parametrize("order", ["contiguous", "guarded", "channels first"])
def test_out(order: str) -> None:
    case = Case("conv1d", (2, 7, 3), (4, 3, 3), {"padding": 1})
    arrays = arrays_of(case)
    buffer, view = guarded((2, 7, 4), np.float32)
    if order == "contiguous":
        view = np.full((2, 7, 4), np.nan, np.float32)
    elif order == "channels first":
        view = np.full((2, 4, 7), np.nan, np.float32).swapaxes(1, 2)
    out = simulated_array(view)
    x, weight, bias = map(there, arrays)
    assert nbconv.conv1d(x, weight, bias, **case.params, out=out) is out
    assert_equal(view, expected_of(case, *arrays))
    if order == "guarded":
        assert_guard_intact(buffer, view)


def test_host_arrays_and_a_named_device() -> None:
    case = Case("conv2d", (1, 4, 5, 3), (4, 3, 3, 3), {"padding": 1})
    for dtype in DTYPES.values():
        arrays = arrays_of(case, dtype)
        expected = expected_of(case, *arrays)
        y = nbconv.conv2d(*arrays, **case.params, device="cuda")
        assert type(y) is np.ndarray
        assert y.dtype == dtype
        assert_equal(y, expected)
        buffer, out = guarded(expected.shape, dtype)
        assert nbconv.conv2d(*arrays, **case.params, device="cuda:0", out=out) is out
        assert_equal(out, expected)
        assert_guard_intact(buffer, out)


# ---- backward ------------------------------------------------------------------------------------------------------


def check_gradients(case: Case, dtype: Any) -> None:
    arrays = data_of(case, dtype)
    grads = getattr(nbconv, f"{case.op}_backward")(*map(there, arrays), **case.params)
    for name, grad, expected in zip(grads._fields, grads, oracle(case, *arrays), strict=True):
        assert_equal(grad.copy_to_host(), expected, name)


@pytest.mark.parametrize("case", case_params(AFFORDABLE))
def test_gradients(case: Case) -> None:
    check_gradients(case, np.float32)


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float32"])
@pytest.mark.parametrize("case", case_params([case for case in SMOKE if case.macs <= 1000]))
def test_gradients_of_every_type(case: Case, dtype: str) -> None:
    check_gradients(case, DTYPES[dtype])


@pytest.mark.parametrize("case", case_params(MODES))
def test_gradients_of_every_padding_mode(case: Case) -> None:
    dy, x, weight = data_of(case)
    backward = getattr(nbconv, f"{case.op}_backward")
    grads = backward(there(dy), there(x), there(weight), **case.params, needs=("x",))
    assert (grads.weight, grads.bias) == (None, None)
    assert_equal(grads.x.copy_to_host(), oracle(case, dy, x, weight)[0])


def test_gradients_in_several_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "_LEAST_ROWS", 3)
    gradients._weight_launches.cache_clear()
    for case in (
        Case("conv1d", (2, 13, 3), (4, 3, 3), {"padding": 1, "stride": 2}),
        Case("conv_transpose2d", (2, 3, 4, 4), (4, 1, 2, 2), {"stride": 2, "groups": 4}),
    ):
        check_gradients(case, np.float32)
    gradients._weight_launches.cache_clear()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_widened_for_tiles(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = gradients._weight_launches
    asked = []

    def general_launches(pairs: Any, dtype: str, kind: str | None, aligned: bool, device: int) -> Any:
        asked.append((dtype, kind))
        return make(pairs, dtype, None, False, device)  # no tile takes what is not aligned

    monkeypatch.setattr(gradients, "tiles_run", lambda device: True)
    monkeypatch.setattr(gradients, "_weight_launches", general_launches)
    for length in (50, 90, 40):  # scratch memory grows, and is then longer than what it holds
        check_gradients(Case("conv1d", (1, length, 12), (8, 12, 3), {"padding": 1}), DTYPES[dtype])
    check_gradients(Case("conv1d", (1, 40, 8), (8, 8, 3), {"padding": 1}), DTYPES[dtype])
    assert asked == [("float32", None)] * 3 + [(dtype, {"float16": "f16", "bfloat16": "bf16"}[dtype])]


def test_gradients_of_host_arrays() -> None:
    case = Case("conv1d", (2, 7, 3), (4, 3, 3), {"padding": 1})
    dy, x, weight = data_of(case)
    grads = nbconv.conv1d_backward(dy, x, weight, **case.params, device="cuda")
    for grad, expected in zip(grads, oracle(case, dy, x, weight), strict=True):
        assert type(grad) is np.ndarray
        assert_equal(grad, expected)


# ---- layers --------------------------------------------------------------------------------------------------------


def test_layers() -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = (whole_numbers(rng, shape) for shape in ((2, 9, 3), (4, 3, 3), (4,)))
    host = nbconv.Conv1d(weight, bias, stride=2, padding="same", activation="relu")
    layer = host.to("cuda")
    y = layer(there(x))
    assert_equal(y.copy_to_host(), host(x))
    out = simulated_array(np.full((2, 5, 4), np.nan, np.float32))
    assert layer(there(x), out=out) is out
    assert_equal(out.copy_to_host(), host(x))
    assert_equal(layer.to("cpu")(x), host(x))
    assert_equal(pickle.loads(pickle.dumps(layer))(there(x)).copy_to_host(), host(x))


def test_layers_pack_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    layer = nbconv.ConvTranspose1d(whole_numbers(rng, (3, 4, 5)), stride=3, padding=1)
    remote, launched = layer.to("cuda"), []
    run = plan.Launch.__call__

    def counted(self: Any, *arguments: Any) -> None:
        launched.append(self.kernel.__name__)
        run(self, *arguments)

    monkeypatch.setattr(plan.Launch, "__call__", counted)
    for length in (7, 4, 9):
        x = whole_numbers(rng, (1, length, 3))
        assert_equal(remote(there(x)).copy_to_host(), layer(x))
    # An output shorter than the stride has fewer phases, packed apart.
    x = whole_numbers(rng, (1, 1, 3))
    short = nbconv.ConvTranspose1d(layer.weight, stride=3, padding=2)
    assert_equal(short.to("cuda")(there(x)).copy_to_host(), short(x))
    assert launched.count("pack_operands") == 2


def test_gradients_of_layers() -> None:
    rng = np.random.default_rng(2)
    layer = nbconv.Conv1d(whole_numbers(rng, (4, 3, 3)), whole_numbers(rng, (4,)))
    x, dy = whole_numbers(rng, (2, 9, 3)), whole_numbers(rng, (2, 7, 4))
    for grad, expected in zip(layer.to("cuda").backward(there(dy), there(x)), layer.backward(dy, x), strict=True):
        assert_equal(grad.copy_to_host(), expected)


def test_networks() -> None:
    rng = np.random.default_rng(3)
    net = nbconv.Sequential(*(nbconv.Conv1d(whole_numbers(rng, (3, 3, 3)), padding="same") for _ in range(2)))
    x = whole_numbers(rng, (1, 6, 3))
    assert_equal(net.to("cuda")(there(x)).copy_to_host(), net(x))


def test_one_device_is_there() -> None:
    assert len(cuda.gpus) == 1
