"""Recall of collections: with known answers, with captions as queries, and against exact search."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from viewfinder.arrays import Vectors
from viewfinder.evaluation.evaluation_set import DEPTHS, LabelledQuery, Quality, score
from viewfinder.store import Collection, Search, Store, StoredHit

MAX_CAPTIONS = 500  # more captions barely change the figures
_SEARCHES_PER_REQUEST = 32
# Scores closer than this are ties, whose order is arbitrary.
_TIE = 1e-4


@dataclass(frozen=True)
class SharedCaptions:
    """Captions that two collections have in common, as queries for their own images.

    `vectors` are those of the first and of the second collection, float32 [N, D] each.
    """

    queries: list[LabelledQuery]
    vectors: tuple[Vectors, Vectors]


def search_each(
    store: Store,
    collection: Collection,
    vectors: Sequence[Vectors] | Vectors,
    *,
    limit: int = DEPTHS[-1],
    exact: bool = False,
) -> list[list[StoredHit]]:
    """Search the images with each vector (float32 [D]); the hits of each, best first."""
    found: list[list[StoredHit]] = []
    for start in range(0, len(vectors), _SEARCHES_PER_REQUEST):
        searches = [
            Search(vector, limit=limit, with_payload=False, exact=exact)
            for vector in vectors[start : start + _SEARCHES_PER_REQUEST]
        ]
        found += store.search.many(collection, searches)
    return found


def measure_quality(
    store: Store,
    collection: Collection,
    queries: Sequence[LabelledQuery],
    vectors: Vectors,
    depths: Sequence[int] = DEPTHS,
) -> Quality:
    """Search with the queries' vectors (float32 [N, D]) and score the answers."""
    answers = search_each(store, collection, vectors, limit=max(depths))
    return score(queries, [[hit.id for hit in hits] for hits in answers], depths)


def approximate_recall(store: Store, collection: Collection, vectors: Sequence[Vectors] | Vectors) -> float:
    """Compute recall@10 of index searches against exact ones; a hit that ties with the last exact one counts."""
    recalls = []
    approximate = search_each(store, collection, vectors)
    for found, exact in zip(approximate, search_each(store, collection, vectors, exact=True), strict=True):
        ids = {hit.id for hit in exact}
        last_score = exact[-1].score - _TIE if exact else 0.0
        recalls.append(sum(hit.id in ids or hit.score >= last_score for hit in found) / max(1, len(exact)))
    return fmean(recalls)


def shared_captions(store: Store, first: Collection, second: Collection) -> SharedCaptions:
    """Sample captions that are the same in both collections. Their vectors are stored, so no model is loaded."""
    has_both = {"and": [{"has_caption": {"eq": True}}, {"has_image": {"eq": True}}]}
    sampled = store.points.sample_records(first, MAX_CAPTIONS, has_both)
    hashes = {record.id: record.payload.get("caption_hash") for record in sampled}
    states = store.points.states(second, list(hashes))
    same = [id_ for id_, state in states.items() if state.has_image and state.caption_hash == hashes[id_]]
    of_first = store.points.vectors(first, same, "caption")
    of_second = store.points.vectors(second, same, "caption")
    ids = [id_ for id_ in same if id_ in of_first and id_ in of_second]
    return SharedCaptions(
        [LabelledQuery("", frozenset([id_])) for id_ in ids],
        (_stack([of_first[id_] for id_ in ids], first), _stack([of_second[id_] for id_ in ids], second)),
    )


def _stack(vectors: Sequence[Vectors], collection: Collection) -> Vectors:
    return np.stack(vectors) if vectors else np.empty((0, collection.metadata.dimension), np.float32)
