"""The records of a collection: sources, captions files, runs, fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from viewfinder.sources.uris import source_uri


@dataclass(frozen=True)
class SourceRecord:
    """A source and the options that list it again, without credentials; `max_objects` if only a part was listed."""

    uri: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_objects: int | None = None

    @classmethod
    def of(cls, source: Mapping[str, Any]) -> "SourceRecord":
        """Return the record of one of `Manifest.sources`."""
        patterns = {name: tuple(source.get(name) or ()) for name in ("include", "exclude")}
        return cls(source_uri(source["source"]), max_objects=source.get("max_objects"), **patterns)


@dataclass(frozen=True)
class CaptionsRecord:
    """A captions file that was read for a source. `at` (ISO 8601, UTC) orders the files of a source."""

    source: str
    uri: str
    at: str


@dataclass(frozen=True)
class RunRecord:
    """A run that wrote to the collection; `at` (ISO 8601, UTC) is when it was recorded last."""

    run_id: str
    at: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """All records of a collection: sources by URI, captions files and runs in the order in which they were recorded.

    `fields` maps the fields of captions files (`meta.NAME`) to keyword, integer, float, bool, datetime or text.
    """

    sources: Mapping[str, SourceRecord] = field(default_factory=dict)
    captions: Sequence[CaptionsRecord] = ()
    runs: Sequence[RunRecord] = ()
    fields: Mapping[str, str] = field(default_factory=dict)

    def captions_of(self, source: str) -> list[str]:
        """Return the captions files of a source, the last one recorded last."""
        uri = source_uri(source)
        return [each.uri for each in self.captions if each.source == uri]
