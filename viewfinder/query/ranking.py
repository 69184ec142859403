"""In which order points are hits, page by page.

A ranking is a generator without input or output: it yields the searches it needs, is sent their answers, and returns
its page. So the service can put what many rankings ask into one request.

    by_cosine   one vector: the order is the score's, and pages begin behind a score
    by_window   an order that no score tells (words, diversity): pages leave out what has been shown
    by_groups   the same for groups that the store makes
    by_fusion   several orders in one, by reciprocal rank

The orders that no score tells reach as deep on every page: if the depth grew with the page, so would the number of
ranks that are fused or of candidates to choose from, and the order would change while one turns the pages.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from viewfinder.query.cursor import MAX_DEPTH, Place, mark
from viewfinder.query.query import Query
from viewfinder.store.filters import field_path
from viewfinder.store.records import Group, Hit, Vectors
from viewfinder.store.schema import VectorName
from viewfinder.store.search import Search

WINDOW = 500
# Reciprocal rank fusion: the constant of Cormack, Clarke and Büttcher (SIGIR 2009).
RRF_K = 60
# The same search gives the same cosine but for the last bits of float32, which depend on how the store's CPU adds up.
_NOISE = 2e-6
# Around the place where a page began the last time, for what was deleted meanwhile.
_SLACK = 30
# Fewer, and MMR only puts the nearest into another order.
_CANDIDATES_PER_HIT = 10
_LEAST_CANDIDATES, _MOST_CANDIDATES = 100, 1000


@dataclass(frozen=True)
class Scored:
    """A hit with its cosines to the query's vector, by the kind of vector; none where only words decide."""

    hit: Hit
    cosines: Mapping[VectorName, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """Hits, best first; `groups` where grouping was asked for; `place` where there is more."""

    hits: list[Scored]
    groups: list[tuple[Any, list[Scored]]] | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Grouped:
    """A search whose hits the store is to group by a payload field."""

    search: Search
    field: str
    size: int


Asks = Sequence[Search] | Grouped
Ranking = Generator[Asks, Any, Page]  # is sent a list[Hit] for each search, or the list[Group]


def ranking(query: Query, vector: Vectors | None, place: Place | None) -> Ranking:
    """The ranking that a query asks for, by its vector (float32 [D]; None for rank `words`), from `place` on."""
    basis = Search(
        vector=vector,
        words=None if vector is not None else query.words,
        using=query.targets[0],
        limit=query.limit,
        offset=query.offset,
        filter=query.filter,
        exclude=[str(part.value) for part in query.parts if part.kind == "id"],
        score_threshold=query.score_threshold,
        diversity=query.diversity,
    )
    if query.rank == "hybrid" or (query.rank == "clip" and query.target == "both"):
        grouping = (query.group_by, query.group_size) if query.group_by else None
        return by_fusion(_orders(query, basis), query.targets, place, grouping)
    if query.group_by:
        return by_groups(Grouped(basis, query.group_by, query.group_size), place)
    if query.rank == "words" or query.diversity:
        return by_window(basis, place)
    return by_cosine(basis, place)


def _orders(query: Query, basis: Search) -> list[tuple[float, Search]]:
    """What is fused, with weights: the order by each kind of vector, and for `hybrid` the one by words."""
    clip, words = query.weights if query.rank == "hybrid" else (1.0, 0.0)
    orders = [(clip / len(query.targets), replace(basis, using=name)) for name in query.targets]
    if query.rank == "hybrid":
        kept = dict(query.filter or {})
        if query.target != "both":
            # What has no vector of the target's kind has no cosine to tell.
            flag = f"has_{query.target}"
            kept = {"and": [kept, {flag: {"eq": True}}]} if flag in kept else {**kept, flag: {"eq": True}}
        orders.append((words, replace(basis, vector=None, words=query.words, filter=kept)))
    return orders


def by_cosine(search: Search, place: Place | None) -> Ranking:
    """Hits of one vector by cosine, from `search.offset` or behind `place`."""
    limit = search.limit
    if place is None:
        passed = min(search.offset, _SLACK)
        (hits,) = yield [replace(search, offset=search.offset - passed, limit=passed + limit + 1)]
        page = hits[passed : passed + limit]
        # Those passed over are looked at only for having the last hit's score: they must not follow on the next page.
        return _cosine_page(search, page, search.offset, hits[:passed], None, more=len(hits) > passed + limit)
    start = max(0, place.position - _SLACK)
    size = place.position - start + limit + 1 + _SLACK
    while True:
        (window,) = yield [replace(search, offset=start, limit=size)]
        fresh = [hit for hit in window if _is_behind(hit, place)]
        if start > 0 and not (window and window[0].score > (place.score or 0.0) + _NOISE):
            # So much was deleted before this place, or has its score, that the window may begin too late.
            earlier = max(0, start - 4 * size)
            start, size = earlier, size + start - earlier
        elif len(fresh) <= limit and len(window) == size and start + size < MAX_DEPTH * 2:
            # So much was added before this place that the window ends too early.
            size *= 2
        else:
            return _cosine_page(search, fresh[:limit], place.position, [], place, more=len(fresh) > limit)


def by_window(search: Search, place: Place | None) -> Ranking:
    """Hits in an order that is not that of cosines."""
    depth = WINDOW
    if search.diversity:
        depth = max(_LEAST_CANDIDATES, min(_CANDIDATES_PER_HIT * search.limit, _MOST_CANDIDATES))
        search = replace(search, candidates=depth)
    (hits,) = yield [replace(search, offset=0, limit=min(depth, _wanted(search, place)))]
    chosen, following = _turn([hit.id for hit in hits], search, place)
    found = {hit.id: hit for hit in hits}
    return Page([_scored(search, found[each]) for each in chosen], None, following)


def by_groups(grouped: Grouped, place: Place | None) -> Ranking:
    """Groups by their best hit, as the store makes them; `limit` and `offset` count groups."""
    search = grouped.search
    wanted = min(WINDOW, _wanted(search, place))
    groups: list[Group] = yield replace(grouped, search=replace(search, offset=0, limit=wanted))
    chosen, following = _turn([group.value for group in groups], search, place)
    found = {mark(group.value): group.hits for group in groups}
    scored = [(value, [_scored(search, hit) for hit in found[mark(value)]]) for value in chosen]
    return Page([hits[0] for _, hits in scored if hits], scored, following)


def by_fusion(
    searches: Sequence[tuple[float, Search]],
    targets: Sequence[VectorName],
    place: Place | None,
    grouping: tuple[str, int] | None = None,
) -> Ranking:
    """Hits by the weighted sum of their reciprocal ranks in several searches, the first of them by a vector.

    Their scores are true cosines, the better one where there are two `targets`, asked for in a second request: a hit
    may have come by one list and be missing in the other.
    """
    first = searches[0][1]
    payload = [field_path(grouping[0])] if grouping else False
    lists: list[list[Hit]] = yield [
        replace(search, offset=0, limit=WINDOW, with_payload=payload) for _, search in searches
    ]
    order = fuse((weight, [hit.id for hit in hits]) for (weight, _), hits in zip(searches, lists, strict=True))
    if grouping is None:
        chosen, following = _turn(order, first, place)
        scored = yield from _with_cosines(first, targets, chosen)
        return Page([scored[each] for each in chosen if each in scored], None, following)
    payloads = {hit.id: hit.payload for hits in lists for hit in hits}
    members = _members(order, payloads, *grouping)
    values, following = _turn([value for value, _ in members.values()], first, place)
    groups = [members[mark(value)] for value in values]
    scored = yield from _with_cosines(first, targets, dict.fromkeys(each for _, ids in groups for each in ids))
    made = [(value, [scored[each] for each in ids if each in scored]) for value, ids in groups]
    return Page([hits[0] for _, hits in made if hits], [group for group in made if group[1]], following)


def fuse(lists: Iterable[tuple[float, Sequence[str]]]) -> list[str]:
    """All ids by the weighted sum of their reciprocal ranks, best first; among equals by id."""
    sums: dict[str, float] = {}
    for weight, ids in lists:
        for rank, each in enumerate(ids, start=1):
            sums[each] = sums.get(each, 0.0) + weight / (RRF_K + rank)
    # A list without weight has no say, not even in who is there.
    return sorted((each for each, total in sums.items() if total > 0), key=lambda each: (-sums[each], each))


def _cosine_page(
    search: Search, hits: list[Hit], before: int, passed: list[Hit], place: Place | None, *, more: bool
) -> Page:
    scored = [_scored(search, hit) for hit in hits]
    position = before + len(hits)
    if not more or not hits or position >= MAX_DEPTH:
        return Page(scored)
    last = hits[-1].score
    # What comes again with its score a last bit lower must not be taken for a new hit, so those near are named.
    marks = {mark(hit.id) for hit in [*passed, *hits] if hit.score <= last + 2 * _NOISE}
    if place is not None and place.score is not None and place.score <= last + 2 * _NOISE:
        marks |= place.marks
    return Page(scored, None, Place(position, frozenset(marks), last))


def _scored(search: Search, hit: Hit) -> Scored:
    return Scored(hit, {} if search.vector is None else {search.using: hit.score})


def _is_behind(hit: Hit, place: Place) -> bool:
    return hit.score <= (place.score or 0.0) + _NOISE and mark(hit.id) not in place.marks


def _wanted(search: Search, place: Place | None) -> int:
    return (search.offset if place is None else place.position) + search.limit + 1


def _turn(order: Sequence[Any], search: Search, place: Place | None) -> tuple[list[Any], Place | None]:
    """The next page of an order, and the place behind it; what has been shown is left out wherever it stands now."""
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
    search: Search, targets: Sequence[VectorName], ids: Iterable[str]
) -> Generator[Sequence[Search], Any, dict[str, Scored]]:
    """The points themselves, each with all cosines of the target's kinds; without those deleted meanwhile."""
    chosen = list(ids)
    if not chosen:
        return {}
    asked = [Search(vector=search.vector, using=name, only=chosen, limit=len(chosen)) for name in targets]
    lists: list[list[Hit]] = yield asked
    cosines: dict[str, dict[VectorName, float]] = {}
    payloads: dict[str, Mapping[str, Any]] = {}
    for name, hits in zip(targets, lists, strict=True):
        for hit in hits:
            cosines.setdefault(hit.id, {})[name] = hit.score
            payloads[hit.id] = hit.payload
    return {each: Scored(Hit(each, max(own.values()), payloads[each]), own) for each, own in cosines.items()}


def _members(
    order: Sequence[str], payloads: Mapping[str, Mapping[str, Any]], name: str, size: int
) -> dict[bytes, tuple[Any, list[str]]]:
    """By mark of the value: the value and its first `size` ids; a point with several values is in several groups."""
    groups: dict[bytes, tuple[Any, list[str]]] = {}
    for each in order:
        for value in _values(payloads[each], name):
            _, ids = groups.setdefault(mark(value), (value, []))
            if len(ids) < size:
                ids.append(each)
    return groups


def _values(payload: Any, name: str) -> list[Any]:
    for key in name.split("."):
        payload = payload.get(key) if isinstance(payload, Mapping) else None
    values = payload if isinstance(payload, list) else [payload]
    return list(dict.fromkeys(value for value in values if isinstance(value, str | int) and value is not True))
