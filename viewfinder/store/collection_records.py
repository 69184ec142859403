"""Records of one collection, each a point of its own: sources, their captions files, runs, fields of captions files.

Qdrant merges only the top-level keys of metadata and payloads. Two programs that read, extend and write one list lose
entries, so no list is stored: every entry is written and deleted by an id made of its own name.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from viewfinder.clock import Clock, now, timestamp_after
from viewfinder.sources.uris import source_uri
from viewfinder.store.control import Control, Kind
from viewfinder.store.recorded import CaptionsRecord, Recorded, RunRecord, SourceRecord

RUNS_KEPT = 50

_SOURCE: Final = "source"
_CAPTIONS: Final = "captions_file"
_RUN: Final = "run"
_FIELD: Final = "field"


class CollectionRecords:
    """Writes and reads the records of one collection. `collection_id` is `CollectionMetadata.collection_id`."""

    def __init__(self, control: Control, collection_id: str, *, clock: Clock = now) -> None:
        self._control = control
        self._collection_id = collection_id
        self._clock = clock

    def read(self) -> Recorded:
        """Return all records."""
        records = list(self._control.of_collection(self._collection_id))
        of = functools.partial(_of_kind, records)
        return Recorded(
            sources={each["source"]: SourceRecord.of(each) for each in _by(of(_SOURCE), "source")},
            captions=[CaptionsRecord(each["source"], each["uri"], each["at"]) for each in _by(of(_CAPTIONS), "at")],
            runs=[RunRecord(each["run"], each["at"], each["details"]) for each in _by(of(_RUN), "at")],
            fields={each["field"]: each["values"] for each in _by(of(_FIELD), "field")},
        )

    def record_sources(self, sources: Iterable[SourceRecord], *, only_new: bool = False) -> None:
        """Record sources, replacing earlier records unless `only_new`.

        A record with `max_objects` never replaces an existing one, which may be of a full listing.
        `s3://b/p` and `s3://b/p/` are one source.
        """
        full: dict[str, Mapping[str, Any]] = {}
        limited: dict[str, Mapping[str, Any]] = {}
        for each in sources:
            options = asdict(each)
            uri = source_uri(options.pop("uri"))
            (full if each.max_objects is None else limited)[self._subject(uri)] = {"source": uri, **options}
        self._write(_SOURCE, full, only_new=only_new)
        self._write(_SOURCE, limited, only_new=True)

    def remove_sources(self, sources: Iterable[str]) -> None:
        """Delete the records of sources and of their captions files, if they exist."""
        uris = {source_uri(each) for each in sources}
        self._control.remove(_SOURCE, [self._subject(uri) for uri in uris])
        for each in self.read().captions:
            if each.source in uris:
                self.remove_captions(each.source, each.uri)

    def record_captions(self, source: str, uri: str) -> None:
        """Record that a captions file was read for a source; it becomes the last one of this source."""
        source = source_uri(source)
        earlier = [each.at for each in self.read().captions if each.source == source]
        record = {"source": source, "uri": uri, "at": self._after(earlier)}
        self._write(_CAPTIONS, {self._subject(source, uri): record})

    def remove_captions(self, source: str, uri: str) -> None:
        """Delete the record of a captions file of a source, if it exists."""
        self._control.remove(_CAPTIONS, [self._subject(source_uri(source), uri)])

    def remove_captions_as_read(self, record: CaptionsRecord) -> None:
        """Delete the record of a captions file, unless the file has been recorded again since."""
        self._control.remove_if(_CAPTIONS, self._subject(record.source, record.uri), at=record.at)

    def record_run(self, run_id: str, details: Mapping[str, Any] | None = None) -> None:
        """Record a run, replacing its earlier record. Only the last `RUNS_KEPT` runs are kept."""
        others = [each for each in self.read().runs if each.run_id != run_id]
        record = {"run": run_id, "at": self._after(each.at for each in others), "details": dict(details or {})}
        self._write(_RUN, {self._subject(run_id): record})
        if old := others[: max(0, len(others) + 1 - RUNS_KEPT)]:
            self._control.remove(_RUN, [self._subject(each.run_id) for each in old])

    def record_fields(self, fields: Mapping[str, str]) -> None:
        """Record fields of captions files (`meta.NAME`) with the kinds of their values; others stay."""
        records = {self._subject(name): {"field": name, "values": kind} for name, kind in fields.items()}
        self._write(_FIELD, records)

    def remove_all(self) -> None:
        """Delete all records of the collection."""
        found = sorted(self._control.of_collection(self._collection_id), key=lambda each: str(each["kind"]))
        for kind, records in itertools.groupby(found, key=lambda each: each["kind"]):
            self._control.remove(kind, [each["subject"] for each in records])

    def _after(self, earlier: Iterable[str]) -> str:
        return timestamp_after(earlier, self._clock)

    def _subject(self, *names: str) -> str:
        return "\n".join([self._collection_id, *names])

    def _write(self, kind: Kind, records: Mapping[str, Mapping[str, Any]], *, only_new: bool = False) -> None:
        owned = {subject: {**each, "collection_id": self._collection_id} for subject, each in records.items()}
        self._control.write(kind, owned, only_new=only_new)


def _of_kind(records: Sequence[Mapping[str, Any]], kind: Kind) -> list[Mapping[str, Any]]:
    return [each for each in records if each["kind"] == kind]


def _by(records: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return sorted(records, key=lambda each: (str(each[name]), str(each["subject"])))
