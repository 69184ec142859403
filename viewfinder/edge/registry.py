"""The registry of a store: which collections it has, where their shards are, and their aliases.

It is one JSON file, replaced as a whole, so that a killed program leaves the old one or the new one.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from viewfinder.edge.copying import sync
from viewfinder.errors import StoreError, StoreUnavailableError

logger = logging.getLogger(__name__)

FORMAT = 1
NAME = "registry.json"


@dataclass
class CollectionEntry:
    """One collection: the folder of its shard, and what it was created with. `indexes` maps fields to schemas.

    `graph_points` is the number of points that have a graph, `unbuilt` that of the others, as far as it was recorded.
    With `is_made` the folder exists.
    """

    shard: str
    config: Mapping[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    indexes: dict[str, Any] = field(default_factory=dict)
    optimizers: dict[str, Any] = field(default_factory=dict)
    graph_points: int = 0
    unbuilt: int = 0
    is_made: bool = False


class Registry:
    """The registry in a directory. Read `collections` and `aliases` freely; change them within `changed()`."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._path = directory / NAME
        self._durable = durable
        self._lock = threading.RLock()
        self._closed = False
        self.collections: dict[str, CollectionEntry] = {}
        self.aliases: dict[str, str] = {}
        self._read(directory)

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Write the registry after the block, which changes it. If that fails it is as before."""
        with self._lock:
            if self._closed:  # another program may have it now
                raise StoreUnavailableError(f"The embedded store in {self._path.parent} has been closed.")
            before = self._record()
            try:
                yield
                self._write()
            except BaseException:
                self._load(json.loads(before))
                raise

    def close(self) -> None:
        """Allow no further changes."""
        with self._lock:
            self._closed = True

    def _read(self, directory: Path) -> None:
        if (directory / "meta.json").exists() and not self._path.exists():
            raise StoreError(
                f"The embedded store in {directory} was made by another version of viewfinder, which kept its points "
                "in SQLite. Delete that folder, or set VIEWFINDER_DATA_DIR to another one, and index again."
            )
        try:
            record = json.loads(self._path.read_text())
            if record["format"] > FORMAT:
                raise StoreError(
                    f"The embedded store in {directory} has format {record['format']}; this viewfinder supports "
                    f"{FORMAT}. Upgrade viewfinder, or set VIEWFINDER_DATA_DIR to another folder."
                )
            self._load(record)
        except FileNotFoundError:
            self._refuse_lost(directory)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"The registry of the embedded store, {self._path}, is damaged: {error}. Restore that file from a "
                f"backup, or delete {directory} and index again."
            ) from error

    def _refuse_lost(self, directory: Path) -> None:
        if any((directory / "shards").glob("*")):
            raise StoreError(
                f"The registry of the embedded store, {self._path}, is missing, but {directory / 'shards'} has "
                f"collections. Restore that file from a backup, or delete {directory} and index again."
            )

    def _load(self, record: Mapping[str, Any]) -> None:
        known = {each.name for each in fields(CollectionEntry)}
        self.collections = {
            name: CollectionEntry(**{key: value for key, value in entry.items() if key in known})
            for name, entry in record["collections"].items()
        }
        self.aliases = dict(record["aliases"])

    def _record(self) -> str:
        entries = {name: asdict(entry) for name, entry in self.collections.items()}
        return json.dumps({"format": FORMAT, "collections": entries, "aliases": self.aliases})

    def _write(self) -> None:
        record = self._record()
        temporary = self._path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(record)
            if self._durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(self._path)
        if self._durable:
            try:
                sync(self._path.parent)
            except OSError as error:
                # Not undone: the file has its new content already, and memory must have the same.
                logger.warning("Changes of %s may be lost if the machine stops now: %s", self._path, error)
