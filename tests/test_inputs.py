"""Arrays of other makers, specialisations, and what the rest of the suite does not ask of inputs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import nbconv
from tests.helpers import LAYOUTS, OPS, Array, assert_equal, optional, rng_for, whole_numbers
from tests.processes import run_python

SPECIALISATIONS = """
import nbconv
from nbconv.cpu import loops, weights
from nbconv.runtime import twins
from tests.helpers import LAYOUTS
from numba.core.dispatcher import Dispatcher

def count():
    values = [value for module in (loops, weights, twins) for value in vars(module).values()]
    entries = [value.serial for value in values if isinstance(value, twins.Twins)]
    functions = [value for value in values if isinstance(value, Dispatcher)]
    entries += [value for value in functions if "no_cpython_wrapper" not in value.targetoptions]
    return sum(len(entry.overloads) for entry in entries)

x, weight = inputs(30)
bias = np.ones(40, np.float32)
nbconv.conv1d(x, weight, bias)
nbconv.conv1d(x, LAYOUTS["spaced"](weight), bias)  # packed by another function
before = count()
assert before > 0
number = 0
for make_x in LAYOUTS.values():
    for make_w in LAYOUTS.values():
        whole = {"stride": np.int8(1), "padding": np.uint64(1), "groups": np.int32(1)}
        nbconv.conv1d(make_x(x), make_w(weight), make_w(bias), **whole)
        number += 1
for whole in (int, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64):
    nbconv.conv1d(x, weight, dilation=whole(2), padding=((whole(1), whole(2)),))
    nbconv.conv1d(x[0], weight)
    nbconv.conv2d(x[None], weight[:, :, None])
    nbconv.conv_transpose1d(x, np.ascontiguousarray(weight.transpose(1, 0, 2)), stride=whole(2))
print(number, count() - before)
"""


def test_layouts_flags_and_integer_types_add_no_specialisation() -> None:
    number, added = run_python(SPECIALISATIONS).split()
    assert int(number) == len(LAYOUTS) ** 2
    assert added == "0"


# ---- arrays of other makers ----------------------------------------------------------------------------------------


class Exporter:
    """An array that only speaks DLPack."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.exports = 0

    def __dlpack__(self, **options: Any) -> Any:
        self.exports += 1
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()  # type: ignore[return-value]


class OnAnotherDevice(Exporter):
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("not on the CPU")


def data() -> tuple[Array, Array, Array]:
    rng = rng_for("inputs")
    return whole_numbers(rng, (2, 30, 6)), whole_numbers(rng, (5, 6, 3)), whole_numbers(rng, (5,))


def test_dlpack_objects() -> None:
    x, weight, bias = data()
    sources = [Exporter(a) for a in (x, weight, bias)]
    y = nbconv.conv1d(*sources)  # type: ignore[arg-type]
    assert_equal(y, nbconv.conv1d(x, weight, bias))
    assert all(source.exports == 1 for source in sources)


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_dlpack_objects_elsewhere_are_refused(name: str) -> None:
    arguments: dict[str, Any] = dict(zip(("x", "weight", "bias"), data(), strict=True))
    arguments[name] = OnAnotherDevice(arguments[name])
    with pytest.raises(TypeError, match=f"conv1d: {name} .*CPU"):
        nbconv.conv1d(**arguments)


@pytest.mark.torch
class TestTorch:
    """Tensors of PyTorch on the CPU."""

    torch = None

    @pytest.fixture(autouse=True)
    def load(self) -> None:
        self.torch = optional("torch", "NBCONV_REQUIRE_TORCH")

    def test_tensors_are_viewed(self) -> None:
        torch: Any = self.torch
        x, weight, bias = data()
        expected = nbconv.conv1d(x, weight, bias)
        assert_equal(nbconv.conv1d(torch.tensor(x), torch.tensor(weight), torch.tensor(bias)), expected)
        channels_first = torch.tensor(x).permute(0, 2, 1).contiguous().permute(0, 2, 1)
        assert_equal(nbconv.conv1d(channels_first, weight, bias), expected)

    def test_no_copy_is_made(self) -> None:
        torch: Any = self.torch
        from nbconv.arrays import check_array

        tensor = torch.ones(4, 5)
        assert check_array("conv1d", "x", tensor).ctypes.data == tensor.data_ptr()

    def test_tensors_that_need_gradients_say_how(self) -> None:
        torch: Any = self.torch
        x, weight, _ = data()
        with pytest.raises(TypeError, match=r"conv1d: x .*(detach|grad)"):
            nbconv.conv1d(torch.tensor(x, requires_grad=True), weight)

    def test_bfloat16_says_how(self) -> None:
        torch: Any = self.torch
        x, weight, _ = data()
        with pytest.raises(TypeError, match=r"conv1d: x .*bfloat16.*uint16"):
            nbconv.conv1d(torch.tensor(x).bfloat16(), weight)
        words = torch.tensor(x).bfloat16().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        y = nbconv.conv1d(words, weight.astype(ml_dtypes.bfloat16))
        assert y.dtype == ml_dtypes.bfloat16


# ---- what NumPy makes of subclasses and scalars ---------------------------------------------------------------------


def test_subclasses_come_back_as_arrays() -> None:
    class Mine(np.ndarray):
        pass

    x, weight, bias = data()
    y = nbconv.conv1d(x.view(Mine), weight.view(Mine), bias.view(Mine))
    assert type(y) is np.ndarray
    assert_equal(y, nbconv.conv1d(x, weight, bias))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_no_samples(op: str, dtype: str) -> None:
    ndim, transposed = int(op[-2]), "transpose" in op
    x = np.ones((0, *(7,) * ndim, 4), dtype)
    weight = np.ones((4, 3, *(3,) * ndim) if transposed else (3, 4, *(3,) * ndim), dtype)
    y = getattr(nbconv, op)(x, weight)
    assert y.shape == (0, *((9,) * ndim if transposed else (5,) * ndim), 3)
    assert y.dtype == x.dtype


@pytest.mark.slow
def test_more_than_two_to_the_31_elements_for_real() -> None:
    """4.3 GB of float16 in, read at both ends and in the middle."""
    code = """
import nbconv
lines = open("/proc/meminfo").read().splitlines()
free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
if free < 7:
    print(f"not run: {free:.1f} GiB of memory are free, it takes 7")
    raise SystemExit
length = 2**31 // 64 + 1000
x = np.zeros((length, 64), np.float16)
rows = [0, 1, length // 2, length - 2, length - 1]
x[rows] = np.arange(1, 6, dtype=np.float16)[:, None]
weight = np.ones((1, 64, 2), np.float16)
y = nbconv.conv1d(x, weight)
assert y.shape == (length - 1, 1)
nonzero = np.flatnonzero(y[:, 0])
found = dict(zip(nonzero.tolist(), y[nonzero, 0].tolist()))
middle = length // 2
assert found == {0: 192, 1: 128, middle - 1: 192, middle: 192, length - 3: 256, length - 2: 576}, found
print("exact")
"""
    printed = run_python(code, timeout=900)
    if printed.startswith("not run"):
        pytest.skip(printed)
    assert printed == "exact"
