"""The points of some sources as they were before a listing began, so that a prune spares what came later.

Kept in a file, so that memory does not grow with the collection. Points are compared by what a run writes into them,
never by time: the clocks of two machines differ.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from viewfinder.store import Collection, Store

_ROWS_PER_GROUP = 10_000
_SCHEMA: pa.Schema = pa.schema(
    [
        ("id", pa.string()),
        ("run_id", pa.string()),
        ("version", pa.string()),
        ("caption_hash", pa.string()),
        ("text_hash", pa.string()),
        ("sources", pa.list_(pa.string())),
    ]
)
_FIELDS = ("etag", "run_id", "indexed_at", "caption_hash", "sources")


@dataclass(frozen=True, slots=True)
class PointBefore:
    """A point before the listing began. Every write of a run changes `version`.

    `text_hash` is that of the text of its caption, if texts are read; `caption_hash` that of the whole record.
    """

    id: str
    run_id: str
    version: str
    caption_hash: str
    text_hash: str
    sources: Sequence[str]

    @classmethod
    def of(cls, id_: str, payload: Mapping[str, Any]) -> Self:
        """The point of this id and payload."""
        etag, run_id, at, caption_hash = (str(payload.get(name) or "") for name in _FIELDS[:4])
        sources = tuple(payload.get("sources") or ())
        return cls(id_, run_id, f"{etag}\n{run_id}\n{at}", caption_hash, text_hash(payload), sources)


@dataclass(frozen=True)
class PointsBefore:
    """The points of a collection that belonged to one of `sources`."""

    path: Path
    collection: str
    sources: tuple[str, ...]

    @classmethod
    def take(
        cls, store: Store, collection: Collection, sources: Sequence[str], directory: Path, *, with_texts: bool
    ) -> Self:
        """Read the points into a file in `directory`."""
        path = directory / "points-before.parquet"
        fields = (*_FIELDS, "caption") if with_texts else _FIELDS
        records = store.points.iterate(collection, {"sources": {"in": list(sources)}}, fields)
        with pq.ParquetWriter(path, _SCHEMA) as writer:
            while page := list(itertools.islice(records, _ROWS_PER_GROUP)):
                points = (PointBefore.of(record.id, record.payload) for record in page)
                rows = [{name: getattr(point, name) for name in _SCHEMA.names} for point in points]
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        return cls(path, collection.name, tuple(sources))

    def points(self) -> Iterator[PointBefore]:
        """Yield the points."""
        for batch in pq.ParquetFile(self.path).iter_batches(_ROWS_PER_GROUP):
            for row in batch.to_pylist():
                yield PointBefore(**row)


def text_hash(payload: Mapping[str, Any]) -> str:
    """A hash of the text in a payload; empty without one."""
    text = payload.get("caption")
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest() if text else ""
