"""Captions files: what people say of their pictures, looked up for each listed object.

A file is JSON `{path: text}`, or JSONL, CSV or Parquet with the columns `key`, `caption`, `tags` and any others, which
become `meta`. A key is a URI, an object key, or a path relative to the captions file, tried in that order. Keys compare
in Unicode's NFC form: macOS writes file names in another than most people type.
"""

import csv
import hashlib
import io
import json
import logging
import sqlite3
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self

import pyarrow.parquet as pq

from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.objects import ObjectInfo, Objects, canonical_uri, file_path

logger = logging.getLogger(__name__)

FORMATS = (".json", ".jsonl", ".csv", ".parquet")
TAG_SEPARATOR = ";"  # within the one cell that a CSV file has for tags

# A whole JSON document must be parsed in memory; the other formats are read row by row.
MAX_JSON_BYTES = 512 * 1024**2
_LOOKED_UP = 250  # objects a query; SQLite takes a limited number of values, and each object has up to three keys


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """All that a captions file says of one object."""

    caption: str | None
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The one spelling of the record."""
        record = {"caption": self.caption, "tags": list(self.tags), "meta": dict(self.meta)}
        return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        record = json.loads(text)
        return cls(record["caption"], tuple(record["tags"]), record["meta"])

    @property
    def caption_hash(self) -> str:
        """Changes with anything in the record, not with its key."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]


class Captions:
    """A captions file in a temporary database, so that a hundred million records need no memory. Close it after use."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.duplicates = 0
        self._base = _place(uri).rpartition("/")[0] + "/"
        self._file = tempfile.NamedTemporaryFile(prefix="viewfinder-captions-", suffix=".sqlite")  # noqa: SIM115
        self._database = sqlite3.connect(self._file.name)
        # Losing it to a crash costs nothing.
        self._database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        self._database.execute("CREATE TABLE captions (key TEXT PRIMARY KEY, record TEXT, used INTEGER DEFAULT 0)")

    @classmethod
    def load(cls, uri: str, objects: Objects) -> Self:
        """Read the file at `uri`. Raises `ConfigurationError` naming the file, the line and what was expected there."""
        uri = canonical_uri(uri)
        if not uri.lower().endswith(FORMATS):
            raise ConfigurationError(f"--captions: {uri!r} has none of the endings {', '.join(FORMATS)}.")
        try:
            file = objects.open(uri)
        except ObjectError as error:
            raise ConfigurationError(f"--captions: {uri!r} cannot be read: {error.message}") from error
        captions = cls(uri)
        try:
            with file:
                captions._fill(_rows(uri, file))
        except BaseException:
            captions.close()
            raise
        if captions.duplicates:
            logger.warning("%d keys of %s stand there more than once; the last one counts", captions.duplicates, uri)
        return captions

    def find(self, info: ObjectInfo) -> CaptionRecord | None:
        """The record of one object, if there is one."""
        return self.find_many([info])[0]

    def find_many(self, infos: Sequence[ObjectInfo]) -> list[CaptionRecord | None]:
        """The record of each object, None where the file has none."""
        found: list[CaptionRecord | None] = []
        for start in range(0, len(infos), _LOOKED_UP):
            keys = [self._keys(info) for info in infos[start : start + _LOOKED_UP]]
            records = self._records({key for candidates in keys for key in candidates})
            used = [next((key for key in candidates if key in records), None) for candidates in keys]
            found += [None if key is None else CaptionRecord.from_json(records[key]) for key in used]
            self._database.executemany(
                "UPDATE captions SET used = 1 WHERE key = ?", [(key,) for key in used if key is not None]
            )
        return found

    def unmatched(self) -> int:
        """How many records no object has been found for."""
        return int(self._database.execute("SELECT count(*) FROM captions WHERE used = 0").fetchone()[0])

    def close(self) -> None:
        self._database.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fill(self, rows: Iterable[tuple[str, CaptionRecord]]) -> None:
        count = 0
        for key, record in rows:
            count += 1
            self._database.execute("INSERT OR REPLACE INTO captions VALUES (?, ?, 0)", (_nfc(key), record.to_json()))
        kept = int(self._database.execute("SELECT count(*) FROM captions").fetchone()[0])
        self.duplicates = count - kept
        self._database.commit()

    def _keys(self, info: ObjectInfo) -> list[str]:
        place = _place(info.uri)
        relative = [place.removeprefix(self._base)] if place.startswith(self._base) else []
        return [_nfc(key) for key in (info.uri, info.key, *relative)]

    def _records(self, keys: Iterable[str]) -> dict[str, str]:
        wanted = list(keys)
        marks = ",".join("?" * len(wanted))
        query = f"SELECT key, record FROM captions WHERE key IN ({marks})"
        return dict(self._database.execute(query, wanted).fetchall())


def _place(uri: str) -> str:
    """A URI as keys are written: local files by their plain path."""
    return file_path(uri).encode("utf-8", "backslashreplace").decode() if uri.startswith("file://") else uri


def _nfc(key: str) -> str:
    return unicodedata.normalize("NFC", key)


def _rows(uri: str, file: BinaryIO) -> Iterator[tuple[str, CaptionRecord]]:
    suffix = uri.lower().rpartition(".")[2]
    try:
        if suffix == "json":
            yield from _json_rows(uri, file)
        elif suffix == "jsonl":
            yield from _jsonl_rows(uri, file)
        elif suffix == "csv":
            yield from _csv_rows(uri, file)
        else:
            yield from _parquet_rows(uri, file)
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"--captions: {uri!r} is not UTF-8 text: {error.reason} at byte {error.start}."
        ) from error


def _json_rows(uri: str, file: BinaryIO) -> Iterator[tuple[str, CaptionRecord]]:
    content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ConfigurationError(
            f"--captions: {uri!r} is larger than {MAX_JSON_BYTES:,} bytes; write it as JSONL or Parquet."
        )
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"--captions: {uri!r} line {error.lineno} is not JSON: {error.msg}.") from error
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"--captions: {uri!r} holds a JSON {_kind(document)}; expected an object {{path: text}}."
        )
    for key, value in document.items():
        record = value if isinstance(value, dict) else {"caption": value}
        yield key, _record(record, f"{uri!r} at key {key!r}")


def _jsonl_rows(uri: str, file: BinaryIO) -> Iterator[tuple[str, CaptionRecord]]:
    for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), start=1):
        if not line.strip():
            continue
        place = f"{uri!r} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"--captions: {place} is not JSON: {error.msg}.") from error
        if not isinstance(row, dict):
            raise ConfigurationError(f"--captions: {place} holds a JSON {_kind(row)}; expected an object with `key`.")
        yield _keyed(row, place)


def _csv_rows(uri: str, file: BinaryIO) -> Iterator[tuple[str, CaptionRecord]]:
    reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    for row in reader:
        place = f"{uri!r} line {reader.line_num}"
        if None in row:
            raise ConfigurationError(f"--captions: {place} has more cells than the header.")
        filled: dict[str, Any] = {name: value for name, value in row.items() if value}
        if "tags" in filled:
            filled["tags"] = [tag.strip() for tag in filled["tags"].split(TAG_SEPARATOR) if tag.strip()]
        yield _keyed(filled, place)


def _parquet_rows(uri: str, file: BinaryIO) -> Iterator[tuple[str, CaptionRecord]]:
    try:
        table = pq.ParquetFile(file)
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield _keyed({name: value for name, value in row.items() if value is not None}, f"{uri!r} row {number}")
    except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        raise ConfigurationError(f"--captions: {uri!r} is not a readable Parquet file: {error}.") from error


def _keyed(row: dict[str, Any], place: str) -> tuple[str, CaptionRecord]:
    key = row.pop("key", None)
    if not isinstance(key, str) or not key:
        raise ConfigurationError(
            f"--captions: {place} has no `key` (a URI, an object key, or a path relative to the captions file); "
            f"it has {', '.join(sorted(row)) or 'nothing'}."
        )
    return key, _record(row, place)


def _record(row: dict[str, Any], place: str) -> CaptionRecord:
    caption, tags = row.pop("caption", None), row.pop("tags", None) or []
    if caption is not None and not isinstance(caption, str):
        raise ConfigurationError(f"--captions: {place}: `caption` is a JSON {_kind(caption)}; expected a text.")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigurationError(f"--captions: {place}: `tags` must be a list of texts, not {tags!r}.")
    return CaptionRecord((caption or "").strip() or None, tuple(tags), row)


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
