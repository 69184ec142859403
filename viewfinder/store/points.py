"""Points of a collection: write, update, delete, read."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from viewfinder.arrays import Mask, Vectors
from viewfinder.errors import CollectionMissingError, StoreError, StoreUnavailableError
from viewfinder.store.collections import Collections
from viewfinder.store.conditions import Conditions
from viewfinder.store.connection import CONDITIONAL_ORDERING, Connection
from viewfinder.store.records import PointBatch, PointState, Record, is_point_id, payload_selector
from viewfinder.store.request_size import point_bytes
from viewfinder.store.schema import Collection, VectorName
from viewfinder.store.words import searchable

PAGE_SIZE = 1000
_ATTEMPTS = 10  # to change a field that other programs change too
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
        payloads = [searchable(each, collection.metadata.language) for each in batch.payloads]
        for names, rows in batch.by_vector_kinds():
            numbers = collection.metadata.dimension * len(names)
            flags = {"has_image": "image" in names, "has_caption": "caption" in names}
            for chosen in self._requests(rows, batch.ids, payloads, [numbers] * len(rows)):
                vectors: dict[str, Any] = {name: _rows(batch.vectors(name), chosen) for name in names}
                points = models.Batch(
                    ids=[batch.ids[row] for row in chosen],
                    vectors=vectors,
                    payloads=[{**payloads[row], **flags} for row in chosen],
                )
                self._call("upsert", collection_name=collection.name, points=points, wait=wait, **options)

    def update_captions(
        self,
        collection: Collection,
        ids: Sequence[str],
        payloads: Sequence[Mapping[str, Any]],
        vectors: Vectors | None = None,
        present: Mask | None = None,
        *,
        wait: bool = True,
    ) -> None:
        """Change captions only: image vectors and other payload fields stay, deleted points are skipped.

        `vectors` are float32 [N, D]; where `present` (bool [N]) is False the caption vector is removed. None in
        `payloads` removes a field.
        """
        rows = np.full(len(ids), vectors is not None) if present is None else present
        self._update(collection, "caption", ids, payloads, vectors, rows, wait)

    def update_images(
        self,
        collection: Collection,
        ids: Sequence[str],
        payloads: Sequence[Mapping[str, Any]],
        vectors: Vectors,
        *,
        wait: bool = True,
    ) -> None:
        """Change image vectors only, float32 [N, D]; captions and other payload fields stay. See `update_captions`."""
        self._update(collection, "image", ids, payloads, vectors, np.full(len(ids), True), wait)

    def add_sources(self, collection: Collection, sources: Mapping[str, Iterable[str]]) -> None:
        """Add sources in which points have been found. Sources that other programs add or remove meanwhile count."""
        wanted = {each: set(names) for each, names in sources.items()}
        for _ in range(_ATTEMPTS):
            groups: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
            for each, state in self.states(collection, list(wanted)).items():
                if missing := wanted[each].difference(state.sources):
                    groups[state.sources, tuple(sorted(missing.union(state.sources)))].append(each)
            if not groups:
                return
            for (before, after), ids in groups.items():
                for page in _pages(ids):
                    self._set_sources(collection, after, _unchanged(page, before))
            wanted = {each: wanted[each] for ids in groups.values() for each in ids}

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
            for page in _pages(members):
                same = _unchanged(page, before, written_by)
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

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete points, if they exist."""
        for page in _pages(ids):
            self._call(
                "delete", collection_name=collection.name, points_selector=models.PointIdsList(points=page), wait=True
            )

    def states(self, collection: Collection, ids: Sequence[str]) -> dict[str, PointState]:
        """Return the states of the points in `ids` that exist, read 1,000 at a time without vectors."""
        states: dict[str, PointState] = {}
        for page in _pages(ids):
            records = self._call(
                "retrieve", collection_name=collection.name, ids=page, with_payload=_STATE_FIELDS, with_vectors=False
            )
            states |= {str(record.id): _state(record.payload or {}) for record in records}
        return states

    def iterate(
        self, collection: Collection, filter: Mapping[str, Any] | None = None, fields: Sequence[str] | None = None
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

    def count(self, collection: Collection, filter: Mapping[str, Any] | None = None, *, exact: bool = True) -> int:
        """Return the number of points that match `filter`.

        An exact count reads the ids of all points that match into Qdrant's memory: never repeat it in a loop.
        """
        condition = self._conditions.parse(collection, filter)
        answer = self._call("count", collection_name=collection.name, count_filter=condition, exact=exact)
        return int(answer.count)

    def records(self, collection: Collection, ids: Sequence[str]) -> dict[str, Record]:
        """Return the payloads of the points in `ids` that exist."""
        found: dict[str, Record] = {}
        for page in _pages(ids):
            records = self._call(
                "retrieve", collection_name=collection.name, ids=page, with_payload=payload_selector(True)
            )
            found |= {str(record.id): Record(str(record.id), record.payload or {}) for record in records}
        return found

    def vectors(self, collection: Collection, ids: Sequence[str], using: VectorName = "image") -> dict[str, Vectors]:
        """Return the unit vectors (float32 [D]) of the points in `ids` that have this kind of vector."""
        found: dict[str, Vectors] = {}
        for page in _pages(ids, VECTOR_PAGE_SIZE):
            records = self._call(
                "retrieve", collection_name=collection.name, ids=page, with_payload=False, with_vectors=[using]
            )
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

    def _update(
        self,
        collection: Collection,
        name: VectorName,
        ids: Sequence[str],
        payloads: Sequence[Mapping[str, Any]],
        vectors: Vectors | None,
        rows: Mask,
        wait: bool,
    ) -> None:
        if len(payloads) != len(ids) or len(rows) != len(ids) or (vectors is None and rows.any()):
            raise ValueError(f"{len(ids)} ids, but {len(payloads)} payloads and {len(rows)} {name} vectors")
        payloads = [searchable(each, collection.metadata.language) for each in payloads]
        numbers = [collection.metadata.dimension * int(each) for each in rows]
        for chosen in self._requests(range(len(ids)), ids, payloads, numbers):
            try:
                self._change(collection, _changes(name, ids, payloads, vectors, rows, chosen), wait)
            except (CollectionMissingError, StoreUnavailableError):
                raise
            except StoreError:
                # Qdrant refuses to update the vector of a point that has been deleted.
                existing = self.states(collection, [ids[row] for row in chosen])
                remaining = [row for row in chosen if ids[row] in existing]
                if len(remaining) == len(chosen):
                    raise
                if remaining:
                    self._change(collection, _changes(name, ids, payloads, vectors, rows, remaining), wait)

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

    def _change(self, collection: Collection, operations: list[Any], wait: bool) -> None:
        self._call("batch_update_points", collection_name=collection.name, update_operations=operations, wait=wait)

    def _set_sources(self, collection: Collection, sources: Sequence[str], points: models.Filter) -> None:
        self._call(
            "set_payload",
            collection_name=collection.name,
            payload={"sources": list(sources)},
            points=points,
            wait=True,
            ordering=CONDITIONAL_ORDERING,
        )


_STATE_FIELDS = ["etag", "size", "last_modified", "caption_hash", "sources", "has_image", "has_caption"]


def _state(payload: Mapping[str, Any]) -> PointState:
    return PointState(
        etag=str(payload.get("etag") or ""),
        caption_hash=str(payload.get("caption_hash") or ""),
        sources=tuple(payload.get("sources") or ()),
        has_image=bool(payload.get("has_image")),
        has_caption=bool(payload.get("has_caption")),
        size=-1 if payload.get("size") is None else int(payload["size"]),
        last_modified=str(payload.get("last_modified") or ""),
    )


def _changes(
    name: VectorName,
    ids: Sequence[str],
    payloads: Sequence[Mapping[str, Any]],
    vectors: Vectors | None,
    present: Mask,
    rows: list[int],
) -> list[Any]:
    """Return the operations of one request that change one kind of vector and its payload in some rows.

    Payloads come after vectors: a crash in between leaves the old hash, and the next run does both again.
    """
    operations: list[Any] = []
    written = [row for row in rows if present[row]]
    if written:
        points = [
            models.PointVectors(id=ids[row], vector={name: vector})
            for row, vector in zip(written, _rows(vectors, written), strict=True)
        ]
        operations.append(models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=points)))
    removed = [ids[row] for row in rows if not present[row]]
    if removed:
        delete = models.DeleteVectors(filter=_existing(removed), vector=[name])
        operations.append(models.DeleteVectorsOperation(delete_vectors=delete))
    for row in rows:
        change = models.SetPayload(
            payload={**payloads[row], f"has_{name}": bool(present[row])}, filter=_existing([ids[row]])
        )
        operations.append(models.SetPayloadOperation(set_payload=change))
    return operations


def _existing(ids: Sequence[str]) -> models.Filter:
    """Return a filter for the points in `ids` that exist; Qdrant refuses a list of ids if one does not exist."""
    return models.Filter(must=[models.HasIdCondition(has_id=list(ids))])


def _unchanged(ids: Sequence[str], sources: Sequence[str], written_by: Sequence[str] | None = None) -> models.Filter:
    """Return a filter for the points in `ids` that have exactly these sources, and were written by these runs."""
    must: list[Any] = [models.HasIdCondition(has_id=list(ids))]
    must += [models.FieldCondition(key="sources", match=models.MatchValue(value=source)) for source in sources]
    if not sources:
        must.append(models.IsEmptyCondition(is_empty=models.PayloadField(key="sources")))
    if written_by is not None:
        runs = list(dict.fromkeys(written_by))
        must.append(models.FieldCondition(key="run_id", match=models.MatchAny(any=runs)))
    others = models.FieldCondition(key="sources", match=models.MatchExcept(**{"except": list(sources)}))
    return models.Filter(must=must, must_not=[others] if sources else None)


def _rows(vectors: Vectors | None, rows: list[int]) -> list[list[float]]:
    chosen: list[list[float]] = np.asarray(vectors, dtype=np.float32)[rows].tolist()
    return chosen


def _vector(record: Any, using: VectorName) -> Vectors:
    return np.asarray(record.vector[using], dtype=np.float32)


def _pages(ids: Sequence[str], size: int = PAGE_SIZE) -> list[list[Any]]:
    """Return the valid point ids in pages of at most `size`."""
    known = [each for each in ids if is_point_id(each)]
    return [known[start : start + size] for start in range(0, len(known), size)]
