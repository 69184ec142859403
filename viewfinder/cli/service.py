"""Find the service to use: the configured one, else one on this machine, else none."""

from viewfinder.cli.output import note
from viewfinder.client import Client
from viewfinder.errors import ServiceError
from viewfinder.settings import Settings

# Even a busy service answers /healthz within a fraction of this.
_PROBE_TIMEOUT_S = 2.0


def find_service(settings: Settings) -> Client | None:
    """Return a client of the service to use, or None if the index must be opened in this process.

    A service in --server or VIEWFINDER_SERVER is used without a probe. Otherwise the port VIEWFINDER_PORT of this
    machine is probed. Requests are not retried, because a user is waiting. Prints the service used on standard error.
    """
    if "server" not in settings.model_fields_set:
        settings = settings.model_copy(update={"server": settings.service_url})
        if not _answers(settings.server):
            return None
    note(f"Using the service at {settings.server}.")
    return Client.of(settings, retries=0)


def _answers(server: str) -> bool:
    # Without the API key, since another program may own the port.
    with Client(server, timeout_s=_PROBE_TIMEOUT_S, retries=0) as client:
        try:
            return client.healthy()
        except ServiceError:
            return False
