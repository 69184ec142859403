"""Points, their sources and captions: the contract of every store."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.store.points import AXES, DIMENSION, ids, image_points, opened
from viewfinder.errors import StoreError
from viewfinder.store import Collection, PointBatch, PointState, Store
from viewfinder.store.points import Points


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


def test_a_changed_caption_keeps_the_image_vector_and_other_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(40)
    store.points.upsert(made, image_points(40, meta=[{"year": 1999}] * 40), wait=True)
    payloads = [
        {"caption": f"number {row}", "caption_hash": f"h{row}", "tags": ["t"], "meta": {"place": "x"}}
        for row in range(40)
    ]
    store.points.update_captions(made, keys, payloads, np.tile(AXES[3], (40, 1)))
    assert store.points.states(made, keys)[keys[39]] == PointState(
        "e39", "h39", ("s3://b",), has_image=True, has_caption=True
    )
    assert len(store.search.nearest(made, AXES[3], using="caption", limit=99, score_threshold=0.99)) == 40
    (hit,) = store.search.nearest(made, AXES[1], limit=1, filter={"uri": {"eq": "s3://b/5"}})
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert hit.payload["caption"] == "number 5"
    assert hit.payload["meta"] == {"place": "x"}


def test_removing_a_caption_removes_its_vector(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    payloads = [{"caption": "c", "caption_hash": "h"} for _ in keys]
    store.points.upsert(made, PointBatch(keys, payloads, image=AXES[:3], caption=AXES[:3]), wait=True)
    gone: list[dict[str, Any]] = [{"caption": None, "caption_hash": None}, {"caption": "new", "caption_hash": "n"}]
    store.points.update_captions(made, keys[:2], gone, AXES[:2], np.array([False, True]))
    states = store.points.states(made, keys)
    assert [(states[key].caption_hash, states[key].has_caption) for key in keys] == [
        ("", False),
        ("n", True),
        ("h", True),
    ]
    assert {hit.id for hit in store.search.nearest(made, AXES[0], using="caption", limit=9)} == set(keys[1:])
    assert len(store.search.nearest(made, AXES[0], using="image", limit=9)) == 3


def test_captions_of_deleted_points_are_skipped(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    store.points.upsert(made, image_points(3), wait=True)
    store.points.delete(made, keys[1:2])
    store.points.update_captions(made, keys, [{"caption_hash": f"h{row}"} for row in range(3)], AXES[:3])
    states = store.points.states(made, keys)
    assert {key: state.caption_hash for key, state in states.items()} == {keys[0]: "h0", keys[2]: "h2"}
    assert all(state.has_caption for state in states.values())


def test_sources_are_added_and_removed(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    store.points.upsert(made, image_points(3), wait=True)
    store.points.add_sources(made, {keys[0]: ["s3://c"], keys[1]: ["s3://b"], ids(1, "unknown")[0]: ["s3://c"]})
    assert store.points.states(made, keys)[keys[0]].sources == ("s3://b", "s3://c")
    assert store.points.detach(made, keys, "s3://b") == 2
    assert {key: state.sources for key, state in store.points.states(made, keys).items()} == {keys[0]: ("s3://c",)}


class ContendedPoints(Points):
    """Points of which another program changes some, between each reading of states and the write after it."""

    def __init__(self, store: Store, others: Sequence[Callable[[], None]]) -> None:
        super().__init__(store.connection, store.collections)
        self._others = list(others)

    def states(self, collection: Collection, ids: Sequence[str]) -> dict[str, PointState]:
        found = super().states(collection, ids)
        if self._others:
            self._others.pop(0)()
        return found


@pytest.mark.parametrize("before", [["s3://b"], []], ids=["one", "none"])
def test_sources_that_another_program_adds_at_the_same_time_stay(store: Store, index: str, before: list[str]) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1, sources=[before]), wait=True)
    others = [partial(store.points.add_sources, made, {key: [name]}) for name in ("s3://c", "s3://d")]
    ContendedPoints(store, others).add_sources(made, {key: ["s3://e"]})
    assert set(store.points.states(made, [key])[key].sources) == {*before, "s3://c", "s3://d", "s3://e"}


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
