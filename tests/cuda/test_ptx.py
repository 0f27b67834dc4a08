"""The compiled kernels, run instruction by instruction: exact results, no races, nothing read or written beside arrays.

First the tiled and the depthwise kernels, each on shapes that end in the middle of its tiles; then the whole package on
a device that is only pretended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbconv
from tests.cuda.lanes import needs_compiler

needs_compiler()

from nbconv.cuda import gemm_tiles, grad_gemm, split_reduction  # noqa: E402
from tests.cases import CASES, Case  # noqa: E402
from tests.cuda.checks.artifacts import compile_side_by_side  # noqa: E402
from tests.cuda.checks.listing import Entry, product_entries, slice_entries  # noqa: E402
from tests.cuda.checks.pretend_device import Device, pretended_device  # noqa: E402
from tests.cuda.checks.problems import Problem, SliceProblem, geometry_of  # noqa: E402
from tests.cuda.checks.shapes import DEPTHWISE, RAGGED, layer  # noqa: E402
from tests.helpers import (  # noqa: E402
    DTYPES,
    arrays_of,
    assert_close,
    assert_equal,
    expected_of,
    real_numbers,
    rng_for,
    sum_tolerance,
    whole_numbers,
)
from tests.test_backward import oracle  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    compile_side_by_side()


def _runs() -> Iterator[tuple[Entry, Case]]:
    """Give each tiled kernel a third of the cases that fit it, each depthwise one all."""
    for i, entry in enumerate(product_entries()):
        cases = DEPTHWISE if entry.family == "depthwise" else RAGGED
        fitting = [case for case in cases if entry.fits(geometry_of(case))]
        for case in fitting if entry.family == "depthwise" else fitting[i % 3 :: 3]:
            yield entry, case


def name_of(value: Any) -> str:
    return str(value)


@pytest.mark.parametrize(("entry", "case"), list(_runs()), ids=name_of)
def test_products_are_exact(entry: Entry, case: Case) -> None:
    """Whole numbers: each type holds them, and their products and sums in float32.

    Banks of shared memory may only meet where x is copied number by number.
    """
    problem = Problem(case, DTYPES[entry.dtype], residual=True)
    y, report = problem.run(entry.artifacts.ptx(), entry.grid(problem.geometry))
    assert_equal(y, problem.expected())
    assert entry.masked or not report.conflicts


@pytest.mark.parametrize("entry", [entry for entry in product_entries() if not entry.masked], ids=name_of)
def test_products_of_real_numbers_and_an_activation(entry: Entry) -> None:
    case = next(case for case in [*RAGGED, *DEPTHWISE] if entry.fits(geometry_of(case)))
    problem = Problem(case, DTYPES[entry.dtype], "gelu", draw=real_numbers)
    y, _ = problem.run(entry.artifacts.ptx(), entry.grid(problem.geometry))
    tolerance = sum_tolerance(case, problem.x, problem.weight, problem.bias)
    rounding = 2.0**-11 / np.finfo(np.float32).eps if entry.kind == "tf32" else 1.0
    assert_close(y, problem.expected(), tolerance * rounding + 1e-5)


FFMA_TILES = [entry for entry in product_entries() if entry.hot == "FFMA"]
# Of each number that is copied by itself, PTX makes three instructions more than the machine.
EXECUTED_MASKED = {"128x128": 0.85, "128x64": 0.83, "64x64": 0.79, "256x32": 0.77}


@pytest.mark.parametrize("entry", FFMA_TILES, ids=name_of)
def test_multiplications_are_most_of_the_work(entry: Entry) -> None:
    """Of what is really executed: two lengths of the reduction tell what a slice of it costs.

    PTX takes two instructions for some addresses and conditions of the copies that the machine has one for.
    """
    sizes = gemm_tiles.TILES[entry.tile]
    steps = []
    for channels in (62, 126) if entry.masked else (64, 128):
        case = layer("conv1d", (1, sizes.rows, channels), (sizes.columns, channels, 1))
        problem = Problem(case, DTYPES["float32"])
        steps.append(problem.run(entry.artifacts.ptx(), entry.grid(problem.geometry))[1].steps)
    multiplications = 64 * sizes.rows * sizes.columns / sizes.threads
    least = EXECUTED_MASKED[entry.tile] if entry.masked else entry.share - 0.01
    assert multiplications / (steps[1] - steps[0]) >= least


@pytest.mark.parametrize("entry", list(slice_entries()), ids=name_of)
def test_slices_of_the_weight_gradient_are_exact(entry: Entry) -> None:
    fitting = [case for case in RAGGED if entry.fits(geometry_of(case))]
    assert len(fitting) >= 2
    for case in fitting:
        problem, rows = SliceProblem(case, DTYPES[entry.dtype]), 2 * grad_gemm.DEPTH
        geometry = problem.geometry
        blocks, threads = grad_gemm.launch(geometry, entry.tile, rows)
        slices = -(-geometry.n * int(np.prod(geometry.output_shape[1:-1])) // rows)
        total, report = problem.run(entry.artifacts.ptx(), (blocks, (threads, 1, 1), 0), slices, rows)
        assert_equal(total, problem.expected(), str(case))
        assert entry.masked or not report.conflicts


# ---- the whole package ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with pretended_device() as pretended:
        yield pretended


SMOKE = [case for case in CASES if "smoke" in case.tags]
# Each case with one type: the simulator runs them with all.
PACKAGE = [(case, ("float32", "bfloat16", "float32", "float16", "float64")[i % 5]) for i, case in enumerate(SMOKE)]
PACKAGE += [(case, ("float32", "float16", "bfloat16")[i % 3]) for i, case in enumerate([*RAGGED, *DEPTHWISE])]


@pytest.mark.parametrize(("case", "dtype"), PACKAGE, ids=str)
def test_package(device: Device, case: Case, dtype: str) -> None:
    """Forward and all gradients through the public functions; arrays are brought there and back."""
    x, weight, bias = arrays_of(case, DTYPES[dtype])
    y = getattr(nbconv, case.op)(x, weight, bias, **case.params, device="cuda")
    assert_equal(y, expected_of(case, x, weight, bias))
    grad_output = whole_numbers(rng_for(case, "grad_output"), y.shape, DTYPES[dtype], most=1)
    backward = getattr(nbconv, f"{case.op}_backward")
    grads = backward(grad_output, x, weight, **case.params, device="cuda")
    for name, grad, expected in zip(grads._fields, grads, oracle(case, grad_output, x, weight), strict=True):
        assert_equal(grad, expected, name)


@pytest.mark.parametrize(
    ("case", "kernel"),
    [
        (layer("conv1d", (1, 70, 64), (40, 64, 3), padding=1), "tf32x3_64x64"),
        (layer("conv_transpose1d", (1, 20, 70), (70, 12, 5), stride=2), "ffma_64x64_masked"),
    ],
    ids=name_of,
)
def test_reductions_in_slices(device: Device, case: Case, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_reduction, "LEAST_STEPS", 64)
    arrays = arrays_of(case)
    y = getattr(nbconv, case.op)(*arrays, **case.params, activation="relu", device="cuda")
    assert_equal(y, np.maximum(expected_of(case, *arrays), 0))
    assert [name for name, _ in device.launches[-2:]] == [kernel, "sum_slices"]


def test_package_used_every_kind_of_kernel(device: Device) -> None:
    """Run after the tests above: their launches are counted."""
    used = {name.split("_")[0] for name, _ in device.launches}
    expected = {
        "tf32x3",
        "bf16",
        "f16",
        "product",
        "slide",
        "stride",
        "grad",
        "weight",
        "sum",
        "bias",
        "fold",
        "pack",
        "lay",
    }
    assert expected <= used, expected - used
