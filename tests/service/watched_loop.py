"""An event loop that measures the CPU time of its callbacks, and so which requests hold it up."""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from viewfinder.service.telemetry import access_log

# Longer than this no handler may keep the loop from all others.
# A quiet machine stays within 50 ms; one that is busy with other work was seen to count 260 for the same callbacks.
# What this must find takes seconds. MAX_HELD_MS=50 in the environment measures on a quiet machine.
MAX_HELD_MS = float(os.environ.get("MAX_HELD_MS", "800"))


@dataclass(frozen=True)
class Held:
    """The loop was held for `ms` of CPU time by a callback, while it answered `request`."""

    ms: float = 0.0
    request: str = ""
    callback: str = ""


class WatchedLoop(asyncio.SelectorEventLoop):
    """Records the callback that took most CPU time. CPU time, as wall time depends on what else the machine does."""

    worst = Held()

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return super().call_soon(self._timed, callback, *args, context=context)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return super().call_soon_threadsafe(self._timed, callback, *args, context=context)

    def _timed(self, callback: Callable[..., Any], *args: Any) -> None:
        began = time.thread_time()
        try:
            callback(*args)
        finally:
            held_ms = (time.thread_time() - began) * 1000
            if held_ms > WatchedLoop.worst.ms:
                record = access_log.current.get()
                WatchedLoop.worst = Held(held_ms, f"{record.method} {record.path}" if record else "", repr(callback))


@contextmanager
def watching() -> Iterator[None]:
    """Fail if a callback of a `WatchedLoop` takes more CPU time than `MAX_HELD_MS` while the block runs."""
    gc.freeze()  # as a replica does
    WatchedLoop.worst = Held()
    yield
    gc.unfreeze()
    assert WatchedLoop.worst.ms <= MAX_HELD_MS, WatchedLoop.worst
