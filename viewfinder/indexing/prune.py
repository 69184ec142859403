"""Prune: compare a complete listing with the collection and delete points whose objects are gone."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from viewfinder.errors import ViewfinderError
from viewfinder.indexing.options import IndexOptions
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Record, Store
from viewfinder.store.recorded import SourceRecord

logger = logging.getLogger("viewfinder.index")

BATCH = 1000
_ROWS = 50_000


class PruneRefusedError(ViewfinderError):
    """A prune would delete more than allowed, or its listing does not cover a whole source."""


@dataclass(frozen=True)
class PrunePlan:
    """Effect of a prune: points of these sources, points that lose a source, and points left without one (deleted)."""

    points: int
    detached: int
    deleted: int

    def __add__(self, other: "PrunePlan") -> "PrunePlan":
        return PrunePlan(self.points + other.points, self.detached + other.detached, self.deleted + other.deleted)


class Prune:
    """Removes this run's sources from points that they no longer list, and deletes points without a source."""

    def __init__(self, store: Store, collection: Collection, manifest: Manifest, *, max_ratio: float) -> None:
        self._store = store
        self._collection = collection
        self._max_ratio = max_ratio
        self._sources = [str(source["source"]) for source in manifest.sources]
        self._listed = {source: _listed_ids(manifest.paths, source) for source in self._sources}

    @classmethod
    def of(
        cls, options: IndexOptions, store: Store, collection: Collection | None, manifest: Manifest
    ) -> "Prune | None":
        """The prune of a run, None without `options.prune`. Raises `PruneRefusedError` if the listing is incomplete."""
        if not options.prune or collection is None:
            return None
        for source in manifest.sources:
            now = SourceRecord.of(source)
            before = collection.recorded.sources.get(now.uri, now)
            changed = [name for name in ("include", "exclude") if getattr(before, name) != getattr(now, name)]
            if changed:
                raise PruneRefusedError(
                    f"--prune: {source['source']!r} was indexed with different --{' and --'.join(changed)} patterns, "
                    "so this listing may cover only part of it. Use the same patterns, or run once without --prune."
                )
        prune = cls(store, collection, manifest, max_ratio=options.prune_max_ratio)
        if empty := [source for source, listed in prune._listed.items() if not len(listed)]:
            raise PruneRefusedError(
                f"--prune: no objects are listed in {', '.join(map(repr, empty))}, so all of its points would be "
                "deleted. If that is intended, drop the collection."
            )
        return prune

    def plan(self) -> PrunePlan:
        """Count what `carry_out` would do; raises `PruneRefusedError` if it exceeds the ratio."""
        points = self._store.points.count(self._collection, self._filter())
        detached = deleted = 0
        for _, gone, left in self._missing():
            detached += bool(gone)
            deleted += not left
        if points and detached / points > self._max_ratio:
            raise PruneRefusedError(
                f"--prune would remove {detached:,} of the {points:,} points of these sources "
                f"({detached / points:.0%}), more than --prune-max-ratio {self._max_ratio:g} allows. Nothing pruned. "
                "If the objects are really gone, run again with a larger --prune-max-ratio."
            )
        return PrunePlan(points, detached, deleted)

    def carry_out(self) -> int:
        """Prune, and return the number of points deleted."""
        self.plan()
        pending: dict[str, list[str]] = {source: [] for source in self._sources}
        deleted = 0
        for record, gone, _ in self._missing():
            for source in gone:
                pending[source].append(record.id)
                if len(pending[source]) == BATCH:
                    deleted += self._detach(source, pending[source])
                    pending[source] = []
        return deleted + sum(self._detach(source, ids) for source, ids in pending.items() if ids)

    def _detach(self, source: str, ids: Sequence[str]) -> int:
        orphans = self._store.points.remove_source(self._collection, ids, source)
        self._store.points.delete(self._collection, orphans)
        return len(orphans)

    def _missing(self) -> Iterator[tuple[Record, list[str], list[str]]]:
        """Yield points that lost a source, with the sources they are gone from and those that remain."""
        for record in self._store.points.iterate(self._collection, self._filter(), ["sources"]):
            sources = list(record.payload.get("sources") or ())
            gone = [each for each in sources if each in self._listed and not _holds(self._listed[each], record.id)]
            if gone:
                yield record, gone, [each for each in sources if each not in gone]

    def _filter(self) -> dict[str, object]:
        return {"sources": {"in": self._sources}}


def _listed_ids(paths: Sequence[Path], source: str) -> npt.NDArray[np.uint64]:
    """Half of each listed point's id, sorted. At 8 bytes a key, 100 million keys take 800 MB.

    If two ids share that half, a point that is gone looks listed and is kept, which is the safe error.
    """
    parts = []
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=["uri", "sources"]):
            rows = batch.to_pylist()
            parts.append(np.array([_half(point_id(row["uri"])) for row in rows if source in row["sources"]], np.uint64))
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def _holds(ids: npt.NDArray[np.uint64], id_: str) -> bool:
    half = np.uint64(_half(id_))
    place = int(np.searchsorted(ids, half))
    return place < len(ids) and bool(ids[place] == half)


def _half(id_: str) -> int:
    return int(id_.replace("-", "")[16:], 16)
