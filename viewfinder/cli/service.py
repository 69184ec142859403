"""Finding the service that answers: the one that is named, else one on this machine, else none."""

from viewfinder.cli.output import note
from viewfinder.client import Client
from viewfinder.errors import ServiceError
from viewfinder.settings import Settings

# A service that is busy answers /healthz within a fraction of this.
_PROBE_TIMEOUT_S = 2.0


def find_service(settings: Settings) -> Client | None:
    """A client of the service to ask, or None where the index must be opened in this process.

    A service named by --server or VIEWFINDER_SERVER is taken as it is. Otherwise one is looked for on this machine, at
    VIEWFINDER_PORT. Somebody waits for the answer, so nothing is retried. Says on standard error which is used.
    """
    if "server" not in settings.model_fields_set:
        settings = settings.model_copy(update={"server": settings.service_url})
        if not _answers(settings.server):
            return None
    note(f"Asking the service at {settings.server}.")
    return Client.of(settings, retries=0)


def _answers(server: str) -> bool:
    # Without the API key: another program may have the port.
    with Client(server, timeout_s=_PROBE_TIMEOUT_S, retries=0) as client:
        try:
            return client.healthy()
        except ServiceError:
            return False
