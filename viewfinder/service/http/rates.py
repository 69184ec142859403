"""Which client sent a request, and how many requests it may send."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

# Maximum number of token buckets, of the most recent clients. A client whose bucket was dropped starts with a full one.
MAX_CLIENTS = 10_000
# The peer whose `X-Forwarded-For` uvicorn believes (its setting FORWARDED_ALLOW_IPS).
_BELIEVED_BY_UVICORN = "127.0.0.1"


class RateLimiter:
    """Token buckets that hold one minute's requests and refill evenly."""

    def __init__(self, requests_per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_tokens = float(requests_per_minute)
        self._per_second = requests_per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> int | None:
        """Count one request of this client; return None if it is allowed, else the seconds to wait."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._max_tokens, now))
        tokens = min(self._max_tokens, tokens + (now - then) * self._per_second)
        wait_s = None if tokens >= 1 else max(1, math.ceil((1 - tokens) / self._per_second))
        self._buckets[client] = (tokens - 1 if wait_s is None else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait_s


def client_of(address: str) -> str:
    """The client of an address: an IPv6 /64 network counts as one client."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))


class TrustedProxies:
    """Finds the address of a client behind reverse proxies, from `X-Forwarded-For`.

    Each proxy appends the address that it was called from, and a client may send any addresses before. So the addresses
    count from the right, and the first that is not of a trusted proxy is the client's.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(each) for each in networks]

    def client(self, scope: Scope) -> str:
        """The address of the client, or of the last trusted proxy if that names none."""
        forwarded = [
            _host(each) for line in Headers(scope=scope).getlist("x-forwarded-for") for each in line.split(",")
        ]
        address = _peer(scope, forwarded)
        while forwarded and self._trusts(address):
            if _parsed(following := forwarded.pop()) is None:
                break
            address = following
        return address

    def _trusts(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _peer(scope: Scope, forwarded: list[str]) -> str:
    """The address that the connection came from: uvicorn puts one of the forwarded ones in its place."""
    host = str(scope["client"][0]) if scope.get("client") else ""
    return _BELIEVED_BY_UVICORN if host in forwarded else host


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _host(entry: str) -> str:
    """The address in an entry, which may have a port: `1.2.3.4:5`, `[2001:db8::1]:5`."""
    entry = entry.strip()
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
