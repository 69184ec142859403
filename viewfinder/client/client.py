"""A running search service from Python: `Client` for threads, `AsyncClient` for asyncio, with the same answers.

Both only carry out what the `Service` of `viewfinder.client.protocol` decides: it builds requests, reads answers, and
says when to try again.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

import httpx

from viewfinder.client.protocol import DEFAULT_SERVER, Answer, Attempt, Call, Draw, Pause, Response, Service
from viewfinder.client.requests import Part, Picture, Rank, SearchOptions, SearchRequest, Target, asked, next_page
from viewfinder.client.results import (
    Candidate,
    Embedding,
    Embeddings,
    Facets,
    FacetValue,
    Group,
    Hit,
    Image,
    Model,
    Models,
    Ranking,
    Removal,
    Restoration,
    SearchResult,
    Stats,
    Takedown,
)

if TYPE_CHECKING:
    from viewfinder.settings import Settings

__all__ = [
    "DEFAULT_SERVER",
    "AsyncClient",
    "Candidate",
    "Client",
    "Embedding",
    "Embeddings",
    "FacetValue",
    "Facets",
    "Group",
    "Hit",
    "Image",
    "Model",
    "Models",
    "Part",
    "Picture",
    "Rank",
    "Ranking",
    "Removal",
    "Restoration",
    "SearchOptions",
    "SearchRequest",
    "SearchResult",
    "Stats",
    "Takedown",
    "Target",
]

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class _AnyClient(Generic[Http]):
    """How both clients are made."""

    _transport: type[Http]
    _draw: Draw = staticmethod(random.uniform)

    def __init__(
        self, server: str = DEFAULT_SERVER, *, api_key: str | None = None, timeout_s: float = 30.0, retries: int = 3
    ) -> None:
        self._service = Service(server, api_key, timeout_s, retries, self._draw)
        self._http: Http = self._transport()

    @classmethod
    def of(cls, settings: "Settings", *, timeout_s: float = 30.0, retries: int = 3) -> Self:
        """A client of the service that the settings name (`VIEWFINDER_SERVER`), with their API key."""
        api_key = settings.api_key.get_secret_value() if settings.api_key else None
        return cls(settings.server, api_key=api_key, timeout_s=timeout_s, retries=retries)


class Client(_AnyClient[httpx.Client]):
    """Asks one service; safe to share between threads. Close it after use, best by `with`.

    `timeout_s` limits a whole call, pauses and further attempts included (of a call that takes several requests, each
    of them). After a lost connection or an answer that may pass (429, 502, 503, 504) it is tried again up to `retries`
    times, with growing random pauses that are never shorter than the service's own `Retry-After`.

    A picture is given as the path of a file or as its bytes; one of the index by id, URI or absolute path. Every method
    raises `ServiceUnavailableError` where the service cannot be reached or does not answer in time, `ServiceError`
    where it refuses, and `ConfigurationError` where a file cannot be read or an id is none.
    """

    _transport = httpx.Client

    def search(self, text: str | None = None, /, **request: Unpack[SearchRequest]) -> SearchResult:
        """The pictures that fit best: a text, or `image=`, `image_url=`, `id=`, `vector=` or weighted `queries=`."""
        return self._run(self._service.search(asked(text, request)))

    def search_pages(self, text: str | None = None, /, **request: Unpack[SearchRequest]) -> Iterator[SearchResult]:
        """One result after the other, `limit` hits each, until nothing more is found; no picture comes twice.

        Raises `ServiceError` with the code `collection_gone` where the index was rebuilt between two pages.
        """
        following: SearchRequest | None = asked(text, request)
        while following is not None:
            page = self._run(self._service.search(following))
            yield page
            following = next_page(following, page.cursor)

    def search_batch(
        self, searches: Iterable[str | SearchRequest], **options: Unpack[SearchOptions]
    ) -> list[SearchResult]:
        """One result for each search, in their order; 64 of them are one request, encoded and searched together.

        A search is a text or `{"image": "cat.jpg", "limit": 3}`; `options` hold for those that do not say otherwise.
        """
        return self._run(self._service.search_batch(asked(each, options) for each in searches))

    def search_many(
        self, searches: Iterable[str | SearchRequest], *, concurrency: int = 8, **options: Unpack[SearchOptions]
    ) -> Iterator[SearchResult]:
        """As `search_batch`, but each search a request of its own, and its result told as it comes.

        `searches` may be endless. The error of a search is raised in its place.
        """
        _check_concurrency(concurrency)
        under_way: deque[Future[SearchResult]] = deque()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="viewfinder-search")
        try:
            for each in searches:
                under_way.append(pool.submit(self._run, self._service.search(asked(each, options))))
                if len(under_way) >= concurrency:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def embed(self, texts: Iterable[str] = (), images: Iterable[Picture] = ()) -> Embeddings:
        """Unit vectors of texts and pictures, however many, all by the same model."""
        return self._run(self._service.embed(texts, images))

    def rank(
        self,
        *,
        image: Picture | None = None,
        text: str | None = None,
        images: Iterable[Picture] | None = None,
        texts: Iterable[str] | None = None,
    ) -> Ranking:
        """How probable each of `texts` is for an `image`, or each of `images` for a `text`; most probable first."""
        return self._run(self._service.rank(image, text, images, texts))

    def image(self, subject: str) -> Image:
        """All that the index knows of one of its pictures."""
        return self._run(self._service.image(subject))

    def content(self, subject: str, width: int | None = None) -> bytes:
        """The file of a picture of the index as it is or, with `width` (16 to 2048 pixels), a smaller copy of it."""
        return self._run(self._service.content(subject, width))

    def facets(self, field: str, limit: int | None = None, filter: Mapping[str, Any] | None = None) -> Facets:
        """The most frequent values of a payload field, among all pictures or those that a filter lets through."""
        return self._run(self._service.facets(field, limit, filter))

    def models(self) -> Models:
        """The models that the service knows by name, and which of them is live."""
        return self._run(self._service.models())

    def remove(self, subject: str) -> Removal:
        """Take a picture out of the index and keep it out of later runs, by an admin's key. Doing so twice is one."""
        return self._run(self._service.remove(subject))

    def restore(self, subject: str) -> Restoration:
        """Lift the takedown of a picture, by an admin's key: the next run of the job indexes it again."""
        return self._run(self._service.restore(subject))

    def takedowns(self) -> list[Takedown]:
        """All pictures that were taken down, by an admin's key."""
        return self._run(self._service.takedowns())

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


class AsyncClient(_AnyClient[httpx.AsyncClient]):
    """`Client` for asyncio: the same calls, awaited. Close it with `aclose`, best by `async with`.

    Files are read in the loop's own thread; where that takes long, give the bytes.
    """

    _transport = httpx.AsyncClient

    async def search(self, text: str | None = None, /, **request: Unpack[SearchRequest]) -> SearchResult:
        """As `Client.search`."""
        return await self._run(self._service.search(asked(text, request)))

    async def search_pages(
        self, text: str | None = None, /, **request: Unpack[SearchRequest]
    ) -> AsyncGenerator[SearchResult, None]:
        """As `Client.search_pages`."""
        following: SearchRequest | None = asked(text, request)
        while following is not None:
            page = await self._run(self._service.search(following))
            yield page
            following = next_page(following, page.cursor)

    async def search_batch(
        self, searches: Iterable[str | SearchRequest], **options: Unpack[SearchOptions]
    ) -> list[SearchResult]:
        """As `Client.search_batch`."""
        return await self._run(self._service.search_batch(asked(each, options) for each in searches))

    async def search_many(
        self, searches: Iterable[str | SearchRequest], *, concurrency: int = 8, **options: Unpack[SearchOptions]
    ) -> AsyncGenerator[SearchResult, None]:
        """As `Client.search_many`.

        Who leaves the loop early closes it: `async with contextlib.aclosing(client.search_many(...)) as results`.
        """
        _check_concurrency(concurrency)
        under_way: deque[asyncio.Task[SearchResult]] = deque()
        try:
            for each in searches:
                under_way.append(asyncio.create_task(self._run(self._service.search(asked(each, options)))))
                if len(under_way) >= concurrency:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def embed(self, texts: Iterable[str] = (), images: Iterable[Picture] = ()) -> Embeddings:
        """As `Client.embed`."""
        return await self._run(self._service.embed(texts, images))

    async def rank(
        self,
        *,
        image: Picture | None = None,
        text: str | None = None,
        images: Iterable[Picture] | None = None,
        texts: Iterable[str] | None = None,
    ) -> Ranking:
        """As `Client.rank`."""
        return await self._run(self._service.rank(image, text, images, texts))

    async def image(self, subject: str) -> Image:
        """As `Client.image`."""
        return await self._run(self._service.image(subject))

    async def content(self, subject: str, width: int | None = None) -> bytes:
        """As `Client.content`."""
        return await self._run(self._service.content(subject, width))

    async def facets(self, field: str, limit: int | None = None, filter: Mapping[str, Any] | None = None) -> Facets:
        """As `Client.facets`."""
        return await self._run(self._service.facets(field, limit, filter))

    async def models(self) -> Models:
        """As `Client.models`."""
        return await self._run(self._service.models())

    async def remove(self, subject: str) -> Removal:
        """As `Client.remove`."""
        return await self._run(self._service.remove(subject))

    async def restore(self, subject: str) -> Restoration:
        """As `Client.restore`."""
        return await self._run(self._service.restore(subject))

    async def takedowns(self) -> list[Takedown]:
        """As `Client.takedowns`."""
        return await self._run(self._service.takedowns())

    async def stats(self) -> Stats:
        """As `Client.stats`."""
        return await self._run(self._service.stats())

    async def healthy(self) -> bool:
        """As `Client.healthy`."""
        return await self._run(self._service.answers("/healthz", "ok"))

    async def ready(self) -> bool:
        """As `Client.ready`."""
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
