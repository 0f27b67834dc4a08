"""Speed beside PyTorch, ONNX Runtime and JAX: every goal of the project, each result checked before it is timed.

    python -m bench.compare                                  all kinds of shapes, on one core
    python -m bench.compare --quick                          fewer shapes, less time each
    python -m bench.compare --kinds "dense 1-D" grouped      these kinds only
    python -m bench.compare --threads 2                      all engines with two threads, each in its own process

The peers are those that are installed: ``pip install torch onnx onnxruntime jax``, whichever you like; ``pip install
'.[test,bench]'`` for the rest. Times on one core are processor time of contestants that take turns in one process; the
best batch counts. The table goes to the terminal; all numbers go to a JSON file, and a picture of the ratios beside it.

Columns of the shapes: time of the layer; its speed; the share of its floor, which is the larger of its operations at
the multiply-add peak and of a copy of as many bytes as it must move, both measured beside it; others' times over its.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import gradients, limits, peers, vocoder
from bench.kinds import GOALS, KINDS, chosen
from bench.layers import Measured, arenas_for, judge, measure, table_lines
from bench.race import Apart, Here, one_core, usable_cores
from bench.rows import Row, draw, is_busy, print_rows, write_json

RESULTS = Path(__file__).parent / "results"
SECONDS, QUICK_SECONDS = 0.25, 0.05  # of each contestant

# What is no list of layers: name -> function of (settings) that gives rows.
OTHERS: dict[str, Callable[[limits.Settings], list[Row]]] = {
    "threads": limits.thread_rows,
    "memory": limits.memory_rows,
    "growth": limits.growth_rows,
    "vocoder": vocoder.rows,
    "gradients": gradients.rows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*KINDS, *OTHERS]
    usual = [name for name in names if name != "gradients"]
    told = f"all but gradients, or some of: {', '.join(names)}"
    parser.add_argument("--kinds", nargs="+", choices=names, default=usual, metavar="KIND", help=told)
    parser.add_argument("--engines", nargs="*", choices=peers.ENGINES, default=peers.installed(), help="peers")
    parser.add_argument("--threads", type=int, default=1, help="of every engine")
    parser.add_argument("--quick", action="store_true", help="the first few shapes of each kind, a fifth of the time")
    parser.add_argument("--seconds", type=float, help="time spent on each contestant")
    parser.add_argument("--out", type=Path, help="JSON file to write; the picture goes beside it")
    args = parser.parse_args(arguments)
    seconds = args.seconds if args.seconds is not None else QUICK_SECONDS if args.quick else SECONDS
    settings = limits.Settings(tuple(args.engines), args.threads, usable_cores(), seconds, args.quick)
    machine = describe_machine(settings)
    print("  ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    if is_busy(machine):
        print("the machine is busy: times of more than one thread mean little")
    with ExitStack() as stack:
        if args.threads == 1:
            stack.enter_context(one_core())
        measured = measure_kinds([name for name in args.kinds if name in KINDS], settings, stack)
        judged = [row for row in (judge(goal, measured) for goal in GOALS) if row]
        rows = [replace(row, wall=args.threads > 1) for row in judged]
        for name in args.kinds:
            if name in OTHERS:
                rows += OTHERS[name](settings)
    print_rows(rows, is_busy(machine))
    kinds = {name: [one.as_json() for one in measured if one.kind == name] for name in args.kinds if name in KINDS}
    out = args.out or RESULTS / f"{file_name(machine)}.json"
    write_json(out, machine, kinds, rows)
    print(f"\n{sum(row.met for row in rows)} of {len(rows)} goals are met; numbers: {out}")
    print(draw(out.with_suffix(".png"), machine, rows))
    return 0


def measure_kinds(names: Sequence[str], settings: limits.Settings, stack: ExitStack) -> list[Measured]:
    """Measure the shapes of the named kinds, and print them kind by kind."""
    arenas: dict[str, Here | Apart] = {}
    for engine in ("nbconv", *settings.engines) if names else ():
        arenas[engine] = next(iter(arenas.values()), Here()) if settings.threads == 1 else settings.apart(stack)
    measured: list[Measured] = []
    for name in names:
        kind = KINDS[name]
        own = [
            measure(name, case, arenas_for(kind, arenas), settings.threads, settings.seconds, kind.functions)
            for case in chosen(kind, settings.quick)
        ]
        print("\n" + "\n".join(table_lines(name, own)), flush=True)
        measured += own
    return measured


def describe_machine(settings: limits.Settings) -> dict[str, Any]:
    """Say where and with what the run is made."""
    from nbconv.runtime.target import host_target

    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba", *settings.engines)}
    return {
        "cpu": cpu_name(), "target": host_target().cpu, "cores": len(settings.cores) or None,
        "threads": settings.threads, "quick": settings.quick, "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,  # what others do
        "python": platform.python_version(), **versions,
    }  # fmt: skip


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def file_name(machine: dict[str, Any]) -> str:
    """Name a file after the processor."""
    words = f"{machine['cpu']} {machine['target']}".lower()
    name = "-".join("".join(c if c.isalnum() else " " for c in words).split())
    return name if machine["threads"] == 1 else f"{name}-{machine['threads']}-threads"


if __name__ == "__main__":
    sys.exit(main())
