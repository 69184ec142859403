"""The time of day, and waiting, where a simulation replaces both."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
Sleep = Callable[[float], None]

_TICK = timedelta(microseconds=1)


def _system() -> datetime:
    return datetime.now(UTC)


_clock: ContextVar[Clock] = ContextVar("clock", default=_system)
_sleep: ContextVar[Sleep] = ContextVar("sleep", default=time.sleep)


def now() -> datetime:
    """Return the time of day in UTC."""
    return _clock.get()()


def timestamp() -> str:
    """Return the time of day as ISO 8601 in UTC, to the second."""
    return now().isoformat(timespec="seconds")


def timestamp_after(earlier: Iterable[str], clock: Clock = now) -> str:
    """Return the time of day, or if this machine's clock is behind, a moment after the latest of `earlier` times."""
    current = clock()
    latest = max(map(datetime.fromisoformat, earlier), default=current - _TICK)
    return max(current, latest + _TICK).isoformat(timespec="microseconds")


def sleep(seconds: float) -> None:
    """Wait."""
    _sleep.get()(seconds)


@contextmanager
def using(clock: Clock, sleep: Sleep = time.sleep) -> Iterator[None]:
    """Take the time from `clock` and wait by `sleep` in this context: this thread, or this task."""
    tokens = _clock.set(clock), _sleep.set(sleep)
    try:
        yield
    finally:
        _clock.reset(tokens[0])
        _sleep.reset(tokens[1])
