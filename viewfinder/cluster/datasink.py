"""The end of the pipeline: rows become points, failures become records, and everything is counted."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from viewfinder.cluster import metrics
from viewfinder.indexing.rows import ACTIONS, Row
from viewfinder.sources.captions import CaptionRecord
from viewfinder.store import Collection, Failure, Store, StoreAddress, connect
from viewfinder.store.records import PointBatch, Vectors

OBJECT_FIELDS = ("uri", "bucket", "key", "etag", "size", "last_modified")
PICTURE_FIELDS = ("width", "height", "format")


@dataclass
class Tally:
    """What one write, or the whole job, did: objects counted by outcome, and the busy seconds of each stage.

    `unchanged` counts the `withheld`, which have been taken down, too: they are left as they are. Of the `failed`, the
    `stale` keep the points they had: a later run may well succeed.
    """

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    withheld: int = 0
    stale: int = 0
    pictures: int = 0
    captions: int = 0
    captions_cut: int = 0
    compare_s: float = 0.0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        mine, theirs = asdict(self), asdict(other)
        return Tally(**{each.name: mine[each.name] + theirs[each.name] for each in fields(self)})


@functools.lru_cache(maxsize=4)
def _store(address: StoreAddress) -> Store:
    # Write tasks are many and short; a worker process keeps its connection between them.
    return connect(address)


class QdrantDatasink(Datasink[Tally]):
    """Writes the rows of `viewfinder.indexing.rows` into one collection.

    Every write is idempotent: a point's id comes from its URI, so that a task which Ray runs again, or a job after
    a crash, writes the same points. Points go out in batches of `batch_size` without waiting for Qdrant to apply
    them; the last batch of a task waits, which holds back a pipeline that is faster than the database.
    """

    def __init__(
        self, address: StoreAddress, collection: Collection, *, run_id: str, batch_size: int, progress: Any = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._address = address
        self._collection = collection
        self._run_id = run_id
        self._batch_size = batch_size
        self._progress = progress
        self.total = Tally()

    def write(self, blocks: Iterable[Block], ctx: object) -> Tally:
        store = _store(self._address)
        total = Tally()
        for block in blocks:
            table = BlockAccessor.for_block(block).to_arrow()
            tally = write_rows(store, self._collection, table, run_id=self._run_id, batch_size=self._batch_size)
            metrics.of(self._collection.index).block(tally, table)
            if self._progress is not None:
                self._progress.add.remote(tally.indexed, tally.unchanged, tally.failed)
            total += tally
        return total

    def on_write_complete(self, write_result: WriteResult[Tally]) -> None:
        self.total = sum(write_result.write_returns, Tally())

    @property
    def min_rows_per_write(self) -> int | None:
        return self._batch_size


def write_rows(store: Store, collection: Collection, table: pa.Table, *, run_id: str, batch_size: int) -> Tally:
    """Carry out what each row asks for and count it."""
    began = datetime.now(UTC)
    stamp = {"run_id": run_id, "indexed_at": began.isoformat(timespec="seconds")}
    rows = _without_taken_down(store, collection, table.to_pylist())
    groups: dict[str, list[Row]] = {action: [] for action in ACTIONS}
    for row in rows:
        groups[row["action"]].append(row)

    new = [row for row in groups["index"] if not row["exists"]]
    changed = [row for row in groups["index"] if row["exists"]]
    for part in _slices(new, batch_size):
        store.points.upsert(collection, _points(part, stamp), wait=part[-1] is new[-1])
    # Points that exist keep what this run does not bring: an upsert would drop their captions.
    for part in _slices(changed, batch_size):
        points = _points(part, stamp, captions=False)
        store.points.update_images(collection, points.ids, points.payloads, _column(part, "image_vector")[0])
    recaptioned = groups["caption"] + [row for row in changed if row["caption_applies"]]
    for part in _slices(recaptioned, batch_size):
        vectors, present = _column(part, "caption_vector")
        payloads = [_caption_payload(row) | {"sources": row["sources"]} | stamp for row in part]
        store.points.update_captions(collection, [row["id"] for row in part], payloads, vectors, present)
    if groups["sources"]:
        store.points.add_sources(collection, {row["id"]: row["sources"] for row in groups["sources"]})
    _write_failures(store, collection, groups["failed"], run_id)
    if healed := [row["id"] for row in groups["index"] if row["had_failure"]]:
        store.control(collection.index).forget_failures(healed)

    withheld = sum(row["count"] for row in groups["withheld"])
    return Tally(
        indexed=len(groups["index"]) + len(groups["caption"]),
        unchanged=sum(row["count"] for row in groups["unchanged"]) + len(groups["sources"]) + withheld,
        failed=len(groups["failed"]),
        withheld=withheld,
        stale=sum(bool(row["exists"]) and not row["permanent"] for row in groups["failed"]),
        pictures=len(groups["index"]),
        captions=sum(row["caption_vector"] is not None for row in rows),
        captions_cut=sum(bool(row["caption_cut"]) for row in rows),
        **{name: sum(row[name] or 0.0 for row in rows) for name in ("compare_s", "fetch_s", "decode_s", "encode_s")},
        write_s=(datetime.now(UTC) - began).total_seconds(),
    )


def _without_taken_down(store: Store, collection: Collection, rows: list[Row]) -> list[Row]:
    """The rows, those withheld that were taken down since they were compared: right before they would be written."""
    ids = [row["id"] for row in rows if row["id"] is not None]  # folded rows have none
    taken_down = store.control(collection.index).takedowns(ids) if ids else {}
    return [row | {"action": "withheld"} if row["id"] in taken_down else row for row in rows]


def _write_failures(store: Store, collection: Collection, rows: Sequence[Row], run_id: str) -> None:
    if not rows:
        return
    # A picture whose content changed into something broken must not be found by what it was.
    if gone := [row["id"] for row in rows if row["exists"] and row["permanent"]]:
        store.points.delete(collection, gone)
    records = {
        row["id"]: Failure(
            uri=row["uri"],
            etag=row["etag"] or "",
            stage=row["stage"],
            reason=row["reason"],
            message=row["message"],
            permanent=bool(row["permanent"]),
            run_id=run_id,
        )
        for row in rows
    }
    store.control(collection.index).record_failures(records)


def _points(rows: Sequence[Row], stamp: dict[str, str], *, captions: bool = True) -> PointBatch:
    vectors: dict[str, Any] = {"image": _column(rows, "image_vector")[0]}
    payloads = []
    for row in rows:
        payload = {name: row[name] for name in (*OBJECT_FIELDS, *PICTURE_FIELDS, "sources")} | {"kind": "image"} | stamp
        if not payload["last_modified"]:
            del payload["last_modified"]
        payloads.append(payload | (_caption_payload(row) if captions and row["caption"] else {}))
    if captions and any(row["caption_vector"] for row in rows):
        vectors["caption"], vectors["has_caption"] = _column(rows, "caption_vector")
    return PointBatch(ids=[row["id"] for row in rows], payloads=payloads, **vectors)


def _caption_payload(row: Row) -> dict[str, Any]:
    """The caption's fields; of a removed caption, what an empty record has."""
    record = CaptionRecord.from_json(row["caption"]) if row["caption"] else None
    if record is None:
        return {"caption": None, "caption_hash": "", "tags": [], "meta": {}}
    return {
        "caption": record.caption,
        "caption_hash": record.caption_hash,
        "tags": list(record.tags),
        "meta": dict(record.meta),
    }


def _column(rows: Sequence[Row], name: str) -> tuple[Vectors, Any]:
    """float32 [N,D] with zeros where a row has no vector, and bool [N] saying which rows have one."""
    cells = [row[name] for row in rows]
    present = np.array([cell is not None for cell in cells], bool)
    dimension = next((len(cell) // 4 for cell in cells if cell is not None), 1)
    vectors = np.zeros((len(cells), dimension), np.float32)
    for position, cell in enumerate(cells):
        if cell is not None:
            vectors[position] = np.frombuffer(cell, np.float32)
    return vectors, present


def _slices(rows: Sequence[Row], size: int) -> Iterable[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
