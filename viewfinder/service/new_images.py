"""Images that are indexed on request: uploads are decoded here, then stored and indexed in a thread."""

import asyncio
import gc
import hashlib
import importlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from viewfinder.client.results import IndexedImage, IndexedImages, IndexingOutcome
from viewfinder.errors import ConfigurationError, ImageError
from viewfinder.images.decoding import Preprocess
from viewfinder.query.errors import QueryError
from viewfinder.query.images import OverloadedError, QueryImages, decode_base64
from viewfinder.query.vectors import gather_or_cancel
from viewfinder.service.generation.follower import Follower
from viewfinder.service.telemetry.access_log import record_generation
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings
from viewfinder.sources.skips import CONTENT_SKIPS
from viewfinder.store import Collection, Store
from viewfinder.tracing import TracedThreads

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_IMAGES = 64
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
    """The outcomes of a request, in its order, and what they are about."""

    images: tuple[IndexedImage, ...]
    run_id: str | None
    model: str
    collection: str
    warnings: tuple[str, ...]


class Indexing(Protocol):
    """The part of the work that blocks: `viewfinder.service.indexing.Indexing`."""

    def check(self, images: Sequence[NewImage], collection: Collection) -> Any: ...

    def index(
        self,
        follower: Follower,
        checked: Any,
        uploads: Sequence[Upload | None],
        unusable: Sequence[IndexedImage | None],
    ) -> IndexingResult: ...

    def close(self) -> None: ...


class NewImages:
    """Indexes images for one replica. Holds threads and child processes, from the first request on; `close` ends them.

    A request that is cancelled or too late is still carried out: repeated, it finds its images unchanged.
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
            indexing = await self._start()
            checked = await self._in_thread(indexing.check, images, generation.collection)
            received = await gather_or_cancel(
                *(
                    self._receive(each, f"images.{number}", generation.encoder.preprocess)
                    for number, each in enumerate(images)
                )
            )
            uploads = [each if isinstance(each, Upload) else None for each in received]
            unusable = [each if isinstance(each, IndexedImage) else None for each in received]
            done = await self._in_thread(indexing.index, follower, checked, uploads, unusable)
        finally:
            self._requests -= 1
        counts = Counter(each.outcome for each in done.images)
        self._metrics.indexed(counts.elements())
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

    async def _receive(self, image: NewImage, place: str, preprocess: Preprocess) -> Upload | IndexedImage | None:
        """The upload of an image, or the outcome of one that is not stored; None for an image with a URI."""
        if image.image is None:
            return None
        try:
            data = await asyncio.to_thread(decode_base64, image.image)
        except ImageError as error:
            raise QueryError(f"{place}.image: {error.message}") from error
        try:
            decoded = await self._images.decoded(data, preprocess)
        except ImageError as error:
            outcome: IndexingOutcome = "skipped" if error.reason in CONTENT_SKIPS else "failed"
            return IndexedImage(id=None, uri=None, outcome=outcome, reason=error.reason, message=error.message)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        return Upload(f"{digest}.{decoded.format}", data)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
