"""Trying again what an unavailable Qdrant may answer later: jittered exponential back-off with a deadline."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from viewfinder.errors import StoreUnavailableError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """Repeats a call that raises `StoreUnavailableError` until it succeeds or `deadline_s` has passed.

    The pause before attempt n is drawn from 0 .. min(longest_s, first_s · 2ⁿ) ("full jitter", so that many writers
    refused together do not come back together) and is never shorter than Qdrant's own Retry-After. Every other
    error is final at once. `clock`, `sleep` and `draw` are given by tests.
    """

    deadline_s: float
    first_s: float = 0.2
    longest_s: float = 20.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[float, float], float] = random.uniform

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns; raises its last `StoreUnavailableError`, saying how often it was tried."""
        started = self.clock()
        attempts = 0
        while True:
            try:
                return call()
            except StoreUnavailableError as error:
                attempts += 1
                pause_s = self._pause_s(attempts, error.retry_after_s)
                waited_s = self.clock() - started
                if waited_s + pause_s > self.deadline_s:
                    if attempts == 1:
                        raise
                    raise StoreUnavailableError(
                        f"{error} Gave up after {attempts} attempts in {waited_s:.0f} s."
                    ) from error
                logger.warning("%s Trying again in %.1f s.", error, pause_s)
                self.sleep(pause_s)

    def _pause_s(self, attempts: int, retry_after_s: float | None) -> float:
        # The exponent is bounded because 2.0 ** 1024 overflows, and a day of retrying gets there.
        ceiling_s = min(self.longest_s, self.first_s * 2.0 ** min(attempts, 30))
        return max(self.draw(0.0, ceiling_s), retry_after_s or 0.0)
