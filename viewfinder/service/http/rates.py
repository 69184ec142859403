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
# The peer whose `X-Forwarded-For` uvicorn trusts (its setting FORWARDED_ALLOW_IPS).
_TRUSTED_BY_UVICORN = "127.0.0.1"


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
    parsed = _parsed(address)
    if parsed is None or parsed.version == 4:
        return address if parsed is None else str(parsed)
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
            _host_and_port(each) for line in Headers(scope=scope).getlist("x-forwarded-for") for each in line.split(",")
        ]
        address = _peer(scope, forwarded)
        while forwarded and self._trusts(address):
            following, _ = forwarded.pop()
            if _parsed(following) is None:
                break
            address = following
        return address

    def _trusts(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _peer(scope: Scope, forwarded: list[tuple[str, int]]) -> str:
    """The address that the connection came from.

    If that is 127.0.0.1, uvicorn puts the last other address of `forwarded` in its place, with port 0 unless the entry
    has one. A connection has a port above 0: so a client that names itself is not taken for one that uvicorn named.
    """
    host, port = scope["client"] if scope.get("client") else ("", None)
    named = next((each for each in reversed(forwarded) if each[0] != _TRUSTED_BY_UVICORN), None)
    return _TRUSTED_BY_UVICORN if forwarded and (port == 0 or (host, port) == named) else str(host)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _host_and_port(entry: str) -> tuple[str, int]:
    """The address in an entry, and its port or 0: `1.2.3.4:5`, `[2001:db8::1]:5`."""
    entry = entry.strip()
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
    else:
        host, _, port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
    try:
        return host, int(port.removeprefix(":"))
    except ValueError:
        return host, 0
