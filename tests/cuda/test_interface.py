"""Whose arrays come in and go out, on which stream, and every call that is refused; on a pretended device."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest

import nbconv
from tests import reference
from tests.cases import Case
from tests.cuda import strangers
from tests.cuda.lanes import needs_compiler
from tests.cuda.strangers import Capsule, Cupy, CupyArray, Interface, Stream, Tensor, Torch, cupy, torch  # noqa: F401
from tests.helpers import DTYPES, Array, assert_equal, whole_numbers
from tests.test_backward import oracle

needs_compiler()

from nbconv.cuda import dlpack, driver, general, plan, streams  # noqa: E402
from nbconv.cuda import table as T  # noqa: E402
from nbconv.cuda.offered import Offered  # noqa: E402
from nbconv.geometry import ConvSpec, bind  # noqa: E402
from tests.cuda.checks.pretend_device import PretendArray, pretended_device  # noqa: E402

RNG = np.random.default_rng(5)
X, WEIGHT, BIAS = (strangers.aligned(whole_numbers(RNG, shape)) for shape in ((2, 9, 3), (4, 3, 3), (4,)))
EXPECTED = reference.run("conv1d", X, WEIGHT, BIAS, padding=1).astype(np.float32)
CASE = Case("conv1d", X.shape, WEIGHT.shape, {"padding": 1})


@pytest.fixture
def device() -> Iterator[Any]:
    with pretended_device() as pretended:
        yield pretended


def make(kind: Any, *arrays: Array) -> list[Any]:
    return [(Interface.of if kind is Interface else kind)(strangers.aligned(array)) for array in arrays]


def host_array(value: Any) -> Array:
    """Give the numbers of any array on the pretended device."""
    array = value.array
    return array.array if isinstance(array, PretendArray) else array  # type: ignore[no-any-return]


# ---- whose arrays --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("device", "torch", "cupy")
@pytest.mark.parametrize(
    ("kind", "result"),
    [(Tensor, Tensor), (CupyArray, CupyArray), (PretendArray, PretendArray), (Interface, PretendArray),
     (Capsule, Offered)],
)  # fmt: skip
def test_results_are_of_the_kind_of_the_first_array(kind: Any, result: Any) -> None:
    x, weight, bias = make(kind, X, WEIGHT, BIAS)
    y = nbconv.conv1d(x, weight, bias, padding=1)
    assert type(y) is result
    assert_equal(host_array(y), EXPECTED)
    dy = make(kind, whole_numbers(RNG, EXPECTED.shape))[0]
    grads = nbconv.conv1d_backward(dy, x, weight, padding=1)
    for grad, expected in zip(grads, oracle(CASE, dy.array, X, WEIGHT), strict=True):
        assert type(grad) is result
        assert_equal(host_array(grad), expected)


@pytest.mark.usefixtures("device", "torch", "cupy")
@pytest.mark.parametrize("kind", [Tensor, CupyArray])
def test_bfloat16(kind: Any) -> None:
    arrays = [array.astype(ml_dtypes.bfloat16) for array in (X, WEIGHT, BIAS)]
    y = nbconv.conv1d(*make(kind, *arrays), padding=1)
    assert y.array.dtype == ml_dtypes.bfloat16
    assert_equal(y.array, EXPECTED)


@pytest.mark.usefixtures("device", "torch", "cupy")
@pytest.mark.parametrize("kind", [Tensor, CupyArray])
def test_strides_and_out(kind: Any) -> None:
    # PyTorch has no negative strides.
    x = kind(X.transpose(2, 0, 1).copy().transpose(1, 2, 0)[:, ::2] if kind is Tensor else np.flip(X.copy()[:, ::2]))
    out = kind(np.full((2, 4, x.array.shape[1]), np.nan, np.float32).swapaxes(1, 2))
    weight, bias = make(kind, WEIGHT, BIAS)
    assert nbconv.conv1d(x, weight, bias, padding=1, out=out) is out
    assert_equal(out.array, reference.run("conv1d", x.array, WEIGHT, BIAS, padding=1))


@pytest.mark.usefixtures("device")
def test_tensors_that_require_grad_without_gradients(torch: Torch) -> None:  # noqa: F811
    torch.grad = False
    y = nbconv.conv1d(*(Tensor(array, requires_grad=True) for array in (X, WEIGHT, BIAS)), padding=1)
    assert_equal(y.array, EXPECTED)


def test_capsules() -> None:
    array = whole_numbers(RNG, (3, 4)).T
    tensor = dlpack.take(array)
    assert (tensor.pointer, tensor.shape, tensor.steps) == (array.ctypes.data, (4, 3), (1, 4))
    assert (tensor.dtype, tensor.device) == ("float32", 0)
    assert dlpack.take(np.ones(3, np.int64)).dtype is None
    for dtype in ("float16", "float64"):
        assert dlpack.take(np.ones(3, dtype)).dtype == dtype


def test_capsules_free_what_they_hold() -> None:
    import weakref

    array = np.ones(3).view(type("Kept", (np.ndarray,), {}))
    seen = weakref.ref(array)
    tensor = dlpack.take(array)
    del array
    assert seen() is not None
    del tensor
    assert seen() is None


@pytest.mark.usefixtures("device")
def test_results_offer_dlpack(external: list[Any]) -> None:
    x, weight, bias = make(Capsule, X, WEIGHT, BIAS)
    y = nbconv.conv1d(x, weight, bias, padding=1, stream=77)
    assert (x.streams, weight.streams) == ([77], [77])
    assert repr(y) == "<float32 (2, 9, 4) on CUDA device 0, by DLPack>"
    external.clear()
    tensor = dlpack.take(y, stream=88, max_version=(1, 0))
    assert external == [88, ("record", 77), ("wait", 88)]
    assert (tensor.shape, tensor.steps, tensor.dtype, tensor.device) == ((2, 9, 4), None, "float32", 0)
    assert tensor.pointer == host_array(y).ctypes.data
    external.clear()
    dlpack.take(y, stream=77)
    dlpack.take(y, stream=-1)
    assert external == []
    again = nbconv.conv1d(y, make(Capsule, np.ones((1, 4, 1), np.float32))[0], stream=0)
    assert external == [("record", 77), ("wait", 0)]
    assert_equal(host_array(again), EXPECTED.sum(-1, keepdims=True))


@pytest.mark.usefixtures("device")
def test_bfloat16_by_dlpack() -> None:
    words = Offered(PretendArray(BIAS), BIAS.ctypes.data, 0, (4,), "bfloat16")
    assert dlpack.take(words).dtype == "bfloat16"


@pytest.mark.usefixtures("device")
def test_offered_memory_lives_as_long_as_it_is_held() -> None:
    import weakref

    y = nbconv.conv1d(*make(Capsule, X, WEIGHT))
    seen = weakref.ref(y)
    never_taken, taken = y.__dlpack__(), dlpack.take(y)
    del y
    assert seen() is not None
    del never_taken
    assert seen() is not None
    del taken
    assert seen() is None


@pytest.mark.usefixtures("device")
def test_what_dlpack_cannot_give() -> None:
    y = nbconv.conv1d(*make(Capsule, X, WEIGHT))
    with pytest.raises(BufferError, match=r"the array is on CUDA device 0; got dl_device \(1, 0\)"):
        y.__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="the array is offered as it is: copy it on its device"):
        y.__dlpack__(copy=True)


# ---- the kernels of the weight's gradient ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "precision", "channels", "params", "kernels"),
    [
        ("float32", "high", 12, {}, ["tf32x3_64x64"]),
        ("float32", "tf32", 12, {}, ["tf32_64x64"]),
        ("float16", "high", 16, {}, ["f16_64x64"]),
        ("bfloat16", "high", 16, {}, ["bf16_64x64"]),
        # What tensor cores do not take goes to the tiles of float32, half types after a copy.
        ("float32", "high", 10, {}, ["grad_64x64_masked"]),
        ("float32", "tf32", 12, {"padding_mode": "circular"}, ["lay_rim", "tf32_64x64"]),
        ("bfloat16", "high", 12, {}, ["widen_numbers", "widen_numbers", "grad_64x64"]),
        ("float64", "high", 12, {}, ["weight_slices_wide"]),
    ],
)
def test_weight_gradients_by_type_and_precision(
    device: Any, dtype: str, precision: str, channels: int, params: dict[str, Any], kernels: list[str]
) -> None:
    x, weight = (whole_numbers(RNG, shape, DTYPES[dtype]) for shape in ((2, 40, channels), (16, channels, 3)))
    dy = whole_numbers(RNG, (2, 40, 16), DTYPES[dtype])
    case = Case("conv1d", x.shape, weight.shape, {"padding": 1, **params})
    options: dict[str, Any] = {**case.params, "precision": precision, "needs": ("weight",)}
    grad = nbconv.conv1d_backward(dy, x, weight, **options, device="cuda").weight
    assert_equal(grad, oracle(case, dy, x, weight)[1])
    assert [name for name, _ in device.launches] == [*kernels, "sum_weight_slices"]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("precision", "error"), [("high", 2.0**-20), ("tf32", 2.0**-10)])
def test_precision_of_weight_gradients(precision: str, error: float) -> None:
    """Of real numbers, in units of the sum of the products' sizes."""
    dy, x = RNG.random((2, 60, 8), np.float32) - 0.5, RNG.random((2, 64, 8), np.float32) - 0.5
    weight = np.zeros((8, 8, 5), np.float32)
    grad = nbconv.conv1d_backward(dy, x, weight, needs=("weight",), precision=precision, device="cuda").weight
    case = Case("conv1d", x.shape, weight.shape)
    exact, sizes = (oracle(case, f(dy), f(x), weight)[1] for f in (np.asarray, np.abs))
    assert (np.abs(grad - exact) <= error * sizes).all()
    assert precision == "high" or (np.abs(grad - exact) > 2.0**-20 * sizes).any()


# ---- streams, copies -----------------------------------------------------------------------------------------------


@pytest.fixture
def external(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the streams and events that are asked of the driver."""
    asked: list[Any] = []

    class Event:
        def record(self, stream: Any) -> None:
            asked.append(("record", stream.handle))

        def wait(self, stream: Any) -> None:
            asked.append(("wait", getattr(stream, "handle", stream)))

    class External:
        def __init__(self, handle: int) -> None:
            self.handle = handle
            asked.append(handle)

    monkeypatch.setattr(driver.cuda, "external_stream", External)
    monkeypatch.setattr(driver.cuda, "event", lambda timing: Event())
    streams._stream.cache_clear()
    return asked


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    "stream",
    [
        77,
        Stream(77),
        SimpleNamespace(handle=SimpleNamespace(value=77)),
        SimpleNamespace(__cuda_stream__=lambda: (0, 77)),
    ],
    ids=["handle", "PyTorch", "Numba", "cuda.core"],
)
def test_streams(stream: Any, torch: Torch, external: list[Any]) -> None:  # noqa: F811
    y = nbconv.conv1d(*make(Tensor, X, WEIGHT, BIAS), padding=1, stream=stream)
    assert_equal(y.array, EXPECTED)
    assert external == [77]
    assert torch.streams == [77]  # PyTorch's memory is pooled by stream


@pytest.mark.usefixtures("device", "cupy")
def test_work_of_other_streams_is_waited_for_on_the_device(external: list[Any]) -> None:
    weight, bias = make(CupyArray, WEIGHT, BIAS)
    nbconv.conv1d(CupyArray(X, stream=5), weight, bias, padding=1)
    assert external == [5, ("record", 5), ("wait", 0)]
    external.clear()
    nbconv.conv1d(CupyArray(X, stream=1), weight, bias, padding=1)  # the default stream's other name
    assert external == []


@pytest.mark.usefixtures("device", "torch")
def test_nothing_is_copied_from_the_host_after_the_first_call() -> None:
    layer = nbconv.Conv1d(WEIGHT, BIAS, padding=1).to("cuda")
    x, weight, bias = make(Tensor, X, WEIGHT, BIAS)
    dy = make(Tensor, EXPECTED)[0]

    def calls() -> None:
        assert_equal(layer(x).array, EXPECTED)
        assert_equal(nbconv.conv1d(x, weight, bias, padding=1).array, EXPECTED)
        nbconv.conv1d_backward(dy, x, weight, padding=1)

    calls()
    with mock.patch.object(driver.cuda, "to_device", side_effect=AssertionError("a copy from the host")):
        calls()


@pytest.mark.usefixtures("device", "torch")
def test_the_arrays_device_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []

    class Manager(SimpleNamespace):
        compute_capability = (9, 0)

        def __enter__(self) -> None:
            current.append(self.id)

        def __exit__(self, *error: Any) -> None:
            current.pop()

    monkeypatch.setattr(driver.cuda, "gpus", [Manager(id=0), Manager(id=1)])
    driver.require_device.cache_clear()
    launched: list[tuple[int, ...]] = []
    monkeypatch.setattr(plan.Launch, "__call__", lambda self, *arguments: launched.append(tuple(current)))
    x, weight, bias = (Tensor(array, device=1) for array in (X, WEIGHT, BIAS))
    nbconv.conv1d(x, weight, bias)
    nbconv.conv1d_backward(Tensor(EXPECTED, device=1), x, weight, padding=1)
    assert set(launched) == {(1,)}
    layer = nbconv.Conv1d(WEIGHT, BIAS).to("cuda:1")
    layer(x)
    assert set(launched) == {(1,)}
    with pytest.raises(ValueError, match="x is on CUDA device 0, weight on 1: move one"):
        layer(Tensor(X))
    with pytest.raises(ValueError, match="there is no device 'cuda:2'; CUDA devices: 2"):
        layer.to("cuda:2")
    driver.require_device.cache_clear()


def test_small_grids_warn_nobody() -> None:
    launched = []

    class Configured:
        def __getitem__(self, configuration: Any) -> Any:
            general.product_wide[configuration]
            return lambda *arguments: launched.append(arguments)

    with pytest.warns(match="Grid size 2 will likely"):
        general.product_wide[(1, 1, 2), 32, 0, 0]
    launch = plan.Launch(Configured(), (1, 1, 3), 32)
    launch(0, "x", "y")
    launch(0, "x", "y")
    assert launched == [("x", "y")] * 2


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("device", "torch", "cupy")
class TestRefused:
    """Calls that are refused before anything is launched."""

    @pytest.fixture(autouse=True)
    def nothing_is_launched(self, device: Any) -> Iterator[None]:
        yield
        assert not device.launches

    @pytest.mark.parametrize("name", ["x", "weight", "bias", "out"])
    def test_mixed_arrays(self, name: str) -> None:
        arguments: dict[str, Any] = dict(zip(("x", "weight", "bias"), make(Tensor, X, WEIGHT, BIAS), strict=True))
        arguments["out"] = Tensor(EXPECTED.copy())
        arguments[name] = arguments[name].array
        with pytest.raises(TypeError, match=rf"conv1d: .*{name} \(ndarray\) on the CPU; nothing is copied silently"):
            nbconv.conv1d(**arguments, padding=1)

    def test_types(self) -> None:
        x, weight = make(Tensor, X.astype(np.int32), WEIGHT.astype(np.int32))
        with pytest.raises(TypeError, match="conv1d: x has dtype int32; nbconv computes float32"):
            nbconv.conv1d(x, weight)
        with pytest.raises(TypeError, match="x has dtype float32, weight has dtype float64; they must share one"):
            nbconv.conv1d(*make(Tensor, X, WEIGHT.astype(float)))
        with pytest.raises(TypeError, match=r"x requires grad, which nbconv would not record; use x\.detach"):
            nbconv.conv1d(Tensor(X, requires_grad=True), Tensor(WEIGHT))
        with pytest.raises(TypeError, match=r"weight \(Capsule\) has numbers of a type"):
            nbconv.conv1d(Capsule(X), Capsule(WEIGHT.astype(np.int8)))
        with pytest.raises(TypeError, match="x has dtype >f4, of the other byte order"):
            nbconv.conv1d(*make(CupyArray, X.astype(">f4"), WEIGHT))

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match="conv1d: x has 3 channels, weight expects"):
            nbconv.conv1d(*make(Tensor, X, WEIGHT[:, :2]))
        with pytest.raises(ValueError, match=r"grad_output has shape \(2, 9, 4\), the forward call gives \(2, 7, 4\)"):
            nbconv.conv1d_backward(*make(Tensor, EXPECTED, X, WEIGHT))

    @pytest.mark.parametrize(
        ("out", "text"),
        [
            (lambda x: CupyArray(np.zeros((2, 9, 4))), "out has dtype float64, the result has float32"),
            (lambda x: CupyArray(np.zeros((2, 9, 5), np.float32)), "out has shape .2, 9, 5., the result has .2, 9, 4."),
            (lambda x: CupyArray(np.zeros((2, 9, 4), np.float32), readonly=True), "out is read-only"),
            (lambda x: CupyArray(np.zeros((2, 9, 4), np.float32), device=1), "out on 1: move one"),
            (lambda x: CupyArray(np.broadcast_to(np.zeros(4, np.float32), (2, 9, 4))), "out overlaps itself"),
            (lambda x: CupyArray(np.resize(x.array, (4, 9, 4))), "out has shape"),
        ],
    )
    def test_out(self, out: Any, text: str) -> None:
        x, weight = make(CupyArray, X, WEIGHT)
        with pytest.raises((TypeError, ValueError), match=f"conv1d: .*{text}"):
            nbconv.conv1d(x, weight, padding=1, out=out(x))

    def test_out_that_shares_memory(self) -> None:
        memory = strangers.aligned(np.zeros(2 * 9 * 3 + 2 * 9 * 4 - 1, np.float32))
        x, out = CupyArray(memory[: X.size].reshape(X.shape)), CupyArray(memory[X.size - 1 :].reshape(2, 9, 4))
        with pytest.raises(ValueError, match="out shares memory with an input"):
            nbconv.conv1d(x, *make(CupyArray, WEIGHT), padding=1, out=out)

    def test_devices(self) -> None:
        with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'cuda:' and a number; got 'gpu'"):
            nbconv.conv1d(X, WEIGHT, device="gpu")
        with pytest.raises(ValueError, match="there is no device 'cuda:3'; CUDA devices: 1"):
            nbconv.conv1d(X, WEIGHT, device="cuda:3")
        with pytest.raises(ValueError, match="device is 'cpu', and the arrays are on a CUDA device"):
            nbconv.conv1d(*make(Tensor, X, WEIGHT), device="cpu")
        with pytest.raises(ValueError, match="x is on CUDA device 0, weight on 1: move one"):
            nbconv.conv1d(Tensor(X), Tensor(WEIGHT, device=1))

    def test_streams_and_precisions(self) -> None:
        with pytest.raises(TypeError, match="stream must be a CUDA stream of PyTorch, CuPy, Numba"):
            nbconv.conv1d(*make(Tensor, X, WEIGHT), stream="mine")
        with pytest.raises(ValueError, match="stream is for arrays on a device"):
            nbconv.conv1d(X, WEIGHT, stream=Stream(3))
        with pytest.raises(ValueError, match="precision must be one of high, tf32; got 'low'"):
            nbconv.conv1d(*make(Tensor, X, WEIGHT), precision="low")
        with pytest.raises(ValueError, match="algorithm must be one of"):
            nbconv.conv1d(*make(Tensor, X, WEIGHT), algorithm="fast")

    def test_layers(self) -> None:
        layer = nbconv.Conv1d(WEIGHT, BIAS)
        remote = layer.to("cuda")
        with pytest.raises(TypeError, match=r"Conv1d: x \(ndarray\) is on the CPU, the layer on a device"):
            remote(X)
        with pytest.raises(TypeError, match=r"Conv1d: x \(Tensor\) is on a device, the layer is not"):
            layer(Tensor(X))
        with pytest.raises(TypeError, match=r"Conv1d: grad_output .* on the CPU"):
            remote.backward(EXPECTED, X)
        with pytest.raises(TypeError, match="x has dtype float64, weight has dtype float32"):
            remote(Tensor(X.astype(float)))
        with pytest.raises(TypeError, match="layer 0 cannot be brought to a device"):
            nbconv.Sequential(np.tanh, layer).to("cuda")

    def test_more_numbers_than_kernels_count(self) -> None:
        weight = Interface.of(WEIGHT)
        x = Interface(shape=(1, 2**30, 3), typestr="<f4", data=(256, False))
        with pytest.raises(ValueError, match=r"x spans 3221225472 numbers; kernels on a device count to 2147418112"):
            nbconv.conv1d(x, weight)


@pytest.mark.parametrize(
    ("op", "x", "weight", "params", "text"),
    [
        ("conv_transpose1d", (1, 2**12, 3), (3, 4, 3), {"stride": 2**20}, "the result has 17175674892 numbers"),
        ("conv1d", (1, 5, 2**15), (2**15, 2**15, 3), {}, "the packed weight has 3221225472 numbers"),
        ("conv1d", (1, 5, 3), (4, 3, 3), {"stride": 2**31}, "on axis 0 reach .* positions far"),
    ],
)
def test_sizes_of_all_that_is_counted(op: str, x: Any, weight: Any, params: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        T.check_sizes(bind(ConvSpec.of(op, **params), x, weight))


def test_activations_have_the_names_of_the_cpu() -> None:
    from nbconv.options import ACTIVATIONS

    assert tuple(ACTIVATIONS) == T.ACTIVATIONS
