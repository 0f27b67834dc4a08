"""Gradients: exact adjoints, an independent oracle, numeric differences, PyTorch, and every call that is refused."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbconv
from nbconv import backward as backward_module
from nbconv import gradients
from nbconv.arrays import flat_data
from nbconv.cpu import grad_plan
from nbconv.cpu import grad_tables as G
from nbconv.cpu.grad_weight import grad_weight, plan_grad_weight
from nbconv.cpu.tiles import blocking
from nbconv.functional import make_spec
from nbconv.geometry import bind
from tests import reference
from tests.cases import CASES, Case, small_perf_cases
from tests.helpers import (
    DTYPES,
    LAYOUTS,
    OPS,
    Array,
    arrays_of,
    assert_close,
    assert_equal,
    case_params,
    compute_dtype,
    epsilon,
    optional,
    real_numbers,
    rng_for,
    whole_numbers,
    widen,
)
from tests.strategies import cases

ALL = case_params([*CASES, *small_perf_cases(10_000_000)])
SMOKE = [case for case in CASES if "smoke" in case.tags]
MODES = [case for case in CASES if case.params.get("padding_mode", "zeros") != "zeros"]
PLAIN = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0, "padding_mode": "zeros"}
with_ops = pytest.mark.parametrize("op", OPS)
LAYERS = {
    "conv1d": "Conv1d",
    "conv2d": "Conv2d",
    "conv_transpose1d": "ConvTranspose1d",
    "conv_transpose2d": "ConvTranspose2d",
}


def backward(case: Case, grad_output: Array, x: Array, weight: Array, **options: Any) -> nbconv.ConvGrads:
    """Call the package."""
    return getattr(nbconv, f"{case.op}_backward")(grad_output, x, weight, **case.params, **options)


def inner(a: Array, b: Array) -> float:
    """Sum of products, exact for whole numbers."""
    return float(np.vdot(widen(a), widen(b)))


def data_of(case: Case, dtype: Any = np.float32, draw: Any = whole_numbers) -> tuple[Array, Array, Array]:
    """Make grad_output, x and weight of a case."""
    x, weight, _ = arrays_of(case, dtype, draw)
    shape = reference.run(case.op, np.zeros(case.x_shape), np.zeros(case.weight_shape), **case.params).shape
    return draw(rng_for(case, "grad_output"), shape, dtype), x, weight


# ---- the oracle: the scatter of every product, in float64, by maps of indices ---------------------------------------


def oracle(case: Case, grad_output: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Compute the gradients tap by tap from the definition, with the padding as a map of indices."""
    dy, x, weight = (reference.exact(a) for a in (grad_output, x, weight))
    ndim, kernel, groups = case.ndim, case.weight_shape[2:], case.groups
    if x.ndim == ndim + 1:
        dx, dw, db = oracle_batched(case, dy[None], x[None], weight, ndim, kernel, groups)
        return dx[0], dw, db
    return oracle_batched(case, dy, x, weight, ndim, kernel, groups)


def oracle_batched(
    case: Case, dy: Array, x: Array, weight: Array, ndim: int, kernel: tuple[int, ...], groups: int
) -> tuple[Array, Array, Array]:
    strides, dilations = (reference.each_axis(case.params.get(key, 1), ndim) for key in ("stride", "dilation"))
    padding, mode = case.params.get("padding", 0), case.params.get("padding_mode", "zeros")
    # wide: what taps shift over; narrow: one position a window.
    if case.transposed:
        pads = reference.transposed_crops(kernel, strides, padding, dilations)
        wide, narrow = dy, x
    else:
        pads = reference.forward_pads(x.shape[1:-1], kernel, strides, padding, dilations)
        wide, narrow = x, dy
    sizes, counts = wide.shape[1:-1], narrow.shape[1:-1]
    d_wide, d_weight, d_narrow = np.zeros_like(wide), np.zeros_like(weight), np.zeros_like(narrow)
    per_wide, per_narrow = wide.shape[-1] // groups, narrow.shape[-1] // groups
    for tap in np.ndindex(*kernel):
        shown = [
            source_of(np.arange(count) * s + t * d - lo, size, mode)
            for count, s, t, d, (lo, _), size in zip(counts, strides, tap, dilations, pads, sizes, strict=True)
        ]
        kept = [np.flatnonzero(where >= 0) for where in shown]
        at_wide = np.ix_(range(len(wide)), *(where[keep] for where, keep in zip(shown, kept, strict=True)))
        at_narrow = np.ix_(range(len(wide)), *kept)
        rows, columns = wide[at_wide], narrow[at_narrow]
        for group in range(groups):
            of_wide = slice(group * per_wide, (group + 1) * per_wide)
            of_narrow = slice(group * per_narrow, (group + 1) * per_narrow)
            tap_weight = weight[(of_narrow, slice(None), *tap)]  # (narrow, wide)
            count = math.prod(rows.shape[:-1])
            r, c = rows[..., of_wide].reshape(count, per_wide), columns[..., of_narrow].reshape(count, per_narrow)
            d_weight[(of_narrow, slice(None), *tap)] += c.T @ r
            if case.transposed:
                flow = (rows[..., of_wide] @ tap_weight.T).reshape(*rows.shape[:-1], per_narrow)
                d_narrow[(*at_narrow, of_narrow)] += flow
            else:
                flow = (columns[..., of_narrow] @ tap_weight).reshape(*columns.shape[:-1], per_wide)
                np.add.at(d_wide, (*at_wide, of_wide), flow)
    return (d_narrow if case.transposed else d_wide), d_weight, dy.sum(axis=tuple(range(dy.ndim - 1)))


def source_of(at: Array, size: int, mode: str) -> Array:
    """Tell which position stands at padded position `at`; -1 for none."""
    if mode == "replicate":
        return np.clip(at, 0, size - 1)
    if mode == "circular":
        return at % size
    if mode == "reflect":
        at = np.abs(at)
        return np.where(at >= size, 2 * (size - 1) - at, at)
    return np.where((at >= 0) & (at < size), at, -1)


# ---- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ALL)
def test_whole_numbers_are_exact_adjoints(case: Case) -> None:
    """<dy, conv(x, w)> == <dx, x> == <dw, w>."""
    grad_output, x, weight = data_of(case)
    grads = backward(case, grad_output, x, weight)
    y = getattr(nbconv, case.op)(x, weight, **case.params)
    assert grads.x.shape == x.shape
    assert grads.weight.shape == weight.shape
    assert inner(grad_output, y) == inner(grads.x, x) == inner(grads.weight, weight)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", case_params(CASES))
def test_whole_numbers_equal_the_oracle(case: Case, dtype: np.dtype[Any]) -> None:
    grad_output, x, weight = data_of(case, dtype)
    grads = backward(case, grad_output, x, weight)
    for actual, expected in zip(grads, oracle(case, grad_output, x, weight), strict=True):
        assert actual.dtype == dtype
        assert actual.flags.c_contiguous
        assert actual.flags.writeable
        assert_equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("case", case_params([*SMOKE, *MODES]))
def test_real_numbers_are_close_to_the_oracle(case: Case, dtype: np.dtype[Any]) -> None:
    """Half types are rounded once, at the end, from sums in float32."""
    grad_output, x, weight = data_of(case, dtype, real_numbers)
    largest = [float(np.abs(widen(a)).max(initial=0)) for a in (weight, x, np.ones(1))]
    scale = 4 * epsilon(compute_dtype(dtype)) * float(np.abs(widen(grad_output)).max(initial=0))
    for actual, expected, most, other in zip(
        backward(case, grad_output, x, weight), oracle(case, grad_output, x, weight), largest, (0, 1, 2), strict=True
    ):
        terms = weight.size if other == 0 else max(1, grad_output.size, x.size)
        assert_close(actual, expected, scale * most * terms)


@settings(max_examples=400)
@given(
    case=cases(),
    dtype=st.sampled_from(sorted(DTYPES)),
    layouts=st.tuples(*[st.sampled_from([layout for layout in LAYOUTS if layout != "big-endian"])] * 3),
)
def test_every_gradient_is_the_definition(case: Case, dtype: str, layouts: tuple[str, ...]) -> None:
    arrays = data_of(case, DTYPES[dtype])
    expected = oracle(case, *arrays)
    inputs = [LAYOUTS[layout](a) for a, layout in zip(arrays, layouts, strict=True)]
    for actual, wanted in zip(backward(case, *inputs), expected, strict=True):
        assert_equal(actual, wanted)


@pytest.mark.parametrize("case", case_params([case for case in [*SMOKE, *MODES] if 0 not in case.x_shape]))
def test_numeric_differences(case: Case) -> None:
    """The map is bilinear: a difference quotient of any width is exact but for rounding."""
    grad_output, x, weight = data_of(case, np.float64, real_numbers)
    grads = backward(case, grad_output, x, weight)
    run, rng = getattr(nbconv, case.op), rng_for(case, "places")

    def loss(x: Array, weight: Array, bias: Array) -> float:
        return inner(grad_output, run(x, weight, bias, **case.params))

    bias = np.zeros(case.c_out)
    for number, (values, grad) in enumerate(zip((x, weight, bias), grads, strict=True)):
        for place in rng.choice(values.size, min(values.size, 5), replace=False):
            step = 16.0
            shifted = [a.copy() for a in (x, weight, bias)]
            shifted[number].flat[place] += step
            above = loss(*shifted)
            shifted[number].flat[place] -= 2 * step
            quotient = (above - loss(*shifted)) / (2 * step)
            np.testing.assert_allclose(quotient, grad.flat[place], 1e-10, 1e-10 * np.abs(grad).max())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", case_params(SMOKE))
def test_any_memory(case: Case, layout: str) -> None:
    arrays = data_of(case)
    expected = backward(case, *arrays)
    inputs = [LAYOUTS[layout](a) for a in arrays]
    copies = [a.copy() for a in inputs]
    for actual, wanted in zip(backward(case, *inputs), expected, strict=True):
        assert_equal(actual, wanted)
    for a, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(a, copy)


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (3, 2, 0, 1), (2, 3, 1, 0), (0, 2, 3, 1)])
def test_gradient_keeps_the_memory_order_of_the_weight(axes: tuple[int, ...]) -> None:
    case = Case("conv2d", (2, 9, 11, 20), (33, 20, 3, 2), {"padding": 1})
    grad_output, x, weight = data_of(case)
    ordered = np.ascontiguousarray(weight.transpose(axes)).transpose(np.argsort(axes))
    grad = backward(case, grad_output, x, ordered, needs=("weight",)).weight
    assert grad.strides == ordered.strides
    assert_equal(grad, oracle(case, grad_output, x, weight)[1])


@pytest.mark.parametrize(
    "case",
    case_params(
        [
            Case("conv1d", (2, 3000, 16), (5, 16, 3), {"padding": 1}),
            Case("conv1d", (1, 9000, 3), (2, 3, 5), {"stride": 2, "padding": 2, "padding_mode": "reflect"}),
            Case("conv1d", (3, 2000, 24), (24, 1, 7), {"groups": 24, "padding": 3}),
            Case("conv1d", (2, 1200, 96), (128, 96, 3), {"padding": 1}),
            Case("conv2d", (2, 40, 50, 20), (40, 20, 3, 3), {"padding": 1}),
            Case("conv2d", (2, 40, 40, 40), (40, 1, 3, 3), {"groups": 40, "padding": 1}),
            Case("conv2d", (1, 90, 90, 16), (16, 1, 3, 3), {"groups": 16, "padding": 1, "stride": 2}),
            Case("conv2d", (1, 64, 64, 40), (40, 4, 3, 3), {"groups": 10, "padding": 1}),
            Case("conv_transpose1d", (1, 500, 64), (64, 32, 4), {"stride": 2}),
            Case("conv_transpose2d", (1, 30, 30, 24), (24, 1, 2, 2), {"stride": 2}),
        ]
    ),
)
def test_bits_do_not_depend_on_threads(case: Case) -> None:
    arrays = data_of(case, np.float32, real_numbers)
    grads = []
    for threads in (1, 2, 5):
        with nbconv.num_threads(threads):
            grads.append(backward(case, *arrays))
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "case",
    case_params(
        [
            Case("conv1d", (8, 20000, 32), (32, 32, 3), {"padding": 1}),
            Case("conv1d", (8, 20000, 32), (32, 32, 9), {"padding": 4, "padding_mode": "reflect"}),
            Case("conv2d", (4, 200, 200, 32), (32, 32, 3, 3), {"padding": 1, "padding_mode": "replicate"}),
            Case("conv2d", (4, 200, 200, 32), (32, 1, 3, 3), {"padding": 2, "padding_mode": "circular", "groups": 32}),
        ]
    ),
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_memory_beyond_the_results_is_bounded(case: Case, dtype: str) -> None:
    arrays = [np.zeros(a.shape, DTYPES[dtype]) for a in data_of(case)]
    grads = backward(case, *arrays)  # compiles
    results = sum(grad.nbytes for grad in grads)
    del grads
    tracemalloc.start()
    backward(case, *arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - results <= 4 * 2**20  # what kernels allocate besides, NumPy does not see: see the plan


# ---- needs, layers, errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", case_params([*SMOKE, *small_perf_cases(10_000_000)]))
def test_asking_ahead_changes_no_number(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = data_of(case)
    expected = backward(case, *arrays, needs=("weight",)).weight
    for module, name in (backward_module, "_ready"), (gradients, "_found"):
        monkeypatch.setattr(module, name, {})
    always = blocking(np.dtype(np.float32))._replace(far=-1)
    monkeypatch.setattr(grad_plan, "blocking", lambda dtype: always)
    for name in "_CHUNK", "_LEAST_CHUNK":
        monkeypatch.setattr(grad_plan, name, 8)
    assert_equal(backward(case, *arrays, needs=("weight",)).weight, expected)


@pytest.mark.parametrize("asks", [False, True], ids=("near", "far"))
@pytest.mark.parametrize("case", case_params([*SMOKE, *small_perf_cases(10_000_000)]))
def test_packing_the_narrow_operand_changes_no_number(case: Case, asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = data_of(case)
    expected = backward(case, *arrays, needs=("weight",)).weight
    for module, name in (backward_module, "_ready"), (gradients, "_found"):
        monkeypatch.setattr(module, name, {})
    pack_always(monkeypatch, chunk=12)
    if asks:
        always = blocking(np.dtype(np.float32))._replace(far=-1)
        monkeypatch.setattr(grad_plan, "blocking", lambda dtype: always)
    assert_equal(backward(case, *arrays, needs=("weight",)).weight, expected)


def pack_always(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Pack wherever it can be done, as processors do whose L2 answers late."""
    monkeypatch.setattr(grad_plan, "is_far_slow", lambda: True)
    for name, value in ("_PACKED_CHUNK", chunk), ("_PACKED_CHANNELS", 1), ("_PACKED_ROWS", 1):
        monkeypatch.setattr(grad_plan, name, value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "case",
    [
        Case("conv1d", (2, 50, 20), (99, 20, 3), {"padding": 1}),
        Case("conv1d", (1, 70, 40), (130, 20, 2), {"stride": 2, "dilation": 3, "groups": 2}),
        Case("conv2d", (2, 9, 11, 24), (70, 24, 3, 3), {"padding": 1, "padding_mode": "circular"}),
        Case("conv_transpose1d", (2, 30, 120), (120, 21, 4), {"stride": 2}),
    ],
    ids=str,
)
def test_packed_operands(case: Case, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles of columns, of which the last is not whole; pieces of lines, and several lines."""
    pack_always(monkeypatch, chunk=24)
    grad_output, x, weight = data_of(case, dtype)
    geometry = bind(make_spec(case.op, *({**PLAIN, **case.params}).values()), x.shape, weight.shape)
    forward = geometry.adjoint() if case.transposed else geometry
    operands = (grad_output, x) if case.transposed else (x, grad_output)
    plan = plan_grad_weight(forward, *operands, np.empty_like(weight), 1)
    assert isinstance(plan, grad_plan.GradPlan)
    assert plan.call[G.PACKED] > 0
    grad = np.empty_like(weight)
    grad_weight(plan, flat_data(grad), *map(flat_data, operands))
    assert_equal(grad, oracle(case, grad_output, x, weight)[1])


@pytest.mark.parametrize("needs", [(), ("x",), ("weight",), ("bias",), ("bias", "x"), ["weight", "bias"]])
@with_ops
def test_needs(op: str, needs: Any) -> None:
    case = next(case for case in SMOKE if case.op == op)
    arrays = data_of(case)
    expected = backward(case, *arrays)
    grads = backward(case, *arrays, needs=needs)
    for name, actual, wanted in zip(grads._fields, grads, expected, strict=True):
        if name in needs:
            np.testing.assert_array_equal(actual, wanted)
        else:
            assert actual is None


@pytest.mark.parametrize("case", case_params(SMOKE))
def test_layers(case: Case) -> None:
    grad_output, x, weight = data_of(case)
    bias = np.zeros(case.c_out, np.float32)
    expected = backward(case, grad_output, x, weight)
    layer = getattr(nbconv, LAYERS[case.op])
    for actual, wanted in zip(layer(weight, bias, **case.params).backward(grad_output, x), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    without_bias = layer(weight, **case.params)
    assert without_bias.backward(grad_output, x).bias is None
    assert without_bias.backward(grad_output, x, needs=("bias",)).x is None
    with pytest.raises(ValueError, match="activation 'relu'"):
        layer(weight, **case.params, activation="relu").backward(grad_output, x)


@with_ops
def test_refused(op: str) -> None:
    case = next(case for case in SMOKE if case.op == op)
    grad_output, x, weight = data_of(case)
    name = f"{op}_backward"

    def assert_refused(error: type[Exception], *fragments: Any, **changes: Any) -> None:
        arguments = {"grad_output": grad_output, "x": x, "weight": weight, **case.params, **changes}
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(nbconv, name)(**arguments)
        assert type(caught.value) is error
        text = str(caught.value)
        assert text.startswith(f"{name}: ")
        assert "\n" not in text
        for fragment in fragments:
            assert str(fragment) in text

    longer = np.concatenate([grad_output, grad_output[..., :1]], axis=-1)
    assert_refused(
        ValueError, "grad_output", longer.shape, grad_output.shape, x.shape, weight.shape, grad_output=longer
    )
    assert_refused(ValueError, "grad_output", grad_output[:1, 0].shape, grad_output=grad_output[:1, 0])
    assert_refused(TypeError, "grad_output", "float64", "float32", grad_output=grad_output.astype(np.float64))
    assert_refused(TypeError, "grad_output", "int64", grad_output=grad_output.astype(np.int64))
    assert_refused(TypeError, "grad_output", "list", grad_output=grad_output.tolist())
    assert_refused(ValueError, "x has", x=np.concatenate([x, x], axis=-1))
    assert_refused(ValueError, "weight must have", weight=weight[0])
    assert_refused(ValueError, "stride", "at least 1", stride=0)
    for needs in ("x", ("y",), None, ("x", "grad"), 1):
        assert_refused(ValueError, "needs", "'x', 'weight', 'bias'", repr(needs), needs=needs)


# ---- PyTorch -------------------------------------------------------------------------------------------------------


def torch_gradients(case: Case, arrays: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Ask `convolution_backward` where it has the padding, else autograd of padding and convolution."""
    import torch
    import torch.nn.functional as F

    ndim, params = case.ndim, case.params
    strides, dilations, extras = (
        list(reference.each_axis(params.get(key, default), ndim))
        for key, default in (("stride", 1), ("dilation", 1), ("output_padding", 0))
    )
    batched = len(case.x_shape) == ndim + 2
    dy, x, weight = arrays
    dy, x = (torch.from_numpy(np.moveaxis(a if batched else a[None], -1, 1).copy()) for a in (dy, x))
    w, kernel, padding = torch.from_numpy(weight), case.weight_shape[2:], params.get("padding", 0)
    mode = params.get("padding_mode", "zeros")
    if case.transposed:
        pads = reference.transposed_crops(kernel, strides, padding, dilations)
    else:
        pads = reference.forward_pads(x.shape[2:], kernel, strides, padding, dilations)
    if mode == "zeros" and all(lo == hi for lo, hi in pads):
        dx, dw, db = torch.ops.aten.convolution_backward(
            dy, x, w, [case.c_out], strides, [lo for lo, _ in pads], dilations, case.transposed, extras, case.groups,
            [True, True, True],
        )  # fmt: skip
    else:
        x.requires_grad_()
        w.requires_grad_()
        b = torch.zeros(case.c_out, dtype=w.dtype, requires_grad=True)
        flat = [p for pair in pads[::-1] for p in pair]
        if case.transposed:
            full = getattr(F, case.op)(x, w, b, stride=strides, groups=case.groups, dilation=dilations)
            cut = [c for (lo, hi), e in zip(pads[::-1], extras[::-1], strict=True) for c in (-lo, e - hi)]
            y = F.pad(full, cut)
        else:
            padded = F.pad(x, flat, mode={"zeros": "constant"}.get(mode, mode))
            y = getattr(F, case.op)(padded, w, b, stride=strides, dilation=dilations, groups=case.groups)
        y.backward(dy)
        dx, dw, db = x.grad, w.grad, b.grad
        if case.transposed:  # positions beyond the full output have the bias too, which F.pad does not know
            db = dy.sum(dim=[0, *range(2, 2 + ndim)])
    dx = np.moveaxis(dx.numpy(), 1, -1)
    return (dx if batched else dx[0]), dw.numpy(), db.numpy()


def torch_takes(case: Case) -> bool:
    """PyTorch refuses empty shapes, but for an empty batch."""
    y = reference.run(case.op, np.zeros(case.x_shape), np.zeros(case.weight_shape), **case.params)
    return math.prod(case.x_shape) * math.prod(case.weight_shape) * y.size > 0


@pytest.mark.torch
@pytest.mark.parametrize(
    "case", case_params([case for case in [*CASES, *small_perf_cases(10_000_000)] if torch_takes(case)])
)
def test_torch_agrees(case: Case) -> None:
    optional("torch", "NBCONV_REQUIRE_TORCH")
    arrays = data_of(case)
    for actual, expected in zip(backward(case, *arrays), torch_gradients(case, arrays), strict=True):
        assert_equal(actual, expected)
    arrays = data_of(case, np.float32, real_numbers)
    wide = tuple(a.astype(np.float64) for a in arrays)
    for actual, expected in zip(backward(case, *arrays), torch_gradients(case, wide), strict=True):
        assert_close(actual, expected, 1e-5 * float(np.abs(expected).max(initial=0)) + 1e-6)
