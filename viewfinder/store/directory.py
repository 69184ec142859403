"""The embedded store's directory: held by one process at a time, which answers the calls of the others.

`holder.lock` is locked while the directory is held, `holder.json` describes the holder.
"""

import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from viewfinder import edge
from viewfinder.edge.engine import SharedEngine
from viewfinder.edge.refusal import Refusal
from viewfinder.errors import CollectionMissingError, StoreBusyError, StoreError, StoreUnavailableError
from viewfinder.footprint import EMBEDDED_MAX_IMAGES
from viewfinder.store.engine_client import EngineClient
from viewfinder.store.sharing import SocketClient, StoreSocket, remove_socket

logger = logging.getLogger(__name__)

LARGE_STORE_ADVICE = (
    f"The embedded store is larger than any that was measured ({EMBEDDED_MAX_IMAGES:,} images). "
    "A server scales further: start one with 'docker run -p 6333:6333 qdrant/qdrant', "
    "set VIEWFINDER_QDRANT_URL=http://localhost:6333 and index again."
)
LOCK_WAIT_S = 15.0
# Maximum number of points in one call of another program: few, so that searches do not wait long for writes.
MAX_POINTS_PER_CALL = 32


@dataclass(frozen=True)
class Holder:
    """The process that holds the directory. `ray_address` is None for a program without Ray."""

    pid: int
    host: str
    since: str
    code: str
    ray_address: str | None = None
    # The socket on which it answers other programs of this machine.
    socket: str | None = None
    # As started, such as `viewfinder index`; None for an actor of Ray.
    program: str | None = None

    @classmethod
    def here(cls, ray_address: str | None, socket_path: str | None = None) -> "Holder":
        """Return the record of this process."""
        return cls(
            os.getpid(),
            socket.gethostname(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            code_version(),
            ray_address,
            socket_path,
            None if ray_address else _program(sys.argv),
        )

    @property
    def answers_here(self) -> bool:
        """True if this program can send it calls: it runs on this machine, with the same code."""
        return self.socket is not None and self.host == socket.gethostname() and self.code == code_version()

    @classmethod
    def read(cls, directory: Path) -> "Holder | None":
        """Return the holder in `holder.json`, which may have ended; None if the file is missing or invalid."""
        try:
            record = json.loads((directory / "holder.json").read_text())
            return cls(**{each.name: record[each.name] for each in fields(cls) if each.name in record})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        how = f"in the Ray at {self.ray_address}" if self.ray_address else "without Ray"
        program = f" ({self.program})" if self.program else ""
        return f"process {self.pid}{program} on {self.host}, {how}, since {self.since}"


def _program(arguments: Sequence[str]) -> str:
    """Name of a program, with its command if it is `viewfinder`; other arguments could be secret."""
    path = Path(arguments[0])
    name = path.parent.name if path.name == "__main__.py" else path.name
    if name == "viewfinder":
        return " ".join([name, *arguments[1:2]])
    return "python" if name in ("", "-c") else name


def store_directory(data_dir: Path) -> Path:
    """Return the directory of the embedded store in a data directory."""
    return data_dir / "qdrant"


@functools.cache  # an installation may replace the files later
def code_version() -> str:
    """Return a short hash of the source code of the holder, and of the versions of the engine and of Python."""
    names = ("directory.py", "embedded.py", "engine_client.py", "sharing.py")
    source = [*map(Path(__file__).with_name, names), *sorted(Path(edge.__file__).parent.glob("*.py"))]
    versions = [version("qdrant-client"), version("qdrant-edge-py"), platform.python_version()]
    parts = [*(path.read_bytes() for path in source), *map(str.encode, versions)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def open_directory(data_dir: Path, *, wait_s: float = LOCK_WAIT_S, ray_address: str | None = None) -> "DirectoryClient":
    """Hold the directory in this process; raise `StoreBusyError` if another still holds it after `wait_s` seconds."""
    directory = store_directory(data_dir)
    lock = take_lock(directory, wait_s)
    try:
        return DirectoryClient(directory, lock, ray_address)
    except OSError as error:
        lock.close()
        raise _unusable(directory, error) from error
    except BaseException:
        lock.close()
        raise


class SharedClient:
    """A `StoreClient` for one of several programs: it holds the directory, or sends its calls to the holder.

    When the holder ends, the next call takes over the directory or connects to the next holder.
    """

    def __init__(self, data_dir: Path, *, wait_s: float = LOCK_WAIT_S, ray_address: str | None = None) -> None:
        self._data_dir = data_dir
        self._wait_s = wait_s
        self._ray_address = ray_address
        self._lock = threading.Lock()
        self._client: DirectoryClient | ProgramClient | None = None
        self._connect()  # so that an unusable directory is refused now

    @property
    def max_batch(self) -> int | None:
        client = self._client
        return MAX_POINTS_PER_CALL if client is None else client.max_batch

    def call(self, method: str, **arguments: Any) -> Any:
        client = self._connect()
        try:
            return client.call(method, **arguments)
        except StoreUnavailableError:
            with self._lock:
                if client is self._client:
                    self._client = None
                    client.close()
            raise

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _connect(self) -> "DirectoryClient | ProgramClient":
        with self._lock:
            if self._client is None:
                self._client = _hold_or_connect(self._data_dir, self._wait_s, self._ray_address)
            return self._client


def _hold_or_connect(data_dir: Path, wait_s: float, ray_address: str | None) -> "DirectoryClient | ProgramClient":
    """Hold the directory or connect to its holder; raise `StoreBusyError` if neither succeeds within `wait_s`."""
    directory = store_directory(data_dir)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return open_directory(data_dir, wait_s=0, ray_address=ray_address)
        except StoreBusyError:
            holder = Holder.read(directory)
            if holder is not None and holder.answers_here and (client := _connect_to(holder, directory)) is not None:
                return client
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.1)  # the holder is starting or ending


def _connect_to(holder: Holder, directory: Path) -> "ProgramClient | None":
    try:
        return ProgramClient(SocketClient(holder.socket or ""), directory)
    except OSError:  # it has just ended, or belongs to another user
        return None


class ProgramClient:
    """A `StoreClient` through the program that holds the directory.

    Requests and answers go to it as JSON: to send the models of qdrant-client takes both programs longer.
    """

    max_batch: int | None = MAX_POINTS_PER_CALL

    def __init__(self, socket: SocketClient, directory: Path) -> None:
        self._socket = socket
        self._directory = directory
        self._client = EngineClient(socket)

    def call(self, method: str, **arguments: Any) -> Any:
        return answer_of(self._client.call, self._directory, method, arguments)

    def close(self) -> None:
        self._socket.close()


class DirectoryClient:
    """A `StoreClient` on a directory that this process holds; each collection is open in a process of its own."""

    max_batch: int | None = None

    def __init__(self, directory: Path, lock: IO[str], ray_address: str | None = None) -> None:
        self._directory = directory
        self._lock = lock
        self._closing = threading.Lock()
        self._closed = False
        # With the lock: the directory stays locked until the last of them has ended, also if this process is killed.
        self._engine = SharedEngine(directory, [lock.fileno()])
        self._client = EngineClient(self._engine)
        if (left := Holder.read(directory)) is not None and left.socket and left.host == socket.gethostname():
            remove_socket(left.socket)
        try:
            self._socket = StoreSocket(self._answer, directory)
        except BaseException:
            self._engine.close()
            raise
        try:
            record = json.dumps(asdict(Holder.here(ray_address, self._socket.path)))
            (directory / "holder.json").write_text(record)
        except BaseException:
            self._socket.close()
            self._engine.close()
            raise

    def call(self, method: str, **arguments: Any) -> Any:
        if self._closed:
            raise StoreUnavailableError(f"The embedded store in {self._directory} was closed before {method}.")
        return answer_of(self._client.call, self._directory, method, arguments)

    def _answer(self, method: str, path: str, body: Any) -> Any:
        """Answer a request of another program."""
        if self._closed:
            raise StoreUnavailableError(f"The embedded store in {self._directory} was closed.")
        return self._engine.answer(method, path, body)

    def close(self) -> None:
        # Before closing the store: otherwise a call of another program could find it closed.
        self._socket.close()
        with self._closing:
            if not self._closed:
                self._closed = True
                self._engine.close()
                (self._directory / "holder.json").unlink(missing_ok=True)
                self._lock.close()


def answer_of(call: Callable[..., Any], directory: Path, method: str, arguments: Mapping[str, Any]) -> Any:
    """Return the result of a method of the engine, or raise an error of the `StoreError` family."""
    try:
        return call(method, **arguments)
    except Refusal as refused:
        if refused.status == 404 and "collection" in refused.message.lower():
            name = arguments.get("collection_name")
            raise CollectionMissingError(f"Collection {name!r} does not exist in {directory}.") from refused
        what = f"The embedded store in {directory} refused {method.replace('_', ' ')}: {refused.message.rstrip('.')}."
        if "no space left" in refused.message.lower():
            what += (
                " Its disk is full: searches work, writes fail. Free disk space ('viewfinder status' shows old "
                "collections) and run the job again; points written so far stay."
            )
        raise StoreError(what) from refused
    except (ValueError, OSError) as error:
        raise StoreError(f"The embedded store in {directory} failed: {error}.") from error


def take_lock(directory: Path, wait_s: float) -> IO[str]:
    """Lock the directory; raise `StoreBusyError` if another process still holds it after `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    while (lock := try_lock(directory / "holder.lock")) is None:
        if time.monotonic() >= deadline:
            raise busy_error(directory)
        time.sleep(0.1)
    return lock


def try_lock(path: Path) -> IO[str] | None:
    """Return an open file, locked until it is closed or the process ends; None if another process has the lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise _unusable(path.parent, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _unusable(directory: Path, error: OSError) -> StoreError:
    advice = "Free disk space" if error.errno == errno.ENOSPC else "Set VIEWFINDER_DATA_DIR"
    return StoreError(f"The embedded store cannot be opened in {directory}: {error}. {advice}.")


def busy_error(directory: Path) -> StoreBusyError:
    """Return the error that names the holder of a directory."""
    holder = Holder.read(directory)
    stop = "end it"
    if holder is not None:
        stop += f" with 'kill {holder.pid}'" + ("" if holder.host == socket.gethostname() else f" on {holder.host}")
    return StoreBusyError(
        f"The embedded store in {directory} is held by {holder or 'an unknown program'}. Wait until it ends and try "
        f"again. If it does not end, {stop}; indexed images are kept. Several programs at once need a Qdrant server: "
        "'docker run -p 6333:6333 qdrant/qdrant' and VIEWFINDER_QDRANT_URL=http://localhost:6333."
    )
