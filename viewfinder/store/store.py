"""The index in Qdrant: collections behind an alias, points in them, searches over them.

One synchronous `Store` serves the job's workers, the service's threads and the engine's local mode, over a Qdrant
server or the embedded store. Every call retries what may pass and raises nothing but the `StoreError` family.
"""

from collections.abc import Mapping, Sequence
from typing import Self

from viewfinder.backoff import Backoff
from viewfinder.errors import CollectionMissingError, StoreError
from viewfinder.store.collections import Collections
from viewfinder.store.connection import Client, Connection, StoreAddress, parse_version
from viewfinder.store.control import Control, Failure, Takedown
from viewfinder.store.directory import open_directory
from viewfinder.store.embedded import attach
from viewfinder.store.points import Points
from viewfinder.store.records import Group, Hit, PointBatch, PointState, Record
from viewfinder.store.schema import Collection, CollectionMetadata
from viewfinder.store.search import Search, Searches
from viewfinder.store.server import ServerClient

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

# Metadata of collections came with 1.16, insert-only upserts with 1.17.
OLDEST_SERVER = (1, 17)
_CHECK_TIMEOUT_S = 5.0


def connect(address: StoreAddress) -> "Store":
    """The store at `address`: a Qdrant server, or the embedded store through the actor that holds it.

    Asks nothing of a server yet: `Store.check` does. For the embedded store the process must have joined Ray
    (`viewfinder.cluster.session.start_ray`).
    """
    return Store(attach(address.data_dir) if address.url is None else ServerClient(address), address)


def open_local(address: StoreAddress) -> "Store":
    """The embedded store opened in this process, without Ray; `StoreBusyError` where another program holds it."""
    return Store(open_directory(address.data_dir), address)


class Store:
    """One Qdrant, by subject: `collections`, `points`, `search`, and `control(index)`. Safe to share between threads.

    Close it after use, best by `with`. It does not travel to other processes; the address does.
    """

    def __init__(self, client: Client, address: StoreAddress, retry: Backoff | None = None) -> None:
        self.connection = Connection(client, address, retry)
        self.address = address
        self.collections = Collections(self.connection)
        self.points = Points(self.connection)
        self.search = Searches(self.connection, self.collections)

    def control(self, index: str) -> Control:
        """The records of `index` that outlive its collections: failures, takedowns, locks."""
        return Control(self.connection.call, index)

    def check(self) -> str:
        """Preflight, within seconds and without retries: the server's version.

        Raises `StoreError` in one message where nothing answers, something other than Qdrant does, the server is too
        old, or the API key is refused.
        """
        if self.connection.is_embedded:
            return str(self.connection.client.call("info").version)
        client = ServerClient(self.address, timeout_s=min(_CHECK_TIMEOUT_S, self.address.timeout_s))
        try:
            info = client.call("info")
            version = str(info.version)
            if "qdrant" not in info.title.lower():
                raise StoreError(f"{self.address} is not Qdrant: it calls itself {info.title!r}.")
            if parse_version(version) < OLDEST_SERVER:
                oldest = ".".join(map(str, OLDEST_SERVER))
                raise StoreError(f"{self.address} has version {version}; viewfinder needs {oldest} or newer.")
            # The version is told to anyone; only a request for data shows whether the key is right.
            client.call("get_collections")
        finally:
            client.close()
        return version

    def take_down(self, index: str, pictures: Mapping[str, str]) -> set[str]:
        """Bar points (id: URI, or "" where it is not known) from `index` and delete them, live and elsewhere at once.

        Returns the ids of those that some collection held. What is barred already stays so, with its first date.
        Raises `ValueError` for what is no point id.
        """
        ids = list(pictures)
        collections = self.collections.all(index)
        uris: dict[str, str] = {}
        for collection in collections:
            try:
                records = self.points.records(collection, ids)
            except CollectionMissingError:
                continue  # dropped by another program since the listing
            uris |= {each: str(record.payload.get("uri") or "") for each, record in records.items()}
        # The takedowns first: a job that writes meanwhile finds them, whatever becomes of this program.
        self.control(index).take_down({each: uri or uris.get(each, "") for each, uri in pictures.items()})
        for collection in collections:
            try:
                self.points.delete(collection, ids)
            except CollectionMissingError:
                continue
        return set(uris)

    def restore(self, index: str, ids: Sequence[str]) -> None:
        """Lift takedowns, those that exist; the next run of the job finds the images again."""
        self.control(index).restore(ids)

    def close(self) -> None:
        """Let go of sockets; the embedded store's holder goes on."""
        self.connection.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
