"""Diverse searches (maximal marginal relevance): the contract of every store."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.store.points import AXES, DIMENSION, ids, opened, vector
from viewfinder.store import Collection, PointBatch, Search, Store, StoreAddress
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow


def crowded(store: Store, index: str) -> tuple[Collection, npt.NDArray[np.float32]]:
    """Write 60 near-duplicates nearest to the first axis, and three single points farther away."""
    made = opened(store, index)
    rng = np.random.default_rng(2)
    crowd = vector(1, 0.1, 0, 0) + rng.normal(scale=1e-3, size=(60, DIMENSION)).astype(np.float32)
    others = np.array([[1, -0.6, 0, 0], [1, 0, 0.8, 0], [1, 0, 0, -0.9]], np.float32)
    vectors = np.concatenate([crowd, others]).astype(np.float32)
    store.points.upsert(made, PointBatch(ids(63), [{}] * 63, image=vectors), wait=True)
    return made, vectors


def test_diversity_finds_more_than_near_duplicates_and_keeps_the_cosine(store: Store, index: str) -> None:
    made, vectors = crowded(store, index)
    plain, diverse = store.search.many(made, [Search(AXES[0], limit=4), Search(AXES[0], limit=4, diversity=0.5)])
    assert {hit.id for hit in plain} <= set(ids(60))
    assert {hit.id for hit in diverse} >= set(ids(63)[60:])
    assert diverse[0].id == plain[0].id
    cosines = dict(zip(ids(63), vectors[:, 0] / np.linalg.norm(vectors, axis=1), strict=True))
    assert [hit.score for hit in diverse] == pytest.approx([cosines[hit.id] for hit in diverse], abs=1e-5)


def test_pages_of_a_diverse_search_follow_the_order_of_selection(store: Store, index: str) -> None:
    made, _ = crowded(store, index)
    whole, first, second = store.search.many(
        made,
        [
            Search(AXES[0], limit=6, diversity=0.7, candidates=63),
            Search(AXES[0], limit=3, diversity=0.7, candidates=63),
            Search(AXES[0], limit=3, offset=3, diversity=0.7, candidates=63),
        ],
    )
    assert [hit.id for hit in whole] == [hit.id for hit in [*first, *second]]
    assert [hit.score for hit in whole] != sorted((hit.score for hit in whole), reverse=True)


@pytest.mark.parametrize(
    ("search", "candidates"),
    [
        (Search(AXES[0], diversity=0.5), 100),
        (Search(AXES[0], diversity=0.5, limit=20, offset=30), 500),
        (Search(AXES[0], diversity=0.5, limit=200), 2000),
        (Search(AXES[0], diversity=0.5, candidates=77), 77),
        (Search(AXES[0], diversity=0.5, candidates=99_999), 16_384),
    ],
)
def test_diversity_asks_for_enough_candidates(tmp_path: Path, search: Search, candidates: int) -> None:
    with QdrantDouble() as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            store.search.many(opened(store, "images"), [search])
        (sent,) = double.requests[-1].body["searches"]
        assert sent["query"]["mmr"] == {"diversity": 0.5, "candidates_limit": candidates}
