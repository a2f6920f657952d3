"""How many threads this process may use: affinity and the control groups' quotas."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus(cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """CPUs that the affinity mask allows, but no more than any quota that holds for the process.

    cgroup: where control groups are mounted. membership: which of them the process is in; a quota
    of one above it holds as well.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    quotas = [quota for quota in _quotas(cgroup, membership) if quota is not None]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)], default=1))


def _quotas(cgroup: Path, membership: Path) -> Iterator[float | None]:
    """CPUs' worth of time per period, of each group from the process's own up to the root."""
    unified, cpu = _paths(membership)
    for path in (unified, *unified.parents):
        yield _quota(cgroup / path / "cpu.max")
    for path in (cpu, *cpu.parents):
        folder = cgroup / "cpu" / path
        yield _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _paths(membership: Path) -> tuple[PurePosixPath, PurePosixPath]:
    """The process's group in version 2 and in version 1's hierarchy `cpu`, below their roots."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    unified = cpu = PurePosixPath(".")
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        below = PurePosixPath(path.lstrip("/") or ".")
        if ".." in below.parts:
            continue  # outside what this process can see
        if controllers == "":
            unified = below
        elif "cpu" in controllers.split(","):
            cpu = below
    return unified, cpu


def _quota(*files: Path) -> float | None:
    """Quota over period, which stand in one file or in two; None without a limit."""
    try:
        words = " ".join(file.read_text(encoding="ascii") for file in files).split()
        limit, period = words
        ratio = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return ratio if ratio > 0 else None
