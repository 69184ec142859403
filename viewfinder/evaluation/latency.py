"""Search times of collections."""

import time
from collections.abc import Sequence

from viewfinder.arrays import Vectors
from viewfinder.store import Collection, Store

LIMIT = 10
_WARM_UP = 10


def search_times_ms(
    store: Store, collections: Sequence[Collection], vectors: Sequence[Vectors], *, count: int
) -> list[list[float]]:
    """Time `count` single searches of each collection, in milliseconds; `vectors` are float32 [N, D] for each.

    The collections take turns, in one order and then in the other, so that other load on the machine affects all of
    them equally.
    """
    times: list[list[float]] = [[] for _ in collections]
    turns = list(zip(collections, vectors, times, strict=True))
    for number in range(-_WARM_UP, count):
        turns.reverse()
        for collection, candidates, spent in turns:
            began = time.perf_counter()
            store.search.nearest(collection, candidates[number % len(candidates)], limit=LIMIT, with_payload=False)
            if number >= 0:
                spent.append(1000 * (time.perf_counter() - began))
    return times
