"""The first stage: compare each listed object with the collection and set its action."""

import functools
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import pyarrow as pa

from viewfinder.errors import ObjectError
from viewfinder.indexing.connections import objects_of
from viewfinder.indexing.failures import fails_again, is_same_decision
from viewfinder.indexing.losses import is_lost, note_live, state_of
from viewfinder.indexing.pools import thread_pool
from viewfinder.indexing.rows import Row, rows_of, table_of
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.skips import CONTENT_SKIPS
from viewfinder.sources.uris import point_id
from viewfinder.sources.versions import Version, constant_etags, is_same, version_of
from viewfinder.store import Collection, Failure, PointState, Store, StoreAddress, connect
from viewfinder.store.takedowns import taken_down

# Ids in one request. Larger requests are not faster, and block the embedded store's only thread longer.
COMPARE_BATCH_SIZE = 1000


@dataclass(frozen=True)
class Compare:
    """Rows of a manifest → the same rows with their `action`, by version (`sources.versions`) and caption hash.

    `captions` is True if captions files were given; otherwise existing captions stay as they are, as do those of
    objects that no file names. A record without a text keeps the text that its object has. A permanent failure holds
    while `decided_by` (`viewfinder.indexing.failures`) is as recorded; with `retry_failed` none does. With
    `captions_from` these have the caption that they have in that collection, with `captions_over` unless another run
    than these has written the point. Without a collection (a dry run before the first run) every object is new. `live`
    is the collection that `collection` is built beside, so that objects that only the live one has are counted.

    Rows that need nothing more are folded into one row of each kind. With `in_place` none is: each object is one row,
    in the order of the manifest, whatever the collection has by then. Where a stage streams to the next one, a row must
    be found at its place if Ray makes a lost block again.
    """

    access: ObjectAccess
    address: StoreAddress
    collection: Collection | None
    decided_by: Mapping[str, str] = field(default_factory=dict)
    retry_failed: bool = False
    captions: bool = False
    captions_from: Collection | None = None
    captions_over: frozenset[str] | None = None
    live: Collection | None = None
    stat_threads: int = 16
    in_place: bool = False

    def __call__(self, table: pa.Table) -> pa.Table:
        """Compare in a process that connects to the store by its address."""
        return self.with_store(table, store_at(self.address))

    def with_store(self, table: pa.Table, store: Store) -> pa.Table:
        """Compare through a store that is already open."""
        began = time.perf_counter()
        rows = rows_of(table)
        for row in rows:
            row["id"] = point_id(row["uri"])
        excluded_ids = self._taken_down(rows, store)
        present = [row for row in rows if row["id"] not in excluded_ids]
        states = self._states([row["id"] for row in present], store)
        _forget_constant_etags(present)
        self._stat([row for row in present if not version_of(row).is_known])
        _forget_constant_etags(present)  # HEAD may give the same one
        archived = [row for row in present if row["skip"] == "archived" and _is_new(row, states.get(row["id"]))]
        self._find_restored(archived, store)
        failures = self._failures([row["id"] for row in present if _is_new(row, states.get(row["id"]))], store)
        known = [row for row in present if row["id"] in states or row["id"] in failures]
        self._stat(
            [row for row in known if _is_given(row) and _differs(row, states.get(row["id"]), failures.get(row["id"]))]
        )
        self._take_over_captions(present, states, store)
        self._keep_texts(present, states, store)
        compared = [self._compare(row, states.get(row["id"]), failures.get(row["id"])) for row in present]
        # The fetch stage limits bytes in flight by size, so every object to fetch needs one. Unchanged objects do not.
        self._stat([row for row in compared if row["action"] == "index" and row["etag"] and row["size"] < 0])
        if self.live is not None:
            doubtful = [row for row in compared if row["action"] not in ("unchanged", "sources")]
            note_live(doubtful, store.points.states(self.live, [row["id"] for row in doubtful]))
        left = self._states(list(excluded_ids), store)  # the takedown did not find their points
        shown = iter([_counted(row) if _is_only_counted(row, states.get(row["id"])) else row for row in compared])
        todo = [_row_taken_down(row, left) if row["id"] in excluded_ids else next(shown) for row in rows]
        if not self.in_place:
            todo = _folded(todo)
        if todo:
            todo[0]["compare_s"] = time.perf_counter() - began
        return table_of(todo)

    def _taken_down(self, rows: Sequence[Row], store: Store) -> set[str]:
        if self.collection is None:
            return set()
        return taken_down(store.control(self.collection.index), {row["id"]: row["uri"] for row in rows})

    def _states(self, ids: Sequence[str], store: Store) -> dict[str, PointState]:
        return {} if self.collection is None else store.points.states(self.collection, ids)

    def _failures(self, ids: Sequence[str], store: Store) -> dict[str, Failure]:
        return {} if self.collection is None else store.control(self.collection.index).failures(ids)

    def _take_over_captions(self, rows: Sequence[Row], states: Mapping[str, PointState], store: Store) -> None:
        """Give objects that no captions file names the captions that they have in another collection."""
        for row in rows:
            row["caption_applies"] = False
        if self.captions_from is None:
            return
        unnamed = {row["id"]: row for row in rows if not (self.captions and row["caption_hash"] is not None)}
        if self.captions_over is not None:
            written = {id_ for id_, state in states.items() if state.run_id not in self.captions_over}
            unnamed = {id_: row for id_, row in unnamed.items() if id_ not in written}
        # Without payloads first: most captions are the same already.
        theirs = store.points.states(self.captions_from, list(unnamed))
        differ = [
            id_ for id_, state in theirs.items() if id_ not in states or states[id_].caption_hash != state.caption_hash
        ]
        for id_, record in store.points.records(self.captions_from, differ).items():
            row, payload = unnamed[id_], record.payload
            row["caption_applies"] = True
            row["caption"] = row["caption_hash"] = row["caption_details"] = None
            if payload.get("caption_hash"):
                known = CaptionRecord.of(payload.get("caption"), payload.get("tags") or (), payload.get("meta"))
                row["caption"], row["caption_hash"] = known.caption, str(payload["caption_hash"])
                row["caption_details"] = known.details

    def _keep_texts(self, rows: Sequence[Row], states: Mapping[str, PointState], store: Store) -> None:
        """Give records without a text the text that their objects have. Another run may write one until the write."""
        if not self.captions:
            return
        without = {
            row["id"]: row
            for row in rows
            if not row["caption_applies"] and row["caption_hash"] is not None and row["caption"] is None
        }
        own = [
            id_ for id_ in without if self.captions_from is None or (self.captions_over is not None and id_ in states)
        ]
        for id_ in own:
            without[id_]["keeps_text"] = True
        with_text = [id_ for id_ in own if id_ in states and states[id_].has_caption]
        for source, ids in ((self.collection, with_text), (self.captions_from, list(without.keys() - set(own)))):
            for id_, record in store.points.records(source, ids).items() if source and ids else ():
                row = without[id_]
                whole = own_caption(row).with_caption(record.payload.get("caption"))
                row["caption"], row["caption_hash"], row["caption_details"] = astuple(whole)

    def _stat(self, rows: list[Row]) -> None:
        """Fill in ETag and size where the listing has none. The fetch stage reports objects whose stat fails."""
        if not rows:
            return
        objects = objects_of(self.access)

        def fill(row: Row) -> None:
            try:
                info = objects.stat(row["uri"])
            except ObjectError:
                return
            row["etag"], row["size"], row["last_modified"] = info.version
            row["skip"] = row["skip"] or ("archived" if info.archived else None)

        with thread_pool(self.stat_threads) as pool:
            list(pool.map(fill, rows))

    def _find_restored(self, rows: list[Row], store: Store) -> None:
        """Let archived objects be read that have been restored, where their listing does not show it.

        That takes a request for each, so others than `retry_failed` asks for are those that the live collection has.
        """
        if not self.retry_failed:
            states = {} if self.live is None else store.points.states(self.live, [row["id"] for row in rows])
            rows = [row for row in rows if row["id"] in states]
        restored = objects_of(self.access).restored([row["uri"] for row in rows])
        for row in rows:
            if row["uri"] in restored:
                row["skip"] = None

    def _compare(self, row: Row, state: PointState | None, failure: Failure | None) -> Row:
        applies = row["caption_applies"] or (self.captions and row["caption_hash"] is not None)
        if not applies:
            row["caption"] = row["caption_hash"] = row["caption_details"] = None
        row["count"], row["caption_applies"] = 1, applies
        row["exists"], row["had_failure"] = state is not None, failure is not None
        row["stored"] = None if state is None else state_of(state)
        row["action"], row["live"] = "index", None
        if row["skip"] in ("hidden", "video"):
            return _skip(row, row["skip"], state)
        if (
            failure is not None
            and is_same(version_of_failure(failure), version_of(row))
            and is_same_decision(failure, self.decided_by)
        ):
            row["crashes"] = list(failure.crashes)
            if _is_current(failure, state) and fails_again(failure) and not self.retry_failed:
                if failure.reason in CONTENT_SKIPS:
                    return _skip(row, failure.reason, state)
                row["action"], row["permanent"], row["decided_by"] = "failed", failure.permanent, failure.decided_by
                row["stage"], row["reason"], row["message"] = failure.stage, failure.reason, failure.message
                return row
        changed = _is_new(row, state)
        if changed and row["skip"] is not None:
            return _skip(row, row["skip"], state)
        if state is None:
            return row
        if changed:
            row["action"] = "index"
        elif applies and (row["caption_hash"] or "") != (state.caption_hash or ""):
            row["action"] = "caption"
        else:
            row["action"] = "unchanged" if set(row["sources"]) <= set(state.sources) else "sources"
        return row


def _is_current(failure: Failure, state: PointState | None) -> bool:
    """False if there is a point that this failure would delete.

    It may be of a later content, which another run has indexed since the listing: the object is read again.
    """
    return state is None or not (failure.permanent or failure.reason in CONTENT_SKIPS)


def _is_only_counted(row: Row, state: PointState | None) -> bool:
    """True if nothing else is to be done. An archived object that has changed keeps its point, in all its sources."""
    if row["action"] == "skipped":
        return row["reason"] != "archived" or state is None or set(row["sources"]) <= set(state.sources)
    return row["action"] == "unchanged"


def _counted(row: Row) -> Row:
    """The part of a row that is counted."""
    if row["action"] == "unchanged":
        return {"action": "unchanged", "count": 1}
    lost = is_lost(row, keeps_point=True)
    return {"action": "skipped", "reason": row["reason"], "exists": row["exists"], "lost": lost, "count": 1}


def _row_taken_down(row: Row, left: Mapping[str, PointState]) -> Row:
    """The row of an object that is taken down. Its point is to be deleted if it is in `left`."""
    made: Row = {"action": "skipped", "reason": "taken_down", "exists": False, "count": 1}
    return made | {"id": row["id"], "uri": row["uri"]} if row["id"] in left else made


def _folded(rows: Sequence[Row]) -> list[Row]:
    """The rows, those without an object added up at the end."""
    counts = Counter(tuple(sorted(row.items())) for row in rows if "uri" not in row)
    todo = [row for row in rows if "uri" in row]
    return todo + [{**dict(kind), "count": count} for kind, count in counts.items()]  # type: ignore[typeddict-item]


def _is_given(row: Row) -> bool:
    """True for an ETag from the user's manifest, where it may be old: a listing of a store gives a time with it."""
    return bool(row["etag"]) and not row["last_modified"]


def _differs(row: Row, state: PointState | None, failure: Failure | None) -> bool:
    """True unless this is the version of the point or of the failure."""
    known = [version_of_state(state)] if state else []
    known += [version_of_failure(failure)] if failure else []
    return not any(is_same(each, version_of(row)) for each in known)


@functools.lru_cache(maxsize=4)
def store_at(address: StoreAddress) -> Store:
    """The store at this address, connected to once in a worker process and kept for its later tasks."""
    return connect(address)


def own_caption(row: Row) -> CaptionRecord:
    """The record of a row whose captions files name its object."""
    return CaptionRecord(row["caption"], row["caption_hash"] or "", row["caption_details"] or "{}")


def version_of_state(state: PointState) -> Version:
    """The version that a point was made from."""
    return Version(state.etag, state.size, state.last_modified)


def version_of_failure(failure: Failure) -> Version:
    """The version that failed."""
    return Version(failure.etag, failure.size, failure.last_modified)


def _skip(row: Row, reason: str, state: PointState | None) -> Row:
    row["action"], row["reason"] = "skipped", reason
    row["exists"] = state is not None and not set(state.sources).isdisjoint(row["sources"])
    return row


def _forget_constant_etags(rows: Sequence[Row]) -> None:
    if constant := constant_etags(map(version_of, rows)):
        for row in rows:
            row["etag"] = "" if row["etag"] in constant else row["etag"]


def _is_new(row: Row, state: PointState | None) -> bool:
    """True for content that the collection does not have, which may have failed before."""
    return state is None or not is_same(version_of_state(state), version_of(row))


def count_actions(tables: Iterable[pa.Table]) -> dict[str, int]:
    """Number of objects by action."""
    counts: Counter[str] = Counter()
    for table in tables:
        for action, count in zip(table["action"].to_pylist(), table["count"].to_pylist(), strict=True):
            counts[action] += count
    return dict(counts)


def count_to_encode(tables: Iterable[pa.Table]) -> int:
    """Number of rows with an image to fetch, or a caption to write, which most of them encode first."""
    counts = count_actions(tables)
    return counts.get("index", 0) + counts.get("caption", 0)
