"""Takedowns by a name that a person typed in another spelling than the key has."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.spellings import SPELLINGS
from viewfinder.client.results import Removal
from viewfinder.indexing.run import delete_taken_down
from viewfinder.query.takedowns import restore, stored_uri, take_down, takedowns
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, Store
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.takedowns import held_id, taken_down
from viewfinder.testing.memory_store import open_in_memory

COMPOSED = unicodedata.normalize("NFC", "s3://bucket/Été/café.jpg")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
MIXED = unicodedata.normalize("NFD", "s3://bucket/Été/") + unicodedata.normalize("NFC", "café.jpg")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_in_memory(tmp_path) as opened:
        yield opened


def fill(store: Store, *uris: str) -> str:
    collection = store.collections.open("images", ModelIdentity("m", "f" * 12, 2))
    payloads = [{"uri": uri, "bucket": "bucket", "key": uri.removeprefix("s3://bucket/")} for uri in uris]
    store.points.upsert(
        collection, PointBatch([point_id(uri) for uri in uris], payloads, image=np.ones((len(uris), 2), np.float32)),
        wait=True,
    )  # fmt: skip
    return collection.index


def by_name(store: Store, index: str, uri: str) -> Removal:
    return take_down(store, index, point_id(uri), uri)


@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED, MIXED])
def test_a_name_finds_the_image_in_every_spelling(store: Store, typed: str, stored: str) -> None:
    """A composed name did not meet a decomposed key, as macOS writes it, and the image stayed found."""
    index = fill(store, stored, "s3://bucket/other.jpg")
    assert held_id(store, index, point_id(typed), typed) == point_id(stored)
    done = by_name(store, index, typed)
    assert (done.removed, done.before, done.id, done.uri) == (True, False, point_id(stored), stored)
    assert held_id(store, index, point_id(typed), typed) is None
    assert by_name(store, index, typed).before
    assert restore(store, index, point_id(typed), typed).restored
    assert not restore(store, index, point_id(typed), typed).restored


@pytest.mark.parametrize(("typed", "stored"), SPELLINGS)
def test_a_takedown_of_a_typed_name_takes_effect_at_once_and_can_be_lifted(
    store: Store, typed: str, stored: str
) -> None:
    """Mixed forms, characters with a canonical equivalent and long paths were not found, and the image stayed found."""
    typed, stored = f"s3://bucket/{typed}", f"s3://bucket/{stored}"
    index = fill(store, stored, "s3://bucket/other.jpg")
    assert stored_uri(store, index, point_id(typed), typed) == stored
    done = by_name(store, index, typed)
    assert (done.removed, done.id, done.uri) == (True, point_id(stored), stored)
    assert held_id(store, index, point_id(typed), typed) is None
    assert by_name(store, index, typed).before
    assert len(takedowns(store, index, 10).takedowns) == 1
    assert restore(store, index, point_id(typed), typed).restored
    assert taken_down(store.control(index), {point_id(each): each for each in (typed, stored)}) == set()


@pytest.mark.parametrize(("typed", "stored"), SPELLINGS)
def test_a_takedown_of_a_typed_name_holds_for_an_image_that_comes_later(store: Store, typed: str, stored: str) -> None:
    typed, stored = f"s3://bucket/{typed}", f"s3://bucket/{stored}"
    index = fill(store, "s3://bucket/other.jpg")
    assert not by_name(store, index, typed).removed
    assert taken_down(store.control(index), {point_id(stored): stored}) == {point_id(stored)}
    fill(store, stored)
    collection = store.collections.require_live(index)
    assert delete_taken_down(store, collection) == 1
    assert list(store.points.iterate(collection, {"uri": {"eq": stored}})) == []


def test_the_takedown_of_a_composed_name_is_that_of_all_that_look_the_same(store: Store) -> None:
    """Runs skipped the others, but their points stayed found."""
    index = fill(store, COMPOSED, DECOMPOSED, MIXED, "s3://bucket/other.jpg")
    assert by_name(store, index, COMPOSED).uri == COMPOSED
    live = store.collections.require_live(index)
    assert [each.payload["uri"] for each in store.points.iterate(live)] == ["s3://bucket/other.jpg"]
    assert restore(store, index, point_id(COMPOSED), COMPOSED).restored
    assert list(store.control(index).all_takedowns()) == []


def test_a_takedown_of_another_spelling_does_not_hide_the_image_that_is_held(store: Store) -> None:
    """A file that was taken down has come back under its composed name."""
    index = fill(store, DECOMPOSED)
    assert by_name(store, index, DECOMPOSED).removed
    fill(store, COMPOSED)
    assert by_name(store, index, DECOMPOSED).removed
    assert held_id(store, index, point_id(COMPOSED), COMPOSED) is None


@pytest.mark.parametrize("named", [True, False], ids=["by name", "by id"])
def test_a_restored_image_is_excluded_by_no_other_takedown(store: Store, named: bool) -> None:
    index = fill(store, DECOMPOSED, COMPOSED)
    id_ = point_id(DECOMPOSED)
    take_down(store, index, id_, DECOMPOSED)
    by_name(store, index, COMPOSED)
    assert restore(store, index, id_, DECOMPOSED if named else "").restored
    assert not taken_down(store.control(index), {id_: DECOMPOSED})


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
    assert restore(store, index, point_id(MIXED), MIXED).restored
    assert taken_down(control, later) == set()


def test_a_bare_id_is_taken_down_as_it_is(store: Store) -> None:
    index = fill(store, COMPOSED)
    assert take_down(store, index, point_id(COMPOSED)).uri == COMPOSED
    unknown = take_down(store, index, point_id("s3://bucket/unknown"))
    assert (unknown.removed, unknown.before, unknown.uri, list(unknown.nearest)) == (False, False, "", [])


def test_takedowns_are_listed_in_pages(store: Store) -> None:
    index = fill(store, *(f"s3://bucket/{number}.jpg" for number in range(3)))
    for number in range(3):
        by_name(store, index, f"s3://bucket/{number}.jpg")
    first, rest = takedowns(store, index, 2), takedowns(store, index, 2, 2)
    assert (first.more, rest.more) == (True, False)
    assert {each.uri for each in (*first.takedowns, *rest.takedowns)} == {f"s3://bucket/{n}.jpg" for n in range(3)}


def test_the_image_that_a_name_would_take_down_is_known_before(store: Store) -> None:
    index = fill(store, DECOMPOSED)
    assert stored_uri(store, index, point_id(COMPOSED), COMPOSED) == DECOMPOSED
    assert stored_uri(store, index, point_id("s3://bucket/none"), "s3://bucket/none") is None
