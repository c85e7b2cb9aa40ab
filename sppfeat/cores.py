"""How many processor cores this process may really use. Imports nothing that a worker or ``--help`` must not."""

import math
import os
from pathlib import Path

__all__ = ["available_cores", "visible_cores"]


def available_cores(root: Path = Path("/")) -> int:
    """Cores that the system lets this process use: by its affinity, and by the quotas of its control groups.

    A container that may use two of 64 cores sees all 64 of them; a program that starts as many threads is held up
    most of the time.

    Args:
        root: of the file system.
    """
    return max(1, math.ceil(min(visible_cores(), _quota(root))))


def visible_cores() -> int:
    """Cores that this process sees, by its affinity: as many as other libraries start threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(root: Path) -> float:
    """Cores by the narrowest quota of the groups that this process is in; infinity without any."""
    quota = math.inf
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            for group in _groups(root / "sys/fs/cgroup", path):
                quota = min(quota, _ratio(_text(group / "cpu.max").split()))
        elif "cpu" in controllers.split(","):
            for group in _groups(root / "sys/fs/cgroup/cpu", path):
                period = _text(group / "cpu.cfs_period_us")
                quota = min(quota, _ratio([_text(group / "cpu.cfs_quota_us").strip(), period.strip()]))
    return quota


def _groups(mount: Path, path: str) -> list[Path]:
    """The folders of a group and of all that it is in; a container may see its own group as the outermost one."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:n]) for n in range(len(parts) + 1)]


def _ratio(quota_and_period: list[str]) -> float:
    try:
        quota, period = map(int, quota_and_period)
    except ValueError:  # "max", or no such file
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
