"""Prune: compare a complete listing with the collection and delete points whose objects are gone."""

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from viewfinder.errors import ViewfinderError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.snapshot import PointBefore, Snapshot
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Store
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
    """Removes this run's sources from points that they no longer list, and deletes points without a source.

    Only points of the `snapshot`, which was taken before the listing began, and only while they are as they were then:
    an object that another run has indexed since is not in this run's listing.
    """

    def __init__(
        self, store: Store, collection: Collection, snapshot: Snapshot, manifest: Manifest, *, max_ratio: float
    ) -> None:
        self._store = store
        self._collection = collection
        self._snapshot = snapshot
        self._max_ratio = max_ratio
        self._listed = {source: listed_ids(manifest.paths, source) for source in snapshot.sources}

    @classmethod
    def of(
        cls,
        options: IndexOptions,
        store: Store,
        collection: Collection | None,
        manifest: Manifest,
        snapshot: Snapshot | None,
    ) -> "Prune | None":
        """The prune of a run, None without `options.prune`. Raises `PruneRefusedError` if the listing is incomplete."""
        if not options.prune or collection is None or snapshot is None:
            return None
        if snapshot.collection != collection.name:  # promoted or created since the listing began
            logger.info("Nothing is pruned: %s is live since the listing began", collection.name)
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
        prune = cls(store, collection, snapshot, manifest, max_ratio=options.prune_max_ratio)
        if empty := [source for source, listed in prune._listed.items() if not len(listed)]:
            raise PruneRefusedError(
                f"--prune: no objects are listed in {', '.join(map(repr, empty))}, so all of its points would be "
                "deleted. If that is intended, drop the collection."
            )
        return prune

    def plan(self) -> PrunePlan:
        """Count what `carry_out` would do; raises `PruneRefusedError` if a source would lose more than the ratio."""
        points, missing = Counter[str](), Counter[str]()
        total = detached = deleted = 0
        for point in self._snapshot.points():
            gone = self._gone(point)
            points.update(source for source in point.sources if source in self._listed)
            missing.update(gone)
            total += 1
            detached += bool(gone)
            deleted += len(gone) == len(point.sources)
        for source, count in missing.items():
            if count > self._max_ratio * points[source]:
                raise PruneRefusedError(
                    f"--prune would remove {count:,} of the {points[source]:,} points of {source!r} "
                    f"({count / points[source]:.0%}), more than --prune-max-ratio {self._max_ratio:g} allows. Nothing "
                    "pruned. If the objects are really gone, run again with a larger --prune-max-ratio."
                )
        return PrunePlan(total, detached, deleted)

    def carry_out(self) -> int:
        """Prune, and return the number of points deleted."""
        missing = (point for point in self._snapshot.points() if self._gone(point))
        deleted = 0
        while page := list(itertools.islice(missing, BATCH)):
            now = self._store.points.records(self._collection, [point.id for point in page])
            pending: dict[str, list[str]] = defaultdict(list)
            for point in page:
                if point.id in now and PointBefore.of(point.id, now[point.id].payload).version == point.version:
                    for source in self._gone(point):
                        pending[source].append(point.id)
            deleted += sum(self._detach(source, ids) for source, ids in pending.items())
        return deleted

    def _gone(self, point: PointBefore) -> list[str]:
        """The sources of this run that no longer list the point."""
        return [each for each in point.sources if each in self._listed and not holds(self._listed[each], point.id)]

    def _detach(self, source: str, ids: Sequence[str]) -> int:
        orphans = self._store.points.remove_source(self._collection, ids, source)
        self._store.points.delete(self._collection, orphans)
        return len(orphans)


def listed_ids(paths: Sequence[Path], source: str) -> npt.NDArray[np.uint64]:
    """Half of each listed point's id, sorted. At 8 bytes a key, 100 million keys take 800 MB.

    If two ids share that half, a point that is gone looks listed and is kept, which is the safe error.
    """
    parts = []
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=["uri", "sources"]):
            rows = batch.to_pylist()
            parts.append(np.array([_half(point_id(row["uri"])) for row in rows if source in row["sources"]], np.uint64))
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def holds(ids: npt.NDArray[np.uint64], id_: str) -> bool:
    half = np.uint64(_half(id_))
    place = int(np.searchsorted(ids, half))
    return place < len(ids) and bool(ids[place] == half)


def _half(id_: str) -> int:
    return int(id_.replace("-", "")[16:], 16)
