"""Turns of callers that share one worker: single calls and parts of batches alternate, so that neither waits long."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets one caller go at a time. Single calls wait in one queue, parts of batches in another, which alternate.

    So a batch of 64 searches that takes seconds delays another caller by one of its searches. (A `threading.Lock` goes
    back to the thread that has just released it.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._single: deque[threading.Event] = deque()
        self._batch: deque[threading.Event] = deque()

    @property
    def waiting(self) -> int:
        """Number of callers that wait."""
        return len(self._single) + len(self._batch)

    @contextmanager
    def turn(self, *, of_batch: bool = False) -> Iterator[None]:
        """Wait for the caller's turn, which lasts as long as the block."""
        mine = threading.Event()
        with self._lock:
            if self._taken:
                (self._batch if of_batch else self._single).append(mine)
            else:
                self._taken = True
                mine.set()
        try:
            mine.wait()
            yield
        finally:
            self._end(mine, of_batch=of_batch)

    def _end(self, mine: threading.Event, *, of_batch: bool) -> None:
        with self._lock:
            for waiting in (self._single, self._batch):
                if mine in waiting:  # it was interrupted while it waited
                    waiting.remove(mine)
                    return
            first, second = (self._single, self._batch) if of_batch else (self._batch, self._single)
            queue = first or second
            self._taken = bool(queue)
            if queue:
                queue.popleft().set()
