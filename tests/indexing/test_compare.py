"""The comparison of listed objects with the collection, and what is written of those that are skipped."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.fixtures.indexing import World
from viewfinder.indexing.accounting import Tally
from viewfinder.indexing.compare import Compare
from viewfinder.indexing.preflight import open_collection
from viewfinder.indexing.rows import Row, table_of
from viewfinder.indexing.write import write_rows
from viewfinder.models.checkpoint import locate
from viewfinder.sources.uris import point_id
from viewfinder.sources.versions import Version
from viewfinder.store import Collection, Store
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
DIGEST, OTHER = "0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"


@dataclass
class Points:
    """A collection to compare rows of `s3://b` with; no object exists."""

    world: World
    store: Store
    collection: Collection
    live: Collection | None = None

    def add(self, name: str, version: Version, collection: Collection | None = None) -> None:
        """Write a point of this version."""
        target = collection or self.collection
        payload = {"uri": f"s3://b/{name}", "sources": ["s3://b"], **version._asdict()}
        vectors = np.ones((1, target.metadata.dimension), np.float32)
        self.store.points.upsert(target, PointBatch([_id(name)], [payload], image=vectors), wait=True)

    def compare(self, *rows: Row) -> list[dict[str, Any]]:
        """Return the compared rows."""
        compare = Compare(self.world.access, self.store.address, self.collection, live=self.live)
        compared: list[dict[str, Any]] = compare.with_store(table_of(rows), self.store).to_pylist()
        return compared

    def write(self, *rows: Row) -> Tally:
        """Write rows, and return their tally."""
        return write_rows(self.store, self.collection, table_of(rows), run_id="run", batch_size=4)

    def write_compared(self, *rows: Row) -> Tally:
        """Compare rows and write those that need no worker."""
        table = pa.Table.from_pylist(self.compare(*rows), schema=table_of([]).schema)
        return write_rows(self.store, self.collection, table, run_id="run", batch_size=4)


@pytest.fixture
def points(world: World) -> Points:
    collection = open_collection(world.store, world.settings(), locate(world.model), create=True)
    assert collection is not None
    return Points(world, world.store, collection)


def listed(name: str, version: Version, **more: Any) -> Row:
    """A row of the manifest."""
    row: Row = {"uri": f"s3://b/{name}", "bucket": "b", "key": name, "sources": ["s3://b"], "skip": None}
    return row | version._asdict() | more


def actions(compared: list[dict[str, Any]]) -> dict[str, int]:
    """Number of objects by action, of skipped ones by reason."""
    found: dict[str, int] = {}
    for row in compared:
        name = row["reason"] if row["action"] == "skipped" else row["action"]
        found[name] = found.get(name, 0) + row["count"]
    return found


def _id(name: str) -> str:
    return point_id(f"s3://b/{name}")


@pytest.mark.parametrize(
    ("stored", "version", "action"),
    [
        (Version(DIGEST, 5, EARLY), Version(DIGEST, 5, LATE), "unchanged"),
        (Version(DIGEST, 5, EARLY), Version(OTHER, 5, EARLY), "index"),
        (Version("abc", 5, EARLY), Version("abc", 5, EARLY), "unchanged"),
        (Version("abc", 5, EARLY), Version("abc", 5, LATE), "index"),
        (Version("", 5, EARLY), Version("", 5, EARLY), "unchanged"),
        (Version("", 5, EARLY), Version("", 5, LATE), "index"),
        (Version("", 5, EARLY), Version("", 6, EARLY), "index"),
    ],
)
def test_objects_are_compared_by_their_versions(points: Points, stored: Version, version: Version, action: str) -> None:
    points.add("1", stored)
    assert actions(points.compare(listed("1", version))) == {action: 1}


def test_an_etag_that_all_objects_have_is_not_trusted(points: Points) -> None:
    for name, size in (("1", 5), ("2", 6), ("3", 7)):
        points.add(name, Version(DIGEST, size, EARLY))
    rows = [
        listed("1", Version(DIGEST, 5, EARLY)),
        listed("2", Version(DIGEST, 6, LATE)),  # another content of the same size
        listed("3", Version(DIGEST, 8, LATE)),
    ]
    assert actions(points.compare(*rows)) == {"unchanged": 1, "index": 2}


def test_names_and_archived_objects_are_skipped_from_the_listing(points: Points) -> None:
    rows = [
        listed("._a.jpg", Version(DIGEST, 5, EARLY), skip="hidden"),
        listed("a.mp4", Version(DIGEST, 5, EARLY), skip="video"),
        listed("b.mp4", Version(DIGEST, 5, EARLY), skip="video"),
        listed("c.jpg", Version(DIGEST, 5, EARLY), skip="archived"),
        listed("d.jpg", Version(DIGEST, 5, EARLY)),
    ]
    assert actions(points.compare(*rows)) == {"hidden": 1, "video": 2, "archived": 1, "index": 1}
    tally = points.write_compared(*rows[:-1])
    assert tally.skips == {"archived": 1, "not_an_image": 0, "hidden": 1, "video": 2, "empty": 0, "taken_down": 0}
    assert (tally.objects, tally.skipped, tally.failed) == (4, 4, 0)


def test_an_archived_object_is_unchanged_while_its_point_is_up_to_date(points: Points) -> None:
    points.add("1", Version(DIGEST, 5, EARLY))
    assert actions(points.compare(listed("1", Version(DIGEST, 5, EARLY), skip="archived"))) == {"unchanged": 1}
    tally = points.write_compared(listed("1", Version(OTHER, 5, LATE), skip="archived"))
    assert (tally.archived, tally.stale) == (1, 1)
    assert list(points.store.points.states(points.collection, [_id("1")])) == [_id("1")]


def test_a_changed_object_that_keeps_its_point_is_in_each_source_that_lists_it(points: Points) -> None:
    """Otherwise its point would go with the source that it was indexed from."""
    for name in ("archived", "cold", "failed"):
        points.add(name, Version(DIGEST, 5, EARLY))
    changed = {"version": Version(OTHER, 5, LATE), "sources": ["s3://b/folder"]}
    tally = points.write_compared(listed("archived", **changed, skip="archived"))
    assert (tally.archived, tally.objects) == (1, 1)
    rows = points.compare(listed("cold", **changed), listed("failed", **changed))
    outcome = {"stage": "fetch", "message": "", "permanent": False}
    tally = points.write(
        rows[0] | outcome | {"action": "skipped", "reason": "archived"},
        rows[1] | outcome | {"action": "failed", "reason": "timeout"},
    )
    assert (tally.archived, tally.failed, tally.stale) == (1, 1, 2)
    states = points.store.points.states(points.collection, list(map(_id, ("archived", "cold", "failed"))))
    assert [set(each.sources) for each in states.values()] == [{"s3://b", "s3://b/folder"}] * 3


def test_an_object_found_archived_when_it_is_read_keeps_its_point_and_is_tried_again(points: Points) -> None:
    """The archive tiers of Intelligent-Tiering do not show in the listing."""
    points.add("1", Version(DIGEST, 5, EARLY))
    (row,) = points.compare(listed("1", Version(OTHER, 5, LATE)))
    skipped = row | {"action": "skipped", "stage": "fetch", "reason": "archived", "message": "", "permanent": False}
    tally = points.write(skipped)
    assert (tally.archived, tally.stale, tally.failed) == (1, 1, 0)
    assert list(points.store.points.states(points.collection, [_id("1")])) == [_id("1")]
    assert actions(points.compare(listed("1", Version(OTHER, 5, LATE)))) == {"index": 1}


@pytest.mark.parametrize(("action", "reason"), [("failed", "corrupt"), ("skipped", "not_an_image")])
def test_a_known_failure_does_not_delete_a_later_content_that_another_run_has_indexed(
    points: Points, action: str, reason: str
) -> None:
    """This run listed the object while it was broken, and compared it when another one had indexed its next content."""
    broken = listed("1", Version(DIGEST, 5, EARLY))
    (row,) = points.compare(broken)
    points.write(row | {"action": action, "stage": "fetch", "reason": reason, "message": "", "permanent": True})
    assert points.compare(broken)[0]["action"] == action
    points.add("1", Version(OTHER, 5, LATE))
    assert actions(points.compare(broken)) == {"index": 1}, "it is read again, and has the content that is there now"


@pytest.mark.parametrize("reason", ["not_an_image", "video", "empty"])
@pytest.mark.parametrize("version", [Version(DIGEST, 5, EARLY), Version("", 5, EARLY), Version("abc", 5, EARLY)])
def test_content_that_is_no_image_is_read_once(points: Points, reason: str, version: Version) -> None:
    points.add("1", Version(OTHER, 4, EARLY))  # an image before
    (row,) = points.compare(listed("1", version))
    skipped = row | {"action": "skipped", "stage": "fetch", "reason": reason, "message": "", "permanent": True}
    tally = points.write(skipped)
    assert (tally.skips[reason], tally.stale, tally.failed) == (1, 0, 0)
    assert not points.store.points.states(points.collection, [_id("1")])
    assert not list(points.store.control("images").failures_of_run("run")), "a skipped object is not recorded as failed"

    for _ in range(2):
        assert actions(points.compare(listed("1", version))) == {reason: 1}
        assert points.write_compared(listed("1", version)).skips[reason] == 1
    assert actions(points.compare(listed("1", Version("changed", 6, LATE)))) == {"index": 1}


def test_skipped_objects_that_only_the_live_collection_has_are_counted(points: Points) -> None:
    identity = ModelIdentity.of(locate(points.world.model))
    building = points.store.collections.create(points.collection.index, replace(identity, fingerprint="other"))
    points.live, points.collection = points.collection, building
    for name in "123":
        points.add(name, Version(DIGEST, 5, EARLY), points.live)
    rows = [
        listed("1", Version(DIGEST, 5, EARLY), skip="archived"),
        listed("2", Version(OTHER, 5, LATE), skip="archived"),  # its point would be lost all the same
        listed("4", Version(DIGEST, 5, EARLY), skip="archived"),  # archived from the start
    ]
    tally = points.write_compared(*rows)
    assert (tally.archived, tally.archived_live, tally.skipped_live) == (3, 2, 0)

    (row,) = points.compare(listed("3", Version(DIGEST, 5, EARLY)))
    skipped = row | {"action": "skipped", "stage": "fetch", "reason": "not_an_image", "message": "", "permanent": True}
    tally = points.write(skipped)
    assert (tally.not_an_image, tally.archived_live, tally.skipped_live) == (1, 0, 1)


@pytest.mark.parametrize(
    ("version", "permanent", "lost"),
    [
        (Version(DIGEST, 5, EARLY), True, 1),
        (Version(OTHER, 5, LATE), True, 0),  # it has changed, and is no image any more: nothing is lost
        (Version(OTHER, 5, LATE), False, 1),
    ],
    ids=["same", "changed", "unreadable for now"],
)
def test_failed_objects_that_only_the_live_collection_has_are_counted(
    points: Points, version: Version, permanent: bool, lost: int
) -> None:
    """Regression: they were counted by the records of failures, which belong to the last run that met them."""
    identity = ModelIdentity.of(locate(points.world.model))
    building = points.store.collections.create(points.collection.index, replace(identity, fingerprint="other"))
    points.live, points.collection = points.collection, building
    points.add("1", Version(DIGEST, 5, EARLY), points.live)
    failure = {"action": "failed", "stage": "fetch", "reason": "access_denied", "message": "", "permanent": permanent}
    for name, expected in (("1", lost), ("2", 0)):
        (row,) = points.compare(listed(name, version))
        assert points.write(row | failure).failed_live == expected
        if permanent:  # it is known now
            assert points.write_compared(listed(name, version)).failed_live == expected
    points.add("1", Version("older", 5, EARLY))  # of a retired collection that is used again
    (row,) = points.compare(listed("1", version))
    assert points.write(row | failure).failed_live == lost
