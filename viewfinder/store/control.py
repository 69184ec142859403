"""What must outlive any one collection of an index, in a small collection of its own, `{index}__control`.

Each kind of note has its own ids (UUIDv5 of kind and subject), so that a failure, a takedown and the upgrade lock of
the same index never overwrite each other. Points carry a payload and no vector.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from qdrant_client import models

from viewfinder.errors import CollectionMissingError, StoreError
from viewfinder.store.records import is_point_id

Kind = Literal["failure", "takedown", "upgrade_lock", "rollback_pause"]

# Fixed for ever: every id in every control collection hangs on it.
_NAMESPACE = uuid.UUID("3b0f4f5e-6c39-5a43-9a53-6b8f3c0a7d11")
_PAGE = 1000


@dataclass(frozen=True)
class Failure:
    """Why an object is not in the index: `reason` is a stable snake_case word, `stage` where it happened.

    `permanent` says that the same content will fail again; `run_id` names the last run that met it.
    """

    uri: str
    etag: str
    stage: str
    reason: str
    message: str
    permanent: bool = True
    run_id: str = ""

    @classmethod
    def parse(cls, note: Mapping[str, Any]) -> "Failure":
        return cls(**{each.name: note[each.name] for each in fields(cls) if each.name in note})


@dataclass(frozen=True)
class Takedown:
    """A picture taken down: its URI, "" where it was never known, and since when (ISO 8601, UTC)."""

    uri: str
    at: str


class Control:
    """The notes of one index; `call` is the store's own, with its retries and errors."""

    def __init__(self, call: Callable[..., Any], index: str) -> None:
        self._call = call
        self.name = f"{index}__control"

    def failures(self, ids: Sequence[str]) -> dict[str, Failure]:
        """Recorded failures by point id, of those points that have one."""
        return {subject: Failure.parse(note) for subject, note in self.read("failure", ids).items()}

    def failures_of_run(self, run_id: str) -> Iterator[Failure]:
        """All failures that one run met, however many."""
        return map(Failure.parse, self._notes(_equals("kind", "failure"), _equals("run_id", run_id)))

    def record_failures(self, failures: Mapping[str, Failure]) -> None:
        """Keep failures by point id; a later one of the same point replaces the earlier."""
        self.write("failure", {subject: asdict(failure) for subject, failure in failures.items()})

    def forget_failures(self, ids: Sequence[str]) -> None:
        """Drop the failures of these points: their content has changed, or has been indexed."""
        self.remove("failure", ids)

    def takedowns(self, ids: Sequence[str]) -> dict[str, Takedown]:
        """The takedowns of these points, of those that have one."""
        notes = self.read("takedown", list(filter(is_point_id, ids)))
        return {subject: _takedown(note) for subject, note in notes.items()}

    def all_takedowns(self) -> Iterator[tuple[str, Takedown]]:
        """Every takedown with the id of its point, however many."""
        return ((note["subject"], _takedown(note)) for note in self._notes(_equals("kind", "takedown")))

    def take_down(self, pictures: Mapping[str, str]) -> None:
        """Set takedowns by point id on these URIs; one that stands keeps its date, and its URI where it has one."""
        if strange := [each for each in pictures if not is_point_id(each)]:
            raise ValueError(f"no ids of points: {strange[:3]}")
        known = self.takedowns(list(pictures))
        notes = {
            each: {"uri": uri, "at": known[each].at if each in known else _now()}
            for each, uri in pictures.items()
            if each not in known or (uri and not known[each].uri)
        }
        self.write("takedown", notes)

    def restore(self, ids: Sequence[str]) -> None:
        """Lift the takedowns of these points."""
        self.remove("takedown", list(filter(is_point_id, ids)))

    def read(self, kind: Kind, subjects: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Notes of one kind by subject."""
        found: dict[str, dict[str, Any]] = {}
        for page in _pages(subjects):
            try:
                records = self._call("retrieve", collection_name=self.name, ids=_ids(kind, page), with_payload=True)
            except CollectionMissingError:
                return {}
            found |= {record.payload["subject"]: record.payload for record in records}
        return found

    def write(self, kind: Kind, notes: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the notes of one kind about these subjects, making the collection where it is the first."""
        if not notes:
            return
        at = _now()
        for page in _pages(list(notes)):
            self._upsert([_point(kind, subject, notes[subject], at) for subject in page])

    def write_if(
        self, kind: Kind, subject: str, note: Mapping[str, Any], *, absent: bool = False, **stands: str
    ) -> None:
        """Write one note, in one step with the look whether it may: where none stands, or where that says `stands`.

        Whether it was written, the next `read` tells. Needs Qdrant's conditional upserts (≥ 1.17).
        """
        condition = models.Filter(must=[_equals(field, value) for field, value in stands.items()])
        how = (
            {"update_mode": models.UpdateMode.INSERT_ONLY}
            if absent
            else {"update_mode": models.UpdateMode.UPDATE_ONLY, "update_filter": condition}
        )
        self._upsert([_point(kind, subject, note, _now())], **how)

    def remove_if(self, kind: Kind, subject: str, **stands: str) -> None:
        """Drop one note where it says `stands`."""
        conditions: list[Any] = [_equals(field, value) for field, value in stands.items()]
        own = models.Filter(must=[models.HasIdCondition(has_id=list(_ids(kind, [subject]))), *conditions])
        try:
            self._call("delete", collection_name=self.name, points_selector=own, wait=True)
        except CollectionMissingError:
            return

    def _upsert(self, points: list[models.PointStruct], **how: Any) -> None:
        try:
            self._call("upsert", collection_name=self.name, points=points, wait=True, **how)
        except CollectionMissingError:
            self._create()
            self._call("upsert", collection_name=self.name, points=points, wait=True, **how)

    def remove(self, kind: Kind, subjects: Sequence[str]) -> None:
        """Drop the notes of one kind about these subjects, those that exist."""
        for page in _pages(subjects):
            selector = models.PointIdsList(points=list(_ids(kind, page)))
            try:
                self._call("delete", collection_name=self.name, points_selector=selector, wait=True)
            except CollectionMissingError:
                return

    def _notes(self, *conditions: models.FieldCondition) -> Iterator[Mapping[str, Any]]:
        """All notes that meet the conditions, page by page; none where there is no collection yet."""
        fits, offset = models.Filter(must=list(conditions)), None
        while True:
            try:
                records, offset = self._call(
                    "scroll",
                    collection_name=self.name,
                    scroll_filter=fits,
                    limit=_PAGE,
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
        except StoreError:  # another program was first, or it is a real refusal
            if not self._call("collection_exists", collection_name=self.name):
                raise
        for field in ("kind", "run_id"):
            self._call(
                "create_payload_index",
                collection_name=self.name,
                field_name=field,
                field_schema=models.PayloadSchemaType.KEYWORD,
                wait=True,
            )


def _takedown(note: Mapping[str, Any]) -> Takedown:
    return Takedown(str(note["uri"]), str(note["at"]))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _equals(field: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _point(kind: Kind, subject: str, note: Mapping[str, Any], at: str) -> models.PointStruct:
    payload = {**note, "kind": kind, "subject": subject, "recorded_at": at}
    return models.PointStruct(id=_ids(kind, [subject])[0], vector={}, payload=payload)


def _ids(kind: Kind, subjects: Sequence[str]) -> list[str]:
    return [str(uuid.uuid5(_NAMESPACE, f"{kind}:{subject}")) for subject in subjects]


def _pages(subjects: Sequence[str]) -> list[Sequence[str]]:
    return [subjects[start : start + _PAGE] for start in range(0, len(subjects), _PAGE)]
