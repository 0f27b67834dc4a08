"""One layer measured on all engines: results checked, then timed in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bench import peers
from bench.floors import least_work, spin_flops
from bench.kinds import RIVALS, Goal, Kind
from bench.race import Apart, Here, race
from bench.rows import Row, geometric_mean
from tests.cases import Case
from tests.helpers import Array, arrays_of, expected_of, real_numbers, sum_tolerance


@dataclass(frozen=True)
class Measured:
    """Seconds of one layer by contestant, and of the floors that were measured beside it."""

    kind: str
    case: Case
    seconds: Mapping[str, float]
    floor: float  # seconds: operations at the peak, or a copy of as many bytes
    bound: str
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the floor that the layer reaches."""
        return self.floor / self.seconds["layer"]

    def ratio(self, rival: str, entrant: str = "layer") -> float | None:
        """Time of the fastest of the rivals over the entrant's; None where none of them entered."""
        times = [self.seconds[name] for name in RIVALS[rival] if name in self.seconds]
        return min(times) / self.seconds[entrant] if times and entrant in self.seconds else None

    def ratio_at_floor(self, rival: str) -> float:
        """Give the ratio that a layer at its floor would have."""
        return min(self.seconds[name] for name in RIVALS[rival] if name in self.seconds) / self.floor

    def as_json(self) -> dict[str, Any]:
        layer = self.seconds["layer"]
        return {
            "name": self.case.name, "layer": str(self.case), "gflop": 2e-9 * self.case.macs,
            "seconds": dict(self.seconds), "floor": self.floor, "bound": self.bound, "share_of_floor": self.share,
            "ratios": {name: seconds / layer for name, seconds in self.seconds.items() if name != "layer"},
            "errors": dict(self.errors),
        }  # fmt: skip


def check(name: str, case: Case, actual: Array, expected: Array, tolerance: float) -> float:
    """Compare with the float64 result; give the largest error."""
    if actual.shape != expected.shape:
        raise AssertionError(f"{name} gives shape {actual.shape}, not {expected.shape}: {case}")
    error = float(np.abs(actual - expected).max(initial=0))
    if not error <= tolerance:
        raise AssertionError(f"{name} is off by {error:.1e}, allowed {tolerance:.1e}: {case}")
    return error


def measure(
    kind: str, case: Case, arenas: Mapping[str, Here | Apart], threads: int, seconds: float, functions: bool = False
) -> Measured:
    """Check a layer on every engine that has an arena, then time all in turn."""
    x, weight, bias = arrays_of(case, np.float32, real_numbers)
    expected, tolerance = expected_of(case, x, weight, bias), sum_tolerance(case, x, weight, bias)
    batches, errors = {}, {}
    for engine, arena in arenas.items():
        for name, result in arena.enter(peers.enter, engine, case, threads, functions).items():
            batches[name] = partial(arena.batch, name)
            if result is not None:
                errors[name] = check(name, case, result, expected, tolerance)
    del expected
    times = race(batches, seconds)
    for arena in arenas.values():
        arena.leave()
    copy, speed = times.pop("copy"), threads * spin_flops() / times["peak"]
    times["peak"] = 2.0 * case.macs / speed
    arithmetic = least_work(case)[0] / speed
    memory = copy if threads == 1 else 0.0  # a copy by one thread bounds nothing that several can do
    return Measured(kind, case, times, max(arithmetic, memory), "peak" if arithmetic >= memory else "copy", errors)


def arenas_for(kind: Kind, all_arenas: Mapping[str, Here | Apart]) -> dict[str, Here | Apart]:
    return {engine: all_arenas[engine] for engine in ("nbconv", *kind.engines) if engine in all_arenas}


def judge(goal: Goal, measured: Sequence[Measured]) -> Row | None:
    """Make the row of a goal; None where nothing of it was measured."""
    judged = [one for one in measured if one.kind in goal.kinds and (goal.only is None or goal.only(one.case))]
    entered = [one for one in judged if one.ratio(goal.rival, goal.entrant)]
    ratios = {one.case.name: one.ratio(goal.rival, goal.entrant) or 0.0 for one in entered}
    if not ratios:
        return None
    mean, worst = geometric_mean(ratios.values()), min(ratios, key=ratios.__getitem__)
    met = mean >= (goal.mean or 0) and ratios[worst] >= (goal.least or 0)
    text = f"mean {mean:.2f}, least {ratios[worst]:.2f} ({worst}), of {len(ratios)}"
    if len(ratios) == 1:
        text = f"{mean:.2f} ({worst})"
    at_floor = goal.rival != "peak" and "tiny" not in goal.kinds  # a tiny call is all overhead
    limit = geometric_mean(one.ratio_at_floor(goal.rival) for one in entered) if at_floor else None
    return Row(goal.title, goal.rival, goal.text, text, met, ratios, goal.mean or goal.least, limit)


def table_lines(kind: str, measured: Sequence[Measured]) -> list[str]:
    """Lay out the shapes of a kind: times of the layer, its floor, and the others' times over it."""
    names = [
        name for name in dict.fromkeys(n for one in measured for n in one.seconds) if name not in ("layer", "peak")
    ]
    heads = [name.replace("torch channels_last", "torch cl").replace("onnxruntime", "ort") for name in names]
    lines = [f"{kind:22}{'us':>11}{'GFLOP/s':>9}{'floor':>7}  " + "".join(f"{head:>13}" for head in heads)]
    for one in measured:
        layer = one.seconds["layer"]
        ratios = [f"{one.seconds[name] / layer:13.2f}" if name in one.seconds else " " * 13 for name in names]
        speed = 2e-9 * one.case.macs / layer
        lines.append(f"{one.case.name:22}{layer * 1e6:11.1f}{speed:9.1f}{one.share:7.0%}  " + "".join(ratios))
    return lines
