"""Checks of what is reached over the network: Ray, service, source."""

import importlib.util
import socket
from contextlib import closing
from dataclasses import replace

from viewfinder.addresses import is_loopback
from viewfinder.cli.doctor.finding import Finding
from viewfinder.cli.doctor.store import holder_of
from viewfinder.cli.index import check_local_sources
from viewfinder.client import Client
from viewfinder.errors import ObjectError, ServiceError, ServiceUnavailableError
from viewfinder.ray_directory import ray_directory
from viewfinder.settings import Settings
from viewfinder.wording import counted

_CONNECT_TIMEOUT_S = 2.0
_SERVICE_TIMEOUT_S = 5.0
_NEEDS_KEY = "a viewfinder service answers, but does not accept this API key"


def ray_cluster(settings: Settings) -> Finding:
    """Check that something listens at the cluster's address; joining the cluster would take seconds."""
    address = settings.ray_address or ""
    advice = "Start the cluster, correct RAY_ADDRESS, or unset it for a Ray on this machine."
    # `ray start` writes this file, and a crash leaves it behind. `serve run` then retries for minutes.
    current_cluster = ray_directory() / "ray_current_cluster"
    if not address and current_cluster.is_file():
        address = current_cluster.read_text().strip()
        advice = f"Delete {current_cluster}, which a crashed cluster left behind, or start the cluster again."
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return Finding("Ray", "ok", f"RAY_ADDRESS is {address}" if address else _own_ray(settings))
    if _connection_error(host.strip("[]"), int(port)) is None:
        return Finding("Ray", "ok", f"something listens at {address}")
    return Finding("Ray", "failed", f"nothing listens at {address}", advice)


def _own_ray(settings: Settings) -> str:
    """The Ray that holds the embedded store, if there is one."""
    if settings.qdrant_url is None and importlib.util.find_spec("qdrant_client") is not None:
        _, holder = holder_of(settings)
        if holder is not None and holder.ray_address is not None:
            return f"{holder.ray_address} on {holder.host}, which holds the embedded store"
    return "not running on this machine; started when needed"


def port(settings: Settings) -> Finding:
    name = f"port {settings.port}"
    if settings.port == 0:
        return Finding(name, "ok", "the service takes a free one")
    # A service that listens on all addresses is reached through the loopback address.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    match _connection_error(host, settings.port):
        case None:
            # Without the API key, since another program may own the port.
            address = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
            check = _ask(name, Client(address, timeout_s=_SERVICE_TIMEOUT_S, retries=0))
            if check.found == _NEEDS_KEY:
                return Finding(name, "ok", check.found)
            return replace(check, advice="Stop it, or set VIEWFINDER_PORT.") if check.state == "failed" else check
        case ConnectionRefusedError():
            return Finding(name, "ok", f"free on {host}")
        case error:
            return Finding(name, "failed", f"{host}: {error}", "Correct VIEWFINDER_HOST.")


def _connection_error(host: str, port: int) -> OSError | None:
    """Try to connect; return the error, or None on success."""
    try:
        with closing(socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S)):
            return None
    except OSError as error:
        return error


def api_keys(settings: Settings) -> Finding:
    """Report which clients a service with these settings answers."""
    if settings.api_keys:
        admins = sum(key.get_secret_value()[64:].startswith(":admin") for key in settings.api_keys)
        return Finding("API keys", "ok", f"{len(settings.api_keys)}, of which {admins} allow takedowns")
    if settings.allow_anonymous:
        found = f"none: every client that reaches {settings.host} may search"
        return Finding("API keys", "note", found, "'viewfinder key' makes one for VIEWFINDER_API_KEYS.")
    if is_loopback(settings.host):
        return Finding("API keys", "ok", "none: the service answers only this machine")
    advice = "Set VIEWFINDER_API_KEYS ('viewfinder key' makes one), or VIEWFINDER_ALLOW_ANONYMOUS=1."
    return Finding(
        "API keys", "note", f"none: the service listens on {settings.host}, but answers only this machine", advice
    )


def service(settings: Settings) -> Finding:
    """Query the service that the client and the command line use, with their key."""
    check = _ask("service", Client.of(settings, timeout_s=_SERVICE_TIMEOUT_S, retries=0))
    return replace(check, found=f"{settings.service_url}: {check.found}")


def _ask(name: str, client: Client) -> Finding:
    with client:
        try:
            stats = client.stats()
        except ServiceUnavailableError as error:
            no_index = error.code == "no_index"
            return Finding(name, "note" if no_index else "failed", error.message, error.hint)
        except ServiceError as error:
            if error.code == "unauthorized":
                return Finding(name, "failed", _NEEDS_KEY, "Set VIEWFINDER_API_KEY to a key of this service.")
            return Finding(name, "failed", f"another program answers: {error.message}", error.hint)
    found = f"the service answers: {counted(stats.points, 'point')} in {stats.collection}"
    return Finding(name, "note", f"{found}; {stats.behind}") if stats.behind else Finding(name, "ok", found)


def source_read(settings: Settings, source: str | None) -> Finding:
    """List the source and read one object: credentials often allow only one of the two."""
    if source is None:
        return Finding("source", "skipped", "no source was given", "viewfinder doctor --source s3://bucket/prefix")
    from viewfinder.sources.access import ObjectAccess
    from viewfinder.sources.objects import Objects
    from viewfinder.sources.uris import canonical_uri

    check_local_sources([source])
    uri = canonical_uri(source)
    with Objects(ObjectAccess.of(settings)) as objects:
        objects.check(uri)
        first = next(iter(objects.list(uri)))
        try:
            objects.read(first.uri, max_bytes=max(first.size, 1))
        except ObjectError as error:
            advice = "The credentials need s3:GetObject." if error.reason == "access_denied" else ""
            return Finding("source", "failed", f"{uri} can be listed, but not read: {error.message}", advice)
    return Finding("source", "ok", f"{uri} can be listed and read")
