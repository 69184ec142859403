"""Relevance baselines: estimated from random pairs, updated after large changes, never fatal."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from viewfinder.arrays import Vectors
from viewfinder.errors import StoreUnavailableError
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Store
from viewfinder.store.baselines import (
    MINIMUM_CAPTIONS,
    MINIMUM_VECTORS,
    QUANTILES,
    estimate,
    is_due,
    unrelated_texts,
    update_baselines,
)
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.memory_store import open_in_memory

DIMENSION = 8


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_in_memory(tmp_path) as store:
        yield store


@pytest.fixture
def collection(store: Store) -> Collection:
    return store.collections.open("images", ModelIdentity("some-model", "0123456789ab", DIMENSION))


def unit(count: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fill(store: Store, collection: Collection, images: Vectors, captions: Vectors | None = None) -> None:
    ids = [point_id(f"s3://b/{number}") for number in range(len(images))]
    store.points.upsert(collection, PointBatch(ids, [{}] * len(ids), image=images, caption=captions), wait=True)


def not_called() -> Vectors:
    raise AssertionError("there are enough captions")


def test_quantiles_are_those_of_all_pairs(store: Store, collection: Collection) -> None:
    images, texts = unit(30), unit(7, seed=1)
    fill(store, collection, images)
    found = estimate(store, collection, lambda: unit(40, seed=2)[:7])
    assert found.keys() == {"image_image"}, "seven texts are not enough"
    texts = unit(40, seed=2)
    found = estimate(store, collection, lambda: texts)
    assert found.keys() == {"text_image", "image_image"}
    expected = np.quantile(texts @ images.T, np.linspace(0, 1, QUANTILES))
    assert found["text_image"] == pytest.approx(expected.tolist(), abs=1e-4)
    others = (images @ images.T)[~np.eye(30, dtype=bool)]
    assert found["image_image"] == pytest.approx(np.quantile(others, np.linspace(0, 1, QUANTILES)).tolist(), abs=0.02)
    assert found["image_image"][-1] < 0.99, "a vector is not paired with itself"


def test_enough_captions_replace_the_built_in_texts(store: Store, collection: Collection) -> None:
    fill(store, collection, unit(MINIMUM_CAPTIONS), unit(MINIMUM_CAPTIONS, seed=1))
    found = estimate(store, collection, not_called)
    assert found.keys() == {"text_image", "text_caption", "image_image", "image_caption"}
    assert found["text_image"] == pytest.approx(found["image_caption"], abs=1e-4)


def test_few_captions_are_compared_with_the_built_in_texts(store: Store, collection: Collection) -> None:
    fill(store, collection, unit(MINIMUM_VECTORS), unit(MINIMUM_VECTORS, seed=1))
    found = estimate(store, collection, lambda: unit(50, seed=2))
    assert found.keys() == {"text_image", "text_caption", "image_image", "image_caption"}
    assert all(len(quantiles) == QUANTILES and quantiles == sorted(quantiles) for quantiles in found.values())


def test_too_few_points_give_no_baselines(store: Store, collection: Collection) -> None:
    fill(store, collection, unit(MINIMUM_VECTORS - 1))
    assert estimate(store, collection, not_called) == {}
    assert not update_baselines(store, collection, MINIMUM_VECTORS - 1, not_called)


@pytest.mark.parametrize(
    ("points", "changed", "due"),
    [(1000, 0, False), (1000, 100, False), (1000, 101, True), (1101, 0, True), (1100, 0, False), (899, 0, True)],
)
def test_an_estimate_is_due_after_more_than_a_tenth_has_changed(
    collection: Collection, points: int, changed: int, due: bool
) -> None:
    estimated = replace(collection.metadata, baselines={"image_image": [0.0]}, baselined_points=1000)
    assert is_due(replace(collection, metadata=estimated), points, changed) == due
    assert is_due(collection, points, changed), "the first estimate is always due"


def test_an_estimate_is_stored_with_the_collection_until_the_next_is_due(store: Store, collection: Collection) -> None:
    fill(store, collection, unit(30))
    assert update_baselines(store, collection, 30, lambda: unit(40, seed=2))
    live = store.collections.live("images")
    assert live is not None
    assert live.metadata.baselined_points == 30
    assert set(live.metadata.baselines) == {"text_image", "image_image"}
    assert not update_baselines(store, live, 3, not_called)


def test_an_error_is_logged_and_not_raised(
    store: Store, collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, collection, unit(30))

    def unavailable() -> Vectors:
        raise StoreUnavailableError("no worker")

    assert not update_baselines(store, collection, 30, unavailable)
    assert "no worker" in caplog.text


@pytest.mark.parametrize(
    ("languages", "chinese"),
    [("English", False), ("unknown", False), ("English, Chinese", True), ("about 100", True), ("more than 100", True)],
)
def test_only_models_with_chinese_get_chinese_texts(languages: str, chinese: bool) -> None:
    texts = unrelated_texts(languages)
    assert any(ord(text[0]) > 0x4E00 for text in texts) == chinese
    assert len(set(texts)) == len(texts) >= 120
