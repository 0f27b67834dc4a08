"""Share of the multiply-add peak that convolutions reach on one core: each is checked, then timed, in one run.

    python -m bench.peak_share                      the two shapes that the engine is held to
    python -m bench.peak_share --least 80           the same, exit status 1 where one stays below 80 %
    python -m bench.peak_share vocoder "unet up"    layers of the list whose name begins so

Times are of the function as users call it, the packing of its weight and its output's allocation included; best of
many calls, in processor time, from which a busy machine takes nothing away. The peak is that of a loop of multiply-adds
in registers, measured on the same core, in the same run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import nbconv
from nbconv.runtime.peak import measure_peak
from tests.cases import PERF_CASES, Case
from tests.helpers import arrays_of, expected_of, real_numbers, sum_tolerance

HELD_TO = ("bulk", "resnet layer 1")
SECONDS = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=HELD_TO, help="beginnings of names of tests/cases.py")
    parser.add_argument("--least", type=float, default=0.0, metavar="PERCENT", help="share below which a row fails")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    args = parser.parse_args()
    cases = [case for case in PERF_CASES if case.name.startswith(tuple(args.names))]
    if not cases:
        parser.error(f"no case begins with {' or '.join(args.names)}")
    pin_to_one_core()
    print(f"{measure_peak(args.dtype) / 1e9:8.1f} GFLOP/s  100.0 %  peak of one core, {args.dtype}")
    return max(report(case, args.dtype, args.least) for case in cases)


def pin_to_one_core() -> None:
    nbconv.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def report(case: Case, dtype: str, least: float) -> int:
    x, weight, bias = arrays_of(case, dtype, real_numbers)
    run = getattr(nbconv, case.op)
    y = run(x, weight, bias, **case.params)
    error = float(np.abs(y - expected_of(case, x, weight, bias)).max())
    if not error <= sum_tolerance(case, x, weight, bias):
        print(f"WRONG: error {error:.1e}: {case}")
        return 1
    seconds = best_time(lambda: run(x, weight, bias, **case.params))
    speed = 2.0 * case.macs / seconds
    share = 100 * speed / measure_peak(dtype)
    verdict = "" if share >= least else f"  BELOW {least:.0f} %"
    print(f"{speed / 1e9:8.1f} GFLOP/s {share:6.1f} %  error {error:.0e}  {case}{verdict}")
    return int(share < least)


def best_time(call: Callable[[], Any]) -> float:
    """Shortest of the calls of one second, at least five; the one thread's processor time."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
