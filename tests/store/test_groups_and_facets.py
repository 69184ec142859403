"""Groups and facets: the contract of every store."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.store.points import AXES, captioned, ids, opened, vector
from viewfinder.errors import FilterError
from viewfinder.store import Search, Store, StoredGroup


def test_groups_contain_the_best_points_of_each_value(store: Store, index: str) -> None:
    made = captioned(store, index)
    keys = ids(5)
    query = vector(1, 0.5, 0.25, 0.125)
    groups = store.search.groups(made, Search(query), "tags", group_size=1)
    assert {group.value: [hit.id for hit in group.hits] for group in groups} == {
        "car": [keys[0]],
        "street": [keys[0]],
        "bird": [keys[4]],
    }
    best, second = store.search.groups(made, Search(query, filter={"width": {"lte": 200}}), "width")
    assert (best.value, second.value) == (100, 200)
    assert [hit.id for hit in best.hits] == [*sorted([keys[0], keys[4]]), keys[2]]
    assert best.hits[0].payload["format"] in ("jpeg", "png")


def test_groups_are_sorted_by_their_best_hit_and_paged(store: Store, index: str) -> None:
    made = captioned(store, index)
    query = vector(1, 0.5, 0.25, 0.125)

    def values(**options: Any) -> list[Any]:
        return [group.value for group in store.search.groups(made, Search(query, **options), "width", group_size=2)]

    assert values() == [100, 200, 300]
    assert values(limit=2) + values(limit=2, offset=2) == [100, 200, 300]
    assert values(exclude=[ids(5)[0], ids(5)[4]]) == [200, 100, 300]
    assert values(only=ids(5)[3:4]) == [300]
    assert values(score_threshold=0.3) == [100, 200]


def test_searches_by_words_can_be_grouped(store: Store, index: str) -> None:
    made = captioned(store, index)
    groups = store.search.groups(made, Search(words="red car", with_payload=False), "format")
    assert [(group.value, [hit.id for hit in group.hits]) for group in groups] == [
        ("jpeg", [ids(5)[0], ids(5)[2]]),
        ("png", [ids(5)[1]]),
    ]
    assert isinstance(groups[0], StoredGroup)
    assert groups[0].hits[0].payload == {}


def test_a_diverse_search_cannot_be_grouped(store: Store, index: str) -> None:
    with pytest.raises(ValueError, match="diversity"):
        store.search.groups(captioned(store, index), Search(AXES[0], diversity=0.5), "format")


@pytest.mark.parametrize(
    ("field", "filter", "values"),
    [
        ("tags", None, [("car", 2), ("street", 2), ("bird", 1)]),
        ("format", None, [("jpeg", 3), ("png", 2)]),
        ("width", None, [(100, 3), (200, 1), (300, 1)]),
        ("has_image", None, [(True, 5)]),
        ("format", {"tags": {"eq": "street"}}, [("jpeg", 1), ("png", 1)]),
        ("kind", None, []),
    ],
)
def test_facets_count_the_values_of_a_field(
    store: Store, index: str, field: str, filter: dict[str, Any] | None, values: list[Any]
) -> None:
    assert store.search.facet(captioned(store, index), field, filter=filter) == values


def test_facets_count_meta_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    fields = {"meta.year": "integer", "meta.shot by": "keyword", "meta.flash": "bool", "meta.price": "float"}
    store.collections.add_fields(made, fields)
    made = captioned(store, index)
    assert store.search.facet(made, "meta.year") == [(1999, 2), (2001, 1)]
    assert store.search.facet(made, "meta.shot by") == [("Ann", 1)]
    assert store.search.facet(made, "meta.flash") == [(True, 1)]
    assert store.search.facet(made, "tags", limit=2) == [("car", 2), ("street", 2)]
    with pytest.raises(FilterError, match=r"'meta\.price' cannot be counted.*meta\.year"):
        store.search.facet(made, "meta.price")


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, made, field: store.search.facet(made, field),
        lambda store, made, field: store.search.groups(made, Search(AXES[0]), field),
    ],
    ids=["facet", "groups"],
)
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("colour", "Unknown field 'colour'"),
        ("width ", "Unknown field 'width '.*Closest: 'width'"),
        ("caption", "'caption' cannot be"),
        ("etag", "'etag' cannot be"),
        ("indexed_at", r"'indexed_at' cannot be .*\bformat\b"),
        ('meta."x"', "Unknown field"),
        ("meta.x[0]", "Unknown field"),
    ],
)
def test_fields_that_cannot_be_counted_or_grouped_by_are_refused_by_name(
    store: Store, index: str, ask: Callable[..., Any], field: str, message: str
) -> None:
    with pytest.raises(FilterError, match=message):
        ask(store, opened(store, index), field)
