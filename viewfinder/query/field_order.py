"""The order of hits by a payload field, with a query or without."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from viewfinder.client.requests import MAX_ORDERED
from viewfinder.query.cursor import Place
from viewfinder.query.relevance import MinimumRelevance
from viewfinder.query.steps import HitPage, Listed, RankingSteps, whole, with_cosines
from viewfinder.store.ordering import OrderedPage, Ordering, OrderPlace
from viewfinder.store.records import StoredHit
from viewfinder.store.schema import VectorName
from viewfinder.store.search import Search


def by_value(
    searches: Sequence[Search],
    targets: Sequence[VectorName],
    ordering: Ordering,
    minimum: MinimumRelevance | None,
    place: Place | None,
) -> RankingSteps:
    """Hits of several searches in the order of a field: the best `MAX_ORDERED` of each."""
    first = searches[0]
    order, found, truncated = yield from valued(searches, targets, ordering, minimum)
    fresh = order[first.offset :] if place is None else [each for each in order if _follows(ordering, place, each)]
    chosen = fresh[: first.limit]
    following = None
    if len(fresh) > len(chosen):
        shown = (first.offset if place is None else place.position) + len(chosen)
        following = _place_at(shown, chosen[-1])
    hits = yield from whole(first, targets, [found[each.id] for each in chosen])
    return HitPage(hits, None, following, truncated)


def by_field(listed: Listed, place: Place | None) -> RankingSteps:
    """All images in the order of a field, without a query."""
    if place is not None:
        listed = replace(listed, offset=0, after=_shown_last(place))
    page: OrderedPage = yield listed
    hits = [StoredHit(record.id, 0.0, record.payload) for record in page.records]
    shown = (listed.offset if place is None else place.position) + len(hits)
    return HitPage(hits, None, None if page.last is None else _place_at(shown, page.last))


def valued(
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
        known = yield from with_cosines(searches[0], targets, found, with_payload=False)
        found = {each: hit for each, hit in found.items() if each in known and minimum.holds(known[each].cosines)}
    order = sorted((OrderPlace(ordering.key(hit.payload), each) for each, hit in found.items()), key=ordering.rank)
    return order, found, any(len(hits) > MAX_ORDERED for hits in lists)


def _follows(ordering: Ordering, place: Place, each: OrderPlace) -> bool:
    return ordering.rank(each) > ordering.rank(_shown_last(place))


def _shown_last(place: Place) -> OrderPlace:
    return OrderPlace(place.value, place.after or "")


def _place_at(shown: int, last: OrderPlace) -> Place:
    return Place(shown, value=last.key, after=last.id)
