"""Time and memory of a job as the number of images grows, and its speed as the number of cores grows; with plots."""

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
IMAGES = (5_000, 15_000, 50_000)
CORES = (1, 2, 4)
# Per core. The smaller number is more than are fetched and decoded while the encoder loads its model.
CORES_IMAGES = (3_000, 7_000)
PLOT = Path(__file__).parent / "out" / "growth.png"
PLOT_OF_CORES = Path(__file__).parent / "out" / "cores.png"


@dataclass(frozen=True)
class Growth:
    """The same job over increasing numbers of images."""

    counts: Sequence[int]
    runs: Sequence[Run]
    described: str

    @property
    def memory(self) -> float:
        """Peak at the largest run ÷ at the smallest: the driver's or the workers', whichever grows more."""
        return growth_of_memory(self.runs[0], self.runs[-1])

    @property
    def time(self) -> float:
        """Images/s between the two smallest runs ÷ between the two largest: 1 is linear."""
        first, last = (
            Margin(self.counts[at], self.runs[at].seconds, self.counts[at + 1], self.runs[at + 1].seconds)
            for at in (0, len(self.runs) - 2)
        )
        return first.per_second / last.per_second

    @property
    def bytes_per_image(self) -> float:
        """Growth of the workers' peak per additional image, between the two largest runs."""
        grown = self.runs[-1].memory.workers - self.runs[-2].memory.workers
        return grown * MIB / (self.counts[-1] - self.counts[-2])

    def __str__(self) -> str:
        each = [
            f"{count:,}: {run.seconds:.0f} s, driver {run.memory.driver:.0f} MiB, all workers "
            f"{run.memory.workers:.0f} MiB, object store {run.memory.shared:.0f} MiB"
            for count, run in zip(self.counts, self.runs, strict=True)
        ]
        return (
            f"{'; '.join(each)}; the workers' peak changes by {self.bytes_per_image:+,.0f} bytes "
            f"per image beyond {self.counts[-2]:,}; model demo, {self.described}, into a store that keeps no points"
        )


def measure_memory(quick: bool) -> Measurement:
    """Peak anonymous memory at 50,000 images ÷ at 5,000."""
    growth = _growth(quick)
    return Measurement(growth.memory, str(growth))


def measure_time(quick: bool) -> Measurement:
    """Linearity of time over the number of images: 1 is linear."""
    growth = _growth(quick)
    return Measurement(growth.time, f"{growth}; plotted in {PLOT.name}")


def growth_of_memory(few: Run, many: Run) -> float:
    """The larger of the driver's and the workers' growth."""
    return max(many.memory.driver / few.memory.driver, many.memory.workers / few.memory.workers)


def measure_cores(quick: bool) -> Measurement:
    """Linearity of images/s over cores: the speed-up at the largest number of cores ÷ that number.

    The S3 endpoint and the store share the cores with the job.
    """
    each = (10, 30) if quick else CORES_IMAGES
    here = sorted(os.sched_getaffinity(0))
    counts = [count for count in CORES if count <= len(here)]
    if len(counts) < 2:
        return Measurement(None, f"this machine has {len(here)} core")
    rates: dict[int, float] = {}
    largest = each[-1] * counts[-1]
    with scratch() as directory, discarding_store() as store, bucket(directory / "s3", SMALL, largest) as images:
        try:
            for count in counts:
                os.sched_setaffinity(0, here[:count])  # inherited by processes started from now on
                for pid in family(os.getpid()):
                    _bind(pid, here[:count])
                few, many = (
                    index(images, directory, "--max-objects", str(per_core * count), store=store.url)
                    for per_core in each
                )
                rates[count] = Margin(few.indexed, few.seconds, many.indexed, many.seconds).per_second
        finally:
            os.sched_setaffinity(0, here)
        described = images.described
    if not quick:
        _plot_cores(rates)
    skipped = [str(count) for count in CORES if count not in counts]
    return Measurement(
        rates[counts[-1]] / rates[1] / counts[-1],
        f"{', '.join(f'{rate:.1f} images/s on {count}' for count, rate in rates.items())} cores"
        f"{f'; not on {chr(32).join(skipped)}: this machine has {len(here)}' if skipped else ''}; start-up left out, "
        f"model demo, {described}, S3 endpoint and loopback store on the same cores; plotted in {PLOT_OF_CORES.name}",
    )


@functools.cache
def _growth(quick: bool) -> Growth:
    """Run once for both figures."""
    counts = (10, 30, 60) if quick else IMAGES
    with scratch() as directory, discarding_store() as store:
        images = laid_out(directory, SMALL, counts[-1])
        runs = [index(images, directory, "--max-objects", str(count), store=store.url) for count in counts]
        growth = Growth(counts, runs, images.described)
    if not quick:
        _plot(growth)
    return growth


def _bind(pid: int, cores: Sequence[int]) -> None:
    """Bind every thread of a running process to cores."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def _plot(growth: Growth) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    time, memory = figure.subplots(1, 2)
    time.plot(growth.counts, [run.seconds for run in growth.runs], marker="o")
    time.set(title="Time", xlabel="images", ylabel="seconds, start-up included", xlim=0, ylim=0)
    for name, label in (("driver", "driver"), ("workers", "all workers"), ("shared", "object store")):
        memory.plot(growth.counts, [getattr(run.memory, name) for run in growth.runs], marker="o", label=label)
    memory.set(title="Peak memory", xlabel="images", ylabel="MiB", xlim=0, ylim=0)
    memory.legend()
    _save(figure, PLOT)


def _plot_cores(rates: Mapping[int, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(rates), list(rates.values()), marker="o", label="job")
    axes.plot([0, max(rates)], [0, rates[1] * max(rates)], linestyle=":", label="linear")
    axes.set(title="Speed", xlabel="cores", ylabel="images/s", xlim=0, ylim=0)
    axes.legend()
    _save(figure, PLOT_OF_CORES)


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
