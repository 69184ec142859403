"""The index in Qdrant: collections behind an alias, points in them, searches over them."""

from viewfinder.store.connection import StoreAddress
from viewfinder.store.control import Failure, Takedown
from viewfinder.store.records import Group, Hit, PointBatch, PointState, Record
from viewfinder.store.schema import Collection, CollectionMetadata
from viewfinder.store.search import Search
from viewfinder.store.store import Store, connect, open_local, open_shared

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
    "open_shared",
]
