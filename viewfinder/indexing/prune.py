"""Prune: delete points whose objects are gone from a complete listing, or whose source is removed from the index."""

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from viewfinder.errors import ViewfinderError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.points_before import PointBefore, PointsBefore
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Store
from viewfinder.store.recorded import SourceRecord
from viewfinder.wording import counted

logger = logging.getLogger("viewfinder.index")

Ids = npt.NDArray[np.uint64]

BATCH = 1000
_ROWS = 50_000


class PruneRefusedError(ViewfinderError):
    """A prune would delete more than allowed, or its listing does not cover a whole source."""


@dataclass(frozen=True)
class PrunePlan:
    """Effect of a prune: points of these sources, points that lose a source, points left without one (deleted).

    `captions` are those that would be removed.
    """

    points: int
    detached: int
    deleted: int
    captions: int = 0

    def __add__(self, other: "PrunePlan") -> "PrunePlan":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return PrunePlan(*(mine + theirs for mine, theirs in pairs))


@dataclass(frozen=True)
class PruneScope:
    """The two sides that a prune compares: the listing in `manifest`, and the points from `before` it began.

    Only these are pruned, and only while they are as they were: an object that another run has indexed since is not in
    this run's listing.
    """

    store: Store
    collection: Collection
    manifest: Manifest
    before: PointsBefore

    @classmethod
    def of(
        cls, store: Store, collection: Collection | None, manifest: Manifest, before: PointsBefore | None
    ) -> "PruneScope | None":
        """The scope of a run; None if it cannot prune."""
        if collection is None or before is None:
            return None
        if before.collection != collection.name:  # promoted or created since the listing began
            logger.info("Nothing is pruned: %s is live since the listing began", collection.name)
            return None
        return cls(store, collection, manifest, before)


class Prune:
    """Removes this run's sources from points that they no longer list, and deletes points without a source."""

    def __init__(self, scope: PruneScope, *, max_ratio: float) -> None:
        self._store = scope.store
        self._collection = scope.collection
        self._before = scope.before
        self._max_ratio = max_ratio
        sources = [str(each["source"]) for each in scope.manifest.sources]
        self._listed = listed_ids(scope.manifest.paths, sources)
        self.refused: dict[str, str] = {}

    @classmethod
    def of(cls, options: IndexOptions, scope: PruneScope | None) -> "Prune | None":
        """The prune of a run, None without `options.prune`."""
        if not options.prune or scope is None:
            return None
        prune = cls(scope, max_ratio=options.prune_max_ratio)
        for source in scope.manifest.sources:
            now = SourceRecord.of(source)
            before = scope.collection.recorded.sources.get(now.uri, now)
            changed = [name for name in ("include", "exclude") if getattr(before, name) != getattr(now, name)]
            if changed:
                prune._refuse(
                    now.uri,
                    f"--prune: {now.uri!r} was indexed with different --{' and --'.join(changed)} patterns, so this "
                    "listing may cover only part of it. Use the same patterns, or run once without --prune.",
                )
            elif not len(prune._listed[now.uri]):
                prune._refuse(
                    now.uri,
                    f"--prune: no objects are listed in {now.uri!r}, so all of its points would be deleted. If that is "
                    f"intended: viewfinder sources remove {now.uri}",
                )
        return prune

    def plan(self) -> PrunePlan:
        """Count what `carry_out` would do.

        A source that would lose more than the ratio is not pruned, and added to `refused` with the reason. Raises
        `PruneRefusedError` if no source of the run can be pruned.
        """
        points, missing = Counter[str](), Counter[str]()
        for point in self._before.points():
            points.update(source for source in point.sources if source in self._listed)
            missing.update(self._gone(point))
        for source, count in missing.items():
            if count > self._max_ratio * points[source]:
                self._refuse(
                    source,
                    f"--prune would remove {count:,} of the {counted(points[source], 'point')} of {source!r} "
                    f"({count / points[source]:.0%}), more than --prune-max-ratio {self._max_ratio:g} allows. This "
                    "source is not pruned. If the objects are really gone, run again with a larger --prune-max-ratio.",
                )
        if not self._listed:
            raise PruneRefusedError(" ".join(self.refused.values()))
        total = detached = deleted = 0
        for point in self._before.points():
            gone = self._gone(point)
            total += 1
            detached += bool(gone)
            deleted += len(gone) == len(point.sources)
        return PrunePlan(total, detached, deleted)

    def carry_out(self) -> int:
        """Prune, and return the number of points deleted."""
        missing = (point for point in self._before.points() if self._gone(point))
        deleted = 0
        while page := list(itertools.islice(missing, BATCH)):
            now = self._store.points.records(self._collection, [point.id for point in page])
            pending: dict[str, list[PointBefore]] = defaultdict(list)
            for point in page:
                if point.id in now and PointBefore.of(point.id, now[point.id].payload).version == point.version:
                    for source in self._gone(point):
                        pending[source].append(point)
            deleted += sum(self._detach(source, points) for source, points in pending.items())
        return deleted

    def _refuse(self, source: str, reason: str) -> None:
        self.refused[source] = reason
        del self._listed[source]

    def _gone(self, point: PointBefore) -> list[str]:
        """The sources of this run that no longer list the point."""
        return [each for each in point.sources if each in self._listed and not holds(self._listed[each], point.id)]

    def _detach(self, source: str, points: Sequence[PointBefore]) -> int:
        ids, runs = [point.id for point in points], [point.run_id for point in points]
        written_by = runs if all(runs) else None  # a point that no run wrote has no run id
        return self._store.points.detach(self._collection, ids, source, written_by=written_by)


def count_only_in(store: Store, collection: Collection, source: str) -> int:
    """Count the points that belong to no other source."""
    points = store.points.iterate(collection, {"sources": {"in": [source]}}, ["sources"])
    return sum(list(point.payload.get("sources") or ()) == [source] for point in points)


def remove_source(store: Store, collection: Collection, source: str) -> int:
    """Forget a source and its captions files; delete the points that belong to no other source, return their number."""
    store.collections.records(collection).remove_sources([source])
    deleted = 0
    points = store.points.iterate(collection, {"sources": {"in": [source]}}, ["sources"])
    ids = (point.id for point in points)
    while page := list(itertools.islice(ids, BATCH)):
        deleted += store.points.detach(collection, page, source)
    return deleted


def listed_ids(paths: Sequence[Path], sources: Iterable[str]) -> dict[str, Ids]:
    """Half of the id of each point that a source lists, sorted, by source. 100 million keys take 800 MB.

    If two ids share that half, a point that is gone looks listed and is kept, which is the safe error.
    """
    parts: dict[str, list[Ids]] = {source: [] for source in sources}
    for rows in listed_rows(paths, ["uri", "sources"]):
        halves: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            for source in row["sources"]:
                halves[source].append(half_id(point_id(row["uri"])))
        for source in parts.keys() & halves.keys():
            parts[source].append(np.array(halves[source], np.uint64))
    return {source: _sorted(found) for source, found in parts.items()}


def captioned_ids(paths: Sequence[Path]) -> tuple[Ids, Ids, Ids]:
    """The same of all listed points, of those with a record in a captions file, and of those with a text there."""
    listed, recorded, captioned = [], [], []
    for rows in listed_rows(paths, ["uri", "caption_hash", "caption"]):
        halves = np.array([half_id(point_id(row["uri"])) for row in rows], np.uint64)
        listed.append(halves)
        recorded.append(halves[[row["caption_hash"] is not None for row in rows]])
        captioned.append(halves[[row["caption"] is not None for row in rows]])
    return _sorted(listed), _sorted(recorded), _sorted(captioned)


def listed_rows(paths: Sequence[Path], columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield these columns of the files of a manifest, some rows at a time."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=columns):
            yield batch.to_pylist()


def _sorted(parts: Sequence[Ids]) -> Ids:
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def holds(ids: Ids, id_: str) -> bool:
    """Return True if `listed_ids` has this id."""
    half = np.uint64(half_id(id_))
    place = int(np.searchsorted(ids, half))
    return place < len(ids) and bool(ids[place] == half)


def half_id(id_: str) -> int:
    """The half of a point id that `listed_ids` has."""
    return int(id_.replace("-", "")[16:], 16)
