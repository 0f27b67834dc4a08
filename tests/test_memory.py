"""Memory: flat over thousands of calls, those that raise included; nothing held that grows with the input."""

from __future__ import annotations

import pytest

from tests.processes import LINUX, run_python

pytestmark = pytest.mark.skipif(not LINUX, reason="reads /proc")

MEASURE = """
import nbconv, gc
def resident(field="VmRSS"):
    gc.collect()
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
"""


def test_resident_memory_is_flat() -> None:
    """Shapes repeat; half of the calls raise."""
    code = """
x, weight = inputs(60)
half, layer = x.astype(np.float16), nbconv.Conv1d(weight, padding=1, activation="gelu")
image, square = np.ones((1, 9, 9, 8), np.float32), np.ones((8, 8, 3, 3), np.float32)
def call(i):
    nbconv.conv1d(x[:, : 40 + i % 7], weight, padding=1)
    layer(x)
    nbconv.conv1d(half[..., ::-1], weight.astype(np.float16))
    nbconv.conv_transpose2d(image, square, stride=2)
    for wrong in ({"padding": -1}, {"out": x}, {"groups": 7}, {"activation": "nope"}):
        try:
            nbconv.conv1d(x, weight, **wrong)
        except (TypeError, ValueError):
            pass
        else:
            raise SystemExit("accepted")
for i in range(300):
    call(i)
before = resident()
for i in range(1250):  # eight calls each
    call(i)
grown = resident() - before
assert grown < 5, f"{grown:.1f} MB more"
"""
    run_python(MEASURE + code)


def test_nothing_grows_with_the_input_but_the_output() -> None:
    """A long sequence in, a few numbers out: the peak grows by panels of fixed size only."""
    code = """
x = np.ones((1, 4_000_000, 8), np.float32)  # 128 MB
weight = np.ones((8, 8, 5), np.float32)
for options in ({}, {"algorithm": "im2col"}, {"padding": 2, "padding_mode": "reflect"}):
    for some in x[:, :2_000_000], x[:, 1_999_999::-1]:
        nbconv.conv1d(some, weight, stride=1000, **options)  # compiles what two threads need, too
    before = resident("VmHWM")
    nbconv.conv1d(x, weight, stride=1000, **options)
    nbconv.conv1d(x[:, ::-1], weight, stride=1000, **options)
    grown = resident("VmHWM") - before
    assert grown < 30, f"{options}: {grown:.1f} MB more"
"""
    run_python(MEASURE + code)
