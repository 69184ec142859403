"""Collapsed hits: compared with brute force on every store, and read while images come and go."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.query.test_differential import by_words, fused, holds, measured, pages, text
from tests.query.test_ranking import PointsInMemory
from tests.store.points import ids
from tests.store.random_points import filters, in_order
from tests.store.test_differential import COUNT, World
from viewfinder.client.requests import MAX_COLLAPSED, MAX_RANKED_HITS, Collapse
from viewfinder.query.collapsing import Near, nearest_before
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.steps import HitPage
from viewfinder.store import PointBatch, Store, StoreAddress
from viewfinder.store.server import ServerClient
from viewfinder.testing.memory_store import open_in_memory
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow

MODES: list[tuple[Collapse, float]] = [("exact", 0.96), ("near", 0.85)]


@pytest.fixture(params=["embedded", pytest.param("double", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, World]]:
    if request.param == "embedded":
        with open_in_memory(tmp_path) as store:
            yield store, World(store, "images", 3)
        return
    with QdrantDouble() as double:
        address = StoreAddress(tmp_path, url=double.url, retry_s=0, timeout_s=20)
        with Store(ServerClient(address), address) as store:
            yield store, World(store, "images", 4)


def collapsed(world: World, order: list[str], query: Query) -> list[tuple[str, list[str]]]:
    """Each hit that is shown with those that it stands for, by comparing all with all."""
    rows = {each: row for row, each in enumerate(world.ids)}
    shown: dict[str, list[str]] = {}
    for each in order:
        if query.collapse == "exact":
            hash_ = world.payloads[rows[each]].get("image_hash")
            same = [other for other in shown if hash_ and world.payloads[rows[other]].get("image_hash") == hash_]
        else:
            cosines = {
                other: float(world.images[rows[other]] @ world.images[rows[each]])
                for other in shown
                if world.has_image[rows[each]] and world.has_image[rows[other]]
            }
            same = [max(cosines, key=cosines.__getitem__)] if cosines else []
            same = [other for other in same if cosines[other] >= query.collapse_threshold]
        if same:
            shown[same[0]].append(each)
        else:
            shown[each] = []
    return list(shown.items())


def as_shown(found: list[HitPage]) -> list[tuple[str, list[str]]]:
    return [(hit.id, [each.id for each in page.clusters[hit.id].others]) for page in found for hit in page.hits]


def check(store: Store, world: World, query: Query, vector: Any, order: list[str]) -> None:
    """Compare the pages by cursor and one page by offset with brute force."""
    expected = collapsed(world, order, query)
    found = list(pages(store, world, query, vector))
    assert as_shown(found) == expected
    assert {len(page.hits) for page in found[:-1]} <= {query.limit}
    assert not any(page.uncompared for page in found)
    assert all(hit.payload["uri"] for page in found for hit in page.hits)
    beyond = next(pages(store, world, replace(query, offset=2), vector))
    assert as_shown([beyond]) == expected[2 : 2 + query.limit]


@pytest.mark.parametrize(("mode", "threshold"), MODES)
@pytest.mark.parametrize(
    ("rank", "target"), [("clip", "image"), ("clip", "caption"), ("clip", "both"), ("hybrid", "image")]
)
def test_hits_of_a_query_are_collapsed_as_by_brute_force(
    world: tuple[Store, World], rank: Any, target: Any, mode: Collapse, threshold: float
) -> None:
    store, made = world
    made = measured(store, made, target)
    for condition, minimum in ((None, None), (filters(made.rng, made.payloads, 1)[0], 0.3)):
        query = Query(
            (text(),),
            target,
            rank,
            limit=made.rng.randint(2, 9),
            filter=condition,
            min_relevance=minimum,
            collapse=mode,
            collapse_threshold=threshold,
        )
        vector = made.query()
        cosines = {name: made.cosines(vector, condition, name) for name in query.targets}
        lists = [(1 / len(cosines), list(each)) for each in cosines.values()]
        if rank == "hybrid":
            lists.append((1.0, by_words(store, made, condition, None if target == "both" else target)))
        order = fused(lists) if len(lists) > 1 else lists[0][1]
        check(store, made, query, vector, [each for each in order if holds(made, vector, query, each)])


@pytest.mark.parametrize(("mode", "threshold"), MODES)
def test_words_and_orders_by_a_field_are_collapsed_as_by_brute_force(
    world: tuple[Store, World], mode: Collapse, threshold: float
) -> None:
    store, made = world
    options: dict[str, Any] = {"limit": 4, "collapse": mode, "collapse_threshold": threshold}
    found = by_words(store, made, None, None)
    words = Query((text(),), rank="words", **options)
    # Equal scores have no fixed order, so the order is the store's own.
    check(store, made, words, None, found)
    points = {each: made.payloads[row] for row, each in enumerate(made.ids)}
    by_width = in_order({each: points[each] for each in found}, "width", descending=True)
    check(store, made, replace(words, order_by="-width"), None, by_width)
    vector, made = made.query(), measured(store, made, "both")
    above = Query((text(),), "both", order_by="meta.ratio", min_relevance=0.3, **options)
    kept = {each: points[each] for each in made.ids if holds(made, vector, above, each)}
    check(store, made, above, vector, in_order(kept, "meta.ratio", descending=False))
    (condition,) = filters(made.rng, made.payloads, 1)
    matching = {each: points[each] for row, each in enumerate(made.ids) if made.holds(condition, row)}
    listed = Query((), filter=condition, **options)
    check(store, made, listed, None, in_order(matching, "last_modified", descending=True))


@pytest.mark.parametrize(("mode", "threshold"), MODES)
def test_diverse_hits_are_collapsed_in_the_order_of_their_selection(
    world: tuple[Store, World], mode: Collapse, threshold: float
) -> None:
    store, made = world
    vector, query = made.query(), Query((text(),), limit=5, diversity=0.5)
    order = [hit.id for page in pages(store, made, query, vector) for hit in page.hits]
    check(store, made, replace(query, collapse=mode, collapse_threshold=threshold), vector, order)


def test_a_point_joins_the_most_similar_one_that_is_shown() -> None:
    angles = {"a": 0, "b": 30, "c": 20, "d": 31, "e": 200}
    vectors = {
        name: np.array([np.cos(np.deg2rad(each)), np.sin(np.deg2rad(each))], np.float32)
        for name, each in angles.items()
    }
    step = Near([*angles, "without a vector"], float(np.cos(np.deg2rad(25))))
    joins = nearest_before(step, vectors)
    assert [place for place, _ in joins] == [0, 1, 1, 1, 4, 5]
    assert [round(cosine, 4) for _, cosine in joins] == [1, 1, 0.9848, 0.9998, 1, 1]
    assert nearest_before(Near(["a", "b"], 0.9), {}) == [(0, 1.0), (1, 1.0)]


class Images(PointsInMemory):
    """Points in memory whose ids begin with the letter of their image."""

    def page(self, query: Query, *arguments: Any) -> HitPage:
        self.payloads = {
            each: {"uri": each, "image_hash": each[0]} for each in (*self.image, *self.caption, *self.words)
        }
        return super().page(query, *arguments)


def exact(limit: int = 2, **options: Any) -> Query:
    return Query((QueryPart("text", "a"),), limit=limit, collapse="exact", **options)


def in_turn(*names: str) -> dict[str, float]:
    return {name: 0.9 - place / 100 for place, name in enumerate(names)}


@pytest.mark.parametrize(
    "added",
    [
        {"a0": 0.99},  # a copy of a shown image, now before it
        {"x1": 0.99, "a0": 0.98, "b0": 0.97},
        {"a9": 0.1, "b9": 0.1},
    ],
)
@pytest.mark.parametrize("options", [{}, {"target": "both"}, {"rank": "words"}, {"rank": "hybrid"}], ids=str)
def test_a_copy_of_a_shown_image_is_on_no_later_page(options: dict[str, Any], added: Mapping[str, float]) -> None:
    points = Images()
    points.image = points.caption = points.words = in_turn("a1", "b1", "a2", "c1", "b2", "d1", "c2", "e1")

    def change() -> None:
        points.image.update(added)

    found = points.read(exact(**options), change)
    images = [each[0] for each in found]
    assert len(set(images)) == len(images)
    assert set("abcde") <= set(images)


def test_a_copy_of_a_shown_image_that_was_deleted_is_on_no_later_page() -> None:
    points = Images()
    points.image = in_turn("a1", "b1", "a2", "c1", "b2", "d1")
    assert [each[0] for each in points.read(exact(), lambda: points.image.pop("a1", None))] == ["a", "b", "c", "d"]


def test_equal_scores_with_noise_show_each_image_once() -> None:
    points = Images(noise=1e-6)
    points.image = {f"{chr(97 + number % 20)}{number}": 0.5 for number in range(200)}
    found = [each[0] for each in points.read(exact(limit=3))]
    assert sorted(found) == [chr(97 + number) for number in range(20)]


@pytest.mark.parametrize("extra", [0, 1])
def test_the_last_page_says_if_there_are_images_that_were_not_compared(extra: int) -> None:
    points = Images()
    points.image = {f"{chr(97 + number % 5)}{number}": 0.9 - number / 10_000 for number in range(MAX_COLLAPSED + extra)}
    first = points.page(exact(limit=3))
    assert not first.uncompared
    assert len(first.clusters[first.hits[0].id].others) == MAX_COLLAPSED // 5 - 1
    last = points.page(exact(limit=3), first.place)
    assert ([hit.id[0] for hit in last.hits], last.place) == (["d", "e"], None)
    assert last.uncompared is bool(extra)
    assert max(search.limit for search in points.searches) == MAX_COLLAPSED + 1


@pytest.mark.parametrize("extra", [0, 1])
def test_fused_orders_say_so_too(extra: int) -> None:
    points = Images()
    points.image = {
        f"{chr(97 + number % 5)}{number}": 0.9 - number / 10_000 for number in range(MAX_RANKED_HITS + extra)
    }
    points.caption = dict(list(points.image.items())[:100])
    page = points.page(exact(limit=10, target="both"))
    assert page.uncompared is bool(extra)
    assert len(page.hits) == 5


def test_a_similar_image_that_is_added_before_a_shown_one_is_on_no_later_page(world: tuple[Store, World]) -> None:
    store, made = world
    vector = made.query()
    query = Query((text(),), limit=2, collapse="near", collapse_threshold=0.85)
    found = pages(store, made, query, vector)
    first = next(found)
    shown = made.images[made.ids.index(first.hits[0].id)]
    closer = shown + np.float32(0.3) * vector
    closer /= np.linalg.norm(closer)
    assert closer @ vector > shown @ vector
    assert closer @ shown > query.collapse_threshold
    added = ids(1, "s3://added/")
    store.points.upsert(made.collection, PointBatch(added, [{"uri": "s3://added/0"}], closer[np.newaxis]), wait=True)
    expected = collapsed(made, list(made.cosines(vector)), query)
    assert [hit.id for page in (first, *found) for hit in page.hits] == [each for each, _ in expected]
    assert next(pages(store, made, query, vector)).hits[0].id == added[0]


def test_the_hits_that_brute_force_collapses_are_some_but_not_all(world: tuple[Store, World]) -> None:
    _, made = world
    order = list(made.cosines(made.query()))
    for mode, threshold in MODES:
        shown = collapsed(made, order, Query((text(),), collapse=mode, collapse_threshold=threshold))
        assert COUNT / 8 < len(shown) < COUNT * 0.8
