"""Vectors, samples and records of points: the contract of every store."""

from typing import Any

import numpy as np
import pytest

from tests.store.points import DIMENSION, captioned, ids, opened, vector
from viewfinder.errors import KeyFilterError
from viewfinder.store import PointBatch, Store

# -- Points by id ---------------------------------------------------------------------------------------------------

STRANGE = ["", "../..", "a" * 10_000, "\ud800", "1", "{" + ids(1)[0] + "}", ids(1)[0].upper(), "c/points?x=1"]


def test_records_contains_the_points_that_exist(store: Store, index: str) -> None:
    made = captioned(store, index)
    found = store.points.records(made, [*ids(2), *ids(1, "unknown"), *STRANGE])
    assert {each: record.payload["uri"] for each, record in found.items()} == {
        key: f"s3://b/{row}" for row, key in enumerate(ids(2))
    }
    assert all(record.id == each for each, record in found.items())


def test_vectors_have_unit_length_and_skip_points_without_one(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(250)
    images = np.tile(vector(3, 4, 0, 0), (250, 1))
    batch = PointBatch(keys, [{}] * 250, image=images, caption=images[:, ::-1].copy(), has_caption=np.arange(250) < 2)
    store.points.upsert(made, batch, wait=True)
    found = store.points.vectors(made, [*keys, *ids(1, "unknown"), *STRANGE], "image")
    assert set(found) == set(keys)
    assert found[keys[249]].dtype == np.float32
    np.testing.assert_allclose(found[keys[249]], [0.6, 0.8, 0, 0], atol=1e-6)
    captions = store.points.vectors(made, keys[:5], "caption")
    assert set(captions) == set(keys[:2])
    np.testing.assert_allclose(captions[keys[0]], [0, 0, 0.8, 0.6], atol=1e-6)


def test_a_sample_contains_only_points_with_the_vector(store: Store, index: str) -> None:
    made = opened(store, index)
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(60, DIMENSION)).astype(np.float32)
    batch = PointBatch(ids(60), [{}] * 60, image=vectors, caption=vectors, has_caption=np.arange(60) < 3)
    store.points.upsert(made, batch, wait=True)
    some, all_captions = store.points.sample(made, 20, "image"), store.points.sample(made, 20, "caption")
    assert (some.shape, some.dtype, all_captions.shape) == ((20, DIMENSION), np.float32, (3, DIMENSION))
    np.testing.assert_allclose(np.linalg.norm(some, axis=1), 1, atol=1e-5)
    assert len(np.unique(some.round(5), axis=0)) == 20


def test_a_sample_of_an_empty_collection_is_empty(store: Store, index: str) -> None:
    assert store.points.sample(opened(store, index), 5, "image").shape == (0, DIMENSION)


def test_sampled_records_are_complete_and_match_the_filter(store: Store, index: str) -> None:
    made = captioned(store, index)
    some = store.points.sample_records(made, 2, {"has_caption": {"eq": False}})
    assert len({each.id for each in some}) == 2
    png = store.points.sample_records(made, 10, {"format": {"eq": "png"}})
    assert {each.payload["uri"] for each in png} == {"s3://b/1", "s3://b/4"}


def test_points_outside_the_filter_of_a_key_are_as_if_they_did_not_exist(store: Store, index: str) -> None:
    made = captioned(store, index)
    keys = [*ids(5), *ids(1, "unknown"), *STRANGE]
    png = {"format": {"eq": "png"}}
    expected = {ids(5)[row] for row in (1, 4)}
    assert set(store.points.records(made, keys, within=png)) == expected
    assert set(store.points.vectors(made, keys, within=png)) == expected
    everything = {"or": [png, {"not": png}]}
    both = store.search.parse(made, everything, within=png)
    assert store.points.count(made, both) == len(expected)
    assert store.search.facet(made, "format", filter=both) == [("png", len(expected))]
    assert store.points.count(made, everything) > len(expected)


@pytest.mark.parametrize("condition", [{"meta.unknown": {"ne": 1}}, {"not": {"meta.unknown": {"eq": 1}}}, {}])
def test_a_filter_of_a_key_that_does_not_fit_is_an_error(store: Store, index: str, condition: dict[str, Any]) -> None:
    """Without the field, these would match every point."""
    made = captioned(store, index)
    with pytest.raises(KeyFilterError):
        store.points.records(made, ids(2), within=condition)
    with pytest.raises(KeyFilterError):
        store.points.vectors(made, ids(2), within=condition)
    with pytest.raises(KeyFilterError):
        store.search.parse(made, None, within=condition)
