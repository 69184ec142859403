"""Rankings, fused, grouped and read page by page, compared with brute force over random points."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.random_points import DATES, NUMBERS, filters, in_order, values_in
from tests.store.test_differential import COUNT, World
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.ranking import ranking
from viewfinder.query.relevance import MinimumRelevance, relevance
from viewfinder.query.searcher import run_alone
from viewfinder.query.steps import HitPage, Prepared, RankingSteps, Single
from viewfinder.store import Store
from viewfinder.testing.memory_store import open_in_memory

pytestmark = pytest.mark.slow

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 30))]
WORDS = "cat dog"
_K = 60  # of reciprocal rank fusion


@pytest.fixture(params=SEEDS, ids=str)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, World]]:
    with open_in_memory(tmp_path) as store:
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
        if isinstance(step, Single):
            answer = run_alone(store, world.collection, step)
        else:
            answer = store.search.many(world.collection, list(step))


def prepare(store: Store, world: World, query: Query) -> Prepared:
    ordering = None
    if query.order is not None:
        field, descending = query.order
        ordering = store.search.ordering(world.collection, field, descending=descending)
    condition = store.search.parse(world.collection, query.filter)
    return Prepared(condition, ordering, MinimumRelevance.of(query, "text", world.collection))


def pages(store: Store, world: World, query: Query, vector: Any) -> Iterator[HitPage]:
    """Yield the pages of a query until the last one."""
    place, prepared = None, prepare(store, world, query)
    for _ in range(COUNT):
        page = run(store, world, ranking(query, vector, place, prepared))
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
    query = Query((text(),), rank="words", limit=200, filter=condition)
    (page,) = pages(store, world, query, None)
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
    made = measured(store, made, target)
    for condition in (None, *filters(made.rng, made.payloads, 2)):
        minimum = made.rng.choice([None, 0.0, 0.3, 0.6543])
        weights = (made.rng.choice([1, 0.3]), made.rng.choice([1, 2.5])) if rank == "hybrid" else (1.0, 1.0)
        query = Query(
            (text(),),
            target,
            rank,
            weights,
            made.rng.randint(1, 9),
            filter=condition,
            min_relevance=minimum,
            group_by=group_by,
            group_size=2,
        )
        vector = made.query()
        cosines = {name: made.cosines(vector, condition, name) for name in query.targets}
        lists = [(weights[0] / len(cosines), list(each)) for each in cosines.values()]
        if rank == "hybrid":
            lists.append((weights[1], by_words(store, made, condition, None if target == "both" else target)))
        order = [each for each in fused(lists) if holds(made, vector, query, each)]
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


@pytest.mark.parametrize("target", ["image", "caption", "both"])
def test_hits_above_a_minimum_are_in_the_order_of_a_field(world: tuple[Store, World], target: Any) -> None:
    store, made = world
    made = measured(store, made, target)
    for condition in (None, *filters(made.rng, made.payloads, 2)):
        field, descending = made.rng.choice([*NUMBERS, *DATES]), made.rng.random() < 0.5
        options: dict[str, Any] = {"min_relevance": made.rng.choice([0.0, 0.3, 0.6543])}
        if target != "both" and made.rng.random() < 0.5:
            options = {"score_threshold": 0.1}
        query = Query(
            (text(),),
            target,
            limit=made.rng.randint(1, 9),
            filter=condition,
            order_by="-" * descending + field,
            **options,
        )
        vector = made.query()
        cosines = {name: made.cosines(vector, condition, name) for name in query.targets}
        above = {each for own in cosines.values() for each in own if holds(made, vector, query, each)}
        if query.score_threshold is not None:
            above = {each for own in cosines.values() for each, score in own.items() if score >= query.score_threshold}
        points = {each: made.payloads[made.ids.index(each)] for each in above}
        found = list(pages(store, made, query, vector))
        hits = [hit for page in found for hit in page.hits]
        assert [hit.id for hit in hits] == in_order(points, field, descending=descending)
        assert {len(page.hits) for page in found[:-1]} <= {query.limit}
        scores = [max(each.get(hit.id, -9) for each in cosines.values()) for hit in hits]
        assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)
        assert not any(page.truncated for page in found)


def test_captions_with_a_word_are_in_the_order_of_a_field(world: tuple[Store, World]) -> None:
    store, made = world
    expected = by_words(store, made, None, None)
    query = Query((text(),), rank="words", order_by="-meta.taken", limit=7)
    hits = [hit for page in pages(store, made, query, None) for hit in page.hits]
    points = {each: made.payloads[made.ids.index(each)] for each in expected}
    assert [hit.id for hit in hits] == in_order(points, "meta.taken", descending=True)
    assert all(hit.payload["uri"] for hit in hits)


def test_images_without_a_query_are_in_the_order_of_a_field(world: tuple[Store, World]) -> None:
    store, made = world
    for condition in (None, *filters(made.rng, made.payloads, 2)):
        points = {each: made.payloads[row] for row, each in enumerate(made.ids) if made.holds(condition, row)}
        query = Query((), filter=condition, limit=made.rng.randint(5, 30))
        hits = [hit for page in pages(store, made, query, None) for hit in page.hits]
        assert [hit.id for hit in hits] == in_order(points, "last_modified", descending=True)


def measured(store: Store, world: World, target: str) -> World:
    """The world with baselines in its collection; in some only for images."""
    quantiles = [-1.0, -0.3, -0.3, 0.0, 0.2, 0.25, 0.4, 1.0]
    baselines = {"text_image": quantiles} | (
        {"text_caption": [-0.9, 0.1, 0.8]} if target == "caption" or world.rng.random() < 0.7 else {}
    )
    if world.collection.metadata.baselines != baselines:
        store.collections.update_metadata(world.collection.name, baselines=baselines)
        world.collection = store.collections.refresh(world.collection)
    return world


def holds(world: World, vector: Any, query: Query, id_: str) -> bool:
    """Return True if the relevance of a point is at least the minimum."""
    if query.min_relevance is None:
        return True
    row = world.ids.index(id_)
    present = {"image": (world.has_image, world.images), "caption": (world.has_caption, world.captions)}
    cosines: Any = {name: float(present[name][1][row] @ vector) for name in query.targets if present[name][0][row]}
    found = relevance(world.collection.metadata.baselines, "text", cosines)
    return found is not None and found >= query.min_relevance


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
