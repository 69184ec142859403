"""The index in Qdrant: collections behind an alias, points in them, searches over them."""

import viewfinder.store.deferred_models  # noqa: F401 (before anything else imports qdrant-client)

# isort: split
from viewfinder.store.connection import StoreAddress
from viewfinder.store.control import Failure, TakedownRecord
from viewfinder.store.records import PointBatch, PointState, Record, StoredGroup, StoredHit
from viewfinder.store.schema import Collection, CollectionMetadata
from viewfinder.store.search import Search
from viewfinder.store.store import Store, connect, open_local, open_shared

__all__ = [
    "Collection",
    "CollectionMetadata",
    "Failure",
    "PointBatch",
    "PointState",
    "Record",
    "Search",
    "Store",
    "StoreAddress",
    "StoredGroup",
    "StoredHit",
    "TakedownRecord",
    "connect",
    "open_local",
    "open_shared",
]
