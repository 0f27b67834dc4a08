"""Timings of the layers of real networks, for comparison between commits: each result is checked before it is timed.

python -m pytest bench --benchmark-autosave
python -m pytest bench --benchmark-compare --benchmark-compare-fail=median:10%
"""

import numpy as np
import pytest

import nbconv
from tests.cases import PERF_CASES
from tests.helpers import arrays_of, expected_of, real_numbers, sum_tolerance

pytest.importorskip("pytest_benchmark", reason="pip install '.[bench]'")


@pytest.mark.parametrize("case", PERF_CASES, ids=lambda case: case.name)
def test_layer(benchmark, case):
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    run = getattr(nbconv, case.op)
    y = run(x, weight, bias, **case.params)
    assert np.abs(y - expected_of(case, x, weight, bias)).max() <= sum_tolerance(case, x, weight, bias)
    benchmark.extra_info["gflop"] = 2e-9 * case.macs
    benchmark.group = case.op
    benchmark(run, x, weight, bias, **case.params)
