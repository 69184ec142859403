"""What has been taken down stays out: the last look of a run, after which no point has a takedown."""

import itertools
import logging

from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.index")

_BATCH = 1000


def sweep(store: Store, collection: Collection) -> int:
    """Delete every point that has a takedown, and say how many there were.

    Both the comparison and the writer look for takedowns, but a takedown between a writer's look and its write finds
    nothing to delete yet: what then comes in goes out here.
    """
    swept = 0
    ids = (id_ for id_, _ in store.control(collection.index).all_takedowns())
    while page := list(itertools.islice(ids, _BATCH)):
        if left := list(store.points.states(collection, page)):
            store.points.delete(collection, left)
            swept += len(left)
    if swept:
        logger.info("%d points that were taken down meanwhile are deleted", swept)
    return swept
