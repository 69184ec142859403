"""Images that are indexed on request: uploads are decoded here, then stored and indexed in a thread."""

import asyncio
import gc
import hashlib
import importlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from viewfinder.client.results import IndexedImage, IndexedImages, IndexingOutcome
from viewfinder.errors import ConfigurationError, ImageError
from viewfinder.images.decoding import Preprocess
from viewfinder.query.errors import QueryError
from viewfinder.query.images import OverloadedError, QueryImages, decode_base64
from viewfinder.query.vectors import gather_or_cancel
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.generation import Generation
from viewfinder.service.telemetry.access_log import record_generation
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings
from viewfinder.sources.skips import CONTENT_SKIPS
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Store
from viewfinder.tracing import TracedThreads

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_IMAGES = 64
# Images that are indexed at a time: a request that is cancelled or too late stops after them.
PART = 16
# Of the time limit of a request. Then it is answered with what has been done.
_TIME_SHARE = 0.8
# Requests that index at the same time, and those that wait for them. The images of all share the encoder with searches.
MAX_INDEXING, MAX_WAITING = 2, 8


class UploadsDisabledError(ConfigurationError):
    """There is no place for images that are sent with a request."""


@dataclass(frozen=True)
class NewImage:
    """An image to index, by `uri` or by its content in base64; what is None of its caption stays as it is."""

    uri: str | None = None
    image: str | None = None
    caption: str | None = None
    tags: Sequence[str] | None = None
    meta: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Upload:
    """A decoded image that came with a request, and the name under which its content is stored."""

    name: str
    data: bytes


@dataclass(frozen=True)
class IndexingResult:
    """The outcomes of a part of a request, in its order, and what they are about."""

    images: tuple[IndexedImage, ...]
    run_id: str | None
    model: str
    collection: str
    warnings: tuple[str, ...]

    def and_then(self, following: "IndexingResult") -> "IndexingResult":
        """This part and the following one; the collection is that of the following one."""
        return replace(
            following,
            images=(*self.images, *following.images),
            run_id=self.run_id or following.run_id,
            warnings=tuple(dict.fromkeys((*self.warnings, *following.warnings))),
        )


class CheckedRequest(Protocol):
    """A request whose images can be indexed, or fail one by one; `uris` has None for uploads."""

    @property
    def uris(self) -> Sequence[str | None]: ...

    @property
    def run_id(self) -> str: ...


class Indexing(Protocol):
    """The part of the work that blocks: `viewfinder.service.indexing.Indexing`."""

    def check(self, images: Sequence[NewImage], collection: Collection) -> CheckedRequest: ...

    def index(
        self, follower: Follower, request: Any, start: int, received: Sequence[Upload | IndexedImage | None]
    ) -> IndexingResult: ...

    def close(self) -> None: ...


class NewImages:
    """Indexes images for one replica. Holds threads and child processes, from the first request on; `close` ends them.

    A request is carried out in parts. One that is cancelled stops after the current part, and so does one that takes
    too long, whose answer has the outcomes of all images until then. Repeated, it finds its images unchanged.
    """

    def __init__(self, settings: Settings, store: Store, images: QueryImages, metrics: Metrics) -> None:
        self._settings = settings
        self._store = store
        self._images = images
        self._metrics = metrics
        self._threads = TracedThreads(MAX_INDEXING, thread_name_prefix="index")
        self._requests = 0
        self._indexing: Indexing | None = None

    async def index(self, images: Sequence[NewImage], follower: Follower, request_id: str) -> IndexedImages:
        """Index the images into the index of this follower, and wait until a search finds them.

        Raises `QueryError` and `UploadsDisabledError` before anything is stored, `OverloadedError` if too many requests
        wait, `NotReadyError`, and `StoreError`.
        """
        began = time.perf_counter()
        generation = await follower.ready()
        if self._settings.uploads_uri is None and any(each.image is not None for each in images):
            raise UploadsDisabledError("The service has no place for uploaded images.")
        if self._requests >= MAX_INDEXING + MAX_WAITING:
            raise OverloadedError(f"{self._requests} requests are already indexing images.")
        self._requests += 1
        try:
            done = await self._index_parts(images, follower, generation)
        finally:
            self._requests -= 1
        counts = Counter(each.outcome for each in done.images)
        record_generation(model=done.model, collection=done.collection)
        logger.info("%s indexed images in run %s: %s", request_id, done.run_id, dict(counts))
        return IndexedImages(
            images=done.images,
            indexed=counts["indexed"],
            unchanged=counts["unchanged"],
            skipped=counts["skipped"],
            failed=counts["failed"],
            run_id=done.run_id,
            model=done.model,
            collection=done.collection,
            warnings=done.warnings,
            took_ms=round((time.perf_counter() - began) * 1000, 2),
        )

    async def _index_parts(
        self, images: Sequence[NewImage], follower: Follower, generation: Generation
    ) -> IndexingResult:
        """The outcomes of all images, `timeout` for those that are not indexed in time."""
        limit = self.time_limit()
        indexing = await self._start()
        request = await self._in_thread(indexing.check, images, generation.collection)
        contents = [await _content(each, f"images.{number}") for number, each in enumerate(images)]
        done = IndexingResult((), None, generation.model, generation.collection.name, ())
        begun = 0
        try:
            async with limit:
                while begun < len(images):
                    start, begun = begun, min(begun + PART, len(images))
                    received = await gather_or_cancel(
                        *(self._receive(each, generation.encoder.preprocess) for each in contents[start:begun])
                    )
                    done = done.and_then(
                        await self._in_thread(self._index_part, indexing, follower, request, start, received)
                    )
        except TimeoutError:
            if not limit.expired():
                raise
            late = [_late(uri, begun=number < begun) for number, uri in enumerate(request.uris)]
            done = replace(done, images=(*done.images, *late[len(done.images) :]), run_id=request.run_id)
        return done

    def _index_part(self, indexing: Indexing, *arguments: Any) -> IndexingResult:
        # Counted here: a part goes on when its request is too late.
        done = indexing.index(*arguments)
        self._metrics.indexed(each.outcome for each in done.images)
        return done

    def time_limit(self) -> asyncio.Timeout:
        """The time limit of a request that begins now."""
        return asyncio.timeout(_TIME_SHARE * self._settings.request_timeout_s)

    def close(self) -> None:
        """End the threads after their current request, and the decoders."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._indexing is not None:
            self._indexing.close()

    async def _start(self) -> "Indexing":
        """Load the stages of the job with the first request: their imports would make every replica start later."""
        if self._indexing is None:
            module = await asyncio.to_thread(importlib.import_module, "viewfinder.service.indexing")
            gc.freeze()  # as when the replica started: each full collection of garbage would look at the new modules
        if self._indexing is None:
            loop = asyncio.get_running_loop()
            self._indexing = module.Indexing(self._settings, self._store, loop)
        return self._indexing

    async def _receive(self, data: bytes | None, preprocess: Preprocess) -> Upload | IndexedImage | None:
        """The upload of an image, or the outcome of one that is not stored; None for an image with a URI."""
        if data is None:
            return None
        try:
            decoded = await self._images.decoded(data, preprocess)
        except ImageError as error:
            outcome: IndexingOutcome = "skipped" if error.reason in CONTENT_SKIPS else "failed"
            return IndexedImage(id=None, uri=None, outcome=outcome, reason=error.reason, message=error.message)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        return Upload(f"{digest}.{decoded.format}", data)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


async def _content(image: NewImage, place: str) -> bytes | None:
    if image.image is None:
        return None
    try:
        return await asyncio.to_thread(decode_base64, image.image)
    except ImageError as error:
        raise QueryError(f"{place}.image: {error.message}") from error


def _late(uri: str | None, *, begun: bool) -> IndexedImage:
    message = "The time of the request was over before this image. Send it again."
    if begun:
        message = (
            "The time of the request was over while this image was being indexed, which may still succeed. Send it "
            "again: it is 'unchanged' then."
        )
    id_ = None if uri is None else point_id(uri)
    return IndexedImage(id=id_, uri=uri, outcome="failed", reason="timeout", message=message)
