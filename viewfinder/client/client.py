"""Clients of a search service: `Client` for threads, `AsyncClient` for asyncio, with the same calls and results.

Both run the calls of `viewfinder.client.calls.Calls`, which builds requests, parses answers and decides about
retries.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Generic, Self, TypeVar, Unpack

import httpx

from viewfinder.addresses import is_loopback, proxy_problem
from viewfinder.authorities import tls_context
from viewfinder.client.calls import Calls
from viewfinder.client.protocol import (
    Answer,
    Attempt,
    Call,
    Done,
    Draw,
    Pause,
    Response,
    advance,
)
from viewfinder.client.requests import (
    ImageInput,
    NewImage,
    Part,
    SearchOptions,
    SearchRequest,
    next_page,
    search_request,
)
from viewfinder.client.results import (
    Embeddings,
    Facets,
    Image,
    IndexedImage,
    IndexStates,
    Models,
    Ranking,
    Removal,
    Restoration,
    SearchResult,
    Stats,
    Takedown,
)
from viewfinder.errors import ConfigurationError
from viewfinder.settings import DEFAULT_SERVER, Settings

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class _AnyClient(Generic[Http]):
    """Constructor of both clients."""

    _transport: type[Http]
    _draw: Draw = staticmethod(random.uniform)

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        index: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
    ) -> None:
        self._calls = Calls(server, api_key, timeout_s, retries, self._draw, index=index)
        try:
            # HTTP_PROXY is not meant for calls to this machine.
            verify = tls_context() if server.startswith("https:") else False
            self._http: Http = self._transport(trust_env=not is_loopback(server), verify=verify)
        except ConfigurationError:
            raise
        except Exception as error:
            if (problem := proxy_problem(error)) is None:
                raise
            raise ConfigurationError(problem) from error

    @classmethod
    def of(cls, settings: Settings, *, timeout_s: float = 30.0, retries: int = 3) -> Self:
        """A client of the settings' service, with their API key: `VIEWFINDER_SERVER`, else VIEWFINDER_PORT here.

        It asks the index in `VIEWFINDER_INDEX` if that is set, else the default one of the service.
        """
        api_key = settings.api_key.get_secret_value() if settings.api_key else None
        index = settings.index if "index" in settings.model_fields_set else None
        return cls(settings.service_url, index=index, api_key=api_key, timeout_s=timeout_s, retries=retries)


class Client(_AnyClient[httpx.Client]):
    """A client of one service, safe to share between threads. Use it in a `with` statement, or close it.

    All calls ask `index` if it is given, else the default index of the service; a search may name another one.

    `timeout_s` limits each request of a call, including its pauses and retries. A request is retried up to `retries`
    times after a lost connection, status 429, 502, 503 or 504, or a 500 of the proxy, which has no error of the service
    in its body; with growing random pauses of at least the service's `Retry-After`.

    A query image is the path of a file or its bytes; an image of the index is an id, URI or absolute path. Every method
    raises `ServiceUnavailableError` if the service cannot be reached or does not answer in time, `ServiceError` if it
    refuses, and `ConfigurationError` for a file that cannot be read or an invalid id.
    """

    _transport = httpx.Client

    def search(self, text: str | None = None, /, **request: Unpack[SearchRequest]) -> SearchResult:
        """Find images by a text, or by `image=`, `image_url=`, `id=`, `vector=` or weighted `queries=`.

        Without any of them, `filter` or `order_by` list images in the order of a field.
        """
        return self._run(self._calls.search(search_request(text, request)))

    def search_pages(self, text: str | None = None, /, **request: Unpack[SearchRequest]) -> Iterator[SearchResult]:
        """Yield pages of `limit` hits up to the last hit; every image appears once.

        Raises `ServiceError` with the code `collection_gone` if the index was rebuilt between two pages.
        """
        following: SearchRequest | None = search_request(text, request)
        while following is not None:
            page = self._run(self._calls.search(following))
            yield page
            following = next_page(following, page.cursor)

    def search_batch(
        self, searches: Iterable[str | SearchRequest], **options: Unpack[SearchOptions]
    ) -> list[SearchResult]:
        """One result for each search, in order. Up to 64 searches share a request and are encoded together.

        Raises `BatchError`, which has the results of the others, if the service refuses one of them.
        A search is a text or `{"image": "cat.jpg", "limit": 3}`. `options` are defaults for all searches.
        """
        return self._run(self._calls.search_batch(search_request(each, options) for each in searches))

    def search_many(
        self, searches: Iterable[str | SearchRequest], *, concurrency: int = 8, **options: Unpack[SearchOptions]
    ) -> Generator[SearchResult, None, None]:
        """Like `search_batch`, but with one request per search, `concurrency` at a time. Yields results in order.

        `searches` may be endless. The error of a search is raised at its position.
        """
        _check_concurrency(concurrency)
        pending: deque[Future[SearchResult]] = deque()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="viewfinder-search")
        try:
            for each in searches:
                # In the context of the caller, whose span its requests continue.
                run = copy_context().run
                pending.append(pool.submit(run, self._run, self._calls.search(search_request(each, options))))
                if len(pending) >= concurrency:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def embed(self, texts: Iterable[str] = (), images: Iterable[ImageInput] = ()) -> Embeddings:
        """Unit vectors of any number of texts and images, all by the same model."""
        return self._run(self._calls.embed(texts, images))

    def rank(
        self,
        *,
        image: ImageInput | None = None,
        image_url: str | None = None,
        id: str | None = None,
        text: str | None = None,
        images: Iterable[ImageInput | Part] | None = None,
        texts: Iterable[str] | None = None,
    ) -> Ranking:
        """Probability of each of `texts` for an image, or of each of `images` for a `text`; highest first.

        The image is a file (`image`), an address (`image_url`) or an image of the index (`id`, which may be its URI).
        `images` may contain `Part(image_url=...)` and `Part(id=...)`.
        """
        return self._run(
            self._calls.rank({"image": image, "image_url": image_url, "id": id, "text": text}, texts, images)
        )

    def image(self, subject: str) -> Image:
        """Everything that the index stores about an image."""
        return self._run(self._calls.image(subject))

    def content(self, subject: str, width: int | None = None) -> bytes:
        """The file of an image of the index or, with `width` (16 to 2048 pixels), a thumbnail.

        The width is rounded up to 16, 64, 128, 256, 512, 1024 or 2048; images are never enlarged.
        """
        return self._run(self._calls.content(subject, width))

    def facets(self, field: str, limit: int | None = None, filter: Mapping[str, Any] | None = None) -> Facets:
        """The most frequent values of a payload field, among all images or those that match a filter."""
        return self._run(self._calls.facets(field, limit, filter))

    def models(self) -> Models:
        """The models that the service knows by name, and the live one."""
        return self._run(self._calls.models())

    def indexes(self) -> IndexStates:
        """The indexes of the service that the API key may see."""
        return self._run(self._calls.indexes())

    def index_images(self, images: Iterable[str | NewImage]) -> list[IndexedImage]:
        """Index images now, any number of them, and return their outcomes in order; needs an admin key. Idempotent.

        A text is the URI of an object in a source of the index. The next search finds indexed images.
        """
        return self._run(self._calls.index_images(images))

    def take_down(self, subject: str) -> Removal:
        """Take an image out of the index and keep later runs from adding it; needs an admin key. Idempotent."""
        return self._run(self._calls.take_down(subject))

    def restore(self, subject: str) -> Restoration:
        """Lift the takedown of an image, so that the next index run adds it again; needs an admin key."""
        return self._run(self._calls.restore(subject))

    def takedowns(self) -> list[Takedown]:
        """All images that are taken down; needs an admin key."""
        return self._run(self._calls.takedowns())

    def stats(self) -> Stats:
        """The model and collection that the service searches, and its number of points."""
        return self._run(self._calls.stats())

    def healthy(self) -> bool:
        """True if the service's process answers. Not retried."""
        return self._run(self._calls.has_status("/healthz", "ok"))

    def ready(self) -> bool:
        """True if the service can answer searches; False while there is no index. Not retried."""
        return self._run(self._calls.has_status("/readyz", "ready"))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        answer: Answer | None = None
        while not isinstance(step := advance(call, answer), Done):
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                answer = self._send(step)
        return step.result

    def _send(self, attempt: Attempt) -> Answer:
        deadline = time.monotonic() + attempt.timeout_s
        try:
            with self._http.stream(**attempt.request()) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    # httpx limits the time of each read, not their total.
                    if time.monotonic() > deadline:
                        return httpx.ReadTimeout("the answer did not end in time")
                return Response(response.status_code, response.headers, bytes(body))
        except httpx.RequestError as error:
            return error


class AsyncClient(_AnyClient[httpx.AsyncClient]):
    """`Client` for asyncio, with the same calls. Use it in an `async with` statement, or close it with `aclose`.

    Files are read in the event loop's thread; pass bytes if that takes too long.
    """

    _transport = httpx.AsyncClient

    async def search(self, text: str | None = None, /, **request: Unpack[SearchRequest]) -> SearchResult:
        """As `Client.search`."""
        return await self._run(self._calls.search(search_request(text, request)))

    async def search_pages(
        self, text: str | None = None, /, **request: Unpack[SearchRequest]
    ) -> AsyncGenerator[SearchResult, None]:
        """As `Client.search_pages`."""
        following: SearchRequest | None = search_request(text, request)
        while following is not None:
            page = await self._run(self._calls.search(following))
            yield page
            following = next_page(following, page.cursor)

    async def search_batch(
        self, searches: Iterable[str | SearchRequest], **options: Unpack[SearchOptions]
    ) -> list[SearchResult]:
        """As `Client.search_batch`."""
        return await self._run(self._calls.search_batch(search_request(each, options) for each in searches))

    async def search_many(
        self, searches: Iterable[str | SearchRequest], *, concurrency: int = 8, **options: Unpack[SearchOptions]
    ) -> AsyncGenerator[SearchResult, None]:
        """As `Client.search_many`.

        To leave the loop early: `async with contextlib.aclosing(client.search_many(...)) as results`.
        """
        _check_concurrency(concurrency)
        pending: deque[asyncio.Task[SearchResult]] = deque()
        try:
            for each in searches:
                pending.append(asyncio.create_task(self._run(self._calls.search(search_request(each, options)))))
                if len(pending) >= concurrency:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def embed(self, texts: Iterable[str] = (), images: Iterable[ImageInput] = ()) -> Embeddings:
        """As `Client.embed`."""
        return await self._run(self._calls.embed(texts, images))

    async def rank(
        self,
        *,
        image: ImageInput | None = None,
        image_url: str | None = None,
        id: str | None = None,
        text: str | None = None,
        images: Iterable[ImageInput | Part] | None = None,
        texts: Iterable[str] | None = None,
    ) -> Ranking:
        """As `Client.rank`."""
        return await self._run(
            self._calls.rank({"image": image, "image_url": image_url, "id": id, "text": text}, texts, images)
        )

    async def image(self, subject: str) -> Image:
        """As `Client.image`."""
        return await self._run(self._calls.image(subject))

    async def content(self, subject: str, width: int | None = None) -> bytes:
        """As `Client.content`."""
        return await self._run(self._calls.content(subject, width))

    async def facets(self, field: str, limit: int | None = None, filter: Mapping[str, Any] | None = None) -> Facets:
        """As `Client.facets`."""
        return await self._run(self._calls.facets(field, limit, filter))

    async def models(self) -> Models:
        """As `Client.models`."""
        return await self._run(self._calls.models())

    async def indexes(self) -> IndexStates:
        """As `Client.indexes`."""
        return await self._run(self._calls.indexes())

    async def index_images(self, images: Iterable[str | NewImage]) -> list[IndexedImage]:
        """As `Client.index_images`."""
        return await self._run(self._calls.index_images(images))

    async def take_down(self, subject: str) -> Removal:
        """As `Client.take_down`."""
        return await self._run(self._calls.take_down(subject))

    async def restore(self, subject: str) -> Restoration:
        """As `Client.restore`."""
        return await self._run(self._calls.restore(subject))

    async def takedowns(self) -> list[Takedown]:
        """As `Client.takedowns`."""
        return await self._run(self._calls.takedowns())

    async def stats(self) -> Stats:
        """As `Client.stats`."""
        return await self._run(self._calls.stats())

    async def healthy(self) -> bool:
        """As `Client.healthy`."""
        return await self._run(self._calls.has_status("/healthz", "ok"))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._run(self._calls.has_status("/readyz", "ready"))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _run(self, call: Call[T]) -> T:
        answer: Answer | None = None
        while not isinstance(step := advance(call, answer), Done):
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                answer = await self._send(step)
        return step.result

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
