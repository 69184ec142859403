"""Retries with exponential back-off, full jitter and a deadline."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from viewfinder.errors import StoreUnavailableError, ViewfinderError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SHORT_PAUSE_S = 1.0


@dataclass(frozen=True)
class Backoff:
    """Repeats a call until it succeeds or `deadline_s` has passed.

    The pause after attempt n is drawn from 0 .. min(maximum_s, first_s · 2ⁿ⁻¹): "full jitter" keeps clients that were
    refused together from coming back together. It is never shorter than the server's Retry-After. Tests pass
    `clock`, `sleep` and `draw`.
    """

    deadline_s: float
    first_s: float = 0.2
    maximum_s: float = 20.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[float, float], float] = random.uniform

    def __call__(
        self, call: Callable[[], T], retry_on: tuple[type[ViewfinderError], ...] = (StoreUnavailableError,)
    ) -> T:
        """Return the result of `call`; retry the errors in `retry_on`, and raise every other one at once.

        After the deadline the last error is raised with the number of attempts in its text.
        """
        started = self.clock()
        attempt = 0
        while True:
            try:
                return call()
            except retry_on as error:
                attempt += 1
                pause_s = self.pause_s(attempt, getattr(error, "retry_after_s", None))
                waited_s = self.clock() - started
                if waited_s + pause_s > self.deadline_s:
                    if attempt == 1:
                        raise
                    raise type(error)(f"{error} Gave up after {attempt} attempts in {waited_s:.0f} s.") from error
                # One short pause is normal, for example when the program that holds the embedded store ends.
                level = logging.INFO if attempt == 1 and pause_s < _SHORT_PAUSE_S else logging.WARNING
                when = f"in {pause_s:.1f} s" if pause_s >= 0.05 else "at once"
                logger.log(level, "%s Trying again %s.", error, when)
                self.sleep(pause_s)

    def pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Return the pause after attempt number `attempt` (from 1), in seconds."""
        # The exponent is bounded because 2.0 ** 1024 overflows, and a day of retrying gets there.
        ceiling_s = min(self.maximum_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return max(self.draw(0.0, ceiling_s), retry_after_s or 0.0)
