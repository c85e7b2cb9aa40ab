"""How many processor cores this process may really use. Imports nothing that a worker or ``--help`` must not."""

import math
import os
from pathlib import Path

from sppfeat.config.control_groups import read_limits

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
    limits = read_limits(root, "cpu", unified="cpu.max", legacy=("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return min(map(_ratio, limits), default=math.inf)


def _ratio(quota_and_period: list[str]) -> float:
    try:
        quota, period = map(int, quota_and_period)
    except ValueError:  # "max", or no such file
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
