"""The loop that measures the peak computes what its plain twin does, and the measurement is a speed."""

import numpy as np
import pytest

from nbconv.runtime import peak
from nbconv.runtime.target import host_target, lanes


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loop_does_every_multiply_add(dtype):
    shape = host_target().registers - 2, lanes(np.dtype(dtype))
    sums = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    expected = sums.copy()
    peak._spin(sums, dtype(-1), dtype(3), 5)
    peak.repeat_multiply_add(expected, dtype(-1), dtype(3), 5)
    np.testing.assert_array_equal(sums, expected)


def test_single_precision_is_twice_as_fast_as_double():
    single, double = peak.measure_peak("float32"), peak.measure_peak(np.float64)
    assert single == peak.measure_peak(np.dtype("float32"))
    assert 1e8 < double < single < 1e13


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match=f"float32 or float64; got {dtype}"):
        peak.measure_peak(dtype)
