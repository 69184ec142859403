"""Progress of a job whose rows are written by other processes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from viewfinder.indexing.progress import IndexingProgress

POLL_S = 0.5


def driver_node() -> dict[str, str]:
    """The label that selects the node of the driver, which a job cannot outlive."""
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


class WrittenRows:
    """An actor that knows how much each write task has stored, by outcome.

    A task that Ray runs again, because its node was lost, counts once: as its attempt that stored most.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Mapping[str, int]] = {}

    def record(self, task: int, counts: Mapping[str, int]) -> None:
        """Record what an attempt of a task has stored so far."""
        if sum(counts.values()) >= sum(self._tasks.get(task, {}).values()):
            self._tasks[task] = counts

    def counts(self) -> dict[str, int]:
        """Objects by outcome of all tasks."""
        return {
            outcome: sum(counts.get(outcome, 0) for counts in self._tasks.values())
            for outcome in ("indexed", "unchanged", "skipped", "failed")
        }


@contextmanager
def followed_writes(progress: IndexingProgress) -> Iterator[Any]:
    """Yield a `WrittenRows` actor, and pass its counts to `progress` twice a second during the block.

    It runs on the node of the driver: on another one it would be lost with that node.
    """
    actor = ray.remote(num_cpus=0, max_restarts=-1, label_selector=driver_node())(WrittenRows)
    written = actor.remote()
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(written, progress, done), name="progress", daemon=True)
    thread.start()
    try:
        yield written
    finally:
        done.set()
        thread.join(timeout=5)
        ray.kill(written)


def _follow(written: Any, progress: IndexingProgress, done: threading.Event) -> None:
    finished = False
    while not finished:
        finished = done.wait(POLL_S)
        try:
            progress(ray.get(written.counts.remote(), timeout=POLL_S * 4))
        except ray.exceptions.RayError:  # too slow, or away with its process; the next poll asks again
            continue
