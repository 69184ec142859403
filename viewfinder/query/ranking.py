"""The order of hits, page by page.

A ranking is a generator without I/O: it yields the searches it needs, receives their results, and returns a page. So
the searches of many rankings can go into one request to the store.

    by_cosine   one vector: ordered by score, and a page continues after a score
    by_window   ordered otherwise (words, diversity): a page leaves out the hits already shown
    by_groups   the same for groups that the store makes
    by_fusion   several orders fused by reciprocal rank
    by_value    hits above a threshold, ordered by a payload field
    by_field    all images, without a query, ordered by a payload field
    by_collapse any of these orders, up to a fixed depth, with equal or similar images collapsed into one hit

All but `by_cosine` and `by_field` search to the same depth for every page. If the depth grew with the page, so would
the number of fused ranks or candidates, and the order would change from page to page.
"""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from viewfinder.arrays import Vectors
from viewfinder.client.requests import MAX_COLLAPSED, MAX_HITS, MAX_ORDERED, MAX_RANKED_HITS, diverse_candidates
from viewfinder.query.collapsing import COLLAPSE_FIELDS, Cluster, Collapsible, Near, exact, near, shown_first
from viewfinder.query.cursor import Place, mark
from viewfinder.query.query import Query
from viewfinder.query.relevance import MinimumRelevance
from viewfinder.store.conditions import ParsedFilter
from viewfinder.store.field_names import values_of
from viewfinder.store.ordering import OrderedPage, Ordering, OrderPlace
from viewfinder.store.records import StoredGroup, StoredHit
from viewfinder.store.schema import VectorName
from viewfinder.store.search import Search

# Reciprocal rank fusion: the constant of Cormack, Clarke and Büttcher (SIGIR 2009).
RRF_K = 60
# Two searches may score a point differently by this much: the store adds the products in float32 in another order.
# Measured with 20,000 pairs of unit vectors of 1,152 numbers, added in 1 to 64 lanes: at most 1.9e-6.
_NOISE = 2e-6
# Extra hits read before and after the end of the last page, to allow for points deleted since.
_SLACK = 30
# Hits near the last score that a cursor marks one by one. More of them are copies of one image, and come in the order
# of their ids.
_MAX_MARKED = 256
_ALL_SHOWN = "~"  # after every id


@dataclass(frozen=True)
class HitPage:
    """Hits in their order; `groups` with `group_by`; `place` if there is a further page.

    `truncated` is True if more hits are above the threshold than are ordered by a field. `without_words` is True if the
    fused order by words is empty. `clusters` are those of the hits, by id, where images are collapsed; `uncompared` is
    True on the last page if there are more images than were compared.
    """

    hits: list[StoredHit]
    groups: list[StoredGroup] | None = None
    place: Place | None = None
    truncated: bool = False
    without_words: bool = False
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    uncompared: bool = False


@dataclass(frozen=True)
class Grouped:
    """A search whose hits the store groups by a payload field."""

    search: Search
    field: str
    size: int


@dataclass(frozen=True)
class Listed:
    """Points that the store reads in the order of a payload field, from `offset` on or after a place."""

    ordering: Ordering
    condition: ParsedFilter | None
    limit: int
    offset: int = 0
    after: OrderPlace | None = None
    with_payload: bool | Sequence[str] = True


@dataclass(frozen=True)
class Read:
    """The payloads of points by id."""

    ids: Sequence[str]


Single = Grouped | Listed | Near | Read
"""A step that takes requests of its own."""
Step = Sequence[Search] | Single
# Receives a list[StoredHit] for each search, the list[StoredGroup], the OrderedPage, what `nearest_before` returns, or
# the records by id.
RankingSteps = Generator[Step, Any, HitPage]


@dataclass(frozen=True)
class Prepared:
    """The parts of a query that depend on the collection: parsed filter, order by a field, minimum relevance."""

    condition: ParsedFilter | None = None
    ordering: Ordering | None = None
    minimum: MinimumRelevance | None = None


_UNPREPARED = Prepared()


def ranking(
    query: Query, vector: Vectors | None, place: Place | None, prepared: Prepared = _UNPREPARED
) -> RankingSteps:
    """The ranking of a query by its vector (float32 [D]; None for rank `words` or no parts), from `place` on."""
    ordering, minimum = prepared.ordering, prepared.minimum
    if not query.parts:
        assert ordering is not None
        listed = Listed(ordering, prepared.condition, query.limit, query.offset)
        return by_collapse(query, _listed_order(listed), None, place) if query.collapse else by_field(listed, place)
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
        return by_collapse(query, _collapsible_order(query, basis, ordering, minimum), basis, place)
    if ordering is not None:
        return by_value(_above(query, basis, minimum), query.targets, ordering, minimum, place)
    if query.rank == "hybrid" or (query.rank == "clip" and query.target == "both"):
        grouping = (query.group_by, query.group_size) if query.group_by else None
        return by_fusion(_orders(query, basis), query.targets, place, grouping, minimum)
    (basis,) = _above(query, basis, minimum)
    if query.group_by:
        return by_groups(Grouped(basis, query.group_by, query.group_size), place)
    if query.rank == "words" or query.diversity:
        return by_window(basis, place, query.last_position)
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


def by_cosine(search: Search, place: Place | None) -> RankingSteps:
    """Hits of one vector by cosine, from `search.offset` or after `place`."""
    if place is None:
        return (yield from _first_by_cosine(search))
    equal_to = None if place.after is None else place.score
    page, following = yield from _next_by_cosine(search, place, equal_to)
    if following is not None and len(following.marks) > _MAX_MARKED and following.after in (None, _ALL_SHOWN):
        page, following = yield from _next_by_cosine(search, place, page[-1].score)
    return HitPage((yield from _with_payloads(search, page)), None, following)


def _next_by_cosine(
    search: Search, place: Place, equal_to: float | None
) -> Generator[Sequence[Search], Any, tuple[list[StoredHit], Place | None]]:
    """The page after a place, and its end; hits with the score `equal_to` come in the order of their ids."""
    _, _, unseen = yield from _read_around(search, place, equal_to)
    page = _by_score(unseen, equal_to)[: search.limit]
    return page, _place_after(page, place, equal_to) if len(unseen) > search.limit else None


def _first_by_cosine(search: Search) -> RankingSteps:
    limit, offset = search.limit, search.offset
    skipped, equal_to = min(offset, _SLACK), None
    (hits,) = yield [replace(search, offset=offset - skipped, limit=skipped + limit + 1)]
    if offset > skipped and len(hits) > skipped and _is_equal(hits[0], hits[skipped].score):
        # More hits before `offset` may have the same score: read them all, to skip those with the first ids.
        equal_to = hits[skipped].score
        start, window, _ = yield from _read_around(search, Place(offset, score=equal_to), equal_to)
        hits, skipped = _by_score(window, equal_to), offset - start
    page = hits[skipped : skipped + limit]
    # A hit before `offset` may have the last hit's score: mark it, so that it does not follow on the next page.
    before = hits[:skipped] if equal_to is None else []
    place = Place(offset, frozenset(mark(hit.id) for hit in before), before[-1].score if before else None)
    following = _place_after(page, place, equal_to) if len(hits) > skipped + limit else None
    return HitPage(page if equal_to is None else (yield from _with_payloads(search, page)), None, following)


def by_window(search: Search, place: Place | None, depth: int) -> RankingSteps:
    """Hits in an order other than that of cosines, up to `depth` of them."""
    (hits,) = yield [replace(search, offset=0, limit=min(depth, _wanted(search, place)))]
    chosen, following = _page_of([hit.id for hit in hits], search, place)
    found = {hit.id: hit for hit in hits}
    return HitPage([found[each] for each in chosen], None, following)


def by_groups(grouped: Grouped, place: Place | None) -> RankingSteps:
    """Groups by their best hit, as the store makes them; `limit` and `offset` count groups."""
    search = grouped.search
    wanted = min(MAX_RANKED_HITS, _wanted(search, place))
    groups: list[StoredGroup] = yield replace(grouped, search=replace(search, offset=0, limit=wanted))
    chosen, following = _page_of([group.value for group in groups], search, place)
    found = {mark(group.value): group for group in groups}
    shown = [found[mark(value)] for value in chosen]
    return HitPage([group.hits[0] for group in shown if group.hits], shown, following)


def by_fusion(
    searches: Sequence[tuple[float, Search]],
    targets: Sequence[VectorName],
    place: Place | None,
    grouping: tuple[str, int] | None = None,
    minimum: MinimumRelevance | None = None,
) -> RankingSteps:
    """Hits by the weighted sum of their reciprocal ranks in several searches, the first of which is by a vector.

    Their scores are cosines, the higher one with two `targets`, fetched in a second request: a hit may be in one list
    and missing in the other.
    """
    first = searches[0][1]
    payload = [grouping[0].partition(".")[0]] if grouping else False
    fused = yield from _fused(searches, targets, minimum, payload)
    order, without_words = fused.order, fused.without_words
    if grouping is None:
        chosen, following = _page_of(order, first, place)
        found = yield from _with_cosines(first, targets, chosen)
        hits = [found[each] for each in chosen if each in found]
        return HitPage(hits, None, following, without_words=without_words)
    members = _members(order, fused.payloads, *grouping)
    values, following = _page_of([value for value, _ in members.values()], first, place)
    chosen_members = [members[mark(value)] for value in values]
    found = yield from _with_cosines(first, targets, dict.fromkeys(each for _, ids in chosen_members for each in ids))
    groups = [StoredGroup(value, [found[each] for each in ids if each in found]) for value, ids in chosen_members]
    groups = [group for group in groups if group.hits]
    return HitPage([group.hits[0] for group in groups], groups, following, without_words=without_words)


def by_value(
    searches: Sequence[Search],
    targets: Sequence[VectorName],
    ordering: Ordering,
    minimum: MinimumRelevance | None,
    place: Place | None,
) -> RankingSteps:
    """Hits of several searches in the order of a field: the best `MAX_ORDERED` of each."""
    first = searches[0]
    order, found, truncated = yield from _valued(searches, targets, ordering, minimum)
    fresh = order[first.offset :] if place is None else [each for each in order if _follows(ordering, place, each)]
    chosen = fresh[: first.limit]
    following = None
    if len(fresh) > len(chosen):
        shown = (first.offset if place is None else place.position) + len(chosen)
        following = _place_at(shown, chosen[-1])
    hits = yield from _whole(first, targets, [found[each.id] for each in chosen])
    return HitPage(hits, None, following, truncated)


def by_field(listed: Listed, place: Place | None) -> RankingSteps:
    """All images in the order of a field, without a query."""
    if place is not None:
        listed = replace(listed, offset=0, after=_shown_last(place))
    page: OrderedPage = yield listed
    hits = [StoredHit(record.id, 0.0, record.payload) for record in page.records]
    shown = (listed.offset if place is None else place.position) + len(hits)
    return HitPage(hits, None, None if page.last is None else _place_at(shown, page.last))


def by_collapse(query: Query, order: "CollapsibleOrder", search: Search | None, place: Place | None) -> RankingSteps:
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
    chosen, following = _page_of([*by_image], query, place)
    ids = [by_image[each].first.id for each in chosen]
    if search is None:
        records = yield Read(ids)
        hits = [StoredHit(each, 0.0, records[each].payload) for each in ids if each in records]
    else:
        scored = {hit.id: hit for hit in found.hits}
        hits = yield from _whole(search, query.targets, [scored[each] for each in ids])
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
class _Fused:
    """Ids by the weighted sum of their reciprocal ranks; `more` if a list goes on after its best hits."""

    order: list[str]
    payloads: Mapping[str, Mapping[str, Any]]
    more: bool
    without_words: bool


def _fused(
    searches: Sequence[tuple[float, Search]],
    targets: Sequence[VectorName],
    minimum: MinimumRelevance | None,
    payload: bool | Sequence[str],
    depth: int = MAX_RANKED_HITS,
) -> Generator[Sequence[Search], Any, _Fused]:
    first = searches[0][1]
    lists: list[list[StoredHit]] = yield [
        replace(search, offset=0, limit=depth, with_payload=payload) for _, search in searches
    ]
    more = any(len(hits) > MAX_RANKED_HITS for hits in lists)
    lists = [hits[:MAX_RANKED_HITS] for hits in lists]
    without_words = any(
        search.words is not None and weight > 0 and not hits
        for (weight, search), hits in zip(searches, lists, strict=True)
    )
    order = fuse((weight, [hit.id for hit in hits]) for (weight, _), hits in zip(searches, lists, strict=True))
    if minimum is not None:
        known = yield from _with_cosines(first, targets, order, with_payload=False)
        order = [each for each in order if each in known and minimum.holds(known[each].cosines)]
    return _Fused(order, {hit.id: hit.payload for hits in lists for hit in hits}, more, without_words)


def _valued(
    searches: Sequence[Search],
    targets: Sequence[VectorName],
    ordering: Ordering,
    minimum: MinimumRelevance | None,
    payload: Sequence[str] = (),
) -> Generator[Sequence[Search], Any, tuple[list[OrderPlace], dict[str, StoredHit], bool]]:
    """Hits in the order of a field, the same by id, and True if there are more than are ordered."""
    fields = [ordering.field.partition(".")[0], *payload]
    lists: list[list[StoredHit]] = yield [
        replace(search, offset=0, limit=MAX_ORDERED + 1, with_payload=fields) for search in searches
    ]
    found = {hit.id: hit for hits in lists for hit in hits[:MAX_ORDERED]}
    if minimum is not None and len(targets) > 1:
        known = yield from _with_cosines(searches[0], targets, found, with_payload=False)
        found = {each: hit for each, hit in found.items() if each in known and minimum.holds(known[each].cosines)}
    order = sorted((OrderPlace(ordering.key(hit.payload), each) for each, hit in found.items()), key=ordering.rank)
    return order, found, any(len(hits) > MAX_ORDERED for hits in lists)


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
        order, found, truncated = yield from _valued(searches, query.targets, ordering, minimum, COLLAPSE_FIELDS)
        return _Ordered([found[place.id] for place in order], truncated=truncated)
    if query.rank == "hybrid" or (query.rank == "clip" and query.target == "both"):
        depth = MAX_RANKED_HITS + 1
        fused = yield from _fused(_orders(query, basis), query.targets, minimum, COLLAPSE_FIELDS, depth)
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


def fuse(lists: Iterable[tuple[float, Sequence[str]]]) -> list[str]:
    """All ids by the weighted sum of their reciprocal ranks, best first; ties by id."""
    sums: dict[str, float] = {}
    for weight, ids in lists:
        for rank, each in enumerate(ids, start=1):
            sums[each] = sums.get(each, 0.0) + weight / (RRF_K + rank)
    # A list of weight 0 adds no ids either.
    return sorted((each for each, total in sums.items() if total > 0), key=lambda each: (-sums[each], each))


def _read_around(
    search: Search, place: Place, equal_to: float | None
) -> Generator[Sequence[Search], Any, tuple[int, list[StoredHit], list[StoredHit]]]:
    """An offset before a place, the hits from there on, and those among them that no page has shown.

    There are more than `search.limit` of the latter if the order has as many; with `equal_to` they include all hits of
    this score.
    """
    start = max(0, place.position - _SLACK)
    size = place.position - start + search.limit + 1 + _SLACK
    with_payload = equal_to is None
    while True:
        (window,) = yield [replace(search, offset=start, limit=size, with_payload=with_payload)]
        with_payload = False  # longer windows are read for their order alone
        unseen = [hit for hit in window if not _is_shown(hit, place)]
        ends_too_early = len(unseen) <= search.limit or (equal_to is not None and _is_equal(window[-1], equal_to))
        if start > 0 and not (window and window[0].score > _score_of(place) + _NOISE):
            # Many points before this place were deleted, or share its score: the window may begin too late.
            earlier = max(0, start - 4 * size)
            start, size = earlier, size + start - earlier
        elif ends_too_early and len(window) == size and start + size < MAX_HITS * 2:
            # Many points were added before this place, or share its score. The bound ends the reads of one page.
            size *= 2
        else:
            return start, window, unseen


def _is_shown(hit: StoredHit, place: Place) -> bool:
    """True for a hit before a place.

    A hit that was shown had at least the score of the place, one that was not shown at most that score, each give or
    take the noise. So only the marks tell them apart where the scores are nearly equal.
    """
    score = _score_of(place)
    if hit.score > score + _NOISE:
        return True
    if place.after is not None and _is_equal(hit, score):
        return hit.id <= place.after or mark(hit.id) in place.marks
    lowest_shown = score if place.after is None else score - 2 * _NOISE  # see `_place_after`
    return hit.score >= lowest_shown - _NOISE and mark(hit.id) in place.marks


def _place_after(page: list[StoredHit], before: Place, equal_to: float | None) -> Place | None:
    """The place at the end of a page; None where pages end."""
    position = before.position + len(page)
    if not page or position >= MAX_HITS:
        return None
    last = page[-1]
    # Hits equal to `equal_to` have no marks. Until the last hit is so far below that their scores, less the noise, are
    # above its score plus the noise, the place stays at `equal_to`.
    if equal_to is not None and last.score >= equal_to - 2 * _NOISE:
        score, after = equal_to, last.id if _is_equal(last, equal_to) else _ALL_SHOWN
        shown = [hit for hit in page if not _is_equal(hit, equal_to)]
    else:
        # A hit shown before may have had a lower score than the last one of this page.
        score, after, shown = min(last.score, _score_of(before)), None, page
    # A hit with a higher score is not below the place's score plus the noise in another search.
    highest_marked = score + 2 * _NOISE
    marks = frozenset(mark(hit.id) for hit in shown if hit.score <= highest_marked)
    return Place(position, marks | before.marks if _score_of(before) <= highest_marked else marks, score, after)


def _score_of(place: Place) -> float:
    return math.inf if place.score is None else place.score


def _is_equal(hit: StoredHit, score: float) -> bool:
    return abs(hit.score - score) <= _NOISE


def _by_score(hits: list[StoredHit], equal_to: float | None) -> list[StoredHit]:
    """Hits in their order, but those with the score `equal_to` in the order of ids."""
    if equal_to is None:
        return hits
    equal = sorted((hit for hit in hits if _is_equal(hit, equal_to)), key=lambda hit: hit.id)
    above = [hit for hit in hits if hit.score > equal_to + _NOISE]
    below = [hit for hit in hits if hit.score < equal_to - _NOISE]
    return above + equal + below


def _with_payloads(search: Search, hits: list[StoredHit]) -> Generator[Sequence[Search], Any, list[StoredHit]]:
    """The hits with their payloads, which those of a longer window lack; without points deleted since."""
    if not (bare := [hit.id for hit in hits if not hit.payload]):
        return hits
    (found,) = yield [Search(vector=search.vector, using=search.using, only=bare, limit=len(bare))]
    payloads = {hit.id: hit.payload for hit in found}
    return [replace(hit, payload=hit.payload or payloads[hit.id]) for hit in hits if hit.payload or hit.id in payloads]


def _whole(
    search: Search, targets: Sequence[VectorName], hits: list[StoredHit]
) -> Generator[Sequence[Search], Any, list[StoredHit]]:
    """The hits with their payloads and all cosines; without points deleted since."""
    ids = [hit.id for hit in hits]
    if not ids:
        return []
    if search.vector is not None:
        known = yield from _with_cosines(search, targets, ids)
        return [known[each] for each in ids if each in known]
    (found,) = yield [replace(search, only=ids, offset=0, limit=len(ids))]
    payloads = {hit.id: hit.payload for hit in found}
    return [replace(hit, payload=payloads[hit.id]) for hit in hits if hit.id in payloads]


def _follows(ordering: Ordering, place: Place, each: OrderPlace) -> bool:
    return ordering.rank(each) > ordering.rank(_shown_last(place))


def _shown_last(place: Place) -> OrderPlace:
    return OrderPlace(place.value, place.after or "")


def _place_at(shown: int, last: OrderPlace) -> Place:
    return Place(shown, value=last.key, after=last.id)


def _wanted(search: Search, place: Place | None) -> int:
    return (search.offset if place is None else place.position) + search.limit + 1


def _page_of(order: Sequence[Any], search: Search | Query, place: Place | None) -> tuple[list[Any], Place | None]:
    """The next page of an order, and the place after it; hits already shown are left out wherever they are now."""
    if place is None:
        passed, fresh = list(order[: search.offset]), list(order[search.offset :])
        marks = frozenset(map(mark, passed))
    else:
        marks = place.marks
        fresh = [each for each in order if mark(each) not in marks]
    page = fresh[: search.limit]
    if len(fresh) <= search.limit:
        return page, None
    marks |= {mark(each) for each in page}
    return page, Place(len(marks), marks)


def _with_cosines(
    search: Search, targets: Sequence[VectorName], ids: Iterable[str], *, with_payload: bool = True
) -> Generator[Sequence[Search], Any, dict[str, StoredHit]]:
    """The points by id, each with its cosines for all targets; without those deleted since."""
    chosen = list(ids)
    if not chosen:
        return {}
    lists: list[list[StoredHit]] = yield [
        Search(vector=search.vector, using=name, only=chosen, limit=len(chosen), with_payload=with_payload)
        for name in targets
    ]
    cosines: dict[str, dict[VectorName, float]] = {}
    payloads: dict[str, Mapping[str, Any]] = {}
    for name, hits in zip(targets, lists, strict=True):
        for hit in hits:
            cosines.setdefault(hit.id, {})[name] = hit.score
            payloads[hit.id] = hit.payload
    return {each: StoredHit(each, max(own.values()), payloads[each], own) for each, own in cosines.items()}


def _members(
    order: Sequence[str], payloads: Mapping[str, Mapping[str, Any]], name: str, size: int
) -> dict[bytes, tuple[Any, list[str]]]:
    """By mark of a value: the value and its first `size` ids. A point with several values is in several groups."""
    groups: dict[bytes, tuple[Any, list[str]]] = {}
    for each in order:
        for value in _values(payloads[each], name):
            _, ids = groups.setdefault(mark(value), (value, []))
            if len(ids) < size:
                ids.append(each)
    return groups


def _values(payload: Mapping[str, Any], name: str) -> list[Any]:
    values = values_of(payload, name)
    return list(
        dict.fromkeys(value for value in values if isinstance(value, str | int) and not isinstance(value, bool))
    )
