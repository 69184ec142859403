"""The write stage: what Qdrant cannot store is a failed object, and the run goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.indexing.accounting import MAX_WARNED, Tally
from viewfinder.indexing.rows import Row, table_of
from viewfinder.indexing.write import write_rows
from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Store, StoreAddress
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

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
    return made | columns  # type: ignore[return-value]


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


@pytest.mark.parametrize(("modified", "kept"), [("2026-01-02T00:00:00Z", "later"), ("2026-01-04T00:00:00Z", "r")])
def test_the_later_content_of_two_runs_stays(store: Store, collection: Collection, modified: str, kept: str) -> None:
    """One run compares and reads an object, the other writes its next content, and then the first one writes."""
    later = row("image", [0.0, 1.0], etag="e3", last_modified="2026-01-03T00:00:00Z")
    write_rows(store, collection, table_of([later]), run_id="later", batch_size=128)
    for exists, known in ((False, None), (True, "e1")):
        own = row("image", [1.0, 0.0], etag="e2", last_modified=modified, exists=exists, stored_etag=known)
        write(store, collection, own)
    (record,) = store.points.iterate(collection)
    assert (record.payload["run_id"], record.payload["etag"]) == (kept, "e3" if kept == "later" else "e2")


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
