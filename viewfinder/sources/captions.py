"""Captions files: texts, tags and metadata of images, looked up for each listed object.

A key in a file (`viewfinder.sources.caption_tables`) is a URI, an object key, or a path relative to the file, tried in
that order; then an object key after a slash, and paths with backslashes. Keys are compared in Unicode's NFC form,
because macOS writes file names in NFD. An object that no key names exactly has the record whose key is its name after
`_readings`.
"""

import hashlib
import json
import logging
import posixpath
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.caption_tables import CaptionRow, captions_uri, check_encodable, read_captions
from viewfinder.sources.caption_types import FieldSurvey, FieldTypes
from viewfinder.sources.delimited import BLANK
from viewfinder.sources.objects import Objects
from viewfinder.sources.tables import part_files
from viewfinder.sources.uris import canonical_uri, composed, display_key, file_path, s3_parts

logger = logging.getLogger(__name__)

_OBJECTS_PER_QUERY = 150  # SQLite limits the values of a query, and each object has up to six keys
_BY_KEY = "SELECT key, key, caption, hash, details FROM captions WHERE key IN ({})"
_BY_READING = (
    "SELECT reading, key, caption, hash, details FROM readings JOIN captions USING (key) "
    "WHERE reading IN ({}) ORDER BY captions.rowid"
)
# Excel writes ="007" to keep a cell text.
_FORMULA = re.compile(r'="(.*)"', re.DOTALL)

# The payload of a point without a caption.
NO_CAPTION: Mapping[str, Any] = {"caption": None, "caption_hash": "", "tags": [], "meta": {}}


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """The caption of one object in the three columns that carry it from its file to the payload of its point.

    `details` holds tags and metadata as JSON, written once where the file is read (`of`) and parsed once where the
    point is written (`payload`). `caption_hash` changes with anything in the record, not with its key.
    """

    caption: str | None
    caption_hash: str
    details: str

    @classmethod
    def of(cls, caption: str | None, tags: Sequence[str] = (), meta: Mapping[str, Any] | None = None) -> Self:
        """Return the record of these values."""
        details = _canonical_json({"tags": list(tags), "meta": dict(meta or {})})
        whole = f'{{"caption":{_canonical_json(caption)},{details[1:]}'
        return cls(caption, hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:32], details)

    @property
    def is_empty(self) -> bool:
        """True for a record that says nothing about its object."""
        return self == _EMPTY

    def with_caption(self, caption: str | None) -> "CaptionRecord":
        """Return the record with this text, and with its own tags and metadata."""
        return CaptionRecord.of(caption, **json.loads(self.details))

    def payload(self) -> dict[str, Any]:
        """Return the fields of the point: `caption`, `caption_hash`, `tags` (list of strings) and `meta` (object)."""
        return {"caption": self.caption, "caption_hash": self.caption_hash, **json.loads(self.details)}


def _canonical_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


_EMPTY = CaptionRecord.of(None)


class Captions:
    """Records by key in a temporary database, so that a hundred million of them need no memory. Close it after use.

    `uri` is their file, None if they were given in memory. Keys may be relative to `base`, a URI that ends in `/`.
    The database is in `directory`, else among the temporary files of the system.
    """

    def __init__(self, uri: str | None, base: str, directory: Path | None = None) -> None:
        self.uri = uri
        self.duplicates = 0
        self.empty = 0
        self.missing = Counter[str]()
        self._has_readings = False
        self._base = _path_or_uri(base)
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            prefix=".viewfinder-captions-", suffix=".sqlite", dir=directory
        )
        self._database = sqlite3.connect(self._file.name)
        # No journal: the database is not needed after a crash.
        self._database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        self._database.execute(
            "CREATE TABLE captions "
            "(key TEXT, given TEXT, caption TEXT, hash TEXT, details TEXT, used INTEGER DEFAULT 0)"
        )
        self._database.execute("CREATE TABLE readings (reading TEXT, key TEXT)")

    @classmethod
    def load(cls, uri: str, objects: Objects, types: FieldTypes | None = None, directory: Path | None = None) -> Self:
        """Read the file at `uri`; its fields get the `types` of all files of the run, else those that it has alone.

        Raises `ConfigurationError` with the file, the line and what was expected.
        """
        types = types or FieldTypes({uri: survey_fields(uri, objects)})
        uri = captions_uri(uri)
        captions = cls(uri, uri.rstrip("/").rpartition("/")[0] + "/", directory)
        try:
            with _named_errors(uri):
                rows = read_captions(uri, objects, captions._count_repeated)
                captions._fill((row.key, _record(row, types)) for row in captions._count_missing(rows))
        except BaseException:
            captions.close()
            raise
        if captions.missing:
            count, word = captions.missing.total(), captions.missing.most_common(1)[0][0]
            logger.warning("Cells of %s that stand for no value: %d, most often %r", uri, count, word)
        if captions.empty:
            logger.warning("Rows of %s without caption, tags and fields: %d; they change nothing", uri, captions.empty)
        if captions.duplicates:
            logger.warning("Repeated keys in %s: %d; the last one of each is used", uri, captions.duplicates)
        return captions

    @classmethod
    def given(cls, texts: Mapping[str, str], base: str) -> Self:
        """Return captions given in memory: a key is a URI, an absolute path, or a path relative to the URI `base`.

        Raises `ConfigurationError` for a caption that is not a string.
        """
        for key, text in texts.items():
            if not isinstance(text, str):
                raise ConfigurationError(f"The description of {str(key)!r} is not a string: {text!r}.")
            check_encodable(text, f"The description of {str(key)!r}")
        captions = cls(None, base if base.endswith("/") else f"{base}/")
        captions._fill(
            (check_encodable(str(key), f"the key {str(key)!r}"), CaptionRecord.of(text.strip(BLANK) or None))
            for key, text in texts.items()
        )
        return captions

    @classmethod
    def of_rows(cls, rows: Iterable[CaptionRow], types: FieldTypes) -> Self:
        """Return captions given in memory as rows whose keys are canonical URIs; their fields get these types.

        Raises `ConfigurationError` for text that cannot be encoded.
        """
        captions = cls(None, "s3://")
        try:
            captions._fill((row.key, _record(row, types)) for row in rows)
        except BaseException:
            captions.close()
            raise
        return captions

    def find(self, info: ObjectInfo) -> CaptionRecord | None:
        """Return the record of one object, or None."""
        return self.find_many([info])[0]

    def find_many(self, infos: Sequence[ObjectInfo]) -> list[CaptionRecord | None]:
        """Return the record of each object, or None."""
        found: list[CaptionRecord | None] = []
        for start in range(0, len(infos), _OBJECTS_PER_QUERY):
            keys = [self._keys(info) for info in infos[start : start + _OBJECTS_PER_QUERY]]
            of_keys = self._records(_BY_KEY, {key for candidates in keys for key in candidates})
            places = [_first(of_keys, candidates) for candidates in keys]
            others = {
                key for candidates, place in zip(keys, places, strict=True) if place is None for key in candidates
            }
            of_readings = self._records(_BY_READING, others) if self._has_readings else {}
            places = [place or _first(of_readings, candidates) for candidates, place in zip(keys, places, strict=True)]
            found += [place and place[1] for place in places]
            self._database.executemany(
                "UPDATE captions SET used = 1 WHERE key = ?", [(place[0],) for place in places if place]
            )
        return found

    def matched(self) -> int:
        """Return the number of records that belong to a listed object."""
        return int(self._database.execute("SELECT count(*) FROM captions WHERE used = 1").fetchone()[0])

    def unmatched(self) -> int:
        """Return the number of records without a listed object."""
        return int(self._database.execute("SELECT count(*) FROM captions WHERE used = 0").fetchone()[0])

    def unmatched_keys(self, limit: int = -1) -> list[str]:
        """Return the keys of those records as they were given, at most `limit` of them if it is not negative."""
        query = "SELECT given FROM captions WHERE used = 0 ORDER BY rowid LIMIT ?"
        return [key for (key,) in self._database.execute(query, (limit,))]

    def close(self) -> None:
        self._database.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _count_repeated(self, count: int) -> None:
        self.duplicates += count

    def _count_missing(self, rows: Iterable[CaptionRow]) -> Iterator[CaptionRow]:
        for row in rows:
            self.missing.update(row.missing)
            yield row

    def _count_empty(self, record: CaptionRecord) -> bool:
        self.empty += record.is_empty
        return record.is_empty

    def _fill(self, rows: Iterable[tuple[str, CaptionRecord]]) -> None:
        add = "INSERT INTO captions (key, given, caption, hash, details) VALUES (?, ?, ?, ?, ?)"
        self._database.executemany(
            add,
            (
                (self._with_readings(key), key, each.caption, each.caption_hash, each.details)
                for key, each in rows
                if not self._count_empty(each)
            ),
        )
        self._has_readings = bool(self._database.execute("SELECT EXISTS (SELECT * FROM readings)").fetchone()[0])
        self._database.execute("CREATE INDEX by_reading ON readings (reading)")
        # An index created afterwards is sorted on disk once; one updated with each row is rewritten again and again.
        self._database.execute("CREATE INDEX by_key ON captions (key)")
        repeated = "SELECT rowid FROM (SELECT rowid, lead(key) OVER (ORDER BY key, rowid) = key AS again FROM captions)"
        deleted = self._database.execute(f"DELETE FROM captions WHERE rowid IN ({repeated} WHERE again)")
        self.duplicates += deleted.rowcount
        self._database.commit()

    def _with_readings(self, given: str) -> str:
        """Return a key in the form that `_keys` looks up; store its other readings, if it is of a file."""
        key = self._key(given)
        for reading in _readings(given) if self.uri is not None else ():
            with suppress(SourceError):
                self._database.execute("INSERT INTO readings VALUES (?, ?)", (self._key(reading), key))
        return key

    def _key(self, key: str) -> str:
        """Return a key in the form that `_keys` looks up."""
        if key.startswith(("file://", "~")):
            key = _path_or_uri(canonical_uri(key))
        elif "://" not in key:
            # A local path given in memory may be written in several ways; a key in a file is used unchanged.
            key = posixpath.normpath(key) if self.uri is None and "://" not in self._base else _relative(key)
        return composed(key)

    def _keys(self, info: ObjectInfo) -> list[str]:
        place = _path_or_uri(info.uri)
        keys = [place, info.key]
        if place.startswith(self._base):
            keys.append(place.removeprefix(self._base))
        elif place.partition("/")[0] == self._base.partition("/")[0] and _bucket(place) == _bucket(self._base):
            keys.append(posixpath.relpath(place, self._base))  # ../images/1.jpg
        if info.bucket:
            keys.append(f"/{info.key}")
        # Programs on Windows write paths with backslashes. A key that has them by itself comes first.
        keys += [key.replace("/", "\\") for key in keys[1:3] if "/" in key]
        return [composed(key) for key in keys]

    def _records(self, query: str, names: Iterable[str]) -> dict[str, tuple[str, CaptionRecord]]:
        """Return key and record by each of these names that the query finds."""
        wanted = list(names)
        found = self._database.execute(query.format(",".join("?" * len(wanted))), wanted)
        return {name: (key, CaptionRecord(*record)) for name, key, *record in found}


def _first(
    found: Mapping[str, tuple[str, CaptionRecord]], candidates: Iterable[str]
) -> tuple[str, CaptionRecord] | None:
    return next((found[each] for each in candidates if each in found), None)


def _readings(key: str) -> list[str]:
    """Return the names that a key may stand for, without itself.

    It may have invisible characters at its ends, be a text cell of Excel (`="a.jpg"`, `'a.jpg`), be percent-encoded, or
    be the web address of an object: `https://HOST/BUCKET/KEY`, `https://BUCKET.HOST/KEY`, `https://BUCKET/KEY`.
    """
    name = key.strip(BLANK)
    if formula := _FORMULA.fullmatch(name):
        name = formula[1].replace('""', '"').strip(BLANK)
    name = name.removeprefix("'")
    names = [name]
    with suppress(ValueError):  # bytes that are not UTF-8, an address that is none
        if name.startswith(("https://", "http://")):
            names += _object_uris(name)
        elif "%" in name:
            names.append(unquote(name, errors="strict"))
    return [each for each in dict.fromkeys(names) if each != key]


def _object_uris(address: str) -> list[str]:
    parts = urlsplit(address, allow_fragments=False)  # a key may contain "#"
    host, path = parts.hostname or "", unquote(parts.path, errors="strict")
    buckets = dict.fromkeys((host.partition(".s3")[0], host.partition(".")[0]))
    return [f"s3:/{path}", *(f"s3://{bucket}{path}" for bucket in buckets)]


def _relative(key: str) -> str:
    return key.removeprefix("./").removeprefix(".\\")


def _record(row: CaptionRow, types: FieldTypes) -> CaptionRecord:
    record = CaptionRecord.of(row.caption, row.tags, types.convert(row.meta))
    check_encodable((record.caption or "") + record.details, row.place)
    return record


def check_captions(uri: str, objects: Objects) -> None:
    """Raise `ConfigurationError` if the file does not exist; does not read it."""
    uri = captions_uri(uri)
    with _named_errors(uri):
        part_files(uri, objects)


def survey_fields(uri: str, objects: Objects) -> FieldSurvey:
    """Read the fields of the file at `uri`, but no captions. Raises `ConfigurationError` as `Captions.load` does."""
    uri, survey = captions_uri(uri), FieldSurvey()
    with _named_errors(uri):
        for row in read_captions(uri, objects, with_fields=True):
            survey.add(row.meta)
    return survey


@contextmanager
def _named_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except ObjectError as error:
        raise ConfigurationError(f"--captions: {uri!r} cannot be read: {error.message}") from error
    except (ConfigurationError, SourceError) as error:
        raise ConfigurationError(f"--captions: {error}") from error


def _path_or_uri(uri: str) -> str:
    """Return a URI as keys are written: a local file as its path."""
    return display_key(file_path(uri)) if uri.startswith("file://") else uri


def _bucket(place: str) -> str:
    return s3_parts(place)[0] if place.startswith("s3://") else ""
