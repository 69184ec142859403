"""The parts of one replica: store, live generation, query images, image content, and the searcher over them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from viewfinder.images.decoding import ImageLimits
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder
from viewfinder.query.cursor import CursorKeys
from viewfinder.query.images import QueryImages
from viewfinder.query.language import identifier, named_languages
from viewfinder.query.searcher import Searcher
from viewfinder.service.generation.follower import Follower
from viewfinder.service.images.content import ImageContent
from viewfinder.service.images.links import ThumbnailLinks
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.store import Store, StoreAddress, connect

# Threads that wait for Qdrant: more than the batches of one replica need.
SEARCH_THREADS = 32
# Unlike a job, a query cannot wait for an outage to end: retry once, then answer 503.
QUERY_RETRY_S = 1.0


class SearchService:
    """One replica. `searcher` answers queries; the routes use `store`, `follower`, `images` and `content` too."""

    def __init__(self, store: Store, follower: Follower, settings: Settings, metrics: Metrics | None = None) -> None:
        self.store = store
        self.follower = follower
        self.settings = settings
        self.metrics = metrics or Metrics()
        limits = ImageLimits.of(settings)
        decoding: dict[str, Any] = {
            "timeout_s": settings.decode_timeout_s,
            "memory_bytes": settings.decode_memory_bytes,
        }
        self.images = QueryImages(
            replace(limits, max_bytes=settings.max_query_image_bytes),
            allow_url=settings.allow_image_url,
            timed=self.metrics.timed,
            **decoding,
        )
        self.content = ImageContent(
            ObjectAccess.of(settings),
            limits,
            thumbnailers=settings.thumbnailers,
            cache_bytes=settings.thumbnail_cache_bytes,
            **decoding,
        )
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search")
        keys = CursorKeys.of(settings.cursor_keys)
        self.links = ThumbnailLinks(keys)
        self.searcher = Searcher(store, follower, self.images, keys, threads=self._threads, timed=self.metrics.timed)

    @classmethod
    def connect(cls, settings: Settings, metrics: Metrics) -> "SearchService":
        """A service on the store and index of the settings; nothing is loaded yet."""
        limit_s = min(settings.qdrant_timeout_s, settings.request_timeout_s, settings.search_timeout_s)
        address = replace(StoreAddress.of(settings), retry_s=QUERY_RETRY_S, timeout_s=limit_s)
        store = connect(address)
        threads = max(1, round(settings.replica_cpus))

        def load(checkpoint: Checkpoint) -> Encoder:
            return Encoder.load(checkpoint, device=settings.device, precision=settings.precision, threads=threads)

        follower = Follower(
            store,
            settings.index,
            load=load,
            refresh_s=settings.refresh_s,
            batch_size=settings.batch_size,
            grace_s=settings.grace_s,
            metrics=metrics,
        )
        return cls(store, follower, settings, metrics)

    def start(self) -> None:
        """Load the live generation before the first request, and follow the alias; raises if it cannot be loaded."""
        self.follower.start()
        current = self.follower.current
        if current is None or named_languages(current.encoder.checkpoint.spec.languages):
            identifier()

    def close(self) -> None:
        self.follower.close()
        self.images.close()
        self.content.close()
        self._threads.shutdown(wait=False)
        self.store.close()

    def pending(self) -> int:
        """Number of texts and images of requests that wait to be decoded or encoded, or are."""
        generations = (self.follower.current, self.follower.previous)
        return self.images.waiting + sum(each.pending for each in generations if each is not None)

    async def in_thread(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Run a blocking call of the store."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **options))
