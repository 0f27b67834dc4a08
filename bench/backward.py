"""All three gradients against PyTorch's, on one core: each is checked, then timed, in turn with its peers, in one run.

    python -m bench.backward                   every layer of tests/cases.py, and geometric means against the goals
    python -m bench.backward vocoder "unet up" layers of the list whose names begin so
    python -m bench.backward --weight          the weight's gradient alone: its share of the multiply-add peak
    python -m bench.backward --threads         two threads against one

The peer is ``torch.ops.aten.convolution_backward`` in the faster of its layouts: contiguous channels-first, and
channels-last (in one dimension, the trick of a two-dimensional convolution of height one). "NLC user" is what somebody
who holds channels-last arrays pays for it in one dimension: transposes on the way in, and results that are contiguous
again. Where PyTorch has no form for a padding, it is given an input that is padded already, for free.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import nbconv
from bench.floors import peak_contestant, spin_flops
from tests import reference
from tests.cases import PERF_CASES, Case
from tests.helpers import Array, real_numbers, rng_for

GOALS = {"dense 1-D": 1.5, "dense 2-D": 1.1, "transposed": 1.4, "depthwise and grouped": 1.5}
NO_CASE_BELOW = 0.95
USER_GOAL = 1.9
PEAK_GOAL, PEAK_SHAPES = 92, ("bulk", "seed", "dilated", "wide")
THREADS_GOAL = 1.85
SECONDS = 0.6
TOLERANCE = 2e-4  # of the largest number of a gradient


@dataclass(frozen=True)
class Row:
    """Seconds of one layer's three gradients."""

    case: Case
    kind: str
    ours: float
    torch: float
    layout: str
    user: float | None


def kind_of(case: Case) -> str:
    """Name the row of the goals that a case counts for."""
    if case.groups > 1:
        return "depthwise and grouped"
    return "transposed" if case.transposed else f"dense {case.ndim}-D"


def measure(case: Case) -> Row:
    """Check a layer's gradients, then time them and their peers in turn."""
    peer = TorchPeer(case)
    expected = peer.gradients()
    run = getattr(nbconv, f"{case.op}_backward")
    grads = run(peer.grad_output, peer.x, peer.weight, **case.params)
    for name, ours, theirs in zip(grads._fields, grads, expected, strict=True):
        error, scale = np.abs(ours - theirs).max(initial=0), np.abs(theirs).max(initial=0)
        if not error <= TOLERANCE * scale:
            raise AssertionError(f"{case}: gradient of {name} is off by {error:.1e} of {scale:.1e}")
    calls = {"ours": lambda: run(peer.grad_output, peer.x, peer.weight, **case.params), **peer.calls()}
    times = best_times(calls)
    layout = min((name for name in times if name.startswith("torch")), key=times.__getitem__)
    return Row(case, kind_of(case), times["ours"], times[layout], layout, times.get("user"))


def best_times(calls: dict[str, Callable[[], Any]], seconds: float = SECONDS) -> dict[str, float]:
    """Shortest time of each call, taken in turn so that a disturbance meets all of them.

    Who comes after another finds memory given back to the system, and its data out of the caches: so each turn begins
    with a call that is not timed, as in `compare`.
    """
    best = dict.fromkeys(calls, math.inf)
    end, rounds = time.perf_counter() + seconds * len(calls), 0
    while rounds < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


class TorchPeer:
    """A case's data, and PyTorch's ways to its gradients."""

    def __init__(self, case: Case) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.case, ndim = torch, case, case.ndim
        rng = rng_for(case)
        self.x, self.weight = real_numbers(rng, case.x_shape), real_numbers(rng, case.weight_shape)
        y = getattr(nbconv, case.op)(self.x, self.weight, **case.params)
        self.grad_output = real_numbers(rng, y.shape)
        self.strides, self.dilations, self.extras = (
            list(reference.each_axis(case.params.get(key, default), ndim))
            for key, default in (("stride", 1), ("dilation", 1), ("output_padding", 0))
        )
        kernel, padding = case.weight_shape[2:], case.params.get("padding", 0)
        if case.transposed:
            self.pads = reference.transposed_crops(kernel, self.strides, padding, self.dilations)
        else:
            self.pads = reference.forward_pads(case.x_shape[1:-1], kernel, self.strides, padding, self.dilations)
        self.mode = case.params.get("padding_mode", "zeros")
        self.simple = self.mode == "zeros" and all(lo == hi for lo, hi in self.pads)
        self.dy, source = self.grad_output, self.x
        if not self.simple and case.transposed:  # grad_output of the full output
            self.dy = np.pad(self.dy, [(0, 0), *self.pads, (0, 0)])
        elif not self.simple:
            source = reference.pad(source, self.pads, self.mode)
        self.padding = [lo for lo, _ in self.pads] if self.simple else [0] * ndim
        self.nlc = [torch.from_numpy(np.ascontiguousarray(a)) for a in (self.dy, source)]
        self.channels_first = [t.movedim(-1, 1).contiguous() for t in self.nlc]
        self.w = torch.from_numpy(self.weight)

    def backward(self, dy: Any, x: Any, weight: Any, two_dimensions: bool = False) -> Any:
        def sizes(values: Sequence[int], unit: int) -> list[int]:
            return [unit, *values] if two_dimensions else list(values)

        return self.torch.ops.aten.convolution_backward(
            dy, x, weight, [self.case.c_out], sizes(self.strides, 1), sizes(self.padding, 0), sizes(self.dilations, 1),
            self.case.transposed, sizes(self.extras, 0), self.case.groups, [True, True, True],
        )  # fmt: skip

    def gradients(self) -> list[Array]:
        """Compute the gradients once, with those of the padding folded back."""
        dx, dw, db = self.backward(*self.channels_first, self.w)
        dx = dx.movedim(1, -1).numpy()
        if not self.simple and not self.case.transposed:
            dx = fold(dx, self.pads, self.x.shape, self.mode)
        return [dx, dw.numpy(), db.numpy()]

    def calls(self) -> dict[str, Callable[[], Any]]:
        """Name PyTorch's layouts, and what a channels-last user of one dimension does."""
        torch, calls = self.torch, {}
        calls["torch channels-first"] = lambda: self.backward(*self.channels_first, self.w)
        if self.case.ndim == 1:
            images = [t.unsqueeze(2).contiguous(memory_format=torch.channels_last) for t in self.channels_first]
            weight = self.w.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            calls["torch channels-last"] = lambda: self.backward(*images, weight, True)

            def user() -> Any:
                dx, dw, db = self.backward(*(t.transpose(1, 2) for t in self.nlc), self.w)
                return dx.transpose(1, 2).contiguous(), dw, db

            calls["user"] = user
        else:
            images = [t.contiguous(memory_format=torch.channels_last) for t in self.channels_first]
            weight = self.w.contiguous(memory_format=torch.channels_last)
            calls["torch channels-last"] = lambda: self.backward(*images, weight)
        return calls


def fold(padded: Array, pads: Sequence[tuple[int, int]], shape: tuple[int, ...], mode: str) -> Array:
    """Add what flowed to padded positions to the positions that they repeat."""
    places = np.pad(
        np.arange(math.prod(shape)).reshape(shape) + 1, [(0, 0), *pads, (0, 0)], mode=reference.NUMPY_PAD[mode]
    )
    return np.bincount(places.ravel(), padded.ravel(), math.prod(shape) + 1)[1:].reshape(shape)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def report(rows: Sequence[Row]) -> bool:
    """Print geometric means beside the goals; say whether all are met."""
    met = True

    def line(what: str, value: float, goal: float) -> None:
        nonlocal met
        met &= value >= goal
        print(f"{what:34} {value:6.2f}   goal {goal:.2f}{'' if value >= goal else '   MISSED'}")

    for kind, goal in GOALS.items():
        ratios = [row.torch / row.ours for row in rows if row.kind == kind]
        if ratios:
            line(f"{kind}, mean of {len(ratios)}", geometric_mean(ratios), goal)
    if rows:
        line("slowest case", min(row.torch / row.ours for row in rows), NO_CASE_BELOW)
    users = [row.user / row.ours for row in rows if row.user]
    if users:
        line("what an NLC user pays, mean", geometric_mean(users), USER_GOAL)
    return met


def weight_shares(names: Sequence[str] = PEAK_SHAPES) -> list[tuple[Case, float]]:
    """Give the share of the multiply-add peak that grad_weight alone reaches, in percent."""
    shares = []
    for case in PERF_CASES:
        if case.name in names:
            peer = TorchPeer(case)
            run = getattr(nbconv, f"{case.op}_backward")
            dw = run(peer.grad_output, peer.x, peer.weight, **case.params, needs=("weight",)).weight
            expected = peer.gradients()[1]
            assert np.abs(dw - expected).max() <= TOLERANCE * np.abs(expected).max()

            def call(peer: TorchPeer = peer, run: Any = run, case: Case = case) -> Any:
                return run(peer.grad_output, peer.x, peer.weight, **case.params, needs=("weight",))

            shares.append((case, 200.0 * case.macs / spin_flops() * spins_beside(call, 2.0)))
    return shares


def spins_beside(call: Callable[[], Any], seconds: float) -> float:
    """Give the share of a call's time that a spin at the peak takes, right before and behind it; the median counts.

    Spins of one run differ by more than a good layer is off the peak, and the best of them all would be the bound of
    no call: each is compared with its own neighbours.
    """
    spin, shares, end = peak_contestant().call, [], time.perf_counter() + seconds
    while not shares or time.perf_counter() < end:
        times = [timed(step) for step in (spin, call, spin)]
        shares.append((times[0] + times[2]) / 2 / times[1])
    return float(np.median(shares))


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def thread_gain(case: Case) -> float:
    """Time one thread over the time of two."""
    peer = TorchPeer(case)
    run = getattr(nbconv, f"{case.op}_backward")

    def with_threads(n: int) -> Callable[[], Any]:
        def call() -> Any:
            with nbconv.num_threads(n):
                return run(peer.grad_output, peer.x, peer.weight, **case.params)

        return call

    calls = {"one": with_threads(1), "two": with_threads(2)}
    for call in calls.values():
        call()
    times = best_times(calls, 2.0)
    return times["one"] / times["two"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[""], help="beginnings of names of tests/cases.py")
    parser.add_argument("--weight", action="store_true", help="the weight's gradient alone, as a share of the peak")
    parser.add_argument("--threads", action="store_true", help="two threads against one")
    args = parser.parse_args()
    cases = [case for case in PERF_CASES if case.name.startswith(tuple(args.names))]
    if args.threads:
        gains = [(case, thread_gain(case)) for case in cases if case.macs > 1e8]
        for case, gain in gains:
            print(f"{case.name:18} {gain:5.2f}")
        mean = geometric_mean([gain for _, gain in gains])
        print(f"mean {mean:.2f}, goal {THREADS_GOAL}")
        return int(mean < THREADS_GOAL)
    nbconv.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if args.weight:
        shares = weight_shares(PEAK_SHAPES if args.names == [""] else [case.name for case in cases])
        for case, share in shares:
            print(f"{case.name:18} {share:5.1f} % of peak, goal {PEAK_GOAL}")
        return int(min(share for _, share in shares) < PEAK_GOAL)
    rows = []
    print(f"{'layer':18} {'kind':22} {'ours, us':>10} {'torch, us':>10}   times   NLC user")
    for case in cases:
        row = measure(case)
        rows.append(row)
        user = f"{row.user / row.ours:8.2f}" if row.user else ""
        flag = "" if row.torch >= NO_CASE_BELOW * row.ours else "  SLOW"
        print(
            f"{case.name:18} {row.kind:22} {row.ours * 1e6:10.0f} {row.torch * 1e6:10.0f} {row.torch / row.ours:7.2f}  "
            f"{user}  {row.layout}{flag}",
            flush=True,
        )
    return int(not report(rows))


if __name__ == "__main__":
    sys.exit(main())
