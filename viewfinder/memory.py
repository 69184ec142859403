"""Memory available to this process."""

from pathlib import Path

INFO = Path("/proc/meminfo")
LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available_memory() -> int | None:
    """Return the bytes that this process may still take: the machine's, bounded by its container's limit (cgroup 2).

    None where the system does not tell.
    """
    try:
        line = next(each for each in INFO.read_text().splitlines() if each.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    machine = int(line.split()[1]) * 1024
    try:
        return min(machine, int(LIMIT.read_text()) - int(USED.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return machine
