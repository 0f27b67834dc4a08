"""Rows that compare nbconv with itself: threads, memory beyond the output, growth with the size."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nbconv
from bench.kinds import KINDS
from bench.layers import check
from bench.peers import LAYERS
from bench.race import PAUSE_SECONDS, Apart, Contestant, Here, alone, race
from bench.rows import Row
from tests.cases import Case
from tests.helpers import Array, arrays_of, expected_of, real_numbers, sum_tolerance

THREAD_GAIN, NO_LOSS = 1.9, 0.95  # one thread over two; a loss within the noise of short calls is none
BIG_FLOPS = 20_000_000
MOST_EXTRA_BYTES = 8e6
GROWTH_WITHIN = 0.05
SHORT_BATCH = 0.001  # with two threads: what fits between two disturbances


@dataclass(frozen=True)
class Settings:
    """What a run is made with."""

    engines: tuple[str, ...]
    threads: int
    cores: set[int]
    seconds: float
    quick: bool

    def apart(self, stack: ExitStack, threads: int | None = None, pause: float = PAUSE_SECONDS) -> Apart:
        """Start a process of its own on all cores; it ends with the stack."""
        return stack.enter_context(alone(threads or self.threads, self.cores, pause))


# ---- threads -------------------------------------------------------------------------------------------------------


def _thread_cases(quick: bool) -> list[Case]:
    by_name = {case.name: case for kind in KINDS.values() for case in kind.cases}
    big = [
        "vocoder block 2",
        "resnet layer 1",
        "vocoder up 2",
        "whisper 2",
        "seed",
        "unet up",
        "dac up",
        "vocos pointwise",
    ]
    small = ["tiny", "vad block", "mimi up", "mobilenet deep", "mobilenet narrow", "ocr up 2"]
    return [by_name[name] for name in ([*big[:3], *small[:2]] if quick else [*big, *small])]


def enter_threads(case: Case, most: int) -> dict[str, Contestant]:
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    layer = LAYERS[case.op](weight, bias, **case.params)

    def with_threads(n: int) -> Callable[[], Array]:
        def call() -> Array:
            nbconv.set_num_threads(n)
            return layer(x)

        return call

    return {f"{n} threads": Contestant(with_threads(n)) for n in (1, most)}


def thread_rows(settings: Settings) -> list[Row]:
    """Time two threads against one, on the wall's clock."""
    if len(settings.cores) < 2:
        print("\nthreads: not measured, this process may use one core only")
        return []
    big, small = {}, {}
    print(f"\n{'2 threads':22}{'MFLOP':>11}{'us':>11}   times faster than 1 thread")
    with ExitStack() as stack:
        arena = settings.apart(stack, 2, pause=0.0)  # nobody else has threads
        for case in _thread_cases(settings.quick):
            seconds = _race_checked(arena, partial(enter_threads), case, settings.seconds * 2, SHORT_BATCH, 2)
            gain = seconds["1 threads"] / seconds["2 threads"]
            (big if 2 * case.macs > BIG_FLOPS else small)[case.name] = gain
            print(f"{case.name:22}{2e-6 * case.macs:11.1f}{seconds['2 threads'] * 1e6:11.1f}{gain:9.2f}", flush=True)
    worst, slowest = min(big, key=big.__getitem__), min(small, key=small.__getitem__)
    gains, losses = f"least {big[worst]:.2f} ({worst}), of {len(big)}", f"least {small[slowest]:.2f} ({slowest})"
    everywhere = min(*big.values(), *small.values())
    return [
        Row(
            "2 threads, > 20 MFLOP",
            "1 thread",
            f">= {THREAD_GAIN}",
            gains,
            big[worst] >= THREAD_GAIN,
            big,
            THREAD_GAIN,
            wall=True,
        ),
        Row("2 threads, any size", "1 thread", "never slower", losses, everywhere >= NO_LOSS, small, 1.0, wall=True),
    ]


def _race_checked(
    arena: Here | Apart, maker: Any, case: Case, seconds: float, batch: float, *args: Any
) -> dict[str, float]:
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    expected, tolerance = expected_of(case, x, weight, bias), sum_tolerance(case, x, weight, bias)
    results = arena.enter(maker, case, *args)
    for name, result in results.items():
        if result is not None:
            check(name, case, result, expected, tolerance)
    times = race({name: partial(arena.batch, name) for name in results}, seconds, batch)
    arena.leave()
    return times


# ---- memory --------------------------------------------------------------------------------------------------------


def most_beyond(call: Callable[[], Any]) -> int | None:
    """Bytes by which the process grows at most during a call; None where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def kilobytes(key: str) -> int:
        return int(re.search(rf"^{key}:\s+(\d+)", status.read_text(), re.MULTILINE)[1])  # type: ignore[index]

    reset.write_text("5")  # the peak starts again from what is resident now
    before = kilobytes("VmRSS")
    call()
    return 1024 * (kilobytes("VmHWM") - before)


def _bytes_beyond_output(length: int, way: str) -> int | None:
    """Grow by one call on a long input, after a short input has loaded all code; the output is there already."""
    weight = np.ones((256, 256, 7), np.float32)
    layer = nbconv.Conv1d(weight, padding=3)

    def run(x: Array, out: Array) -> Array:
        return layer(x, out=out) if way == "layer" else nbconv.conv1d(x, weight, padding=3, out=out)

    for size in (640, length):
        x, out = np.ones((1, size, 256), np.float32), np.ones((1, size, 256), np.float32)
        beyond = most_beyond(partial(run, x, out))
    assert np.abs(out[0, 3:-3] - 7 * 256).max() == 0
    return beyond


def _torch_bytes_beyond_output(length: int) -> int | None:
    import torch

    torch.set_num_threads(1)
    weight = torch.ones(256, 256, 7)
    with torch.inference_mode():
        for size in (640, length):
            x = torch.ones(1, size, 256)
            beyond = most_beyond(
                lambda x=x: (
                    torch.nn.functional.conv1d(x.transpose(1, 2), weight, padding=3).transpose(1, 2).contiguous()
                )
            )
    return None if beyond is None else beyond - 4 * length * 256


def _packing(c: int) -> float | None:
    """Growth by making a layer, over the bytes of its weight."""
    nbconv.Conv1d(np.ones((256, 256, 7), np.float32))  # large enough to compile what packs large weights
    weight = np.ones((c, c, 7), np.float32)
    beyond = most_beyond(lambda: nbconv.Conv1d(weight))
    return None if beyond is None else beyond / weight.nbytes


def _alone(settings: Settings, function: Callable[..., Any], *args: Any) -> Any:
    with ExitStack() as stack:
        return settings.apart(stack, 1).run(function, *args)


def memory_rows(settings: Settings) -> list[Row]:
    """Measure what a call needs beyond its output, each in a fresh process."""
    lengths = (64_000,) if settings.quick else (64_000, 256_000)
    extras = {}
    for length, way in itertools.product(lengths, ("layer", "function")):
        # The first process compiles what only long inputs need; the second finds that on disk.
        _alone(settings, _bytes_beyond_output, length, way)
        extras[f"{way} {length}"] = _alone(settings, _bytes_beyond_output, length, way)
    copies = _alone(settings, _packing, 1024)
    if copies is None:
        print("\nmemory: not measured, this system does not tell a process its peak")
        return []
    extras["layer 64000"] = max(extras["layer 64000"], 0)
    text = ", ".join(f"{name}: {value / 1e6:.1f} MB" for name, value in extras.items())
    if "torch" in settings.engines:
        text += f" (PyTorch NLC: {_alone(settings, _torch_bytes_beyond_output, 64_000) / 1e6:.0f} MB)"
    met = max(extras.values()) <= MOST_EXTRA_BYTES
    return [
        Row("memory beyond the output", "(1, L, 256), k 7", f"<= {MOST_EXTRA_BYTES / 1e6:.0f} MB", text, met),
        Row("memory, packing", "(1024, 1024, 7)", "one copy", f"{copies:.2f} copies", copies <= 1.1),
    ]


# ---- growth --------------------------------------------------------------------------------------------------------


def _growth_cases() -> dict[str, Case]:
    def case(name: str, n: int, length: int, c_in: int, c_out: int) -> Case:
        return Case("conv1d", (n, length, c_in), (c_out, c_in, 3), {"padding": 1}, name=name)

    cases = (
        case("base", 4, 4096, 128, 128), case("length", 4, 8192, 128, 128), case("batch", 8, 4096, 128, 128),
        case("channels in", 4, 4096, 256, 128), case("channels out", 4, 4096, 128, 256),
    )  # fmt: skip
    return {case.name: case for case in cases}


def enter_layer(case: Case) -> dict[str, Contestant]:
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    layer = LAYERS[case.op](weight, bias, **case.params)
    return {case.name: Contestant(lambda: layer(x))}


def growth_rows(settings: Settings) -> list[Row]:
    """Time a layer beside those with one size doubled, all in turn."""
    here, cases = Here(), _growth_cases()
    for case in cases.values():
        arrays = arrays_of(case, np.float32, real_numbers)
        (result,) = here.enter(enter_layer, case).values()
        assert result is not None
        check("layer", case, result, expected_of(case, *arrays), sum_tolerance(case, *arrays))
    seconds = race({name: partial(here.batch, name) for name in cases}, 4 * settings.seconds)
    growth = {name: seconds[name] / seconds["base"] for name in cases if name != "base"}
    text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in growth.items())
    met = all(abs(ratio / 2 - 1) <= GROWTH_WITHIN for ratio in growth.values())
    return [Row("growth", "one size doubled", f"2.00 within {GROWTH_WITHIN:.0%}", text, met)]
