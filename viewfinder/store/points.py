"""Points of a collection: write, update, delete, read."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from qdrant_client import models

from viewfinder.arrays import Vectors
from viewfinder.clock import timestamp_after
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.store.collections import Collections
from viewfinder.store.conditions import Conditions, KeyFilter, ParsedFilter
from viewfinder.store.connection import CONDITIONAL_ORDERING, Connection
from viewfinder.store.records import PointBatch, PointState, Record, StoredPoint, is_point_id, payload_selector
from viewfinder.store.request_size import point_bytes
from viewfinder.store.schema import VECTOR_NAMES, Collection, VectorName
from viewfinder.store.words import COMPOSED_ID, searchable
from viewfinder.wording import counted

PAGE_SIZE = 1000
_SECOND = timedelta(seconds=1)  # the precision of `indexed_at`, as runs write it
_MAX_UPDATE_ATTEMPTS = 10  # to change a field that other programs change too
VECTOR_PAGE_SIZE = 200  # 512 numbers take about 10 kB of JSON


class Points:
    """The points of one physical collection, never of an alias."""

    def __init__(self, connection: Connection, collections: Collections) -> None:
        self._connection = connection
        self._conditions = Conditions(collections)
        self._call = connection.call

    def upsert(self, collection: Collection, batch: PointBatch, *, wait: bool, only_new: bool = False) -> None:
        """Write whole points, replacing payload and vectors of existing ones, or with `only_new` leaving those alone.

        `wait=False` returns once Qdrant has logged the points; `wait=True` once they are applied, or after Qdrant's
        `wait_timeout`, which means accepted and is not a failure. Sent in requests below Qdrant's size limit; raises
        `StoreError` for a point that exceeds it alone (`viewfinder.store.request_size`).
        """
        options = {"update_mode": models.UpdateMode.INSERT_ONLY, "ordering": CONDITIONAL_ORDERING} if only_new else {}
        for points in self._columns(collection, batch):
            self._call("upsert", collection_name=collection.name, points=points, wait=wait, **options)

    def update(
        self, collection: Collection, ids: Sequence[str], change: Callable[[str, StoredPoint], StoredPoint | None]
    ) -> int:
        """Change whole points; return the number of points written. Deleted ones stay deleted.

        `change` gets a point and returns the new one, or None to leave it. It is called again for points that other
        programs have written meanwhile. Each update gives a point another `indexed_at`, so that no program takes one
        state for another.

        Qdrant compares and writes a point in one step (`update_filter`, Qdrant ≥ 1.17). Changes of single vectors and
        fields could mix with those of another program: the vector of one, and the payload of the other.
        """
        written = 0
        for pending in _id_pages(ids, VECTOR_PAGE_SIZE):
            sent: dict[str, PointState] = {}
            for attempt in range(_MAX_UPDATE_ATTEMPTS):
                found = self.whole(collection, pending)
                # Qdrant may answer before it has applied a change.
                written += sum(sent.get(each) == point.state for each, point in found.items())
                changed = {
                    each: _later(new, than=point, again=attempt > 0)
                    for each, point in found.items()
                    if (new := change(each, point)) is not None
                }
                if not changed:
                    break
                self._replace(collection, changed, {each: found[each].state for each in changed})
                sent = {each: point.state for each, point in changed.items()}
                now = self.states(collection, list(changed))
                pending = [each for each, state in now.items() if state != sent[each]]
                written += len(now) - len(pending)
                if not pending:
                    break
            else:
                raise _contended(collection, pending)
        return written

    def add_sources(self, collection: Collection, sources: Mapping[str, Iterable[str]]) -> None:
        """Add sources in which points have been found. Sources that other programs add or remove meanwhile count."""
        wanted = {each: set(names) for each, names in sources.items()}
        pending = list(wanted)
        for attempt in range(_MAX_UPDATE_ATTEMPTS + 1):  # the last one only reads
            groups: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
            for each, state in self.states(collection, pending).items():
                if missing := wanted[each].difference(state.sources):
                    groups[state.sources, tuple(sorted(missing.union(state.sources)))].append(each)
            if not groups:
                return
            pending = [each for ids in groups.values() for each in ids]
            if attempt == _MAX_UPDATE_ATTEMPTS:
                raise _contended(collection, pending)
            for (before, after), ids in groups.items():
                for page in _id_pages(ids):
                    self._set_sources(collection, after, _unchanged_points(page, before))

    def detach(
        self, collection: Collection, ids: Sequence[str], source: str, *, written_by: Sequence[str] | None = None
    ) -> int:
        """Remove `source` from these points, and delete those that have no other; return the number deleted.

        With `written_by` only points that one of these runs wrote last. Points that change meanwhile stay as they are:
        Qdrant checks the sources and the run in the request that changes or deletes a point.
        """
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for each, state in self.states(collection, ids).items():
            groups[state.sources].append(each)
        deleted = 0
        for before, members in groups.items():
            remaining = [each for each in before if each != source]
            for page in _id_pages(members):
                same = _unchanged_points(page, before, written_by)
                if remaining and source in before:
                    self._set_sources(collection, remaining, same)
                elif not remaining:
                    self._call(
                        "delete",
                        collection_name=collection.name,
                        points_selector=same,
                        wait=True,
                        ordering=CONDITIONAL_ORDERING,
                    )
                    deleted += len(page) - len(self.states(collection, page))
        return deleted

    def delete_unchanged(self, collection: Collection, before: Mapping[str, PointState]) -> None:
        """Delete points that are still as in `before`."""
        for page in _id_pages(list(before)):
            self._call(
                "delete",
                collection_name=collection.name,
                points_selector=_as_before({each: before[each] for each in page}),
                wait=True,
                ordering=CONDITIONAL_ORDERING,
            )

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete points, if they exist."""
        for page in _id_pages(ids):
            self._call(
                "delete", collection_name=collection.name, points_selector=models.PointIdsList(points=page), wait=True
            )

    def states(self, collection: Collection, ids: Sequence[str]) -> dict[str, PointState]:
        """Return the states of the points in `ids` that exist, read 1,000 at a time without vectors."""
        states: dict[str, PointState] = {}
        for page in _id_pages(ids):
            records = self._call(
                "retrieve", collection_name=collection.name, ids=page, with_payload=_STATE_FIELDS, with_vectors=False
            )
            states |= {str(record.id): PointState.of(record.payload or {}) for record in records}
        return states

    def composed(self, collection: Collection, ids: Sequence[str]) -> dict[str, str]:
        """Return the URIs, by id, of the points whose URI is in other letters, and would have one of `ids` composed."""
        found: dict[str, str] = {}
        for page in _id_pages(ids) if collection.finds_composed else ():
            named = models.FieldCondition(key=COMPOSED_ID, match=models.MatchAny(any=page))
            records = self.iterate(collection, models.Filter(must=[named]), ["uri"])
            found |= {record.id: str(record.payload["uri"]) for record in records}
        return found

    def iterate(
        self,
        collection: Collection,
        filter: Mapping[str, Any] | ParsedFilter | None = None,
        fields: Sequence[str] | None = None,
    ) -> Iterator[Record]:
        """Yield the points that match `filter`, by id, with all payload fields or those in `fields`."""
        condition, offset = self._conditions.parse(collection, filter), None
        while True:
            records, offset = self._call(
                "scroll",
                collection_name=collection.name,
                scroll_filter=condition,
                limit=PAGE_SIZE,
                offset=offset,
                with_payload=payload_selector(True if fields is None else fields),
            )
            yield from (Record(str(record.id), record.payload or {}) for record in records)
            if offset is None:
                return

    def exist(self, collection: Collection, filter: Mapping[str, Any]) -> bool:
        """Return True if any point matches `filter`."""
        return next(self.iterate(collection, filter, ["uri"]), None) is not None

    def count(
        self, collection: Collection, filter: Mapping[str, Any] | ParsedFilter | None = None, *, exact: bool = True
    ) -> int:
        """Return the number of points that match `filter`.

        An exact count reads the ids of all points that match into Qdrant's memory: never repeat it in a loop.
        """
        condition = self._conditions.parse(collection, filter)
        answer = self._call("count", collection_name=collection.name, count_filter=condition, exact=exact)
        return int(answer.count)

    def records(self, collection: Collection, ids: Sequence[str], *, within: KeyFilter = None) -> dict[str, Record]:
        """Return the payloads of the points in `ids` that exist and match `within`."""
        condition = self._conditions.within(collection, within)
        found: dict[str, Record] = {}
        for page in _id_pages(ids):
            records = self._read(collection, page, condition, with_payload=payload_selector(True))
            found |= {str(record.id): Record(str(record.id), record.payload or {}) for record in records}
        return found

    def whole(self, collection: Collection, ids: Sequence[str]) -> dict[str, StoredPoint]:
        """Return the points in `ids` that exist, with all that is stored of them."""
        found: dict[str, StoredPoint] = {}
        for page in _id_pages(ids, VECTOR_PAGE_SIZE):
            records = self._call(
                "retrieve", collection_name=collection.name, ids=page, with_payload=True, with_vectors=True
            )
            for record in records:
                vectors = {name: _vector(record, name) for name in VECTOR_NAMES if name in (record.vector or {})}
                found[str(record.id)] = StoredPoint(record.payload or {}, vectors)
        return found

    def vectors(
        self, collection: Collection, ids: Sequence[str], using: VectorName = "image", *, within: KeyFilter = None
    ) -> dict[str, Vectors]:
        """Return the unit vectors (float32 [D]) of the points in `ids` that have this kind, and match `within`."""
        condition = self._conditions.within(collection, within)
        found: dict[str, Vectors] = {}
        for page in _id_pages(ids, VECTOR_PAGE_SIZE):
            records = self._read(collection, page, condition, with_payload=False, with_vectors=[using])
            found |= {str(record.id): _vector(record, using) for record in records if using in (record.vector or {})}
        return found

    def sample(self, collection: Collection, count: int, using: VectorName = "image") -> Vectors:
        """Return the unit vectors of up to `count` random points, float32 [n, D]."""
        answer = self._call(
            "query_points",
            collection_name=collection.name,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            query_filter=models.Filter(must=[models.HasVectorCondition(has_vector=using)]),
            limit=count,
            with_payload=False,
            with_vectors=[using],
        )
        vectors = [_vector(point, using) for point in answer.points]
        return np.stack(vectors) if vectors else np.empty((0, collection.metadata.dimension), np.float32)

    def sample_records(
        self, collection: Collection, count: int, filter: Mapping[str, Any] | None = None
    ) -> list[Record]:
        """Return up to `count` random points that match `filter`."""
        answer = self._call(
            "query_points",
            collection_name=collection.name,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            query_filter=self._conditions.parse(collection, filter),
            limit=count,
            with_payload=payload_selector(True),
        )
        return [Record(str(point.id), point.payload or {}) for point in answer.points]

    def _read(
        self, collection: Collection, ids: Sequence[Any], condition: ParsedFilter | None, **options: Any
    ) -> Sequence[Any]:
        """Return the points in `ids`, one page of them, that match the condition."""
        if condition is None:
            records: Sequence[Any] = self._call("retrieve", collection_name=collection.name, ids=ids, **options)
            return records
        both = models.Filter(must=[models.HasIdCondition(has_id=list(ids)), condition])
        records, _ = self._call(
            "scroll", collection_name=collection.name, scroll_filter=both, limit=len(ids), **options
        )
        return records

    def _replace(
        self, collection: Collection, points: Mapping[str, StoredPoint], before: Mapping[str, PointState]
    ) -> None:
        """Write whole points that are still as in `before`. Those that have changed or are deleted stay as they are."""
        for batch in self._columns(collection, _batch_of(points, collection.metadata.dimension)):
            self._call(
                "upsert",
                collection_name=collection.name,
                points=batch,
                wait=True,
                update_mode=models.UpdateMode.UPDATE_ONLY,
                update_filter=_as_before({str(each): before[str(each)] for each in batch.ids}),
                ordering=CONDITIONAL_ORDERING,
            )

    def _columns(self, collection: Collection, batch: PointBatch) -> Iterator[models.Batch]:
        """Yield the points of a batch as they are stored, those of one request each."""
        payloads = [searchable(each, collection.metadata.language) for each in batch.payloads]
        for names, rows in batch.by_vector_kinds():
            numbers = collection.metadata.dimension * len(names)
            flags = {"has_image": "image" in names, "has_caption": "caption" in names}
            for chosen in self._requests(rows, batch.ids, payloads, [numbers] * len(rows)):
                vectors: dict[str, Any] = {name: _vector_rows(batch.vectors(name), chosen) for name in names}
                yield models.Batch(
                    ids=[batch.ids[row] for row in chosen],
                    vectors=vectors,
                    payloads=[{**payloads[row], **flags} for row in chosen],
                )

    def _requests(
        self, rows: Sequence[int], ids: Sequence[str], payloads: Sequence[Mapping[str, Any]], numbers: Sequence[int]
    ) -> Iterator[list[int]]:
        """Yield the rows in parts that fit into one request each; the vectors of rows[i] have `numbers[i]` numbers."""
        sizes = [point_bytes(payloads[row], count) for row, count in zip(rows, numbers, strict=True)]
        limit = self._connection.limit
        for row, size in zip(rows, sizes, strict=True):
            if (excess := limit.excess(size)) is not None:
                raise StoreError(f"The point {ids[row]} takes {excess}.")
        for part in limit.batches(sizes, self._connection.client.max_batch or PAGE_SIZE):
            yield [rows[place] for place in part]

    def _set_sources(self, collection: Collection, sources: Sequence[str], points: models.Filter) -> None:
        self._call(
            "set_payload",
            collection_name=collection.name,
            payload={"sources": list(sources)},
            points=points,
            wait=True,
            ordering=CONDITIONAL_ORDERING,
        )


def _contended(collection: Collection, ids: Sequence[str]) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{counted(len(ids), 'point')} of {collection.name!r} stayed as before in {_MAX_UPDATE_ATTEMPTS} attempts to "
        f"change them, such as {ids[0]}: other programs change them at the same time, or Qdrant has accepted the "
        "changes but not applied them yet. Run again."
    )


_STATE_FIELDS = [each.name for each in fields(PointState)]


def _batch_of(points: Mapping[str, StoredPoint], dimension: int) -> PointBatch:
    columns: dict[str, Any] = {}
    for name in VECTOR_NAMES:
        present = np.array([name in point.vectors for point in points.values()], bool)
        vectors = [point.vectors.get(name, np.zeros(dimension, np.float32)) for point in points.values()]
        if present.any():
            columns |= {name: np.stack(vectors), f"has_{name}": present}
    return PointBatch(list(points), [point.payload for point in points.values()], **columns)


def _as_before(states: Mapping[str, PointState]) -> models.Filter:
    """Return a filter for the points that no program has written since their states were read."""
    groups: dict[tuple[tuple[str, ...], str, str], list[str]] = defaultdict(list)
    for each, state in states.items():
        groups[state.sources, state.run_id, state.indexed_at].append(each)
    return models.Filter(
        should=[_unchanged_points(ids, sources, [run_id], at) for (sources, run_id, at), ids in groups.items()]
    )


def _unchanged_points(
    ids: Sequence[str], sources: Sequence[str], written_by: Sequence[str] | None = None, written_at: str | None = None
) -> models.Filter:
    """Return a filter for the points in `ids` that have exactly these sources, and were written by these runs, then.

    "" is the run and the time of points that no run has written.
    """
    must: list[Any] = [models.HasIdCondition(has_id=list(ids))]
    must += [models.FieldCondition(key="sources", match=models.MatchValue(value=source)) for source in sources]
    if not sources:
        must.append(_is_empty("sources"))
    if written_by is not None:
        runs = list(dict.fromkeys(written_by))
        must.append(
            models.FieldCondition(key="run_id", match=models.MatchAny(any=runs)) if any(runs) else _is_empty("run_id")
        )
    if written_at is not None:
        at = datetime.fromisoformat(written_at) if written_at else None
        time = models.DatetimeRange(gte=at, lte=at)
        must.append(models.FieldCondition(key="indexed_at", range=time) if at else _is_empty("indexed_at"))
    others = models.FieldCondition(key="sources", match=models.MatchExcept(**{"except": list(sources)}))
    return models.Filter(must=must, must_not=[others] if sources else None)


def _is_empty(field: str) -> models.IsEmptyCondition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=field))


def _vector_rows(vectors: Vectors | None, rows: list[int]) -> list[list[float]]:
    chosen: list[list[float]] = np.asarray(vectors, dtype=np.float32)[rows].tolist()
    return chosen


def _vector(record: Any, using: VectorName) -> Vectors:
    return np.asarray(record.vector[using], dtype=np.float32)


def _id_pages(ids: Sequence[str], size: int = PAGE_SIZE) -> list[list[Any]]:
    """Return the valid point ids in pages of at most `size`."""
    known = [each for each in ids if is_point_id(each)]
    return [known[start : start + size] for start in range(0, len(known), size)]


def _later(point: StoredPoint, *, than: StoredPoint, again: bool) -> StoredPoint:
    """Return the point with an `indexed_at` that it never had before.

    It keeps its own if that is a second after the other's, except in another attempt (`again`). A run writes with the
    time of its first write, which a point had already if another run has written it since.
    """
    before, after = than.state.indexed_at, point.state.indexed_at
    if not before or not after:
        return point
    difference = datetime.fromisoformat(after) - datetime.fromisoformat(before)
    if difference >= _SECOND and not again:
        return point
    # A time that differs much may be of a clock that is wrong: only the moment counts.
    new = timestamp_after([before] if abs(difference) < _SECOND else [])
    return StoredPoint({**point.payload, "indexed_at": new}, point.vectors)
