"""What a job takes of time and memory as the bucket grows, and as the workers do; with a picture of each."""

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bucket import SMALL, bucket, laid_out
from benchmarks.discarding import discarding_store
from benchmarks.harness import Measurement
from benchmarks.job import Run, index, scratch
from benchmarks.margin import Margin
from benchmarks.processes import MIB, family

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# 1, 3 and 10 times as many.
PICTURES = (5_000, 15_000, 50_000)
CORES = (1, 2, 4)
# For each core. The fewer are more than are fetched and decoded while the encoder loads its model.
CORES_PICTURES = (3_000, 7_000)
PLOT = Path(__file__).parent / "out" / "growth.png"
PLOT_OF_CORES = Path(__file__).parent / "out" / "cores.png"


@dataclass(frozen=True)
class Growth:
    """The same job over ever more pictures."""

    counts: Sequence[int]
    runs: Sequence[Run]
    described: str

    @property
    def memory(self) -> float:
        """Peak at the most pictures ÷ at the fewest: the driver's, or the workers', whichever grows more."""
        return growth_of_memory(self.runs[0], self.runs[-1])

    @property
    def time(self) -> float:
        """Pictures a second between the two smallest runs ÷ between the two largest: 1 is a straight line."""
        first, last = (
            Margin(self.counts[at], self.runs[at].seconds, self.counts[at + 1], self.runs[at + 1].seconds)
            for at in (0, len(self.runs) - 2)
        )
        return first.per_second / last.per_second

    @property
    def bytes_a_picture(self) -> float:
        """By how much the workers' peak grows for each picture more, between the two largest runs."""
        grown = self.runs[-1].memory.workers - self.runs[-2].memory.workers
        return grown * MIB / (self.counts[-1] - self.counts[-2])

    def __str__(self) -> str:
        each = [
            f"{count:,}: {run.seconds:.0f} s, driver {run.memory.driver:.0f} MiB, all workers "
            f"{run.memory.workers:.0f} MiB, object store {run.memory.shared:.0f} MiB"
            for count, run in zip(self.counts, self.runs, strict=True)
        ]
        return (
            f"{'; '.join(each)}; the workers' peak changes by {self.bytes_a_picture:+,.0f} bytes "
            f"a picture beyond {self.counts[-2]:,}; model demo, {self.described}, into a store that keeps nothing"
        )


def measure_memory(quick: bool) -> Measurement:
    """Anonymous memory at the peak, 50,000 pictures ÷ 5,000."""
    growth = _growth(quick)
    return Measurement(growth.memory, str(growth))


def measure_time(quick: bool) -> Measurement:
    """How straight the line of time over pictures is."""
    growth = _growth(quick)
    return Measurement(growth.time, f"{growth}; plotted in {PLOT.name}")


def growth_of_memory(few: Run, many: Run) -> float:
    """The greater of the driver's and the workers' growth."""
    return max(many.memory.driver / few.memory.driver, many.memory.workers / few.memory.workers)


def measure_cores(quick: bool) -> Measurement:
    """How straight the line of pictures a second over cores is: the speed-up at the most cores ÷ their number.

    The S3 endpoint and the store have no others than the job.
    """
    each = (10, 30) if quick else CORES_PICTURES
    here = sorted(os.sched_getaffinity(0))
    counts = [count for count in CORES if count <= len(here)]
    if len(counts) < 2:
        return Measurement(None, f"this machine has {len(here)} core")
    rates: dict[int, float] = {}
    most = each[-1] * counts[-1]
    with scratch() as directory, discarding_store() as store, bucket(directory / "s3", SMALL, most) as pictures:
        try:
            for count in counts:
                os.sched_setaffinity(0, here[:count])  # what is started from now on inherits it
                for pid in family(os.getpid()):
                    _bind(pid, here[:count])
                few, many = (
                    index(pictures, directory, "--max-objects", str(of_one * count), store=store.url) for of_one in each
                )
                rates[count] = Margin(few.indexed, few.seconds, many.indexed, many.seconds).per_second
        finally:
            os.sched_setaffinity(0, here)
        described = pictures.described
    if not quick:
        _plot_cores(rates)
    skipped = [str(count) for count in CORES if count not in counts]
    return Measurement(
        rates[counts[-1]] / rates[1] / counts[-1],
        f"{', '.join(f'{rate:.1f} pictures/s on {count}' for count, rate in rates.items())} cores"
        f"{f'; not on {chr(32).join(skipped)}: this machine has {len(here)}' if skipped else ''}; start-up left out, "
        f"model demo, {described}, S3 endpoint and loopback store on the same cores; plotted in {PLOT_OF_CORES.name}",
    )


@functools.cache
def _growth(quick: bool) -> Growth:
    """The runs, made once for both figures."""
    counts = (10, 30, 60) if quick else PICTURES
    with scratch() as directory, discarding_store() as store:
        pictures = laid_out(directory, SMALL, counts[-1])
        runs = [index(pictures, directory, "--max-objects", str(count), store=store.url) for count in counts]
        growth = Growth(counts, runs, pictures.described)
    if not quick:
        _plot(growth)
    return growth


def _bind(pid: int, cores: Sequence[int]) -> None:
    """Every thread of a running process."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def _plot(growth: Growth) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    time, memory = figure.subplots(1, 2)
    time.plot(growth.counts, [run.seconds for run in growth.runs], marker="o")
    time.set(title="Time", xlabel="pictures", ylabel="seconds, start-up included", xlim=0, ylim=0)
    for name, label in (("driver", "driver"), ("workers", "all workers"), ("shared", "object store")):
        memory.plot(growth.counts, [getattr(run.memory, name) for run in growth.runs], marker="o", label=label)
    memory.set(title="Peak memory", xlabel="pictures", ylabel="MiB", xlim=0, ylim=0)
    memory.legend()
    _save(figure, PLOT)


def _plot_cores(rates: Mapping[int, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(rates), list(rates.values()), marker="o", label="job")
    axes.plot([0, max(rates)], [0, rates[1] * max(rates)], linestyle=":", label="a straight line")
    axes.set(title="Speed", xlabel="cores", ylabel="pictures a second", xlim=0, ylim=0)
    axes.legend()
    _save(figure, PLOT_OF_CORES)


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
