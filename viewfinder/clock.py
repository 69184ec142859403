"""The time of day, waiting, and what is done at intervals, where a simulation replaces all three."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
Sleep = Callable[[float], None]
Repeating = Callable[[float, Callable[[], bool]], AbstractContextManager[None]]

_TICK = timedelta(microseconds=1)


def _system() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _thread(seconds: float, function: Callable[[], bool]) -> Iterator[None]:
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds) and function():
            pass

    thread = threading.Thread(target=run, name="repeating", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)


_clock: ContextVar[Clock] = ContextVar("clock", default=_system)
_sleep: ContextVar[Sleep] = ContextVar("sleep", default=time.sleep)
_repeating: ContextVar[Repeating] = ContextVar("repeating", default=_thread)


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


def repeating(seconds: float, function: Callable[[], bool]) -> AbstractContextManager[None]:
    """Call `function` every `seconds` in the background while the context is open, and as long as it returns True."""
    return _repeating.get()(seconds, function)


@contextmanager
def using(clock: Clock, sleep: Sleep = time.sleep, repeating: Repeating = _thread) -> Iterator[None]:
    """Take the time from `clock`, wait by `sleep` and repeat by `repeating` in this context: this thread or task."""
    tokens = _clock.set(clock), _sleep.set(sleep), _repeating.set(repeating)
    try:
        yield
    finally:
        _clock.reset(tokens[0])
        _sleep.reset(tokens[1])
        _repeating.reset(tokens[2])
