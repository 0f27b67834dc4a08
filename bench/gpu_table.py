"""Numbers of a run on a device: written as JSON, and told as the README's table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu_shapes import DENSE, GOALS
from bench.rows import geometric_mean, rounded

RESULTS = Path(__file__).parent / "results"
NOT_TIMED = "compiled and simulated, not yet timed"
GOAL_ROWS = tuple(case.name for case in DENSE[:3])
TITLES = {
    "fp32": "float32, FFMA units",
    "3xtf32": "float32, three TF32 products",
    "tf32": "float32 rounded to TF32",
    "bf16": "bfloat16",
    "float16": "float16",
    "depthwise": "depthwise, float32",
}
HEAD = ("| arithmetic | goal | reached | of cuBLAS | over PyTorch, forward | gradients |", "|---|---|---|---|---|---|")


def result_files() -> list[Path]:
    """Find the runs that were kept."""
    files = sorted(RESULTS.glob("*.json"))
    return [path for path in files if "ceilings" in json.loads(path.read_text(encoding="utf-8"))]


def table_lines(content: Mapping[str, Any] | None) -> list[str]:
    """Lay the README's table out; `content` is a run's JSON, None where no run was made.

    Speeds are the slowest of the shapes that carry the goals, ratios geometric means over all shapes: PyTorch's time
    over ours, PyTorch with the same arithmetic.
    """
    lines = list(HEAD)
    for arithmetic, (goal, unit) in GOALS.items():
        cells = [NOT_TIMED, "", "", ""]
        if content is not None:
            cells = _cells(content, arithmetic, unit)
        lines.append(re.sub(r" +", " ", "| " + " | ".join([TITLES[arithmetic], f"{goal:g} {unit}", *cells]) + " |"))
    if content is not None:
        machine, ceilings = content["machine"], content["ceilings"]
        lines += ["", f"{machine['device']}, {machine['date']}, numba-cuda {machine['numba_cuda']}, "
                  f"torch {machine['torch'] or 'not installed'}; a copy reaches {ceilings['copy']:.2f} TB/s. "
                  f"Checked on the device: {_checked(content)}."]  # fmt: skip
    return lines


def _cells(content: Mapping[str, Any], arithmetic: str, unit: str) -> list[str]:
    rows = [row for row in content["rows"] if row["arithmetic"] == arithmetic]
    forward = [row for row in rows if row["pass"] == "forward"]
    carrying = [row for row in forward if arithmetic == "depthwise" or row["name"] in GOAL_ROWS]
    if not carrying:
        return ["not measured", "", "", ""]
    least = min(row["speed"] for row in carrying)
    shares = [row["cublas"] / row["seconds"] for row in carrying if row.get("cublas")]
    share = f"{geometric_mean(shares):.0%}" if shares else ""
    return [f"{least:.3g} {unit}", share, _ratio(forward), _ratio([row for row in rows if row["pass"] != "forward"])]


def _ratio(rows: Sequence[Mapping[str, Any]]) -> str:
    ratios = [min(row["peers"].values()) / row["seconds"] for row in rows if row["peers"]]
    return f"{geometric_mean(ratios):.2f}" if ratios else ""


def _checked(content: Mapping[str, Any]) -> str:
    checks = content["checks"]
    failed = len(checks["failed"])
    tools = ", ".join(f"{tool} {result}" for tool, result in content["sanitizer"].items())
    return f"{checks['passed']} results right, {failed} wrong" + (f"; {tools}" if tools else "")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Keep a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(content), indent=1) + "\n", encoding="utf-8")


def file_name(device: str) -> str:
    """Name a file after a device: ``NVIDIA H200`` is ``nvidia-h200.json``."""
    return "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split()) + ".json"
