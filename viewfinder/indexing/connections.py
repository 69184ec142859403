"""Connections of a worker process, opened once and reused by its many short tasks."""

import functools

from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.store import Store, StoreAddress, connect


@functools.lru_cache(maxsize=4)
def store_at(address: StoreAddress) -> Store:
    """The store at this address."""
    return connect(address)


@functools.lru_cache(maxsize=4)
def objects_of(access: ObjectAccess) -> Objects:
    """The reader of objects with this access."""
    return Objects(access)
