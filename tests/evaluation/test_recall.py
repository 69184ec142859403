"""Recall of approximate against exact search, and captions that two collections share."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from viewfinder.evaluation.recall import approximate_recall, shared_captions
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, PointBatch, Search, Store, StoredHit
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.memory_store import open_in_memory

IDS = [point_id(f"s3://b/{number}") for number in range(4)]


def store_answering(approximate: Sequence[StoredHit], exact: Sequence[StoredHit]) -> Any:
    """A store whose exact and approximate searches give these hits."""

    def many(collection: object, searches: Sequence[Search]) -> list[Sequence[StoredHit]]:
        return [exact if each.exact else approximate for each in searches]

    return SimpleNamespace(search=SimpleNamespace(many=many))


@pytest.mark.parametrize(
    ("approximate", "recall"),
    [
        (["a", "b"], 1.0),
        (["a", "tied with b"], 1.0),
        (["a", "worse"], 0.5),
        ([], 0.0),
    ],
)
def test_hits_that_tie_with_the_last_exact_one_count(approximate: list[str], recall: float) -> None:
    scores = {"a": 0.9, "b": 0.5, "tied with b": 0.49995, "worse": 0.4}
    hits = [StoredHit(id_, scores[id_], {}) for id_ in approximate]
    store = store_answering(hits, [StoredHit("a", 0.9, {}), StoredHit("b", 0.5, {})])
    collection: Any = None
    assert approximate_recall(store, collection, [np.zeros(2, np.float32)]) == recall


def collection_with(store: Store, name: str, captions: dict[str, str]) -> Collection:
    """Make a collection of two dimensions with an image and a caption for each id."""
    made = store.collections.create("images", ModelIdentity(name, name, 2))
    vectors = np.array([[1, 0]] * len(captions), np.float32)
    payloads = [{"caption_hash": each} for each in captions.values()]
    store.points.upsert(made, PointBatch(list(captions), payloads, image=vectors, caption=vectors), wait=True)
    return made


def test_shared_captions_are_those_that_are_equal_in_both_collections(tmp_path: Path) -> None:
    with open_in_memory(tmp_path) as store:
        first = collection_with(store, "first", {IDS[0]: "a", IDS[1]: "b", IDS[2]: "c"})
        second = collection_with(store, "second", {IDS[0]: "a", IDS[1]: "changed", IDS[3]: "d"})
        shared = shared_captions(store, first, second)
        none = shared_captions(store, first, collection_with(store, "third", {IDS[3]: "d"}))
    assert [query.relevant for query in shared.queries] == [{IDS[0]}]
    assert [each.shape for each in shared.vectors] == [(1, 2), (1, 2)]
    assert none.queries == []
    assert [each.shape for each in none.vectors] == [(0, 2), (0, 2)]
