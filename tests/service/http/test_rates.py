"""Token buckets with a fake clock."""

import pytest

from viewfinder.service.http.guard import MAX_CLIENTS, RateLimiter, client_of


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
    ],
)
def test_an_ipv6_network_is_one_client(address: str, client: str) -> None:
    assert client_of(address) == client
