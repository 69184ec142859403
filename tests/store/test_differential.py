"""Every store compared with plain Python and NumPy over random points: filters, order, diversity, words, groups."""

import math
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from tests.store.points import DIMENSION, ids, opened
from tests.store.random_points import (
    FIELDS,
    WORDS,
    composed,
    filters,
    in_order,
    matches,
    payloads,
    values_in,
)
from viewfinder.arrays import Vectors
from viewfinder.store import Collection, PointBatch, Search, Store

COUNT = 60
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 30))]
pytestmark = pytest.mark.slow


class World:
    """Random points in a collection, and what plain code says about them."""

    def __init__(self, store: Store, index: str, seed: int) -> None:
        self.rng, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.ids = ids(COUNT)
        written = payloads(self.rng, COUNT)
        self.has_image = np.array([self.rng.random() < 0.9 for _ in range(COUNT)])
        self.has_caption = ~self.has_image | np.array([self.rng.random() < 0.7 for _ in range(COUNT)])
        self.images, self.captions = (self._vectors(COUNT) for _ in range(2))
        self.payloads = [
            {**payload, "has_image": bool(image), "has_caption": bool(caption)}
            for payload, image, caption in zip(written, self.has_image, self.has_caption, strict=True)
        ]
        opened(store, index)
        store.collections.add_fields(opened(store, index), FIELDS)
        self.collection: Collection = opened(store, index)
        batch = PointBatch(self.ids, written, self.images, self.captions, self.has_image, self.has_caption)
        store.points.upsert(self.collection, batch, wait=True)

    def _vectors(self, count: int) -> Vectors:
        made = self.numbers.normal(size=(count, DIMENSION)).astype(np.float32)
        unit: Vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
        return unit

    def query(self) -> Vectors:
        return self._vectors(1)[0]

    def cosines(self, query: Vectors, condition: Any = None, having: str = "image") -> dict[str, float]:
        """The cosine of each point that has the vector and matches, best first."""
        vectors, present = (self.images, self.has_image) if having == "image" else (self.captions, self.has_caption)
        rows = [row for row in range(COUNT) if present[row] and self.holds(condition, row)]
        found = {self.ids[row]: float(vectors[row] @ query) for row in rows}
        return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))

    def holds(self, condition: Any, row: int) -> bool:
        return condition is None or matches(condition, self.payloads[row])


@pytest.fixture(params=SEEDS, ids=str)
def world(request: pytest.FixtureRequest, store: Store, index: str) -> World:
    return World(store, index, request.param)


def test_every_filter_selects_what_plain_python_selects(store: Store, world: World) -> None:
    asked = filters(world.rng, world.payloads, 150)
    found = store.search.many(
        world.collection, [Search(world.query(), filter=each, limit=COUNT, with_payload=False) for each in asked]
    )
    selected = 0
    for condition, hits in zip(asked, found, strict=True):
        expected = {world.ids[row] for row in range(COUNT) if world.has_image[row] and world.holds(condition, row)}
        assert {hit.id for hit in hits} == expected, condition
        selected += 0 < len(expected) < COUNT
    assert selected > len(asked) / 3  # most filters divide the points
    for condition in asked[:5]:  # the same rules where points are read and counted
        expected = {world.ids[row] for row in range(COUNT) if world.holds(condition, row)}
        assert {each.id for each in store.points.iterate(world.collection, condition)} == expected
        assert store.points.count(world.collection, condition) == len(expected)


def test_hits_have_the_order_of_their_cosines_on_every_page(store: Store, world: World) -> None:
    for condition in [None, *filters(world.rng, world.payloads, 6)]:
        query, having = world.query(), world.rng.choice(["image", "caption"])
        expected = list(world.cosines(query, condition, having).items())
        threshold = world.rng.choice([None, 0.1])
        if threshold is not None:
            expected = [each for each in expected if each[1] >= threshold]
        options: dict[str, Any] = {"using": having, "filter": condition, "score_threshold": threshold}
        size = world.rng.randint(1, 20)
        searches = [Search(query, limit=size, offset=start, **options) for start in range(0, COUNT, size)]
        hits = [hit for page in store.search.many(world.collection, searches) for hit in page]
        assert [hit.id for hit in hits] == [each for each, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_diverse_hits_are_those_of_maximal_marginal_relevance(store: Store, world: World) -> None:
    vectors = dict(zip(world.ids, world.images, strict=True))
    for diversity in (0.2, 0.5, 0.9):
        query, limit = world.query(), world.rng.randint(2, 12)
        relevance = world.cosines(query)
        chosen = [next(iter(relevance))]
        while len(chosen) < limit:
            marginal = {
                each: (1 - diversity) * relevance[each]
                - diversity * max(float(vectors[each] @ vectors[other]) for other in chosen)
                for each in relevance
                if each not in chosen
            }
            chosen.append(max(marginal, key=marginal.__getitem__))
        search = Search(query, limit=limit, diversity=diversity, candidates=COUNT)
        assert [hit.id for hit in store.search.many(world.collection, [search])[0]] == chosen


def test_words_are_ranked_by_bm25(store: Store, world: World) -> None:
    # Words with one form in the index; the others are several.
    single = [word for word in WORDS if word != "\u6d77\u6ee9"]
    lengths = {}
    for row, payload in enumerate(world.payloads):
        if text := payload.get("caption"):
            words = text.split(", ")
            lengths[row] = sum(3 if len(word) == 2 and not word.isascii() else 1 for word in words)
    average = sum(lengths.values()) / len(lengths)
    for word in single:
        holding = [row for row in lengths if matches({"caption": {"text": WORDS[word][0]}}, world.payloads[row])]
        idf = math.log((len(lengths) - len(holding) + 0.5) / (len(holding) + 0.5) + 1)
        expected = {world.ids[row]: idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * lengths[row] / average)) for row in holding}
        (hits,) = store.search.many(world.collection, [Search(words=WORDS[word][0], limit=COUNT)])
        assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-4)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("field", ["tags", "bucket", "width", "meta.place.city", "meta.colours", "meta.year"])
def test_groups_and_facets_hold_the_points_of_each_value(store: Store, world: World, field: str) -> None:
    query, (condition,) = world.query(), filters(world.rng, world.payloads, 1)
    members: dict[Any, list[str]] = defaultdict(list)
    cosines = world.cosines(query, condition)
    rows = {each: row for row, each in enumerate(world.ids)}
    for each in cosines:
        for value in values_in(world.payloads[rows[each]], field):
            members[composed(value)].append(each)
    search = Search(query, limit=COUNT, filter=condition)
    groups = store.search.groups(world.collection, search, field, group_size=3)
    assert {group.value: [hit.id for hit in group.hits] for group in groups} == {
        value: each[:3] for value, each in members.items()
    }
    best = [cosines[group.hits[0].id] for group in groups]
    assert best == sorted(best, reverse=True)
    counts: dict[Any, int] = defaultdict(int)
    for row in range(COUNT):
        if world.holds(condition, row):
            for value in set(map(composed, values_in(world.payloads[row], field))):
                counts[value] += 1
    assert dict(store.search.facet(world.collection, field, filter=condition, limit=COUNT)) == counts


@pytest.mark.parametrize(
    "field",
    [
        "meta.year",
        "last_modified",
        *(pytest.param(each, marks=pytest.mark.full) for each in ("width", "meta.ratio", "meta.taken")),
    ],
)
def test_points_are_in_the_order_of_a_field_on_every_page(store: Store, world: World, field: str) -> None:
    for condition in [None, *filters(world.rng, world.payloads, 2)]:
        descending = world.rng.random() < 0.5
        rows = [row for row in range(COUNT) if world.holds(condition, row)]
        expected = in_order({world.ids[row]: world.payloads[row] for row in rows}, field, descending=descending)
        ordering = store.search.ordering(world.collection, field, descending=descending)
        size, found, after = world.rng.randint(4, 25), list[str](), None
        while True:
            page = store.search.in_order(world.collection, ordering, filter=condition, after=after, limit=size)
            found += [record.id for record in page.records]
            after = page.last
            if after is None:
                break
            assert len(page.records) == size
        assert found == expected
        start = world.rng.randint(0, COUNT)
        page = store.search.in_order(world.collection, ordering, filter=condition, offset=start, limit=size)
        assert [record.id for record in page.records] == expected[start : start + size]
        assert all("uri" in record.payload for record in page.records)
