"""What programs cost, with all that they started: CPU seconds and memory, as Linux's /proc tells them."""

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

# Each look takes some milliseconds of a core that the job could have used.
SAMPLE_S = 0.5
MIB = 1024**2

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of a cluster on one machine; everything else that a job starts does the job's work.
_RAYS_OWN = ("gcs_server", "raylet", "log_monitor", "dashboard", "runtime_env", "monitor.py")


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as they are now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes, and those children of theirs that have ended, have used so far."""
    return sum(sum(map(int, fields[11:15])) for pid in pids if (fields := _stat(pid))) / _TICKS_PER_S


def cpu_ticks(pid: int) -> int:
    """What a process has used of the CPU so far, without its children; 0 once it has ended."""
    return sum(map(int, fields[11:13])) if (fields := _stat(pid)) else 0


def stolen_s() -> float:
    """CPU seconds of this process's cores that the hypervisor gave to others while they were wanted here, so far."""
    here = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = map(str.split, Path("/proc/stat").read_text().splitlines())
    return sum(int(fields[8]) for fields in lines if fields[0] in here) / _TICKS_PER_S


@dataclass(frozen=True)
class Memory:
    """Anonymous memory in MiB: the driver's, that of all workers together, and what is shared (the object store)."""

    driver: float = 0.0
    workers: float = 0.0
    shared: float = 0.0

    def highest(self, other: "Memory") -> "Memory":
        """The peak of each."""
        return Memory(max(self.driver, other.driver), max(self.workers, other.workers), max(self.shared, other.shared))


@dataclass
class Watch:
    """Looks at a driver and its workers every `SAMPLE_S` seconds, as long as the `with` block runs."""

    pid: int
    peak: Memory = field(default_factory=Memory)
    # Of the driver, Ray's daemons and all workers, as last seen: Ray waits for none that end, and /proc forgets them.
    cpu_s: float = 0.0

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        spent: dict[int, float] = {}
        while not self._done.wait(SAMPLE_S):
            pids = family(self.pid)
            self.peak = self.peak.highest(memory_of(pids))
            spent |= {pid: ticks / _TICKS_PER_S for pid in pids if (ticks := cpu_ticks(pid))}
            self.cpu_s = sum(spent.values())


def memory_of(pids: Sequence[int]) -> Memory:
    """Of a driver, the first, and of the workers among its descendants; Ray's own daemons are left out."""
    driver = pids[0]
    sizes = {pid: _resident(pid) for pid in pids}
    workers = [pid for pid in sizes if pid != driver and not _is_rays_own(pid)]
    # Every process that looks at the object store counts its pages: the one that has seen most of it tells.
    shared = max((size[1] for size in sizes.values()), default=0)
    return Memory(sizes[driver][0] / MIB, sum(sizes[pid][0] for pid in workers) / MIB, shared / MIB)


def _resident(pid: int) -> tuple[int, int]:
    """Anonymous and shared resident bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0, 0
    values = dict(line.split(":", 1) for line in lines)
    anonymous, shared = (int(values.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
    return anonymous, shared


def _is_rays_own(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return True
    # Further on, the command line of a worker names files of the daemons.
    return any(name in " ".join(command.split("\0")[:3]) for name in _RAYS_OWN)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: 1 is the parent, 11 to 14 are CPU ticks; none once it ended."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
