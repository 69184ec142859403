"""The write stage: what Qdrant cannot store is a failed object, and the run goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from viewfinder.indexing.accounting import MAX_WARNED, Tally
from viewfinder.indexing.rows import Row, table_of
from viewfinder.indexing.write import write_rows
from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.uris import point_id
from viewfinder.sources.versions import Version
from viewfinder.store import Collection, Store, StoreAddress
from viewfinder.store.records import PointBatch, StoredPoint
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow

LIMIT = 20_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with QdrantDouble(max_request_bytes=LIMIT) as double:
        address = StoreAddress(tmp_path, url=double.url, retry_s=0, max_request_bytes=LIMIT)
        with Store(ServerClient(address), address) as made:
            yield made


@pytest.fixture
def collection(store: Store) -> Collection:
    return store.collections.open("images", ModelIdentity("m", "f00d", 2))


def row(name: str, vector: list[float], **columns: Any) -> Row:
    uri = f"s3://b/{name}"
    made: dict[str, Any] = {
        "id": point_id(uri),
        "action": "index",
        "count": 1,
        "exists": False,
        "uri": uri,
        "bucket": "b",
        "key": name,
        "etag": "e",
        "sources": ["s3://b"],
        "image_vector": np.array(vector, np.float32).tobytes(),
    }
    return made | columns  # type: ignore[return-value]  # columns of any name


def version(etag: str, last_modified: str = "") -> dict[str, Any]:
    """The version of a point that exists."""
    return Version(etag, last_modified=last_modified)._asdict()


def write(store: Store, collection: Collection, *rows: Row) -> dict[str, int]:
    tally = write_rows(store, collection, table_of(rows), run_id="r", batch_size=128)
    return {"indexed": tally.indexed, "failed": tally.failed, "stale": tally.stale}


def reasons(store: Store, *names: str) -> dict[str, tuple[str, str, bool]]:
    ids = {point_id(f"s3://b/{name}"): name for name in names}
    found = store.control("images").failures(list(ids))
    return {ids[each]: (failure.stage, failure.reason, failure.permanent) for each, failure in found.items()}


@pytest.mark.parametrize("vector", [[np.nan, 0.0], [np.inf, 1.0], [0.0, 0.0], [1e38, 1e38]], ids=str)
def test_a_vector_without_direction_is_a_failed_object(
    store: Store, collection: Collection, vector: list[float]
) -> None:
    rows = (row("good", [1.0, 0.0]), row("bad", vector))
    assert write(store, collection, *rows) == {"indexed": 1, "failed": 1, "stale": 0}
    assert reasons(store, "good", "bad") == {"bad": ("encode", "unusable_vector", False)}
    assert store.points.count(collection) == 1


def test_a_doubtful_failure_keeps_the_live_point(store: Store, collection: Collection) -> None:
    write(store, collection, row("bad", [1.0, 0.0]))
    changed = row("bad", [np.nan, 0.0], exists=True, etag="e2")
    assert write(store, collection, changed) == {"indexed": 0, "failed": 1, "stale": 1}
    assert store.points.count(collection) == 1


@pytest.mark.parametrize("exists", [False, True], ids=["new", "changed"])
def test_a_point_that_exceeds_the_request_limit_alone_is_a_failed_object(
    store: Store, collection: Collection, exists: bool
) -> None:
    caption = CaptionRecord.of("x" * LIMIT)
    large = {"caption": caption.caption, "caption_hash": caption.caption_hash, "caption_details": caption.details}
    if exists:
        write(store, collection, row("large", [1.0, 0.0]))
        large |= {"action": "caption", "caption_applies": True, "image_vector": None, "exists": True}
    rows = (row("good", [1.0, 0.0]), row("large", [1.0, 0.0], **large))
    assert write(store, collection, *rows) == {"indexed": 1, "failed": 1, "stale": int(exists)}
    assert reasons(store, "good", "large") == {"large": ("write", "point_too_large", False)}
    failure = store.control("images").failures([point_id("s3://b/large")])[point_id("s3://b/large")]
    assert "more than Qdrant accepts in one request" in failure.message


def test_the_words_of_a_text_count_towards_the_request_limit(store: Store, collection: Collection) -> None:
    caption = CaptionRecord.of("狗" * (LIMIT // 6))
    large = {"caption": caption.caption, "caption_hash": caption.caption_hash, "caption_details": caption.details}
    assert write(store, collection, row("large", [1.0, 0.0], **large)) == {"indexed": 0, "failed": 1, "stale": 0}
    assert reasons(store, "large") == {"large": ("write", "point_too_large", False)}


@pytest.mark.parametrize(("modified", "kept"), [("2026-01-02T00:00:00Z", "later"), ("2026-01-04T00:00:00Z", "r")])
def test_the_later_content_of_two_runs_stays(store: Store, collection: Collection, modified: str, kept: str) -> None:
    """One run compares and reads an object, the other writes its next content, and then the first one writes."""
    later = row("image", [0.0, 1.0], etag="e3", last_modified="2026-01-03T00:00:00Z")
    write_rows(store, collection, table_of([later]), run_id="later", batch_size=128)
    for known in (None, version("e1")):
        own = row("image", [1.0, 0.0], etag="e2", last_modified=modified, exists=known is not None, stored=known)
        write(store, collection, own)
    (record,) = store.points.iterate(collection)
    assert (record.payload["run_id"], record.payload["etag"]) == (kept, "e3" if kept == "later" else "e2")


def test_the_hash_of_the_image_follows_its_content(store: Store, collection: Collection) -> None:
    first, second = (f"{number:08}-0000-0000-0000-000000000000" for number in (1, 2))

    def stored_hash() -> object:
        (record,) = store.points.iterate(collection)
        return record.payload.get("image_hash")

    write(store, collection, row("image", [1.0, 0.0], etag="e1", image_hash=first))
    assert stored_hash() == first
    caption = CaptionRecord.of("a cat")
    changes = {"caption": caption.caption, "caption_hash": caption.caption_hash, "caption_details": caption.details}
    changes |= {"action": "caption", "caption_applies": True, "image_vector": None}
    changes |= {"exists": True, "stored": version("e1")}
    write(store, collection, row("image", [1.0, 0.0], etag="e1", **changes))
    assert stored_hash() == first
    write(store, collection, row("image", [0.0, 1.0], etag="e2", exists=True, stored=version("e1"), image_hash=second))
    assert stored_hash() == second
    write(store, collection, row("image", [0.0, 1.0], etag="e3", exists=True, stored=version("e2")))
    assert stored_hash() is None


class Interleaved(ServerClient):
    """Calls `meanwhile` once, right before the first change of points that exist."""

    meanwhile: Callable[[], object] | None = None

    def call(self, method: str, **arguments: Any) -> Any:
        is_new = arguments.get("update_mode") == models.UpdateMode.INSERT_ONLY
        changes = method in ("upsert", "delete", "batch_update_points") and not is_new
        if changes and not arguments["collection_name"].endswith("__control") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().call(method, **arguments)


@pytest.fixture
def interleaved(store: Store) -> Iterator[Store]:
    """A second program on the same server."""
    with Store(Interleaved(store.address), store.address) as made:
        yield made


def meanwhile(interleaved: Store, action: Callable[[], object]) -> None:
    interleaved.connection.client.meanwhile = action  # type: ignore[attr-defined]  # that of the test's client


def captioned(text: str | None, **columns: Any) -> dict[str, Any]:
    """Columns of a row whose captions file has this text."""
    record = CaptionRecord.of(text, ["tag"] if text is None else [])
    vector = None if text is None else np.array([len(text), 1], np.float32).tobytes()
    caption = {"caption": text, "caption_hash": record.caption_hash, "caption_details": record.details}
    return caption | {"caption_applies": True, "caption_vector": vector} | columns


def stored(store: Store, collection: Collection) -> StoredPoint:
    (point,) = store.points.whole(collection, [point_id("s3://b/image")]).values()
    return point


def test_a_later_content_that_another_run_writes_at_the_same_moment_stays(
    store: Store, interleaved: Store, collection: Collection
) -> None:
    """Both runs had found the point out of date, and the one with the older content wrote it last."""
    write(store, collection, row("image", [1.0, 0.0], etag="e1", last_modified="2026-01-01T00:00:00Z"))
    known = {"exists": True, "stored": version("e1", "2026-01-01T00:00:00Z")}
    older = row("image", [0.0, 1.0], etag="e2", last_modified="2026-01-02T00:00:00Z", **known)
    later = row("image", [0.6, 0.8], etag="e3", last_modified="2026-01-03T00:00:00Z", **known)
    meanwhile(interleaved, lambda: write_rows(store, collection, table_of([later]), run_id="s", batch_size=9))
    assert write(interleaved, collection, older) == {"indexed": 1, "failed": 0, "stale": 0}
    point = stored(store, collection)
    assert point.payload["etag"] == "e3"
    np.testing.assert_allclose(point.vectors["image"], [0.6, 0.8], atol=1e-6)


def test_of_two_runs_the_later_content_stays_where_all_etags_are_the_same(store: Store, collection: Collection) -> None:
    """One ETag for all objects: the run with the older content took the later one for the point that it compared."""
    first, second, third = (f"2026-01-0{day}T00:00:00Z" for day in (1, 2, 3))
    write(store, collection, row("image", [1.0, 0.0], etag="", size=7, last_modified=first))
    known = {"exists": True, "stored": Version("", 7, first)._asdict()}
    later = row("image", [0.6, 0.8], etag="", size=7, last_modified=third, **known)
    older = row("image", [0.0, 1.0], etag="", size=7, last_modified=second, **known)
    failure = {"action": "failed", "stage": "decode", "reason": "truncated", "message": "", "permanent": True}
    for each in (later, older, older | failure):
        write(store, collection, each)
    assert stored(store, collection).payload["last_modified"] == third


@pytest.mark.parametrize("moment", ["before the write", "during the write"])
def test_a_point_that_another_run_prunes_after_the_comparison_is_written_again(
    store: Store, interleaved: Store, collection: Collection, moment: str
) -> None:
    """Regression: the object was missing when the other run listed it, came back, and was lost until the next run."""
    write(store, collection, row("image", [1.0, 0.0], etag="e1"))
    back = row("image", [0.0, 1.0], etag="e2", exists=True, stored=version("e1"), **captioned("a cat"))
    if moment == "before the write":
        store.points.delete(collection, [back["id"]])
    else:
        meanwhile(interleaved, lambda: store.points.delete(collection, [back["id"]]))
    assert write(interleaved, collection, back) == {"indexed": 1, "failed": 0, "stale": 0}
    point = stored(store, collection)
    assert (point.payload["etag"], point.payload["caption"]) == ("e2", "a cat")
    assert point.vectors.keys() == {"image", "caption"}


def test_a_point_that_is_taken_down_during_the_write_stays_deleted(
    store: Store, interleaved: Store, collection: Collection
) -> None:
    """It was written again like a pruned one, and could be found until the end of the run."""
    write(store, collection, row("image", [1.0, 0.0], etag="e1"))
    changed = row("image", [0.0, 1.0], etag="e2", exists=True, stored=version("e1"))
    meanwhile(interleaved, lambda: store.take_down("images", {changed["id"]: changed["uri"]}))
    write(interleaved, collection, changed)
    assert store.points.count(collection) == 0


class TwoShards(ServerClient):
    """Applies an insert that does not wait when one that waits reaches the shard of its points, here the same points.

    `pending` are those that are not applied yet.
    """

    def __init__(self, address: StoreAddress) -> None:
        super().__init__(address)
        self.pending: list[dict[str, Any]] = []

    def call(self, method: str, **arguments: Any) -> Any:
        if arguments.get("update_mode") != models.UpdateMode.INSERT_ONLY or "wait" not in arguments:
            return super().call(method, **arguments)
        if not arguments["wait"]:
            self.pending.append(arguments)
            return None
        for each in [each for each in self.pending if set(each["points"].ids) & set(arguments["points"].ids)]:
            self.pending.remove(each)
            super().call(method, **each)
        return super().call(method, **arguments)


def test_inserts_that_the_server_applies_late_are_compared_with_those_of_another_run(
    store: Store, collection: Collection
) -> None:
    """The older content of another run, which could not be read yet, stayed: the insert had found a point."""
    older = {"uri": "s3://b/image", "etag": "e1", "sources": ["s3://b/x"], "last_modified": "2026-01-01T00:00:00Z"}
    rows = [
        row("image", [0.0, 1.0], etag="e2", last_modified="2026-01-02T00:00:00Z"),
        row("last", [0.0, 1.0], etag="e3"),
    ]
    client = TwoShards(store.address)
    with Store(client, store.address) as sharded:
        batch = PointBatch([rows[0]["id"]], [older], image=np.array([[1.0, 0.0]], np.float32))
        sharded.points.upsert(collection, batch, wait=False, only_new=True)
        write_rows(sharded, collection, table_of(rows), run_id="r", batch_size=1)
    assert not client.pending, "a run that has ended has points that cannot be read"
    point = stored(store, collection)
    assert (point.payload["etag"], set(point.payload["sources"])) == ("e2", {"s3://b", "s3://b/x"})
    np.testing.assert_allclose(point.vectors["image"], [0.0, 1.0], atol=1e-6)


def test_a_caption_and_a_content_that_two_runs_write_at_the_same_moment_both_stay(
    store: Store, interleaved: Store, collection: Collection
) -> None:
    write(store, collection, row("image", [1.0, 0.0], etag="e1"))
    caption = row("image", [], image_vector=None, action="caption", exists=True, **captioned("a cat"))
    changed = row("image", [0.0, 1.0], etag="e2", exists=True, stored=version("e1"))
    meanwhile(interleaved, lambda: write_rows(store, collection, table_of([caption]), run_id="s", batch_size=9))
    write(interleaved, collection, changed)
    point = stored(store, collection)
    assert (point.payload["etag"], point.payload["caption"], point.payload["run_id"]) == ("e2", "a cat", "r")
    np.testing.assert_allclose(point.vectors["image"], [0.0, 1.0], atol=1e-6)
    assert point.state.has_caption


@pytest.mark.parametrize("action", ["caption", "index"])
@pytest.mark.parametrize("exists", [False, True], ids=["new", "existed"])
def test_a_record_without_a_text_keeps_the_text_that_another_run_writes_at_the_same_moment(
    store: Store, interleaved: Store, collection: Collection, action: str, exists: bool
) -> None:
    if exists:
        write(store, collection, row("image", [1.0, 0.0], etag="e1"))
    blank = captioned(None, keeps_text=True, action=action, exists=exists, stored=version("e1") if exists else None)
    vector = {"image_vector": None} if action == "caption" else {}
    own = row("image", [0.0, 1.0], etag="e2", **blank | vector)
    other = row("image", [1.0, 0.0], etag="e1", exists=exists, **captioned("a cat"))
    write_other = lambda: write_rows(store, collection, table_of([other]), run_id="s", batch_size=9)  # noqa: E731
    if exists:
        meanwhile(interleaved, write_other)
    else:
        write_other()
    write(interleaved, collection, own)
    point = stored(store, collection)
    assert (point.payload["caption"], point.payload["tags"]) == ("a cat", ["tag"])
    assert point.payload["caption_hash"] == CaptionRecord.of("a cat", ["tag"]).caption_hash
    expected = np.array([5, 1]) / np.hypot(5, 1)
    np.testing.assert_allclose(point.vectors["caption"], expected, atol=1e-6)


def test_a_point_that_is_deleted_after_the_comparison_comes_back_without_the_text_that_it_had(
    store: Store, collection: Collection
) -> None:
    """Its vector was not read: the point was to keep it."""
    own = CaptionRecord.of(None, ["tag"])
    columns = captioned("a cat", keeps_text=True, caption_vector=None, caption_details=own.details)
    write(store, collection, row("image", [0.0, 1.0], etag="e2", exists=True, stored=version("e1"), **columns))
    point = stored(store, collection)
    assert (point.payload["caption"], point.payload["tags"]) == (None, ["tag"])
    assert point.payload["caption_hash"] == own.caption_hash
    assert point.vectors.keys() == {"image"}


def test_a_content_that_another_run_writes_is_not_deleted_for_a_broken_one(
    store: Store, interleaved: Store, collection: Collection
) -> None:
    write(store, collection, row("image", [1.0, 0.0], etag="e1"))
    failure: Any = {"action": "failed", "stage": "decode", "reason": "corrupt", "message": "", "permanent": True}
    broken = row("image", [], etag="e2", image_vector=None, exists=True, stored=version("e1"), **failure)
    good = row("image", [0.0, 1.0], etag="e3", exists=True, stored=version("e1"))
    meanwhile(interleaved, lambda: write_rows(store, collection, table_of([good]), run_id="s", batch_size=9))
    write(interleaved, collection, broken)
    assert stored(store, collection).payload["etag"] == "e3"


def test_failures_are_counted_by_the_stage_and_reason_that_are_written(store: Store, collection: Collection) -> None:
    known: Any = {"action": "failed", "stage": "decode", "reason": "corrupt", "message": "", "permanent": True}
    large = CaptionRecord.of("x" * 2 * LIMIT, (), {})
    caption: Any = {"caption": large.caption, "caption_hash": large.caption_hash, "caption_details": large.details}
    rows = [row("a", [1, 0]), row("b", [1, 0], **known), row("c", [1, 0], **caption), row("d", [float("nan"), 0])]
    tally = write_rows(store, collection, table_of(rows), run_id="r", batch_size=128)
    assert tally.failures == {
        ("decode", "corrupt"): 1,
        ("write", "point_too_large"): 1,
        ("encode", "unusable_vector"): 1,
    }


def test_a_run_lists_the_first_images_with_warnings() -> None:
    total = sum((Tally(truncated_tail=30, warned=(f"s3://b/{number}",) * 30) for number in range(10)), Tally())
    assert (total.truncated_tail, len(total.warned)) == (300, MAX_WARNED)
