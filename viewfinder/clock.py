"""The time of day. Everything that is recorded with a time gets it here, so that a simulation can replace the clock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def _system() -> datetime:
    return datetime.now(UTC)


_clock: ContextVar[Clock] = ContextVar("clock", default=_system)


def now() -> datetime:
    """Return the time of day in UTC."""
    return _clock.get()()


def timestamp() -> str:
    """Return the time of day as ISO 8601 in UTC, to the second."""
    return now().isoformat(timespec="seconds")


@contextmanager
def using(clock: Clock) -> Iterator[None]:
    """Take the time from `clock` in this context: this thread, or this task."""
    token = _clock.set(clock)
    try:
        yield
    finally:
        _clock.reset(token)
