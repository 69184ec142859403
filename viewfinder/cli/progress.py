"""Progress of a run: a bar on a terminal, else a log line every 15 s."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from viewfinder.indexing.progress import IndexingProgress, ListingProgress
from viewfinder.wording import counted

logger = logging.getLogger("viewfinder.index")

_PROGRESS_EVERY_S = 15.0


class ConsoleProgress:
    """Shows `viewfinder.indexing.progress.Progress` on standard error; standard output is for the report."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)

    @contextmanager
    def listing(self) -> Iterator[ListingProgress]:
        began = time.monotonic()
        logged = 0.0
        with self._console.status("Listing") as status:

            def listed(count: int) -> None:
                nonlocal logged
                elapsed = time.monotonic() - began
                if self._console.is_terminal:
                    status.update(f"Listing: {counted(count, 'object')}, {count / max(elapsed, 1e-3):,.0f}/s")
                elif elapsed - logged > _PROGRESS_EVERY_S:
                    logged = elapsed
                    logger.info("%s listed", counted(count, "object"))

            yield listed

    @contextmanager
    def indexing(self, total: int) -> Iterator[IndexingProgress]:
        if not self._console.is_terminal:
            yield _log_lines(total)
            return
        with _bar(self._console) as bar:
            task = bar.add_task("Indexing", total=total, note="starting workers")

            def show(counts: Mapping[str, int]) -> None:
                done = sum(counts.values())
                elapsed = bar.tasks[task].elapsed or 0.0
                note = f"{done / elapsed:,.0f}/s  {_list_counts(counts)}" if done and elapsed else "starting workers"
                bar.update(task, completed=done, note=note)

            yield show


@contextmanager
def count_progress(verb: str, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Show a growing number on standard error: in place on a terminal, else a line every 15 s.

    Nothing is shown while results go to the same terminal.
    """
    console = console or Console(file=sys.stderr)
    shown = began = time.monotonic()

    def line(count: int) -> str:
        return f"{verb} {count:,}, {count / max(time.monotonic() - began, 1e-3):,.0f}/s"

    def note_sometimes(count: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > _PROGRESS_EVERY_S:
            shown = time.monotonic()
            print(line(count), file=console.file, flush=True)

    if console.is_terminal and sys.stdout.isatty():
        yield lambda count: None
    elif console.is_terminal:
        with console.status(f"{verb} 0") as status:
            yield lambda count: status.update(line(count))
    else:
        yield note_sometimes


def _bar(console: Console) -> Progress:
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


def _log_lines(total: int) -> IndexingProgress:
    began = time.monotonic()
    logged = 0.0
    first = True

    def log(counts: Mapping[str, int]) -> None:
        nonlocal logged, first
        elapsed = time.monotonic() - began
        if first and any(counts.values()):  # its speed would be that of the start
            first, logged = False, elapsed
            logger.info("%s of %s (%s)", f"{sum(counts.values()):,}", counted(total, "object"), _list_counts(counts))
        elif elapsed - logged > _PROGRESS_EVERY_S:
            logged = elapsed
            logger.info("%s", progress_line(counts, total, elapsed))

    return log


def progress_line(counts: Mapping[str, int], total: int, elapsed: float) -> str:
    """The progress of a run after `elapsed` seconds, with its speed and the time left until all objects are done."""
    done = sum(counts.values())
    if not done:
        return f"{counted(total, 'object')} to go, starting workers"
    if done >= total:
        return f"{done:,} of {counted(total, 'object')} ({_list_counts(counts)})"
    rate, left = done / elapsed, (total - done) * elapsed / done
    speed = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
    return f"{done:,} of {counted(total, 'object')}, {speed}, about {left:,.0f} s left ({_list_counts(counts)})"


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
