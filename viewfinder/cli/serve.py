"""`viewfinder serve`: run the search service on this machine or on a Ray cluster."""

import contextlib
import errno
import socket
import time
from typing import Annotated, Any

from viewfinder.cli import output
from viewfinder.cli.entry import job
from viewfinder.cli.options import ConfigOption, IndexNameOption, JsonOption, examples, optional, whole
from viewfinder.cli.starting import StartingAnswer
from viewfinder.client import Client
from viewfinder.errors import ConfigurationError, ServiceError
from viewfinder.extras import packages_of
from viewfinder.settings import Settings

EPILOG = examples(
    "viewfinder serve",
    "viewfinder serve --port 8080 --index cats",
    "VIEWFINDER_API_KEYS=DIGEST viewfinder serve --host 0.0.0.0",
    statuses="Exit status: 0 stopped by Ctrl-C or SIGTERM, 1 did not start, 2 wrong usage or configuration.",
)

_PORT_PROBE_TIMEOUT_S = 2.0
_HEALTH_TIMEOUT_S = 3.0
_HOSTS = " Use 127.0.0.1 for this machine only, or 0.0.0.0 for all of its addresses."
# Ray Serve's own actors need CPUs beside the first replica.
_MINIMUM_CPUS = 4


def serve_command(
    host: Annotated[
        str | None,
        optional(metavar="ADDRESS", help="Address to listen on. [default: VIEWFINDER_HOST]"),
    ] = None,
    port: Annotated[
        int | None,
        optional(
            metavar="PORT",
            help="Port to listen on; 0 takes a free one. [default: VIEWFINDER_PORT]",
            parser=whole(0, 65_535),
        ),
    ] = None,
    index: IndexNameOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the search service until Ctrl-C.

    Serves the search page and the HTTP API. Prints the address when the service is ready, with --json as
    {"url": ADDRESS}.
    """
    settings = Settings.load(config=config, host=host, port=port, index=index)
    settings = settings.model_copy(update={"port": free_port(settings.host, settings.port)})
    with job(stopped="Stopped before the service was ready."):
        _run_service(settings, as_json=as_json)


def free_port(host: str, port: int) -> int:
    """Return the port, or for 0 a free one. Raises `ConfigurationError` if another program has the port.

    Ray Serve listens with SO_REUSEPORT: a second service would share the port without an error, and each would get part
    of the requests.
    """
    family, address = _resolve(host, port)
    _bind(family, (address[0], 0, *address[2:]), host, 0)  # raises for an address of another machine
    if port:
        # A service that listens on all addresses is reached through the loopback address.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(address[0]), str(address[0]))
        with contextlib.suppress(OSError), socket.create_connection((reachable, port), timeout=_PORT_PROBE_TIMEOUT_S):
            raise _taken(host, port, reachable)
    return _bind(family, address, host, port)


def _bind(family: socket.AddressFamily, address: tuple[Any, ...], host: str, port: int) -> int:
    """Bind a socket for a moment and return its port. Raises `ConfigurationError` if that is not possible."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without SO_REUSEPORT, so that binding fails where another socket listens.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(host, port, None) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConfigurationError(f"{host!r} is not an address of this machine.{_HOSTS}") from error
            raise ConfigurationError(f"Cannot listen on {host!r}, port {port}: {error.strerror}.") from error
        return int(probe.getsockname()[1])


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigurationError(f"{host!r} is not an address of this machine: {error}.{_HOSTS}") from error
    return family, address


def _taken(host: str, port: int, reachable: str | None) -> ConfigurationError:
    """The error for a port in use. A program that listens at `reachable` is asked what it is."""
    by = "by another program"
    if reachable is not None:
        address = f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
        with Client(address, timeout_s=_HEALTH_TIMEOUT_S, retries=0) as client, contextlib.suppress(ServiceError):
            by = "by a viewfinder service that is running already" if client.healthy() else by
    return ConfigurationError(
        f"Port {port} on {host} is taken {by}. Stop it, or choose another port: "
        f"viewfinder serve --port {port + 1 if port < 65_535 else 8000}"
    )


def wait_for_interrupt() -> None:
    """Block until Ctrl-C or SIGTERM: the normal end of a service, so the exit status is 0."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    output.note("Stopping the service ...")


def _run_service(settings: Settings, *, as_json: bool) -> None:
    """Start Ray and the service, print the address, and wait for Ctrl-C or SIGTERM.

    Until a replica is ready, the port answers 503 with the phase.
    """
    with answer_while_starting(settings.host, settings.port) as starting:

        def begin(phase: str) -> None:
            starting.phase = phase
            output.note(f"{phase[0].upper()}{phase[1:]} ...")

        with packages_of("all", "'viewfinder serve'"):
            from viewfinder.cluster.session import start_ray
            from viewfinder.models.cpu import cpu_cores
            from viewfinder.service.serving import build, serving
            from viewfinder.store import StoreAddress, connect

        address = StoreAddress.of(settings)
        if address.url is not None:
            begin("asking Qdrant")
            with connect(address) as store:
                store.check()  # a replica would wait for it without end
        application = build(settings)  # refuses a service without keys on a public address before anything is started
        begin("starting Ray")
        with (
            start_ray(
                address,
                ray_address=settings.ray_address,
                num_cpus=max(_MINIMUM_CPUS, cpu_cores()),
                include_dashboard=False,
            ),
            serving(application, settings.host, settings.port, begin) as url,
        ):
            starting.close()
            if as_json:
                output.print_json_line({"url": url})
            else:
                output.print_text(f"Ready: {url} (Ctrl-C stops)")
            wait_for_interrupt()


def answer_while_starting(host: str, port: int) -> StartingAnswer:
    """Answer requests at this address with 503. Raises `ConfigurationError` if another program has the port."""
    family, address = _resolve(host, port)
    try:
        return StartingAnswer(family, address, "loading the program")
    except OSError as error:
        raise _taken(host, port, None) from error
