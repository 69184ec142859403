"""Taken down images stay out of the index, whenever the takedown happens."""

import unicodedata

import pyarrow as pa
import pytest

from tests.fixtures.indexing import World
from tests.fixtures.spellings import SPELLINGS
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.indexing.compare import Compare
from viewfinder.indexing.rows import table_of
from viewfinder.indexing.run import delete_taken_down
from viewfinder.indexing.write import write_rows
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(5)]


def take_down(world: World, *names: str) -> None:
    world.store.take_down(world.index, {point_id(f"{world.source}/{name}"): f"{world.source}/{name}" for name in names})


def listed(world: World, name: str, **more: object) -> dict[str, object]:
    """A row of the manifest."""
    content = (world.bucket / name).read_bytes()
    known = {"uri": f"{world.source}/{name}", "bucket": world.bucket.name, "key": name, "size": len(content)}
    return (
        known
        | {"etag": "new", "last_modified": "", "skip": None, "sources": [world.source], "caption_hash": None}
        | more
    )


def test_a_rerun_neither_fetches_nor_writes_taken_down_images(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    take_down(world, "01.jpg")
    assert world.sync() == {"listed": 5, "unchanged": 4, "indexed": 0, "skipped": 1, "failed": 0, "pruned": 0}
    assert (world.taken_down, world.images) == (1, 0)
    (world.bucket / "01.jpg").write_bytes(encoded_image(99, (64, 64)))  # not even with new content
    assert world.sync()["indexed"] == 0
    assert set(world.points) == set(NAMES) - {"01.jpg"}


def test_an_image_taken_down_before_its_first_run_is_skipped(world: World) -> None:
    fill(world.bucket, NAMES)
    take_down(world, "01.jpg", "02.jpg")
    assert world.sync() == {"listed": 5, "unchanged": 0, "indexed": 3, "skipped": 2, "failed": 0, "pruned": 0}
    assert world.taken_down == 2


def test_a_broken_object_that_was_taken_down_is_not_a_failure(world: World) -> None:
    fill(world.bucket, NAMES)
    (world.bucket / "bad.jpg").write_bytes(b"no image")
    take_down(world, "bad.jpg")
    assert world.sync()["failed"] == 0
    assert world.recorded_failures(["bad.jpg"]) == {}


def test_a_restored_image_is_indexed_again(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    take_down(world, "01.jpg")
    world.store.restore(world.index, [point_id(f"{world.source}/01.jpg")])
    assert world.sync()["indexed"] == 1
    assert set(world.points) == set(NAMES)


def test_the_writer_respects_a_takedown_after_the_comparison(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    rows = [listed(world, name, etag=f"new {name}", last_modified="2030-01-01T00:00:00Z") for name in NAMES[:3]]
    compared = Compare(world.access, world.store.address, world.collection)(pa.Table.from_pylist(rows))
    take_down(world, "01.jpg")
    broken = [row | {"action": "failed", "stage": "fetch", "reason": "not_found"} for row in compared.to_pylist()]
    tally = write_rows(world.store, world.collection, table_of(broken), run_id="run", batch_size=4)
    assert (tally.failed, tally.unchanged, tally.taken_down) == (2, 0, 1)
    assert set(world.recorded_failures(NAMES)) == {"00.jpg", "02.jpg"}


def test_a_point_written_after_its_takedown_is_deleted(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    taken = world.points["01.jpg"]
    before = world.store.points.vectors(world.collection, [taken.id], "image")
    take_down(world, "01.jpg")
    from viewfinder.store.records import PointBatch

    late = PointBatch([taken.id], [taken.payload], image=before[taken.id][None])
    world.store.points.upsert(world.collection, late, wait=True)
    assert delete_taken_down(world.store, world.collection) == 1
    assert set(world.points) == set(NAMES) - {"01.jpg"}
    assert delete_taken_down(world.store, world.collection) == 0


@pytest.mark.parametrize(("typed", "stored"), SPELLINGS)
def test_a_point_of_an_object_that_is_taken_down_in_another_spelling_is_deleted(
    world: World, typed: str, stored: str
) -> None:
    """Every run skipped the object, and its point stayed found: an older version had recorded the takedown alone."""
    fill(world.bucket, ["00.jpg", stored])
    world.sync()
    uri = unicodedata.normalize("NFC", f"{world.source}/{typed}")
    world.store.control(world.index).take_down({point_id(uri): uri})
    rows = [listed(world, name) for name in ("00.jpg", stored)]
    compared = Compare(world.access, world.store.address, world.collection)(pa.Table.from_pylist(rows))
    assert stored in world.points
    tally = write_rows(world.store, world.collection, compared, run_id="run", batch_size=4)
    assert (tally.taken_down, set(world.points)) == (1, {"00.jpg"})


@pytest.mark.parametrize("captions", [True, False])
def test_taken_down_rows_are_folded_into_a_count(world: World, captions: bool) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    take_down(world, "00.jpg", "01.jpg")
    rows = [listed(world, name) for name in NAMES]
    compared = Compare(world.access, world.store.address, world.collection, captions=captions)(
        pa.Table.from_pylist(rows)
    ).to_pylist()
    (taken_down,) = [row for row in compared if row["action"] == "skipped"]
    assert (taken_down["reason"], taken_down["count"], taken_down["uri"]) == ("taken_down", 2, None)
    assert sum(row["count"] for row in compared) == 5
