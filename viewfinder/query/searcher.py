"""Answers queries: encode, search the live collection, and return hits with relevance, cursor and warnings.

The service and the engine's local mode both search with `Searcher`. They differ in their `LiveIndex`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from viewfinder.client.requests import MAX_BATCH_HITS
from viewfinder.client.results import SearchResult, Stats
from viewfinder.errors import CollectionMissingError, FilterError, WordsUnavailableError
from viewfinder.query.collapsing import Near, nearest_before
from viewfinder.query.cursor import Cursor, CursorKeys, Vector
from viewfinder.query.errors import (
    AddressError,
    CollectionGoneError,
    CursorError,
    QueryError,
    QueryImageError,
    UnknownImageError,
)
from viewfinder.query.images import QueryImages, Timed, untimed
from viewfinder.query.query import Query
from viewfinder.query.ranking import ranking
from viewfinder.query.relevance import MinimumRelevance
from viewfinder.query.results import search_result
from viewfinder.query.steps import Grouped, HitPage, Listed, Prepared, RankingSteps, Read, Single, Step
from viewfinder.query.vectors import Composed, NamedPoints, QueryEncoder, compose, gather_or_cancel, query_kind
from viewfinder.store import Collection, Search, Store, StoredHit
from viewfinder.store.conditions import KeyFilter
from viewfinder.store.field_names import FIELDS
from viewfinder.store.schema import VECTOR_NAMES, VectorName

# Of one request to the store. 64 searches that each order a thousand hits would take the embedded store 20 s.
_MAX_SEARCHES, _MAX_HITS = 16, MAX_BATCH_HITS

# The error of a query that cannot be answered as it stands, and that of its searches in the store.
Refused: TypeAlias = QueryError | FilterError | WordsUnavailableError
RefusedSearch: TypeAlias = FilterError | WordsUnavailableError
_REFUSED_SEARCH = (FilterError, WordsUnavailableError)


class LiveCollection(QueryEncoder, Protocol):
    """A collection and the encoder of the model that made it. A query uses one snapshot from start to end."""

    @property
    def collection(self) -> Collection: ...


class LiveIndex(Protocol):
    """Access to the live collection of an index, which changes when the index is rebuilt by another model."""

    @property
    def index(self) -> str:
        """The name of the index."""
        ...

    def collection(self) -> Collection:
        """The live collection; raises if there is none."""
        ...

    async def ready(self) -> LiveCollection:
        """The live collection with its encoder; raises if there is none, or no encoder for it."""
        ...

    def known(self, name: str) -> Collection | None:
        """A collection of the index by its physical name, if it is known without a call to the store."""
        ...

    def refresh(self) -> None:
        """Look up the live collection now. May block."""
        ...


class Searcher:
    """Answers queries over one index. Blocking calls of the store run on `threads` (None: asyncio's own).

    `within` limits what a caller sees: the filter of its API key, None for everything.
    """

    def __init__(
        self,
        store: Store,
        live: LiveIndex,
        images: QueryImages,
        keys: CursorKeys,
        *,
        threads: Executor | None = None,
        timed: Timed = untimed,
    ) -> None:
        self._store = store
        self._live = live
        self._images = images
        self._keys = keys
        self._threads = threads
        self._timed = timed

    async def search(self, query: Query, within: KeyFilter) -> SearchResult:
        """One page of hits. Raises `QueryError`, `FilterError`, and the errors of the store and the live index."""
        if query.cursor:
            return await self._next_page(self._limited(query, within))
        (answer,) = await self.search_many([query], within)
        if isinstance(answer, SearchResult):
            return answer
        raise answer

    async def search_many(
        self, queries: Sequence[Query | QueryError], within: KeyFilter
    ) -> list[SearchResult | Refused]:
        """The results of queries without cursors, all from one snapshot and few requests to the store.

        In place of a result there is the error of a query that cannot be answered; the others are not affected. Further
        requests follow if ranks are fused, hits ordered by a field or images collapsed, and others for each
        query with `group_by` or `collapse`, or without parts. If the collection was dropped since the last refresh, the
        live index is refreshed and searched again.
        """
        limited = [self._limited(each, within) if isinstance(each, Query) else each for each in queries]
        try:
            return await self._first_pages(limited, within, *await self._snapshot(limited))
        except CollectionMissingError:
            await self._in_thread(self._live.refresh)
            return await self._first_pages(limited, within, *await self._snapshot(limited))

    async def stats(self, within: KeyFilter) -> Stats:
        """The live collection: its model, size, sources and fields."""
        collection = self._live.collection()
        metadata = collection.metadata
        points, captions = await gather_or_cancel(
            self._count(collection, None, within), self._count(collection, {"has_caption": {"eq": True}}, within)
        )
        sources = await self._in_thread(self._sources, collection, within)
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
            sources=sources,
            fields={**FIELDS, **collection.recorded.fields},
            relevance=bool(metadata.baselines),
            words=collection.ranks_words,
            last_run=collection.recorded.runs[-1].run_id if collection.recorded.runs else None,
            store=self._store.address.digest,
        )

    async def _count(self, collection: Collection, filter: Mapping[str, Any] | None, within: KeyFilter) -> int:
        def count() -> int:
            condition = self._store.search.parse(collection, filter, within=within)
            # An estimate for a filter is made from the numbers of all points.
            return self._store.points.count(collection, condition, exact=within is not None)

        counted: int = await self._in_thread(count)
        return counted

    def _sources(self, collection: Collection, within: KeyFilter) -> tuple[str, ...]:
        """The sources of the images that the key sees."""
        known = tuple(collection.recorded.sources)
        if within is None or not known:
            return known
        condition = self._store.search.parse(collection, None, within=within)
        seen = self._store.search.facet(collection, "sources", filter=condition, limit=len(known))
        return tuple(each for each in known if each in {value for value, _ in seen})

    def _limited(self, query: Query, within: KeyFilter) -> Query:
        return replace(query, index=self._live.index, within=within)

    async def _snapshot(self, queries: Sequence[Query | QueryError]) -> tuple[Collection, QueryEncoder | None]:
        """The live collection, and its encoder if a query needs one: lists and searches by words do not."""
        if all(each.lacks_vector for each in queries if isinstance(each, Query)):
            return self._live.collection(), None
        live = await self._live.ready()
        return live.collection, live

    async def _first_pages(
        self,
        queries: Sequence[Query | QueryError],
        within: KeyFilter,
        collection: Collection,
        encoder: QueryEncoder | None,
    ) -> list[SearchResult | Refused]:
        began = time.perf_counter()
        answers: dict[int, SearchResult | Refused] = {
            number: each for number, each in enumerate(queries) if isinstance(each, QueryError)
        }
        accepted = {number: each for number, each in enumerate(queries) if isinstance(each, Query)}
        # Refuse what is wrong before anything is encoded: the first query of a process loads the model.
        points = await self._named_points(list(accepted.values()), collection, within)
        prepared: dict[int, Prepared] = {}
        for number, query in accepted.items():
            try:
                self._check_parts(query, points)
                prepared[number] = await self._prepare(query, query_kind(query, points.kinds), collection)
            except (QueryError, FilterError, WordsUnavailableError) as error:
                answers[number] = error
        valid = [accepted[number] for number in prepared]
        composed: list[Composed | QueryError] = [Composed(None) for _ in valid]
        if encoder is not None and valid:
            composed = await compose(valid, encoder, self._images, points)
        found: dict[int, Composed] = {}
        for number, each in zip(prepared, composed, strict=True):
            if isinstance(each, QueryError):
                answers[number] = each
            else:
                found[number] = each
        rankings = [ranking(accepted[number], each.vector, None, prepared[number]) for number, each in found.items()]
        pages = await self._run(collection, rankings)
        for (number, each), page in zip(found.items(), pages, strict=True):
            answers[number] = (
                search_result(accepted[number], each, page, collection, self._keys, began)
                if isinstance(page, HitPage)
                else page
            )
        return [answers[number] for number in range(len(queries))]

    async def _next_page(self, query: Query) -> SearchResult:
        """The page after a cursor, from the collection of the first page."""
        began = time.perf_counter()
        cursor = Cursor.decode(query.cursor or "", query.digest(), self._keys)
        collection = await self._collection(cursor.collection)
        vector = cursor.vector
        if (vector is None) != query.lacks_vector or (
            vector is not None and len(vector) != collection.metadata.dimension
        ):
            raise CursorError("it does not fit the query")
        try:
            prepared = await self._prepare(query, cursor.kind, collection)
            (page,) = await self._run(collection, [ranking(query, vector, cursor.place, prepared)])
        except CollectionMissingError as error:
            raise CollectionGoneError from error
        if not isinstance(page, HitPage):
            raise page
        return search_result(query, Composed(vector, cursor.kind), page, collection, self._keys, began)

    async def _collection(self, name: str) -> Collection:
        """The collection of a cursor: live or retired, never one that is being built."""
        if (collection := self._live.known(name)) is not None:
            return collection
        # This process may be younger than the cursor. The cursor holds the vector, so no encoder is needed.
        for each in await self._in_thread(self._store.collections.all, self._live.index):
            if each.name == name and each.metadata.state in ("live", "retired"):
                found: Collection = each
                return found
        raise CollectionGoneError

    def _check_parts(self, query: Query, points: NamedPoints) -> None:
        for part in query.parts:
            if part.kind == "id" and part.value not in points.vectors:
                raise UnknownImageError(str(part.value))
            if part.kind == "image_url":
                try:
                    self._images.check_url(str(part.value))
                except AddressError as error:
                    raise QueryImageError.of(part.kind, error) from error

    async def _prepare(self, query: Query, kind: str | None, collection: Collection) -> Prepared:
        """Check a query against the fields and baselines of a collection."""
        minimum = MinimumRelevance.of(query, kind, collection)
        ranks_words = query.rank != "clip"
        is_plain = not query.filter and query.within is None
        if is_plain and query.group_by is None and not ranks_words and query.order is None:
            return Prepared(minimum=minimum)

        def parse() -> Prepared:
            search, ordering = self._store.search, None
            if query.order is not None:
                field, descending = query.order
                ordering = search.ordering(collection, field, descending=descending)
            condition = search.parse(
                collection, query.filter, within=query.within, group_by=query.group_by, ranks_words=ranks_words
            )
            return Prepared(condition, ordering, minimum)

        prepared: Prepared = await self._in_thread(parse)
        return prepared

    async def _named_points(self, queries: Sequence[Query], collection: Collection, within: KeyFilter) -> NamedPoints:
        """Return the vector of each point that the key may see: of its image, or of its caption if it has no image."""
        named = dict.fromkeys(str(part.value) for query in queries for part in query.parts if part.kind == "id")
        vectors: dict[str, Vector] = {}
        kinds: dict[str, VectorName] = {}
        for name in VECTOR_NAMES:
            if missing := [each for each in named if each not in vectors]:
                found = await self._in_thread(self._store.points.vectors, collection, missing, name, within=within)
                vectors |= found
                kinds |= dict.fromkeys(found, name)
        return NamedPoints(vectors, kinds)

    async def _run(self, collection: Collection, rankings: Sequence[RankingSteps]) -> list[HitPage | RefusedSearch]:
        async def search(searches: list[Search]) -> list[list[StoredHit]]:
            found: list[list[StoredHit]] = []
            # One after the other: a request that is cancelled stops after the current part.
            for part in parts_of(searches):
                found += await self._in_thread(self._store.search.many, collection, part)
            return found

        async def alone(step: Single) -> Any:
            return await self._in_thread(run_alone, self._store, collection, step)

        with self._timed("search"):
            return await run_rankings(rankings, search, alone)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **options))


def parts_of(searches: Sequence[Search]) -> Iterator[list[Search]]:
    """Cut searches into requests of up to `_MAX_HITS` hits and `_MAX_SEARCHES` searches, at least one in each."""
    part: list[Search] = []
    hits = 0
    for each in searches:
        if part and (hits + each.limit > _MAX_HITS or len(part) == _MAX_SEARCHES):
            yield part
            part, hits = [], 0
        part.append(each)
        hits += each.limit
    if part:
        yield part


def run_alone(store: Store, collection: Collection, step: Single) -> Any:
    """Carry out a step that takes requests of its own."""
    match step:
        case Grouped():
            return store.search.groups(collection, step.search, step.field, group_size=step.size)
        case Near():
            return nearest_before(step, store.points.vectors(collection, step.ids))
        case Read():
            return store.points.records(collection, step.ids)
        case Listed():
            return store.search.in_order(
                collection,
                step.ordering,
                filter=step.condition,
                after=step.after,
                offset=step.offset,
                limit=step.limit,
                with_payload=step.with_payload,
            )


async def run_rankings(
    rankings: Sequence[RankingSteps],
    search: Callable[[list[Search]], Awaitable[list[list[StoredHit]]]],
    alone: Callable[[Single], Awaitable[Any]],
) -> list[HitPage | RefusedSearch]:
    """The page of each ranking, or why the store refuses it.

    The searches of all rankings in one round are one `search`; each other step is carried out `alone`.
    """
    pages: dict[int, HitPage | RefusedSearch] = {}
    waiting: dict[int, Step] = {number: next(each) for number, each in enumerate(rankings)}
    while waiting:
        following: dict[int, Step] = {}
        for number, answer in (await _run_steps(waiting, search, alone)).items():
            if isinstance(answer, _REFUSED_SEARCH):
                pages[number] = answer
                continue
            try:
                following[number] = rankings[number].send(answer)
            except StopIteration as done:
                pages[number] = done.value
            # To order a thousand hits takes milliseconds, and there may be 64 rankings.
            await asyncio.sleep(0)
        waiting = following
    return [pages[number] for number in range(len(rankings))]


async def _run_steps(
    waiting: dict[int, Step],
    search: Callable[[list[Search]], Awaitable[list[list[StoredHit]]]],
    alone: Callable[[Single], Awaitable[Any]],
) -> dict[int, Any]:
    single = {number: step for number, step in waiting.items() if not isinstance(step, Single)}
    others = {number: step for number, step in waiting.items() if isinstance(step, Single)}

    async def run_one(step: Single) -> Any:
        try:
            return await alone(step)
        except _REFUSED_SEARCH as error:
            return error

    async def search_each() -> Any:
        return await _search_each(list(single.values()), search)

    found, *answers = await gather_or_cancel(search_each(), *map(run_one, others.values()))
    return dict(zip(single, found, strict=True)) | dict(zip(others, answers, strict=True))


async def _search_each(
    steps: Sequence[Sequence[Search]], search: Callable[[list[Search]], Awaitable[list[list[StoredHit]]]]
) -> list[list[list[StoredHit]] | RefusedSearch]:
    """The hits of each step, all from one request; if it is refused, from one for each, so that the others are not."""
    searches = [each for step in steps for each in step]
    try:
        lists = iter(await search(searches) if searches else [])
    except _REFUSED_SEARCH as error:
        if len(steps) == 1:
            return [error]
        return [answer for step in steps for answer in await _search_each([step], search)]
    return [[next(lists) for _ in step] for step in steps]
