"""What has been taken down stays out: the last look of a run, after which no point has a tombstone."""

import itertools
import logging

from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.index")

_BATCH = 1000


def sweep(store: Store, collection: Collection) -> int:
    """Delete every point that has a tombstone, and say how many there were.

    Both the comparison and the writer look for tombstones, but a takedown between a writer's look and its write finds
    nothing to delete yet: what then comes in goes out here.
    """
    swept = 0
    ids = (id_ for id_, _ in store.all_tombstones(collection.index))
    while page := list(itertools.islice(ids, _BATCH)):
        if left := list(store.states(collection, page)):
            store.delete(collection, left)
            swept += len(left)
    if swept:
        logger.info("%d points that were taken down meanwhile are deleted", swept)
    return swept
