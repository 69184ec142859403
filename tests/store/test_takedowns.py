"""Takedowns: their records, and names that a person typed in another spelling than the key has."""

import unicodedata
from collections.abc import Sequence

import pytest

from tests.fixtures.spellings import SPELLINGS
from tests.store.points import AXES, DIMENSION, captioned, ids, image_points, opened
from tests.store.test_points_by_id import STRANGE
from viewfinder.sources.uris import file_uri, point_id
from viewfinder.store import PointBatch, Store
from viewfinder.store.schema import ModelIdentity


def test_a_takedown_deletes_the_points_of_every_collection_and_is_recorded(store: Store, index: str) -> None:
    made = captioned(store, index)
    second = store.collections.create(index, ModelIdentity("ViT::other", "beef", DIMENSION))
    store.points.upsert(second, image_points(3), wait=True)
    keys, (unknown,) = ids(5), ids(1, "unknown")
    assert store.take_down(index, {keys[0]: "", keys[4]: "s3://b/4", unknown: ""}) == {keys[0], keys[4]}
    assert (store.points.count(made), store.points.count(second)) == (3, 2)
    takedowns = store.control(index).takedowns([*keys, unknown])
    assert {each: takedown.uri for each, takedown in takedowns.items()} == {
        keys[0]: "s3://b/0",
        keys[4]: "s3://b/4",
        unknown: "",
    }
    assert all(takedown.at.endswith("+00:00") for takedown in takedowns.values())
    assert dict(store.control(index).all_takedowns()) == takedowns
    assert list(store.control(f"{index}x").all_takedowns()) == []


def test_a_second_takedown_only_adds_an_unknown_uri(store: Store, index: str) -> None:
    (key, other) = ids(2)
    assert store.take_down(index, {key: "", other: "s3://b/1"}) == set()
    before = store.control(index).takedowns([key, other])
    assert store.take_down(index, {key: "s3://b/0", other: "s3://elsewhere"}) == set()
    after = store.control(index).takedowns([key, other])
    assert {each: takedown.uri for each, takedown in after.items()} == {key: "s3://b/0", other: "s3://b/1"}
    assert {each: takedown.at for each, takedown in after.items()} == {
        each: takedown.at for each, takedown in before.items()
    }


def test_restoring_one_image_keeps_the_other_takedowns(store: Store, index: str) -> None:
    keys = ids(3)
    store.restore(index, keys)
    store.take_down(index, dict.fromkeys(keys, ""))
    store.restore(index, [keys[0], *STRANGE])
    assert set(store.control(index).takedowns(keys)) == set(keys[1:])


@pytest.mark.parametrize("strange", [each for each in STRANGE if len(each) < 100])
def test_taking_down_an_invalid_point_id_raises_value_error(store: Store, index: str, strange: str) -> None:
    assert store.control(index).takedowns([strange]) == {}
    with pytest.raises(ValueError, match="not point ids"):
        store.take_down(index, {strange: ""})


def test_takedowns_may_exceed_the_size_of_one_request(store: Store, index: str) -> None:
    keys: Sequence[str] = ids(1100)
    store.take_down(index, dict.fromkeys(keys, ""))
    assert {each for each, _ in store.control(index).all_takedowns()} == set(keys)
    assert len(store.control(index).takedowns(keys)) == 1100


@pytest.mark.parametrize(("typed", "stored"), SPELLINGS)
def test_a_path_is_found_however_its_letters_are_composed(store: Store, index: str, typed: str, stored: str) -> None:
    collection = opened(store, index)
    kept = [
        {"uri": f"s3://b/{stored}", "key": stored},
        {"uri": file_uri(f"/b/{stored}"), "key": f"/b/{stored}"},
        {"uri": "s3://b/other.jpg", "key": "other.jpg"},
    ]
    batch = PointBatch([point_id(each["uri"]) for each in kept], kept, image=AXES[:3])
    store.points.upsert(collection, batch, wait=True)
    for name, wanted, value in (
        ("key", 0, typed),
        ("uri", 0, f"s3://b/{typed}"),
        ("uri", 1, file_uri(f"/b/{typed}")),
        ("key", 1, f"/b/{typed}"),
    ):
        for condition in ({"eq": value}, {"in": [value, "none"]}):
            found = list(store.points.iterate(collection, {name: condition}))
            assert [each.id for each in found] == [batch.ids[wanted]]
            assert set(found[0].payload) == {"uri", "key", "has_image", "has_caption"}
        others = {each.id for each in store.points.iterate(collection, {name: {"ne": value}})}
        assert others == set(batch.ids) - {batch.ids[wanted]}
    takedown = point_id(f"s3://b/{unicodedata.normalize('NFC', typed)}")
    assert store.take_down(index, {takedown: ""}) == {batch.ids[0]}
    assert store.points.count(collection) == 2
