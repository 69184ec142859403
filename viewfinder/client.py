"""A running search service from Python: `Client` for threads, `AsyncClient` for asyncio, with the same answers.

Both only carry out what the `Service` of `viewfinder.exchange` decides: it builds requests, reads answers, and says
when to try again.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar, Unpack

import httpx

from viewfinder.exchange import (
    DEFAULT_SERVER,
    Answer,
    Attempt,
    Call,
    Hit,
    Pause,
    Response,
    SearchOptions,
    SearchResult,
    Service,
    Stats,
    Target,
)

__all__ = ["DEFAULT_SERVER", "AsyncClient", "Client", "Hit", "SearchOptions", "SearchResult", "Stats", "Target"]

T = TypeVar("T")


class Client:
    """Asks one service; safe to share between threads. Close it after use, best by `with`.

    `timeout_s` limits a whole call, pauses and further attempts included. After a lost connection or an answer that
    may pass (429, 502, 503, 504) a call is tried again up to `retries` times, with growing random pauses that are never
    shorter than the service's own `Retry-After`.

    Every method raises `ServiceUnavailableError` where the service cannot be reached or does not answer in time, and
    `ServiceError` where it refuses.
    """

    def __init__(
        self, server: str = DEFAULT_SERVER, *, api_key: str | None = None, timeout_s: float = 30.0, retries: int = 3
    ) -> None:
        self._service = Service(server, api_key, timeout_s, retries)
        self._http = httpx.Client()

    def search(self, text: str, **options: Unpack[SearchOptions]) -> SearchResult:
        """The pictures that fit a description best."""
        return self._run(self._service.search(text, options))

    def search_many(
        self, texts: Iterable[str], *, concurrency: int = 8, **options: Unpack[SearchOptions]
    ) -> Iterator[SearchResult]:
        """One result for each text, in their order, as they come; `texts` may be endless.

        The error of a text is raised in its place.
        """
        _check_concurrency(concurrency)
        under_way: deque[Future[SearchResult]] = deque()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="viewfinder-search")
        try:
            for text in texts:
                under_way.append(pool.submit(self._run, self._service.search(text, options)))
                if len(under_way) >= concurrency:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def stats(self) -> Stats:
        """Model, collection and number of points that the service searches."""
        return self._run(self._service.stats())

    def healthy(self) -> bool:
        """Whether the service's process answers; asked once, False where nothing does."""
        return self._run(self._service.answers("/healthz", "ok"))

    def ready(self) -> bool:
        """Whether queries can be answered; asked once, False while there is no index, too."""
        return self._run(self._service.answers("/readyz", "ready"))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        answer: Answer | None = None
        while True:
            try:
                step = call.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                answer = self._send(step)

    def _send(self, attempt: Attempt) -> Answer:
        deadline = time.monotonic() + attempt.timeout_s
        try:
            with self._http.stream(**attempt.request()) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    # httpx limits each read, not their sum.
                    if time.monotonic() > deadline:
                        return httpx.ReadTimeout("the answer did not end in time")
                return Response(response.status_code, response.headers, bytes(body))
        except httpx.RequestError as error:
            return error


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited. Close it with `aclose`, best by `async with`."""

    def __init__(
        self, server: str = DEFAULT_SERVER, *, api_key: str | None = None, timeout_s: float = 30.0, retries: int = 3
    ) -> None:
        self._service = Service(server, api_key, timeout_s, retries)
        self._http = httpx.AsyncClient()

    async def search(self, text: str, **options: Unpack[SearchOptions]) -> SearchResult:
        """The pictures that fit a description best."""
        return await self._run(self._service.search(text, options))

    async def search_many(
        self, texts: Iterable[str], *, concurrency: int = 8, **options: Unpack[SearchOptions]
    ) -> AsyncGenerator[SearchResult, None]:
        """One result for each text, in their order, as they come, as in `Client.search_many`.

        Who leaves the loop early closes it: `async with contextlib.aclosing(client.search_many(...)) as results`.
        """
        _check_concurrency(concurrency)
        under_way: deque[asyncio.Task[SearchResult]] = deque()
        try:
            for text in texts:
                under_way.append(asyncio.create_task(self._run(self._service.search(text, options))))
                if len(under_way) >= concurrency:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def stats(self) -> Stats:
        """Model, collection and number of points that the service searches."""
        return await self._run(self._service.stats())

    async def healthy(self) -> bool:
        """Whether the service's process answers; asked once, False where nothing does."""
        return await self._run(self._service.answers("/healthz", "ok"))

    async def ready(self) -> bool:
        """Whether queries can be answered; asked once, False while there is no index, too."""
        return await self._run(self._service.answers("/readyz", "ready"))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _run(self, call: Call[T]) -> T:
        answer: Answer | None = None
        while True:
            try:
                step = call.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                answer = await self._send(step)

    async def _send(self, attempt: Attempt) -> Answer:
        try:
            async with asyncio.timeout(attempt.timeout_s):
                response = await self._http.request(**attempt.request())
        except httpx.RequestError as error:
            return error
        except TimeoutError:
            return httpx.ReadTimeout("the answer did not end in time")
        return Response(response.status_code, response.headers, response.content)


def _check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
