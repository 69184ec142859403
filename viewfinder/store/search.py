"""Searches by vector or by words, many in one request; groups and facets."""

import functools
import itertools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import models

from viewfinder.arrays import Vectors
from viewfinder.errors import FilterError, StoreError, WordsUnavailableError
from viewfinder.store.collections import Collections
from viewfinder.store.conditions import Conditions, KeyFilter, ParsedFilter
from viewfinder.store.connection import Connection
from viewfinder.store.field_names import field_path
from viewfinder.store.ordering import OrderedPage, Ordering, OrderPlace, read_in_order
from viewfinder.store.records import Record, StoredGroup, StoredHit, is_point_id, payload_selector
from viewfinder.store.request_size import ID_BYTES, vector_bytes
from viewfinder.store.schema import Collection, VectorName
from viewfinder.store.words import CAPTION_WORDS, words_to_find

logger = logging.getLogger(__name__)

# From how many nearest points MMR chooses by default: with as many as hits it only reorders them. The maximum is
# Qdrant's.
_MMR_CANDIDATES_PER_HIT, _MIN_MMR_CANDIDATES, _MAX_MMR_CANDIDATES = 10, 100, 16_384

# Servers in strict mode, such as Qdrant Cloud's, filter by fields with an index only; all order by such fields only.
_NO_INDEX_MESSAGE = re.compile(
    r'(index required but not found for|No range index for `order_by` key:) ["`]?(?P<field>[^"`]*)', re.IGNORECASE
)

# Of one character of a text at most, as its words: a mark or pictograph is sent as hex, and NFKC makes up to 18 letters
# of one.
_WORD_BYTES = 160

# Quantized vectors select twice the hits and the originals rank them: without oversampling, rescoring only reorders;
# without rescoring, scores are not cosines. `viewfinder evaluate` measures the loss.
RESCORED = models.QuantizationSearchParams(rescore=True, oversampling=2.0)


@dataclass(frozen=True, eq=False)
class Search:
    """One search by either `vector` (float32 [D]) or `words`; raises `ValueError` for invalid combinations.

    `score_threshold` applies to scores of hits: cosines, or BM25 scores in a search by words. `diversity` above 0
    selects hits from `candidates` by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), in the order of
    selection; scores stay cosines. `having` restricts the search to points with this kind of vector, `only` to these
    ids, and then it is exact. `exact` compares with every point instead of using the graph.
    """

    vector: Vectors | None = None
    words: str | None = None
    using: VectorName = "image"
    limit: int = 10
    offset: int = 0
    filter: Mapping[str, Any] | ParsedFilter | None = None
    score_threshold: float | None = None
    diversity: float = 0.0
    candidates: int | None = None
    having: VectorName | None = None
    only: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    with_payload: bool | Sequence[str] = True
    exact: bool = False

    def __post_init__(self) -> None:
        if (self.vector is None) == (self.words is None):
            raise ValueError("a search is by either a vector or words")
        if self.vector is not None and not (np.ndim(self.vector) == 1 and np.isfinite(self.vector).all()):
            raise ValueError("a search needs one vector of finite numbers")
        if self.limit < 1 or self.offset < 0:
            raise ValueError(f"limit {self.limit} and offset {self.offset}: expected at least 1 and at least 0")
        if not 0 <= self.diversity <= 1 or (self.diversity and self.vector is None):
            raise ValueError(f"diversity {self.diversity}: expected 0 to 1, and a vector to search by")


class Searches:
    """Searches over the points of one physical collection, never over an alias."""

    def __init__(self, connection: Connection, collections: Collections) -> None:
        self._connection = connection
        self._collections = collections
        self._conditions = Conditions(collections)

    def many(self, collection: Collection, searches: Sequence[Search]) -> list[list[StoredHit]]:
        """Return the hits of each search, sorted by score and id, or as MMR selected them.

        All are in one request, or in several if it would exceed Qdrant's size limit. Raises `FilterError`, also for a
        search that exceeds it alone, and `StoreError` for a search by words on a server without BM25.
        """
        # The searches of one query share their filter, which is parsed once.
        conditions: dict[int, ParsedFilter | None] = {}
        for search in searches:
            if id(search.filter) not in conditions:
                conditions[id(search.filter)] = self._conditions.parse(collection, search.filter)
        words = [_search_words(search, collection) for search in searches]
        requests = [
            self._request(search, each, conditions[id(search.filter)])
            for search, each in zip(searches, words, strict=True)
        ]
        sent = [place for place, search in enumerate(searches) if not _cannot_match(search, words[place])]
        found: list[list[StoredHit]] = [[] for _ in searches]
        if sent:
            self._check_words(collection, [searches[place] for place in sent])
            sizes = self._sizes([searches[place] for place in sent], conditions)
            for part in self._connection.limit.batches(sizes, len(sent)):
                chosen = sent[part.start : part.stop]
                answers = self._call(
                    "query_batch_points",
                    collection_name=collection.name,
                    requests=[requests[place] for place in chosen],
                )
                for place, answer in zip(chosen, answers, strict=True):
                    found[place] = _hits(searches[place], answer.points)
        return found

    def parse(
        self,
        collection: Collection,
        filter: Mapping[str, Any] | None,
        *,
        within: KeyFilter = None,
        group_by: str | None = None,
        ranks_words: bool = False,
    ) -> ParsedFilter | None:
        """Return the filter of a search, parsed once for all its requests, together with that of the API key.

        Raises what a search would raise: `FilterError` for a filter, its size, or a field of groups,
        `WordsUnavailableError`, and `KeyFilterError`.
        """
        if group_by is not None:
            self._conditions.groupable(collection, group_by)
        if ranks_words:
            self._check_ranks_words(collection)
        parsed = self._conditions.within(collection, within, filter)
        self._check_size(_filter_bytes(parsed))
        return parsed

    def nearest(
        self,
        collection: Collection,
        vector: Sequence[float] | Vectors,
        *,
        using: VectorName = "image",
        limit: int,
        offset: int = 0,
        filter: Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        with_payload: bool | Sequence[str] = True,
    ) -> list[StoredHit]:
        """Return the points nearest to `vector` (D numbers) by cosine, best first."""
        search = Search(
            np.asarray(vector, dtype=np.float32),
            using=using,
            limit=limit,
            offset=offset,
            filter=filter,
            score_threshold=score_threshold,
            with_payload=with_payload,
        )
        return self.many(collection, [search])[0]

    def groups(self, collection: Collection, search: Search, field: str, *, group_size: int = 3) -> list[StoredGroup]:
        """Return the best `search.limit` groups of points that share a value of `field`, each with its best points.

        A point with several values (tags) is in several groups, a point without a value in none. Raises `FilterError`
        for a field that cannot be grouped by, `ValueError` for a search with diversity, which Qdrant cannot group.
        """
        if search.diversity:
            raise ValueError("a search with diversity cannot be grouped")
        name = self._conditions.groupable(collection, field)
        words = _search_words(search, collection)
        condition = self._conditions.parse(collection, search.filter)
        request = self._request(search, words, condition)
        if _cannot_match(search, words):
            return []
        self._check_words(collection, [search])
        self._sizes([search], {id(search.filter): condition})
        options = {} if request.params is None else {"search_params": request.params}
        answer = self._call(
            "query_points_groups",
            collection_name=collection.name,
            group_by=field_path(name),
            query=request.query,
            using=request.using,
            query_filter=request.filter,
            limit=search.limit + search.offset,
            group_size=group_size,
            with_payload=request.with_payload,
            score_threshold=request.score_threshold,
            **options,
        )
        groups = [
            StoredGroup(group.id, _by_score_and_id(_hit(search, point) for point in group.hits))
            for group in answer.groups
        ]
        return sorted(groups, key=lambda group: (-group.hits[0].score, str(group.value)))[search.offset :]

    def ordering(self, collection: Collection, field: str, *, descending: bool = False) -> Ordering:
        """Return the order by a field of numbers or dates; raise `FilterError` for another field."""
        return Ordering(*self._conditions.sortable(collection, field), descending)

    def in_order(
        self,
        collection: Collection,
        ordering: Ordering,
        *,
        filter: Mapping[str, Any] | ParsedFilter | None = None,
        after: OrderPlace | None = None,
        offset: int = 0,
        limit: int,
        with_payload: bool | Sequence[str] = True,
    ) -> OrderedPage:
        """Return the points in the order of a field, from `offset` on, or the next ones after a place."""
        condition = self._conditions.parse(collection, filter)
        scroll = functools.partial(self._call, "scroll", collection_name=collection.name)
        wanted = offset + limit + 1
        places = list(itertools.islice(read_in_order(scroll, ordering, condition, after, wanted), wanted))
        chosen = places[offset : offset + limit]
        found = self._call(
            "retrieve",
            collection_name=collection.name,
            ids=[each.id for each in chosen],
            with_payload=payload_selector(with_payload),
        )
        payloads = {str(record.id): record.payload or {} for record in found}
        # Without the points deleted since.
        records = [Record(each.id, payloads[each.id]) for each in chosen if each.id in payloads]
        return OrderedPage(records, chosen[-1] if len(places) == wanted else None)

    def facet(
        self,
        collection: Collection,
        field: str,
        *,
        filter: Mapping[str, Any] | ParsedFilter | None = None,
        limit: int = 20,
    ) -> list[tuple[str | int | bool, int]]:
        """Return the most frequent values of `field` with their numbers of points, sorted by number and value.

        A server's numbers are approximate while points are being written. Raises `FilterError` for an unknown field or
        one whose values cannot be counted.
        """
        name = self._conditions.countable(collection, field)
        answer = self._call(
            "facet",
            collection_name=collection.name,
            key=field_path(name),
            facet_filter=self._conditions.parse(collection, filter),
            limit=limit,
        )
        return sorted(((hit.value, hit.count) for hit in answer.hits), key=lambda each: (-each[1], str(each[0])))

    def _call(self, method: str, **arguments: Any) -> Any:
        try:
            return self._connection.call(method, **arguments)
        except StoreError as error:
            if (found := _NO_INDEX_MESSAGE.search(str(error))) is None:
                raise
            logger.warning("%s", error)
            # Not its whole text: this goes to clients, and names the address of the server.
            raise FilterError(
                f"Field {found['field']!r} has no index, and the vector store refuses to filter or order by such a "
                "field. Leave it out, or run 'viewfinder index' again, which makes the indexes of meta fields."
            ) from error

    def _request(self, search: Search, words: Sequence[str], condition: models.Filter | None) -> models.QueryRequest:
        return models.QueryRequest(
            query=_qdrant_query(search, words),
            using=search.using if search.words is None else CAPTION_WORDS,
            filter=_narrow(condition, search),
            params=self._params(search),
            # With MMR Qdrant selects `limit` points and then skips `offset` of them: nothing is left of a second page.
            limit=search.limit + search.offset if search.diversity else search.limit,
            offset=0 if search.diversity else search.offset,
            with_payload=payload_selector(search.with_payload),
            score_threshold=search.score_threshold,
        )

    def _sizes(self, searches: Sequence[Search], conditions: Mapping[int, ParsedFilter | None]) -> list[int]:
        """Return the size of each search in a request; raise `FilterError` for one that Qdrant cannot receive.

        `conditions` are the parsed filters by the `id` of what was given.
        """
        filters = {each: _filter_bytes(condition) for each, condition in conditions.items()}
        sizes = []
        for search in searches:
            numbers = 0 if search.vector is None else len(search.vector)
            ids = len(search.exclude) + (0 if search.only is None else len(search.only))
            texts = filters[id(search.filter)] + _WORD_BYTES * len(search.words or "")
            sizes.append(vector_bytes(numbers) + ID_BYTES * ids + texts)
            self._check_size(sizes[-1])
        return sizes

    def _check_size(self, size: int) -> None:
        if (excess := self._connection.limit.excess(size)) is not None:
            raise FilterError(f"The search takes {excess}. Use a smaller filter.")

    def _params(self, search: Search) -> models.SearchParams | None:
        if search.vector is None:
            return None
        # An exact search compares original vectors; without quantization Qdrant ignores rescoring.
        exact = search.exact or search.only is not None
        return models.SearchParams(exact=True) if exact else models.SearchParams(quantization=RESCORED)

    def _check_words(self, collection: Collection, searches: Sequence[Search]) -> None:
        if any(search.words is not None for search in searches):
            self._check_ranks_words(collection)

    def _check_ranks_words(self, collection: Collection) -> None:
        if collection.ranks_words:
            return
        # Its index may have been made anew since the collection was read.
        if not self._collections.refresh(collection).ranks_words:
            raise WordsUnavailableError(self._collections.why_no_words())


def _search_words(search: Search, collection: Collection) -> list[str]:
    return [] if search.words is None else words_to_find(search.words, collection.metadata.language)


def _qdrant_query(search: Search, words: Sequence[str]) -> Any:
    if search.words is not None:
        return models.TextQuery(text=" ".join(words))
    vector = np.asarray(search.vector, dtype=np.float32).tolist()
    if not search.diversity:
        return models.NearestQuery(nearest=vector)
    wanted = search.candidates or max(_MIN_MMR_CANDIDATES, _MMR_CANDIDATES_PER_HIT * (search.limit + search.offset))
    mmr = models.Mmr(diversity=search.diversity, candidates_limit=min(wanted, _MAX_MMR_CANDIDATES))
    return models.NearestQuery(nearest=vector, mmr=mmr)


def _narrow(condition: models.Filter | None, search: Search) -> models.Filter | None:
    """Return the condition together with the conditions of `having`, `only` and `exclude`."""
    must: list[Any] = [] if condition is None else [condition]
    if search.having is not None:
        must.append(models.FieldCondition(key=f"has_{search.having}", match=models.MatchValue(value=True)))
    must += [] if search.only is None else [models.HasIdCondition(has_id=_valid_ids(search.only))]
    must_not: list[Any] = [models.HasIdCondition(has_id=excluded)] if (excluded := _valid_ids(search.exclude)) else []
    return models.Filter(must=must or None, must_not=must_not or None) if must or must_not else None


def _filter_bytes(condition: ParsedFilter | None) -> int:
    """Return the size of a filter in a request."""
    return 0 if condition is None else len(condition.model_dump_json(exclude_none=True).encode())


def _cannot_match(search: Search, words: Sequence[str]) -> bool:
    """Return True for a search without hits in any collection, which Qdrant might refuse."""
    if search.words is not None and not words:
        return True
    return search.only is not None and not _valid_ids(search.only)


def _hits(search: Search, points: Iterable[Any]) -> list[StoredHit]:
    """Return the hits of one search in their order."""
    hits = [_hit(search, point) for point in points]
    return hits[search.offset :] if search.diversity else _by_score_and_id(hits)


def _hit(search: Search, point: Any) -> StoredHit:
    cosines = {} if search.vector is None else {search.using: point.score}
    return StoredHit(str(point.id), point.score, point.payload or {}, cosines)


def _by_score_and_id(hits: Iterable[StoredHit]) -> list[StoredHit]:
    """Sort hits by score, and equal scores by id, because Qdrant does not define their order."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _valid_ids(ids: Iterable[str]) -> list[Any]:
    return [each for each in ids if is_point_id(each)]
