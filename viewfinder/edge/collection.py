"""An open collection: its shard, which can be replaced while it answers."""

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from viewfinder.edge.refusal import Refusal
from viewfinder.edge.updates import points_in
from viewfinder.errors import StoreError, StoreUnavailableError

UPDATES = frozenset({"PUT index", "PUT points", "POST points/delete", "POST points/payload"})
"""The operations that change a shard."""
FLUSH_POINTS = 1_000
"""Searches wait while so many are flushed: tens of milliseconds, or half a second on a busy disk."""
SEARCHED_FACTOR = 10
"""So many times as many are flushed of a collection that was searched a moment ago."""
_SEARCHED_S = 1.0
# Updates left to repeat before other updates must wait for the rest.
_FEW_BYTES = 1_000_000
_MAX_ROUNDS = 50


class OpenShard(Protocol):
    """A shard of this process, or of one of its own."""

    def answer(self, operation: str, body: Any) -> Any: ...

    def close(self) -> None: ...

    def retire(self) -> None: ...


class OpenCollection:
    """Answers operations from its shard. Safe to share between threads if the shard is.

    `unbuilt` estimates the points that no graph has: those written since the last one was built, at the beginning at
    least `unbuilt`, and as many as there are more than `graph_points`.

    After changes of `flush_points` points the shard writes its log into its files, after ten times as many if it was
    searched a moment ago; `unflushed` is the number at the beginning. What is still in the log is read again after a
    kill, at 3,000 points a second, and is copied with the shard for its graphs. While graphs are built nothing is
    flushed: searches would wait until the disk has written the graphs too.
    """

    def __init__(
        self,
        name: str,
        shard: OpenShard,
        graph_points: int = 0,
        *,
        unbuilt: int = 0,
        flush_points: int = FLUSH_POINTS,
        unflushed: int = 0,
    ) -> None:
        self.name = name
        self._shard = shard
        self._updates = threading.Lock()
        self._log: _Log | None = None
        self._flush_points = flush_points
        self._unflushed = unflushed
        self._searched_at = -_SEARCHED_S
        points = int(shard.answer("GET info", None)["points_count"])
        self.unbuilt = max(points - graph_points, min(points, unbuilt), 0)
        self.is_closed = False

    def answer(self, operation: str, body: Any) -> Any:
        """Return the "result" of an operation; raise `Refusal`, or `StoreUnavailableError`."""
        if operation not in UPDATES:
            return self._read(operation, body)
        with self._updates:
            # Before the update, so that one which is refused was not made.
            if self._log is None and self._unflushed >= self._most_unflushed:
                self._shard.answer("POST flush", None)
                self._unflushed = 0
            answer = self._shard.answer(operation, body)
            self._unflushed += points_in(body)
            if operation == "PUT points":
                self.unbuilt += points_in(body)
            if self._log is not None:
                self._log.write((operation, body))
            return answer

    @property
    def _most_unflushed(self) -> int:
        is_searched = time.monotonic() - self._searched_at < _SEARCHED_S
        return self._flush_points * (SEARCHED_FACTOR if is_searched else 1)

    def close(self) -> None:
        """Write everything to disk and close the shard."""
        self.is_closed = True
        with self._updates:
            self._shard.close()

    @contextmanager
    def updates_paused(self) -> Iterator[None]:
        """Let updates wait during the block; reads go on."""
        with self._updates:
            yield

    def record(self, path: Path) -> None:
        """Record further updates in a file, until `replace` or `forget`. Call it while updates are paused."""
        self._log = _Log(path)

    def forget(self) -> None:
        """End the recording of updates and delete its file."""
        with self._updates:
            if self._log is not None:
                self._log.close()
                self._log = None

    def replace(self, shard: OpenShard, adopt: Callable[[], None]) -> None:
        """Repeat the recorded updates on `shard`, and go on with it.

        `adopt` makes the change permanent; updates wait while it runs. Reads never wait. Raises `StoreError` if an
        update was not recorded or is refused by `shard`; then everything stays as it was.
        """
        log = self._log
        if log is None:
            raise RuntimeError("no updates were recorded")
        for _ in range(_MAX_ROUNDS):
            if log.unread < _FEW_BYTES:
                break
            _repeat(log, shard)
        shard.answer("POST flush", None)  # now, while no search waits for it
        with self._updates:
            _repeat(log, shard)
            if log.error is not None:
                raise StoreError(f"Updates made meanwhile could not be recorded: {log.error}.") from log.error
            adopt()
            former, self._shard = self._shard, shard
            self._log, self._unflushed = None, 0
        log.close()
        former.retire()

    def _read(self, operation: str, body: Any) -> Any:
        if operation.startswith("POST points/query"):
            self._searched_at = time.monotonic()
        while True:
            shard = self._shard
            try:
                return shard.answer(operation, body)
            except StoreUnavailableError:
                if shard is self._shard:
                    raise
                # It was replaced, and ended before this call had its turn.


class _Log:
    """Updates in a file, read while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: IO[bytes] = path.open("wb")
        self._read: IO[bytes] = path.open("rb")
        self._size = 0
        self.error: OSError | None = None

    @property
    def unread(self) -> int:
        """Number of bytes that have been written and not read."""
        return self._size - self._read.tell()

    def write(self, update: tuple[str, Any]) -> None:
        """Add an update. If that fails, `error` says why, and all updates since are missing."""
        if self.error is not None:
            return
        try:
            pickle.dump(update, self._written, pickle.HIGHEST_PROTOCOL)
            self._written.flush()
            self._size = self._written.tell()
        except OSError as error:  # a full disk
            self.error = error

    def read(self) -> Iterator[tuple[str, Any]]:
        """Yield the updates written so far that have not been read."""
        size = self._size
        while self._read.tell() < size:
            yield pickle.load(self._read)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before
            self._written.close()
        self._read.close()
        self._path.unlink(missing_ok=True)


def _repeat(log: _Log, shard: OpenShard) -> None:
    for operation, body in log.read():
        try:
            shard.answer(operation, body)
        except Refusal as refused:  # the former shard did not; the disk may be full now
            raise StoreError(f"Updates made meanwhile could not be repeated: {refused}.") from refused
