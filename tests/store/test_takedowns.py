"""Takedowns: their records, and names that a person typed in another spelling than the key has."""

import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest

from tests.store.points import DIMENSION, captioned, ids, image_points
from tests.store.test_points_by_id import STRANGE
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, Store
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.takedowns import TakenDown, held_id, restore, take_down, taken_down

COMPOSED = unicodedata.normalize("NFC", "s3://bucket/Été/café.jpg")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
MIXED = unicodedata.normalize("NFD", "s3://bucket/Été/") + unicodedata.normalize("NFC", "café.jpg")


def fill(store: Store, *uris: str) -> str:
    collection = store.collections.open("images", ModelIdentity("m", "f" * 12, 2))
    payloads = [{"uri": uri, "bucket": "bucket", "key": uri.removeprefix("s3://bucket/")} for uri in uris]
    store.points.upsert(
        collection, PointBatch([point_id(uri) for uri in uris], payloads, image=np.ones((len(uris), 2), np.float32)),
        wait=True,
    )  # fmt: skip
    return collection.index


def by_name(store: Store, index: str, uri: str) -> TakenDown:
    return take_down(store, index, point_id(uri), uri)


@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED, MIXED])
def test_a_name_finds_the_image_in_every_spelling(store: Store, typed: str, stored: str) -> None:
    """A composed name did not meet a decomposed key, as macOS writes it, and the image stayed found."""
    index = fill(store, stored, "s3://bucket/other.jpg")
    assert held_id(store, index, point_id(typed), typed) == point_id(stored)
    done = by_name(store, index, typed)
    assert (done.removed, done.before, list(done.ids), done.uri) == (True, False, [point_id(stored)], stored)
    assert held_id(store, index, point_id(typed), typed) is None
    assert by_name(store, index, typed).before
    assert restore(store, index, point_id(typed), typed).before
    assert not restore(store, index, point_id(typed), typed).before


def test_the_exact_spelling_comes_first(store: Store) -> None:
    index = fill(store, COMPOSED, DECOMPOSED)
    assert by_name(store, index, DECOMPOSED).uri == DECOMPOSED
    assert held_id(store, index, point_id(COMPOSED), COMPOSED) == point_id(COMPOSED)


def test_a_name_that_matches_nothing_holds_for_every_spelling_that_comes_later(store: Store) -> None:
    index = fill(store, "s3://bucket/Ete/cafe.jpg", "s3://bucket/2024/0001.png")
    done = by_name(store, index, DECOMPOSED)
    assert (done.removed, done.before) == (False, False)
    assert list(done.nearest) == ["s3://bucket/Ete/cafe.jpg"]
    control = store.control(index)
    later = {point_id(uri): uri for uri in (COMPOSED, DECOMPOSED, MIXED, "s3://bucket/b.jpg")}
    assert taken_down(control, later) == {point_id(uri) for uri in (COMPOSED, DECOMPOSED, MIXED)}
    assert by_name(store, index, COMPOSED).before
    assert restore(store, index, point_id(MIXED), MIXED).before
    assert taken_down(control, later) == set()


def test_a_bare_id_is_taken_down_as_it_is(store: Store) -> None:
    index = fill(store, COMPOSED)
    assert take_down(store, index, point_id(COMPOSED)).uri == COMPOSED
    unknown = take_down(store, index, point_id("s3://bucket/unknown"))
    assert (unknown.removed, unknown.before, unknown.uri, list(unknown.nearest)) == (False, False, "", [])


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
