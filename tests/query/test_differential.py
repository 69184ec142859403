"""Rankings, fused, grouped and read page by page, compared with brute force over random points."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.random_points import filters, values_in
from tests.store.test_differential import COUNT, World
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.ranking import Grouped, HitPage, RankingSteps, ranking
from viewfinder.store import Store, StoreAddress, open_local

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 30))]
WORDS = "cat dog"
_K = 60  # of reciprocal rank fusion


@pytest.fixture(params=SEEDS, ids=str)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, World]]:
    with open_local(StoreAddress(tmp_path)) as store:
        yield store, World(store, "images", request.param)


def run(store: Store, world: World, steps: RankingSteps) -> HitPage:
    """Carry out a ranking as the searcher does."""
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            page: HitPage = done.value
            return page
        if isinstance(step, Grouped):
            answer = store.search.groups(world.collection, step.search, step.field, group_size=step.size)
        else:
            answer = store.search.many(world.collection, list(step))


def pages(store: Store, world: World, query: Query, vector: Any) -> Iterator[HitPage]:
    """Yield the pages of a query until the last one."""
    place = None
    for _ in range(COUNT):
        page = run(store, world, ranking(query, vector, place, store.search.parse(world.collection, query.filter)))
        yield page
        place = page.place
        if place is None:
            return


def fused(lists: list[tuple[float, list[str]]]) -> list[str]:
    sums: dict[str, float] = {}
    for weight, order in lists:
        for rank, each in enumerate(order, start=1):
            sums[each] = sums.get(each, 0) + weight / (_K + rank)
    return sorted((each for each, total in sums.items() if total > 0), key=lambda each: (-sums[each], each))


def by_words(store: Store, world: World, condition: Any, having: str | None) -> list[str]:
    """The order by words alone, which the tests of the store compare with BM25."""
    parsed = store.search.parse(world.collection, condition)
    page = run(store, world, ranking(Query((text(),), rank="words", limit=200), None, None, parsed))
    rows = {each: row for row, each in enumerate(world.ids)}
    flags = {"image": world.has_image, "caption": world.has_caption}
    return [hit.id for hit in page.hits if having is None or flags[having][rows[hit.id]]]


def text() -> QueryPart:
    return QueryPart("text", WORDS)


@pytest.mark.parametrize("rank", ["clip", "hybrid"])
@pytest.mark.parametrize("target", ["image", "caption", "both"])
@pytest.mark.parametrize("group_by", [None, "tags", "meta.place.city"])
def test_all_pages_together_are_the_order_of_brute_force(
    world: tuple[Store, World], rank: Any, target: Any, group_by: str | None
) -> None:
    store, made = world
    for condition in (None, *filters(made.rng, made.payloads, 2)):
        weights = (made.rng.choice([1, 0.3]), made.rng.choice([1, 2.5])) if rank == "hybrid" else (1.0, 1.0)
        query = Query(
            (text(),), target, rank, weights, made.rng.randint(1, 9), filter=condition, group_by=group_by, group_size=2
        )
        vector = made.query()
        cosines = {name: made.cosines(vector, condition, name) for name in query.targets}
        lists = [(weights[0] / len(cosines), list(each)) for each in cosines.values()]
        if rank == "hybrid":
            lists.append((weights[1], by_words(store, made, condition, None if target == "both" else target)))
        order = fused(lists)
        found = list(pages(store, made, query, vector))
        if group_by is None:
            hits = [hit for page in found for hit in page.hits]
            assert [hit.id for hit in hits] == order
            scores = [max(each.get(hit.id, -9) for each in cosines.values()) for hit in hits]
            assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)
        else:
            groups = [(each.value, [hit.id for hit in each.hits]) for page in found for each in page.groups or []]
            best = [order.index(members[0]) for _, members in groups]
            assert best == sorted(best)
            assert dict(groups) == dict(grouped(made, order, group_by))


def grouped(world: World, order: list[str], field: str) -> Iterator[tuple[Any, list[str]]]:
    """Yield the values of a field, each with its two best hits."""
    rows = {each: row for row, each in enumerate(world.ids)}
    members: dict[Any, list[str]] = {}
    for each in order:
        for value in values_in(world.payloads[rows[each]], field):
            # The store composes the letters of texts.
            composed = unicodedata.normalize("NFC", value) if isinstance(value, str) else value
            members.setdefault(composed, []).append(each)
    for value, each in members.items():
        yield value, each[:2]
