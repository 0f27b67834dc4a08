"""Rooflines and the table of the command line."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from nbconv import count_command
from nbconv.counting import count_operations
from nbconv.time_floor import ITEM_SIZES, roofline
from tests.counting_calls import calls
from tests.counting_oracle import Call, interpret

GRADIENTS = ("x", "weight", "bias")


# ---- roofline ------------------------------------------------------------------------------------------------------


@given(calls(ndim=1) | calls(ndim=2))
def test_least_bytes(call: Call) -> None:
    ran = interpret(call)
    if ran is None:
        return
    read = {name: len(indices) for name, indices in ran.read.items()}
    outputs = math.prod(ran.output_shape)
    biases = call.c_out if call.bias and outputs else 0
    floor = roofline(call.op, call.x_shape, call.weight_shape, **call.params, bias=call.bias, dtype="float64")
    assert floor.flops == sum(ran.tallies["output"])
    assert floor.bytes_moved == 8 * (read["x"] + read["weight"] + biases + outputs)
    written = {"x": math.prod(call.x_shape), "weight": math.prod(call.weight_shape), "bias": call.c_out}
    alone = {"x": read["weight"] + read["grad_output"], "weight": read["x"] + read["grad_output"], "bias": outputs}
    together = read["x"] + read["weight"] + outputs

    def backward(*needs: str) -> int:
        op = f"{call.op}_backward"
        return roofline(op, call.x_shape, call.weight_shape, **call.params, needs=needs, dtype="float16").bytes_moved

    for need in GRADIENTS:
        assert backward(need) == 2 * (alone[need] + written[need])
    assert backward(*GRADIENTS) == 2 * (together + sum(written.values()))


def test_roofline_figures() -> None:
    layer: dict[str, Any] = {"x_shape": (1, 100, 8), "weight_shape": (16, 8, 1), "bias": True}
    floor = roofline("conv1d", **layer, peak=1e9, bandwidth=4e9)
    assert (floor.flops, floor.bytes_moved) == (2 * 100 * 8 * 16, 4 * (800 + 128 + 16 + 1600))
    assert floor.intensity == 25600 / 10176
    assert (floor.compute_time, floor.memory_time) == (25600 / 1e9, 10176 / 4e9)
    assert (floor.time, floor.bound) == (25600 / 1e9, "compute")
    assert roofline("conv1d", **layer, peak=1e12, bandwidth=1e9).bound == "memory"
    unknown = roofline("conv1d", **layer)
    assert (unknown.time, unknown.bound) == (None, None)
    assert roofline("conv1d", **layer, bandwidth=1e9).time == 10176 / 1e9
    assert roofline("conv1d", (0, 9, 0), (0, 0, 3)).intensity == 0.0
    for dtype in (np.float64, np.dtype("float64"), "float64"):
        assert roofline("conv1d", **layer, dtype=dtype).bytes_moved == 2 * floor.bytes_moved
    assert {name: np.dtype(name).itemsize for name in ITEM_SIZES if name != "bfloat16"} == {
        name: size for name, size in ITEM_SIZES.items() if name != "bfloat16"
    }


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"dtype": "int32"}, TypeError, "^conv1d: dtype must be one of float16, .*; got 'int32'$"),
        ({"peak": 0}, ValueError, "^conv1d: peak must be positive; got 0$"),
        ({"bandwidth": float("nan")}, ValueError, "^conv1d: bandwidth must be positive; got nan$"),
    ],
)
def test_roofline_errors(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        roofline("conv1d", (1, 9, 3), (4, 3, 3), **change)


# ---- the command ---------------------------------------------------------------------------------------------------


def run_command(line: str) -> int:
    parser = argparse.ArgumentParser()
    count_command.add_arguments(parser)
    return count_command.run(parser.parse_args(line.split()))


def test_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    line = "conv_transpose1d --x 1,32,512 --weight 512,256,16 --stride 8 --padding 4"
    assert run_command(f"{line} --bias --activation relu --peak 250e9 --bandwidth 20e9") == 0
    text = capsys.readouterr().out
    cells = {words[0]: words[1:] for words in map(str.split, text.splitlines()) if words}
    assert cells["exact"] == ["66,060,288", "66,060,288", "132,120,576"]
    assert cells["moduleprofiler"] == ["602,931,200"]
    assert cells["torch.utils.flop_counter"] == ["134,217,728"]
    assert cells["least"][2:] == ["8,717,312", "bytes,", "float32"]
    assert cells["arithmetic"][1:] == ["15.16", "flop/byte"]
    assert cells["time"][1:] == ["528.482", "us,", "set", "by", "arithmetic"]
    assert cells["relu:"] == ["65,536", "comparisons,", "0", "operations"]
    assert run_command(line) == 0
    assert "132,055,040" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "padding"),
    [("2", 2), ("2:1", ((2, 1),)), ("same", "same"), ("causal", "causal"), ("valid", "valid")],
)
def test_command_reads_padding(text: str, padding: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(f"conv1d --x 9,3 --weight 4,3,4 --padding {text}") == 0
    total = count_operations("conv1d", (9, 3), (4, 3, 4), padding=padding).total
    assert f" {total:,}\n" in capsys.readouterr().out


def test_command_of_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_command("conv2d_backward --x 2,9,9,4 --weight 6,2,3,3 --padding 1:2,2 --groups 2 --needs weight,bias") == 0
    )
    text = capsys.readouterr().out
    expected = count_operations(
        "conv2d_backward", (2, 9, 9, 4), (6, 2, 3, 3), padding=((1, 2), 2), groups=2, needs=("weight", "bias")
    )
    assert f"{expected.total:,}" in text
    assert "gradients of weight, bias" in text
    assert "no formula" in text


def test_command_reports_errors_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("conv1d --x 9,3 --weight 4,5,3") == 2
    assert capsys.readouterr().err == (
        "nbconv count: error: conv1d: x has 3 channels, weight expects 5 * groups(1) = 5; x (9, 3), weight (4, 5, 3)\n"
    )
    for wrong in ("conv1d --x 9,a --weight 4,5,3", "conv1d --x 9,3 --weight 4,3,3 --padding 1:2:3", "conv3d"):
        with pytest.raises(SystemExit, match="2"):
            run_command(wrong)
