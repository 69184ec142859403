"""Where a job's time goes: shares of a core by what runs, a line for every few seconds, and how much is idle.

`python -m benchmarks.breakdown [--pictures 12000] [--every 4]`. Reads /proc, which costs a little itself.
"""

import argparse
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.bucket import WEB, bucket
from benchmarks.discarding import discarding_store
from benchmarks.job import index, scratch
from benchmarks.processes import cpu_ticks, family
from viewfinder.models.cpu import cpu_cores

SAMPLE_S = 0.5
# By words of the command line, the first that fits: Ray names its workers after what they do at the moment.
ROLES = {
    "encode": ("ray::MapWorker(MapBatches(Encode)",),
    "fetch": ("ray::MapBatches(FetchAndDecode)",),
    "write": ("ray::Write",),
    "decode": ("viewfinder.images.decoder",),
    "S3": ("rclone",),
    "driver": ("jobs/index.py",),
    "Ray": ("ray::", "/ray/", "raylet", "gcs_server"),
}
IDLE, STOLEN = "idle", "stolen"
COLUMNS = (*ROLES, "other", IDLE, STOLEN)
# A stage runs where it takes at least so much of a core.
LEAST = 0.05


@dataclass
class Profile:
    """Samples of a process and all below it while the `with` block runs; `lines` are shares of a core by role."""

    every_s: float
    lines: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def together(self) -> list[dict[str, float]]:
        """The lines in which fetching, decoding and encoding all run."""
        stages = ("fetch", "decode", "encode")
        return [shares for _, shares in self.lines if min(shares[stage] for stage in stages) >= LEAST]

    def _watch(self) -> None:
        began = last = time.monotonic()
        spent: Counter[str] = Counter()
        before, machine = _ticks(), _machine()
        while not self._done.wait(SAMPLE_S):
            now = _ticks()
            for pid, (role, ticks) in now.items():
                spent[role] += ticks - before.get(pid, ("", 0))[1]
            before = now
            if (elapsed := time.monotonic() - last) >= self.every_s:
                machine_now = _machine()
                shares = {role: spent[role] for role in (*ROLES, "other")}
                shares |= {each: machine_now[each] - machine[each] for each in machine}
                per_s = os.sysconf("SC_CLK_TCK") * elapsed
                self.lines.append((last - began, {role: ticks / per_s for role, ticks in shares.items()}))
                last, machine = time.monotonic(), machine_now
                spent.clear()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job over a bucket of the web's pictures, and print its profile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breakdown", description=__doc__)
    parser.add_argument("--pictures", type=int, default=12_000, help="how many (%(default)s)")
    parser.add_argument("--every", type=float, default=4.0, metavar="SECONDS", help="of a line (%(default)s)")
    arguments = parser.parse_args(argv)
    with (
        scratch() as directory,
        discarding_store() as store,
        bucket(directory / "s3", WEB, arguments.pictures) as pictures,
        Profile(arguments.every) as profile,
    ):
        run = index(pictures, directory, store=store.url)
    table = Table("seconds", *COLUMNS, box=SIMPLE_HEAD)
    for since_s, shares in profile.lines:
        table.add_row(f"{since_s:.0f}", *(_percent(shares[each]) for each in COLUMNS))
    if together := profile.together:
        table.add_section()
        table.add_row("median while all run", *(_percent(median(each[role] for each in together)) for role in COLUMNS))
    Console(width=120).print(table)
    print(
        f"Percent of a core; there are {cpu_cores()}. {run.indexed:,} pictures in {run.seconds:.0f} s with start-up. "
        f"{len(profile.together)} of {len(profile.lines)} lines have all stages running."
    )


def _ticks() -> dict[int, tuple[str, int]]:
    """Of every process below this one, and of itself: its role now, and its CPU ticks so far."""
    return {pid: (_role(pid), ticks) for pid in family(os.getpid()) if (ticks := cpu_ticks(pid))}


def _role(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:  # it has ended
        return "other"
    return next((role for role, words in ROLES.items() if any(word in command for word in words)), "other")


def _machine() -> dict[str, int]:
    """Ticks of all cores in which they had nothing to do, or were kept by the hypervisor."""
    fields = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return {IDLE: fields[3] + fields[4], STOLEN: fields[7]}


def _percent(share: float) -> str:
    return f"{share * 100:.0f}"


if __name__ == "__main__":
    main()
