"""The order of hits, page by page: which order a query has, and what it asks for (`viewfinder.query.steps`).

    by_cosine     one vector: ordered by score, and a page continues after a score (`cosine_order`)
    by_fusion     several orders fused by reciprocal rank (`fusion`)
    by_value      hits above a threshold, ordered by a payload field (`field_order`)
    by_field      all images, without a query, ordered by a payload field (`field_order`)
    _by_window    ordered otherwise (words, diversity): a page leaves out the hits already shown
    _by_groups    the same for groups that the store makes
    _by_collapse  any of these orders, up to a fixed depth, with equal or similar images collapsed into one hit

All but `by_cosine` and `by_field` search to the same depth for every page. If the depth grew with the page, so would
the number of fused ranks or candidates, and the order would change from page to page.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from viewfinder.arrays import Vectors
from viewfinder.client.requests import MAX_COLLAPSED, MAX_RANKED_HITS, diverse_candidates
from viewfinder.query.collapsing import COLLAPSE_FIELDS, Collapsible, Near, exact, near, shown_first
from viewfinder.query.cosine_order import by_cosine
from viewfinder.query.cursor import Place, mark
from viewfinder.query.field_order import by_field, by_value, valued
from viewfinder.query.fusion import by_fusion, fused_ids
from viewfinder.query.query import Query
from viewfinder.query.relevance import MinimumRelevance
from viewfinder.query.steps import (
    Grouped,
    HitPage,
    Listed,
    Prepared,
    RankingSteps,
    Read,
    Step,
    hits_wanted,
    page_of,
    whole,
)
from viewfinder.store.ordering import OrderedPage, Ordering
from viewfinder.store.records import StoredGroup, StoredHit
from viewfinder.store.search import Search

_UNPREPARED = Prepared()


def ranking(
    query: Query, vector: Vectors | None, place: Place | None, prepared: Prepared = _UNPREPARED
) -> RankingSteps:
    """The ranking of a query by its vector (float32 [D]; None for rank `words` or no parts), from `place` on."""
    ordering, minimum = prepared.ordering, prepared.minimum
    if not query.parts:
        assert ordering is not None
        listed = Listed(ordering, prepared.condition, query.limit, query.offset)
        return _by_collapse(query, _listed_order(listed), None, place) if query.collapse else by_field(listed, place)
    basis = Search(
        vector=vector,
        words=None if vector is not None else query.words,
        using=query.targets[0],
        limit=query.limit,
        offset=query.offset,
        filter=prepared.condition,
        exclude=[str(part.value) for part in query.parts if part.kind == "id"],
        score_threshold=query.score_threshold,
        diversity=query.diversity,
        candidates=diverse_candidates(query.limit) if query.diversity else None,
    )
    if query.collapse:
        return _by_collapse(query, _collapsible_order(query, basis, ordering, minimum), basis, place)
    if ordering is not None:
        return by_value(_above(query, basis, minimum), query.targets, ordering, minimum, place)
    if query.rank == "hybrid" or (query.rank == "clip" and query.target == "both"):
        grouping = (query.group_by, query.group_size) if query.group_by else None
        return by_fusion(_orders(query, basis), query.targets, place, grouping, minimum)
    (basis,) = _above(query, basis, minimum)
    if query.group_by:
        return _by_groups(Grouped(basis, query.group_by, query.group_size), place)
    if query.rank == "words" or query.diversity:
        return _by_window(query, basis, place)
    return by_cosine(basis, place)


def _above(query: Query, basis: Search, minimum: MinimumRelevance | None) -> list[Search]:
    """The searches that find all hits with at least the minimum: one for each target whose hits have a relevance."""
    if minimum is None:
        return [basis]
    bounds = {name: minimum.cosine(name, among=len(query.targets)) for name in query.targets}
    given = -1.0 if query.score_threshold is None else query.score_threshold
    return [
        replace(basis, using=name, score_threshold=max(bound, given))
        for name, bound in bounds.items()
        if bound is not None
    ]


def _orders(query: Query, basis: Search) -> list[tuple[float, Search]]:
    """The searches to fuse, with weights: one for each target, and for `hybrid` one by words."""
    clip, words = query.weights if query.rank == "hybrid" else (1.0, 0.0)
    orders = [(clip / len(query.targets), replace(basis, using=name)) for name in query.targets]
    if query.rank == "hybrid":
        # A point without a vector of the target's kind has no cosine.
        having = None if query.target == "both" else query.target
        orders.append((words, replace(basis, vector=None, words=query.words, having=having)))
    return orders


def _by_window(query: Query, search: Search, place: Place | None) -> RankingSteps:
    """Hits in an order other than that of cosines, up to `query.last_position` of them."""
    depth = query.last_position
    wanted = min(depth, hits_wanted(search, place))
    (hits,) = yield [replace(search, offset=0, limit=wanted)]
    # Further hits may have the last score, of which the store has chosen any: then order them all, by id.
    some_of_equal = not query.diversity and wanted == len(hits) < depth and hits[-2].score == hits[-1].score
    if some_of_equal:
        (hits,) = yield [replace(search, offset=0, limit=depth, with_payload=False)]
    chosen, following = page_of([hit.id for hit in hits], search, place)
    found = {hit.id: hit for hit in hits}
    page = [found[each] for each in chosen]
    if some_of_equal:
        page = yield from whole(search, query.targets, page)
    return HitPage(page, None, following)


def _by_groups(grouped: Grouped, place: Place | None) -> RankingSteps:
    """Groups by their best hit, as the store makes them; `limit` and `offset` count groups."""
    search = grouped.search
    wanted = min(MAX_RANKED_HITS, hits_wanted(search, place))
    groups: list[StoredGroup] = yield replace(grouped, search=replace(search, offset=0, limit=wanted))
    chosen, following = page_of([group.value for group in groups], search, place)
    found = {mark(group.value): group for group in groups}
    shown = [found[mark(value)] for value in chosen]
    return HitPage([group.hits[0] for group in shown if group.hits], shown, following)


def _by_collapse(query: Query, order: "CollapsibleOrder", search: Search | None, place: Place | None) -> RankingSteps:
    """The first `MAX_COLLAPSED` hits of an order, with equal or similar images collapsed; `search` is None for a list.

    The place after a page marks the images shown, so that no later page shows them or copies of them, whatever has been
    added before them since.
    """
    found = yield from order
    collapse = query.collapse or "exact"
    first = [Collapsible.of(hit.id, hit.payload, collapse) for hit in found.hits[:MAX_COLLAPSED]]
    candidates = shown_first(first, frozenset() if place is None else place.marks)
    if collapse == "near":
        joins = yield Near([each.id for each in candidates], query.collapse_threshold)
        clusters = near(candidates, joins)
    else:
        clusters = exact(candidates)
    by_image = {cluster.first.image: cluster for cluster in clusters}
    chosen, following = page_of([*by_image], query, place)
    ids = [by_image[each].first.id for each in chosen]
    if search is None:
        records = yield Read(ids)
        hits = [StoredHit(each, 0.0, records[each].payload) for each in ids if each in records]
    else:
        scored = {hit.id: hit for hit in found.hits}
        hits = yield from whole(search, query.targets, [scored[each] for each in ids])
    return HitPage(
        hits,
        None,
        following,
        truncated=found.truncated,
        without_words=found.without_words,
        clusters={cluster.first.id: cluster for cluster in clusters},
        uncompared=following is None and (found.more or len(found.hits) > MAX_COLLAPSED),
    )


@dataclass(frozen=True)
class _Ordered:
    """Hits in their order, with `COLLAPSE_FIELDS`; `more` if the order goes on."""

    hits: Sequence[StoredHit]
    more: bool = False
    truncated: bool = False
    without_words: bool = False


CollapsibleOrder = Generator[Step, Any, _Ordered]


def _collapsible_order(
    query: Query, basis: Search, ordering: Ordering | None, minimum: MinimumRelevance | None
) -> CollapsibleOrder:
    """The first hits of the order that the query would have without collapsing."""
    if ordering is not None:
        searches = _above(query, basis, minimum)
        order, found, truncated = yield from valued(searches, query.targets, ordering, minimum, COLLAPSE_FIELDS)
        return _Ordered([found[place.id] for place in order], truncated=truncated)
    if query.rank == "hybrid" or (query.rank == "clip" and query.target == "both"):
        depth = MAX_RANKED_HITS + 1
        fused = yield from fused_ids(_orders(query, basis), query.targets, minimum, COLLAPSE_FIELDS, depth)
        hits = [StoredHit(each, 0.0, fused.payloads[each]) for each in fused.order]
        return _Ordered(hits, more=fused.more, without_words=fused.without_words)
    (search,) = _above(query, basis, minimum)
    # A diverse search selects from its candidates alone.
    depth = query.last_position if query.diversity else MAX_COLLAPSED + 1
    (hits,) = yield [replace(search, offset=0, limit=depth, with_payload=COLLAPSE_FIELDS)]
    return _Ordered(hits, more=bool(query.diversity) and len(hits) == depth)


def _listed_order(listed: Listed) -> CollapsibleOrder:
    page: OrderedPage = yield replace(listed, offset=0, limit=MAX_COLLAPSED, with_payload=COLLAPSE_FIELDS)
    return _Ordered([StoredHit(each.id, 0.0, each.payload) for each in page.records], more=page.last is not None)
