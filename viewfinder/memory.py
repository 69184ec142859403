"""Memory available to this process."""

from pathlib import Path

INFO = Path("/proc/meminfo")
# Of a container (cgroup 2).
LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
STATISTICS = Path("/sys/fs/cgroup/memory.stat")


def available_memory() -> int | None:
    """Return the bytes that this process may still take: the machine's, bounded by its container's limit.

    Cached files that the system would drop count as available. None where the system does not tell.
    """
    try:
        machine = _value(INFO, "MemAvailable:") * 1024
    except (OSError, StopIteration):
        return None
    try:
        used = int(USED.read_text()) - _value(STATISTICS, "inactive_file")
        return min(machine, int(LIMIT.read_text()) - used)
    except (OSError, StopIteration, ValueError):  # no such file, or "max"
        return machine


def _value(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[:1] == [name])
