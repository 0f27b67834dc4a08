"""Counts as other projects give them, against their sources; whole networks by each convention."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from bench.count_networks import count_network
from bench.networks import NETWORKS
from tests import reference
from tests.counting_calls import calls, count
from tests.counting_oracle import Call, interpret
from tests.helpers import optional

# ---- the other conventions -----------------------------------------------------------------------------------------


@given(calls(ndim=1) | calls(ndim=2))
def test_moduleprofiler_formula(call: Call) -> None:
    """The published formula, its `y` by running a transposed convolution of ones."""
    ran = interpret(call)
    if ran is None:
        return
    lengths = math.prod(ran.output_shape[1:-1])
    n, k, c_in, c_out, g = call.n, math.prod(call.kernel), call.c_in, call.c_out, call.groups
    if call.transposed:
        ones = reference.conv_transpose(
            np.ones((1, *call.sizes, 1), int),
            np.ones((1, 1, *call.kernel), int),
            **{**call.params, "groups": 1},
        )
        assert math.prod(ones.shape) == lengths
        expected = n * (c_in * c_out // g) * (lengths * (k + 1) + int((ones - 1).sum()))
        expected -= 0 if call.bias else n * c_out * lengths
    elif call.bias:
        expected = n * 2 * k * c_in * c_out * lengths // g
    else:
        expected = n * c_out * lengths * (2 * k * c_in - g) // g
    assert count(call, bias=call.bias, convention="moduleprofiler") == expected


@given(calls(ndim=1) | calls(ndim=2))
def test_flop_counter_formula(call: Call) -> None:
    ran = interpret(call)
    if ran is None:
        return
    sites = call.sizes if call.transposed else ran.output_shape[1:-1]
    dense = 2 * call.n * math.prod(sites) * math.prod(call.kernel) * call.c_in * call.c_out
    backward = f"{call.op}_backward"
    assert count(call, bias=call.bias, convention="flop_counter") == dense // call.groups
    assert count(call, backward, needs=("x",), convention="flop_counter") == dense // call.groups
    assert count(call, backward, needs=("weight",), convention="flop_counter") == dense
    assert count(call, backward, needs=("bias",), convention="flop_counter") == 0


@pytest.mark.torch
@pytest.mark.parametrize("ndim", [1, 2])
def test_flop_counter_equals_torch(ndim: int) -> None:
    torch = optional("torch", "NBCONV_REQUIRE_TORCH")
    flop_counter = optional("torch.utils.flop_counter", "NBCONV_REQUIRE_TORCH")

    @settings(max_examples=300)
    @given(calls(ndim=ndim))
    def check(call: Call) -> None:
        # PyTorch has no pairs and no words for a transposed convolution, and refuses arrays without numbers.
        ran = interpret(call)
        if ran is None or 0 in (*call.x_shape, *call.weight_shape, *ran.output_shape):
            return
        if isinstance(call.padding, str) or any(lo != hi for lo, hi in call.padding):
            return
        first = {"stride": call.stride, "padding": tuple(lo for lo, _ in call.padding), "groups": call.groups}
        first |= {"dilation": call.dilation, "bias": call.bias, "kernel_size": call.kernel}
        if call.transposed:
            name, extra = f"ConvTranspose{ndim}d", {"output_padding": call.output_padding}
        else:
            name, extra = f"Conv{ndim}d", {"padding_mode": call.padding_mode}
        layer = getattr(torch.nn, name)(call.c_in, call.c_out, **first, **extra)
        x = torch.ones((call.n, call.c_in, *call.sizes), requires_grad=True)
        with flop_counter.FlopCounterMode(display=False) as forward:
            y = layer(x)
        with flop_counter.FlopCounterMode(display=False) as backward:
            y.sum().backward()
        assert count(call, bias=call.bias, convention="flop_counter") == forward.get_total_flops()
        assert count(call, f"{call.op}_backward", convention="flop_counter") == backward.get_total_flops()

    check()


# ---- whole networks ------------------------------------------------------------------------------------------------

PUBLISHED_GMAC = {  # dense, as their papers and tools give them
    "HiFi-GAN V1": 30.71,
    "EnCodec decoder": 1.175,
    "DAC decoder": 69.15,
    "Denoiser (Demucs48)": 1.94,
    "ResNet-18": 1.814,
    "ResNet-50": 4.087,
    "MobileNetV2": 0.2995,
    "U-Net": 48.2,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    exact, dense, published = count_network(NETWORKS[name]())
    assert 0 < exact.additions <= exact.multiplications <= dense // 2
    assert published >= exact.total
    if name in PUBLISHED_GMAC:
        figure = PUBLISHED_GMAC[name]
        digits = len(str(figure).partition(".")[2])
        assert round(dense / 2e9, digits) == figure
