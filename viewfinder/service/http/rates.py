"""How many requests a minute one client may make: a token bucket each, in this replica alone."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

# Buckets of clients seen last; one that is dropped starts full again.
MOST_CLIENTS = 10_000


class Rates:
    """Token buckets that hold a minute's requests and fill evenly."""

    def __init__(self, requests_per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(requests_per_minute)
        self._per_second = requests_per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> int | None:
        """Count one request of this client: None if it may go on, else the seconds until the next one may."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - then) * self._per_second)
        wait_s = None if tokens >= 1 else max(1, math.ceil((1 - tokens) / self._per_second))
        self._buckets[client] = (tokens - 1 if wait_s is None else tokens, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return wait_s


def client_of(address: str) -> str:
    """Whom an address stands for: an IPv6 network of 64 bits is one client, who owns all its addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
