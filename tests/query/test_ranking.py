"""The order of hits and pages, over points in memory that change between pages."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from viewfinder.client.requests import MAX_HITS, MAX_ORDERED, MAX_RANKED_HITS
from viewfinder.query.body import parse_query
from viewfinder.query.cursor import Cursor, CursorKeys, Place
from viewfinder.query.errors import QueryError
from viewfinder.query.fusion import fuse
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.ranking import ranking
from viewfinder.query.relevance import MinimumRelevance
from viewfinder.query.steps import Grouped, HitPage, Prepared
from viewfinder.store.ordering import Ordering
from viewfinder.store.records import StoredGroup, StoredHit
from viewfinder.store.search import Search

UNPREPARED = Prepared()
QUERY_VECTOR = np.array([1.0, 0.0], np.float32)


class PointsInMemory:
    """Points by id with their cosines to the query; answers searches as the store does, with noise in the last bits."""

    def __init__(self, noise: float = 0.0) -> None:
        self.image: dict[str, float] = {}
        self.caption: dict[str, float] = {}
        self.words: dict[str, float] = {}
        self.payloads: dict[str, dict[str, Any]] = {}
        self.noise = noise
        self.rng = np.random.default_rng(0)
        self.searches: list[Search] = []

    def page(self, query: Query, place: Place | None = None, prepared: Prepared = UNPREPARED) -> HitPage:
        vector = None if query.rank == "words" else QUERY_VECTOR
        steps = ranking(query, vector, place, prepared)
        step = next(steps)
        while True:
            try:
                step = steps.send(self._groups(step) if isinstance(step, Grouped) else list(map(self._hits, step)))
            except StopIteration as done:
                page: HitPage = done.value
                return page

    def read(self, query: Query, between: Callable[[], None] = lambda: None) -> list[str]:
        """All ids, page after page; `between` runs before each further page."""
        page = self.page(query)
        ids = [each.id for each in page.hits]
        while page.place is not None:
            between()
            page = self.page(replace(query, offset=0), page.place)
            ids += [each.id for each in page.hits]
        return ids

    def _hits(self, search: Search) -> list[StoredHit]:
        self.searches.append(search)
        scores = self.words if search.words is not None else getattr(self, search.using)
        kept = [each for each in scores if (search.only is None or each in search.only) and each not in search.exclude]
        minimum = -9.0 if search.score_threshold is None else search.score_threshold
        kept = [each for each in kept if scores[each] >= minimum]
        noisy = {each: scores[each] + self.noise * self.rng.uniform(-1, 1) for each in kept}
        ordered = sorted(noisy, key=lambda each: (-noisy[each], each))[search.offset : search.offset + search.limit]
        cosines = {} if search.words is not None else {search.using: 0.0}
        return [
            StoredHit(each, noisy[each], self._payload(each, search), dict.fromkeys(cosines, noisy[each]))
            for each in ordered
        ]

    def _payload(self, each: str, search: Search) -> dict[str, Any]:
        return {"id": each} | self.payloads.get(each, {}) if search.with_payload else {}

    def _groups(self, grouped: Grouped) -> list[StoredGroup]:
        groups: dict[str, list[StoredHit]] = {}
        for hit in self._hits(replace(grouped.search, limit=1000, offset=0)):
            groups.setdefault(hit.payload[grouped.field], []).append(hit)
        made = [StoredGroup(value, hits[: grouped.size]) for value, hits in groups.items()]
        return made[: grouped.search.limit]


def text(**options: Any) -> Query:
    return Query((QueryPart("text", "a cat"),), **options)


def numbered(number: int) -> str:
    return f"{number:05}"


@pytest.fixture
def points() -> PointsInMemory:
    points = PointsInMemory(noise=2e-7)
    for number in range(100):
        points.image[numbered(number)] = 0.9 - number / 200
        points.caption[numbered(number)] = 0.2 + (number * 37 % 100) / 200
        points.words[numbered(number)] = 1.0 + (number * 53 % 100) / 10
    return points


KINDS = [text(), text(target="both"), text(rank="words"), text(rank="hybrid"), text(rank="hybrid", target="both")]


@pytest.mark.parametrize("query", KINDS)
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_all_pages_together_are_the_whole_ranking(points: PointsInMemory, query: Query, limit: int) -> None:
    points.noise = 0
    whole = [each.id for each in points.page(replace(query, limit=200)).hits]
    assert len(whole) == 100
    assert points.read(replace(query, limit=limit)) == whole


@pytest.mark.parametrize("query", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_pages_neither_repeat_nor_miss_points_during_changes(points: PointsInMemory, query: Query, seed: int) -> None:
    rng = np.random.default_rng(seed)
    added, deleted = 0, set()

    def change() -> None:
        nonlocal added
        for _ in range(int(rng.integers(4))):
            each = f"new-{added}"
            points.image[each], points.caption[each] = rng.uniform(0.3, 1, 2)
            points.words[each] = rng.uniform(0, 12)
            added += 1
        for each in rng.choice(sorted(points.image), int(rng.integers(3)), replace=False).tolist():
            for scores in (points.image, points.caption, points.words):
                del scores[each]
            deleted.add(each)

    shown = points.read(replace(query, limit=7), between=change)
    assert len(shown) == len(set(shown))
    stayed = {numbered(number) for number in range(100)} - deleted
    assert stayed <= set(shown)


@pytest.mark.parametrize("removed", [10, 60, 100])
def test_a_page_continues_after_most_earlier_hits_were_deleted(points: PointsInMemory, removed: int) -> None:
    page = points.page(text(limit=80))
    points.image = {each: score for each, score in points.image.items() if int(each) >= removed}
    rest = points.page(text(limit=80), page.place)
    assert [each.id for each in rest.hits] == [numbered(each) for each in range(max(80, removed), 100)]


def test_a_page_continues_after_many_better_points_were_added(points: PointsInMemory) -> None:
    page = points.page(text(limit=10))
    points.image |= {f"new-{number}": 0.95 for number in range(300)}
    following = points.page(text(limit=10), page.place)
    assert [each.id for each in following.hits] == [numbered(each) for each in range(10, 20)]


@pytest.mark.parametrize("offset", [0, 3])
def test_points_with_equal_scores_appear_once(offset: int) -> None:
    points = PointsInMemory(noise=2e-7)
    points.image = {numbered(number): 0.5 for number in range(90)} | {"first": 0.6, "last": 0.4}
    shown = points.read(text(limit=4, offset=offset))
    assert len(shown) == len(set(shown)) == 92 - offset
    assert shown[-1] == "last"


@pytest.mark.parametrize(
    ("noise", "equal", "limit", "offset"),
    [
        pytest.param(2e-7, 4500, 200, 0, marks=pytest.mark.slow),
        (0.0, 900, 200, 0),
        (2e-7, 900, 200, 40),
        (2e-7, 900, 77, 500),
        (0.0, 900, 200, 950),
    ],
)
def test_thousands_of_equal_scores_are_paged_with_small_cursors_and_few_payloads(
    noise: float, equal: int, limit: int, offset: int
) -> None:
    points = PointsInMemory(noise=noise)
    points.image = {numbered(number): 0.5 for number in range(equal)}
    points.image |= {f"above-{number}": 0.6 + number / 1000 for number in range(90)}
    points.image |= {f"near-{number}": 0.5 - 5e-6 for number in range(700)}
    points.image |= {f"below-{number}": 0.4 - number / 1000 for number in range(90)}
    page = points.page(text(limit=limit, offset=offset))
    shown = [each.id for each in page.hits]
    widest = np.full(1280, 1280**-0.5, np.float32)  # the largest model of the registry
    while page.place is not None:
        token = Cursor("c" * 100, "d" * 16, page.place, "text", widest).encode(CursorKeys([b"key"]))
        assert len(token) < 16_000
        points.searches.clear()
        page = points.page(text(limit=limit), page.place)
        shown += [each.id for each in page.hits]
        assert sum(each.limit for each in points.searches if each.with_payload) <= 2 * limit + 100
    assert len(shown) == len(set(shown)) == len(points.image) - offset
    assert set(shown[-90:]) == {f"below-{number}" for number in range(90)}


def test_pages_of_equal_scores_neither_repeat_nor_miss_points_during_changes() -> None:
    points = PointsInMemory(noise=2e-7)
    points.image = {numbered(number): 0.5 for number in range(3000)}
    rng = np.random.default_rng(0)
    deleted: set[str] = set()

    def change() -> None:
        for each in rng.choice(sorted(points.image), 20, replace=False).tolist():
            del points.image[each]
            deleted.add(each)
        points.image |= {f"new-{len(points.image)}-{number}": 0.5 for number in range(10)}

    shown = points.read(text(limit=150), between=change)
    assert len(shown) == len(set(shown))
    assert {numbered(number) for number in range(3000)} - deleted <= set(shown)


def test_a_cosine_order_fetches_little_more_than_one_page(points: PointsInMemory) -> None:
    points.read(text(limit=10))
    assert max(search.limit for search in points.searches) <= 100
    assert [search.limit for search in points.searches[:1]] == [11]


@pytest.mark.parametrize(("limit", "candidates", "last"), [(3, 100, 100), (20, 200, 200), (60, 600, 500)])
def test_diverse_hits_can_be_read_to_the_last_position_that_an_offset_may_have(
    limit: int, candidates: int, last: int
) -> None:
    """An offset beyond the candidates was answered with nothing."""
    points = PointsInMemory()
    points.image = {numbered(number): 1 - number / 2000 for number in range(1500)}
    options = {"text": "a cat", "diversity": 0.5, "limit": limit}
    query = parse_query({**options, "offset": last - 1})
    assert len(points.page(query).hits) == 1
    assert len(points.read(parse_query(options))) == last
    assert {search.candidates for search in points.searches} == {candidates}
    with pytest.raises(QueryError, match=rf"offset: must be below {last} with diversity and limit {limit}\."):
        parse_query({**options, "offset": last})


def test_the_depth_of_fusion_is_the_same_on_every_page(points: PointsInMemory) -> None:
    points.read(text(rank="hybrid", limit=9))
    assert {search.limit for search in points.searches if search.only is None} == {MAX_RANKED_HITS}


def test_no_page_begins_beyond_the_maximum_position() -> None:
    points = PointsInMemory()
    points.image = {numbered(number): 0.9 - number / 50_000 for number in range(MAX_HITS + 50)}
    page = points.page(text(limit=200, offset=MAX_HITS - 200))
    assert len(page.hits) == 200
    assert page.place is None


def test_reciprocal_ranks_are_added_by_weight() -> None:
    assert fuse([(1, ["a", "b"]), (1, ["b", "c"])]) == ["b", "a", "c"]
    assert fuse([(1, ["a", "b"]), (0, ["c", "b"])]) == ["a", "b"]
    assert fuse([(1, ["a", "b"]), (10, ["c", "d"])]) == ["c", "d", "a", "b"]
    assert fuse([(1, ["b"]), (1, ["a"])]) == ["a", "b"]


def test_fused_scores_are_cosines_even_of_hits_found_by_words(points: PointsInMemory) -> None:
    points.noise = 0
    points.image["buried"] = -0.5
    points.image |= {f"near-{number}": 0.95 for number in range(MAX_RANKED_HITS)}  # "buried" is in no window of images
    points.words["buried"] = 99.0
    found = {each.id: each for each in points.page(text(rank="hybrid", limit=200)).hits}
    assert found["buried"].score == -0.5
    assert found["buried"].cosines == {"image": -0.5}


def test_the_score_with_both_targets_is_the_higher_cosine(points: PointsInMemory) -> None:
    points.noise = 0
    for each in points.page(text(target="both", limit=100)).hits:
        both = {"image": points.image[each.id], "caption": points.caption[each.id]}
        assert each.cosines == both
        assert each.score == max(both.values())


def test_weights_decide_which_order_leads(points: PointsInMemory) -> None:
    by_words = [each.id for each in points.page(text(rank="words")).hits]
    mostly = [each.id for each in points.page(text(rank="hybrid", weights=(0.0, 1.0))).hits]
    assert mostly == by_words
    by_cosine = [each.id for each in points.page(text()).hits]
    assert [each.id for each in points.page(text(rank="hybrid", weights=(1.0, 0.0))).hits] == by_cosine


class AnyOfEqual(PointsInMemory):
    """Points of which a search with a limit returns any of those with the last score, as a store does."""

    def _hits(self, search: Search) -> list[StoredHit]:
        found = super()._hits(replace(search, offset=0, limit=10_000))
        self.rng.shuffle(found)  # type: ignore[arg-type]
        kept = sorted(found, key=lambda hit: -hit.score)[search.offset : search.offset + search.limit]
        return sorted(kept, key=lambda hit: (-hit.score, hit.id))


@pytest.mark.parametrize("limit", [1, 7, 50, 200])
def test_captions_with_equal_words_are_in_the_order_of_ids_whatever_the_limit(limit: int) -> None:
    """Regression: of equal scores a page had those that the store chose for its limit."""
    points = AnyOfEqual()
    points.words = {numbered(number): 2.0 if number % 10 else 3.0 for number in range(120)}
    expected = sorted(points.words, key=lambda each: (-points.words[each], each))
    assert points.read(text(rank="words", limit=limit)) == expected
    page = points.page(text(rank="words", limit=limit, offset=30))
    assert [hit.id for hit in page.hits] == expected[30 : 30 + limit]
    assert all(hit.payload["id"] == hit.id for hit in page.hits)


@pytest.mark.parametrize("query", [text(), text(target="both"), text(rank="words"), text(rank="hybrid")])
def test_groups_are_ordered_by_their_best_hit_and_paged(points: PointsInMemory, query: Query) -> None:
    points.noise = 0
    points.payloads = {each: {"bucket": f"bucket-{int(each) % 7}"} for each in points.image}
    ungrouped = [each.id for each in points.page(replace(query, limit=100)).hits]
    best = {f"bucket-{number}": [each for each in ungrouped if int(each) % 7 == number][:2] for number in range(7)}
    expected = sorted(best.items(), key=lambda item: ungrouped.index(item[1][0]))
    grouped = replace(query, limit=3, group_by="bucket", group_size=2)
    page, found = points.page(grouped), []
    while True:
        assert page.groups is not None
        found += [(group.value, [each.id for each in group.hits]) for group in page.groups]
        assert [each.id for each in page.hits] == [group.hits[0].id for group in page.groups]
        if page.place is None:
            break
        page = points.page(grouped, page.place)
    assert found == expected


def test_a_point_is_in_the_group_of_each_of_its_values(points: PointsInMemory) -> None:
    points.payloads = {numbered(0): {"meta": {"on": ["a", "b"]}}, numbered(1): {"meta": {"on": "b"}}}
    page = points.page(text(target="both", group_by="meta.on"))
    assert page.groups is not None
    groups = {group.value: {each.id for each in group.hits} for group in page.groups}
    assert groups == {"a": {numbered(0)}, "b": {numbered(0), numbered(1)}}


@pytest.mark.parametrize("rank", ["clip", "hybrid"])
def test_a_query_by_id_does_not_return_that_point(points: PointsInMemory, rank: Any) -> None:
    query = Query((QueryPart("text", "a cat"), QueryPart("id", numbered(0))), rank=rank, limit=200)
    assert numbered(0) not in points.read(query)
    assert len(points.read(query)) == 99


BY_WIDTH = Prepared(ordering=Ordering("width", "integer", descending=True))


def by_width(**options: Any) -> Query:
    return text(order_by="-width", score_threshold=0.5, **options)


def test_only_the_best_hits_above_a_minimum_are_ordered_and_the_answer_says_so() -> None:
    points = PointsInMemory()
    points.image = {numbered(number): 0.9 - number / 10_000 for number in range(MAX_ORDERED)}
    points.payloads = {each: {"width": int(each) % 100} for each in points.image}
    page = points.page(by_width(limit=200), prepared=BY_WIDTH)
    assert not page.truncated
    assert [hit.payload["width"] for hit in page.hits] == [99 - number // 10 for number in range(200)]
    points.image["below"] = 0.4
    assert not points.page(by_width(), prepared=BY_WIDTH).truncated
    points.image["one more"], points.payloads["one more"] = 0.5, {"width": 1000}
    page = points.page(by_width(), prepared=BY_WIDTH)
    assert page.truncated
    assert page.hits[0].payload["width"] == 99  # the one more is the farthest
    points.image["nearest"], points.payloads["nearest"] = 0.95, {"width": 1000}
    assert points.page(by_width(), prepared=BY_WIDTH).hits[0].id == "nearest"


def test_pages_in_the_order_of_a_field_neither_repeat_nor_miss_points_during_changes() -> None:
    points = PointsInMemory(noise=2e-7)
    points.image = {numbered(number): 0.9 - number / 10_000 for number in range(300)}
    points.payloads = {each: {"width": int(each) % 7} for each in points.image}
    rng, deleted = np.random.default_rng(0), set()
    page = points.page(by_width(limit=9), prepared=BY_WIDTH)
    shown = [hit.id for hit in page.hits]
    while page.place is not None:
        for each in rng.choice(sorted(points.image), 3, replace=False).tolist():
            del points.image[each]
            deleted.add(each)
        new = f"new-{len(shown)}"
        points.image[new], points.payloads[new] = 0.8, {"width": int(rng.integers(7))}
        page = points.page(by_width(limit=9), page.place, BY_WIDTH)
        shown += [hit.id for hit in page.hits]
    assert len(shown) == len(set(shown))
    assert {numbered(number) for number in range(300)} - deleted <= set(shown)


def test_a_minimum_relevance_cuts_fused_hits_and_keeps_their_order(points: PointsInMemory) -> None:
    points.noise = 0
    minimum = MinimumRelevance(0.5, "text", {"text_image": [0.3, 0.9]})
    for query in (text(rank="hybrid", limit=200), text(target="both", limit=200)):
        whole = [hit.id for hit in points.page(query).hits]
        kept = [hit.id for hit in points.page(query, prepared=Prepared(minimum=minimum)).hits]
        assert kept == [each for each in whole if points.image[each] > 0.599]
        assert 0 < len(kept) < len(whole)
