"""Sources → a Parquet manifest of what is to be indexed, each object once, however many keys there are.

A source is `s3://bucket[/prefix]`, a local directory or file, or a `.csv` or `.parquet` file of URIs. Rows stream into
part files; what must be remembered (the URIs of manifest files) lies in a temporary database, never in memory.
"""

import contextlib
import functools
import itertools
import posixpath
import re
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.sources.captions import Captions
from viewfinder.sources.objects import ObjectInfo, Objects, canonical_uri, display_key, file_path, s3_parts
from viewfinder.sources.tables import csv_columns, csv_rows, parquet_columns, parquet_rows

# Companions of pictures. Of everything else the content decides, not the name.
NOT_IMAGES = (".txt", ".json", ".jsonl", ".csv", ".parquet")
MANIFESTS = (".csv", ".parquet")
URI_COLUMNS = ("uri", "url", "path", "key")

MOST_MANIFESTS = 62  # each is a bit of a 64-bit number

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
        # A `CaptionRecord`; the hash is null where the captions say nothing of the object.
        "caption": pa.string(),
        "caption_hash": pa.string(),
        "caption_details": pa.string(),
    }
)


@dataclass(frozen=True)
class Manifest:
    """A complete listing, unless `limit` ended it: part files, and what is needed to list the same again.

    `with_captions` is True where captions were looked up for the objects, whether or not any was found.
    """

    paths: tuple[Path, ...]
    listed: int
    bytes: int
    sources: tuple[Mapping[str, Any], ...]
    with_captions: bool = False


@dataclass(frozen=True)
class Patterns:
    """Which objects of a source are meant: those that fit some `include`, where one is given, and no `exclude`.

    A pattern without `/` is matched against the last part of a key, wherever that lies; one with `/` against the whole
    key relative to the source (in a manifest file: the whole key). `*` and `?` stay within a part, `**` crosses parts,
    `[ab]` and `[!ab]` choose one character. A leading `/` ties a pattern to the source, a trailing one means all that
    lies below. Upper and lower case differ. Raises `ConfigurationError` for an empty or broken pattern.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.include + self.exclude:
            try:
                _expression(pattern)
            except re.error as error:
                raise ConfigurationError(f"The pattern {pattern!r} is broken: {error}.") from error
            if not pattern:
                raise ConfigurationError("--include and --exclude take a pattern such as '*.jpg', not an empty text.")

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
        root = self.uri if self.uri.endswith("/") else f"{self.uri}/"
        if uri == self.uri:
            return True
        if not uri.startswith(root):
            return False
        relative = uri.removeprefix(root)
        if uri.startswith("file://"):
            relative = _key(f"file:///{relative}")[1].removeprefix("/")  # patterns are typed without escapes
            # A listing of this directory passes over hidden ones, which another source may name.
            if any(part.startswith(".") for part in relative.split("/")):
                return False
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
    and ends early. An `etag` of a manifest file's row may be empty: reading the object tells it.
    Raises `SourceError`, `ConfigurationError` or `ViewfinderError` where a listing cannot be completed: there are no
    partial ones.
    """
    patterns = Patterns(tuple(include), tuple(exclude))
    known = [Source(uri, patterns) for uri in dict.fromkeys(canonical_uri(source) for source in sources)]
    files = [source for source in known if source.is_manifest]
    with _Named(files) as named, _Writer(directory, captions, progress) as writer:
        for source in files:
            named.read(source, objects)
        with contextlib.closing(_listed(known, named, objects, ordered=limit is not None)) as listed:
            for batch in _batches(itertools.islice(itertools.chain(listed, named.left()), limit)):
                writer.add(batch)
    if not writer.listed:
        raise SourceError(
            f"Nothing to index in {', '.join(map(repr, sources))}: there is no object that could be an image"
            + (" and fits --include and --exclude." if include or exclude else ".")
        )
    options: dict[str, Any] = {"include": list(include), "exclude": list(exclude)}
    options |= {"captions": captions.uri} if captions and captions.uri else {}
    options |= {"limit": limit} if limit is not None else {}
    return writer.manifest([{"source": source.uri, **options} for source in known])


def manifest_of(infos: Iterable[ObjectInfo], directory: Path, *, captions: Captions | None = None) -> Manifest:
    """Write single objects into part files in `directory`; each is a source by itself."""
    sources = []
    with _Writer(directory, captions, None) as writer:
        for batch in _batches(infos):
            writer.add([(info, [info.uri]) for info in batch])
            sources += [{"source": info.uri, "include": [], "exclude": []} for info in batch]
    return writer.manifest(sources)


Row = tuple[ObjectInfo, list[str]]


def _listed(known: Sequence[Source], named: "_Named", objects: Objects, *, ordered: bool) -> Generator[Row, None, None]:
    """Objects under the prefixes, each from the first source that holds it."""
    prefixes = [source for source in known if not source.is_manifest]
    for source in prefixes:
        infos = (info for info in objects.list(source.uri, ordered=ordered) if source.holds(info.uri))
        for batch in _batches(infos):
            mentions = named.take([info.uri for info in batch])
            for info in batch:
                holders = [each.uri for each in prefixes if each is source or each.holds(info.uri)]
                if holders[0] == source.uri:
                    yield info, sorted([*holders, *mentions.get(info.uri, ())])


class _Named:
    """The URIs that manifest files name, with the files that name each as the bits of a number."""

    def __init__(self, files: Sequence[Source]) -> None:
        if len(files) > MOST_MANIFESTS:
            raise ConfigurationError(
                f"{len(files)} manifest files are too many; join them to {MOST_MANIFESTS} or less."
            )
        self._sources = [source.uri for source in files]
        self._file = tempfile.NamedTemporaryFile(prefix="viewfinder-named-", suffix=".sqlite")  # noqa: SIM115
        self._database = sqlite3.connect(self._file.name)
        self._database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        self._database.execute(
            "CREATE TABLE named (uri TEXT PRIMARY KEY, size INTEGER, etag TEXT, files INTEGER, taken INTEGER DEFAULT 0)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()
        self._file.close()

    def read(self, source: Source, objects: Objects) -> None:
        """Note the URIs of one manifest file. Raises `ConfigurationError` naming the file and the row that is wrong."""
        try:
            file = objects.open(source.uri)
        except ObjectError as error:
            raise SourceError(f"The manifest {source.uri!r} cannot be read: {error.message}") from error
        bit = 1 << self._sources.index(source.uri)
        with file:
            rows = (
                (uri, _size(row), str(row.get("etag") or "").strip('"'), bit)
                for uri, row in _manifest_rows(source.uri, file)
                if source.patterns.accept(_key(uri)[1].removeprefix("/"))
            )
            self._database.executemany(
                "INSERT INTO named (uri, size, etag, files) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (uri) DO UPDATE SET files = files | excluded.files",
                rows,
            )

    def take(self, uris: Sequence[str]) -> dict[str, list[str]]:
        """The manifest files that name these URIs, which a listing has found too."""
        if not self._sources:
            return {}
        marks = ",".join("?" * len(uris))
        self._database.execute(f"UPDATE named SET taken = 1 WHERE uri IN ({marks})", uris)
        found = self._database.execute(f"SELECT uri, files FROM named WHERE uri IN ({marks})", uris)
        return {uri: self._of(files) for uri, files in found}

    def left(self) -> Iterator[Row]:
        """The URIs that no listing has found; whether they exist the fetch will tell."""
        for uri, size, etag, files in self._database.execute(
            "SELECT uri, size, etag, files FROM named WHERE taken = 0 ORDER BY uri"
        ):
            bucket, key = _key(uri)
            yield ObjectInfo(uri, bucket, key, size, etag, ""), sorted(self._of(files))

    def _of(self, files: int) -> list[str]:
        return [uri for number, uri in enumerate(self._sources) if files >> number & 1]


class _Writer:
    """Rows into part files, each with the caption that belongs to it."""

    def __init__(self, directory: Path, captions: Captions | None, progress: Callable[[int], None] | None) -> None:
        self.listed = 0
        self.bytes = 0
        self._directory = directory
        self._captions = captions
        self._progress = progress
        self.paths: list[Path] = []
        self._part: pq.ParquetWriter | None = None
        self._pending: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self._flush()
        if self._part is not None:
            self._part.close()

    def manifest(self, sources: Sequence[Mapping[str, Any]]) -> Manifest:
        """All that was written, once this is closed."""
        captioned = self._captions is not None
        return Manifest(tuple(self.paths), self.listed, self.bytes, tuple(sources), captioned)

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
                    "caption": record.caption if record else None,
                    "caption_hash": record.caption_hash if record else None,
                    "caption_details": record.details if record else None,
                }
            )
            self.bytes += max(0, info.size)
        self.listed += len(rows)
        if len(self._pending) >= GROUP_ROWS:
            self._flush()
        if self._progress is not None:
            self._progress(self.listed)

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._part is None:
            self.paths.append(self._directory / f"part-{len(self.paths):06}.parquet")
            self._part = pq.ParquetWriter(self.paths[-1], SCHEMA)
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
    return _expression(pattern).fullmatch(subject) is not None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    anchored = pattern.removeprefix("/")
    whole = f"{anchored}**" if anchored.endswith("/") else anchored
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^]]*\])", whole)
    return re.compile("".join(words.get(part) or _choice(part) or re.escape(part) for part in parts), re.DOTALL)


def _choice(part: str) -> str:
    if not (part.startswith("[") and part.endswith("]") and len(part) > 2):
        return ""
    inside = part[1:-1].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]").replace("^", r"\^")
    return f"(?!/)[^{inside[1:]}]" if inside.startswith("!") else f"(?!/)[{inside}]"


def _manifest_rows(uri: str, file: BinaryIO) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a manifest file, each with its URI in canonical form."""
    if uri.lower().endswith(".parquet"):
        read, unit = parquet_rows, "row"
        columns = parquet_columns(uri, file)
    else:
        read, unit = csv_rows, "line"
        columns = csv_columns(uri, file)
    column = _uri_column(uri, columns)
    for number, row in read(uri, file):
        place = f"the manifest {uri!r} in {unit} {number}"
        text = row.get(column)
        if not isinstance(text, str):
            raise SourceError(f"There is no URI in {place}.")
        try:
            yield _absolute(uri, text), row
        except SourceError as error:
            raise SourceError(f"{error} It stands in {place}.") from error


def _uri_column(uri: str, names: Sequence[str]) -> str:
    for name in URI_COLUMNS:
        if name in names:
            return name
    if len(names) != 1:
        raise SourceError(f"The manifest {uri!r} has no column `uri`; its columns are {', '.join(names) or 'none'}.")
    if "/" in names[0]:
        raise SourceError(f"The manifest {uri!r} has no header; write `uri` into its first line, above {names[0]!r}.")
    return names[0]


def _absolute(manifest: str, text: str) -> str:
    """A manifest's URI in canonical form; a relative one lies beside the manifest."""
    if "://" in text:
        return canonical_uri(text)
    if manifest.startswith("file://"):
        return canonical_uri(str(Path(file_path(manifest)).parent / text))
    if text.startswith("/"):
        raise SourceError(f"{text!r} is a path of one machine; a manifest in S3 cannot name it.")
    bucket, key = s3_parts(manifest)
    beside = f"{key.rpartition('/')[0]}/{text}".removeprefix("/")
    if "./" in text:  # the writer's spelling of a path; a key has no such parts
        beside = posixpath.normpath(beside)
    return canonical_uri(f"s3://{bucket}/{beside}")


def _key(uri: str) -> tuple[str, str]:
    return s3_parts(uri) if uri.startswith("s3://") else ("", display_key(file_path(uri)))


def _size(row: Mapping[str, Any]) -> int:
    try:
        size = int(row["size"])
    except (KeyError, TypeError, ValueError, OverflowError):  # the last for an infinite one
        return -1
    return size if 0 <= size < 2**63 else -1
