"""What a replica does with a request: encode, search, answer with the true pair of model and collection."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from serve.generation import Follower, Generation, Vector
from viewfinder.encoder import Encoder
from viewfinder.errors import CollectionMissingError
from viewfinder.models import Checkpoint
from viewfinder.settings import Settings
from viewfinder.store import Hit, Store, StoreAddress, connect

Target = Literal["image", "caption", "both"]

# Threads that wait for Qdrant; more than a replica's batches could fill are never busy.
SEARCH_THREADS = 32
# A query cannot wait out an outage as a job does: one second attempt, then 503.
QUERY_RETRY_S = 1.0
# Reciprocal rank fusion: the constant of Cormack, Clarke and Büttcher (SIGIR 2009).
RRF_K = 60


class NotReadyError(Exception):
    """There is no collection to search; the text says why."""


@dataclass(frozen=True)
class Query:
    """One search by text."""

    text: str
    target: Target = "image"
    limit: int = 10
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None


@dataclass(frozen=True)
class Found:
    """Hits, best first, with the generation that found them and the tokens of the text that did not fit its model."""

    hits: list[Hit]
    generation: Generation
    cut: int
    took_ms: float


class SearchService:
    """Encodes and searches for one replica."""

    def __init__(self, store: Store, follower: Follower, *, request_timeout_s: float) -> None:
        self.store = store
        self.follower = follower
        self.request_timeout_s = request_timeout_s
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search")

    @classmethod
    def connect(cls, settings: Settings) -> "SearchService":
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
        )
        return cls(store, follower, request_timeout_s=settings.request_timeout_s)

    def start(self) -> None:
        """Load the live generation, so that a replica that joins in is warm, and follow the alias."""
        self.follower.start()

    def close(self) -> None:
        self.follower.close()
        self._threads.shutdown(wait=False)
        self.store.close()

    def generation(self) -> Generation:
        """The current generation; raises `NotReadyError` while there is none."""
        if (current := self.follower.current) is None:
            raise NotReadyError(self.follower.problem or "The service is still loading its model.")
        return current

    async def search(self, query: Query) -> Found:
        """The answer to one query, from one generation throughout.

        A collection that was dropped between the alias's move and this replica's next look at it is no error for the
        client: the replica looks at once and answers from the new generation.
        """
        try:
            return await self._search(query, self.generation())
        except CollectionMissingError:
            await self._in_thread(self.follower.refresh)
            return await self._search(query, self.generation())

    async def points(self, generation: Generation) -> int:
        """How many points the generation's collection holds."""
        count: int = await self._in_thread(self.store.count, generation.collection)
        return count

    async def _search(self, query: Query, generation: Generation) -> Found:
        began = time.perf_counter()
        vector, cut = await generation.encode_text(query.text)
        if query.target == "both":
            hits = await self._fused(query, generation, vector)
        else:
            hits = await self._nearest(query, generation, vector, query.target, query.limit, query.offset)
        return Found(hits, generation, cut, (time.perf_counter() - began) * 1000)

    async def _fused(self, query: Query, generation: Generation, vector: Vector) -> list[Hit]:
        """Pictures and captions by reciprocal rank; the score stays the better of the two cosines."""
        depth = query.limit + query.offset
        lists = await asyncio.gather(
            self._nearest(query, generation, vector, "image", depth, 0),
            self._nearest(query, generation, vector, "caption", depth, 0),
        )
        ranks: dict[str, float] = {}
        best: dict[str, Hit] = {}
        for hits in lists:
            for rank, hit in enumerate(hits, start=1):
                ranks[hit.id] = ranks.get(hit.id, 0.0) + 1 / (RRF_K + rank)
                if hit.id not in best or hit.score > best[hit.id].score:
                    best[hit.id] = hit
        ordered = sorted(best, key=lambda each: (-ranks[each], each))
        return [best[each] for each in ordered[query.offset : depth]]

    async def _nearest(
        self,
        query: Query,
        generation: Generation,
        vector: Vector,
        using: Literal["image", "caption"],
        limit: int,
        offset: int,
    ) -> list[Hit]:
        hits: list[Hit] = await self._in_thread(
            self.store.search,
            generation.collection,
            vector,
            using=using,
            limit=limit,
            offset=offset,
            filter=query.filter,
            score_threshold=query.score_threshold,
        )
        return hits

    async def _in_thread(self, function: Any, *arguments: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **options))
