"""Sources → a Parquet manifest of what is to be indexed, each object once, however many keys there are.

A source is `s3://bucket[/prefix]`, a local directory or file, or a `.csv` or `.parquet` file of URIs. Rows stream into
part files; what must be remembered (the URIs of manifest files) lies in a temporary database, never in memory.
"""

import csv
import io
import itertools
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from viewfinder.captions import Captions
from viewfinder.errors import ObjectError, SourceError
from viewfinder.objects import ObjectInfo, Objects, canonical_uri, display_key, file_path, s3_parts

# Companions of pictures. Of everything else the content decides, not the name.
NOT_IMAGES = (".txt", ".json", ".jsonl", ".csv", ".parquet")
MANIFESTS = (".csv", ".parquet")
URI_COLUMNS = ("uri", "url", "path", "key")

PART_ROWS = 50_000
GROUP_ROWS = 10_000
_BATCH = 500

SCHEMA: pa.Schema = pa.schema(
    {
        "uri": pa.string(),
        "bucket": pa.string(),
        "key": pa.string(),
        "size": pa.int64(),
        "etag": pa.string(),
        "last_modified": pa.string(),
        "sources": pa.list_(pa.string()),
        "caption": pa.string(),
    }
)


@dataclass(frozen=True)
class Manifest:
    """A complete listing, unless `limit` ended it: part files, and what is needed to list the same again."""

    paths: tuple[Path, ...]
    listed: int
    bytes: int
    sources: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Patterns:
    """Which objects of a source are meant.

    A pattern without `/` matches the last part of a key, wherever it is; one with `/` matches the whole key relative to
    the source. `*` and `?` stay within a part, `**` crosses parts, `[ab]` is a choice.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def accept(self, relative: str) -> bool:
        chosen = not self.include or any(_matches(pattern, relative) for pattern in self.include)
        return chosen and not any(_matches(pattern, relative) for pattern in self.exclude)


@dataclass(frozen=True)
class Source:
    """One source by its canonical URI, with the patterns that apply to it."""

    uri: str
    patterns: Patterns

    @property
    def is_manifest(self) -> bool:
        return self.uri.lower().endswith(MANIFESTS)

    def holds(self, uri: str) -> bool:
        """Whether this source, a prefix, would list that object."""
        root = self.uri.rstrip("/")
        if uri == self.uri:
            return True
        if not uri.startswith(root + "/"):
            return False
        relative = uri.removeprefix(root + "/")
        return not relative.lower().endswith(NOT_IMAGES) and self.patterns.accept(relative)


def write_manifest(
    sources: Sequence[str],
    directory: Path,
    objects: Objects,
    *,
    captions: Captions | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """List `sources` into part files in `directory`.

    An object that several sources hold has one row that names them all. With `limit` the listing is in order of keys
    and ends early. Raises `SourceError` or `ViewfinderError` where a listing cannot be completed: there are no partial
    ones.
    """
    patterns = Patterns(tuple(include), tuple(exclude))
    known = [Source(uri, patterns) for uri in dict.fromkeys(canonical_uri(source) for source in sources)]
    writer = _Writer(directory, captions, progress)
    with _Named() as named:
        for source in known:
            if source.is_manifest:
                named.read(source, objects)
        rows = itertools.chain(_listed(known, named, objects, ordered=limit is not None), named.left(known))
        for batch in _batches(itertools.islice(rows, limit)):
            writer.add(batch)
    paths = writer.close()
    if not writer.listed:
        raise SourceError(
            f"Nothing to index in {', '.join(map(repr, sources))}: there is no object that could be an image"
            + (" and fits --include and --exclude." if include or exclude else ".")
        )
    options: dict[str, Any] = {"include": list(include), "exclude": list(exclude)}
    options |= {"captions": captions.uri} if captions else {}
    options |= {"limit": limit} if limit is not None else {}
    return Manifest(paths, writer.listed, writer.bytes, tuple({"source": source.uri, **options} for source in known))


Row = tuple[ObjectInfo, list[str]]


def _listed(known: Sequence[Source], named: "_Named", objects: Objects, *, ordered: bool) -> Iterator[Row]:
    """Objects under the prefixes, each from the first source that holds it."""
    prefixes = [source for source in known if not source.is_manifest]
    for source in prefixes:
        infos = (info for info in objects.list(source.uri, ordered=ordered) if source.holds(info.uri))
        for batch in _batches(infos):
            mentions = named.take([info.uri for info in batch])
            for info in batch:
                holders = [each.uri for each in prefixes if each.holds(info.uri)]
                if holders[0] == source.uri:
                    yield info, sorted({*holders, *mentions.get(info.uri, ())})


class _Named:
    """The URIs that manifest files name, with the files that name each."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="viewfinder-named-", suffix=".sqlite")  # noqa: SIM115
        self._database = sqlite3.connect(self._file.name)
        self._database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        self._database.execute(
            "CREATE TABLE named (uri TEXT PRIMARY KEY, size INTEGER, etag TEXT, sources TEXT, taken INTEGER DEFAULT 0)"
        )
        self._empty = True

    def __enter__(self) -> "_Named":
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()
        self._file.close()

    def read(self, source: Source, objects: Objects) -> None:
        """Note the URIs of one manifest file. Raises `SourceError` naming the file and the row that is wrong."""
        try:
            file = objects.open(source.uri)
        except ObjectError as error:
            raise SourceError(f"The manifest {source.uri!r} cannot be read: {error.message}") from error
        with file:
            for number, row in enumerate(_manifest_rows(source.uri, file), start=1):
                uri = _absolute(source.uri, row, number)
                if source.patterns.accept(_key(uri)[1]):
                    self._database.execute(
                        "INSERT INTO named VALUES (?, ?, ?, ?, 0) ON CONFLICT (uri) DO UPDATE SET sources = "
                        "CASE WHEN instr(sources, excluded.sources) THEN sources ELSE sources || excluded.sources END",
                        (uri, _size(row), str(row.get("etag") or "").strip('"'), source.uri + "\n"),
                    )
        self._empty = False

    def take(self, uris: Sequence[str]) -> dict[str, list[str]]:
        """The manifest files that name these URIs, which a listing has found too."""
        if self._empty:
            return {}
        marks = ",".join("?" * len(uris))
        self._database.execute(f"UPDATE named SET taken = 1 WHERE uri IN ({marks})", uris)
        found = self._database.execute(f"SELECT uri, sources FROM named WHERE uri IN ({marks})", uris)
        return {uri: sources.split() for uri, sources in found}

    def left(self, known: Sequence[Source]) -> Iterator[Row]:
        """The URIs that no listing has found; whether they exist the fetch will tell."""
        if self._empty:
            return
        for uri, size, etag, sources in self._database.execute(
            "SELECT uri, size, etag, sources FROM named WHERE taken = 0 ORDER BY uri"
        ):
            bucket, key = _key(uri)
            yield ObjectInfo(uri, bucket, key, size, etag, ""), sorted(sources.splitlines())


class _Writer:
    """Rows into part files, each with the caption that belongs to it."""

    def __init__(self, directory: Path, captions: Captions | None, progress: Callable[[int], None] | None) -> None:
        self.listed = 0
        self.bytes = 0
        self._directory = directory
        self._captions = captions
        self._progress = progress
        self._paths: list[Path] = []
        self._part: pq.ParquetWriter | None = None
        self._pending: list[dict[str, Any]] = []

    def add(self, rows: Sequence[Row]) -> None:
        infos = [info for info, _ in rows]
        records = self._captions.find_many(infos) if self._captions else [None] * len(infos)
        for (info, sources), record in zip(rows, records, strict=True):
            self._pending.append(
                {
                    "uri": info.uri,
                    "bucket": info.bucket,
                    "key": info.key,
                    "size": info.size,
                    "etag": info.etag,
                    "last_modified": info.last_modified,
                    "sources": sources,
                    "caption": record.to_json() if record else None,
                }
            )
            self.bytes += max(0, info.size)
        self.listed += len(rows)
        if len(self._pending) >= GROUP_ROWS:
            self._flush()
        if self._progress is not None:
            self._progress(self.listed)

    def close(self) -> tuple[Path, ...]:
        self._flush()
        if self._part is not None:
            self._part.close()
        return tuple(self._paths)

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._part is None:
            self._paths.append(self._directory / f"part-{len(self._paths):06}.parquet")
            self._part = pq.ParquetWriter(self._paths[-1], SCHEMA)
            self._rows = 0
        self._part.write_table(pa.Table.from_pylist(self._pending, schema=SCHEMA))
        self._rows += len(self._pending)
        self._pending = []
        if self._rows >= PART_ROWS:
            self._part.close()
            self._part = None


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _matches(pattern: str, relative: str) -> bool:
    subject = relative if "/" in pattern else relative.rpartition("/")[2]
    return re.fullmatch(_expression(pattern), subject, re.DOTALL) is not None


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        words.get(part)
        or (f"[{part[1:-1].replace('!', '^', 1)}]" if part.startswith("[") and part[-1:] == "]" else re.escape(part))
        for part in parts
    )


def _manifest_rows(uri: str, file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    """The rows of a manifest file, the column of URIs under the name `uri`."""
    try:
        if uri.lower().endswith(".parquet"):
            table = pq.ParquetFile(file)
            column = _uri_column(uri, table.schema_arrow.names)
            for batch in table.iter_batches():
                yield from ({**row, "uri": row[column]} for row in batch.to_pylist())
        else:
            reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
            column = _uri_column(uri, list(reader.fieldnames or ()))
            yield from ({**row, "uri": row[column]} for row in reader)
    except UnicodeDecodeError as error:
        raise SourceError(f"The manifest {uri!r} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except (OSError, pa.ArrowInvalid, csv.Error) as error:
        raise SourceError(f"The manifest {uri!r} cannot be read as a table: {error}.") from error


def _uri_column(uri: str, names: Sequence[str]) -> str:
    for name in URI_COLUMNS:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise SourceError(f"The manifest {uri!r} has no column `uri`; its columns are {', '.join(names) or 'none'}.")


def _absolute(manifest: str, row: Mapping[str, Any], number: int) -> str:
    """A manifest's URI in canonical form; a relative one lies beside the manifest."""
    text = row["uri"]
    if not isinstance(text, str) or not text.strip():
        raise SourceError(f"The manifest {manifest!r} has no URI in row {number}.")
    if "://" in text:
        return canonical_uri(text)
    if manifest.startswith("file://"):
        return canonical_uri(str(Path(file_path(manifest)).parent / text))
    if text.startswith("/"):
        raise SourceError(
            f"The manifest {manifest!r} names the local path {text!r} in row {number}; workers cannot read it."
        )
    return canonical_uri(f"{manifest.rpartition('/')[0]}/{text}")


def _key(uri: str) -> tuple[str, str]:
    return s3_parts(uri) if uri.startswith("s3://") else ("", display_key(file_path(uri)))


def _size(row: Mapping[str, Any]) -> int:
    try:
        return int(row.get("size") or -1)
    except (TypeError, ValueError):
        return -1
