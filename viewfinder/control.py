"""What must outlive any one collection of an index, in a small collection of its own, `{index}__control`.

Each kind of note has its own ids (UUIDv5 of kind and subject), so that a failure, a tombstone and the build lease of
the same index never overwrite each other. Points carry a payload and no vector.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from qdrant_client import models

from viewfinder.errors import CollectionMissingError, StoreError

Kind = Literal["failure"]

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
        fits = models.Filter(must=[_equals("kind", "failure"), _equals("run_id", run_id)])
        offset = None
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
            yield from (Failure.parse(record.payload) for record in records)
            if offset is None:
                return

    def record_failures(self, failures: Mapping[str, Failure]) -> None:
        """Keep failures by point id; a later one of the same point replaces the earlier."""
        self.write("failure", {subject: asdict(failure) for subject, failure in failures.items()})

    def forget_failures(self, ids: Sequence[str]) -> None:
        """Drop the failures of these points: their content has changed, or has been indexed."""
        self.remove("failure", ids)

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
        at = datetime.now(UTC).isoformat(timespec="seconds")
        for page in _pages(list(notes)):
            payloads = [{**notes[subject], "kind": kind, "subject": subject, "recorded_at": at} for subject in page]
            points = [
                models.PointStruct(id=each, vector={}, payload=payload)
                for each, payload in zip(_ids(kind, page), payloads, strict=True)
            ]
            try:
                self._call("upsert", collection_name=self.name, points=points, wait=True)
            except CollectionMissingError:
                self._create()
                self._call("upsert", collection_name=self.name, points=points, wait=True)

    def remove(self, kind: Kind, subjects: Sequence[str]) -> None:
        """Drop the notes of one kind about these subjects, those that exist."""
        for page in _pages(subjects):
            selector = models.PointIdsList(points=list(_ids(kind, page)))
            try:
                self._call("delete", collection_name=self.name, points_selector=selector, wait=True)
            except CollectionMissingError:
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


def _equals(field: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _ids(kind: Kind, subjects: Sequence[str]) -> list[str]:
    return [str(uuid.uuid5(_NAMESPACE, f"{kind}:{subject}")) for subject in subjects]


def _pages(subjects: Sequence[str]) -> list[Sequence[str]]:
    return [subjects[start : start + _PAGE] for start in range(0, len(subjects), _PAGE)]
