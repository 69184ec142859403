"""Several captions files, merged: of the files that name an object, the last one decides."""

from collections.abc import Sequence
from dataclasses import dataclass

from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.captions import CaptionRecord, Captions


@dataclass(frozen=True)
class CaptionFile:
    """An open captions file and the sources whose objects it describes; None means all sources."""

    captions: Captions
    sources: frozenset[str] | None = None


class CaptionFiles:
    """Looks up objects in captions files, which are given in their order."""

    def __init__(self, files: Sequence[CaptionFile]) -> None:
        self.files = files

    def find_many(self, rows: Sequence[tuple[ObjectInfo, Sequence[str]]]) -> list[CaptionRecord | None]:
        """Return the record of each object, given with the sources that contain it, or None."""
        found: list[CaptionRecord | None] = [None] * len(rows)
        for file in self.files:
            known = file.sources
            places = [place for place, (_, of) in enumerate(rows) if known is None or not known.isdisjoint(of)]
            records = file.captions.find_many([rows[place][0] for place in places])
            for place, record in zip(places, records, strict=True):
                found[place] = record or found[place]
        return found

    def uris_of(self, source: str) -> list[str]:
        """Return the URIs of the files of a source, in their order."""
        of_source = (file.captions.uri for file in self.files if file.sources is None or source in file.sources)
        return [uri for uri in of_source if uri is not None]
