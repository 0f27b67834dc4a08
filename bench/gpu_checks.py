"""Is it right on the device? Every kernel and the whole package, on small layers of whole numbers, compared with ==.

python -m bench.gpu_checks            all of it; exit status 1 where a result is wrong
python -m bench.gpu_checks --short    a few launches of each kind, for compute-sanitizer
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import nbconv
from nbconv.cuda import grad_gemm
from nbconv.cuda.driver import cuda, require_device
from nbconv.cuda.plan import Launch
from tests.cases import CASES, Case
from tests.cuda.checks.listing import Entry, product_entries, slice_entries
from tests.cuda.checks.problems import Problem, SliceProblem, geometry_of
from tests.cuda.checks.shapes import DEPTHWISE, RAGGED
from tests.helpers import DTYPES, arrays_of, expected_of, rng_for, whole_numbers
from tests.test_backward import oracle

SANITIZERS = ("memcheck", "racecheck")
SANITIZER_SECONDS = 100


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Compare with ==, the expected numbers rounded to the actual type; NaN equals NaN."""
    rounded = expected.astype(actual.dtype).astype(np.float64)
    return actual.shape == expected.shape and np.array_equal(actual.astype(np.float64), rounded, equal_nan=True)


def run_product(entry: Entry, case: Case) -> bool:
    """Launch a product kernel by itself."""
    problem = Problem(case, DTYPES[entry.dtype], residual=True)
    blocks, threads, shared = entry.grid(problem.geometry)
    y = cuda.to_device(
        np.full(problem.geometry.output_shape, np.nan, problem.dtype).view(_words(problem.dtype)).reshape(-1)
    )
    arguments = [y if array is None else cuda.to_device(array) for array in problem.operands()]
    Launch(entry.kernel, blocks, threads[0], shared)(0, *arguments[:4], y, arguments[4])
    result = y.copy_to_host().view(problem.dtype).reshape(problem.geometry.output_shape)
    return same(result, problem.expected())


def _words(dtype: np.dtype) -> Any:
    return np.uint16 if dtype.name == "bfloat16" else dtype


def run_slices(entry: Entry, case: Case) -> bool:
    """Launch the first pass of a weight's gradient by itself."""
    problem, rows = SliceProblem(case, DTYPES[entry.dtype]), 2 * grad_gemm.DEPTH
    slices = -(-problem.geometry.n * int(np.prod(problem.geometry.output_shape[1:-1])) // rows)
    blocks, threads = grad_gemm.launch(problem.geometry, entry.tile, rows)
    partial = cuda.to_device(np.full(slices * int(np.prod(case.weight_shape)), np.nan, np.float32))
    arrays = [cuda.to_device(array) for array in problem.arrays()]
    Launch(entry.kernel, blocks, threads)(0, *arrays[:2], partial, arrays[2], np.int32(rows))
    return same(problem.total(partial.copy_to_host(), slices), problem.expected())


def run_package(case: Case, dtype: str) -> bool:
    """Run forward and all gradients through the public functions."""
    x, weight, bias = arrays_of(case, DTYPES[dtype])
    y = getattr(nbconv, case.op)(x, weight, bias, **case.params, device="cuda")
    grad_output = whole_numbers(rng_for(case, "grad_output"), y.shape, DTYPES[dtype], most=1)
    backward = getattr(nbconv, f"{case.op}_backward")
    grads = backward(grad_output, x, weight, **case.params, device="cuda")
    right = [same(grad, expected) for grad, expected in zip(grads, oracle(case, grad_output, x, weight), strict=True)]
    return same(y, expected_of(case, x, weight, bias)) and all(right)


def checks(short: bool) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """List (name, function, arguments)."""
    for entry in product_entries():
        cases = DEPTHWISE if entry.family == "depthwise" else RAGGED
        fitting = [case for case in cases if entry.fits(geometry_of(case))]
        for case in fitting[:1] if short else fitting:
            yield f"{entry} {case}", run_product, (entry, case)
    for entry in slice_entries():
        fitting = [case for case in RAGGED if entry.fits(geometry_of(case))]
        for case in fitting[:1] if short else fitting:
            yield f"{entry} {case}", run_slices, (entry, case)
    if short:
        return
    tagged = [case for case in CASES if case.tags & {"smoke", "edge"}]
    for case in [*tagged, *RAGGED, *DEPTHWISE]:
        for dtype in DTYPES if "smoke" in case.tags else ("float32",):
            yield f"package {dtype} {case}", run_package, (case, dtype)


def check_all(short: bool = False) -> dict[str, Any]:
    """Run everything; gives how many results were right, and the names of the others."""
    passed, failed = 0, []
    for name, function, arguments in checks(short):
        try:
            right = function(*arguments)
        except Exception as error:  # a broken kernel is one of the results
            right, name = False, f"{name}: {type(error).__name__}: {error}"
        passed += right
        failed += [] if right else [name]
    return {"passed": passed, "failed": failed}


def sanitize() -> dict[str, str]:
    """Run the short checks under compute-sanitizer, where it is installed."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"compute-sanitizer": "not installed"}
    results = {}
    for tool in SANITIZERS:
        command = [program, "--tool", tool, "--error-exitcode", "3", sys.executable, "-m", __spec__.name, "--short"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SANITIZER_SECONDS)
        except subprocess.TimeoutExpired:
            results[tool] = f"not done within {SANITIZER_SECONDS} s"
        else:
            results[tool] = "clean" if done.returncode == 0 else f"found errors: {done.stdout[-400:]}"
    return results


def main(arguments: list[str]) -> int:
    """Check; print what is wrong."""
    require_device()
    result = check_all("--short" in arguments)
    print(f"{result['passed']} results right, {len(result['failed'])} wrong")
    print("\n".join(result["failed"]))
    return int(bool(result["failed"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
