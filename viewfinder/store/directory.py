"""Qdrant's local mode on a directory that one process holds at a time, and the note of who that is.

Local mode knows one process and one thread (two threads corrupt it for good), so every call takes its turn.
`holder.lock` says that the directory is held, `holder.json` by whom.
"""

import fcntl
import functools
import hashlib
import json
import logging
import os
import platform
import socket
import sqlite3
import sys
import threading
import time
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
from qdrant_client import models
from qdrant_client.local.local_collection import LocalCollection
from qdrant_client.local.qdrant_local import QdrantLocal

from viewfinder.errors import CollectionMissingError, StoreBusyError, StoreError

logger = logging.getLogger(__name__)

COMFORTABLE_POINTS = 20_000
ADVICE = (
    f"The embedded store holds more than {COMFORTABLE_POINTS:,} points; from here on searches and starts get slow. "
    "Start a server with 'docker run -p 6333:6333 qdrant/qdrant', "
    "set VIEWFINDER_QDRANT_URL=http://localhost:6333 and index again."
)
LOCK_WAIT_S = 15.0


@dataclass(frozen=True)
class Holder:
    """Who holds the directory. `ray_address` is None where a program holds it without Ray."""

    pid: int
    host: str
    since: str
    code: str
    ray_address: str | None = None

    @classmethod
    def here(cls, ray_address: str | None) -> "Holder":
        """This process."""
        return cls(
            os.getpid(),
            socket.gethostname(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            code_version(),
            ray_address,
        )

    @classmethod
    def read(cls, directory: Path) -> "Holder | None":
        """Whom `holder.json` names, dead or alive; None where there is none that can be read."""
        try:
            record = json.loads((directory / "holder.json").read_text())
            return cls(**{each.name: record[each.name] for each in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        how = f"in the Ray at {self.ray_address}" if self.ray_address else "without Ray"
        return f"process {self.pid} on {self.host}, {how}, since {self.since}"


def store_directory(data_dir: Path) -> Path:
    """Where the embedded store of a data directory lies."""
    return data_dir / "qdrant"


def code_version() -> str:
    """A short hash of what decides how a holder behaves: its source, and the versions of what it runs on."""
    source = [Path(__file__), Path(__file__).with_name("embedded.py")]
    parts = [
        *(path.read_bytes() for path in source),
        version("qdrant-client").encode(),
        platform.python_version().encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def open_directory(data_dir: Path, *, wait_s: float = LOCK_WAIT_S, ray_address: str | None = None) -> "DirectoryClient":
    """Hold the directory in this process; `StoreBusyError` names the holder if it stays busy for `wait_s` seconds."""
    directory = store_directory(data_dir)
    lock = take_lock(directory, wait_s)
    try:
        return DirectoryClient(directory, lock, ray_address)
    except BaseException:
        lock.close()
        raise


class DirectoryClient:
    """A `Client` on a directory of local mode, one call at a time whatever thread it comes from."""

    max_batch: int | None = None

    def __init__(self, directory: Path, lock: IO[str], ray_address: str | None = None) -> None:
        self._directory = directory
        self._lock = lock
        self._turn = threading.Lock()
        self._advised = False
        # Qdrant's own lock shows a program that knows nothing of ours; local mode itself would look only after loading
        # all the data, and leave files open behind it.
        foreign = try_lock(directory / ".lock")
        if foreign is None:
            raise StoreBusyError(
                f"The embedded store in {directory} is in use by a program other than viewfinder. "
                "End it, or set VIEWFINDER_DATA_DIR."
            )
        foreign.close()
        self._local = _Local(str(directory), force_disable_check_same_thread=True)
        for collection in self._local.collections.values():
            _quicken(collection)
            self._advise(collection)
        (directory / "holder.json").write_text(json.dumps(asdict(Holder.here(ray_address))))

    def call(self, method: str, **arguments: Any) -> Any:
        with self._turn:
            try:
                answer = self._call(method, **arguments)
            except ValueError as error:
                name = arguments.get("collection_name")
                if name is not None and not self._local.collection_exists(name):
                    raise CollectionMissingError(f"Collection {name!r} does not exist in {self._directory}.") from error
                raise StoreError(f"The embedded store refused {method.replace('_', ' ')}: {error}") from error
            except KeyError as error:
                raise StoreError(f"The embedded store refused {method.replace('_', ' ')}: no point {error}.") from error
            except (OSError, sqlite3.Error) as error:
                raise StoreError(f"The embedded store in {self._directory} failed: {error}.") from error
            if method == "upsert":
                self._advise(self._local.collections[arguments["collection_name"]])
            return answer

    def close(self) -> None:
        with self._turn:
            if not self._local.closed:
                self._local.close()
                (self._directory / "holder.json").unlink(missing_ok=True)
                self._lock.close()

    def _call(self, method: str, **arguments: Any) -> Any:
        if method == "create_payload_index" and not isinstance(arguments["field_schema"], models.TextIndexParams):
            return None  # local mode would only warn that it has no use for it
        if method == "delete_collection" and arguments["collection_name"] in self._local.collections:
            self._local.collections[arguments["collection_name"]].close()
        answer = getattr(self._local, method)(**arguments)
        if method == "create_collection":
            _quicken(self._local.collections[arguments["collection_name"]])
        return answer

    def _advise(self, collection: LocalCollection) -> None:
        if len(collection.ids) > COMFORTABLE_POINTS and not self._advised:
            self._advised = True
            logger.warning(ADVICE)


def take_lock(directory: Path, wait_s: float) -> IO[str]:
    deadline = time.monotonic() + wait_s
    while (lock := try_lock(directory / "holder.lock")) is None:
        if time.monotonic() >= deadline:
            raise busy(directory)
        time.sleep(0.1)
    return lock


def try_lock(path: Path) -> IO[str] | None:
    """An open file whose lock ends with it, or with the process however that dies; None where another has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise StoreError(
            f"The embedded store cannot be kept in {path.parent}: {error}. Set VIEWFINDER_DATA_DIR."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def busy(directory: Path) -> StoreBusyError:
    holder = Holder.read(directory)
    who = str(holder) if holder else "a program that left no name"
    return StoreBusyError(
        f"The embedded store in {directory} is held by {who}. Wait for it or end it; several programs at once need a "
        "Qdrant server: 'docker run -p 6333:6333 qdrant/qdrant' and VIEWFINDER_QDRANT_URL=http://localhost:6333."
    )


class _Local(QdrantLocal):
    LARGE_DATA_THRESHOLD = sys.maxsize  # we give that advice ourselves, once and with the way out


def _quicken(collection: LocalCollection) -> None:
    """Choose diverse hits in numpy; let SQLite write ahead, and sync at checkpoints instead of at each point.

    900 → 6,600 points/s on two cores, with two vectors of 512 numbers each.
    A killed process loses nothing. A power cut may lose the last moments, never the database, and the next run of
    the job finds what is missing.
    """
    collection.LARGE_DATA_THRESHOLD = sys.maxsize
    collection._mmr = functools.partial(_diverse, collection)  # type: ignore[method-assign]
    if collection.storage is not None:
        # Exclusive first: then the write-ahead log needs no shared memory, which network file systems lack.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
            collection.storage.storage.execute(f"PRAGMA {pragma}").close()


def _diverse(
    collection: LocalCollection, points: list[Any], query: object, using: str, relevance_weight: float, limit: int
) -> list[Any]:
    """Local mode's choice by maximal marginal relevance (`LocalCollection._mmr`, cosine only), a thousand times faster.

    Python's loops over all pairs took 9 s to choose 200 of 1,000 points, in which the holder answered nobody else.
    """
    vectors = collection.vectors[using][[collection.ids[point.id] for point in points]]
    relevance = np.array([point.score for point in points])
    nearest_chosen = np.zeros(len(points))
    left = np.full(len(points), True)
    chosen: list[int] = []
    while len(chosen) < min(limit, len(points)):
        marginal = relevance_weight * relevance - (1 - relevance_weight) * nearest_chosen if chosen else relevance
        best = int(np.argmax(np.where(left, marginal, -np.inf)))
        similar = vectors @ vectors[best]
        nearest_chosen = np.maximum(nearest_chosen, similar) if chosen else similar
        left[best] = False
        chosen.append(best)
    return [points[place] for place in chosen]
