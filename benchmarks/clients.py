"""Clients that search without pause while the service changes, and record every response."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

# Of one request.
TIMEOUT_S = 60.0
_WAIT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """The response to one request; `status` is 0 if the connection failed, and `body` then has the error."""

    text: str
    status: int
    body: dict[str, Any]

    @property
    def pair(self) -> tuple[str, str]:
        """Model and collection named in the response."""
        return self.body["model"], self.body["collection"]


@dataclass
class Clients:
    """`count` clients, each with its own connection and starting place in `texts`."""

    url: str
    texts: Sequence[str]
    count: int
    params: dict[str, Any] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    _heard: threading.Condition = field(default_factory=threading.Condition)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def failed(self) -> list[Answer]:
        """Responses other than 200."""
        return [each for each in self.answers if each.status != 200]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Search as long as the block runs."""
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def wait_for(self, wanted: Callable[[Answer], bool], count: int, *, timeout_s: float = _WAIT_TIMEOUT_S) -> None:
        """Wait until `count` new responses in a row satisfy `wanted`; raise `TimeoutError`."""
        with self._heard:
            start = len(self.answers)

            def heard() -> bool:
                run = itertools.takewhile(wanted, reversed(self.answers[start:]))
                return sum(1 for _ in run) >= count

            if not self._heard.wait_for(heard, timeout_s):
                last = self.answers[-1] if self.answers else None
                raise TimeoutError(f"Not {count} such responses in a row within {timeout_s:g} s; the last was {last}")

    def ask_once(self, client: httpx.Client, text: str) -> Answer:
        """Make one request."""
        try:
            answer = client.get("/v1/search", params={"q": text, **self.params})
            return Answer(text, answer.status_code, answer.json())
        except (httpx.TransportError, ValueError) as error:
            return Answer(text, 0, {"error": {"code": type(error).__name__, "message": str(error)}})

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S) as client:
            for turn in itertools.count(number * len(self.texts) // self.count):
                if self._over.is_set():
                    return
                answer = self.ask_once(client, self.texts[turn % len(self.texts)])
                with self._heard:
                    self.answers.append(answer)
                    self._heard.notify_all()
