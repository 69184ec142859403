"""The last stage: write points and failure records, and count every row."""

import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from viewfinder import clock
from viewfinder.arrays import Mask, Vectors
from viewfinder.images.loading import TRUNCATED_TAIL
from viewfinder.indexing.accounting import MAX_WARNED, Tally
from viewfinder.indexing.compare import own_caption, version_of_state
from viewfinder.indexing.failures import record_crash
from viewfinder.indexing.losses import is_lost
from viewfinder.indexing.rows import ACTIONS, Action, Row, rows_of
from viewfinder.indexing.unwritable import fail_unwritable
from viewfinder.sources.captions import NO_CAPTION, CaptionRecord
from viewfinder.sources.skips import CONTENT_SKIPS
from viewfinder.sources.versions import is_same, version_of
from viewfinder.store import Collection, Failure, PointState, Store
from viewfinder.store.records import PointBatch, StoredPoint
from viewfinder.store.schema import IMAGE_HASH
from viewfinder.store.takedowns import taken_down

# The payload fields of captions by point id.
_Captions = Mapping[str, Mapping[str, Any]]


def write_rows(
    store: Store,
    collection: Collection,
    table: pa.Table,
    *,
    run_id: str,
    batch_size: int,
    decided_by: Mapping[str, str] = MappingProxyType({}),
    machines: int = 1,
) -> Tally:
    """Carry out the action of each row, and return the counts.

    `decided_by` and the number of `machines` of the run: see `viewfinder.indexing.failures`.

    Every write is idempotent: a point's id is derived from its URI, so a task that runs twice or a run after a crash
    writes the same points. Points are sent in batches of `batch_size` without waiting for Qdrant to apply them. Only
    the last batch waits, which slows down a pipeline that is faster than the database. Points that cannot be read
    afterwards are sent again, and each batch waits: the last one has waited only for the shards of its own points.
    """
    began = time.perf_counter()
    stamp = {"run_id": run_id, "indexed_at": clock.timestamp()}
    rows = _mark_taken_down(store, collection, rows_of(table))
    encoded = [row for row in rows if row["action"] in ("index", "caption")]
    captions = {row["id"]: _caption_payload(row) for row in encoded}
    for row in encoded:
        fail_unwritable(row, _whole_payload(row, captions), collection.metadata.language, store.connection.limit)
    groups: dict[Action, list[Row]] = {action: [] for action in ACTIONS}
    for row in rows:
        groups[row["action"]].append(row)

    def insert(new: Sequence[Row], *, wait: bool = False) -> None:
        for part in _slices(new, batch_size):
            last = part[-1] is new[-1]
            store.points.upsert(collection, _points(part, captions, stamp), wait=wait or last, only_new=True)

    insert([row for row in groups["index"] if not row["exists"]])
    seen = _update_existing(store, collection, groups, captions, stamp)
    if missing := _missing(store, collection, groups["index"], seen):
        insert(missing, wait=True)
        # Another run may have inserted them first, and what it wrote could not be read until now.
        _update_existing(store, collection, {"index": missing}, captions, stamp)
    for row in groups["failed"]:
        record_crash(row, run_id, machines=machines)
    _write_failures(store, collection, groups["failed"], run_id, decided_by)
    _write_skips(store, collection, groups["skipped"], decided_by)
    if recovered := [row["id"] for row in groups["index"] if row["had_failure"]]:
        store.control(collection.index).forget_failures(recovered)
    return _count_outcomes(rows, groups, write_s=time.perf_counter() - began)


def _count_outcomes(rows: Sequence[Row], groups: Mapping[Action, Sequence[Row]], *, write_s: float) -> Tally:
    """The outcomes of rows, after their actions are carried out."""
    truncated = [row["uri"] for row in groups["index"] if row["warning"] == TRUNCATED_TAIL]
    skips = Counter[str]()
    for row in groups["skipped"]:
        skips[row["reason"]] += row["count"]
    lost = [row for row in (*groups["failed"], *groups["skipped"]) if row["lost"] or _is_lost(row)]
    return Tally(
        indexed=len(groups["index"]) + len(groups["caption"]),
        unchanged=sum(row["count"] for row in groups["unchanged"]) + len(groups["sources"]),
        failed=len(groups["failed"]),
        **skips,
        archived_live=sum(row["count"] for row in lost if row["reason"] == "archived"),
        lost=sum(row["count"] for row in lost if row["reason"] != "archived"),
        stale=sum(row["count"] for row in [*groups["failed"], *groups["skipped"]] if _keeps_point(row)),
        images=len(groups["index"]),
        truncated_tail=len(truncated),
        warned=tuple(truncated[:MAX_WARNED]),
        failures=Counter((row["stage"], row["reason"]) for row in groups["failed"]),
        captions=sum(row["caption_vector"] is not None for row in rows),
        captions_cut=sum(bool(row["caption_cut"]) for row in rows),
        compare_s=sum(row["compare_s"] or 0.0 for row in rows),
        fetch_s=sum(row["fetch_s"] or 0.0 for row in rows),
        decode_s=sum(row["decode_s"] or 0.0 for row in rows),
        encode_s=sum(row["encode_s"] or 0.0 for row in rows),
        write_s=write_s,
    )


def _missing(store: Store, collection: Collection, rows: Sequence[Row], seen: Container[str]) -> list[Row]:
    """Return the rows to index whose points cannot be read, and delete those that were taken down since.

    Points that existed are read again. An object may have been missing when another run listed it: that run's prune has
    deleted the point since. New ones are missing if they are not in `seen`: their shard has not applied them yet.
    """
    doubtful = [row for row in rows if row["exists"] or row["id"] not in seen]
    found = store.points.states(collection, [row["id"] for row in doubtful])
    missing = {row["id"]: row["uri"] for row in doubtful if row["id"] not in found}
    # A takedown is recorded before its point is deleted.
    excluded = taken_down(store.control(collection.index), missing) if missing else ()
    if excluded:  # their shard may not have applied their inserts yet; a deletion comes after those
        store.points.delete(collection, sorted(excluded))
    return [row for row in doubtful if row["id"] in missing and row["id"] not in excluded]


def _update_existing(
    store: Store,
    collection: Collection,
    groups: Mapping[Action, Sequence[Row]],
    captions: _Captions,
    stamp: dict[str, str],
) -> Container[str]:
    """Update the points that existed before, and those that another run has written since the comparison.

    Of the latter nothing is lost: they keep a caption that this run does not have, all sources, and a later content.
    Returns the ids of the points to index that could be read.
    """
    rows = {row["id"]: row for row in (*groups["index"], *groups.get("caption", ()))}
    states = store.points.states(collection, list(rows))
    differ = [
        id_ for id_, state in states.items() if _changes_image(state, rows[id_]) or _changes_caption(state, rows[id_])
    ]
    store.points.update(collection, differ, lambda id_, point: _changed(point, rows[id_], captions[id_], stamp))
    kept = [row for row in groups.get("failed", ()) if _keeps_point(row)]
    kept += [row for row in groups.get("skipped", ()) if row["id"] is not None and row["reason"] == "archived"]
    found = {row["id"]: row["sources"] for row in (*groups.get("sources", ()), *kept)}
    found |= {id_: rows[id_]["sources"] for id_ in states if not set(rows[id_]["sources"]) <= set(states[id_].sources)}
    if found:
        store.points.add_sources(collection, found)
    return states


def _changed(point: StoredPoint, row: Row, caption: Mapping[str, Any], stamp: Mapping[str, str]) -> StoredPoint | None:
    """The point with the content and caption of this row; None if it has both."""
    state, payload, vectors = point.state, dict(point.payload), dict(point.vectors)
    if changes_image := _changes_image(state, row):
        for optional in ("last_modified", IMAGE_HASH):
            payload.pop(optional, None)
        payload |= _image_payload(row)
        vectors["image"] = _cell_vector(row["image_vector"])
    text = payload.get("caption")
    if row["keeps_text"] and text != row["caption"]:  # another run has written it since the comparison
        caption = own_caption(row).with_caption(text).payload()
    changes_caption = row["caption_applies"] and caption["caption_hash"] != state.caption_hash
    if changes_caption:
        payload |= caption
        if not row["keeps_text"]:
            vectors.pop("caption", None)
            if row["caption_vector"] is not None:
                vectors["caption"] = _cell_vector(row["caption_vector"])
    return StoredPoint(payload | dict(stamp), vectors) if changes_image or changes_caption else None


def _changes_image(state: PointState, row: Row) -> bool:
    return row["action"] == "index" and _is_outdated(state, row)


def _changes_caption(state: PointState, row: Row) -> bool:
    return row["caption_applies"] and (row["caption_hash"] or "") != state.caption_hash


def _is_outdated(state: PointState, row: Row) -> bool:
    """True unless the point is of the content of this row, or of a later one that another run has written."""
    if is_same(version_of_state(state), version_of(row)):
        return False
    is_later = bool(row["last_modified"]) and state.last_modified > row["last_modified"]
    return not (is_later and version_of_state(state) != version_of(row["stored"] or {}))


def _mark_taken_down(store: Store, collection: Collection, rows: list[Row]) -> list[Row]:
    """Check for takedowns again right before writing, and delete their points: some came since the comparison."""
    uris = {row["id"]: row["uri"] for row in rows if row["id"] is not None}  # folded rows have no id
    excluded = taken_down(store.control(collection.index), uris) if uris else ()
    store.points.delete(collection, sorted(excluded))
    for row in rows:
        if row["id"] in excluded:
            row["action"], row["reason"], row["exists"] = "skipped", "taken_down", False
    return rows


def _keeps_point(row: Row) -> bool:
    return bool(row["exists"]) and not row["permanent"]


def _is_lost(row: Row) -> bool:
    is_deleted = row["permanent"] or row["reason"] in CONTENT_SKIPS  # see `_write_failures` and `_write_skips`
    return is_lost(row, keeps_point=not is_deleted)


def _write_skips(store: Store, collection: Collection, rows: Sequence[Row], decided_by: Mapping[str, str]) -> None:
    """Record objects whose content is no image, and delete their points. Those known before are folded, without id."""
    no_images = [row for row in rows if row["id"] is not None and row["reason"] in CONTENT_SKIPS]
    _delete_replaced(store, collection, [row for row in no_images if row["exists"]])
    records = {row["id"]: _failure(row, "", decided_by) for row in no_images}
    store.control(collection.index).record_failures(records)


def _write_failures(
    store: Store, collection: Collection, rows: Sequence[Row], run_id: str, decided_by: Mapping[str, str]
) -> None:
    if not rows:
        return
    # An image whose content is now broken must not be found by its previous content.
    _delete_replaced(store, collection, [row for row in rows if row["exists"] and row["permanent"]])
    records = {row["id"]: _failure(row, run_id, decided_by) for row in rows}
    store.control(collection.index).record_failures(records)


def _delete_replaced(store: Store, collection: Collection, rows: Sequence[Row]) -> None:
    """Delete the points of these rows, except those that another run has written since the comparison."""
    compared = {row["id"]: version_of(row["stored"] or {}) for row in rows}
    if compared:
        states = store.points.states(collection, list(compared))
        same = {id_: state for id_, state in states.items() if version_of_state(state) == compared[id_]}
        store.points.delete_unchanged(collection, same)


def _failure(row: Row, run_id: str, decided_by: Mapping[str, str]) -> Failure:
    etag, size, last_modified = version_of(row)
    return Failure(
        uri=row["uri"],
        etag=etag,
        size=size,
        last_modified=last_modified,
        stage=row["stage"],
        reason=row["reason"],
        message=row["message"],
        permanent=bool(row["permanent"]),
        run_id=run_id,
        decided_by=row["decided_by"] or decided_by.get(row["stage"], ""),
        crashes=tuple(row["crashes"] or ()),
    )


def _points(rows: Sequence[Row], captions: _Captions, stamp: dict[str, str]) -> PointBatch:
    payloads = [_new_payload(row, captions) | stamp for row in rows]
    image, _ = _vectors([row["image_vector"] for row in rows])
    of_captions: dict[str, Any] = {}
    if any(row["caption_vector"] for row in rows):
        of_captions["caption"], of_captions["has_caption"] = _vectors([row["caption_vector"] for row in rows])
    return PointBatch(ids=[row["id"] for row in rows], payloads=payloads, image=image, **of_captions)


def _whole_payload(row: Row, captions: _Captions) -> dict[str, Any]:
    caption = captions[row["id"]] if row["caption_hash"] is not None else {}
    return {**_image_payload(row), "sources": row["sources"], **caption}


def _new_payload(row: Row, captions: _Captions) -> dict[str, Any]:
    payload = _whole_payload(row, captions)
    if row["keeps_text"]:  # its point has been deleted since the comparison, and the text with it
        payload |= own_caption(row).with_caption(None).payload()
    return payload


def _image_payload(row: Row) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "uri": row["uri"],
        "bucket": row["bucket"],
        "key": row["key"],
        "etag": row["etag"],
        "size": row["size"],
        "width": row["width"],
        "height": row["height"],
        "format": row["format"],
        "kind": "image",
    }
    if row["last_modified"]:  # Qdrant rejects an empty string as a date
        payload["last_modified"] = row["last_modified"]
    if row["image_hash"]:
        payload[IMAGE_HASH] = row["image_hash"]
    return payload


def _caption_payload(row: Row) -> Mapping[str, Any]:
    """The payload fields of a caption; empty values if the caption was removed."""
    if row["caption_hash"] is None or row["caption_details"] is None:
        return NO_CAPTION
    return CaptionRecord(row["caption"], row["caption_hash"], row["caption_details"]).payload()


def _vectors(cells: Sequence[bytes | None]) -> tuple[Vectors, Mask]:
    """float32 [N, D] with zeros where a cell is None, and a mask bool [N] of the cells that are present."""
    present = np.array([cell is not None for cell in cells], bool)
    dimension = next((len(cell) // 4 for cell in cells if cell is not None), 1)
    vectors = np.zeros((len(cells), dimension), np.float32)
    for position, cell in enumerate(cells):
        if cell is not None:
            vectors[position] = np.frombuffer(cell, np.float32)
    return vectors, present


def _cell_vector(cell: bytes | None) -> Vectors:
    """float32 [D]."""
    return np.frombuffer(cell or b"", np.float32)


def _slices(rows: Sequence[Row], size: int) -> Iterable[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
