"""How many CPU cores there are for this process."""

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cpu_cores() -> int:
    """Those that it is bound to, and no more than its container's quota (cgroup 2) comes to; at least one."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return bound
