"""Searches, many in one request: the contract of every store."""

from collections.abc import Callable
from dataclasses import replace
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.store.points import AXES, DIMENSION, captioned, ids, image_points, opened, vector
from viewfinder.errors import CollectionMissingError, FilterError
from viewfinder.store import Collection, PointBatch, Search, Store, StoreAddress
from viewfinder.store.records import Record
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble


def wire(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """Return a list of the calls that the store makes from now on."""
    calls: list[tuple[str, dict[str, Any]]] = []

    class Recorder:
        def __init__(self, client: Any) -> None:
            self._client = client
            self.max_batch = client.max_batch

        def call(self, method: str, **arguments: Any) -> Any:
            calls.append((method, arguments))
            return self._client.call(method, **arguments)

        def close(self) -> None:
            self._client.close()

    store.connection.client = Recorder(store.connection.client)
    return calls


def test_searches_of_every_kind_take_one_request(store: Store, index: str) -> None:
    made = captioned(store, index)
    keys = ids(5)
    searches = [
        Search(AXES[1], limit=1),
        Search(words="birds"),
        Search(vector(1, 0.9, 0.8, 0), diversity=0.5, limit=2),
        Search(AXES[0], filter={"format": {"eq": "png"}}, with_payload=False),
    ]
    store.search.many(made, [Search(words="birds")])  # the version of a server is requested once
    calls = wire(store)
    found = store.search.many(made, searches)
    assert [method for method, _ in calls] == ["query_batch_points"]
    assert [hit.id for hit in found[0]] == [keys[1]]
    assert [hit.id for hit in found[1]] == [keys[3]]
    assert [len(hits) for hits in found[2:]] == [2, 2]
    assert found[3][0].payload == {}
    assert found[1][0].payload["caption"] == "two birds"


def test_searches_that_cannot_match_send_no_request(store: Store, index: str) -> None:
    made = captioned(store, index)
    calls = wire(store)
    searches = [Search(AXES[0], only=[]), Search(words=" -- \udc80\x00 "), Search(AXES[0], only=["../../etc/passwd"])]
    assert store.search.many(made, searches) == [[], [], []]
    assert store.search.many(made, []) == []
    assert store.search.groups(made, searches[0], "format") == []
    assert calls == []


def test_an_invalid_filter_is_refused_even_if_the_search_cannot_match(store: Store, index: str) -> None:
    made = opened(store, index)
    for search in (Search(words="--", filter={"colour": {"eq": 1}}), Search(AXES[0], only=[], filter={"or": []})):
        with pytest.raises(FilterError):
            store.search.many(made, [search])


def test_equal_scores_are_sorted_by_id(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(40)
    store.points.upsert(made, PointBatch(keys, [{}] * 40, image=np.tile(AXES[0], (40, 1))), wait=True)
    assert [hit.id for hit in store.search.nearest(made, AXES[0], limit=40)] == sorted(keys)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"vector": AXES[0], "words": "car"},
        {"vector": vector(1, float("nan"))},
        {"vector": AXES},
        {"vector": AXES[0], "limit": 0},
        {"vector": AXES[0], "offset": -1},
        {"vector": AXES[0], "diversity": 1.1},
        {"vector": AXES[0], "diversity": float("nan")},
        {"words": "car", "diversity": 0.5},
    ],
    ids=str,
)
def test_an_invalid_search_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"search|limit|diversity"):
        Search(**wrong)


def test_only_and_exclude_restrict_a_search_and_scores_stay_exact(store: Store, index: str) -> None:
    made = opened(store, index)
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(30, DIMENSION)).astype(np.float32)
    keys = ids(30)
    store.points.upsert(made, PointBatch(keys, [{"width": row} for row in range(30)], image=vectors), wait=True)
    query = rng.normal(size=DIMENSION).astype(np.float32)
    wanted = [*keys[:6], "no-id", *ids(1, "unknown")]
    searches = [
        Search(query, only=wanted, limit=9),
        Search(query, only=wanted, exclude=[keys[0], "no-id"], filter={"width": {"gte": 3}}, limit=9),
        Search(query, exclude=keys[:29]),
        Search(query, exclude=["no-id"], limit=99),
    ]
    exact, narrowed, rest, everything = store.search.many(made, searches)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    assert {hit.id: hit.score for hit in exact} == pytest.approx(
        {keys[row]: float(cosines[row]) for row in range(6)}, abs=1e-6
    )
    assert {hit.id for hit in narrowed} == set(keys[3:6])
    assert [hit.id for hit in rest] == [keys[29]]
    assert len(everything) == 30


def test_a_search_over_given_ids_is_exact(tmp_path: Path) -> None:
    with QdrantDouble() as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            store.search.many(opened(store, "images"), [Search(AXES[0], only=ids(1)), Search(AXES[0])])
        exact, usual = double.requests[-1].body["searches"]
        assert exact["params"] == {"exact": True}
        assert usual["params"] == {"quantization": {"rescore": True, "oversampling": 2.0}}


def test_a_field_missing_in_all_captions_files_is_refused_with_the_closest(store: Store, index: str) -> None:
    made = captioned(store, index)
    store.collections.add_fields(made, {"meta.year": "integer", "meta.shot by": "keyword"})
    with pytest.raises(FilterError, match=r"Unknown field 'meta\.yaer'.*Closest: 'meta\.year'"):
        store.search.many(opened(store, index), [Search(AXES[0], filter={"meta.yaer": {"eq": 1999}})])
    (hits,) = store.search.many(opened(store, index), [Search(AXES[0], filter={"meta.shot by": {"eq": "Ann"}})])
    assert [hit.id for hit in hits] == ids(1)


def test_a_collection_without_a_captions_file_has_no_meta_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    for ask in (
        lambda: store.search.many(made, [Search(AXES[0], filter={"meta.nothing": {"eq": 1}})]),
        lambda: store.search.facet(made, "meta.nothing"),
        lambda: store.search.groups(made, Search(AXES[0]), "meta.nothing"),
        lambda: store.points.count(made, {"meta.nothing": {"eq": 1}}),
        lambda: list(store.points.iterate(made, {"meta.nothing": {"eq": 1}})),
    ):
        with pytest.raises(FilterError, match=r"Unknown field 'meta\.nothing'.*Known fields: bucket"):
            ask()


@pytest.mark.parametrize("store", ["double"], indirect=True)
def test_a_field_without_an_index_is_the_fault_of_the_filter_in_strict_mode(store: Store, index: str) -> None:
    """Its message gave clients the address of the server."""
    made = captioned(store, index)
    unindexed = replace(made, recorded=replace(made.recorded, fields={"meta.year": "integer"}))
    with pytest.raises(FilterError, match=r"^Field 'meta\.year' has no index") as caught:
        store.search.many(unindexed, [Search(AXES[0], filter={"meta.year": {"eq": 1999}})])
    assert "http" not in str(caught.value)
    with pytest.raises(FilterError, match=r"^Field 'meta\.year' has no index.* order by such") as caught:
        store.search.in_order(unindexed, store.search.ordering(unindexed, "meta.year"), limit=3)
    assert "http" not in str(caught.value)


def test_fields_added_after_the_collection_was_read_are_found(store: Store, index: str) -> None:
    made = captioned(store, index)
    store.collections.add_fields(made, {"meta.year": "integer"})
    before = opened(store, index)
    store.collections.add_fields(made, {"meta.flash": "bool"})
    (hits,) = store.search.many(before, [Search(AXES[0], filter={"meta.flash": {"eq": True}})])
    assert [hit.id for hit in hits] == ids(5)[3:4]


def test_baselines_are_stored_with_the_collection(store: Store, index: str) -> None:
    made = opened(store, index)
    assert made.metadata.baselines == {}
    quantiles = np.linspace(-1, 1, 101).tolist()
    store.collections.update_metadata(made.name, baselines={"text_image": quantiles})
    assert opened(store, index).metadata.baselines["text_image"] == pytest.approx(quantiles)


def test_an_exact_search_is_requested_and_finds_the_same(store: Store, index: str) -> None:
    made = captioned(store, index)
    calls = wire(store)
    near, exact = store.search.many(made, [Search(AXES[0], limit=3), Search(AXES[0], limit=3, exact=True)])
    assert near == exact
    assert [bool(request.params.exact) for request in calls[0][1]["requests"]] == [False, True]


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, made: store.search.many(made, [Search(AXES[0])]),
        lambda store, made: store.search.many(made, [Search(words="car")]),
        lambda store, made: store.search.groups(made, Search(AXES[0]), "format"),
        lambda store, made: store.points.records(made, ids(1)),
        lambda store, made: store.points.vectors(made, ids(1), "image"),
        lambda store, made: store.search.facet(made, "format"),
        lambda store, made: store.points.sample(made, 3, "image"),
    ],
    ids=["search", "words", "groups", "records", "vectors", "facet", "sample"],
)
def test_every_request_to_a_dropped_collection_raises_collection_missing_error(
    store: Store, index: str, ask: Callable[[Store, Collection], Any]
) -> None:
    made = opened(store, index)
    store.collections.drop(made.name)
    with pytest.raises(CollectionMissingError):
        ask(store, made)


@pytest.mark.parametrize("descending", [False, True])
def test_numbers_that_are_rounded_come_once_in_an_order(store: Store, index: str, descending: bool) -> None:
    made = opened(store, index)
    store.collections.add_fields(made, {"meta.n": "float"})
    made = store.collections.refresh(made)
    numbers = [{"n": each} for each in (*(2**53 + 1, 2.0**53) * 30, *[7] * 20)]
    store.points.upsert(made, image_points(80, meta=numbers), wait=True)
    found = [record.id for record in in_order(store, made, "meta.n", descending=descending, limit=9)]
    large, small = sorted(ids(80)[:60]), sorted(ids(80)[60:])
    assert found == (large + small if descending else small + large)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 1, 2**53 + 2, 2**53 + 3, 2**62, 2**62 + 1, 2**63 - 1, 7],
        [2**60 + number for number in range(130)],
        [*[2**53 + 1, 2**53] * 60, 7],
        [2**63 - 1 - number for number in range(70)],
        [-(2**63) + number % 40 for number in range(70)],
    ],
    ids=["between", "neighbours", "equal", "last", "negative"],
)
def test_whole_numbers_that_no_float64_holds_are_in_order_once(
    store: Store, index: str, descending: bool, sizes: list[int]
) -> None:
    made = opened(store, index)
    batch = image_points(len(sizes))
    payloads = [payload | {"size": size} for payload, size in zip(batch.payloads, sizes, strict=True)]
    store.points.upsert(made, replace(batch, payloads=payloads), wait=True)
    found = in_order(store, made, "size", descending=descending, limit=20)
    assert len({record.id for record in found}) == len(sizes)
    assert [record.payload["size"] for record in found] == sorted(sizes, reverse=descending)


@pytest.mark.parametrize("bound", [2**60 + 77, float(2**60)])
@pytest.mark.parametrize("operator", ["gt", "gte", "lt", "lte"])
def test_a_filter_compares_whole_numbers_that_no_float64_holds(
    store: Store, index: str, operator: str, bound: float
) -> None:
    made = opened(store, index)
    sizes = [2**60 - 150 + 3 * number for number in range(150)]
    batch = image_points(len(sizes))
    payloads = [payload | {"size": size} for payload, size in zip(batch.payloads, sizes, strict=True)]
    store.points.upsert(made, replace(batch, payloads=payloads), wait=True)
    meets = {"gt": gt, "gte": ge, "lt": lt, "lte": le}[operator]
    condition = store.search.parse(made, {"size": {operator: bound}})
    assert store.points.count(made, condition, exact=True) == sum(meets(size, bound) for size in sizes)


def in_order(store: Store, made: Collection, field: str, *, descending: bool, limit: int) -> list[Record]:
    """All points in the order of a field, read page by page."""
    ordering = store.search.ordering(made, field, descending=descending)
    found, after = list[Record](), None
    while len(found) < 1000:
        page = store.search.in_order(made, ordering, after=after, limit=limit)
        found += page.records
        if (after := page.last) is None:
            break
    return found
