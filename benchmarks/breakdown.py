"""A job's CPU time: shares of a core by role every few seconds, and idle time.

`python -m benchmarks.breakdown [--images 12000] [--every 4]`. Reads /proc, which costs a little CPU itself.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.bucket import WEB, bucket
from benchmarks.discarding import discarding_store
from benchmarks.job import index, scratch
from benchmarks.processes import Sampler, cpu_ticks, family
from viewfinder.models.cpu import cpu_cores

SAMPLE_S = 0.5
# By words in the command line, first match first; Ray names its workers after their current task.
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
# A stage counts as running from this share of a core on.
MINIMUM_SHARE = 0.05


@dataclass
class Profile(Sampler):
    """Sample a process and its descendants while the `with` block runs; `lines` are shares of a core by role."""

    every_s: float
    pid: int = field(default_factory=os.getpid)
    lines: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    @property
    def together(self) -> list[dict[str, float]]:
        """The lines in which fetching, decoding and encoding all run."""
        stages = ("fetch", "decode", "encode")
        return [shares for _, shares in self.lines if min(shares[stage] for stage in stages) >= MINIMUM_SHARE]

    def _watch(self) -> None:
        began = last = time.monotonic()
        spent: Counter[str] = Counter()
        before, machine = _ticks(self.pid), _machine()
        while not self._done.wait(SAMPLE_S):
            now = _ticks(self.pid)
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
    """Run the job over images of web size and print its profile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breakdown", description=__doc__)
    parser.add_argument("--images", type=int, default=12_000, help="number of images (%(default)s)")
    parser.add_argument("--every", type=float, default=4.0, metavar="SECONDS", help="seconds per line (%(default)s)")
    arguments = parser.parse_args(argv)
    with (
        scratch() as directory,
        discarding_store() as store,
        bucket(directory / "s3", WEB, arguments.images) as images,
        Profile(arguments.every) as profile,
    ):
        run = index(images, directory, store=store.url)
    table = Table("seconds", *COLUMNS, box=SIMPLE_HEAD)
    for since_s, shares in profile.lines:
        table.add_row(f"{since_s:.0f}", *(_percent(shares[each]) for each in COLUMNS))
    if together := profile.together:
        table.add_section()
        table.add_row(
            "median while all stages run", *(_percent(median(each[role] for each in together)) for role in COLUMNS)
        )
    Console(width=120).print(table)
    print(
        f"Percent of a core; there are {cpu_cores()}. {run.indexed:,} images in {run.seconds:.0f} s with start-up. "
        f"{len(profile.together)} of {len(profile.lines)} lines have all stages running."
    )


def _ticks(root: int) -> dict[int, tuple[str, int]]:
    """Current role and CPU ticks so far of a process and its descendants."""
    return {pid: (_role(pid), ticks) for pid in family(root) if (ticks := cpu_ticks(pid))}


def _role(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:  # the process has ended
        return "other"
    return next((role for role, words in ROLES.items() if any(word in command for word in words)), "other")


def _machine() -> dict[str, int]:
    """Ticks in which cores were idle or taken by the hypervisor."""
    fields = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return {IDLE: fields[3] + fields[4], STOLEN: fields[7]}


def _percent(share: float) -> str:
    return f"{share * 100:.0f}"


if __name__ == "__main__":
    main()
