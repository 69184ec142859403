"""The index in Qdrant: collections behind an alias, points in them, searches over them."""

from viewfinder.store.store import (
    Collection,
    CollectionMetadata,
    Failure,
    Group,
    Hit,
    PointBatch,
    PointState,
    Record,
    Search,
    Store,
    StoreAddress,
    Takedown,
    connect,
    open_local,
)

__all__ = [
    "Collection",
    "CollectionMetadata",
    "Failure",
    "Group",
    "Hit",
    "PointBatch",
    "PointState",
    "Record",
    "Search",
    "Store",
    "StoreAddress",
    "Takedown",
    "connect",
    "open_local",
]
