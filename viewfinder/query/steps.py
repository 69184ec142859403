"""Steps of a ranking: what it asks for, and the page that it returns.

A ranking is a generator without I/O: it yields steps, receives their results, and returns a page. So the searches of
many rankings can go into one request to the store.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from viewfinder.query.collapsing import Cluster, Near
from viewfinder.query.cursor import Place, mark
from viewfinder.query.query import Query
from viewfinder.query.relevance import MinimumRelevance
from viewfinder.store.conditions import ParsedFilter
from viewfinder.store.ordering import Ordering, OrderPlace
from viewfinder.store.records import StoredGroup, StoredHit
from viewfinder.store.schema import VectorName
from viewfinder.store.search import Search


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


def hits_wanted(search: Search, place: Place | None) -> int:
    return (search.offset if place is None else place.position) + search.limit + 1


def page_of(order: Sequence[Any], search: Search | Query, place: Place | None) -> tuple[list[Any], Place | None]:
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


def with_cosines(
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


def whole(
    search: Search, targets: Sequence[VectorName], hits: list[StoredHit]
) -> Generator[Sequence[Search], Any, list[StoredHit]]:
    """The hits with their payloads and all cosines; without points deleted since."""
    ids = [hit.id for hit in hits]
    if not ids:
        return []
    if search.vector is not None:
        known = yield from with_cosines(search, targets, ids)
        return [known[each] for each in ids if each in known]
    (found,) = yield [replace(search, only=ids, offset=0, limit=len(ids))]
    payloads = {hit.id: hit.payload for hit in found}
    return [replace(hit, payload=payloads[hit.id]) for hit in hits if hit.id in payloads]
