"""The manifest: the objects of all sources in Parquet files, each object once.

A source is `s3://bucket[/prefix]`, a local directory or file, or a table of URIs
(`viewfinder.sources.tables`). Rows stream into
part files, and the URIs of manifest files are kept in a temporary database, so memory does not grow with the listing.
"""

import contextlib
import itertools
import posixpath
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.caption_files import CaptionFile, CaptionFiles
from viewfinder.sources.captions import CaptionRecord, Captions
from viewfinder.sources.objects import Objects
from viewfinder.sources.patterns import Patterns, Source
from viewfinder.sources.skips import SkipReason, skip_by_name
from viewfinder.sources.tables import Table, read_tables
from viewfinder.sources.uris import bucket_and_key, canonical_uri, file_path, s3_parts, source_uri
from viewfinder.sources.versions import clean_etag

URI_COLUMNS = ("uri", "url", "path", "key")
COLUMNS = (*URI_COLUMNS, "size", "etag")

MAX_MANIFESTS = 62  # each is one bit of a 64-bit integer

PART_ROWS = 50_000
GROUP_ROWS = 10_000
_ROWS_PER_BATCH = 500

MANIFEST_SCHEMA: pa.Schema = pa.schema(
    {
        "uri": pa.string(),
        "bucket": pa.string(),
        "key": pa.string(),
        "size": pa.int64(),
        "etag": pa.string(),
        "last_modified": pa.string(),
        "sources": pa.list_(pa.string()),
        "skip": pa.string(),  # a `SkipReason` that the listing shows, else null
        # A `CaptionRecord`; the hash is null if the object has none.
        "caption": pa.string(),
        "caption_hash": pa.string(),
        "caption_details": pa.string(),
    }
)


@dataclass(frozen=True)
class Manifest:
    """A complete listing, or its first `max_objects` objects: part files, and the options to list the same again.

    `with_captions` is True if captions were looked up for the objects, even if none was found. `fields` are the types
    of the fields of the captions files (`viewfinder.sources.caption_types`), the most frequent field first.
    `sources_gone` and `captions_gone` could not be read, for the reason given; the other sources and captions files are
    complete.
    """

    paths: tuple[Path, ...]
    listed: int
    bytes: int
    sources: tuple[Mapping[str, Any], ...]
    with_captions: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    sources_gone: Mapping[str, str] = field(default_factory=dict)
    captions_gone: Mapping[str, str] = field(default_factory=dict)


def write_manifest(
    sources: Sequence[str | Source],
    directory: Path,
    objects: Objects,
    *,
    captions: CaptionFiles | Captions | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_objects: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """List `sources` into part files in `directory`. A `Source` has patterns of its own.

    An object in several sources has one row with all of them. With `max_objects` the listing is in key order and ends
    early. The `etag` from a manifest file may be empty until the object is read.
    Raises `SourceError`, `ConfigurationError` or `ViewfinderError` if a listing cannot be completed; a partial listing
    is never returned.
    """
    patterns = Patterns(tuple(include), tuple(exclude))
    given = [each if isinstance(each, Source) else Source(source_uri(each), patterns) for each in sources]
    known = list({source.uri: source for source in given}.values())
    files = [source for source in known if source.is_manifest]
    with _ManifestFiles(files, directory) as manifest_files, _Writer(directory, captions, progress) as writer:
        for source in files:
            manifest_files.read(source, objects)
        with contextlib.closing(
            _list_prefixes(known, manifest_files, objects, ordered=max_objects is not None)
        ) as listed:
            for batch in _row_batches(
                itertools.islice(itertools.chain(listed, manifest_files.remaining()), max_objects)
            ):
                writer.add(batch)
    if not writer.listed:
        selected = any(source.patterns != Patterns() for source in known)
        raise SourceError(
            f"Nothing to index in {', '.join(repr(source.uri) for source in known)}: there is no object that could be "
            + ("an image and matches --include and --exclude." if selected else "an image.")
        )
    options: dict[str, Any] = {"max_objects": max_objects} if max_objects is not None else {}
    return writer.manifest(
        [
            {
                "source": source.uri,
                "include": list(source.patterns.include),
                "exclude": list(source.patterns.exclude),
                "captions": writer.captions.uris_of(source.uri) if writer.captions is not None else [],
                **options,
            }
            for source in known
        ]
    )


def manifest_of(infos: Iterable[ObjectInfo], directory: Path, *, captions: Captions | None = None) -> Manifest:
    """Write single objects into part files in `directory`; each is a source by itself."""
    sources = []
    with _Writer(directory, captions, None) as writer:
        for batch in _row_batches(infos):
            writer.add([_ListedObject(info, [info.uri], "archived" if info.archived else None) for info in batch])
            sources += [{"source": info.uri, "include": [], "exclude": []} for info in batch]
    return writer.manifest(sources)


def manifest_of_known(
    found: Iterable[tuple[ObjectInfo, Sequence[Source]]],
    directory: Path,
    *,
    captions: CaptionFiles | None = None,
    new: Sequence[str] = (),
) -> Manifest:
    """Write single objects of known sources into part files, each with the sources that contain it.

    The sources of the manifest are those in `new`, whole and without patterns: the others are recorded already.
    """
    with _Writer(directory, captions, None) as writer:
        for batch in _row_batches(found):
            rows = []
            for info, sources in batch:
                mentions = [each.uri for each in sources if each.is_manifest]
                rows.append(_with_sources(info, [each for each in sources if not each.is_manifest], mentions))
            writer.add(rows)
    return writer.manifest([{"source": uri, "include": [], "exclude": []} for uri in new])


class _ListedObject(NamedTuple):
    """An object, the URIs of the sources that contain it, and why it is not indexed."""

    info: ObjectInfo
    sources: list[str]
    skip: SkipReason | None


def _list_prefixes(
    known: Sequence[Source], manifest_files: "_ManifestFiles", objects: Objects, *, ordered: bool
) -> Generator[_ListedObject, None, None]:
    """Yield the objects under all prefixes, each from the first source that lists it."""
    prefixes = [source for source in known if not source.is_manifest]
    for source in prefixes:
        infos = (info for info in objects.list(source.uri, ordered=ordered) if source.holds(info.uri))
        for batch in _row_batches(infos):
            mentions = manifest_files.take([info.uri for info in batch])
            for info in batch:
                holders = [each for each in prefixes if each is source or each.holds(info.uri)]
                if holders[0] is source:
                    yield _with_sources(info, holders, mentions.get(info.uri, ()))


def _with_sources(info: ObjectInfo, holders: Sequence[Source], mentions: Sequence[str]) -> _ListedObject:
    """Return an object with the sources that want it. A source that names it outweighs its name."""
    skips = {each.uri: each.skips(info.uri) for each in holders} | dict.fromkeys(mentions, _skip_in_manifest(info.key))
    wanted = sorted(uri for uri, skip in skips.items() if skip is None)
    if not wanted:
        return _ListedObject(info, sorted(skips), next(iter(skips.values())))
    return _ListedObject(info, wanted, "archived" if info.archived else None)


def _skip_in_manifest(key: str) -> SkipReason | None:
    # A list of URIs names no root: hidden folders above an object may be above all of them.
    return skip_by_name(key.rpartition("/")[2])


class _ManifestFiles:
    """The URIs listed in manifest files, in a temporary database; a bit mask says which files list each URI."""

    def __init__(self, files: Sequence[Source], directory: Path) -> None:
        if len(files) > MAX_MANIFESTS:
            raise ConfigurationError(
                f"{len(files)} manifest files are too many; merge them into {MAX_MANIFESTS} or fewer."
            )
        self._sources = [source.uri for source in files]
        # Where the next run removes it if this one is killed. Hidden, because a source may contain the directory.
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            prefix=".viewfinder-named-", suffix=".sqlite", dir=directory
        )
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
        """Store the URIs of one manifest file. Raises `ConfigurationError` with the file and row that are wrong."""
        bit = 1 << self._sources.index(source.uri)
        rows = (
            (uri, _size(row), clean_etag(str(row.get("etag") or "")), bit)
            for uri, row in _manifest_rows(source.uri, objects)
            if source.patterns.accept(bucket_and_key(uri)[1].removeprefix("/"))
        )
        try:
            self._database.executemany(
                "INSERT INTO named (uri, size, etag, files) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (uri) DO UPDATE SET files = files | excluded.files",
                rows,
            )
        except ObjectError as error:
            raise SourceError(f"The manifest {source.uri!r} cannot be read: {error.message}") from error

    def take(self, uris: Sequence[str]) -> dict[str, list[str]]:
        """Mark URIs that a listing has found; return the manifest files that also list each of them."""
        if not self._sources:
            return {}
        marks = ",".join("?" * len(uris))
        self._database.execute(f"UPDATE named SET taken = 1 WHERE uri IN ({marks})", uris)
        found = self._database.execute(f"SELECT uri, files FROM named WHERE uri IN ({marks})", uris)
        return {uri: self._files_of(files) for uri, files in found}

    def remaining(self) -> Iterator[_ListedObject]:
        """Yield the URIs that no listing has found. They may not exist; then fetching them fails."""
        for uri, size, etag, files in self._database.execute(
            "SELECT uri, size, etag, files FROM named WHERE taken = 0 ORDER BY uri"
        ):
            bucket, key = bucket_and_key(uri)
            info = ObjectInfo(uri, bucket, key, size, etag, "")
            yield _ListedObject(info, sorted(self._files_of(files)), _skip_in_manifest(key))

    def _files_of(self, files: int) -> list[str]:
        return [uri for number, uri in enumerate(self._sources) if files >> number & 1]


class _Writer:
    """Writes rows, with their captions, to part files."""

    def __init__(
        self, directory: Path, captions: CaptionFiles | Captions | None, progress: Callable[[int], None] | None
    ) -> None:
        self.listed = 0
        self.bytes = 0
        self._directory = directory
        self.captions = CaptionFiles([CaptionFile(captions)]) if isinstance(captions, Captions) else captions
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
        """Return the manifest of all rows, after the `with` block."""
        captions = self.captions
        return Manifest(
            tuple(self.paths),
            self.listed,
            self.bytes,
            tuple(sources),
            with_captions=captions is not None and bool(captions.files),
            fields={} if captions is None else captions.fields,
            captions_gone={} if captions is None else captions.gone,
        )

    def add(self, rows: Sequence[_ListedObject]) -> None:
        records: Sequence[CaptionRecord | None] = [None] * len(rows)
        if self.captions is not None:
            records = self.captions.find_many([(row.info, row.sources) for row in rows])
        for (info, sources, skip), record in zip(rows, records, strict=True):
            self._pending.append(
                {
                    "uri": info.uri,
                    "bucket": info.bucket,
                    "key": info.key,
                    "size": info.size,
                    "etag": info.etag,
                    "last_modified": info.last_modified,
                    "sources": sources,
                    "skip": skip,
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
            self._part = pq.ParquetWriter(self.paths[-1], MANIFEST_SCHEMA)
            self._rows = 0
        self._part.write_table(pa.Table.from_pylist(self._pending, schema=MANIFEST_SCHEMA))
        self._rows += len(self._pending)
        self._pending = []
        if self._rows >= PART_ROWS:
            self._part.close()
            self._part = None


def _row_batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, _ROWS_PER_BATCH)):
        yield batch


def _manifest_rows(uri: str, objects: Objects) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a manifest, each with its canonical URI."""
    for table in read_tables(uri, objects, COLUMNS):
        column = None if table.columns is None else _uri_column(table, table.columns)
        for number, row in table.rows:
            place = f"the manifest {table.uri!r} in {table.unit} {number}"
            text = row.get(column or _uri_column(table, list(row)))
            if not isinstance(text, str):
                raise SourceError(f"No URI in {place}.")
            try:
                yield _absolute_uri(uri.rstrip("/"), text), row
            except SourceError as error:
                raise SourceError(f"{error} Found in {place}.") from error


def _uri_column(table: Table, names: Sequence[str]) -> str:
    for name in URI_COLUMNS:
        if name in names:
            return name
    if len(names) != 1:
        raise SourceError(
            f"The manifest {table.uri!r} has no column `uri`; its columns are {', '.join(names) or 'none'}."
        )
    if "/" in names[0]:
        raise SourceError(f"The manifest {table.uri!r} has no header; insert the line `uri` above {names[0]!r}.")
    return names[0]


def _absolute_uri(manifest: str, text: str) -> str:
    """Return a manifest's URI in canonical form; a relative path is relative to the manifest."""
    if "://" in text:
        return canonical_uri(text)
    if manifest.startswith("file://"):
        return canonical_uri(str(Path(file_path(manifest)).parent / text))
    if text.startswith("/"):
        raise SourceError(f"{text!r} is a local path; a manifest in S3 cannot refer to it.")
    bucket, key = s3_parts(manifest)
    beside = f"{key.rpartition('/')[0]}/{text}".removeprefix("/")
    if "./" in text:  # written as a path; a key has no such parts
        beside = posixpath.normpath(beside)
    return canonical_uri(f"s3://{bucket}/{beside}")


def _size(row: Mapping[str, Any]) -> int:
    try:
        size = int(row["size"])
    except (KeyError, TypeError, ValueError, OverflowError):  # OverflowError: infinity
        return -1
    return size if 0 <= size < 2**63 else -1
