"""The engine of an embedded store: requests of Qdrant's REST interface, answered from a directory."""

import functools
import logging
import re
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from viewfinder.edge.collection import FLUSH_POINTS, SEARCHED_FACTOR, OpenCollection, OpenShard
from viewfinder.edge.graphs import QUIET_S, THRESHOLD_KB, GraphNeeds, Graphs
from viewfinder.edge.process import ShardProcess
from viewfinder.edge.refusal import Refusal, missing_collection
from viewfinder.edge.registry import CollectionEntry, Registry
from viewfinder.edge.shard import Shard
from viewfinder.edge.strays import delete, delete_doomed, doom, spare, strays
from viewfinder.edge.templates import ShardPlace
from viewfinder.errors import StoreError, StoreUnavailableError

logger = logging.getLogger(__name__)

VERSION = "1.20.0"
"""The version of a Qdrant server that answers as this engine does."""

MIN_FREE_BYTES = 200_000_000
"""A collection grows in steps of up to 32 MB in each of several files."""

_COLLECTION = re.compile(r"/collections/([^/]+)(?:/(.*))?")


class Engine:
    """The collections in `directory`, each opened in this process at its first request. Close it after use.

    For one thread. Without `durable` (for tests) a killed process loses what it wrote, and nothing is synced.
    """

    def __init__(
        self, directory: Path, open_shard: Callable[[ShardPlace], OpenShard] = Shard, *, durable: bool = True
    ) -> None:
        self._directory = directory
        self._open_shard = open_shard
        self._durable = durable
        self._min_free_bytes = 0
        self._flush_points = FLUSH_POINTS
        self._lock = threading.RLock()
        self._open: dict[str, OpenCollection] = {}
        self._opening: dict[str, threading.Lock] = {}
        self._closed = False
        self.registry = Registry(directory, durable=durable)
        self._remove_strays()

    def answer(self, method: str, path: str, body: Any = None) -> Any:
        """Return the "result" of a request; raise `Refusal` as a server would refuse it."""
        if (general := _GENERAL.get((method, path))) is not None:
            return general(self, body)
        match = _COLLECTION.fullmatch(path)
        if match is None:
            raise Refusal(404, f"The embedded engine has no {method} {path}")
        name, operation = unquote(match[1]), match[2] or ""
        if (own := _OF_COLLECTION.get((method, operation))) is not None:
            return own(self, name, body)
        return self._answer(self._resolve(name), f"{method} {operation}", body)

    def exists(self, name: str) -> bool:
        """Return True for a collection or an alias."""
        return name in self.registry.collections or name in self.registry.aliases

    def close(self) -> None:
        """Write everything to disk and close all collections."""
        with suppress(OSError, StoreError):  # a full disk, or a closed engine
            self._note(list(self._open.values()))
        self.registry.close()
        with self._lock:
            self._closed = True
            opened, self._open = list(self._open.values()), {}
        for each in opened:
            each.close()

    # -- Collections ------------------------------------------------------------------------------------------------

    def _create(self, name: str, body: Mapping[str, Any]) -> bool:
        config = {"vectors": body.get("vectors") or {}}
        optimizers = dict(body.get("optimizers_config") or {})
        with self.registry.changed():
            if self.exists(name):
                raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
            self.registry.collections[name] = CollectionEntry(
                uuid.uuid4().hex, config, dict(body.get("metadata") or {}), optimizers=optimizers
            )
        return True

    def _change(self, name: str, body: Mapping[str, Any]) -> bool:
        with self.registry.changed():
            entry = self._entry(name)
            entry.metadata.update(body.get("metadata") or {})
            entry.optimizers.update(body.get("optimizers_config") or {})
        return True

    def _delete(self, name: str, _: Any) -> bool:
        with self._lock:
            if name not in self.registry.collections:
                return False
            directory = self._place(self._entry(name)).directory
            doom(directory)
            try:
                with self.registry.changed():
                    del self.registry.collections[name]
                    aliases = self.registry.aliases
                    for alias in [each for each, target in aliases.items() if target == name]:
                        del aliases[alias]
            except BaseException:
                spare(directory)
                raise
            opened = self._open.pop(name, None)
        if opened is not None:
            opened.close()
        delete(directory)
        return True

    def _create_index(self, name: str, body: Mapping[str, Any]) -> Any:
        name = self._resolve(name)
        with self._lock:
            with self.registry.changed():
                entry = self._entry(name)
                entry.indexes[body["field_name"]] = body["field_schema"]
            # Indexes of a collection without points are made together with its shard: 17 in the time of one.
            is_made = self._is_made(name, entry)
        if is_made:
            return self._answer(name, "PUT index", body)
        return {"operation_id": 0, "status": "completed"}

    def _describe(self, name: str, _: Any) -> dict[str, Any]:
        name = self._resolve(name)
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"The embedded store in {self._directory} has been closed.")
            entry = self._entry(name)
            is_made = self._is_made(name, entry)
        counts = self._answer(name, "GET info", None) if is_made else _EMPTY
        status, failure = self._status(name)
        return {
            "status": status,
            "optimizer_status": "ok" if failure is None else {"error": failure},
            **counts,
            "config": {
                "params": entry.config,
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
                "optimizer_config": _OPTIMIZERS | entry.optimizers,
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
                "metadata": entry.metadata,
            },
            "payload_schema": {field: _described_index(schema) for field, schema in entry.indexes.items()},
        }

    def _collections(self, _: Any) -> dict[str, Any]:
        return {"collections": [{"name": name} for name in sorted(self.registry.collections)]}

    def _aliases(self, _: Any) -> dict[str, Any]:
        found = sorted(self.registry.aliases.items())
        return {"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in found]}

    def _aliases_of(self, name: str, _: Any) -> dict[str, Any]:
        found = self._aliases(None)["aliases"]
        return {"aliases": [each for each in found if each["collection_name"] == name]}

    def _change_aliases(self, body: Mapping[str, Any]) -> bool:
        with self.registry.changed():
            for action in body["actions"]:
                self._change_alias(action)
        return True

    def _change_alias(self, action: Mapping[str, Any]) -> None:
        aliases = self.registry.aliases
        if (made := action.get("create_alias")) is not None:
            name, alias = made["collection_name"], made["alias_name"]
            if name not in self.registry.collections:
                raise missing_collection(name)
            if alias in self.registry.collections:
                raise Refusal(409, f"Wrong input: Collection `{alias}` already exists!")
            aliases[alias] = name
        elif (gone := action.get("delete_alias")) is not None:
            aliases.pop(gone["alias_name"], None)
        else:
            raise Refusal(400, f"Wrong input: unknown action {sorted(action)}")

    # -- Shards -----------------------------------------------------------------------------------------------------

    def _answer(self, name: str, operation: str, body: Any) -> Any:
        opened = self._collection(name)
        try:
            return opened.answer(operation, body)
        except StoreUnavailableError:  # its process has ended; the next call starts another
            with self._lock:
                if self._open.get(name) is opened:
                    with suppress(StoreError, OSError):  # a full disk: estimated at the next opening
                        self._note([opened])
                    del self._open[name]
            opened.close()
            raise

    def _collection(self, name: str) -> OpenCollection:
        # Without the lock: who holds it may be writing the registry to disk, and searches would wait.
        if (opened := self._open.get(name)) is not None:
            return opened
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"The embedded store in {self._directory} has been closed.")
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            with self._lock:
                if (opened := self._open.get(name)) is not None:
                    return opened
            entry = self._entry(name)
            place = self._place(entry)
            if entry.is_made and not place.directory.exists():
                raise Refusal(500, self._why_missing(name, place))
            # A killed process may have left a long log.
            unflushed = SEARCHED_FACTOR * self._flush_points if place.directory.exists() else 0
            opened = OpenCollection(
                name,
                self._open_shard(place),
                entry.graph_points,
                unbuilt=entry.unbuilt,
                flush_points=self._flush_points if self._durable else sys.maxsize,
                unflushed=unflushed,
            )
            with self._lock:
                current = self.registry.collections.get(name)
                is_late = self._closed or current is None or current.shard != entry.shard
                if current is not None and not is_late:
                    self._open[name] = opened
                    if not current.is_made:
                        with suppress(OSError), self.registry.changed():  # a full disk: noted at another opening
                            current.is_made = True
            if is_late:
                opened.close()
                raise StoreUnavailableError(f"Collection {name!r} was dropped or closed while it was opened.")
            return opened

    def _status(self, name: str) -> tuple[str, str | None]:
        """Return "yellow" while graphs are to be built, and why they could not be built so far."""
        return "green", None

    def _note(self, collections: Sequence[OpenCollection]) -> None:
        """Record how many points have no graph; the engine does not tell after the next opening."""
        with self._lock:
            counts = {each.name: each.unbuilt for each in collections if self._open.get(each.name) is each}
            if any(self._entry(name).unbuilt != count for name, count in counts.items()):
                with self.registry.changed():
                    for name, count in counts.items():
                        self._entry(name).unbuilt = count

    def _why_missing(self, name: str, place: ShardPlace) -> str:
        reason = f"The points of collection {name!r} are gone: {place.directory} is missing. "
        if left := strays(self._directory / "shards", self._shards()):
            names = ", ".join(each.name for each in left)
            reason += f"If the registry is an older copy, they may be in {names} beside it: rename that folder. "
        return f"{reason}Restore it from a backup, or delete {self._directory} and index again"

    def _place(self, entry: CollectionEntry) -> ShardPlace:
        return ShardPlace(
            self._directory / "shards" / entry.shard,
            entry.config,
            dict(entry.indexes),
            durable=self._durable,
            min_free_bytes=self._min_free_bytes,
        )

    def _is_made(self, name: str, entry: CollectionEntry) -> bool:
        """Return False for a collection without a shard: it never had a point, or a request about points."""
        return name in self._open or entry.is_made or self._place(entry).directory.exists()

    def _entry(self, name: str) -> CollectionEntry:
        if (entry := self.registry.collections.get(name)) is None:
            raise missing_collection(name)
        return entry

    def _resolve(self, name: str) -> str:
        """Return the name of the collection of an alias."""
        return self.registry.aliases.get(name, name)

    def _remove_strays(self) -> None:
        """Delete the shards that a killed program had begun to make or to delete."""
        if left := delete_doomed(self._directory / "shards", self._shards()):
            logger.warning(
                "No collection of the embedded store has the points in %s. If its registry is an older copy, restore a "
                "newer one; otherwise delete them.",
                ", ".join(map(str, left)),
            )

    def _shards(self) -> set[str]:
        """Return the names of the folders of all collections."""
        return {entry.shard for entry in self.registry.collections.values()}


class SharedEngine(Engine):
    """An engine with a process for each collection, whose graphs are built in the background.

    Safe to share between threads. The processes keep the files in `inherited` open (see `ShardProcess`). `quiet_s` is
    the time without a write after which graphs are built. With less free disk space than `min_free_bytes` writes are
    refused. `OpenCollection` explains `flush_points`.
    """

    def __init__(
        self,
        directory: Path,
        inherited: Sequence[int] = (),
        *,
        quiet_s: float = QUIET_S,
        min_free_bytes: int = MIN_FREE_BYTES,
        flush_points: int = FLUSH_POINTS,
    ) -> None:
        open_shard = functools.partial(ShardProcess, inherited=inherited)
        super().__init__(directory, open_shard)
        self._min_free_bytes = min_free_bytes
        self._flush_points = flush_points
        note = self._note
        open_cached = functools.partial(open_shard, is_cached=True)  # by the process that has built the graphs
        self._graphs = Graphs(self._needs, open_cached, self._adopt, self._is_adopted, note, quiet_s=quiet_s)

    def close(self) -> None:
        self._graphs.close()
        super().close()

    def _needs(self) -> list[GraphNeeds]:
        with self._lock:
            opened = {name: each for name, each in self._open.items() if name in self.registry.collections}
            entries = {name: self.registry.collections[name] for name in opened}
        return [
            GraphNeeds(
                each,
                self._place(entry),
                entry.graph_points,
                entry.optimizers.get("indexing_threshold", THRESHOLD_KB),
                noted=entry.unbuilt,
            )
            for each, entry in zip(opened.values(), entries.values(), strict=True)
        ]

    def _adopt(self, collection: OpenCollection, place: ShardPlace, graph_points: int, unbuilt: int) -> None:
        """Record that the collection has its points in another shard, so many of them with a graph."""
        with self._lock, self.registry.changed():
            # It may have been dropped and created again, or opened again after its process was killed.
            if self._open.get(collection.name) is not collection:
                raise StoreError(f"Collection {collection.name!r} was closed while its graphs were built.")
            entry = self._entry(collection.name)
            entry.shard, entry.graph_points, entry.unbuilt = place.directory.name, graph_points, unbuilt

    def _is_adopted(self, place: ShardPlace) -> bool:
        return any(each.shard == place.directory.name for each in list(self.registry.collections.values()))

    def _status(self, name: str) -> tuple[str, str | None]:
        is_due = any(each.is_due for each in self._needs() if each.collection.name == name)
        failure = self._graphs.failure(name) if is_due else None
        if self._graphs.building == name or (is_due and failure is None):
            return "yellow", None
        return "green", failure  # a re-index need not wait: searches work without graphs


_EMPTY = {"points_count": 0, "indexed_vectors_count": 0, "segments_count": 1}
_OPTIMIZERS = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "indexing_threshold": THRESHOLD_KB,
    "flush_interval_sec": 5,
    "max_optimization_threads": 1,
}
_IDLE = {
    "running": [],
    "summary": {"queued_optimizations": 0, "queued_segments": 0, "queued_points": 0, "idle_segments": 1},
}

_GENERAL: Mapping[tuple[str, str], Callable[[Engine, Any], Any]] = {
    ("GET", "/"): lambda *_: {"title": "qdrant - vector search engine", "version": VERSION},
    ("GET", "/collections"): Engine._collections,
    ("GET", "/aliases"): Engine._aliases,
    ("POST", "/collections/aliases"): Engine._change_aliases,
}
_OF_COLLECTION: Mapping[tuple[str, str], Callable[[Engine, str, Any], Any]] = {
    ("GET", ""): Engine._describe,
    ("PUT", ""): Engine._create,
    ("PATCH", ""): Engine._change,
    ("DELETE", ""): Engine._delete,
    ("GET", "exists"): lambda engine, name, _: {"exists": engine.exists(name)},
    ("GET", "aliases"): Engine._aliases_of,
    ("GET", "optimizations"): lambda *_: _IDLE,
    ("PUT", "index"): Engine._create_index,
}


def _described_index(schema: Any) -> dict[str, Any]:
    """Return the description of an index, given as its kind or as an object with parameters."""
    if isinstance(schema, str):
        return {"data_type": schema, "points": 0}
    return {"data_type": schema["type"], "params": schema, "points": 0}
