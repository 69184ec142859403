"""Searches, words, diversity, groups, facets, samples, vectors and records: the contract of every store."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.store.test_store import AXES, DIMENSION, ids, image_points, opened
from viewfinder.errors import CollectionMissingError, FilterError, StoreError
from viewfinder.store import Collection, PointBatch, Search, Store, StoreAddress, StoredGroup
from viewfinder.store.directory import open_directory
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

CAPTIONS = ["a red car", "a red red bus", "a blue car on a long and winding road", "two birds", None]


def vector(*numbers: float) -> npt.NDArray[np.float32]:
    return np.array(numbers, np.float32)


def captioned(store: Store, index: str) -> Collection:
    """Write five images, the last without a caption."""
    made = opened(store, index)
    batch = image_points(
        5,
        caption=CAPTIONS,
        tags=[["car", "street"], ["street"], ["car"], [], ["bird"]],
        format=["jpeg", "png", "jpeg", "jpeg", "png"],
        width=[100, 200, 100, 300, 100],
        meta=[{"year": 1999, "shot by": "Ann"}, {"year": 2001}, {"year": 1999}, {"flash": True}, {}],
    )
    store.points.upsert(made, batch, wait=True)
    return made


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


# -- Many in one request --------------------------------------------------------------------------------------------


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


# -- Words ----------------------------------------------------------------------------------------------------------


def test_words_rank_captions_by_bm25(store: Store, index: str) -> None:
    made = captioned(store, index)
    keys = ids(5)
    red, car, nothing = store.search.many(
        made, [Search(words="RED"), Search(words="car, bicycle"), Search(words="zebra")]
    )
    # The second caption has the word twice and is one word longer; of the cars the shorter caption is first.
    assert [hit.id for hit in red] == [keys[1], keys[0]]
    assert [hit.id for hit in car] == [keys[0], keys[2]]
    assert nothing == []
    # BM25 with k1 1.2, b 0.75: four captions of 3, 4, 9 and 2 words, two of which contain the word.
    idf, norm = np.log((4 - 2 + 0.5) / (2 + 0.5) + 1), 1.2 * (1 - 0.75 + 0.75 * 3 / 4.5)
    assert car[0].score == pytest.approx(idf * 2.2 / (1 + norm), abs=1e-5)


def test_searches_by_words_take_filters_thresholds_offsets_and_ids(store: Store, index: str) -> None:
    made = captioned(store, index)
    keys = ids(5)
    best = store.search.many(made, [Search(words="red")])[0][0].score
    filtered, second, above, narrowed = store.search.many(
        made,
        [
            Search(words="red", filter={"format": {"eq": "jpeg"}}),
            Search(words="red", limit=1, offset=1),
            Search(words="red", score_threshold=best - 0.01),
            Search(words="red car", only=keys[1:3], exclude=keys[2:3]),
        ],
    )
    assert [[hit.id for hit in hits] for hits in (filtered, second)] == [[keys[0]], [keys[0]]]
    assert [[hit.id for hit in hits] for hits in (above, narrowed)] == [[keys[1]], [keys[1]]]


def test_invalid_unicode_around_words_is_ignored(store: Store, index: str) -> None:
    made = captioned(store, index)
    assert [hit.id for hit in store.search.many(made, [Search(words="\ud800birds\x00")])[0]] == ids(5)[3:4]


def test_a_search_by_words_on_an_old_server_is_refused_with_its_version(tmp_path: Path) -> None:
    with QdrantDouble(version="1.19.3") as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            made = opened(store, "images")
            for ask in (
                lambda: store.search.many(made, [Search(AXES[0]), Search(words="car")]),
                lambda: store.search.groups(made, Search(words="car"), "format"),
            ):
                with pytest.raises(StoreError, match=r"version 1\.19.*Upgrade Qdrant to 1\.20"):
                    ask()
            assert store.search.many(made, [Search(AXES[0])]) == [[]]


# -- Diversity ------------------------------------------------------------------------------------------------------


def crowded(store: Store, index: str) -> tuple[Collection, npt.NDArray[np.float32]]:
    """Write 60 near-duplicates nearest to the first axis, and three single points farther away."""
    made = opened(store, index)
    rng = np.random.default_rng(2)
    crowd = vector(1, 0.1, 0, 0) + rng.normal(scale=1e-3, size=(60, DIMENSION)).astype(np.float32)
    others = np.array([[1, -0.6, 0, 0], [1, 0, 0.8, 0], [1, 0, 0, -0.9]], np.float32)
    vectors = np.concatenate([crowd, others]).astype(np.float32)
    store.points.upsert(made, PointBatch(ids(63), [{}] * 63, image=vectors), wait=True)
    return made, vectors


def test_diversity_finds_more_than_near_duplicates_and_keeps_the_cosine(store: Store, index: str) -> None:
    made, vectors = crowded(store, index)
    plain, diverse = store.search.many(made, [Search(AXES[0], limit=4), Search(AXES[0], limit=4, diversity=0.5)])
    assert {hit.id for hit in plain} <= set(ids(60))
    assert {hit.id for hit in diverse} >= set(ids(63)[60:])
    assert diverse[0].id == plain[0].id
    cosines = dict(zip(ids(63), vectors[:, 0] / np.linalg.norm(vectors, axis=1), strict=True))
    assert [hit.score for hit in diverse] == pytest.approx([cosines[hit.id] for hit in diverse], abs=1e-5)


def test_pages_of_a_diverse_search_follow_the_order_of_selection(store: Store, index: str) -> None:
    made, _ = crowded(store, index)
    whole, first, second = store.search.many(
        made,
        [
            Search(AXES[0], limit=6, diversity=0.7, candidates=63),
            Search(AXES[0], limit=3, diversity=0.7, candidates=63),
            Search(AXES[0], limit=3, offset=3, diversity=0.7, candidates=63),
        ],
    )
    assert [hit.id for hit in whole] == [hit.id for hit in [*first, *second]]
    assert [hit.score for hit in whole] != sorted((hit.score for hit in whole), reverse=True)


@pytest.mark.parametrize(
    ("search", "candidates"),
    [
        (Search(AXES[0], diversity=0.5), 100),
        (Search(AXES[0], diversity=0.5, limit=20, offset=30), 500),
        (Search(AXES[0], diversity=0.5, limit=200), 2000),
        (Search(AXES[0], diversity=0.5, candidates=77), 77),
        (Search(AXES[0], diversity=0.5, candidates=99_999), 16_384),
    ],
)
def test_diversity_asks_for_enough_candidates(tmp_path: Path, search: Search, candidates: int) -> None:
    with QdrantDouble() as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            store.search.many(opened(store, "images"), [search])
        (sent,) = double.requests[-1].body["searches"]
        assert sent["query"]["mmr"] == {"diversity": 0.5, "candidates_limit": candidates}


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9, 1.0])
def test_the_embedded_store_selects_the_same_hits_as_local_mode(tmp_path: Path, diversity: float) -> None:
    address = StoreAddress(tmp_path)
    rng = np.random.default_rng(3)
    query, vectors = rng.normal(size=DIMENSION), rng.normal(size=(80, DIMENSION)).astype(np.float32)
    chosen = []
    with QdrantDouble() as double:
        remote = StoreAddress(tmp_path, url=double.url)
        for client, where in ((open_directory(tmp_path), address), (ServerClient(remote), remote)):
            with Store(client, where) as store:
                made = opened(store, "images")
                store.points.upsert(made, PointBatch(ids(80), [{}] * 80, image=vectors), wait=True)
                search = Search(query.astype(np.float32), diversity=diversity, limit=15, offset=2)
                chosen.append([hit.id for hit in store.search.many(made, [search])[0]])
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 15


# -- Groups and facets ----------------------------------------------------------------------------------------------


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
    ],
)
def test_fields_that_cannot_be_counted_or_grouped_by_are_refused_by_name(
    store: Store, index: str, ask: Callable[..., Any], field: str, message: str
) -> None:
    with pytest.raises(FilterError, match=message):
        ask(store, opened(store, index), field)


# -- Fields of the captions file ------------------------------------------------------------------------------------


def test_a_field_missing_in_all_captions_files_is_refused_with_the_closest(store: Store, index: str) -> None:
    made = captioned(store, index)
    store.collections.add_fields(made, {"meta.year": "integer", "meta.shot by": "keyword"})
    with pytest.raises(FilterError, match=r"Unknown field 'meta\.yaer'.*Closest: 'meta\.year'"):
        store.search.many(opened(store, index), [Search(AXES[0], filter={"meta.yaer": {"eq": 1999}})])
    (hits,) = store.search.many(opened(store, index), [Search(AXES[0], filter={"meta.shot by": {"eq": "Ann"}})])
    assert [hit.id for hit in hits] == ids(1)


@pytest.mark.parametrize("store", ["directory"], indirect=True)
def test_a_collection_without_known_fields_accepts_any(store: Store, index: str) -> None:
    made = captioned(store, index)
    assert made.recorded.fields == {}
    assert store.search.many(made, [Search(AXES[0], filter={"meta.nothing": {"eq": 1}})]) == [[]]


@pytest.mark.parametrize("store", ["double"], indirect=True)
def test_a_field_without_an_index_is_the_fault_of_the_filter_in_strict_mode(store: Store, index: str) -> None:
    made = captioned(store, index)
    with pytest.raises(FilterError, match=r'without an index.*"meta\.nothing"'):
        store.search.many(made, [Search(AXES[0], filter={"meta.nothing": {"eq": 1}})])


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


# -- Points by id ---------------------------------------------------------------------------------------------------

STRANGE = ["", "../..", "a" * 10_000, "\ud800", "1", "{" + ids(1)[0] + "}", ids(1)[0].upper(), "c/points?x=1"]


def test_records_contains_the_points_that_exist(store: Store, index: str) -> None:
    made = captioned(store, index)
    found = store.points.records(made, [*ids(2), *ids(1, "unknown"), *STRANGE])
    assert {each: record.payload["uri"] for each, record in found.items()} == {
        key: f"s3://b/{row}" for row, key in enumerate(ids(2))
    }
    assert all(record.id == each for each, record in found.items())


def test_vectors_have_unit_length_and_skip_points_without_one(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(250)
    images = np.tile(vector(3, 4, 0, 0), (250, 1))
    batch = PointBatch(keys, [{}] * 250, image=images, caption=images[:, ::-1].copy(), has_caption=np.arange(250) < 2)
    store.points.upsert(made, batch, wait=True)
    found = store.points.vectors(made, [*keys, *ids(1, "unknown"), *STRANGE], "image")
    assert set(found) == set(keys)
    assert found[keys[249]].dtype == np.float32
    np.testing.assert_allclose(found[keys[249]], [0.6, 0.8, 0, 0], atol=1e-6)
    captions = store.points.vectors(made, keys[:5], "caption")
    assert set(captions) == set(keys[:2])
    np.testing.assert_allclose(captions[keys[0]], [0, 0, 0.8, 0.6], atol=1e-6)


def test_a_sample_contains_only_points_with_the_vector(store: Store, index: str) -> None:
    made = opened(store, index)
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(60, DIMENSION)).astype(np.float32)
    batch = PointBatch(ids(60), [{}] * 60, image=vectors, caption=vectors, has_caption=np.arange(60) < 3)
    store.points.upsert(made, batch, wait=True)
    some, all_captions = store.points.sample(made, 20, "image"), store.points.sample(made, 20, "caption")
    assert (some.shape, some.dtype, all_captions.shape) == ((20, DIMENSION), np.float32, (3, DIMENSION))
    np.testing.assert_allclose(np.linalg.norm(some, axis=1), 1, atol=1e-5)
    assert len(np.unique(some.round(5), axis=0)) == 20


def test_a_sample_of_an_empty_collection_is_empty(store: Store, index: str) -> None:
    assert store.points.sample(opened(store, index), 5, "image").shape == (0, DIMENSION)


def test_sampled_records_are_complete_and_match_the_filter(store: Store, index: str) -> None:
    made = captioned(store, index)
    some = store.points.sample_records(made, 2, {"has_caption": {"eq": False}})
    assert len({each.id for each in some}) == 2
    png = store.points.sample_records(made, 10, {"format": {"eq": "png"}})
    assert {each.payload["uri"] for each in png} == {"s3://b/1", "s3://b/4"}


def test_an_exact_search_is_requested_from_a_server_and_finds_the_same(store: Store, index: str) -> None:
    made = captioned(store, index)
    calls = wire(store)
    near, exact = store.search.many(made, [Search(AXES[0], limit=3), Search(AXES[0], limit=3, exact=True)])
    assert near == exact
    exact_flags = [request.params and bool(request.params.exact) for request in calls[0][1]["requests"]]
    assert exact_flags == ([None, None] if store.address.url is None else [False, True])


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


# -- Takedowns -------------------------------------------------------------------------------------------------------


def test_a_takedown_deletes_the_points_of_every_collection_and_is_recorded(store: Store, index: str) -> None:
    made = captioned(store, index)
    second = store.collections.create(index, ModelIdentity("ViT::other", "beef", DIMENSION))
    store.points.upsert(second, image_points(3), wait=True)
    keys, (unknown,) = ids(5), ids(1, "unknown")
    assert store.take_down(index, {keys[0]: "", keys[4]: "s3://b/4", unknown: ""}) == {keys[0], keys[4]}
    assert (store.points.count(made), store.points.count(second)) == (3, 2)
    takedowns = store.control(index).takedowns([*keys, unknown])
    assert {each: takedown.uri for each, takedown in takedowns.items()} == {
        keys[0]: "s3://b/0",
        keys[4]: "s3://b/4",
        unknown: "",
    }
    assert all(takedown.at.endswith("+00:00") for takedown in takedowns.values())
    assert dict(store.control(index).all_takedowns()) == takedowns
    assert list(store.control(f"{index}x").all_takedowns()) == []


def test_a_second_takedown_only_adds_an_unknown_uri(store: Store, index: str) -> None:
    (key, other) = ids(2)
    assert store.take_down(index, {key: "", other: "s3://b/1"}) == set()
    before = store.control(index).takedowns([key, other])
    assert store.take_down(index, {key: "s3://b/0", other: "s3://elsewhere"}) == set()
    after = store.control(index).takedowns([key, other])
    assert {each: takedown.uri for each, takedown in after.items()} == {key: "s3://b/0", other: "s3://b/1"}
    assert {each: takedown.at for each, takedown in after.items()} == {
        each: takedown.at for each, takedown in before.items()
    }


def test_restoring_one_image_keeps_the_other_takedowns(store: Store, index: str) -> None:
    keys = ids(3)
    store.restore(index, keys)
    store.take_down(index, dict.fromkeys(keys, ""))
    store.restore(index, [keys[0], *STRANGE])
    assert set(store.control(index).takedowns(keys)) == set(keys[1:])


@pytest.mark.parametrize("strange", [each for each in STRANGE if len(each) < 100])
def test_taking_down_an_invalid_point_id_raises_value_error(store: Store, index: str, strange: str) -> None:
    assert store.control(index).takedowns([strange]) == {}
    with pytest.raises(ValueError, match="not point ids"):
        store.take_down(index, {strange: ""})


def test_takedowns_may_exceed_the_size_of_one_request(store: Store, index: str) -> None:
    keys: Sequence[str] = ids(1100)
    store.take_down(index, dict.fromkeys(keys, ""))
    assert {each for each, _ in store.control(index).all_takedowns()} == set(keys)
    assert len(store.control(index).takedowns(keys)) == 1100
