"""Fetches an image from a URL that an untrusted client sent, without giving access to this network (SSRF).

A host name is resolved once; every address must be public, and the connection goes to one of those addresses. The name
is never resolved a second time, which could give another answer (DNS rebinding). Redirects are checked the same way.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from weakref import WeakValueDictionary

import httpcore
import httpx

from viewfinder.authorities import tls_context
from viewfinder.errors import ConfigurationError
from viewfinder.query.errors import AddressError

logger = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[Address]]]

PORTS = frozenset({80, 443, 8080, 8443})
MAX_URL = 4096
MAX_REDIRECTS = 3
FETCH_TIMEOUT_S = 10.0
# Time for one address of a host; then the next one is tried.
FETCH_CONNECT_TIMEOUT_S = 3.0
MAX_ADDRESSES = 4
# Maximum number of parallel fetches, each with up to `max_bytes` in memory, and of resolver threads.
MAX_FETCHES = 16

# Of those, from one host: it is not overrun, and a slow one does not take all turns.
MAX_FETCHES_PER_HOST = 4

_REDIRECTS = (301, 302, 303, 307, 308)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# `127.1`, `2130706433`, `0x7f.0.0.1`, `0177.1`: a name whose last label is a number is an IPv4 address.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Refused although the registry or Python's `ipaddress` calls them global.
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; a metadata service of one cloud
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # the platform service within each virtual machine of Azure
    )
)
# The only IPv6 block that is allowed: all unicast space assigned so far. It excludes mapped, compatible, NAT64,
# site-local, unique local, link-local and multicast addresses without listing them.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, anycast services
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address within
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Return True for an address on the public Internet that does not embed or relay to another address."""
    if isinstance(address, IPv4Address):
        refused = address.is_multicast or address.is_reserved or any(address in network for network in _REFUSED_V4)
        return address.is_global and not refused
    refused = address.scope_id is not None or any(address in network for network in _REFUSED_V6)
    return address in _GLOBAL_V6 and address.is_global and not refused


def is_own(address: Address) -> bool:
    """Return True for an address of this machine: its other services may listen on a public address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        # Connecting a datagram socket sends nothing; it only chooses the address to send from.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(probe.getsockname()[0] == str(address))
    except OSError:
        return False


def may_be_fetched(address: Address) -> bool:
    """The default policy: public, and not this machine."""
    return is_public(address) and not is_own(address)


class Fetcher:
    """Fetches http and https URLs, without proxies, cookies or credentials of this machine.

    Tests pass `resolve`, `allowed` and `ports` that lead to their own servers.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout_s: float = FETCH_TIMEOUT_S,
        resolve: Resolve | None = None,
        allowed: Callable[[Address], bool] = may_be_fetched,
        ports: Collection[int] = PORTS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._ports = ports
        self._tls = tls
        self._threads = ThreadPoolExecutor(MAX_FETCHES, thread_name_prefix="resolver")
        self._backend = _CheckedBackend(resolve or self._system_resolve, allowed)
        self._turns = asyncio.Semaphore(MAX_FETCHES)
        self._hosts = _HostTurns()

    def check(self, url: str) -> None:
        """Raise `AddressError` for a URL that cannot be fetched, whatever its host's address is."""
        self._parse(url)

    async def fetch(self, url: str) -> bytes:
        """As `fetched`, without a block."""
        async with self.fetched(url) as content:
            return content

    @asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[bytes]:
        """The content, of any media type; raises `AddressError`.

        It keeps its turn until the block ends, so that no more than `MAX_FETCHES` contents are in memory. Waiting for a
        turn does not count towards the time limit.
        """
        target = self._parse(url)
        left_s = self._timeout_s
        async with AsyncExitStack() as turn:
            for _ in range(MAX_REDIRECTS + 1):
                # That of the host first: requests to a slow one must not keep the turns of others.
                await turn.enter_async_context(self._hosts.turn(target.host))
                await turn.enter_async_context(self._turns)
                began = time.monotonic()
                answer = await self._get_in_time(target, left_s)
                if isinstance(answer, bytes):
                    yield answer
                    return
                left_s -= time.monotonic() - began
                await turn.aclose()
                target = self._parse(answer)
        raise AddressError("fetch_failed", f"The address redirects more than {MAX_REDIRECTS} times.")

    async def _get_in_time(self, target: httpx.URL, timeout_s: float) -> bytes | httpx.URL:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._get(target)
        except TimeoutError:
            raise AddressError(
                "fetch_failed", f"{target.host!r} did not answer within {self._timeout_s:g} seconds."
            ) from None
        except ConfigurationError as error:
            logger.error("%s", error)  # it names a file of this machine
            raise AddressError("fetch_failed", f"Reading from {target.host!r} failed.") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            logger.info("Fetching from %r failed: %s", target.host, type(error).__name__)
            raise AddressError("fetch_failed", f"Reading from {target.host!r} failed.") from error

    def close(self) -> None:
        """End the threads; running fetches fail."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _parse(self, url: str | httpx.URL) -> httpx.URL:
        """The URL in canonical form, which everything else is derived from."""
        if isinstance(url, str) and len(url) > MAX_URL:
            raise AddressError("forbidden_address", f"The address is longer than {MAX_URL} characters.")
        try:
            parsed = httpx.URL(url)
            host = parsed.raw_host.decode("ascii")
        except (httpx.InvalidURL, UnicodeError):
            raise AddressError("forbidden_address", "The address is not a URL.") from None
        if parsed.scheme not in ("http", "https"):
            raise AddressError("forbidden_address", f"Only http and https are fetched, not {parsed.scheme[:20]!r}.")
        if parsed.userinfo:
            raise AddressError("forbidden_address", "An address with a user name or password is not fetched.")
        if (port := _port(parsed)) not in self._ports:
            ports = ", ".join(map(str, sorted(self._ports)))
            raise AddressError("forbidden_address", f"The port {port} is not fetched from, only {ports}.")
        if ":" not in host:
            host = host.removesuffix(".")
            if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
                raise AddressError("forbidden_address", "The address has no usable host name.")
        return parsed.copy_with(host=host)

    async def _get(self, url: httpx.URL) -> bytes | httpx.URL:
        """The content, or the URL of a redirect."""
        request = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=_port(url), target=url.raw_path)
        headers = [
            (b"Host", url.netloc),
            (b"Accept", b"image/*"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"viewfinder"),
        ]
        tls = self._tls
        if tls is None and url.scheme == "https":
            tls = await asyncio.get_running_loop().run_in_executor(self._threads, tls_context)
        # One pool per request: no connection is reused for another host or client.
        async with (
            httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=self._backend) as pool,
            pool.stream("GET", request, headers=headers) as response,
        ):
            if response.status in _REDIRECTS:
                return _redirect(url, response)
            if response.status != 200:
                raise AddressError("fetch_failed", f"{url.host!r} answered with status {response.status}, not 200.")
            content = bytearray()
            async for chunk in response.aiter_stream():
                content += chunk
                if len(content) > self._max_bytes:
                    raise AddressError("fetch_failed", f"The content is larger than {self._max_bytes:,} bytes.")
            return bytes(content)

    async def _system_resolve(self, name: str) -> list[Address]:
        def resolve() -> list[Address]:
            # The trailing dot prevents lookups in the cluster's own search domains.
            found = socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM)
            return [ipaddress.ip_address(entry[4][0]) for entry in found]

        return await asyncio.get_running_loop().run_in_executor(self._threads, resolve)


class _HostTurns:
    """At most `MAX_FETCHES_PER_HOST` fetches at the same time from one host."""

    def __init__(self) -> None:
        # Kept only while a fetch uses or awaits them: clients can name any number of hosts.
        self._semaphores: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        semaphore = self._semaphores.setdefault(host, asyncio.Semaphore(MAX_FETCHES_PER_HOST))
        async with semaphore:
            yield


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that were checked."""

    def __init__(self, resolve: Resolve, allowed: Callable[[Address], bool]) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in (await self._addresses(host))[:MAX_ADDRESSES]:
            try:
                return await self._network.connect_tcp(
                    str(address), port, FETCH_CONNECT_TIMEOUT_S, None, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str) -> Sequence[Address]:
        addresses = await self._look_up(host)
        # One private address is enough to refuse the host: public hosts have only public ones.
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise AddressError("forbidden_address", f"{host!r} does not lead to a public address.")
        return addresses

    async def _look_up(self, host: str) -> Sequence[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass  # a name
        if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
            return []
        try:
            return await self._resolve(host)
        except (OSError, UnicodeError):
            return []  # the same message as for a private address, or clients could map this network


def _port(url: httpx.URL) -> int:
    default = 443 if url.scheme == "https" else 80
    return default if url.port is None else url.port


def _redirect(url: httpx.URL, response: httpcore.Response) -> httpx.URL:
    location = next((value for name, value in response.headers if name.lower() == b"location"), b"")
    try:
        return url.join(location.decode())
    except (httpx.InvalidURL, UnicodeError):
        raise AddressError("fetch_failed", f"{url.host!r} redirects to something that is not a URL.") from None
