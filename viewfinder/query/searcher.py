"""Answers queries: encode, search the live collection, and return hits with relevance, cursor and warnings.

The service and the engine's local mode both search with `Searcher`. They differ in their `LiveIndex`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from viewfinder.client.results import Group, Hit, SearchResult, Stats
from viewfinder.errors import CollectionMissingError
from viewfinder.query.cursor import Cursor, Vector
from viewfinder.query.errors import AddressError, CollectionGoneError, CursorError, QueryImageError, UnknownImageError
from viewfinder.query.images import QueryImages, Timed, untimed
from viewfinder.query.query import Query
from viewfinder.query.ranking import Grouped, HitPage, RankingSteps, Step, ranking
from viewfinder.query.relevance import relevance
from viewfinder.query.vectors import Composed, NamedPoints, QueryEncoder, compose, gather_or_cancel
from viewfinder.store import Collection, Search, Store, StoredGroup, StoredHit
from viewfinder.store.schema import VECTOR_NAMES, VectorName


class Snapshot(QueryEncoder, Protocol):
    """A collection and the encoder of the model that made it. A query uses one snapshot from start to end."""

    @property
    def collection(self) -> Collection: ...


class LiveIndex(Protocol):
    """Access to the live collection of an index, which changes when the index is rebuilt by another model."""

    def snapshot(self) -> Snapshot:
        """The live collection with its encoder; raises if there is none, or no encoder for it yet."""
        ...

    def known(self, name: str) -> Collection | None:
        """A collection of the index by its physical name, if it is known without a call to the store."""
        ...

    def refresh(self) -> None:
        """Look up the live collection now. May block."""
        ...


class Searcher:
    """Answers queries over one index. Blocking calls of the store run on `threads` (None: asyncio's own)."""

    def __init__(
        self,
        store: Store,
        live: LiveIndex,
        images: QueryImages,
        *,
        threads: Executor | None = None,
        timed: Timed = untimed,
    ) -> None:
        self._store = store
        self._live = live
        self._images = images
        self._threads = threads
        self._timed = timed

    async def search(self, query: Query) -> SearchResult:
        """One page of hits. Raises `QueryError`, `FilterError`, and the errors of the store and the live index."""
        return await self._next_page(query) if query.cursor else (await self.search_many([query]))[0]

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult]:
        """The results of queries without cursors, all from one snapshot and one request to the store.

        A second request follows if ranks are fused, and one more for each query with `group_by`. If the collection was
        dropped since the last refresh, the live index is refreshed and searched again.
        """
        try:
            return await self._first_pages(queries, self._live.snapshot())
        except CollectionMissingError:
            await self._in_thread(self._live.refresh)
            return await self._first_pages(queries, self._live.snapshot())

    async def stats(self) -> Stats:
        """The live collection: its model, size, sources and fields."""
        collection = self._live.snapshot().collection
        metadata = collection.metadata
        points, captions = await gather_or_cancel(
            self._in_thread(self._store.points.count, collection, exact=False),
            self._in_thread(self._store.points.count, collection, {"has_caption": {"eq": True}}, exact=False),
        )
        return Stats(
            index=collection.index,
            model=metadata.model_name,
            fingerprint=metadata.fingerprint,
            dimension=metadata.dimension,
            collection=collection.name,
            points=points,
            captions=captions,
            state=metadata.state,
            created_at=metadata.created_at,
            sources=tuple(collection.recorded.sources),
            fields=dict(collection.recorded.fields),
            relevance=bool(metadata.baselines),
            words=collection.ranks_words,
            last_run=collection.recorded.runs[-1].run_id if collection.recorded.runs else None,
            store=self._store.address.digest,
        )

    async def _first_pages(self, queries: Sequence[Query], snapshot: Snapshot) -> list[SearchResult]:
        began = time.perf_counter()
        collection = snapshot.collection
        await self._check(queries, collection)
        points = await self._named_points(queries, collection)
        composed = await compose(queries, snapshot, self._images, points)
        rankings = [ranking(query, each.vector, None) for query, each in zip(queries, composed, strict=True)]
        pages = await self._run(collection, rankings)
        return [
            _result(query, each, page, collection, began)
            for query, each, page in zip(queries, composed, pages, strict=True)
        ]

    async def _next_page(self, query: Query) -> SearchResult:
        """The page after a cursor, from the collection of the first page."""
        began = time.perf_counter()
        cursor = Cursor.decode(query.cursor or "", query.digest())
        collection = await self._collection(cursor.collection)
        vector = cursor.vector
        if (vector is None) != (query.rank == "words") or (
            vector is not None and len(vector) != collection.metadata.dimension
        ):
            raise CursorError("it does not fit the query")
        try:
            (page,) = await self._run(collection, [ranking(query, vector, cursor.place)])
        except CollectionMissingError as error:
            raise CollectionGoneError from error
        return _result(query, Composed(vector, cursor.kind), page, collection, began)

    async def _collection(self, name: str) -> Collection:
        """The collection of a cursor: live or retired, never one that is being built."""
        if (collection := self._live.known(name)) is not None:
            return collection
        # This process may be younger than the cursor. The cursor holds the vector, so no encoder is needed.
        index = self._live.snapshot().collection.index
        for each in await self._in_thread(self._store.collections.all, index):
            if each.name == name and each.metadata.state in ("live", "retired"):
                found: Collection = each
                return found
        raise CollectionGoneError

    async def _check(self, queries: Sequence[Query], collection: Collection) -> None:
        """Refuse what is wrong before anything is encoded: the first query of a process loads the model."""
        for query in queries:
            if query.filter or query.group_by:
                await self._in_thread(self._store.search.check, collection, query.filter, query.group_by)
            for part in query.parts:
                if part.kind == "image_url":
                    try:
                        self._images.check_url(str(part.value))
                    except AddressError as error:
                        raise QueryImageError.of(part.kind, error) from error

    async def _named_points(self, queries: Sequence[Query], collection: Collection) -> NamedPoints:
        """The vectors of points named by id: of the image, or of the caption if the point has no image."""
        named = dict.fromkeys(str(part.value) for query in queries for part in query.parts if part.kind == "id")
        vectors: dict[str, Vector] = {}
        kinds: dict[str, VectorName] = {}
        for name in VECTOR_NAMES:
            if missing := [each for each in named if each not in vectors]:
                found = await self._in_thread(self._store.points.vectors, collection, missing, name)
                vectors |= found
                kinds |= dict.fromkeys(found, name)
        for each in named:
            if each not in vectors:
                raise UnknownImageError(f"id: the index holds no image {each!r}.", "Use the id of a hit.")
        return NamedPoints(vectors, kinds)

    async def _run(self, collection: Collection, rankings: Sequence[RankingSteps]) -> list[HitPage]:
        async def search(searches: list[Search]) -> list[list[StoredHit]]:
            found: list[list[StoredHit]] = await self._in_thread(self._store.search.many, collection, searches)
            return found

        async def group(grouped: Grouped) -> list[StoredGroup]:
            groups: list[StoredGroup] = await self._in_thread(
                self._store.search.groups, collection, grouped.search, grouped.field, group_size=grouped.size
            )
            return groups

        with self._timed("search"):
            return await run_rankings(rankings, search, group)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **options))


async def run_rankings(
    rankings: Sequence[RankingSteps],
    search: Callable[[list[Search]], Awaitable[list[list[StoredHit]]]],
    group: Callable[[Grouped], Awaitable[list[StoredGroup]]],
) -> list[HitPage]:
    """The page of each ranking. The searches of all rankings in one round are one `search`; each group is its own."""
    pages: dict[int, HitPage] = {}
    waiting: dict[int, Step] = {number: next(each) for number, each in enumerate(rankings)}
    while waiting:
        following: dict[int, Step] = {}
        for number, answer in (await _answers(waiting, search, group)).items():
            try:
                following[number] = rankings[number].send(answer)
            except StopIteration as done:
                pages[number] = done.value
        waiting = following
    return [pages[number] for number in range(len(rankings))]


async def _answers(
    waiting: dict[int, Step],
    search: Callable[[list[Search]], Awaitable[list[list[StoredHit]]]],
    group: Callable[[Grouped], Awaitable[list[StoredGroup]]],
) -> dict[int, Any]:
    single = {number: step for number, step in waiting.items() if not isinstance(step, Grouped)}
    grouped = {number: step for number, step in waiting.items() if isinstance(step, Grouped)}

    async def search_all() -> list[Any]:
        searches = [each for step in single.values() for each in step]
        return await search(searches) if searches else []

    async def group_one(step: Grouped) -> list[Any]:
        return await group(step)

    found, *groups = await gather_or_cancel(search_all(), *map(group_one, grouped.values()))
    lists = iter(found)
    answers: dict[int, Any] = {number: [next(lists) for _ in step] for number, step in single.items()}
    return answers | dict(zip(grouped, groups, strict=True))


def _result(query: Query, composed: Composed, page: HitPage, collection: Collection, began: float) -> SearchResult:
    baselines = collection.metadata.baselines

    def hit(stored: StoredHit) -> Hit:
        payload = dict(stored.payload)
        return Hit(
            id=stored.id,
            score=stored.score,
            relevance=relevance(baselines, composed.kind, stored.cosines),
            uri=payload.get("uri", ""),
            caption=payload.get("caption"),
            width=payload.get("width"),
            height=payload.get("height"),
            payload=payload,
        )

    cursor = None
    if page.place is not None:
        cursor = Cursor(collection.name, query.digest(), page.place, composed.kind, composed.vector).encode()
    return SearchResult(
        hits=tuple(map(hit, page.hits)),
        groups=None
        if page.groups is None
        else tuple(Group(value=group.value, hits=tuple(map(hit, group.hits))) for group in page.groups),
        model=collection.metadata.model_name,
        collection=collection.name,
        took_ms=round((time.perf_counter() - began) * 1000, 2),
        cursor=cursor,
        warnings=composed.warnings,
    )
