"""Token buckets with a fake clock."""

from typing import Any, cast

import pytest
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from viewfinder.service.http.rates import MAX_CLIENTS, RateLimiter, TrustedProxies, client_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_may_come_at_once() -> None:
    clock = Clock()
    rates = RateLimiter(60, clock=clock)
    assert [rates.take("a") for _ in range(61)] == [None] * 60 + [1]
    clock.now += 1
    assert [rates.take("a") for _ in range(2)] == [None, 1]
    clock.now += 3600
    assert [rates.take("a") for _ in range(61)] == [None] * 60 + [1], "an idle hour saves up only one minute's requests"


def test_the_wait_is_the_time_until_the_next_token() -> None:
    clock = Clock()
    rates = RateLimiter(2, clock=clock)
    assert [rates.take("a") for _ in range(3)] == [None, None, 30]
    clock.now += 10.5
    assert rates.take("a") == 20
    clock.now += 20
    assert rates.take("a") is None


def test_clients_have_separate_buckets() -> None:
    rates = RateLimiter(1, clock=Clock())
    assert [rates.take(name) for name in "abab"] == [None, None, 60, 60]


def test_the_most_recent_clients_are_kept() -> None:
    rates = RateLimiter(1, clock=Clock())
    rates.take("first")
    for number in range(MAX_CLIENTS - 1):
        rates.take(str(number))
    assert rates.take("first") == 60
    rates.take("one more")
    assert rates.take("first") == 60, "the most recent client is kept"
    assert rates.take("0") is None, "the oldest was dropped"


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("unix", "unix"),
        ("::ffff:1.2.3.4", "1.2.3.4"),  # an IPv4 client of a socket that takes both
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv4_address_or_an_ipv6_network_is_one_client(address: str, client: str) -> None:
    assert client_of(address) == client


def scope(peer: str, *forwarded: str, port: int = 50_000) -> Scope:
    return {
        "type": "http",
        "client": (peer, port),
        "headers": [(b"x-forwarded-for", each.encode()) for each in forwarded],
    }


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("8.8.8.8", [], "8.8.8.8"),
        ("8.8.8.8", ["1.1.1.1"], "8.8.8.8"),  # anyone may send the header
        ("10.0.0.5", [], "10.0.0.5"),
        ("10.0.0.5", ["8.8.8.8"], "8.8.8.8"),
        ("10.0.0.5", ["1.1.1.1, 8.8.8.8"], "8.8.8.8"),  # the client has sent the first one itself
        ("10.0.0.5", ["1.1.1.1", "8.8.8.8"], "8.8.8.8"),
        ("10.0.0.5", ["8.8.8.8, 10.0.0.6"], "8.8.8.8"),  # two proxies
        ("10.0.0.5", ["8.8.8.8, 10.0.0.6, 172.16.0.1"], "172.16.0.1"),
        ("10.0.0.5", ["10.0.0.7, 10.0.0.6"], "10.0.0.7"),  # a client in the proxies' network
        ("10.0.0.5", ["1.1.1.1, nonsense"], "10.0.0.5"),
        ("10.0.0.5", ["1.1.1.1, unknown, 10.0.0.6"], "10.0.0.6"),
        ("10.0.0.5", ["8.8.8.8:4711"], "8.8.8.8"),
        ("10.0.0.5", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.5", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.5", ["8.8.8.8"], "8.8.8.8"),
        ("2001:db8:1::5", ["8.8.8.8"], "8.8.8.8"),
        ("10.0.0.5", ["10.0.0.5, 8.8.8.8"], "8.8.8.8"),  # a client that begins with the proxy's address
        ("10.0.0.5", ["8.8.8.8, 10.0.0.5"], "8.8.8.8"),  # a proxy that appends its own
        ("10.0.0.5", ["8.8.8.8:x"], "8.8.8.8"),
        ("10.0.0.5", ["[2001:db8::7"], "2001:db8::7"),
        ("10.0.0.5", [""], "10.0.0.5"),
        ("", ["8.8.8.8"], ""),
    ],
)
def test_the_client_is_the_last_forwarded_address_that_is_no_trusted_proxy(
    peer: str, forwarded: list[str], client: str
) -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48"])
    assert proxies.client(scope(peer, *forwarded)) == client


async def behind_uvicorn(networks: list[str], peer: str, *forwarded: str) -> str:
    """The client where uvicorn serves with its default settings."""
    found = []

    async def api(scope: Any, receive: Any, send: Any) -> None:
        found.append(TrustedProxies(networks).client(scope))

    async def unused(*_: Any) -> Any:
        raise AssertionError

    middleware = ProxyHeadersMiddleware(api, "127.0.0.1")
    await middleware(cast(Any, scope(peer, *forwarded)), unused, unused)
    return found[0]


@pytest.mark.parametrize(
    "entry", ["1.2.3.{}", "1.2.3.4:{}", "[2001:db8::{}]:7", "1.2.3.4:x{}", "[::1]x{}", "nonsense{}"]
)
@pytest.mark.parametrize("number", range(3))
async def test_a_client_cannot_choose_its_address_where_uvicorn_believes_it(entry: str, number: int) -> None:
    """Regression: uvicorn believes a peer on this machine, so each request could come from another address."""
    assert await behind_uvicorn([], "127.0.0.1", entry.format(number)) == "127.0.0.1"
    assert await behind_uvicorn(["127.0.0.1"], "127.0.0.1", f"{entry.format(number)}, 8.8.8.8") == "8.8.8.8"


@pytest.mark.parametrize("number", range(3))
async def test_a_client_that_names_itself_cannot_choose_its_address(number: int) -> None:
    """Regression: it was taken for one that uvicorn had named, and the next entry for the client."""
    forwarded = f"203.0.113.7, 9.9.9.{number}"
    assert await behind_uvicorn(["127.0.0.0/8"], "203.0.113.7", forwarded) == "203.0.113.7"
    forwarded = f"9.9.9.{number}, 203.0.113.7"
    assert await behind_uvicorn(["127.0.0.0/8"], "203.0.113.7", forwarded) == "203.0.113.7"
