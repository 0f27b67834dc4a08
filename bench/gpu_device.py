"""Times on a device: the clock, the contestants of each layer, the ceilings, and what a launch costs."""

from __future__ import annotations

import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np

import nbconv
from bench.gpu_shapes import PASSES, TINY, least_bytes, output_shape, product_of
from bench.gpu_torch import Torch, import_torch
from nbconv.cuda import gemm, gemm_tiles, gradients, plan
from nbconv.cuda.driver import cuda
from tests.cases import Case
from tests.helpers import arrays_of, real_numbers, rng_for

Call = Callable[[], object]

# arithmetic -> (dtype, precision) of our calls. The same device runs PyTorch with TF32 on only for "tf32".
ARITHMETIC: Mapping[str, tuple[str, str]] = {
    "fp32": ("float32", "high"),
    "3xtf32": ("float32", "high"),
    "tf32": ("float32", "tf32"),
    "bf16": ("bfloat16", "high"),
    "float16": ("float16", "high"),
}
LEAST_BATCH = 5e-3  # seconds: batches long enough that the clock's steps do not matter
WARM_UP = 3  # calls
ROUNDS = 7  # batches of each contestant, in turn


def describe() -> dict[str, Any]:
    """Say which device and which versions these are."""
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    torch = import_torch()
    return {
        "device": name,
        "compute_capability": list(device.compute_capability),
        "multiprocessors": device.MULTIPROCESSOR_COUNT,
        "date": time.strftime("%Y-%m-%d"),
        "python": sys.version.split()[0],
        **{name.replace("-", "_"): importlib.metadata.version(name) for name in ("numba", "numba-cuda", "numpy")},
        "torch": torch.__version__ if torch else None,
        "cudnn": torch.backends.cudnn.version() if torch else None,
    }


# ---- the clock -----------------------------------------------------------------------------------------------------


def batch_seconds(call: Call, count: int) -> float:
    """Time `count` calls between two events of the device."""
    start, end = cuda.event(timing=True), cuda.event(timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return float(cuda.event_elapsed_time(start, end)) * 1e-3


def race(contestants: Mapping[str, Call]) -> dict[str, float]:
    """Time all in turn: the median of the batches, in seconds a call."""
    counts = {}
    for name, call in contestants.items():
        for _ in range(WARM_UP):
            call()
        once = max(batch_seconds(call, 1), 1e-7)
        counts[name] = max(1, round(LEAST_BATCH / once))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, call in contestants.items():
            times[name].append(batch_seconds(call, counts[name]) / counts[name])
    return {name: statistics.median(batches) for name, batches in times.items()}


# ---- layers ----------------------------------------------------------------------------------------------------------


@contextmanager
def ffma_units() -> Iterator[None]:
    """Let products take the kernels of the FFMA units, which by default leave them to tensor cores."""

    def choose(key: plan.Key) -> plan.Launch | None:
        if not gemm_tiles.covers(key.geometry):
            return None
        tile = gemm_tiles.choose(key.geometry)
        kernel = gemm.KERNELS[tile, gemm_tiles.needs_mask(key.geometry, 4)]
        return plan.Launch(kernel, *gemm_tiles.launch(key.geometry, tile))

    plan.make_plan.cache_clear()
    try:
        with (
            mock.patch.object(plan, "CHOICES", (choose, plan._general)),
            mock.patch.object(gradients, "_tensor_kind", return_value=None),
        ):
            yield
    finally:
        plan.make_plan.cache_clear()


def host_arrays(case: Case) -> tuple[np.ndarray, ...]:
    """Draw x, weight, bias and grad_output in float32."""
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    assert bias is not None
    return x, weight, bias, real_numbers(rng_for(case, "grad_output"), output_shape(case))


def placed(arrays: tuple[np.ndarray, ...], dtype: str, torch: Torch | None) -> tuple[Any, ...]:
    """Bring arrays to the device: as tensors where PyTorch is installed, else as arrays of numba-cuda."""
    if torch is not None:
        return tuple(map(torch.placer(dtype), arrays))
    return tuple(cuda.to_device(array.astype(dtype)) for array in arrays)


def our_calls(case: Case, precision: str, arrays: tuple[Any, ...]) -> dict[str, Call]:
    """Make a call of each pass, on arrays that are on the device already."""
    x, weight, bias, grad_output = arrays
    forward, backward = getattr(nbconv, case.op), getattr(nbconv, f"{case.op}_backward")
    options = {**case.params, "precision": precision}

    def gradient(needed: str) -> Call:
        return lambda: backward(grad_output, x, weight, **options, needs=(needed,))

    return {
        "forward": lambda: forward(x, weight, bias, **options),
        "grad_x": gradient("x"),
        "grad_weight": gradient("weight"),
    }


def measure(
    case: Case, arithmetic: str, torch: Torch | None, dtype: str, precision: str, hosts: tuple[np.ndarray, ...]
) -> Iterator[dict[str, Any]]:
    """Time all passes of a layer, PyTorch's and the bare matrix product beside ours."""
    arrays = placed(hosts, dtype, torch)
    calls = our_calls(case, precision, arrays)
    depthwise = arithmetic == "depthwise"
    for what in PASSES:
        product = product_of(case, what)
        contestants = {"nbconv": calls[what]}
        if torch is not None:
            contestants |= torch.calls(case, what, arrays, tf32=arithmetic == "tf32")
            if not depthwise and case.groups == 1 and what == "forward":
                contestants["cublas"] = torch.product(product, dtype, tf32=arithmetic == "tf32")
        seconds = race(contestants)
        ours, cublas = seconds.pop("nbconv"), seconds.pop("cublas", None)
        amount = least_bytes(case, 2 if "16" in dtype else 4) if depthwise else product.flops
        yield {
            "name": case.name, "layer": str(case), "pass": what, "arithmetic": arithmetic, "dtype": dtype,
            "seconds": ours, "speed": amount / ours * 1e-12, "unit": "TB/s" if depthwise else "TFLOP/s",
            "cublas": cublas, "peers": seconds,
        }  # fmt: skip


def rows(torch: Torch | None, cases: Sequence[Case], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Time every layer in every arithmetic that can be had; depthwise ones in float32."""
    found = []
    for case in cases:
        hosts = host_arrays(case)
        kinds = {"depthwise": ("float32", "high")} if case.weight_shape[1] == 1 else ARITHMETIC
        for arithmetic, (dtype, precision) in kinds.items():
            if dtype == "bfloat16" and torch is None:
                say(f"bf16      {case.name:22}not measured: NumPy has no such type, and torch is not installed")
                continue
            with ffma_units() if arithmetic == "fp32" else nullcontext():
                found += _told(measure(case, arithmetic, torch, dtype, precision, hosts), say)
    return found


def _told(measured: Iterator[dict[str, Any]], say: Callable[[str], None]) -> list[dict[str, Any]]:
    told = []
    for row in measured:
        peers = "  ".join(f"{name} {seconds / row['seconds']:.2f}" for name, seconds in row["peers"].items())
        cublas = f"  of cuBLAS {row['cublas'] / row['seconds']:.0%}" if row["cublas"] else ""
        say(
            f"{row['arithmetic']:10}{row['name']:22}{row['pass']:12}{row['seconds'] * 1e6:10.1f} us"
            f"{row['speed']:8.2f} {row['unit']}  {peers}{cublas}"
        )
        told.append(row)
    return told


# ---- ceilings and launches -----------------------------------------------------------------------------------------


def ceilings(torch: Torch | None, numbers: int = 2**28, size: int = 8192) -> dict[str, float]:
    """Measure what the device can: TB/s of a copy (reading and writing), TFLOP/s of large matrix products."""
    source, target = cuda.device_array(numbers, np.float32), cuda.device_array(numbers, np.float32)
    seconds = race({"copy": lambda: target.copy_to_device(source)})
    reached = {"copy": 8e-12 * numbers / seconds["copy"]}
    if torch is not None:
        for name, dtype, tf32 in (("fp32", "float32", False), ("tf32", "float32", True), ("bf16", "bfloat16", False)):
            product = torch.square_product(size, dtype, tf32)
            reached[f"cublas {name}"] = 2e-12 * size**3 / race({"": product})[""]
    return reached


def launch_costs(torch: Torch | None) -> dict[str, float]:
    """Measure the microseconds of the host in a call that has next to nothing to compute."""
    hosts = host_arrays(TINY)
    arrays = placed(hosts, "float32", torch)
    calls = {"function": our_calls(TINY, "high", arrays)["forward"]}
    _, weight, bias, _ = hosts
    layer = nbconv.Conv1d(weight, bias, **TINY.params).to("cuda")
    calls["layer"] = lambda: layer(arrays[0])
    if torch is not None:
        calls |= {f"torch {name}": call for name, call in torch.calls(TINY, "forward", arrays, tf32=False).items()}
        calls["layer in a CUDA graph"] = torch.graph(calls["layer"])
    costs = {}
    for name, call in calls.items():
        for _ in range(20):
            call()
        cuda.synchronize()
        start = time.perf_counter()
        for _ in range(1000):
            call()
        cuda.synchronize()
        costs[name] = (time.perf_counter() - start) * 1e3
    return costs
