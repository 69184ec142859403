"""Several orders of hits fused into one, by reciprocal rank."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from viewfinder.client.requests import MAX_RANKED_HITS
from viewfinder.query.cursor import Place, mark
from viewfinder.query.relevance import MinimumRelevance
from viewfinder.query.steps import HitPage, RankingSteps, page_of, with_cosines
from viewfinder.store.field_names import values_of
from viewfinder.store.records import StoredGroup, StoredHit
from viewfinder.store.schema import VectorName
from viewfinder.store.search import Search

# Reciprocal rank fusion: the constant of Cormack, Clarke and Büttcher (SIGIR 2009).
RRF_K = 60


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
    fused = yield from fused_ids(searches, targets, minimum, payload)
    order, without_words = fused.order, fused.without_words
    if grouping is None:
        chosen, following = page_of(order, first, place)
        found = yield from with_cosines(first, targets, chosen)
        hits = [found[each] for each in chosen if each in found]
        return HitPage(hits, None, following, without_words=without_words)
    members = _members(order, fused.payloads, *grouping)
    values, following = page_of([value for value, _ in members.values()], first, place)
    chosen_members = [members[mark(value)] for value in values]
    found = yield from with_cosines(first, targets, dict.fromkeys(each for _, ids in chosen_members for each in ids))
    groups = [StoredGroup(value, [found[each] for each in ids if each in found]) for value, ids in chosen_members]
    groups = [group for group in groups if group.hits]
    return HitPage([group.hits[0] for group in groups], groups, following, without_words=without_words)


@dataclass(frozen=True)
class _Fused:
    """Ids by the weighted sum of their reciprocal ranks; `more` if a list goes on after its best hits."""

    order: list[str]
    payloads: Mapping[str, Mapping[str, Any]]
    more: bool
    without_words: bool


def fused_ids(
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
        known = yield from with_cosines(first, targets, order, with_payload=False)
        order = [each for each in order if each in known and minimum.holds(known[each].cosines)]
    return _Fused(order, {hit.id: hit.payload for hits in lists for hit in hits}, more, without_words)


def fuse(lists: Iterable[tuple[float, Sequence[str]]]) -> list[str]:
    """All ids by the weighted sum of their reciprocal ranks, best first; ties by id."""
    sums: dict[str, float] = {}
    for weight, ids in lists:
        for rank, each in enumerate(ids, start=1):
            sums[each] = sums.get(each, 0.0) + weight / (RRF_K + rank)
    # A list of weight 0 adds no ids either.
    return sorted((each for each, total in sums.items() if total > 0), key=lambda each: (-sums[each], each))


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
