"""The captions files of a run: read in their order, with one type for each field, and looked up together."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.caption_tables import captions_uri
from viewfinder.sources.caption_types import FieldSurvey, FieldTypes
from viewfinder.sources.captions import CaptionRecord, Captions, survey_fields
from viewfinder.sources.objects import Objects
from viewfinder.sources.tables import part_files
from viewfinder.sources.versions import Version

logger = logging.getLogger(__name__)

_KEYS_SHOWN = 3
_READS = 3  # of a file that changes meanwhile


@dataclass(frozen=True)
class CaptionFile:
    """An open captions file and the sources whose objects it describes; None means all sources."""

    captions: Captions
    sources: frozenset[str] | None = None


class CaptionFiles:
    """Looks up objects in several captions files: of the files that name an object, the last one decides.

    One without a text for the object leaves the text of the files before it.
    `fields` are the types of their fields; `gone` are files that could not be read, with the reason; `changed`
    those that were not the same while they were read.
    """

    def __init__(
        self,
        files: Sequence[CaptionFile],
        fields: Mapping[str, str] | None = None,
        gone: Mapping[str, str] | None = None,
        changed: Sequence[str] = (),
    ) -> None:
        self.files = files
        self.fields = dict(fields or {})
        self.gone = dict(gone or {})
        self.changed = list(changed)
        self._without: str | None = None  # the first listed object without a record

    @classmethod
    def open(
        cls,
        given: Sequence[tuple[str, frozenset[str] | None]],
        objects: Objects,
        *,
        leave_out: bool = False,
        recorded: Mapping[str, str] | None = None,
        recorded_files: Iterable[str] = (),
        directory: Path | None = None,
    ) -> Self:
        """Read the files in their order, each with its sources (see `CaptionFile`). Close the result after use.

        With `leave_out` a file that cannot be read is left out, else it raises `ConfigurationError`. If not all of
        `recorded_files` are read, the `recorded` types of fields count too. The
        records are kept in `directory`.
        """
        known = set(recorded_files)
        for _ in range(_READS):
            read = cls._read_twice(given, objects, leave_out, recorded or {}, known, directory)
            if not read.changed:
                return read
            read.close()
            logger.info("Captions files have changed while they were read; reading again: %s", ", ".join(read.changed))
        raise ConfigurationError(
            f"--captions: {', '.join(map(repr, read.changed))} changed each of {_READS} times that it was read. Run "
            "again when it is complete."
        )

    @classmethod
    def _read_twice(
        cls,
        given: Sequence[tuple[str, frozenset[str] | None]],
        objects: Objects,
        leave_out: bool,
        recorded: Mapping[str, str],
        recorded_files: Set[str],
        directory: Path | None,
    ) -> Self:
        """Read each file for the types of its fields, then for its records; `changed` are those that differ between."""
        gone: dict[str, str] = {}
        surveys: dict[str, FieldSurvey] = {}
        versions: dict[str, Mapping[str, Version] | None] = {}
        opened: dict[str, Captions] = {}
        given = [(captions_uri(uri), sources) for uri, sources in given]
        for uri in dict.fromkeys(uri for uri, _ in given):
            with _left_out(uri, gone) if leave_out else nullcontext():
                versions[uri] = _versions(uri, objects)
                surveys[uri] = survey_fields(uri, objects)
        types = FieldTypes(surveys, recorded if recorded_files - surveys.keys() else None)
        for message in (*types.conflicts(), *types.excess()):
            logger.warning("%s", message)
        try:
            for uri in surveys:
                with _left_out(uri, gone) if leave_out else nullcontext():
                    opened[uri] = Captions.load(uri, objects, types, directory)
            changed = [uri for uri in opened if _versions(uri, objects) != versions[uri]]
        except BaseException:
            for captions in opened.values():
                captions.close()
            raise
        files = [CaptionFile(opened[uri], sources) for uri, sources in given if uri in opened]
        return cls(files, types.kinds, gone, changed)

    def close(self) -> None:
        for file in self.files:
            file.captions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def find_many(self, rows: Sequence[tuple[ObjectInfo, Sequence[str]]]) -> list[CaptionRecord | None]:
        """Return the record of each object, given with the sources that contain it, or None."""
        found: list[CaptionRecord | None] = [None] * len(rows)
        for file in self.files:
            known = file.sources
            places = [place for place, (_, of) in enumerate(rows) if known is None or not known.isdisjoint(of)]
            records = file.captions.find_many([rows[place][0] for place in places])
            for place, record in zip(places, records, strict=True):
                found[place] = _later(found[place], record)
        if self._without is None:
            self._without = next((rows[place][0].uri for place, each in enumerate(found) if each is None), None)
        return found

    def log_unmatched(self) -> None:
        """Log the number of captions that belong to no listed object, and why, for each file that has some."""
        for file in {each.captions.uri: each.captions for each in self.files}.values():
            if unmatched := file.unmatched():
                keys = file.unmatched_keys(_KEYS_SHOWN)
                shown, hint = ", ".join(map(repr, keys)), _hint(keys[0])
                if self._without is not None:
                    hint += f" A listed object without a caption is {self._without!r}."
                logger.warning(
                    "Captions of %s without a listed object: %d, such as %s. %s", file.uri, unmatched, shown, hint
                )

    def uris_of(self, source: str) -> list[str]:
        """Return the URIs of the files of a source, in their order."""
        of_source = (file.captions.uri for file in self.files if file.sources is None or source in file.sources)
        return [uri for uri in of_source if uri is not None]


def _hint(key: str) -> str:
    """Return why a key probably matches no listed object."""
    if re.match(r"[A-Za-z]:[\\/]|\\\\", key):
        return "A path of Windows with its drive matches nothing: write it relative to the captions file."
    if key.startswith(("http://", "https://")):
        return "An address must contain the bucket and the key of the object."
    if "://" in key:
        return "Is it in a source of this run?"
    if "." not in key.replace("\\", "/").rpartition("/")[2]:
        return "Is the extension of the file missing?"
    return "A key is a URI, an object key, or a path relative to the captions file, with the same capital letters."


def _later(before: CaptionRecord | None, record: CaptionRecord | None) -> CaptionRecord | None:
    """Return the record that two files give to an object, of which the second one is read later."""
    if before is None or record is None:
        return record or before
    return record if record.caption is not None else record.with_caption(before.caption)


def _versions(uri: str, objects: Objects) -> Mapping[str, Version] | None:
    """Return the versions of a captions file or of its part files; None if it does not exist."""
    try:
        return {part: objects.stat(part).version for part in part_files(uri, objects)}
    except (ObjectError, SourceError):
        return None


@contextmanager
def _left_out(uri: str, gone: dict[str, str]) -> Iterator[None]:
    """Note a file that cannot be read in `gone`."""
    try:
        yield
    except ConfigurationError as error:
        logger.warning("A captions file is left out: %s", error)
        gone[uri] = str(error)
