"""Rate limits: a token bucket per client, in this replica alone."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

# Buckets kept, of the most recent clients; one that is dropped starts full again.
MAX_CLIENTS = 10_000


class RateLimiter:
    """Token buckets that hold one minute's requests and refill evenly."""

    def __init__(self, requests_per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_tokens = float(requests_per_minute)
        self._per_second = requests_per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> int | None:
        """Count one request of this client: None if it is allowed, else the seconds until the next one is."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._max_tokens, now))
        tokens = min(self._max_tokens, tokens + (now - then) * self._per_second)
        wait_s = None if tokens >= 1 else max(1, math.ceil((1 - tokens) / self._per_second))
        self._buckets[client] = (tokens - 1 if wait_s is None else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait_s


def client_of(address: str) -> str:
    """The client of an address: an IPv6 /64 network is one client, which owns all its addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
