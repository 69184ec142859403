"""Listing of one S3 prefix with many concurrent requests; holds a few pages in memory, whatever the number of keys."""

import contextlib
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from viewfinder.errors import ViewfinderError
from viewfinder.sources.access import ObjectInfo

# A level with at most so many children is listed child by child; a wider one is split into ranges of keys.
MAX_RECURSED_CHILDREN = 64
RANGES_OF_FIRST_PAGE = 16
RANGES_OF_LATER_PAGES = 4


class ListingPage(NamedTuple):
    """The response to one listing request."""

    objects: list[ObjectInfo]
    prefixes: list[str]  # only of a shallow listing
    more: bool


class ListPages(Protocol):
    def __call__(self, prefix: str, after: str, shallow: bool) -> Iterator[ListingPage]: ...


def list_parallel(list_pages: ListPages, prefix: str, *, threads: int) -> Generator[list[ObjectInfo], None, None]:
    """Yield every object under `prefix` once, in lists, in no particular order.

    A prefix that fits one request costs one. Otherwise its next level is listed: few children are listed each in the
    same way; many are split into ranges of keys, each listed sequentially by one thread, so that a million small
    directories do not cost a request each. Keys without a common prefix are listed sequentially, because S3 offers no
    way to split them.
    The first failure ends the listing and is raised; ending the iteration early ends the requests.
    """
    return _ParallelListing(list_pages, threads).run(prefix)


class _ListingStopped(Exception):
    """The iteration ended, or another thread failed."""


class _ParallelListing:
    def __init__(self, list_pages: ListPages, threads: int) -> None:
        self._list_pages = list_pages
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="listing")
        self._results: queue.Queue[list[ObjectInfo] | BaseException | None] = queue.Queue(maxsize=2 * threads)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._unfinished = 0

    def run(self, prefix: str) -> Generator[list[ObjectInfo], None, None]:
        self._submit(functools.partial(self._walk, prefix))
        try:
            while (result := self._results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self._stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _walk(self, prefix: str) -> None:
        whole = next(self._list_pages(prefix, "", False))
        if not whole.more:
            self._emit(whole.objects)
            return
        levels = self._list_pages(prefix, "", True)
        level = next(levels)
        if not level.more and len(level.prefixes) <= MAX_RECURSED_CHILDREN:
            self._emit(level.objects)
            for child in level.prefixes:
                self._submit(functools.partial(self._walk, child))
        else:
            self._split(prefix, level, levels)

    def _split(self, prefix: str, level: ListingPage | None, levels: Iterator[ListingPage]) -> None:
        """Split a wide level into ranges (after, until], whose bounds are entries of the level itself."""
        after, is_open, ranges = "", False, RANGES_OF_FIRST_PAGE
        while level is not None:
            entries = sorted([*level.prefixes, *(info.key for info in level.objects)])
            if level.prefixes:
                # Few long ranges: a response has 1,000 keys, and most of the last one of each range is discarded.
                step = -(-len(entries) // ranges)
                for until in entries[step::step]:
                    self._submit(functools.partial(self._range, prefix, after, until))
                    after = until
                is_open = True
            elif entries:
                # Only objects: the page itself is the range. An open range before it ends at its first object.
                if is_open:
                    self._submit(functools.partial(self._range, prefix, after, entries[0]))
                self._emit(level.objects[1:] if is_open else level.objects)
                after, is_open = entries[-1], False
            ranges = RANGES_OF_LATER_PAGES
            level = next(levels, None)
        if is_open:
            self._submit(functools.partial(self._range, prefix, after, None))

    def _range(self, prefix: str, after: str, until: str | None) -> None:
        last = after
        for page in self._list_pages(prefix, after, False):
            keys = [last, *(info.key for info in page.objects)]
            if any(first >= second for first, second in itertools.pairwise(keys)):
                raise ViewfinderError(
                    f"The endpoint does not list the keys under {prefix!r} in order, so they cannot be listed in "
                    "parallel. Set VIEWFINDER_FETCH_THREADS=1."
                )
            last = keys[-1]
            within = [info for info in page.objects if until is None or info.key <= until]
            self._emit(within)
            if len(within) < len(page.objects):
                return

    def _submit(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._unfinished += 1
        try:
            self._pool.submit(self._run, task)
        except RuntimeError as error:  # the pool has been shut down
            raise _ListingStopped from error

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
            with self._lock:
                self._unfinished -= 1
                finished = self._unfinished == 0
            if finished:
                self._put(None)
        except _ListingStopped:
            return
        except BaseException as error:
            with contextlib.suppress(_ListingStopped):
                self._put(error)

    def _emit(self, objects: list[ObjectInfo]) -> None:
        if objects:
            self._put(objects)

    def _put(self, result: list[ObjectInfo] | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                return self._results.put(result, timeout=0.1)
            except queue.Full:
                continue
        raise _ListingStopped
