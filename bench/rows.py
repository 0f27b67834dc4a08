"""Rows of the table: printed, written as JSON, drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BUSY_LOAD = 0.5


@dataclass(frozen=True)
class Row:
    """A goal and what was measured; `ratios` by shape, to be at least `goal_ratio`, where the row is made of ratios.

    `limit` is the mean ratio that layers would reach at their floors: no goal above it can be met on that machine.
    `wall` rows were timed by the wall's clock, which other work on the machine delays.
    """

    title: str
    against: str
    goal: str
    measured: str
    met: bool
    ratios: Mapping[str, float] = field(default_factory=dict)
    goal_ratio: float | None = None
    limit: float | None = None
    wall: bool = False


def geometric_mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def is_busy(machine: Mapping[str, Any]) -> bool:
    """Say whether other work ran on the machine."""
    return machine.get("load", 0.0) > BUSY_LOAD


def print_rows(rows: Sequence[Row], busy: bool) -> None:
    """Print the table as Markdown."""
    print("\n| kind | against | goal | measured | mean at the floor | |\n|---|---|---|---|---|---|")
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:.2f}"
        verdict = ("met" if row.met else "not met") + (" (busy machine)" if busy and row.wall else "")
        print(f"| {row.title} | {row.against} | {row.goal} | {row.measured} | {limit} | {verdict} |")


def write_json(path: Path, machine: Mapping[str, Any], kinds: Mapping[str, Any], rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "kinds": kinds, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(rounded(content), indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Keep five digits of every number: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def draw(path: Path, machine: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Draw a bar a row: the geometric mean of its ratios, a dot a shape, a mark at the goal; say what was done.

    Rows of the wall's clock are left out where the machine was busy.
    """
    rows = [row for row in rows if row.ratios and not (row.wall and is_busy(machine))]
    if not rows:
        return "no picture: no row is made of ratios"
    try:
        import matplotlib
    except ImportError:
        return "no picture: matplotlib is not installed (pip install '.[bench]')"
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.34 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        mean = geometric_mean(row.ratios.values())
        axes.barh(place, mean - 1, left=1, color="tab:green" if row.met else "tab:orange", height=0.6)
        axes.plot(list(row.ratios.values()), [place] * len(row.ratios), ".", color="black", markersize=4, alpha=0.5)
        axes.plot([row.goal_ratio] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
        if row.limit is not None:
            axes.plot(row.limit, place, "d", color="tab:blue", markersize=4)
        axes.text(1.005, place, f"{mean:.2f}", va="center", fontsize=7, transform=axes.get_yaxis_transform())
    axes.set_xscale("log")
    marks = [mark for mark in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if _meets(mark, axes.get_xlim())]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.set_xticks([], minor=True)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row.title}\nagainst {row.against}" for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(
        "their time over ours: mean (bar), shapes (dots), goal (line), ours at its floor (diamond)", fontsize=8
    )
    threads = machine["threads"]
    axes.set_title(f"{machine['cpu']}, {threads} thread{'s' if threads > 1 else ''}, float32", fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return f"picture: {path}"


def _meets(mark: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= mark <= limits[1]
