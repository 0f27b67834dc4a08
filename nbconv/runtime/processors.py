"""How many processors this process may use: its affinity, and the quota of its control groups (containers)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["affinity", "cpu_quota"]


def affinity() -> int:
    """Count the processors that the system may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> int | None:
    """Give the processors that the control groups of this process allow, rounded up; None without a limit.

    Groups nest, and each may have a limit: the least counts. `root` is where ``proc`` and ``sys`` lie.
    """
    quotas = [*_quotas(root)]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in processors, of each group above this process that has one; versions 1 and 2."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names: tuple[str, ...]
        if not controllers:
            top, names = "sys/fs/cgroup", ("cpu.max",)
        elif "cpu" in controllers.split(","):
            top, names = f"sys/fs/cgroup/{controllers}", ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            if not (root / top).is_dir():
                top = "sys/fs/cgroup/cpu"
        else:
            continue
        # Inside a container the path may be the host's, which does not exist here; its parents do, up to the top.
        group = root / top / path.strip("/")
        while True:
            quota = _quota(" ".join(_read(group / name) for name in names))
            if quota is not None:
                yield quota
            if group == root / top:
                break
            group = group.parent


def _quota(text: str) -> float | None:
    try:
        quota, period = (float(word) for word in text.split())
    except ValueError:  # "max 100000", or files that are not there
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
