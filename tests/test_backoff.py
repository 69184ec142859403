"""Retries with back-off: pauses, deadline, and the errors that are retried."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from viewfinder.backoff import Backoff
from viewfinder.errors import StoreError, StoreUnavailableError


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now += pause_s


def retry(clock: Clock, deadline_s: float, **settings: float) -> Backoff:
    return Backoff(deadline_s, clock=clock, sleep=clock.sleep, draw=lambda _, ceiling: ceiling, **settings)


def failing(times: int, retry_after_s: float | None = None) -> Callable[[], str]:
    left = iter(range(times))

    def call() -> str:
        if next(left, None) is None:
            return "done"
        error = StoreUnavailableError("Qdrant is away.")
        error.retry_after_s = retry_after_s
        raise error

    return call


def test_pauses_double_up_to_the_maximum() -> None:
    clock = Clock()
    assert retry(clock, 1000, first_s=1.0, maximum_s=5.0)(failing(4)) == "done"
    assert clock.pauses == [1.0, 2.0, 4.0, 5.0]


def test_pauses_are_drawn_between_zero_and_the_ceiling() -> None:
    bounds: list[tuple[float, float]] = []

    def draw(minimum: float, maximum: float) -> float:
        bounds.append((minimum, maximum))
        return maximum / 2

    clock = Clock()
    Backoff(1000, first_s=1.0, clock=clock, sleep=clock.sleep, draw=draw)(failing(2))
    assert bounds == [(0.0, 1.0), (0.0, 2.0)]
    assert clock.pauses == [0.5, 1.0]


def test_a_pause_is_never_shorter_than_the_server_asks_for() -> None:
    clock = Clock()
    retry(clock, 1000, first_s=1.0)(failing(3, retry_after_s=3.5))
    assert clock.pauses == [3.5, 3.5, 4.0]


def test_the_error_after_the_deadline_contains_the_number_of_attempts() -> None:
    clock = Clock()
    with pytest.raises(StoreUnavailableError, match=r"Qdrant is away\. Gave up after 4 attempts in 7 s\."):
        retry(clock, 10, first_s=1.0, maximum_s=100)(failing(99))
    assert clock.pauses == [1.0, 2.0, 4.0]


def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    clock = Clock()
    with pytest.raises(StoreUnavailableError, match=r"^Qdrant is away\.$"):
        retry(clock, 10)(failing(1, retry_after_s=11))
    assert clock.pauses == []


def test_a_deadline_of_zero_means_one_attempt() -> None:
    clock = Clock()
    with pytest.raises(StoreUnavailableError):
        retry(clock, 0)(failing(1))
    assert clock.pauses == []


def test_other_errors_are_not_retried() -> None:
    clock = Clock()
    calls = []

    def refused() -> None:
        calls.append(1)
        raise StoreError("no")

    with pytest.raises(StoreError):
        retry(clock, 1000)(refused)
    assert calls == [1]


def test_the_errors_to_retry_can_be_chosen() -> None:
    clock = Clock()
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise StoreError("not yet")
        return "done"

    assert retry(clock, 1000)(call, retry_on=(StoreError,)) == "done"
    assert len(calls) == 3
