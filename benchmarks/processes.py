"""CPU seconds and memory of a process and its descendants, from Linux's /proc."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

# Each sample takes a few milliseconds of a core that the job could have used.
SAMPLE_S = 0.5
MIB = 1024**2

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Ray's daemons; all other descendants of a job do its work.
_RAY_DAEMONS = ("gcs_server", "raylet", "log_monitor", "dashboard", "runtime_env", "monitor.py")


def family(pid: int) -> list[int]:
    """The ids of a process and its current descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes and of their ended children."""
    return sum(sum(map(int, fields[11:15])) for pid in pids if (fields := _stat(pid))) / _TICKS_PER_S


def cpu_ticks(pid: int) -> int:
    """CPU ticks of a process so far, without its children; 0 if it has ended."""
    return sum(map(int, fields[11:13])) if (fields := _stat(pid)) else 0


def stolen_s() -> float:
    """CPU seconds of this process's cores that the hypervisor took while they were needed here (`steal`), so far."""
    here = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = map(str.split, Path("/proc/stat").read_text().splitlines())
    return sum(int(fields[8]) for fields in lines if fields[0] in here) / _TICKS_PER_S


@dataclass(frozen=True)
class Memory:
    """Memory in MiB: anonymous memory of the driver and of all workers, and shared memory (the object store)."""

    driver: float = 0.0
    workers: float = 0.0
    shared: float = 0.0

    def highest(self, other: "Memory") -> "Memory":
        """The maximum of each field."""
        return Memory(max(self.driver, other.driver), max(self.workers, other.workers), max(self.shared, other.shared))


class Sampler(ABC):
    """Runs `_watch` in a thread while the `with` block runs; `_done` is set at its end."""

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    @abstractmethod
    def _watch(self) -> None: ...


@dataclass
class Watch(Sampler):
    """Sample a driver and its workers every `SAMPLE_S` seconds while the `with` block runs."""

    pid: int
    peak: Memory = field(default_factory=Memory)
    # As last sampled: Ray does not wait for ended workers, so their time would be lost.
    cpu_s: float = 0.0

    def _watch(self) -> None:
        spent: dict[int, float] = {}
        while not self._done.wait(SAMPLE_S):
            pids = family(self.pid)
            self.peak = self.peak.highest(memory_of(pids))
            spent |= {pid: ticks / _TICKS_PER_S for pid in pids if (ticks := cpu_ticks(pid))}
            self.cpu_s = sum(spent.values())


def memory_of(pids: Sequence[int]) -> Memory:
    """Memory of the driver (the first id) and of its workers, without Ray's daemons."""
    driver = pids[0]
    sizes = {pid: _resident(pid) for pid in pids}
    workers = [pid for pid in sizes if pid != driver and not _is_ray_daemon(pid)]
    # Every process counts the pages of the object store that it has touched; take the largest.
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


def _is_ray_daemon(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return True
    # Only the first arguments: later ones of a worker contain names of the daemons' files.
    return any(name in " ".join(command.split("\0")[:3]) for name in _RAY_DAEMONS)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on: 1 is the parent, 11 to 14 are CPU ticks; empty if it has ended."""
    try:
        # The second field is the program's name in parentheses, which may contain anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
