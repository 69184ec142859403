"""Captions files: texts, tags and metadata of images, looked up for each listed object.

A file is JSON `{path: text}`, or a table (`viewfinder.sources.tables`) with the columns `key`, `caption`, `tags` and
any others, which become `meta`. A key is a URI, an object key, or a path relative to the captions file, tried in that
order. Keys are compared in Unicode's NFC form, because macOS writes file names in NFD.
"""

import hashlib
import json
import logging
import posixpath
import sqlite3
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.delimited import text_lines
from viewfinder.sources.objects import Objects
from viewfinder.sources.tables import (
    FORMATS,
    json_kind,
    named_values,
    open_plain,
    parse_json,
    part_files,
    read_tables,
    table_format,
)
from viewfinder.sources.uris import canonical_uri, display_key, file_path, s3_parts

logger = logging.getLogger(__name__)

COLUMNS = ("key", "caption", "tags")
TAG_SEPARATOR = ";"  # between the tags in a cell of text

# A JSON document is parsed in memory; the other formats are read row by row.
MAX_JSON_BYTES = 512 * 1024**2
_OBJECTS_PER_QUERY = 250  # SQLite limits the values of a query, and each object has up to three keys


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """One object's entry in a captions file, in the columns that carry it to the payload of its point.

    `details` holds tags and metadata as JSON, written once where the file is read and parsed once where the payload is
    made (`parse_details`). `caption_hash` changes with anything in the record, not with its key.
    """

    caption: str | None
    caption_hash: str
    details: str

    @classmethod
    def of(cls, caption: str | None, tags: Sequence[str] = (), meta: Mapping[str, Any] | None = None) -> Self:
        """Return the record of these values."""
        details = _json({"tags": list(tags), "meta": dict(meta or {})})
        whole = f'{{"caption":{_json(caption)},{details[1:]}'
        return cls(caption, hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:32], details)


def parse_details(details: str) -> dict[str, Any]:
    """Return the fields `tags` (list of strings) and `meta` (object) of a payload."""
    parsed: dict[str, Any] = json.loads(details)
    return parsed


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


class Captions:
    """Records by key in a temporary database, so that a hundred million of them need no memory. Close it after use.

    `uri` is their file, None if they were given in memory. Keys may be relative to `base`, a URI that ends in `/`.
    """

    def __init__(self, uri: str | None, base: str) -> None:
        self.uri = uri
        self.duplicates = 0
        self._base = _path_or_uri(base)
        self._file = tempfile.NamedTemporaryFile(prefix="viewfinder-captions-", suffix=".sqlite")  # noqa: SIM115
        self._database = sqlite3.connect(self._file.name)
        # No journal: the database is not needed after a crash.
        self._database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        self._database.execute(
            "CREATE TABLE captions "
            "(key TEXT, given TEXT, caption TEXT, hash TEXT, details TEXT, used INTEGER DEFAULT 0)"
        )

    @classmethod
    def load(cls, uri: str, objects: Objects) -> Self:
        """Read the file at `uri`. Raises `ConfigurationError` with the file, the line and what was expected."""
        uri = _captions_uri(uri)
        captions = cls(uri, uri.rstrip("/").rpartition("/")[0] + "/")
        try:
            captions._fill(_rows(uri, objects, captions._count_repeated))
        except ObjectError as error:
            captions.close()
            raise ConfigurationError(f"--captions: {uri!r} cannot be read: {error.message}") from error
        except ConfigurationError as error:
            captions.close()
            raise ConfigurationError(f"--captions: {error}") from error
        except BaseException:
            captions.close()
            raise
        if captions.duplicates:
            logger.warning("%d keys of %s occur more than once; the last one is used", captions.duplicates, uri)
        return captions

    @classmethod
    def given(cls, texts: Mapping[str, str], base: str) -> Self:
        """Return captions given in memory: a key is a URI, an absolute path, or a path relative to the URI `base`.

        Raises `ConfigurationError` for a caption that is not a string.
        """
        for key, text in texts.items():
            if not isinstance(text, str):
                raise ConfigurationError(f"The description of {str(key)!r} is not a string: {text!r}.")
        captions = cls(None, base if base.endswith("/") else f"{base}/")
        captions._fill(
            (_encodable(str(key), f"the description {str(key)!r}"), CaptionRecord.of(text.strip() or None))
            for key, text in texts.items()
        )
        return captions

    def find(self, info: ObjectInfo) -> CaptionRecord | None:
        """Return the record of one object, or None."""
        return self.find_many([info])[0]

    def find_many(self, infos: Sequence[ObjectInfo]) -> list[CaptionRecord | None]:
        """Return the record of each object, or None."""
        found: list[CaptionRecord | None] = []
        for start in range(0, len(infos), _OBJECTS_PER_QUERY):
            keys = [self._keys(info) for info in infos[start : start + _OBJECTS_PER_QUERY]]
            records = self._records({key for candidates in keys for key in candidates})
            used = [next((key for key in candidates if key in records), None) for candidates in keys]
            found += [None if key is None else records[key] for key in used]
            self._database.executemany(
                "UPDATE captions SET used = 1 WHERE key = ?", [(key,) for key in used if key is not None]
            )
        return found

    def matched(self) -> int:
        """Return the number of records that belong to a listed object."""
        return int(self._database.execute("SELECT count(*) FROM captions WHERE used = 1").fetchone()[0])

    def unmatched(self) -> int:
        """Return the number of records without a listed object."""
        return int(self._database.execute("SELECT count(*) FROM captions WHERE used = 0").fetchone()[0])

    def unmatched_keys(self) -> list[str]:
        """Return the keys of those records as they were given."""
        return [key for (key,) in self._database.execute("SELECT given FROM captions WHERE used = 0 ORDER BY rowid")]

    def close(self) -> None:
        self._database.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _count_repeated(self, count: int) -> None:
        self.duplicates += count

    def _fill(self, rows: Iterable[tuple[str, CaptionRecord]]) -> None:
        add = "INSERT INTO captions (key, given, caption, hash, details) VALUES (?, ?, ?, ?, ?)"
        self._database.executemany(
            add, ((self._key(key), key, each.caption, each.caption_hash, each.details) for key, each in rows)
        )
        # An index created afterwards is sorted on disk once; one updated with each row is rewritten again and again.
        self._database.execute("CREATE INDEX by_key ON captions (key)")
        repeated = "SELECT rowid FROM (SELECT rowid, lead(key) OVER (ORDER BY key, rowid) = key AS again FROM captions)"
        deleted = self._database.execute(f"DELETE FROM captions WHERE rowid IN ({repeated} WHERE again)")
        self.duplicates += deleted.rowcount
        self._database.commit()

    def _key(self, key: str) -> str:
        """Return a key in the form that `_keys` looks up."""
        if key.startswith(("file://", "~")):
            key = _path_or_uri(canonical_uri(key))
        elif "://" not in key:
            # A local path given in memory may be written in several ways; a key in a file is used unchanged.
            key = posixpath.normpath(key) if self.uri is None and "://" not in self._base else key.removeprefix("./")
        return _nfc(key)

    def _keys(self, info: ObjectInfo) -> list[str]:
        place = _path_or_uri(info.uri)
        keys = [place, info.key]
        if place.startswith(self._base):
            keys.append(place.removeprefix(self._base))
        elif place.partition("/")[0] == self._base.partition("/")[0] and _bucket(place) == _bucket(self._base):
            keys.append(posixpath.relpath(place, self._base))  # ../images/1.jpg
        return [_nfc(key) for key in keys]

    def _records(self, keys: Iterable[str]) -> dict[str, CaptionRecord]:
        wanted = list(keys)
        marks = ",".join("?" * len(wanted))
        query = f"SELECT key, caption, hash, details FROM captions WHERE key IN ({marks})"
        return {key: CaptionRecord(*record) for key, *record in self._database.execute(query, wanted)}


def check_captions(uri: str, objects: Objects) -> None:
    """Raise `ConfigurationError` if the file does not exist; does not read it."""
    uri = _captions_uri(uri)
    try:
        part_files(uri, objects)
    except ObjectError as error:
        raise ConfigurationError(f"--captions: {uri!r} cannot be read: {error.message}") from error
    except SourceError as error:
        raise ConfigurationError(f"--captions: {error}") from error


def _captions_uri(uri: str) -> str:
    uri = canonical_uri(uri)
    if table_format(uri) is None and not _is_json(uri):
        raise ConfigurationError(
            f"--captions: {uri!r} must end in one of .json, {', '.join(FORMATS)}, each also with .gz."
        )
    return uri


def _is_json(uri: str) -> bool:
    return uri.lower().rstrip("/").removesuffix(".gz").endswith(".json")


def _path_or_uri(uri: str) -> str:
    """Return a URI as keys are written: a local file as its path."""
    return display_key(file_path(uri)) if uri.startswith("file://") else uri


def _bucket(place: str) -> str:
    return s3_parts(place)[0] if place.startswith("s3://") else ""


def _nfc(key: str) -> str:
    return unicodedata.normalize("NFC", key)


class _Columns:
    """The columns seen in a file, which must have `key` and `caption`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._seen: set[str] = set()
        self._rows = 0

    def add(self, names: Iterable[str]) -> None:
        """Note the columns of one row."""
        self._rows += 1
        self._seen.update(names)

    def check_header(self, names: Sequence[str]) -> None:
        """Raise `ConfigurationError` if the columns of a header are not sufficient."""
        if missing := [name for name in ("key", "caption") if name not in names]:
            raise ConfigurationError(_no_column(self._uri, missing[0], names))

    def check_rows(self) -> None:
        """Raise `ConfigurationError` if no row had a caption; a file without rows passes."""
        if self._rows and "caption" not in self._seen:
            raise ConfigurationError(_no_column(self._uri, "caption", sorted(self._seen)))


def _no_column(uri: str, name: str, names: Iterable[str]) -> str:
    return (
        f"{uri!r} has no column `{name}`; its columns are {', '.join(map(repr, names)) or 'none'}. "
        "A captions file has the columns `key` (a URI, an object key, or a path relative to the file) and `caption`, "
        "and optionally `tags` and others."
    )


def _rows(uri: str, objects: Objects, count_repeated: Callable[[int], None]) -> Iterator[tuple[str, CaptionRecord]]:
    """Yield keys and records. Raises `ObjectError`, `ConfigurationError`."""
    if _is_json(uri) and part_files(uri, objects) == [uri.rstrip("/")]:
        with open_plain(uri.rstrip("/"), objects) as file:
            yield from _json_rows(uri, file, count_repeated)
        return
    columns = _Columns(uri)
    for table in read_tables(uri, objects, COLUMNS):
        if table.columns is not None:
            columns.check_header(table.columns)
        for number, row in table.rows:
            columns.add(table.columns or row)
            if table.columns is not None and isinstance(row.get("tags"), str):
                row["tags"] = [tag.strip() for tag in row["tags"].split(TAG_SEPARATOR) if tag.strip()]
            yield _entry(row, f"{table.uri!r} {table.unit} {number}")
    columns.check_rows()


def _entry(row: dict[str, Any], place: str) -> tuple[str, CaptionRecord]:
    key = row.pop("key", None)
    if not isinstance(key, str) or not key:
        raise ConfigurationError(
            f"{place} has no `key` (a URI, an object key, or a path relative to the captions file); "
            f"it has {', '.join(sorted(row)) or 'nothing'}."
        )
    return _encodable(key, place), _record(row, place)


def _json_rows(uri: str, file: BinaryIO, count_repeated: Callable[[int], None]) -> Iterator[tuple[str, CaptionRecord]]:
    """Yield the entries of one JSON document: `{path: text}`, `{path: {...}}`, or a list of rows."""
    lines, size = [], 0
    for line in text_lines(uri, file):
        size += len(line)
        if size > MAX_JSON_BYTES:
            raise ConfigurationError(f"{uri!r} is larger than {MAX_JSON_BYTES:,} bytes; write it as JSONL or Parquet.")
        lines.append(line)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        count_repeated(len(pairs) - len(dict(pairs)))
        return dict(pairs)

    document = parse_json("".join(lines), repr(uri), unique)
    columns = _Columns(uri)
    if isinstance(document, list):
        for number, row in enumerate(document, start=1):
            place = f"{uri!r} entry {number}"
            if not isinstance(row, dict):
                raise ConfigurationError(f"{place} is a JSON {json_kind(row)}; expected an object.")
            named = named_values(row, COLUMNS, place)
            columns.add(named)
            yield _entry(named, place)
    elif isinstance(document, dict):
        for key, value in document.items():
            place = f"{uri!r} at key {key!r}"
            row = named_values(value, COLUMNS, place) if isinstance(value, dict) else {"caption": value}
            columns.add(row)
            yield _encodable(key, place), _record(row, place)
    else:
        raise ConfigurationError(f"{uri!r} contains a JSON {json_kind(document)}; expected an object {{path: text}}.")
    columns.check_rows()


def _record(row: dict[str, Any], place: str) -> CaptionRecord:
    caption, tags = row.pop("caption", None), row.pop("tags", None) or []
    if caption is not None and not isinstance(caption, str):
        raise ConfigurationError(f"{place}: `caption` is a JSON {json_kind(caption)}; expected a string.")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigurationError(f"{place}: `tags` must be a list of strings, not {tags!r}.")
    row.pop("key", None)  # of an entry `{path: {"key": ...}}`
    # A null field is treated as absent.
    meta = {name: value for name, value in row.items() if value is not None}
    record = CaptionRecord.of((caption or "").strip() or None, tags, meta)
    _encodable((record.caption or "") + record.details, place)
    return record


def _encodable(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{place} contains a lone surrogate ({text[error.start]!r}).") from error
    return text
