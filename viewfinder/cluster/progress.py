"""Progress of a job whose rows are written by other processes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from viewfinder.indexing.accounting import Tally
from viewfinder.indexing.progress import IndexingProgress

POLL_S = 0.5


class Counter:
    """An actor that sums the counts of write tasks. Unlike the final tally, it counts a task twice if Ray reruns it."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Tally().outcomes, 0)

    def add(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            self._counts[name] += count

    def counts(self) -> dict[str, int]:
        return self._counts


@contextmanager
def followed_counter(progress: IndexingProgress) -> Iterator[Any]:
    """Yield a `Counter` actor, and pass its counts to `progress` twice a second during the block."""
    counter = ray.remote(num_cpus=0)(Counter).remote()
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(counter, progress, done), name="progress", daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        done.set()
        thread.join(timeout=5)
        ray.kill(counter)


def _follow(counter: Any, progress: IndexingProgress, done: threading.Event) -> None:
    finished = False
    while not finished:
        finished = done.wait(POLL_S)
        try:
            progress(ray.get(counter.counts.remote(), timeout=POLL_S * 4))
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            continue
