"""What of bench/gpu.py needs no device: its shapes, its table, its refusal; and its plumbing, on a pretended device."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

import nbconv
from bench import gpu, gpu_table
from bench.gpu_shapes import DENSE, DEPTHWISE, GOALS, PASSES, TINY, least_bytes, output_shape, product_of
from nbconv.geometry import bind
from tests.cases import Case
from tests.cuda.lanes import SIMULATED
from tests.helpers import arrays_of, assert_equal, expected_of, optional, rng_for, whole_numbers

LAYERS = [*DENSE, *DEPTHWISE, TINY]


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_products_have_the_layers_operations(case: Case) -> None:
    for what in PASSES:
        assert product_of(case, what).flops == 2 * case.macs


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers_bind(case: Case) -> None:
    from nbconv.geometry import ConvSpec

    geometry = bind(ConvSpec.of(case.op, **case.params), case.x_shape, case.weight_shape)
    assert output_shape(case) == geometry.output_shape
    assert least_bytes(case, 4) == 4 * sum(map(math.prod, (case.x_shape, case.weight_shape, geometry.output_shape)))


def test_names_are_unique() -> None:
    assert len({case.name for case in LAYERS}) == len(LAYERS)


def content() -> dict[str, Any]:
    """Make up a run: every layer at twice its goal, PyTorch half as fast."""
    rows = []
    for arithmetic, (goal, unit) in GOALS.items():
        for case in DEPTHWISE if arithmetic == "depthwise" else DENSE:
            for what in PASSES:
                row = {"name": case.name, "pass": what, "arithmetic": arithmetic, "unit": unit, "speed": 2 * goal}
                times = {"seconds": 1.0, "cublas": 0.8, "peers": {"conv1d": 3.0, "conv2d channels_last": 2.0}}
                rows.append(row | times)
    return {
        "machine": {"device": "Made Up 1", "date": "2026-01-01", "numba_cuda": "0.30.4", "torch": None},
        "checks": {"passed": 7, "failed": []},
        "sanitizer": {"memcheck": "clean"},
        "ceilings": {"copy": 4.3},
        "rows": rows,
        "launch": {},
    }


def test_table_of_a_run() -> None:
    lines = gpu_table.table_lines(content())
    assert lines[2] == "| float32, FFMA units | 42 TFLOP/s | 84 TFLOP/s | 80% | 2.00 | 2.00 |"
    assert len(lines) == 2 + len(GOALS) + 2
    assert lines[-1].endswith("Checked on the device: 7 results right, 0 wrong; memcheck clean.")


def test_table_tells_the_slowest_of_the_layers_with_goals() -> None:
    run = content()
    next(row for row in run["rows"] if row["name"] == DENSE[1].name)["speed"] = 30.0
    next(row for row in run["rows"] if row["name"] == DENSE[5].name)["speed"] = 1.0
    assert "| 30 TFLOP/s |" in gpu_table.table_lines(run)[2]


def test_table_without_peers() -> None:
    run = content()
    run["rows"] = [row | {"cublas": None, "peers": {}} for row in run["rows"] if row["arithmetic"] != "bf16"]
    lines = gpu_table.table_lines(run)
    assert lines[2] == "| float32, FFMA units | 42 TFLOP/s | 84 TFLOP/s | | | |"
    assert lines[5] == "| bfloat16 | 380 TFLOP/s | not measured | | | |"


def test_table_without_a_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(gpu_table, "result_files", return_value=[]):
        assert gpu.main(["--table"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(gpu_table.NOT_TIMED) == len(GOALS)


def test_kept_runs_are_found_and_printed(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / gpu_table.file_name("Made Up 1")
    gpu_table.write(path, content())
    (tmp_path / "other.json").write_text(json.dumps({"rows": []}))
    with mock.patch.object(gpu_table, "RESULTS", tmp_path):
        assert gpu_table.result_files() == [path]
        assert gpu.main(["--table"]) == 0
    assert capsys.readouterr().out.splitlines() == gpu_table.table_lines(content())
    assert path.name == "made-up-1.json"


def test_no_device_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    message = "no CUDA device can be used: made up"
    fake = SimpleNamespace(require_device=mock.Mock(side_effect=nbconv.DeviceError(message)))
    with mock.patch.dict("sys.modules", {"nbconv.cuda.driver": fake}):
        assert gpu.main([]) == 2
    assert message in capsys.readouterr().err


PEERS = [
    Case("conv1d", (2, 11, 6), (4, 3, 3), {"padding": 2, "stride": 2, "groups": 2, "dilation": 2}),
    Case("conv2d", (1, 7, 8, 4), (6, 4, 3, 2), {"padding": (1, 0), "stride": (1, 2)}),
    Case("conv2d", (1, 7, 8, 4), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
    Case("conv_transpose1d", (2, 9, 4), (4, 3, 4), {"padding": 1, "stride": 3, "output_padding": 1}),
    Case("conv_transpose2d", (1, 4, 5, 4), (4, 6, 2, 2), {"stride": 2}),
]


@pytest.mark.torch
@pytest.mark.parametrize("case", PEERS, ids=str)
def test_peers_compute_the_same(case: Case) -> None:
    """PyTorch's calls on tensors of the host."""
    torch = optional("torch", "NBCONV_REQUIRE_TORCH")
    from bench.gpu_torch import Torch

    arrays = arrays_of(case)
    grad_output = whole_numbers(rng_for(case, "grad_output"), output_shape(case))
    tensors = tuple(map(torch.from_numpy, (*arrays, grad_output)))
    grads = getattr(nbconv, f"{case.op}_backward")(grad_output, *arrays[:2], **case.params)
    expected = {"forward": expected_of(case, *arrays), "grad_x": grads.x, "grad_weight": grads.weight}
    for what in PASSES:
        calls = Torch(torch).calls(case, what, tensors, tf32=False)
        assert len(calls) == 3 - case.ndim
        for name, call in calls.items():
            result = call().numpy()
            if name.startswith("conv2d") and what != "grad_weight":
                result = result.transpose(0, 2, 3, 1)
            assert_equal(result.reshape(expected[what].shape), expected[what], f"{name} {what}")


# ---- on a pretended device ------------------------------------------------------------------------------------------


@pytest.fixture
def device() -> Any:
    optional("numba_cuda", "NBCONV_REQUIRE_CUDA_LANES")
    if SIMULATED:
        pytest.skip("the simulator compiles nothing")
    from tests.cuda.checks.pretend_device import pretended_device

    with pretended_device() as pretended:
        yield pretended


class Event:
    """An event of the pretended device."""

    def record(self, stream: Any = 0) -> None:
        pass

    def synchronize(self) -> None:
        pass


def test_every_check_runs(device: Any) -> None:
    from bench import gpu_checks

    kinds: dict[str, Any] = {}
    for name, function, arguments in gpu_checks.checks(short=False):
        kinds.setdefault(name.split("_")[0].split()[0] + function.__name__, (function, arguments))
    assert len(kinds) >= 8
    for name, (function, arguments) in kinds.items():
        assert function(*arguments), name


def test_wrong_results_are_named(device: Any) -> None:
    from bench import gpu_checks

    some = [("right", lambda: True, ()), ("wrong", lambda: False, ()), ("broken", lambda: 1 // 0, ())]
    with mock.patch.object(gpu_checks, "checks", return_value=some):
        result = gpu_checks.check_all()
    assert result == {"passed": 1, "failed": ["wrong", "broken: ZeroDivisionError: integer division or modulo by zero"]}


def test_layers_are_timed(device: Any) -> None:
    from bench import gpu_device

    cases = [
        Case("conv1d", (1, 70, 16), (72, 16, 3), {"padding": 1}, name="small"),
        Case("conv1d", (1, 20, 8), (8, 1, 3), {"padding": 1, "groups": 8}, name="small depthwise"),
    ]
    said: list[str] = []
    with (
        mock.patch.multiple(gpu_device, WARM_UP=0, ROUNDS=1, LEAST_BATCH=1e-9),
        mock.patch.multiple(
            gpu_device.cuda, event=lambda timing: Event(), event_elapsed_time=lambda start, end: 1.0, create=True
        ),
    ):
        rows = gpu_device.rows(None, cases, said.append)
    assert [(row["arithmetic"], row["pass"]) for row in rows] == [
        *[(arithmetic, what) for arithmetic in ("fp32", "3xtf32", "tf32", "float16") for what in PASSES],
        *[("depthwise", what) for what in PASSES],
    ]
    assert all(row["seconds"] == 1e-3 for row in rows)
    assert any("torch is not installed" in line for line in said)
    used = {name.split("_")[0] for name, _ in device.launches}
    assert {"ffma", "tf32x3", "tf32", "f16", "slide", "grad"} <= used
