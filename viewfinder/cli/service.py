"""Find the service to use: the configured one, else one on this machine, else none."""

import socket
from typing import TYPE_CHECKING

from viewfinder.cli.output import note
from viewfinder.client import Client, Stats
from viewfinder.errors import ConfigurationError, ServiceError, ServiceUnavailableError
from viewfinder.settings import Settings

if TYPE_CHECKING:
    from viewfinder.store import Store

# Even a busy service answers /healthz within a fraction of this.
_PROBE_TIMEOUT_S = 2.0


def find_service(settings: Settings, *, probe_timeout_s: float = _PROBE_TIMEOUT_S, retries: int = 0) -> Client | None:
    """Return a client of the service to use, or None if the index must be opened in this process.

    A service in --server or VIEWFINDER_SERVER is used without a probe. Otherwise the port VIEWFINDER_PORT of this
    machine is probed. If the settings name an index, a data directory or a Qdrant server, a service on this machine is
    used only if it has the same one. Requests are not retried unless `retries` are given: a user is waiting. Prints the
    service used on standard error.

    Raises `ConfigurationError` if the service in --server or VIEWFINDER_SERVER does not search the index that the
    settings name, and `ServiceError` if it does not say which.
    """
    named = "server" in settings.model_fields_set
    if not named and not _is_answering(settings, probe_timeout_s):
        return None
    client = Client.of(settings, retries=retries)
    try:
        difference = _difference(client, settings, named=named)
        if difference is not None and named:
            raise ConfigurationError(
                f"The service at {settings.service_url} {difference}. Name the service of that index with --server, or "
                "another index, or leave out --index and VIEWFINDER_INDEX."
            )
    except BaseException:
        client.close()
        raise
    if difference is not None:
        client.close()
        note(f"The service at {settings.service_url} {difference}, so it is not used.")
        return None
    note(f"Using the service at {settings.service_url}.")
    return client


def require_index(store: "Store", index: str) -> None:
    """Raise `ConfigurationError` that names the existing indexes if `index` has no collection."""
    if store.collections.live(index) is not None or store.collections.all(index):
        return
    known = ", ".join(map(repr, store.collections.indexes())) or "none"
    raise ConfigurationError(f"There is no index {index!r} in {store.address}. Existing indexes: {known}.")


def _difference(client: Client, settings: Settings, *, named: bool) -> str | None:
    """The difference between the service's index and the one that the settings name; None if they are the same."""
    given = settings.model_fields_set
    names_store = not named and bool(given & {"data_dir", "qdrant_url"})
    if "index" not in given and not names_store:
        return None
    try:
        stats = client.stats()
    except ServiceUnavailableError as error:
        if named:
            raise
        return f"does not say which index it searches ({error.message})"
    except ServiceError as error:
        if error.status in (401, 403):  # it will refuse the command as well, and says why
            return None
        if error.code == "index_not_found":
            return f"does not search index {settings.index!r}: {error.message.removeprefix('index: ').rstrip('.')}"
        raise
    if names_store and not _same_store(stats, settings):
        return "uses another store than the settings name"
    return None


def _same_store(stats: Stats, settings: Settings) -> bool:
    try:
        from viewfinder.store import StoreAddress
    except ModuleNotFoundError:  # the client alone has no store that could be another one
        return True
    return stats.store == StoreAddress.of(settings).digest


def _is_answering(settings: Settings, timeout_s: float) -> bool:
    """Return True if a service answers on this machine; say so if one listens but does not answer in time."""
    try:
        socket.create_connection(("localhost", settings.port), timeout=timeout_s).close()
    except OSError:
        return False
    # Without the API key, since another program may own the port.
    with Client(settings.service_url, timeout_s=timeout_s, retries=0) as client:
        try:
            if client.healthy():
                return True
        except ServiceError:
            return False  # another program
    note(f"A program listens at {settings.service_url}, but did not answer in {timeout_s:g} s, so it is not used.")
    return False
