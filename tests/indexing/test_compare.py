"""The comparison of listed objects with the collection, and what is written of those that are skipped."""

from collections.abc import Sequence
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
from viewfinder.testing.objects import MemoryObjects

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

    def add(self, name: str, version: Version, collection: Collection | None = None, **more: Any) -> None:
        """Write a point of this version."""
        target = collection or self.collection
        payload = {"uri": f"s3://b/{name}", "sources": ["s3://b"], **version._asdict(), **more}
        vectors = np.ones((1, target.metadata.dimension), np.float32)
        self.store.points.upsert(target, PointBatch([_id(name)], [payload], image=vectors), wait=True)

    def compare(self, *rows: Row, **options: bool) -> list[dict[str, Any]]:
        """Return the compared rows."""
        compare = Compare(self.world.access, self.store.address, self.collection, live=self.live, **options)
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


@pytest.fixture
def building(points: Points) -> Points:
    """The collection that is compared with is built beside the live one."""
    identity = ModelIdentity.of(locate(points.world.model))
    made = points.store.collections.create(points.collection.index, replace(identity, fingerprint="other"))
    return Points(points.world, points.store, made, live=points.collection)


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


def test_each_row_keeps_its_place_whatever_the_collection_has_by_then(points: Points) -> None:
    """A block that Ray made again, after the run had written points, had other rows: some images were never indexed."""
    version = Version(DIGEST, 5, EARLY)
    rows = [
        listed("1", version),
        listed("2", version, skip="hidden"),
        listed("3", version),
        listed("4", version),
        listed("5", version, skip="archived"),
        listed("6", version),
    ]
    points.store.control(points.collection.index).take_down({_id("3"): "s3://b/3"})
    first = points.compare(*rows, in_place=True)
    assert [row["reason"] or row["action"] for row in first] == [
        "index", "hidden", "taken_down", "index", "archived", "index"
    ]  # fmt: skip
    for name in ("1", "4"):
        points.add(name, version)
    again = points.compare(*rows, in_place=True)
    assert [row["action"] for row in again] == ["unchanged", "skipped", "skipped", "unchanged", "skipped", "index"]
    assert again[5]["uri"] == "s3://b/6"
    assert sum(row["count"] for row in again) == len(rows)
    folded = points.compare(*rows)
    assert len(folded) == 5
    assert actions(folded) == actions(again)


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


class Restored(MemoryObjects):
    """Objects of which one has been restored, which the listing does not show."""

    def restored(self, uris: Sequence[str]) -> set[str]:
        self.uris_read += uris
        return {"s3://b/restored"} & set(uris)


def test_archived_objects_that_have_been_restored_are_read_where_the_listing_does_not_show_it(points: Points) -> None:
    objects = Restored()
    points.world.access = replace(points.world.access, backends=(("s3", objects),))
    points.add("known", Version(DIGEST, 5, EARLY))
    names = ["restored", "archived", "known"]
    rows = [listed(name, Version(DIGEST, 5, EARLY), skip="archived") for name in names]
    assert actions(points.compare(*rows)) == {"archived": 2, "unchanged": 1}
    assert objects.uris_read == [], "a request for each archived object in each run"
    assert actions(points.compare(*rows, retry_failed=True)) == {"index": 1, "archived": 1, "unchanged": 1}
    assert objects.uris_read == ["s3://b/restored", "s3://b/archived"], "objects that need not be read were asked for"


def test_a_change_of_model_asks_for_archived_images_of_the_live_collection_alone(building: Points) -> None:
    objects = Restored()
    building.world.access = replace(building.world.access, backends=(("s3", objects),))
    building.add("restored", Version(DIGEST, 5, EARLY), building.live)
    rows = [listed(name, Version(DIGEST, 5, EARLY), skip="archived") for name in ("restored", "archived")]
    assert actions(building.compare(*rows)) == {"index": 1, "archived": 1}
    assert objects.uris_read == ["s3://b/restored"]


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


A, B, C = Version(DIGEST, 5, EARLY), Version(OTHER, 5, LATE), Version("other", 6, "2026-01-03T00:00:00Z")
UNREADABLE = {"action": "failed", "stage": "fetch", "reason": "access_denied", "message": "", "permanent": False}
BROKEN = UNREADABLE | {"stage": "decode", "reason": "corrupt", "permanent": True}
NO_IMAGE = BROKEN | {"action": "skipped", "reason": "not_an_image"}
COLD = UNREADABLE | {"action": "skipped", "reason": "archived"}


@pytest.mark.parametrize(
    ("live", "stored", "now", "outcome", "lost"),
    [
        (A, None, A, BROKEN, 1),
        (A, None, B, BROKEN, 0),  # what live has is out of date
        (A, B, C, BROKEN, 0),
        (A, B, A, BROKEN, 1),
        (A, None, A, NO_IMAGE, 1),
        (A, None, B, NO_IMAGE, 0),
        (A, None, B, UNREADABLE, 1),
        (B, A, B, UNREADABLE, 1),  # the new collection, used again after a rollback, has an older image
        (B, A, C, UNREADABLE, 1),
        (A, A, B, UNREADABLE, 0),  # both have the same
        (A, B, C, UNREADABLE, 0),  # the new one has a later image
        (None, None, A, UNREADABLE, 0),
        (A, None, A, COLD, 1),
        (A, None, B, COLD, 1),
        (B, A, B, COLD, 1),
        (A, A, B, COLD, 0),
    ],
)
def test_images_that_only_the_live_collection_has_are_counted(
    building: Points, live: Version | None, stored: Version | None, now: Version, outcome: dict[str, Any], lost: int
) -> None:
    """Regression: they were counted by the records of failures, which belong to the last run that met them."""
    if live is not None:
        building.add("1", live, building.live)
    if stored is not None:
        building.add("1", stored)
    (row,) = building.compare(listed("1", now))
    tally = building.write(row | outcome)
    assert (tally.lost, tally.archived_live) == ((0, lost) if outcome is COLD else (lost, 0))
    if stored is None and outcome["permanent"]:  # it is known now
        again = building.write_compared(listed("1", now))
        assert (again.lost, again.objects) == (lost, 1)


@pytest.mark.parametrize(
    ("live", "stored", "now", "lost"),
    [(A, None, A, 1), (A, None, B, 1), (None, None, A, 0), (B, A, B, 1), (A, A, B, 0), (A, B, C, 0)],
)
def test_objects_that_are_listed_as_archived_lose_the_images_that_only_the_live_collection_has(
    building: Points, live: Version | None, stored: Version | None, now: Version, lost: int
) -> None:
    if live is not None:
        building.add("1", live, building.live)
    if stored is not None:
        building.add("1", stored)
    tally = building.write_compared(listed("1", now, skip="archived"))
    assert (tally.archived, tally.archived_live, tally.lost) == (1, lost, 0)


def test_the_version_that_was_read_decides_if_a_broken_image_is_lost(building: Points) -> None:
    """The object may have changed between the listing and the read, and another run may have indexed it there."""
    building.add("1", B, building.live)
    (row,) = building.compare(listed("1", A))
    assert building.write(row | BROKEN | B._asdict()).lost == 1
    (row,) = building.compare(listed("1", B))
    assert building.write(row | BROKEN | C._asdict()).lost == 0


def test_a_caption_that_this_collection_is_to_have_is_not_lost(building: Points) -> None:
    """Its captions file has changed, and then its object, which cannot be read now."""
    building.add("1", A, building.live, caption_hash="old")
    building.add("1", A, caption_hash="new")
    (row,) = building.compare(listed("1", B, caption="n", caption_hash="new", caption_details="{}"), captions=True)
    assert building.write(row | UNREADABLE).lost == 0
    assert building.write(row | COLD).archived_live == 0


@pytest.mark.parametrize("reason", ["hidden", "video"])
def test_an_image_that_its_name_excludes_now_is_not_lost(building: Points, reason: str) -> None:
    building.add("1", A, building.live)
    tally = building.write_compared(listed("1", A, skip=reason))
    assert (tally.skips[reason], tally.lost) == (1, 0)


@pytest.mark.parametrize(("captions", "lost"), [(("changed", "old"), 1), (("old", "old"), 0), (("", "old"), 0)])
def test_a_caption_that_only_the_live_collection_has_is_lost_if_its_row_fails(
    building: Points, captions: tuple[str, str], lost: int
) -> None:
    building.add("1", A, building.live, caption_hash=captions[0])
    building.add("1", A, caption_hash=captions[1])
    (row,) = building.compare(listed("1", A, caption="a", caption_hash="a", caption_details="{}"), captions=True)
    assert row["action"] == "caption"
    failed = {"action": "failed", "stage": "encode", "reason": "unusable_vector", "message": "", "permanent": False}
    assert building.write(row | failed).lost == lost


def test_an_image_that_was_taken_down_is_not_lost(building: Points) -> None:
    building.add("1", A, building.live)
    (row,) = building.compare(listed("1", A))
    building.store.control("images").take_down({row["id"]: row["uri"]})
    tally = building.write(row | UNREADABLE)
    assert (tally.taken_down, tally.lost) == (1, 0)
