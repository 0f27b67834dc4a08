"""Every call that is refused: the type, a text that names operation, argument and numbers, and no work done before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import nbconv
from nbconv.cpu import backend
from tests.helpers import LAYOUTS, OPS, Array

with_ops = pytest.mark.parametrize("op", OPS)
with_forward_ops = pytest.mark.parametrize("op", ["conv1d", "conv2d"])
with_transposed_ops = pytest.mark.parametrize("op", ["conv_transpose1d", "conv_transpose2d"])

NOT_WHOLE = [1.0, 1.5, "1", None, True, np.float32(1), np.array([1, 1]), {}]


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a refused call reaches the kernels."""

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun before the arguments were checked")

    monkeypatch.setattr(backend, "run", run)
    monkeypatch.setattr(backend, "keep_weights", run)
    monkeypatch.setattr(backend, "prepare_weights", run)


def arguments_of(op: str) -> dict[str, Any]:
    """Arguments that fit each other: 6 channels in, 4 out, 9 positions an axis, 3 taps."""
    ndim, transposed = int(op[-2]), "transpose" in op
    return {
        "x": np.ones((1, *(9,) * ndim, 6), np.float32),
        "weight": np.ones((6, 4, *(3,) * ndim) if transposed else (4, 6, *(3,) * ndim), np.float32),
    }


def assert_refused(op: str, error: type[Exception], *fragments: Any, **changes: Any) -> str:
    """Call with some arguments changed: it must raise just `error`, in one line that holds all fragments."""
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(nbconv, op)(**{**arguments_of(op), **changes})
    text = str(caught.value)
    assert type(caught.value) is error, text
    assert text.startswith(f"{op}: ")
    assert "\n" not in text
    for fragment in fragments:
        assert str(fragment) in text
    return text


# ---- parameters ----------------------------------------------------------------------------------------------------


@with_ops
@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("stride", 0, 1), ("stride", -2, 1), ("dilation", 0, 1), ("groups", 0, 1), ("groups", -3, 1), ("padding", -1, 0)],
)
def test_too_small(op: str, name: str, value: int, least: int) -> None:
    assert_refused(op, ValueError, name, f"at least {least}", value, **{name: value})
    if name != "groups":
        assert_refused(op, ValueError, name, f"at least {least}", value, **{name: (value,) * int(op[-2])})


@with_ops
@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
@pytest.mark.parametrize("name", ["stride", "dilation", "groups", "padding"])
def test_not_a_whole_number(op: str, name: str, value: Any) -> None:
    if name == "padding" and isinstance(value, str):
        assert_refused(op, ValueError, name, "'1'", **{name: value})
        return
    assert_refused(op, TypeError, name, "whole number", type(value).__name__, **{name: value})
    if name != "groups":
        assert_refused(op, TypeError, name, "whole number", **{name: (value,) * int(op[-2])})


@with_ops
@pytest.mark.parametrize("name", ["stride", "dilation", "groups", "padding"])
def test_not_whole_is_refused_after_an_equal_number_was_accepted(
    op: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 == 1.0 == True: a cache of checked parameters must not take one for the other."""
    monkeypatch.undo()
    getattr(nbconv, op)(**arguments_of(op), **{name: 1})
    assert_refused(op, TypeError, name, "1.0", **{name: 1.0})
    assert_refused(op, TypeError, name, "True", **{name: True})


@with_ops
@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_wrong_number_of_axes(op: str, name: str) -> None:
    ndim = int(op[-2])
    for value in ((), (1,) * (ndim + 1), (1, 1, 1, 1)):
        assert_refused(op, ValueError, name, f"{ndim} ints", repr(value), **{name: value})


@with_ops
@pytest.mark.parametrize("value", ["full", "SAME", "", (), (1, 1, 1), ((1, 2), (1, 2), (1, 2)), ((1, 2, 3),), ((1,),)])
def test_unknown_form_of_padding(op: str, value: Any) -> None:
    assert_refused(op, ValueError, "padding", repr(value), "'same'", padding=value)


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_one_pair_in_one_dimension_says_how_to_write_it(op: str) -> None:
    assert_refused(op, ValueError, "padding", "((1, 2),)", padding=(1, 2))


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_causal_is_of_one_dimension(op: str) -> None:
    assert "or 'causal'" not in assert_refused(op, ValueError, "padding", "'causal'", padding="causal")


@with_forward_ops
@pytest.mark.parametrize("value", ["constant", "", None, 0, ["zeros"]])
def test_unknown_padding_mode(op: str, value: Any) -> None:
    assert_refused(
        op, ValueError, "padding_mode", repr(value), "zeros, reflect, replicate, circular", padding_mode=value
    )


@with_transposed_ops
@pytest.mark.parametrize(("extra", "stride", "dilation"), [(1, 1, 1), (2, 2, 1), (3, 2, 3)])
def test_output_padding_too_large(op: str, extra: int, stride: int, dilation: int) -> None:
    parameters = {"output_padding": extra, "stride": stride, "dilation": dilation}
    numbers = (f"output_padding {extra}", f"stride {stride}", f"dilation {dilation}")
    assert_refused(op, ValueError, *numbers, **parameters)


@with_transposed_ops
def test_output_padding_of_another_kind(op: str) -> None:
    assert_refused(op, ValueError, "output_padding", "at least 0", -1, output_padding=-1)
    assert_refused(op, TypeError, "output_padding", "whole number", 0.5, output_padding=0.5)
    assert_refused(op, ValueError, "output_padding", "(0, 0, 0)", output_padding=(0, 0, 0))


@with_ops
@pytest.mark.parametrize("value", ["fft", "AUTO", "", None, 3, ["auto"]])
def test_unknown_algorithm(op: str, value: Any) -> None:
    assert_refused(op, ValueError, "algorithm", repr(value), "auto, direct, im2col", algorithm=value)


@with_ops
@pytest.mark.parametrize("value", ["swish", "ReLU", "", ("relu", 0.1), ("elu", 1, 2), ()])
def test_unknown_activation(op: str, value: Any) -> None:
    assert_refused(op, ValueError, "activation", repr(value), "relu", activation=value)


@with_ops
@pytest.mark.parametrize("value", [3, ("elu", "much"), ("elu", None), (["relu"],)], ids=repr)
def test_activation_of_another_kind(op: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{op}: activation") as caught:
        getattr(nbconv, op)(**arguments_of(op), activation=value)
    assert repr(value) in str(caught.value)


# ---- shapes --------------------------------------------------------------------------------------------------------


def test_channels_in_full() -> None:
    x, weight = np.ones((1, 9, 9, 6), np.float32), np.ones((4, 4, 3, 3), np.float32)
    text = assert_refused("conv2d", ValueError, x=x, weight=weight, groups=2)
    assert text == ("conv2d: x has 6 channels, weight expects 4 * groups(2) = 8; x (1, 9, 9, 6), weight (4, 4, 3, 3)")


@with_ops
def test_channels(op: str) -> None:
    x = arguments_of(op)["x"][..., :5]
    weight = arguments_of(op)["weight"]
    assert_refused(op, ValueError, "x has 5 channels", "weight expects", 6, x.shape, weight.shape, x=x)


@with_ops
def test_groups_that_do_not_divide(op: str) -> None:
    ndim = int(op[-2])
    if "transpose" in op:
        assert_refused(op, ValueError, "weight has 6 input channels", "groups=4", groups=4)
    else:
        weight = np.ones((4, 2, *(3,) * ndim), np.float32)
        assert_refused(
            op, ValueError, "weight has 4 output channels", "groups=3", weight.shape, weight=weight, groups=3
        )


@with_ops
def test_ranks(op: str) -> None:
    ndim = int(op[-2])
    for shape in ((), (6,), (1, 1, *(9,) * ndim, 6)):
        text = assert_refused(
            op, ValueError, "x must have shape", f"{len(shape)} axes", shape, x=np.ones(shape, np.float32)
        )
        assert ("(N, L, C)" if ndim == 1 else "(N, H, W, C)") in text
    for shape in ((), (6,), (4, 6, *(3,) * (ndim + 1)), (4, 6, *(3,) * (ndim - 1))):
        weight = np.ones(shape, np.float32)
        text = assert_refused(
            op, ValueError, f"weight must have {ndim + 2} axes", f"got {len(shape)}", shape, weight=weight
        )
        assert ("(C_in, C_out/groups," if "transpose" in op else "(C_out, C_in/groups,") in text


@with_ops
def test_kernel_without_taps(op: str) -> None:
    weight = arguments_of(op)["weight"][..., :0]
    assert_refused(op, ValueError, "kernel", weight.shape, weight=weight)


@with_ops
@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1), (1, 4), (0,)])
def test_bias_shape(op: str, shape: Any) -> None:
    assert_refused(op, ValueError, "bias must have shape (4,)", shape, bias=np.ones(shape, np.float32))


@with_forward_ops
def test_kernel_that_does_not_fit(op: str) -> None:
    ndim = int(op[-2])
    text = assert_refused(
        op, ValueError, "kernel", "reaches over 15", "x has 9", "padding(2 + 2)", padding=2, dilation=7
    )
    assert "axis 0" in text
    x = arguments_of(op)["x"][..., :0, :]
    assert_refused(op, ValueError, "reaches over 3", "x has 0", f"axis {ndim - 1}", x=x)


@with_forward_ops
@pytest.mark.parametrize(("mode", "most"), [("reflect", 8), ("circular", 9)])
def test_padding_of_more_than_there_is(op: str, mode: str, most: int) -> None:
    for pair in ((most + 1, 0), (0, most + 1)):
        padding = (pair,) * int(op[-2])
        assert_refused(
            op, ValueError, f"'{mode}'", f"at most {most}", "size 9", pair, padding=padding, padding_mode=mode
        )


@with_forward_ops
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_from_no_data(op: str, mode: str) -> None:
    x = np.ones((1, *(0,) * int(op[-2]), 6), np.float32)
    assert_refused(op, ValueError, f"'{mode}'", "size 0", x=x, padding=2, padding_mode=mode)


@with_transposed_ops
def test_nothing_left_of_the_output(op: str) -> None:
    assert_refused(op, ValueError, "size(9) - 1", "stride(1)", "padding(6 + 6)", "= -1", "axis 0", padding=6)
    assert_refused(op, ValueError, "nothing is left", "padding(5 + 8)", "= -2", padding=((5, 8),))


# ---- arrays --------------------------------------------------------------------------------------------------------

UNKNOWN_DTYPES = {
    "int64": "astype",
    "uint8": "astype",
    "bool": "astype",
    "complex64": "real",
    "longdouble": "astype",
    "object": "array of numbers",
    "datetime64[s]": "",
    "U3": "",
}


@with_ops
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize("dtype", UNKNOWN_DTYPES)
def test_dtypes_that_are_not_computed(op: str, name: str, dtype: str) -> None:
    array = {**arguments_of(op), "bias": np.ones(4, np.float32)}[name].astype(dtype)
    supported = ("float32", "float64", "float16", "bfloat16")
    assert_refused(op, TypeError, f"{name} has dtype {array.dtype}", *supported, UNKNOWN_DTYPES[dtype], **{name: array})


@with_ops
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_small_floats_are_not_computed(op: str, name: str) -> None:
    array = {**arguments_of(op), "bias": np.ones(4, np.float32)}[name].astype(ml_dtypes.float8_e4m3fn)
    assert_refused(op, TypeError, f"{name} has dtype float8_e4m3fn", **{name: array})


@with_ops
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_masked_arrays_are_not_taken_for_arrays(op: str, name: str) -> None:
    array = np.ma.array({**arguments_of(op), "bias": np.ones(4, np.float32)}[name])
    assert_refused(op, TypeError, name, "mask", "filled", **{name: array})


@with_ops
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize(
    "value", [[[1.0, 2.0]], (1.0,), 3, 1.5, "x", np.float32(1), {}, object()], ids=lambda v: type(v).__name__
)
def test_what_is_no_array(op: str, name: str, value: Any) -> None:
    assert_refused(
        op, TypeError, f"{name} must be a NumPy array", type(value).__name__, "numpy.asarray", **{name: value}
    )


@with_ops
@pytest.mark.parametrize("name", ["x", "weight"])
def test_none_for_an_array(op: str, name: str) -> None:
    assert_refused(op, TypeError, f"{name} must be a NumPy array", "NoneType", **{name: None})


@with_ops
@pytest.mark.parametrize("other", [np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_different_dtypes(op: str, name: str, other: Any) -> None:
    array = {**arguments_of(op), "bias": np.ones(4, np.float32)}[name].astype(other)
    assert_refused(op, TypeError, "x has dtype float32", f"{name} has dtype {array.dtype}", "astype", **{name: array})


# ---- out= ----------------------------------------------------------------------------------------------------------


def out_of(op: str) -> Array:
    """An array that fits the result of `arguments_of`."""
    size = 11 if "transpose" in op else 7
    return np.zeros((1, *(size,) * int(op[-2]), 4), np.float32)


@with_ops
@pytest.mark.parametrize(
    "wrong",
    [lambda out: out[0], lambda out: out[:, 1:], lambda out: out[..., :3], lambda out: out[:0], lambda out: out.T],
)
def test_out_of_another_shape(op: str, wrong: Callable[[Array], Array]) -> None:
    out = wrong(out_of(op))
    assert_refused(op, ValueError, "out", out.shape, out_of(op).shape, out=out)


@with_ops
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.int32, object])
def test_out_of_another_dtype(op: str, dtype: Any) -> None:
    out = out_of(op).astype(dtype)
    assert_refused(op, TypeError, "out", out.dtype, "float32", out=out)


@with_ops
def test_out_that_cannot_be_written(op: str) -> None:
    assert_refused(op, ValueError, "out", "read-only", out=LAYOUTS["readonly"](out_of(op)))
    single = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), out_of(op).shape, (0,) * out_of(op).ndim)
    assert_refused(op, ValueError, "out", "overlaps itself", out=single)


@with_ops
@pytest.mark.parametrize("value", [[], 0, "out", np.ma.array(1.0)], ids=lambda v: type(v).__name__)
def test_out_that_is_no_array(op: str, value: Any) -> None:
    assert_refused(op, TypeError, "out must be a NumPy array", type(value).__name__, out=value)


@with_ops
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_out_that_shares_memory_with_an_input(op: str, name: str) -> None:
    inputs = {**arguments_of(op), "bias": np.ones(4, np.float32)}
    out = out_of(op)
    memory = np.zeros(out.size + inputs[name].size - 1, np.float32)
    inputs[name] = memory[: inputs[name].size].reshape(inputs[name].shape)
    # The last number of the input is the first of the output.
    assert_refused(op, ValueError, "out", "memory", **inputs, out=memory[inputs[name].size - 1 :].reshape(out.shape))


@with_ops
def test_out_is_left_alone_by_a_refused_call(op: str) -> None:
    out = out_of(op)
    out[...] = 7
    assert_refused(op, ValueError, "bias", bias=np.ones(5, np.float32), out=out)
    assert_refused(op, ValueError, "algorithm", algorithm="fft", out=out)
    assert_refused(op, ValueError, "activation", activation="swish", out=out)
    assert (out == 7).all()


# ---- columns and threads -------------------------------------------------------------------------------------------


def assert_refused_by(name: str, error: type[Exception], *fragments: Any, **arguments: Any) -> None:
    """As `assert_refused`, for `im2col` and `col2im` (and anything else that names itself)."""
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(nbconv, name)(**arguments)
    text = str(caught.value)
    assert type(caught.value) is error, text
    assert text.startswith(f"{name}: ")
    for fragment in fragments:
        assert str(fragment) in text


def test_im2col_refuses() -> None:
    x = np.ones((1, 9, 3), np.float32)
    assert_refused_by("im2col", TypeError, "x has dtype int64", "astype", x=x.astype(np.int64), kernel_size=3)
    assert_refused_by("im2col", TypeError, "x must be a NumPy array", "list", x=[1.0], kernel_size=3)
    assert_refused_by("im2col", TypeError, "mask", x=np.ma.array(x), kernel_size=3)
    assert_refused_by("im2col", ValueError, "kernel_size", "at least 1", 0, x=x, kernel_size=0)
    assert_refused_by("im2col", ValueError, "kernel_size", "(3, 3, 3)", x=x, kernel_size=(3, 3, 3))
    assert_refused_by("im2col", TypeError, "kernel_size", "2.5", x=x, kernel_size=2.5)
    assert_refused_by("im2col", ValueError, "stride", "at least 1", 0, x=x, kernel_size=3, stride=0)
    assert_refused_by("im2col", ValueError, "padding", "'full'", x=x, kernel_size=3, padding="full")
    assert_refused_by("im2col", ValueError, "reaches over 30", "x has 9", x=x, kernel_size=30)
    assert_refused_by("im2col", ValueError, "x must have shape", "(3,)", x=x[0, 0], kernel_size=3)


def test_col2im_refuses() -> None:
    cols = np.ones((1, 7, 9), np.float32)
    assert_refused_by("col2im", ValueError, "(1, 7, 9)", "(1, 8, 9)", cols=cols, spatial_shape=10, kernel_size=3)
    assert_refused_by("col2im", ValueError, "multiple of 2", cols.shape, cols=cols, spatial_shape=9, kernel_size=2)
    assert_refused_by("col2im", ValueError, "cols", "(9,)", cols=cols[0, 0], spatial_shape=9, kernel_size=3)
    assert_refused_by("col2im", ValueError, "kernel_size", cols=cols, spatial_shape=9, kernel_size=(3, 3))
    assert_refused_by("col2im", ValueError, "spatial_shape", "at least 0", cols=cols, spatial_shape=-1, kernel_size=3)
    assert_refused_by("col2im", TypeError, "cols has dtype", cols=cols.astype(int), spatial_shape=9, kernel_size=3)


@pytest.mark.parametrize("value", ["2", 2.5, True, None])
def test_number_of_threads_is_whole(value: Any) -> None:
    assert_refused_by("set_num_threads", TypeError, "n must be a whole number", repr(value), n=value)


@pytest.mark.parametrize("value", [0, -1])
def test_number_of_threads_is_positive(value: int) -> None:
    assert_refused_by("set_num_threads", ValueError, "at least 1", value, n=value)
