"""How far the job is, for whoever watches: a bar on a terminal, a line now and then in a log."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger(__name__)

POLL_S = 0.5
LOG_EVERY_S = 15.0

# Progress goes to standard error: standard output is the summary, for people and for pipes.
console = Console(file=sys.stderr)


class Counter:
    """Sums what the write tasks report. An actor; approximate where Ray runs a task twice, unlike the final tally."""

    def __init__(self) -> None:
        self._counts = {"indexed": 0, "unchanged": 0, "failed": 0}

    def add(self, indexed: int, unchanged: int, failed: int) -> None:
        for name, count in (("indexed", indexed), ("unchanged", unchanged), ("failed", failed)):
            self._counts[name] += count

    def counts(self) -> dict[str, int]:
        return self._counts


@contextmanager
def follow(total: int) -> Iterator[Any]:
    """Show progress towards `total` objects while the block runs; yields the actor that the sink reports to."""
    counter = ray.remote(num_cpus=0)(Counter).remote()
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(counter, total, done), name="progress", daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        done.set()
        thread.join(timeout=5)
        ray.kill(counter)


@contextmanager
def listing() -> Iterator[Callable[[int], None]]:
    """Show how many objects have been listed; yields what to call with that number."""
    began = time.monotonic()
    shown = 0.0
    with console.status("Listing") as status:

        def listed(count: int) -> None:
            nonlocal shown
            elapsed = time.monotonic() - began
            if console.is_terminal:
                status.update(f"Listing: {count:,} objects, {count / max(elapsed, 1e-3):,.0f}/s")
            elif elapsed - shown > LOG_EVERY_S:
                shown = elapsed
                logger.info("%d objects listed", count)

        yield listed


def _show(counter: Any, total: int, done: threading.Event) -> None:
    if console.is_terminal:
        with bar() as progress:
            task = progress.add_task("Indexing", total=total, note="starting workers")
            while not done.wait(POLL_S):
                _advance(progress, task, counter)
            _advance(progress, task, counter)
        return
    began, waited = time.monotonic(), 0.0
    while not done.wait(POLL_S):
        waited += POLL_S
        if waited >= LOG_EVERY_S:
            logger.info("%s", _line(_counts(counter), total, time.monotonic() - began))
            waited = 0.0


def bar() -> Progress:
    """The bar of every long step: name, bar, count, time passed, time left, note."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _advance(progress: Progress, task: TaskID, counter: Any) -> None:
    counts = _counts(counter)
    finished = sum(counts.values())
    elapsed = progress.tasks[task].elapsed or 0.0
    note = f"{finished / elapsed:,.0f}/s  {_note(counts)}" if finished and elapsed else "starting workers"
    progress.update(task, completed=finished, note=note)


def _line(counts: dict[str, int], total: int, elapsed: float) -> str:
    finished = sum(counts.values())
    if not finished:
        return f"{total:,} objects to go, starting workers"
    left = (total - finished) * elapsed / finished
    return f"{finished:,} of {total:,} objects, {finished / elapsed:,.0f}/s, about {left:,.0f} s left ({_note(counts)})"


def _counts(counter: Any) -> dict[str, int]:
    try:
        counts: dict[str, int] = ray.get(counter.counts.remote(), timeout=POLL_S * 4)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        return {}
    return counts


def _note(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
