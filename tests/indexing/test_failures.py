"""Failures that count for good, and failures that a later run tries again."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.compare import Compare
from viewfinder.indexing.failures import deciders
from viewfinder.indexing.rows import Row, rows_of, table_of
from viewfinder.indexing.write import write_rows
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, PointBatch, Store
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.memory_store import open_in_memory

URI = "s3://b/1.jpg"
ID = point_id(URI)
DECIDED_BY = deciders(ImageLimits(100, 100), "fingerprint")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_in_memory(tmp_path) as made:
        yield made


@pytest.fixture
def collection(store: Store) -> Collection:
    """A collection with an image of the ETag "old"."""
    made = store.collections.open("images", ModelIdentity("m", "f" * 12, 2))
    payload = {"uri": URI, "etag": "old", "sources": ["s3://b"]}
    store.points.upsert(made, PointBatch([ID], [payload], image=np.ones((1, 2), np.float32)), wait=True)
    return made


def compare(store: Store, collection: Collection, decided_by: Mapping[str, str] = DECIDED_BY, **options: Any) -> Row:
    """Compare the object, whose ETag is "new"."""
    listed: Row = {"uri": URI, "bucket": "b", "key": "1.jpg", "etag": "new", "size": 1, "sources": ["s3://b"]}
    listed["last_modified"] = "2026-01-01T00:00:00+00:00"
    stage = Compare(ObjectAccess(), store.address, collection, decided_by=decided_by, **options)
    (row,) = rows_of(stage.with_store(table_of([listed]), store))
    return row


def fail(
    store: Store,
    collection: Collection,
    reason: str,
    *,
    run_id: str = "run",
    on: str = "machine",
    machines: int = 1,
    stage: str = "decode",
    permanent: bool = True,
) -> bool:
    """Let the object fail as in a run; return True if its point is still there."""
    row = compare(store, collection)
    assert row["action"] == "index"
    crashed_on = on if reason == "decoder_crashed" else None
    permanent = permanent and crashed_on is None
    row |= {"action": "failed", "stage": stage, "reason": reason, "message": "", "permanent": permanent}
    row["crashed_on"] = crashed_on
    table = table_of([row])
    write_rows(store, collection, table, run_id=run_id, batch_size=4, decided_by=DECIDED_BY, machines=machines)
    return ID in store.points.states(collection, [ID])


def test_a_permanent_failure_is_tried_again_when_what_decided_it_changes(store: Store, collection: Collection) -> None:
    """HEIC stayed failed after an upgrade that reads HEIC."""
    assert not fail(store, collection, "unsupported")
    assert compare(store, collection)["action"] == "failed"
    assert compare(store, collection, {**DECIDED_BY, "decode": "another decoder"})["action"] == "index"
    assert compare(store, collection, deciders(ImageLimits(100, 200), "fingerprint"))["action"] == "index"
    assert compare(store, collection, deciders(ImageLimits(100, 100), "another model"))["action"] == "failed"
    assert compare(store, collection, retry_failed=True)["action"] == "index"


def test_a_failure_of_the_encoder_holds_for_its_model(store: Store, collection: Collection) -> None:
    fail(store, collection, "not_finite", stage="encode")
    assert compare(store, collection)["action"] == "failed"
    assert compare(store, collection, deciders(ImageLimits(100, 100), "another model"))["action"] == "index"


def test_an_object_beyond_a_limit_keeps_its_point_and_is_not_read_again(store: Store, collection: Collection) -> None:
    assert fail(store, collection, "too_many_pixels", permanent=False)
    assert (compare(store, collection)["action"], compare(store, collection)["exists"]) == ("failed", True)
    assert compare(store, collection, deciders(ImageLimits(100, 200), "fingerprint"))["action"] == "index"


@pytest.mark.parametrize("reason", ["decode_timeout", "decoder_out_of_memory"])
def test_a_doubtful_failure_never_counts_for_good(reason: str, store: Store, collection: Collection) -> None:
    for number in range(3):
        assert fail(store, collection, reason, run_id=f"run {number}", permanent=False)
    assert compare(store, collection)["action"] == "index"


def test_on_a_single_machine_a_crash_is_blamed_on_the_file_after_two_runs(store: Store, collection: Collection) -> None:
    assert fail(store, collection, "decoder_crashed", run_id="first")
    assert fail(store, collection, "decoder_crashed", run_id="first"), "a task that ran twice"
    assert not fail(store, collection, "decoder_crashed", run_id="second")
    assert compare(store, collection)["action"] == "failed"


def test_in_a_cluster_a_crash_needs_a_second_machine(store: Store, collection: Collection) -> None:
    """One node that crashed decoders barred good images, and deleted the points of changed ones."""
    for number in range(3):
        assert fail(store, collection, "decoder_crashed", run_id=f"run {number}", on="bad", machines=2)
    assert not fail(store, collection, "decoder_crashed", run_id="last", on="other", machines=2)
    assert compare(store, collection)["action"] == "failed"


def test_a_crash_is_not_blamed_on_an_image_whose_etag_has_another_form(store: Store, collection: Collection) -> None:
    """The endpoint gives other ETags now, and so two runs read the image again, at once and on a bad machine."""
    digest = "0cc175b9c0f1b6a831c399e269772661"
    same = {"uri": URI, "etag": digest, "size": 1, "last_modified": "2026-01-01T00:00:00+00:00", "sources": ["s3://b"]}
    store.points.upsert(collection, PointBatch([ID], [same], image=np.ones((1, 2), np.float32)), wait=True)
    for number in range(3):
        assert fail(store, collection, "decoder_crashed", run_id=f"run {number}")
    assert compare(store, collection)["action"] == "index"


def test_crashes_of_earlier_content_do_not_count(store: Store, collection: Collection) -> None:
    fail(store, collection, "decoder_crashed", run_id="first")
    (failure,) = store.control("images").failures([ID]).values()
    assert failure.crashes == ("machine first",)
    earlier = {ID: type(failure)(**{**failure.__dict__, "etag": "older"})}
    store.control("images").record_failures(earlier)
    assert fail(store, collection, "decoder_crashed", run_id="second")


def test_a_broken_object_does_not_delete_what_another_run_has_indexed_since(
    store: Store, collection: Collection
) -> None:
    row = compare(store, collection)
    payload = {"uri": URI, "etag": "newest", "sources": ["s3://b"]}
    store.points.upsert(collection, PointBatch([ID], [payload], image=np.ones((1, 2), np.float32)), wait=True)
    row |= {"action": "failed", "stage": "decode", "reason": "truncated", "message": "", "permanent": True}
    write_rows(store, collection, table_of([row]), run_id="run", batch_size=4, decided_by=DECIDED_BY)
    assert ID in store.points.states(collection, [ID])
