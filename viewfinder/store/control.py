"""Records of an index beside its collections: failures, takedowns, locks, sources. Kept in `{index}__control`.

Each kind of record has its own ids (UUIDv5 of kind and subject), so that a failure, a takedown and the upgrade lock of
the same index never overwrite each other. Points have a payload and no vector.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from qdrant_client import models

from viewfinder import clock
from viewfinder.errors import CollectionMissingError, StoreError
from viewfinder.store.connection import CONDITIONAL_ORDERING, Connection
from viewfinder.store.records import is_point_id
from viewfinder.store.request_size import point_bytes

Kind = Literal[
    "failure", "takedown", "upgrade_lock", "rollback_pause", "running", "source", "captions_file", "run", "field"
]

# Never change it: it determines every id in every control collection.
_RECORD_IDS = uuid.UUID("3b0f4f5e-6c39-5a43-9a53-6b8f3c0a7d11")
_RECORDS_PER_PAGE = 1000
# Strict mode refuses filters on other fields.
_INDEXED = ("kind", "run_id", "collection_id", "token", "expires_at", "at")


@dataclass(frozen=True)
class Failure:
    """The failure of one object: `reason` is a stable snake_case word, `stage` the step that failed.

    `permanent` means that the same content will fail again while `decided_by` is the same; `run_id` is the last run in
    which it failed, "" for an object that is skipped because its content is no image. `etag`, `size` and
    `last_modified` are of that content. `crashes` are the machines and runs in which the file crashed its decoder.
    """

    uri: str
    etag: str
    stage: str
    reason: str
    message: str
    permanent: bool = True
    run_id: str = ""
    decided_by: str = ""
    crashes: tuple[str, ...] = ()
    size: int = -1
    last_modified: str = ""

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "Failure":
        """Return the failure of a control record."""
        known = {each.name: record[each.name] for each in fields(cls) if each.name in record}
        return cls(**{**known, "crashes": tuple(known.get("crashes") or ())})


@dataclass(frozen=True)
class TakedownRecord:
    """The takedown of an image: its URI, "" if unknown, and its time (ISO 8601, UTC)."""

    uri: str
    at: str


class Control:
    """The control records of one index."""

    def __init__(self, connection: Connection, index: str) -> None:
        self._call = connection.call
        self._complete = connection.complete
        self._limit = connection.limit
        self.name = f"{index}__control"

    def failures(self, ids: Sequence[str]) -> dict[str, Failure]:
        """Return the failures of these points, by point id."""
        return {subject: Failure.parse(record) for subject, record in self.read("failure", ids).items()}

    def failures_of_run(self, run_id: str) -> Iterator[Failure]:
        """Yield all failures of one run."""
        return map(Failure.parse, self._scroll(_equals("kind", "failure"), _equals("run_id", run_id)))

    def record_failures(self, failures: Mapping[str, Failure]) -> None:
        """Write failures by point id; a point keeps only its last failure."""
        self.write("failure", {subject: asdict(failure) for subject, failure in failures.items()})

    def forget_failures(self, ids: Sequence[str]) -> None:
        """Delete the failures of these points, whose content has changed or has been indexed."""
        self.remove("failure", ids)

    def takedowns(self, ids: Sequence[str]) -> dict[str, TakedownRecord]:
        """Return the takedowns of these points, by point id."""
        records = self.read("takedown", list(filter(is_point_id, ids)))
        return {subject: _takedown(record) for subject, record in records.items()}

    def all_takedowns(self) -> Iterator[tuple[str, TakedownRecord]]:
        """Yield all takedowns with the ids of their points."""
        return ((record["subject"], _takedown(record)) for record in self._scroll(_equals("kind", "takedown")))

    def take_down(self, images: Mapping[str, str]) -> None:
        """Write takedowns of these URIs by point id; an existing one keeps its time, and its URI if it has one."""
        if invalid := [each for each in images if not is_point_id(each)]:
            raise ValueError(f"not point ids: {invalid[:3]}")
        known = self.takedowns(list(images))
        records = {
            each: {"uri": uri, "at": known[each].at if each in known else clock.timestamp()}
            for each, uri in images.items()
            if each not in known or (uri and not known[each].uri)
        }
        self.write("takedown", records)

    def restore(self, ids: Sequence[str]) -> None:
        """Delete the takedowns of these points."""
        self.remove("takedown", list(filter(is_point_id, ids)))

    def running(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the runs that have begun and not recorded their end, with what they recorded."""
        return ((str(record["subject"]), record) for record in self._scroll(_equals("kind", "running")))

    def record_running(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Record that a run has begun."""
        self.write("running", {run_id: record})

    def forget_running(self, run_ids: Sequence[str]) -> None:
        """Record that runs have ended."""
        self.remove("running", run_ids)

    def read(self, kind: Kind, subjects: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the records of one kind by subject."""
        found: dict[str, dict[str, Any]] = {}
        for page in _subject_pages(subjects):
            try:
                records = self._call("retrieve", collection_name=self.name, ids=_ids(kind, page), with_payload=True)
            except CollectionMissingError:
                return {}
            found |= {record.payload["subject"]: record.payload for record in records}
        return found

    def of_collection(self, collection_id: str) -> Iterator[Mapping[str, Any]]:
        """Yield the records of one collection, of all kinds: see `CollectionRecords`."""
        return self._scroll(_equals("collection_id", collection_id))

    def write(self, kind: Kind, records: Mapping[str, Mapping[str, Any]], *, only_new: bool = False) -> None:
        """Write one record per subject; create the collection if it is missing.

        Replaces earlier records, or with `only_new` keeps them.
        """
        at = clock.timestamp()
        options = {"update_mode": models.UpdateMode.INSERT_ONLY} if only_new else {}
        points = [_record_point(kind, subject, record, at) for subject, record in records.items()]
        for part in self._limit.batches([point_bytes(point.payload or {}, 0) for point in points], _RECORDS_PER_PAGE):
            self._upsert([points[place] for place in part], **options)

    def write_if(
        self, kind: Kind, subject: str, record: Mapping[str, Any], *, absent: bool = False, **expected: str
    ) -> None:
        """Write one record atomically if its fields equal `expected`, or with `absent` if it does not exist.

        Call `read` to find out if it was written. Needs Qdrant's conditional upserts (≥ 1.17).
        """
        condition = models.Filter(must=[_equals(field, value) for field, value in expected.items()])
        options = (
            {"update_mode": models.UpdateMode.INSERT_ONLY}
            if absent
            else {"update_mode": models.UpdateMode.UPDATE_ONLY, "update_filter": condition}
        )
        self._upsert([_record_point(kind, subject, record, clock.timestamp())], **options)

    def _upsert(self, points: list[models.PointStruct], **options: Any) -> None:
        try:
            self._write("upsert", points=points, **options)
        except CollectionMissingError:
            self._create()
            self._write("upsert", points=points, **options)

    def _write(self, method: str, **arguments: Any) -> None:
        # A run reads what it has written: the holder of a lock, a takedown that another run must respect.
        self._complete(method, collection_name=self.name, wait=True, ordering=CONDITIONAL_ORDERING, **arguments)

    def remove(self, kind: Kind, subjects: Sequence[str]) -> None:
        """Delete the records of one kind of these subjects, if they exist."""
        for page in _subject_pages(subjects):
            selector = models.PointIdsList(points=list(_ids(kind, page)))
            try:
                self._write("delete", points_selector=selector)
            except CollectionMissingError:
                return

    def remove_if(self, kind: Kind, subject: str, **expected: str) -> None:
        """Delete one record atomically if its fields, which are indexed, equal `expected`."""
        conditions = [_equals(field, value) for field, value in expected.items()]
        same = models.Filter(must=[models.HasIdCondition(has_id=list(_ids(kind, [subject]))), *conditions])
        try:
            self._write("delete", points_selector=same)
        except CollectionMissingError:
            return

    def _scroll(self, *conditions: models.FieldCondition) -> Iterator[Mapping[str, Any]]:
        """Yield all records that meet the conditions; none if the collection does not exist yet."""
        condition, offset = models.Filter(must=list(conditions)), None
        while True:
            try:
                records, offset = self._call(
                    "scroll",
                    collection_name=self.name,
                    scroll_filter=condition,
                    limit=_RECORDS_PER_PAGE,
                    offset=offset,
                    with_payload=True,
                )
            except CollectionMissingError:
                return
            yield from (record.payload for record in records)
            if offset is None:
                return

    def _create(self) -> None:
        try:
            self._call("create_collection", collection_name=self.name, vectors_config={})
        except StoreError:  # it exists: created by another program
            if not self._call("collection_exists", collection_name=self.name):
                raise
        for field in _INDEXED:
            self._call(
                "create_payload_index",
                collection_name=self.name,
                field_name=field,
                field_schema=models.PayloadSchemaType.KEYWORD,
                wait=True,
            )


def _takedown(record: Mapping[str, Any]) -> TakedownRecord:
    return TakedownRecord(str(record["uri"]), str(record["at"]))


def _equals(field: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _record_point(kind: Kind, subject: str, record: Mapping[str, Any], at: str) -> models.PointStruct:
    payload = {**record, "kind": kind, "subject": subject, "recorded_at": at}
    return models.PointStruct(id=_ids(kind, [subject])[0], vector={}, payload=payload)


def _ids(kind: Kind, subjects: Sequence[str]) -> list[str]:
    return [str(uuid.uuid5(_RECORD_IDS, f"{kind}:{subject}")) for subject in subjects]


def _subject_pages(subjects: Sequence[str]) -> list[Sequence[str]]:
    return [subjects[start : start + _RECORDS_PER_PAGE] for start in range(0, len(subjects), _RECORDS_PER_PAGE)]
