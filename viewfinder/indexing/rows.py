"""The rows that pass from stage to stage, as Arrow tables.

One row is one listed object. Its `action` is one of:

    index       fetch, decode and encode the image, and its caption if it has one
    caption     only the caption changed: encode and write it
    sources     the object is unchanged, but its point does not record this source yet
    unchanged   nothing to do; all such rows of a batch are folded into one, with their number in `count`
    skipped     not indexed for the `reason` (`viewfinder.sources.skips`), which is no failure; folded by reason
    failed      `stage`, `reason` and `message` describe the failure

Rows never disappear: the counts returned by the write stage add up to the number of listed objects.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from viewfinder.sources.manifest import MANIFEST_SCHEMA, PART_ROWS

MANIFEST_ROWS = 10_000

Action = Literal["index", "caption", "sources", "unchanged", "skipped", "failed"]
ACTIONS: tuple[Action, ...] = get_args(Action)

_STATE = pa.struct(
    [("etag", pa.string()), ("size", pa.int64()), ("last_modified", pa.string()), ("caption_hash", pa.string())]
)
SCHEMA: pa.Schema = pa.schema(
    [
        ("id", pa.string()),
        ("action", pa.string()),
        ("count", pa.int64()),
        ("exists", pa.bool_()),
        ("stored", _STATE),
        ("live", _STATE),
        ("lost", pa.bool_()),
        ("had_failure", pa.bool_()),
        ("crashes", pa.list_(pa.string())),
        *MANIFEST_SCHEMA,
        ("caption_applies", pa.bool_()),
        ("keeps_text", pa.bool_()),
        ("pixels", pa.large_binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("warning", pa.string()),
        ("image_hash", pa.string()),
        ("image_vector", pa.binary()),
        ("caption_vector", pa.binary()),
        ("caption_cut", pa.int32()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("permanent", pa.bool_()),
        ("decided_by", pa.string()),
        ("crashed_on", pa.string()),
        ("compare_s", pa.float64()),
        ("fetch_s", pa.float64()),
        ("decode_s", pa.float64()),
        ("encode_s", pa.float64()),
    ]
)


class Row(TypedDict, total=False):
    """One row; a null in the table is None here."""

    id: str
    action: Action
    count: int
    exists: bool  # the collection has its point; of a skipped object: the point is of one of its sources
    stored: dict[str, Any] | None  # the version that the point was made from, and the hash of its caption, if it exists
    live: dict[str, Any] | None  # the same of the image in the live collection, if this one is built beside it
    lost: bool | None  # of folded rows: `viewfinder.indexing.losses`
    had_failure: bool
    crashes: list[str] | None  # earlier ones with this content: see `viewfinder.indexing.failures`
    # From the listing.
    uri: str
    bucket: str
    key: str
    size: int
    etag: str
    last_modified: str
    sources: list[str]
    skip: str | None
    # From a `CaptionRecord`, if the captions file names the object (`caption_hash` is not None). If `caption_applies`
    # is False, the point keeps its current caption. If `keeps_text`, the point keeps its text and the vector of it:
    # `caption` is that text as it was at the comparison.
    caption: str | None
    caption_hash: str | None
    caption_details: str | None
    caption_applies: bool
    keeps_text: bool | None
    # From decoding: uint8 [size, size, 3], width, height and format of the file, a key of `WARNINGS`, and the hash of
    # the image (`viewfinder.images.image_hash`).
    pixels: bytes | None
    width: int
    height: int
    format: str
    warning: str | None
    image_hash: str | None
    # From encoding: float32 [D], and the number of tokens cut off the caption.
    image_vector: bytes | None
    caption_vector: bytes | None
    caption_cut: int
    # The failure, or the reason of a skip.
    stage: str
    reason: str
    message: str
    permanent: bool
    decided_by: str | None
    crashed_on: str | None  # the machine, if the decoder crashed in this run
    # Busy seconds of the stages, on the first row of each batch.
    compare_s: float | None
    fetch_s: float | None
    decode_s: float | None
    encode_s: float | None


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of a table."""
    rows: list[Row] = table.to_pylist()
    return rows


def table_of(rows: Sequence[Row]) -> pa.Table:
    """A table of rows with the columns of `SCHEMA`; a missing column is null."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def read_part(paths: pa.Table) -> Iterator[pa.Table]:
    """The rows of manifest files, `MANIFEST_ROWS` at a time."""
    for path in paths["path"].to_pylist():
        for batch in pq.ParquetFile(str(path)).iter_batches(MANIFEST_ROWS):
            yield pa.Table.from_batches([batch])


@dataclass(frozen=True)
class RowFiles:
    """Rows in files, read a few at a time."""

    paths: tuple[Path, ...]

    @classmethod
    def write(cls, tables: Iterable[pa.Table], directory: Path) -> Self:
        """Write rows into files in `directory`, which the caller deletes."""
        paths = []
        for number, table in enumerate(join_tables(tables, PART_ROWS)):
            paths.append(directory / f"rows-{number:06}.parquet")
            pq.write_table(table, str(paths[-1]), row_group_size=MANIFEST_ROWS)
        return cls(tuple(paths))

    def __iter__(self) -> Iterator[pa.Table]:
        return read_part(paths_table(self.paths))


def paths_table(paths: Sequence[object]) -> pa.Table:
    """Paths of manifest files as the table that `read_part` takes."""
    return pa.table({"path": [str(path) for path in paths]})


def cut_tables(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of at most `size` rows, without copying."""
    for table in tables:
        for start in range(0, len(table), size):
            yield table.slice(start, size)


def join_tables(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows; the last table may be smaller."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += len(table)
        while count >= size:
            whole = pa.concat_tables(pending)
            yield whole.slice(0, size)
            pending, count = [whole.slice(size)], count - size
    if count:
        yield pa.concat_tables(pending)
