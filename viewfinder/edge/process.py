"""A shard in a process of its own, which does nothing else.

Every call of the engine holds Python's interpreter lock for as long as it runs (a scan of 30,000 points takes 7 ms, a
flush 120), so in a process with other threads none of them would run meanwhile.
"""

import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from viewfinder.child import child_command
from viewfinder.edge.copying import cache_directory
from viewfinder.edge.refusal import Refusal
from viewfinder.edge.shard import Shard
from viewfinder.edge.templates import TEMPLATES, ShardPlace, Template
from viewfinder.edge.turns import Turns
from viewfinder.errors import StoreUnavailableError

_CLOSE_S = 60.0


class ShardProcess:
    """A shard that another process has open. Safe to share between threads; calls, and searches of a batch, take turns.

    `inherited` are open files that the process keeps open: with the lock of the directory, it stays locked until the
    process has ended, also if this one is killed. With `is_cached` the files of the shard are in the system's cache.
    """

    def __init__(self, place: ShardPlace, inherited: Sequence[int] = (), *, is_cached: bool = False) -> None:
        self._directory = place.directory
        self._turns = Turns()
        ours, theirs = socket.socketpair()
        with theirs:
            command = child_command("viewfinder.edge.process:main", str(theirs.fileno()))
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno(), *inherited], stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._ended = False
        try:
            self._open(place, is_cached=is_cached)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def answer(self, operation: str, body: Any) -> Any:
        """Return the "result" of an operation; raise `Refusal`, or `StoreUnavailableError` if the process has ended."""
        if operation != "POST points/query/batch":
            return self._in_turn(operation, body)
        searches = body["searches"]
        return [self._in_turn("POST points/query", each, of_batch=len(searches) > 1) for each in searches]

    def close(self) -> None:
        """Close the shard and end its process."""
        with self._turns.turn():
            if self._ended:
                return
            with suppress(StoreUnavailableError):  # it has ended already
                self._ask(None)
            self._end()

    def retire(self) -> None:
        """End the process when it has answered the current call: another shard has replaced this one."""
        with self._turns.turn():
            self.kill()

    def kill(self) -> None:
        """End the process without closing the shard: what it has answered is in its log."""
        self._process.kill()
        self._end()

    def _open(self, place: ShardPlace, *, is_cached: bool) -> None:
        known = TEMPLATES.get(place.kind)
        made = self._ask((place, known, is_cached))
        if made is not None:
            TEMPLATES[place.kind] = made

    def _in_turn(self, operation: str, body: Any, *, of_batch: bool = False) -> Any:
        with self._turns.turn(of_batch=of_batch):
            return self._ask((operation, body))

    def _ask(self, message: Any) -> Any:
        try:
            if self._ended:
                raise EOFError
            self._connection.send(message)
            answer, refused = self._connection.recv()
        except (EOFError, OSError) as error:
            raise StoreUnavailableError(
                f"The process of the embedded store's collection in {self._directory} has ended."
            ) from error
        except BaseException:  # Ctrl-C: the next call would get the answer of this one
            self.kill()
            raise
        if refused is not None:
            raise refused
        return answer

    def _end(self) -> None:
        self._ended = True
        self._connection.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def has_ended(self) -> bool:
        """True if the process does not run any more."""
        return self._ended or self._process.poll() is not None


def serve(connection: "Connection[Any, Any]") -> None:
    """Open the shard that is named first, and answer until the other side closes it or ends."""
    shard: Shard | None = None
    try:
        while (message := connection.recv()) is not None:
            try:
                if shard is None:
                    shard, answer = _open_first(*message)
                else:
                    answer = shard.answer(*message)
                connection.send((answer, None))
            except Refusal as refused:
                connection.send((None, refused))
        if shard is not None:
            shard.close()
        connection.send((None, None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the program has ended; the log has everything that was answered


def _open_first(place: ShardPlace, template: Template | None, is_cached: bool) -> tuple[Shard, Template | None]:
    """Open the shard; return it and its template, if it was made here."""
    if template is not None:
        TEMPLATES[place.kind] = template
    shard = Shard(place)
    if not is_cached:
        threading.Thread(target=cache_directory, args=(place.directory,), name="read-files", daemon=True).start()
    return shard, TEMPLATES.get(place.kind) if template is None else None


def main(file: str) -> None:
    """Serve on the socket with this descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which closes the shard
    serve(Connection(int(file)))
