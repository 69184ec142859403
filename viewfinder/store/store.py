"""The store: collections behind an alias, their points and searches, in a Qdrant server or the embedded store.

One synchronous `Store` serves the workers of a job, the threads of a service and local mode. Every call retries
transient errors and raises only errors of the `StoreError` family.
"""

from collections.abc import Mapping, Sequence
from typing import Self

from viewfinder.backoff import Backoff
from viewfinder.errors import CollectionMissingError, StoreError
from viewfinder.store.collections import Collections
from viewfinder.store.connection import Connection, StoreAddress, StoreClient, parse_version
from viewfinder.store.control import Control
from viewfinder.store.directory import SharedClient, open_directory
from viewfinder.store.embedded import attach
from viewfinder.store.points import Points
from viewfinder.store.search import Searches
from viewfinder.store.server import ServerClient

# Metadata of collections came with 1.16, insert-only upserts with 1.17.
OLDEST_SERVER = (1, 17)
_VERSION_TIMEOUT_S = 5.0


def connect(address: StoreAddress) -> "Store":
    """Return the store at `address`: a Qdrant server, or the embedded store through the actor that holds it.

    Sends no request; `Store.check` does. For the embedded store the process must have joined Ray
    (`viewfinder.cluster.session.start_ray`).
    """
    return Store(attach(address.data_dir) if address.url is None else ServerClient(address), address)


def open_local(address: StoreAddress) -> "Store":
    """Open the embedded store in this process, without Ray; raise `StoreBusyError` if another program holds it."""
    return Store(open_directory(address.data_dir), address)


def open_shared(address: StoreAddress) -> "Store":
    """Open the embedded store without Ray: in this process, or through the program on this machine that holds it.

    Raises `StoreBusyError` if it is held on another machine, by another version of the code or by another user.
    """
    return Store(SharedClient(address.data_dir), address)


class Store:
    """One Qdrant: `collections`, `points`, `search` and `control(index)`. Safe to share between threads.

    Close it after use, or use it in a `with` block. Other processes get its address and connect themselves.
    """

    def __init__(self, client: StoreClient, address: StoreAddress, retry: Backoff | None = None) -> None:
        self.connection = Connection(client, address, retry)
        self.address = address
        self.collections = Collections(self.connection)
        self.points = Points(self.connection, self.collections)
        self.search = Searches(self.connection, self.collections)

    def control(self, index: str) -> Control:
        """Return the records of `index` that outlive its collections: failures, takedowns, locks."""
        return Control(self.connection, index)

    def check(self) -> str:
        """Return the server's version, within seconds and without retries.

        Raises `StoreError` if nothing or something other than Qdrant answers, the server is too old, or the API key is
        refused.
        """
        if self.connection.is_embedded:
            return str(self.connection.client.call("info").version)
        client = ServerClient(self.address, timeout_s=min(_VERSION_TIMEOUT_S, self.address.timeout_s))
        try:
            info = client.call("info")
            version = str(info.version)
            if "qdrant" not in info.title.lower():
                raise StoreError(f"{self.address} is not Qdrant: it calls itself {info.title!r}.")
            if parse_version(version) < OLDEST_SERVER:
                oldest = ".".join(map(str, OLDEST_SERVER))
                raise StoreError(f"{self.address} has version {version}; viewfinder needs {oldest} or newer.")
            # The version is public; only a request for data checks the key.
            client.call("get_collections")
        finally:
            client.close()
        return version

    def take_down(self, index: str, images: Mapping[str, str]) -> set[str]:
        """Take down images (point id: URI, or "" if unknown): record takedowns, delete the points in all collections.

        The takedown of an id whose URI is in composed letters is that of all points whose URI looks the same.
        Returns the ids of the points that existed. An existing takedown keeps its time.
        Raises `ValueError` for an invalid point id.
        """
        ids = list(images)
        collections = self.collections.all(index)
        uris: dict[str, str] = {}
        for collection in collections:
            try:
                records = self.points.records(collection, ids)
                uris |= self.points.composed(collection, ids)
            except CollectionMissingError:
                continue  # dropped by another program since the request above
            uris |= {each: str(record.payload.get("uri") or "") for each, record in records.items()}
        # Takedowns first: a job that writes at the same time finds them, even if this program is killed.
        self.control(index).take_down({each: uri or uris.get(each, "") for each, uri in images.items()})
        for collection in collections:
            try:
                self.points.delete(collection, list(dict.fromkeys([*ids, *uris])))
            except CollectionMissingError:
                continue
        return set(uris)

    def restore(self, index: str, ids: Sequence[str]) -> None:
        """Delete takedowns, if they exist; the next run of the job indexes the images again."""
        self.control(index).restore(ids)

    def close(self) -> None:
        """Close the client; the actor that holds the embedded store keeps running."""
        self.connection.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
