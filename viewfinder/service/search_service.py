"""The parts of one replica: store, indexes with their generations, query images, and image content."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from viewfinder.images.decoding import ImageLimits
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder, loads_exports
from viewfinder.query.cursor import CursorKeys
from viewfinder.query.images import QueryImages
from viewfinder.query.language import identifier, named_languages
from viewfinder.query.searcher import Searcher
from viewfinder.service.generation.follower import LOAD_WAIT_S, Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.images.content import ImageContent
from viewfinder.service.images.links import ThumbnailLinks
from viewfinder.service.indexes import Indexes, ServedIndex
from viewfinder.service.new_images import NewImages
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.store import Store, StoreAddress, connect
from viewfinder.tracing import TracedThreads

# Threads that wait for Qdrant: more than the batches of one replica need.
SEARCH_THREADS = 32
# Unlike a job, a query cannot wait for an outage to end: retry once, then answer 503.
QUERY_RETRY_S = 1.0


class SearchService:
    """One replica. `indexes` answer queries, the default one first; the routes use the other parts too.

    `writing` is the same store with the time limits of a request instead of those of a search.
    """

    def __init__(
        self,
        store: Store,
        followers: Sequence[Follower],
        settings: Settings,
        metrics: Metrics | None = None,
        *,
        writing: Store | None = None,
    ) -> None:
        self.store = store
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
        self._writing = writing
        self.new_images = NewImages(settings, writing or store, self.images, self.metrics)
        self._threads = TracedThreads(SEARCH_THREADS, thread_name_prefix="search")
        keys = CursorKeys.of(settings.cursor_keys)
        self.links = ThumbnailLinks(keys)
        self.indexes = Indexes(
            ServedIndex(
                each,
                Searcher(store, each, self.images, keys, threads=self._threads, timed=self.metrics.timed),
            )
            for each in followers
        )

    @property
    def follower(self) -> Follower:
        """The follower of the default index, which decides about the replica's health."""
        return self.indexes.default.follower

    @classmethod
    def connect(cls, settings: Settings, metrics: Metrics) -> "SearchService":
        """A service on the store and indexes of the settings; nothing is loaded yet."""
        limit_s = min(settings.qdrant_timeout_s, settings.request_timeout_s)
        address = replace(StoreAddress.of(settings), retry_s=QUERY_RETRY_S, timeout_s=limit_s)
        store = connect(replace(address, timeout_s=min(limit_s, settings.search_timeout_s)))
        threads = max(1, round(settings.replica_cpus))

        def load(checkpoint: Checkpoint) -> Encoder:
            return Encoder.load(
                checkpoint,
                device=settings.device,
                precision=settings.precision,
                runtime=settings.runtime,
                threads=threads,
                export=True,
                towers=["text"],
            )

        models = Models(
            load,
            batch_size=settings.batch_size,
            maximum=settings.max_models,
            exported=loads_exports(settings.device, settings.precision, settings.runtime),
            metrics=metrics,
        )
        followers = [
            Follower(
                store,
                index,
                models,
                refresh_s=settings.refresh_s,
                grace_s=settings.grace_s,
                load_wait_s=min(LOAD_WAIT_S, 0.8 * settings.request_timeout_s),
                required=index == settings.served_indexes[0],
                metrics=metrics,
            )
            for index in settings.served_indexes
        ]
        writing = None if address.url is None else connect(address)
        return cls(store, followers, settings, metrics, writing=writing)

    def start(self) -> None:
        """Load the live generation of the default index, and follow all; raises if that cannot be loaded.

        The models of other indexes are loaded in the background as long as there is room, else when they are needed.
        """
        for each in self.indexes:
            each.follower.start()
        current = self.follower.current
        if current is None or len(self.indexes) > 1 or named_languages(current.encoder.checkpoint.spec.languages):
            identifier()

    def close(self) -> None:
        for each in self.indexes:
            each.follower.close()
        self.images.close()
        self.content.close()
        self.new_images.close()
        self._threads.shutdown(wait=False)
        self.store.close()
        if self._writing is not None:
            self._writing.close()

    def pending(self) -> int:
        """Number of texts and images of requests that wait to be decoded or encoded, or are."""
        return self.images.waiting + self.follower.models.pending

    async def in_thread(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Run a blocking call of the store."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **options))
