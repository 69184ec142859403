"""Where a command does its work: on Ray, or in this process; and the store that it works on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from viewfinder.cli.entry import packages_of

if TYPE_CHECKING:
    from viewfinder.indexing.executor import Executor
    from viewfinder.settings import Settings
    from viewfinder.store import Store


@contextmanager
def open_execution(settings: "Settings", command: str, *, on_ray: bool) -> "Iterator[tuple[Store, Executor]]":
    """The store and an executor, both closed afterwards; a missing package is a `ConfigurationError`."""
    if on_ray:
        with packages_of("all", command):
            from viewfinder.cluster.executor import RayExecutor
            from viewfinder.cluster.session import join_ray
            from viewfinder.store import StoreAddress

        with join_ray(settings, StoreAddress.of(settings)) as store:
            yield store, RayExecutor()
        return
    with packages_of("local", command):
        from viewfinder.cluster.session import open_store
        from viewfinder.indexing.executor import InProcessExecutor

    with open_store(settings) as store, InProcessExecutor() as executor:
        yield store, executor
