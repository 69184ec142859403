"""Filters, failures, and what is sent to a server: the contract of every store."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from tests.store.points import AXES, ids, image_points, opened
from viewfinder.errors import FilterError, StoreError
from viewfinder.settings import Quantization
from viewfinder.store import Failure, PointBatch, Store, StoreAddress
from viewfinder.store.directory import open_directory
from viewfinder.store.schema import PAYLOAD_INDEXES, ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow


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
        ({"meta.year": {"in": [2019, 2021.0]}}, {0, 1}),
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
            (request,) = [each for each in double.requests if (each.body or {}).get("field_name") == "caption_words"]
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


@pytest.mark.parametrize(
    ("on_disk", "indexes", "graphs"), [("vectors", False, False), ("indexes", True, False), ("graphs", True, True)]
)
def test_a_collection_has_on_disk_what_the_settings_say(
    tmp_path: Path, on_disk: Any, indexes: bool, graphs: bool
) -> None:
    openapi = os.environ.get("QDRANT_OPENAPI")
    with QdrantDouble(openapi=Path(openapi) if openapi else None) as double:
        address = StoreAddress(tmp_path, url=double.url, vector_type="float16", on_disk=on_disk)
        with Store(ServerClient(address), address) as store:
            made = opened(store, "images")
            store.collections.add_fields(made, {"meta.place": "keyword", "meta.price": "float", "meta.story": "text"})
        (request,) = [
            each for each in double.requests if each.method == "PUT" and each.path == f"/collections/{made.name}"
        ]
        for vector in request.body["vectors"].values():
            assert (vector["on_disk"], vector["datatype"]) == (True, "float16")
            assert (vector.get("hnsw_config") or {}).get("on_disk", False) is graphs
        schemas = {
            each.body["field_name"]: each.body["field_schema"]
            for each in double.requests
            if each.path == f"/collections/{made.name}/index"
        }
        assert {*PAYLOAD_INDEXES, "caption_words", "meta.place", "meta.price"} <= set(schemas)
        assert {isinstance(each, dict) and bool(each.get("on_disk")) for each in schemas.values()} == {indexes}
        assert double.invalid == []


@pytest.mark.parametrize(("usual", "restored"), [(None, 20_000), (7_000, 7_000)])
def test_graphs_are_built_once_after_a_bulk_load(tmp_path: Path, usual: int | None, restored: int) -> None:
    openapi = os.environ.get("QDRANT_OPENAPI")
    with QdrantDouble(openapi=Path(openapi) if openapi else None) as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            live = opened(store, "images")
            if usual is not None:  # the operator's, in Qdrant's configuration
                store.connection.call(
                    "update_collection",
                    collection_name=live.name,
                    optimizers_config=models.OptimizersConfigDiff(indexing_threshold=usual),
                )
            made = store.collections.create("images", ModelIdentity("ViT::other", "beef", 8), bulk_load=True)
            assert threshold(store, made.name) == 0
            for _ in range(2):
                store.collections.build_graphs(made)
                assert threshold(store, made.name) == restored
        assert double.invalid == []


@pytest.mark.parametrize("on_disk", ["indexes", "graphs"])
def test_payload_indexes_on_disk_are_not_held_in_memory_by_a_bulk_load(tmp_path: Path, on_disk: Any) -> None:
    """Segments without graphs held them in memory until the end of the load, more than the nodes of the plan have."""
    with QdrantDouble() as double:
        address = StoreAddress(tmp_path, url=double.url, on_disk=on_disk)
        with Store(ServerClient(address), address) as store:
            made = store.collections.create("images", ModelIdentity("ViT::other", "beef", 8), bulk_load=True)
            assert threshold(store, made.name) > 0


def test_a_collection_that_a_killed_bulk_load_left_gets_graphs_if_it_becomes_the_live_one(tmp_path: Path) -> None:
    with QdrantDouble() as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            left = store.collections.create("images", ModelIdentity("ViT::tiny", "f00d", 4), bulk_load=True)
            assert threshold(store, left.name) == 0
            assert opened(store, "images").name == left.name
            assert threshold(store, left.name) == 20_000


def threshold(store: Store, name: str) -> int:
    config = store.connection.call("get_collection", collection_name=name).config
    return int(config.optimizer_config.indexing_threshold)


def test_4bit_quantization_on_an_old_server_is_refused_before_anything_is_created(tmp_path: Path) -> None:
    with QdrantDouble(version="1.17.1") as double:
        address = StoreAddress(tmp_path, url=double.url, quantization="4bit")
        with Store(ServerClient(address), address) as store:
            with pytest.raises(StoreError, match=r"version 1\.17, .* Upgrade Qdrant to 1\.18 .*QUANTIZATION=int8"):
                opened(store, "images")
            assert store.collections.live("images") is None


@pytest.mark.parametrize("quantization", ["int8", "4bit"])
def test_the_embedded_store_takes_quantization(tmp_path: Path, quantization: Quantization) -> None:
    address = StoreAddress(tmp_path, quantization=quantization)
    with Store(open_directory(tmp_path), address) as store:
        made = opened(store, "images")
        store.points.upsert(made, image_points(3), wait=True)
        hits = store.search.nearest(made, AXES[1], limit=1)
        assert [hit.id for hit in hits] == ids(2)[1:]
        assert hits[0].score == pytest.approx(1)
        params = store.connection.call("get_collection", collection_name=made.name).config.params
        assert params.vectors["image"].quantization_config is not None
