"""Points, their sources and captions: the contract of every store."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.store.points import AXES, DIMENSION, ids, image_points, opened
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.store import Collection, PointBatch, PointState, Store
from viewfinder.store.points import Points
from viewfinder.store.records import StoredPoint


def test_points_may_have_one_or_both_vectors(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    payloads: list[dict[str, Any]] = [{"etag": "a", "sources": ["x", "y"]}, {"etag": "b", "caption_hash": "h"}, {}]
    batch = PointBatch(
        keys,
        payloads,
        image=AXES[:3],
        caption=AXES[1:],
        has_image=np.array([True, False, True]),
        has_caption=np.array([False, True, True]),
    )
    store.points.upsert(made, batch, wait=True)
    assert store.points.states(made, [*keys, *ids(2, "unknown")]) == {
        keys[0]: PointState("a", "", ("x", "y"), has_image=True, has_caption=False),
        keys[1]: PointState("b", "h", (), has_image=False, has_caption=True),
        keys[2]: PointState("", "", (), has_image=True, has_caption=True),
    }
    assert {hit.id for hit in store.search.nearest(made, AXES[0], using="image", limit=9)} == {keys[0], keys[2]}
    assert {hit.id for hit in store.search.nearest(made, AXES[0], using="caption", limit=9)} == {keys[1], keys[2]}


def test_the_same_batch_twice_makes_no_duplicates(store: Store, index: str) -> None:
    made = opened(store, index)
    for _ in range(2):
        store.points.upsert(made, image_points(70), wait=True)
    assert store.points.count(made) == 70


def test_an_upsert_replaces_the_whole_point(store: Store, index: str) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(
        made, PointBatch([key], [{"etag": "a", "caption": "old"}], image=AXES[:1], caption=AXES[:1]), wait=True
    )
    store.points.upsert(made, PointBatch([key], [{"etag": "b"}], image=AXES[1:2]), wait=True)
    assert store.points.states(made, [key])[key] == PointState("b", "", (), has_image=True, has_caption=False)
    assert store.search.nearest(made, AXES[0], using="caption", limit=1) == []
    (hit,) = store.search.nearest(made, AXES[1], limit=1)
    assert "caption" not in hit.payload


def test_states_may_exceed_the_size_of_one_request(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(1100), wait=True)
    assert len(store.points.states(made, ids(1200))) == 1100


def test_vectors_of_the_wrong_dimension_are_refused(store: Store, index: str) -> None:
    made = opened(store, index)
    with pytest.raises(StoreError, match=r"(?i)dimension"):
        store.points.upsert(made, PointBatch(ids(1), [{}], image=np.ones((1, DIMENSION + 1), np.float32)), wait=True)


def with_caption(text: str, run_id: str = "r") -> Callable[[str, StoredPoint], StoredPoint | None]:
    """Return a change that gives a point this caption."""

    def change(id_: str, point: StoredPoint) -> StoredPoint | None:
        if point.payload.get("caption") == text:
            return None
        payload = {**point.payload, "caption": text, "caption_hash": f"h {text}", "run_id": run_id}
        return StoredPoint(payload, {**point.vectors, "caption": AXES[3]})

    return change


def without_caption(id_: str, point: StoredPoint) -> StoredPoint | None:
    payload = {**point.payload, "caption": None, "caption_hash": None, "run_id": "later"}
    return StoredPoint(payload, {"image": point.vectors["image"]}) if point.state.has_caption else None


def test_an_update_keeps_what_it_does_not_change(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(210)
    store.points.upsert(made, image_points(210, meta=[{"year": 1999}] * 210), wait=True)
    assert store.points.update(made, [*keys, *ids(1, "unknown")], with_caption("a cat")) == 210
    assert store.points.update(made, keys, with_caption("a cat")) == 0
    assert store.points.states(made, keys)[keys[39]] == PointState(
        "e39", "h a cat", ("s3://b",), has_image=True, has_caption=True, run_id="r"
    )
    assert len(store.search.nearest(made, AXES[3], using="caption", limit=999, score_threshold=0.99)) == 210
    (hit,) = store.search.nearest(made, AXES[1], limit=1, filter={"uri": {"eq": "s3://b/5"}})
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert (hit.payload["caption"], hit.payload["meta"]) == ("a cat", {"year": 1999})


def test_an_update_can_remove_a_caption_with_its_vector(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    payloads = [{"caption": "c", "caption_hash": "h"} for _ in keys]
    store.points.upsert(made, PointBatch(keys, payloads, image=AXES[:3], caption=AXES[:3]), wait=True)
    assert store.points.update(made, keys[:1], without_caption) == 1
    states = store.points.states(made, keys)
    assert [(states[key].caption_hash, states[key].has_caption) for key in keys] == [
        ("", False),
        ("h", True),
        ("h", True),
    ]
    assert {hit.id for hit in store.search.nearest(made, AXES[0], using="caption", limit=9)} == set(keys[1:])
    assert len(store.search.nearest(made, AXES[0], using="image", limit=9)) == 3


def test_sources_are_added_and_removed(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    store.points.upsert(made, image_points(3), wait=True)
    store.points.add_sources(made, {keys[0]: ["s3://c"], keys[1]: ["s3://b"], ids(1, "unknown")[0]: ["s3://c"]})
    assert store.points.states(made, keys)[keys[0]].sources == ("s3://b", "s3://c")
    assert store.points.detach(made, keys, "s3://b") == 2
    assert {key: state.sources for key, state in store.points.states(made, keys).items()} == {keys[0]: ("s3://c",)}


class ContendedPoints(Points):
    """Points of which another program changes some, between each reading and the write after it."""

    def __init__(self, store: Store, others: Sequence[Callable[[], object]]) -> None:
        super().__init__(store.connection, store.collections)
        self._others = list(others)

    def states(self, collection: Collection, ids: Sequence[str]) -> dict[str, PointState]:
        found = super().states(collection, ids)
        self._meanwhile()
        return found

    def whole(self, collection: Collection, ids: Sequence[str]) -> dict[str, StoredPoint]:
        found = super().whole(collection, ids)
        self._meanwhile()
        return found

    def _meanwhile(self) -> None:
        if self._others:
            self._others.pop(0)()


@pytest.mark.parametrize("run_id", ["r", ""], ids=["run", "no run"])
def test_an_update_reads_again_what_another_program_has_changed(store: Store, index: str, run_id: str) -> None:
    made = opened(store, index)
    (key, other) = ids(2)
    payload = {"run_id": run_id, "indexed_at": "2026-01-01T00:00:00+00:00"} if run_id else {}
    batch = image_points(2)
    store.points.upsert(made, replace(batch, payloads=[each | payload for each in batch.payloads]), wait=True)
    others = [
        partial(store.points.update, made, [key], with_caption("first", "s")),
        lambda: None,
        partial(store.points.add_sources, made, {key: ["s3://c"]}),
    ]
    change = with_caption("second", "t")
    assert ContendedPoints(store, others).update(made, [key, other], change) == 2
    records = store.points.whole(made, [key, other])
    assert {each.payload["caption"] for each in records.values()} == {"second"}
    assert set(records[key].state.sources) == {"s3://b", "s3://c"}


def test_an_update_reads_again_what_a_run_has_written_twice_in_one_second(store: Store, index: str) -> None:
    """Regression: the stamps of the two were equal, and the first one was written back over the second."""
    made = opened(store, index)
    (key,) = ids(1)
    stamp = {"run_id": "r", "indexed_at": "2026-01-01T00:00:00+00:00"}

    def stamped(text: str) -> Callable[[str, StoredPoint], StoredPoint | None]:
        return lambda id_, point: StoredPoint({**point.payload, **stamp, "caption": text}, point.vectors)

    def widened(id_: str, point: StoredPoint) -> StoredPoint:
        return StoredPoint({**point.payload, "run_id": "s", "width": 7}, point.vectors)

    batch = image_points(1)
    store.points.upsert(made, replace(batch, payloads=[batch.payloads[0] | stamp]), wait=True)
    others = [partial(store.points.update, made, [key], stamped("second"))]
    assert ContendedPoints(store, others).update(made, [key], widened) >= 1
    payload = store.points.whole(made, [key])[key].payload
    assert (payload["caption"], payload["width"]) == ("second", 7)


def test_no_update_gives_a_point_the_time_that_it_had_before(store: Store, index: str) -> None:
    """Regression: a run writes with the time of its beginning, and a point that it wrote twice looked untouched."""
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1), wait=True)
    seen = []
    for run, second in (("one", 0), ("two", 2), ("one", 0), ("two", 2), ("two", 2)):
        stamp = {"run_id": run, "indexed_at": f"2026-01-01T00:00:0{second}+00:00"}
        store.points.update(made, [key], lambda _, point, s=stamp: StoredPoint({**point.payload, **s}, point.vectors))
        seen.append(store.points.states(made, [key])[key].indexed_at)
    assert len(set(seen)) == 5


def test_another_attempt_gives_a_point_another_time_than_the_first(store: Store, index: str) -> None:
    """Regression: the time of a run whose clock is ahead looked later than that of the program in between."""
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1), wait=True)
    seen = []

    def ahead(id_: str, point: StoredPoint) -> StoredPoint | None:
        seen.append(point.state.indexed_at)
        stamp = {"run_id": "ahead", "indexed_at": "2099-01-01T00:00:10+00:00"}
        return StoredPoint({**point.payload, **stamp}, point.vectors) if len(seen) < 3 else None

    stamp = {"run_id": "other", "indexed_at": "2026-01-01T00:00:00+00:00"}
    others = [partial(store.points.update, made, [key], lambda _, p: StoredPoint({**p.payload, **stamp}, p.vectors))]
    ContendedPoints(store, others).update(made, [key], ahead)
    assert store.points.states(made, [key])[key].indexed_at not in ("", "2099-01-01T00:00:10+00:00", *seen)


def test_an_update_leaves_deleted_points_deleted(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    store.points.upsert(made, image_points(3), wait=True)
    others = [partial(store.points.delete, made, keys[1:2])]
    assert ContendedPoints(store, others).update(made, keys, with_caption("a cat")) == 2
    assert set(store.points.states(made, keys)) == {keys[0], keys[2]}


def test_an_update_that_never_finds_a_point_as_it_was_ends(store: Store, index: str) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1), wait=True)
    others = [partial(store.points.add_sources, made, {key: [f"s3://{number}"]}) for number in range(99)]
    with pytest.raises(StoreUnavailableError, match=r"1 point of .* other programs change them"):
        ContendedPoints(store, others).update(made, [key], with_caption("a cat"))


def test_the_last_attempt_of_an_update_may_succeed(store: Store, index: str) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1), wait=True)
    others: list[Callable[[], object]] = []
    for number in range(9):
        others += [partial(store.points.add_sources, made, {key: [f"s3://{number}"]}), lambda: None]
    assert ContendedPoints(store, others).update(made, [key], with_caption("a cat")) == 1


def test_only_points_that_are_as_they_were_read_are_deleted(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    store.points.upsert(made, image_points(3), wait=True)
    before = store.points.states(made, keys)
    store.points.update(made, keys[:1], with_caption("a cat"))
    store.points.add_sources(made, {keys[1]: ["s3://c"]})
    store.points.delete_unchanged(made, before)
    assert set(store.points.states(made, keys)) == {*keys[:2]}


@pytest.mark.parametrize("before", [["s3://b"], []], ids=["one", "none"])
def test_sources_that_another_program_adds_at_the_same_time_stay(store: Store, index: str, before: list[str]) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1, sources=[before]), wait=True)
    others = [partial(store.points.add_sources, made, {key: [name]}) for name in ("s3://c", "s3://d")]
    ContendedPoints(store, others).add_sources(made, {key: ["s3://e"]})
    assert set(store.points.states(made, [key])[key].sources) == {*before, "s3://c", "s3://d", "s3://e"}


def test_sources_that_never_find_a_point_as_it_was_are_an_error(store: Store, index: str) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1), wait=True)
    others = [partial(store.points.add_sources, made, {key: [f"s3://{number}"]}) for number in range(99)]
    with pytest.raises(StoreUnavailableError, match=r"1 point of .* other programs change them"):
        ContendedPoints(store, others).add_sources(made, {key: ["s3://e"]})


def test_an_upsert_of_new_points_leaves_existing_ones_alone(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(1, etag=["old"]), wait=True)
    store.points.upsert(made, image_points(2, etag=["new", "new"]), wait=True, only_new=True)
    assert [state.etag for state in store.points.states(made, ids(2)).values()] == ["old", "new"]


def test_a_point_that_changes_while_a_source_is_removed_stays(store: Store, index: str) -> None:
    """Between the reading of a point and its removal another run could write it, or find it in another source."""
    made = opened(store, index)
    (key,) = ids(1)
    batch = image_points(1)
    payload = {**batch.payloads[0], "sources": ["s3://b"], "run_id": "later"}
    store.points.upsert(made, replace(batch, payloads=[payload]), wait=True)
    assert store.points.detach(made, [key], "s3://b", written_by=["earlier"]) == 0
    assert store.points.states(made, [key])[key].sources == ("s3://b",)
    assert store.points.detach(made, [key], "s3://b", written_by=["earlier", "later"]) == 1


def test_deleted_points_are_gone_and_may_be_deleted_again(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(5), wait=True)
    for _ in range(2):
        store.points.delete(made, ids(2))
    assert store.points.count(made) == 3
    assert set(store.points.states(made, ids(5))) == set(ids(5)[2:])


def test_iterate_yields_every_point_once_with_the_requested_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(1050), wait=True)
    found = list(store.points.iterate(made, fields=["uri"]))
    assert len(found) == 1050
    assert {record.id: record.payload for record in found} == {
        key: {"uri": f"s3://b/{row}"} for row, key in enumerate(ids(1050))
    }
