"""Answers of the store that many pages ask for at once: each is read once and kept for some seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_ANSWERS = 256


class RecentAnswers:
    """Answers by question. Errors are not kept, but equal questions at the same time share them."""

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._answers: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer that was read less than `keep_s` ago, or ask."""
        now = self._clock()
        at, answer = self._answers.get(question, (now, None))
        if answer is None or answer.cancelled() or (answer.done() and now - at >= self._keep_s):
            answer = asyncio.ensure_future(ask())
            self._answers.pop(question, None)
            self._answers[question] = now, answer
            while len(self._answers) > _MAX_ANSWERS:
                self._answers.pop(next(iter(self._answers)))
        try:
            # Shielded: a client that disconnects does not take the answer from the others.
            found: T = await asyncio.shield(answer)
        except Exception:
            self._answers.pop(question, None)
            raise
        return found
