"""Collections and points: the contract of every store."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pytest

from viewfinder.errors import CollectionMissingError, FilterError, ModelMismatchError, StoreError
from viewfinder.store import Collection, Failure, PointBatch, PointState, Store, StoreAddress
from viewfinder.store.directory import open_directory
from viewfinder.store.points import Points
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

DIMENSION = 4
MODEL = {"arch": "tiny", "licence": "MIT"}
AXES = np.eye(DIMENSION, dtype=np.float32)


def ids(count: int, prefix: str = "s3://b/") -> list[str]:
    return [str(uuid5(NAMESPACE_URL, f"{prefix}{number}")) for number in range(count)]


def opened(store: Store, index: str) -> Collection:
    return store.collections.open(index, ModelIdentity("ViT::tiny", "f00d", DIMENSION, MODEL))


def image_points(count: int, **fields: Sequence[Any]) -> PointBatch:
    """Return points whose image vectors are the axes in turn, with payload fields given as columns."""
    payloads = [
        {"uri": f"s3://b/{row}", "etag": f"e{row}", "sources": ["s3://b"]}
        | {name: column[row] for name, column in fields.items()}
        for row in range(count)
    ]
    return PointBatch(ids(count), payloads, image=AXES[np.arange(count) % DIMENSION])


def plain_collection(store: Store, name: str) -> None:
    store.connection.call("create_collection", collection_name=name, vectors_config={})


# -- Collections ----------------------------------------------------------------------------------------------------


def test_a_new_index_has_no_live_collection(store: Store, index: str) -> None:
    assert store.collections.live(index) is None
    assert store.collections.all(index) == []


def test_open_creates_and_promotes_the_first_collection(store: Store, index: str) -> None:
    made = opened(store, index)
    assert made.name == f"{index}__vit-tiny__f00d__0001"
    assert made.metadata.state == "live"
    assert made.metadata.model == {**MODEL, "name": "ViT::tiny"}
    assert (made.metadata.fingerprint, made.metadata.dimension, made.metadata.index) == ("f00d", DIMENSION, index)
    assert store.collections.live(index) == made


def test_open_again_finds_the_same_collection_with_its_points(store: Store, index: str) -> None:
    store.points.upsert(opened(store, index), image_points(3), wait=True)
    again = opened(store, index)
    assert store.points.count(again) == 3
    assert [each.name for each in store.collections.all(index)] == [again.name]


def test_open_with_another_model_names_both_and_changes_nothing(store: Store, index: str) -> None:
    live = opened(store, index)
    with pytest.raises(ModelMismatchError) as caught:
        store.collections.open(index, ModelIdentity("ViT::other", "beef", 8, MODEL))
    for part in ("ViT::tiny", "f00d", "ViT::other", "beef", "viewfinder reindex", "--model"):
        assert part in str(caught.value)
    assert store.collections.all(index) == [live]


def test_open_uses_a_collection_that_a_crash_left_unpromoted(store: Store, index: str) -> None:
    left = store.collections.create(index, ModelIdentity("ViT::tiny", "f00d", DIMENSION, MODEL))
    assert store.collections.live(index) is None
    assert opened(store, index).name == left.name


def test_concurrent_opens_create_one_collection(store: Store, index: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: opened(store, index).name, range(4)))
    assert {each.name for each in store.collections.all(index)} == set(made)
    assert len(set(made)) == 1


def test_each_build_gets_its_own_collection_and_promote_moves_the_alias(store: Store, index: str) -> None:
    first = opened(store, index)
    second = store.collections.create(index, ModelIdentity("ViT::other", "beef", 8, MODEL))
    assert (first.build, second.build) == (1, 2)
    assert second.metadata.state == "building"
    assert store.collections.live(index) == first
    store.collections.promote(index, second.name)
    live = store.collections.live(index)
    assert live is not None
    assert (live.name, live.metadata.state) == (second.name, "live")


def test_promote_refuses_a_collection_that_does_not_exist(store: Store, index: str) -> None:
    live = opened(store, index)
    with pytest.raises(CollectionMissingError, match="nowhere"):
        store.collections.promote(index, "nowhere")
    assert store.collections.live(index) == live


def test_open_refuses_an_index_named_like_a_collection(store: Store, index: str) -> None:
    plain_collection(store, index)
    with pytest.raises(StoreError, match=f"collection named '{index}'"):
        opened(store, index)
    assert store.collections.all(index) == []


def test_an_alias_to_a_collection_of_another_program_is_refused(store: Store, index: str) -> None:
    plain_collection(store, f"{index}_theirs")
    store.connection.call("update_collection_aliases", change_aliases_operations=[_alias(index, f"{index}_theirs")])
    with pytest.raises(StoreError, match="not made by viewfinder"):
        store.collections.live(index)


def test_metadata_changes_keep_other_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    store.collections.update_metadata(made.name, state="retired", baselined_points=7)
    store.collections.update_metadata(made.name, counts={"indexed": 3})
    (found,) = store.collections.all(index)
    assert found.metadata.state == "retired"
    assert found.metadata.baselined_points == 7
    assert found.metadata.counts == {"indexed": 3}
    assert found.metadata.created_at == made.metadata.created_at


def test_collections_of_an_index_with_the_same_prefix_are_not_included(store: Store, index: str) -> None:
    mine, other = opened(store, index), opened(store, f"{index}__b")
    assert store.collections.all(index) == [mine]
    assert store.collections.all(f"{index}__b") == [other]


def test_dropped_collections_are_gone_and_may_be_dropped_again(store: Store, index: str) -> None:
    made = opened(store, index)
    store.collections.drop(made.name)
    store.collections.drop(made.name)
    assert store.collections.live(index) is None
    with pytest.raises(CollectionMissingError):
        store.points.count(made)
    with pytest.raises(CollectionMissingError):
        store.points.upsert(made, image_points(1), wait=True)


def test_wait_ready_returns_when_nothing_is_left_to_do(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(5), wait=False)
    updates: list[str] = []
    store.collections.wait_ready(made, timeout_s=60, progress=updates.append, poll_s=0.05)
    assert updates[-1] == "ready; checked 2 of 3 times"


# -- Points ---------------------------------------------------------------------------------------------------------


def test_points_may_have_one_or_both_vectors(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    payloads: list[dict[str, Any]] = [{"etag": "a", "sources": ["x", "y"]}, {"etag": "b", "caption_hash": "h"}, {}]
    batch = PointBatch(
        keys,
        payloads,
        image=AXES[:3],
        caption=AXES[1:],
        has_image=np.array([True, False, True]),
        has_caption=np.array([False, True, True]),
    )
    store.points.upsert(made, batch, wait=True)
    assert store.points.states(made, [*keys, *ids(2, "unknown")]) == {
        keys[0]: PointState("a", "", ("x", "y"), has_image=True, has_caption=False),
        keys[1]: PointState("b", "h", (), has_image=False, has_caption=True),
        keys[2]: PointState("", "", (), has_image=True, has_caption=True),
    }
    assert {hit.id for hit in store.search.nearest(made, AXES[0], using="image", limit=9)} == {keys[0], keys[2]}
    assert {hit.id for hit in store.search.nearest(made, AXES[0], using="caption", limit=9)} == {keys[1], keys[2]}


def test_the_same_batch_twice_makes_no_duplicates(store: Store, index: str) -> None:
    made = opened(store, index)
    for _ in range(2):
        store.points.upsert(made, image_points(70), wait=True)
    assert store.points.count(made) == 70


def test_an_upsert_replaces_the_whole_point(store: Store, index: str) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(
        made, PointBatch([key], [{"etag": "a", "caption": "old"}], image=AXES[:1], caption=AXES[:1]), wait=True
    )
    store.points.upsert(made, PointBatch([key], [{"etag": "b"}], image=AXES[1:2]), wait=True)
    assert store.points.states(made, [key])[key] == PointState("b", "", (), has_image=True, has_caption=False)
    assert store.search.nearest(made, AXES[0], using="caption", limit=1) == []
    (hit,) = store.search.nearest(made, AXES[1], limit=1)
    assert "caption" not in hit.payload


def test_states_may_exceed_the_size_of_one_request(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(1100), wait=True)
    assert len(store.points.states(made, ids(1200))) == 1100


def test_vectors_of_the_wrong_dimension_are_refused(store: Store, index: str) -> None:
    made = opened(store, index)
    with pytest.raises(StoreError, match=r"(?i)dimension"):
        store.points.upsert(made, PointBatch(ids(1), [{}], image=np.ones((1, DIMENSION + 1), np.float32)), wait=True)


def test_a_changed_caption_keeps_the_image_vector_and_other_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(40)
    store.points.upsert(made, image_points(40, meta=[{"year": 1999}] * 40), wait=True)
    payloads = [
        {"caption": f"number {row}", "caption_hash": f"h{row}", "tags": ["t"], "meta": {"place": "x"}}
        for row in range(40)
    ]
    store.points.update_captions(made, keys, payloads, np.tile(AXES[3], (40, 1)))
    assert store.points.states(made, keys)[keys[39]] == PointState(
        "e39", "h39", ("s3://b",), has_image=True, has_caption=True
    )
    assert len(store.search.nearest(made, AXES[3], using="caption", limit=99, score_threshold=0.99)) == 40
    (hit,) = store.search.nearest(made, AXES[1], limit=1, filter={"uri": {"eq": "s3://b/5"}})
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert hit.payload["caption"] == "number 5"
    assert hit.payload["meta"] == {"place": "x"}


def test_removing_a_caption_removes_its_vector(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    payloads = [{"caption": "c", "caption_hash": "h"} for _ in keys]
    store.points.upsert(made, PointBatch(keys, payloads, image=AXES[:3], caption=AXES[:3]), wait=True)
    gone: list[dict[str, Any]] = [{"caption": None, "caption_hash": None}, {"caption": "new", "caption_hash": "n"}]
    store.points.update_captions(made, keys[:2], gone, AXES[:2], np.array([False, True]))
    states = store.points.states(made, keys)
    assert [(states[key].caption_hash, states[key].has_caption) for key in keys] == [
        ("", False),
        ("n", True),
        ("h", True),
    ]
    assert {hit.id for hit in store.search.nearest(made, AXES[0], using="caption", limit=9)} == set(keys[1:])
    assert len(store.search.nearest(made, AXES[0], using="image", limit=9)) == 3


def test_captions_of_deleted_points_are_skipped(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    store.points.upsert(made, image_points(3), wait=True)
    store.points.delete(made, keys[1:2])
    store.points.update_captions(made, keys, [{"caption_hash": f"h{row}"} for row in range(3)], AXES[:3])
    states = store.points.states(made, keys)
    assert {key: state.caption_hash for key, state in states.items()} == {keys[0]: "h0", keys[2]: "h2"}
    assert all(state.has_caption for state in states.values())


def test_sources_are_added_and_removed(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    store.points.upsert(made, image_points(3), wait=True)
    store.points.add_sources(made, {keys[0]: ["s3://c"], keys[1]: ["s3://b"], ids(1, "unknown")[0]: ["s3://c"]})
    assert store.points.states(made, keys)[keys[0]].sources == ("s3://b", "s3://c")
    assert store.points.detach(made, keys, "s3://b") == 2
    assert {key: state.sources for key, state in store.points.states(made, keys).items()} == {keys[0]: ("s3://c",)}


class ContendedPoints(Points):
    """Points of which another program changes some, between each reading of states and the write after it."""

    def __init__(self, store: Store, others: Sequence[Callable[[], None]]) -> None:
        super().__init__(store.connection)
        self._others = list(others)

    def states(self, collection: Collection, ids: Sequence[str]) -> dict[str, PointState]:
        found = super().states(collection, ids)
        if self._others:
            self._others.pop(0)()
        return found


@pytest.mark.parametrize("before", [["s3://b"], []], ids=["one", "none"])
def test_sources_that_another_program_adds_at_the_same_time_stay(store: Store, index: str, before: list[str]) -> None:
    made = opened(store, index)
    (key,) = ids(1)
    store.points.upsert(made, image_points(1, sources=[before]), wait=True)
    others = [partial(store.points.add_sources, made, {key: [name]}) for name in ("s3://c", "s3://d")]
    ContendedPoints(store, others).add_sources(made, {key: ["s3://e"]})
    assert set(store.points.states(made, [key])[key].sources) == {*before, "s3://c", "s3://d", "s3://e"}


def test_an_upsert_of_new_points_leaves_existing_ones_alone(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(1, etag=["old"]), wait=True)
    store.points.upsert(made, image_points(2, etag=["new", "new"]), wait=True, only_new=True)
    assert [state.etag for state in store.points.states(made, ids(2)).values()] == ["old", "new"]


def test_a_point_that_changes_while_a_source_is_removed_stays(store: Store, index: str) -> None:
    """Between the reading of a point and its removal another run could write it, or find it in another source."""
    made = opened(store, index)
    (key,) = ids(1)
    batch = image_points(1)
    payload = {**batch.payloads[0], "sources": ["s3://b"], "run_id": "later"}
    store.points.upsert(made, replace(batch, payloads=[payload]), wait=True)
    assert store.points.detach(made, [key], "s3://b", written_by=["earlier"]) == 0
    assert store.points.states(made, [key])[key].sources == ("s3://b",)
    assert store.points.detach(made, [key], "s3://b", written_by=["earlier", "later"]) == 1


def test_deleted_points_are_gone_and_may_be_deleted_again(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(5), wait=True)
    for _ in range(2):
        store.points.delete(made, ids(2))
    assert store.points.count(made) == 3
    assert set(store.points.states(made, ids(5))) == set(ids(5)[2:])


def test_iterate_yields_every_point_once_with_the_requested_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(1050), wait=True)
    found = list(store.points.iterate(made, fields=["uri"]))
    assert len(found) == 1050
    assert {record.id: record.payload for record in found} == {
        key: {"uri": f"s3://b/{row}"} for row, key in enumerate(ids(1050))
    }


def test_iterate_and_count_take_filters(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(6, width=[100, 200, 300, 400, 500, 600]), wait=True)
    wide = {"width": {"gte": 400}}
    assert store.points.count(made, wide) == 3
    assert {record.payload["width"] for record in store.points.iterate(made, wide)} == {400, 500, 600}


def test_nearest_ranks_by_cosine_with_threshold_offset_and_payload_selection(store: Store, index: str) -> None:
    made = opened(store, index)
    keys = ids(3)
    vectors = np.array([[1, 0, 0, 0], [3, 4, 0, 0], [0, 1, 0, 0]], np.float32)
    store.points.upsert(made, PointBatch(keys, [{"uri": "u", "etag": "e"}] * 3, image=vectors), wait=True)
    hits = store.search.nearest(made, [2.0, 0.0, 0.0, 0.0], limit=3)
    assert [hit.id for hit in hits] == keys
    assert [hit.score for hit in hits] == pytest.approx([1.0, 0.6, 0.0], abs=1e-5)
    assert [hit.id for hit in store.search.nearest(made, AXES[0], limit=2, offset=1)] == keys[1:]
    assert [hit.id for hit in store.search.nearest(made, AXES[0], limit=3, score_threshold=0.5)] == keys[:2]
    assert store.search.nearest(made, AXES[0], limit=1, with_payload=["etag"])[0].payload == {"etag": "e"}
    assert store.search.nearest(made, AXES[0], limit=1, with_payload=False)[0].payload == {}


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ({"format": {"eq": "png"}}, {1}),
        ({"format": {"ne": "png"}}, {0, 2}),
        ({"format": {"in": ["png", "jpeg"]}}, {0, 1}),
        ({"tags": {"eq": "sea"}}, {0, 1}),
        ({"tags": {"in": ["sky", "sand"]}}, {0}),
        ({"width": {"gt": 100, "lte": 300}}, {1, 2}),
        ({"width": {"in": [100, 300]}}, {0, 2}),
        ({"width": {"eq": 200.0}}, {1}),
        ({"last_modified": {"gte": "2024-02-01"}}, {1, 2}),
        ({"last_modified": {"lt": "2024-02-01T00:00:00Z"}}, {0}),
        ({"last_modified": {"eq": "2024-03-01T01:00:00+01:00"}}, {2}),
        ({"caption": {"text": "Car RED"}}, {0}),
        ({"caption": {"eq": None}}, {2}),
        ({"caption": {"ne": None}}, {0, 1}),
        ({"meta.year": {"lt": 2020}}, {0}),
        ({"meta.year": {"in": [2019, "n/a"]}}, {0, 2}),
        ({"meta.place.city": {"eq": "Rome"}}, {1}),
        ({"has_image": {"eq": True}, "format": {"eq": "png"}}, {1}),
        ({"or": [{"format": {"eq": "png"}}, {"width": {"eq": 300}}]}, {1, 2}),
        ({"and": [{"tags": {"eq": "sea"}}, {"not": {"format": {"eq": "png"}}}]}, {0}),
        ({}, {0, 1, 2}),
    ],
    ids=str,
)
def test_filters_select_matching_points(store: Store, index: str, expression: dict[str, Any], rows: set[int]) -> None:
    made = opened(store, index)
    batch = image_points(
        3,
        format=["jpeg", "png", "webp"],
        tags=[["sea", "sky"], ["sea"], []],
        width=[100, 200, 300],
        last_modified=["2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"],
        caption=["a red car", "a blue car", None],
        meta=[{"year": 2019}, {"year": 2021, "place": {"city": "Rome"}}, {"year": "n/a"}],
    )
    store.collections.add_fields(made, {"meta.year": "integer", "meta.place.city": "keyword"})
    made = store.collections.refresh(made)
    store.points.upsert(made, batch, wait=True)
    keys = ids(3)
    assert {hit.id for hit in store.search.nearest(made, AXES[0], limit=9, filter=expression)} == {
        keys[row] for row in rows
    }


def test_an_invalid_filter_raises_filter_error(store: Store, index: str) -> None:
    with pytest.raises(FilterError, match="colour"):
        store.points.count(opened(store, index), {"colour": {"eq": "red"}})


# -- Failures -------------------------------------------------------------------------------------------------------


def test_failures_are_kept_by_point_until_forgotten(store: Store, index: str) -> None:
    first, second = ids(2)
    failure = Failure("s3://b/0", "e0", "decode", "truncated", "ends after 3 bytes")
    assert store.control(index).failures([first]) == {}
    store.control(index).forget_failures([first])
    store.control(index).record_failures({first: failure, second: failure})
    store.control(index).record_failures({first: Failure("s3://b/0", "e1", "decode", "truncated", "again")})
    assert store.control(index).failures([first, second, *ids(3, "unknown")])[first].etag == "e1"
    store.control(index).forget_failures([first])
    assert store.control(index).failures([first, second]) == {second: failure}


def test_failures_outlive_the_collections_of_the_index(store: Store, index: str) -> None:
    failure = Failure("s3://b/0", "e0", "decode", "truncated", "m")
    made = opened(store, index)
    store.control(index).record_failures({ids(1)[0]: failure})
    assert store.collections.all(index) == [made]
    store.collections.drop(made.name)
    assert store.control(index).failures(ids(1)) == {ids(1)[0]: failure}
    assert store.control(f"{index}x").failures(ids(1)) == {}


# -- The wire -------------------------------------------------------------------------------------------------------


def test_check_returns_the_version(store: Store) -> None:
    major, minor, *_ = store.check().split(".")
    assert (int(major), int(minor)) >= (1, 17)


@pytest.mark.skipif(
    "QDRANT_OPENAPI" not in os.environ, reason="set QDRANT_OPENAPI to the path of Qdrant's published openapi.json"
)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/collections/c/points/query", {"query": [0.1], "limit": 0}),
        ("PUT", "/collections/c/points", {"batch": {"ids": ["a"]}}),
        ("POST", "/collections/c/points", {"ids": [-1]}),
        ("PUT", "/collections/c", {"vectors": {"image": {"size": 0, "distance": "Cosine"}}}),
        ("POST", "/collections/aliases", {}),
        ("POST", "/collections/c/nothing", {}),
        ("GET", "/collections?page=2", None),
        ("POST", "/collections/c/points/query", {"query": {"text": ["car"]}, "using": "caption"}),
        ("POST", "/collections/c/points/query", {"query": {"text": "car", "k": 1}, "using": "caption"}),
        (
            "POST",
            "/collections/c/points/query/batch",
            {"searches": [{"query": {"nearest": [1], "mmr": {"diversity": 2}}}]},
        ),
    ],
)
def test_the_double_refuses_requests_that_violate_the_specification(
    tmp_path: Path, method: str, path: str, body: object
) -> None:
    import httpx

    with QdrantDouble(openapi=Path(os.environ["QDRANT_OPENAPI"])) as double:
        answer = httpx.request(method, double.url + path, json=body)
        assert answer.status_code == 400
        assert len(double.invalid) == 1


@pytest.mark.skipif(
    "QDRANT_OPENAPI" not in os.environ, reason="set QDRANT_OPENAPI to the path of Qdrant's published openapi.json"
)
def test_the_double_accepts_text_queries_since_their_version() -> None:
    import httpx

    body = {"query": {"text": "car"}, "using": "caption"}
    for version, complaints in (("1.19.2", 1), ("1.20.0", 0)):
        with QdrantDouble(openapi=Path(os.environ["QDRANT_OPENAPI"]), version=version) as double:
            httpx.post(f"{double.url}/collections/c/points/query", json=body)
            assert len(double.invalid) == complaints


def test_bm25_is_only_enabled_on_servers_that_support_it(tmp_path: Path) -> None:
    scoring = {}
    for version in ("1.19.0", "1.20.0"):
        with QdrantDouble(version=version) as double:
            address = StoreAddress(tmp_path, url=double.url)
            with Store(ServerClient(address), address) as store:
                opened(store, "images")
            (request,) = [each for each in double.requests if (each.body or {}).get("field_name") == "caption"]
            scoring[version] = request.body["field_schema"].get("scoring")
    assert scoring == {"1.19.0": None, "1.20.0": True}


@pytest.mark.parametrize(
    ("quantization", "config"),
    [
        ("none", None),
        ("int8", {"scalar": {"type": "int8", "always_ram": True}}),
        ("4bit", {"turbo": {"bits": "bits4", "always_ram": True}}),
    ],
)
def test_a_collection_has_the_quantization_of_the_settings_and_originals_on_disk(
    tmp_path: Path, quantization: Any, config: object
) -> None:
    openapi = os.environ.get("QDRANT_OPENAPI")
    with QdrantDouble(openapi=Path(openapi) if openapi else None) as double:
        address = StoreAddress(tmp_path, url=double.url, quantization=quantization)
        with Store(ServerClient(address), address) as store:
            made = opened(store, "images")
            store.points.upsert(made, image_points(3), wait=True)
            assert [hit.id for hit in store.search.nearest(made, AXES[1], limit=1)] == ids(2)[1:]
        (request,) = [each for each in double.requests if "vectors" in (each.body or {}) and each.method == "PUT"]
        for vector in request.body["vectors"].values():
            assert (vector["on_disk"], vector.get("quantization_config")) == (True, config)
        assert len(request.body["vectors"]) == 2
        assert double.invalid == []


def test_4bit_quantization_on_an_old_server_is_refused_before_anything_is_created(tmp_path: Path) -> None:
    with QdrantDouble(version="1.17.1") as double:
        address = StoreAddress(tmp_path, url=double.url, quantization="4bit")
        with Store(ServerClient(address), address) as store:
            with pytest.raises(StoreError, match=r"version 1\.17, .* Upgrade Qdrant to 1\.18 .*QUANTIZATION=int8"):
                opened(store, "images")
            assert store.collections.live("images") is None


def test_the_embedded_store_ignores_quantization(tmp_path: Path) -> None:
    address = StoreAddress(tmp_path, quantization="4bit")
    with Store(open_directory(tmp_path), address) as store:
        made = opened(store, "images")
        store.points.upsert(made, image_points(3), wait=True)
        assert [hit.id for hit in store.search.nearest(made, AXES[1], limit=1)] == ids(2)[1:]


def _alias(alias: str, collection: str) -> Any:
    from qdrant_client import models

    return models.CreateAliasOperation(create_alias=models.CreateAlias(alias_name=alias, collection_name=collection))
