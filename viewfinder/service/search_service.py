"""What a replica does with a request: encode, search, answer with the true pair of model and collection."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from viewfinder.errors import CollectionMissingError
from viewfinder.images.decoding import ImageLimits
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder
from viewfinder.query.cursor import Cursor, CursorError
from viewfinder.query.language import identifier, names_of
from viewfinder.query.query import Query
from viewfinder.query.ranking import Grouped, Page, Ranking, ranking
from viewfinder.query.rounds import run
from viewfinder.query.vectors import Composed, Points, compose
from viewfinder.service.generation.generation import Follower, Generation, NoIndexError, NotReadyError, Vector
from viewfinder.service.http.refusals import Refusal
from viewfinder.service.images.content import Content
from viewfinder.service.images.query_images import Pictures
from viewfinder.service.telemetry.access_log import note
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings
from viewfinder.sources.objects import ObjectAccess
from viewfinder.store import Collection, Hit, Store, StoreAddress, connect
from viewfinder.store.schema import VECTOR_NAMES, VectorName
from viewfinder.store.search import Search

# Threads that wait for Qdrant; more than a replica's batches could fill are never busy.
SEARCH_THREADS = 32
# A query cannot wait out an outage as a job does: one second attempt, then 503.
QUERY_RETRY_S = 1.0


@dataclass(frozen=True)
class Found:
    """One page of hits, and what found them."""

    page: Page
    collection: Collection
    kind: str | None
    cursor: str | None
    warnings: tuple[str, ...]
    took_ms: float


class SearchService:
    """Encodes and searches for one replica."""

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
        sent = replace(limits, max_bytes=settings.max_query_image_bytes)
        self.pictures = Pictures(sent, allow_url=settings.allow_image_url, metrics=self.metrics, **decoding)
        access = ObjectAccess.of(settings)
        self.content = Content(
            access,
            limits,
            thumbnailers=settings.thumbnailers,
            cache_bytes=settings.thumbnail_cache_bytes,
            **decoding,
        )
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search")

    @classmethod
    def connect(cls, settings: Settings, metrics: Metrics) -> "SearchService":
        """A service on the store and index that the settings name; nothing is loaded yet."""
        limit_s = min(settings.qdrant_timeout_s, settings.request_timeout_s)
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
        """Load the live generation, so that a replica that joins in is warm, and follow the alias."""
        self.follower.start()
        current = self.follower.current
        if current is None or names_of(current.encoder.checkpoint.spec.languages):
            identifier()

    def close(self) -> None:
        self.follower.close()
        self.pictures.close()
        self.content.close()
        self._threads.shutdown(wait=False)
        self.store.close()

    def generation(self) -> Generation:
        """The current generation; raises `NotReadyError` while there is none."""
        if (current := self.follower.current) is None:
            kind = NoIndexError if self.follower.absent else NotReadyError
            raise kind(self.follower.problem or "The service is still loading its model.")
        note(model=current.model, collection=current.collection.name)
        return current

    async def search(self, query: Query) -> Found:
        """The answer to one query; raises `Refusal`, and the store's errors."""
        return await self._continue(query) if query.cursor else (await self.search_many([query]))[0]

    async def search_many(self, queries: Sequence[Query]) -> list[Found]:
        """The answers to queries without cursors, from one generation throughout, with one request to the store.

        (A second one where ranks are fused, and one for each query that is grouped.)

        A collection that was dropped between the alias's move and this replica's next look at it is no error for the
        client: the replica looks at once and answers from the new generation.
        """
        try:
            return await self._begin(queries, self.generation())
        except CollectionMissingError:
            await self.in_thread(self.follower.refresh)
            return await self._begin(queries, self.generation())

    async def points(self, generation: Generation) -> int:
        """How many points the generation's collection holds."""
        count: int = await self.in_thread(self.store.points.count, generation.collection)
        return count

    async def _begin(self, queries: Sequence[Query], generation: Generation) -> list[Found]:
        began = time.perf_counter()
        points = await self._points_named(queries, generation.collection)
        composed = await compose(queries, generation, self.pictures, points)
        rankings = [ranking(query, own.vector, None) for query, own in zip(queries, composed, strict=True)]
        pages = await self._turn(generation.collection, rankings)
        return [
            _found(query, own, page, generation.collection, began)
            for query, own, page in zip(queries, composed, pages, strict=True)
        ]

    async def _continue(self, query: Query) -> Found:
        """The page behind a cursor, from the collection of the first one."""
        began = time.perf_counter()
        try:
            cursor = Cursor.decode(query.cursor or "", query.digest())
        except CursorError as error:
            raise Refusal(400, "invalid_cursor", f"cursor: {error}.", "Begin again without a cursor.") from error
        collection = await self._collection(cursor.collection)
        vector = cursor.vector
        if (vector is None) != (query.rank == "words") or (
            vector is not None and len(vector) != collection.metadata.dimension
        ):
            raise Refusal(400, "invalid_cursor", "cursor: it does not fit the query.", "Begin again without a cursor.")
        try:
            (page,) = await self._turn(collection, [ranking(query, vector, cursor.place)])
        except CollectionMissingError as error:
            raise _gone() from error
        return _found(query, Composed(vector, cursor.kind), page, collection, began)

    async def _collection(self, name: str) -> Collection:
        """A collection that cursors were given out for: of this index, and not one that is still being built."""
        if (bound := self.follower.bound(name)) is not None:
            collection = bound.collection
        else:
            # This replica may be younger than the cursor. The vector is in there, so no encoder is needed.
            known = await self.in_thread(self.store.collections.all, self.generation().collection.index)
            served = [each for each in known if each.name == name and each.metadata.state in ("live", "retired")]
            if not served:
                raise _gone()
            collection = served[0]
        note(model=collection.metadata.model_name, collection=collection.name)
        return collection

    async def _points_named(self, queries: Sequence[Query], collection: Collection) -> Points:
        """The vectors of points that queries name: of the picture, or of the caption where there is no picture."""
        named = dict.fromkeys(str(part.value) for query in queries for part in query.parts if part.kind == "id")
        vectors: dict[str, Vector] = {}
        kinds: dict[str, VectorName] = {}
        for name in VECTOR_NAMES:
            missing = [each for each in named if each not in vectors]
            if missing:
                found = await self.in_thread(self.store.points.vectors, collection, missing, name)
                vectors |= found
                kinds |= dict.fromkeys(found, name)
        for each in named:
            if each not in vectors:
                raise Refusal(
                    404, "not_found", f"id: there is no picture {each!r} in the index.", "Hits carry the ids there are."
                )
        return Points(vectors, kinds)

    async def _turn(self, collection: Collection, rankings: Sequence[Ranking]) -> list[Page]:
        async def search(searches: list[Search]) -> list[list[Hit]]:
            found: list[list[Hit]] = await self.in_thread(self.store.search.many, collection, searches)
            return found

        async def group(asked: Grouped) -> Any:
            return await self.in_thread(
                self.store.search.groups, collection, asked.search, asked.field, group_size=asked.size
            )

        with self.metrics.timed("search"):
            return await run(rankings, search, group)

    async def in_thread(self, function: Any, *arguments: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **options))


def _found(query: Query, composed: Composed, page: Page, collection: Collection, began: float) -> Found:
    cursor = None
    if page.place is not None:
        cursor = Cursor(collection.name, query.digest(), page.place, composed.kind, composed.vector).encode()
    took_ms = (time.perf_counter() - began) * 1000
    return Found(page, collection, composed.kind, cursor, composed.warnings, took_ms)


def _gone() -> Refusal:
    return Refusal(
        410, "collection_gone", "cursor: the collection that it pages through is gone.", "Begin again without a cursor."
    )
