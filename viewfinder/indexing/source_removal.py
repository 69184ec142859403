"""Removal of a source from an index: its record, and the points that belong to no other source."""

import itertools

from viewfinder.store import Collection, Store

_PAGE = 1000


def count_only_in(store: Store, collection: Collection, source: str) -> int:
    """Count the points that belong to no other source."""
    points = store.points.iterate(collection, {"sources": {"in": [source]}}, ["sources"])
    return sum(list(point.payload.get("sources") or ()) == [source] for point in points)


def remove_source(store: Store, collection: Collection, source: str) -> int:
    """Forget a source and its captions files; delete the points that belong to no other source, return their number."""
    store.collections.records(collection).remove_sources([source])
    deleted = 0
    points = store.points.iterate(collection, {"sources": {"in": [source]}}, ["sources"])
    ids = (point.id for point in points)
    while page := list(itertools.islice(ids, _PAGE)):
        deleted += store.points.detach(collection, page, source)
    return deleted
