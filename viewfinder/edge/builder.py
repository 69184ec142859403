"""Graphs of a shard are built by another process, over a copy of its directory.

It takes minutes for 200,000 points. The process runs at a low priority, and ends with the program that started it.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from viewfinder.child import child_command
from viewfinder.edge.copying import cache_directory, copy_directory, stored_bytes, sync_directory
from viewfinder.edge.refusal import Refusal
from viewfinder.edge.shard import build_graphs
from viewfinder.edge.templates import ShardPlace
from viewfinder.errors import StoreError
from viewfinder.priority import lower_session_priority

_PR_SET_PDEATHSIG = 1
# At 19 it would hardly proceed beside a busy program.
_NICENESS = 10
# Of the space of a shard: the copy, and the segment with graphs beside the one without.
_COPY_FACTOR = 2.4
# Searches are answered while files are read: 100 to 200 MB/s instead of several GB/s.
_READING_PAUSE_S = 0.001


class BuilderProcess:
    """A process that copies a shard and builds its graphs: `copy`, then `wait`. Start and end it in one thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = child_command("viewfinder.edge.builder:main", str(theirs.fileno()))
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._connection.send(os.getpid())
        self._receive()

    def copy(self, source: Path, place: ShardPlace, threshold_kb: int) -> None:
        """Copy the shard in `source` to `place`, while nothing changes it; then begin to build graphs there.

        Vectors of fewer kilobytes than `threshold_kb` get none.
        """
        self._connection.send((source, place, threshold_kb))
        self._receive()

    def has_finished(self, wait_s: float) -> bool:
        """Return True if the graphs are built, after at most `wait_s` seconds; raise `StoreError` if that failed."""
        if not self._connection.poll(wait_s):
            return False
        self._receive()
        return True

    def kill(self) -> None:
        """End the process, if it still runs."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _receive(self) -> None:
        try:
            error = self._connection.recv()
        except (EOFError, OSError) as ended:
            raise StoreError("The process that builds the graphs of a collection has ended.") from ended
        if error is not None:
            raise StoreError(f"The graphs of a collection could not be built: {error}")


def main(file: str) -> None:
    """Copy and build as the program on the socket with this descriptor says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(int(file))
    with suppress(EOFError, ConnectionError):
        _end_with_parent(connection.recv())
        connection.send(None)
        source, place, threshold_kb = connection.recv()
        try:
            _check_space(source, place)
            copy_directory(source, place.directory)
            connection.send(None)
            lower_session_priority(_NICENESS)  # only now: updates have waited for the copy
            build_graphs(place, threshold_kb)
            settle(place.directory)
            connection.send(None)
        except (Refusal, OSError) as error:
            connection.send(str(error))


def settle(directory: Path) -> None:
    """Write a shard to disk, and have its files in the system's cache for the process that opens it."""
    sync_directory(directory)
    cache_directory(directory, _READING_PAUSE_S)


def _check_space(source: Path, place: ShardPlace) -> None:
    """Refuse a copy that would take the space which writes need."""
    needed = round(_COPY_FACTOR * stored_bytes(source)) + place.min_free_bytes
    if (free := shutil.disk_usage(source).free) < needed:
        raise Refusal(500, f"their disk has {free // 10**6:,} MB of free space and a copy needs {needed // 10**6:,}")


def _end_with_parent(parent: int) -> None:
    """Let the kernel end this process when the thread that started it ends, also if it is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise EOFError
