"""Requests stay below Qdrant's size limit, whatever the size of captions, vectors, batches and filters."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.errors import FilterError, StoreError
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Failure, PointBatch, Search, Store, StoreAddress
from viewfinder.store.records import StoredPoint
from viewfinder.store.request_size import RequestLimit, point_bytes
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

LIMIT = 32_000
LARGE = 4_000  # bytes of a caption


@pytest.fixture
def double() -> Iterator[QdrantDouble]:
    with QdrantDouble(max_request_bytes=LIMIT) as made:
        yield made


@pytest.fixture
def store(double: QdrantDouble, tmp_path: Path) -> Iterator[Store]:
    address = StoreAddress(tmp_path, url=double.url, retry_s=0, max_request_bytes=LIMIT)
    with Store(ServerClient(address), address) as made:
        yield made


@pytest.fixture
def made(store: Store) -> Collection:
    return store.collections.open("images", ModelIdentity("m", "f00d", 2))


def ids(count: int) -> list[str]:
    return [point_id(f"s3://b/{number}") for number in range(count)]


def captions(count: int) -> list[dict[str, Any]]:
    return [{"uri": f"s3://b/{number}", "etag": "é" * (LARGE // 2)} for number in range(count)]


def test_items_are_grouped_by_bytes_and_by_number() -> None:
    batches = RequestLimit(200).batches
    assert list(batches([50, 50, 50, 1, 1, 1, 1], 3)) == [range(2), range(2, 5), range(5, 7)]
    assert list(batches([1, 101, 1], 9)) == [range(1), range(1, 2), range(2, 3)]
    assert list(batches([], 9)) == []


@pytest.mark.parametrize("dimension", [2, 768])
def test_the_estimated_size_of_a_point_is_not_below_the_real_one(dimension: int) -> None:
    vectors = np.random.default_rng(0).normal(size=dimension).astype(np.float32) / 1e5
    payload = {"caption": "日本 \n \u0001 \\ \ud800", "tags": ["a"] * 100, "meta": {"year": 1999, "ratio": 0.1}}
    point = {"id": ids(1)[0], "vector": {"image": vectors.tolist()}, "payload": payload}
    real = len(json.dumps(point, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    assert real <= point_bytes(payload, dimension) <= 2 * real + 400


def test_points_with_large_payloads_are_written_in_several_requests(
    store: Store, made: Collection, double: QdrantDouble
) -> None:
    batch = PointBatch(ids(9), captions(9), image=np.ones((9, 2), np.float32))
    store.points.upsert(made, batch, wait=True)
    assert store.points.count(made) == 9
    assert sum(each.method == "PUT" and each.path.endswith("/points") for each in double.requests) == 3


def test_updates_with_large_payloads_are_sent_in_several_requests(
    store: Store, made: Collection, double: QdrantDouble
) -> None:
    store.points.upsert(made, PointBatch(ids(9), [{}] * 9, image=np.ones((9, 2), np.float32)), wait=True)
    large = dict(zip(ids(9), captions(9), strict=True))
    double.requests.clear()

    def change(id_: str, point: StoredPoint) -> StoredPoint | None:
        return None if point.payload.get("run_id") else StoredPoint({**large[id_], "run_id": "r"}, point.vectors)

    assert store.points.update(made, ids(9), change) == 9
    assert sum(each.method == "PUT" and each.path.endswith("/points") for each in double.requests) == 3
    assert len(store.points.records(made, ids(9)[8:])[ids(9)[8]].payload["etag"]) == LARGE // 2


def test_a_point_that_exceeds_the_limit_alone_is_named(store: Store, made: Collection) -> None:
    batch = PointBatch(ids(1), [{"etag": "x" * LIMIT}], image=np.ones((1, 2), np.float32))
    with pytest.raises(StoreError, match=rf"The point {ids(1)[0]} takes 0\.0 MB, more than Qdrant accepts"):
        store.points.upsert(made, batch, wait=True)


def test_control_records_with_large_texts_are_written_in_several_requests(store: Store, double: QdrantDouble) -> None:
    failures = {each: Failure("s3://b/0", "e", "decode", "truncated", "x" * LARGE) for each in ids(9)}
    store.control("images").record_failures(failures)
    assert len(store.control("images").failures(ids(9))) == 9


def test_searches_that_exceed_the_limit_together_are_sent_in_several_requests(
    store: Store, made: Collection, double: QdrantDouble
) -> None:
    store.points.upsert(made, PointBatch(ids(1), [{}], image=np.ones((1, 2), np.float32)), wait=True)
    searches = [Search(np.ones(2, np.float32), exclude=ids(150))] * 5 + [Search(np.ones(2, np.float32))]
    found = store.search.many(made, searches)
    assert [len(hits) for hits in found] == [0, 0, 0, 0, 0, 1]
    assert sum(each.path.endswith("/query/batch") for each in double.requests) == 5


def test_the_size_of_a_filter_is_counted_in_bytes(store: Store, made: Collection, double: QdrantDouble) -> None:
    """Letters of three bytes counted as one, and the server refused the request."""
    searches = [Search(np.ones(2, np.float32), filter={"tags": {"eq": "\ud55c" * 3000}})] * 2
    assert store.search.many(made, searches) == [[], []]
    assert sum(each.path.endswith("/query/batch") for each in double.requests) == 2
    larger = {"tags": {"in": ["\ud55c" * 4000 + letter for letter in "abc"]}}
    for ask in (
        lambda: store.search.parse(made, larger),
        lambda: store.search.many(made, [Search(np.ones(2, np.float32), filter=larger)]),
        lambda: store.search.groups(made, Search(np.ones(2, np.float32), filter=larger), "tags"),
    ):
        with pytest.raises(FilterError, match="more than Qdrant accepts"):
            ask()


def test_a_search_that_exceeds_the_limit_alone_is_refused(store: Store, made: Collection) -> None:
    search = Search(np.ones(2, np.float32), exclude=ids(1) * 600)
    with pytest.raises(FilterError, match=r"The search takes 0\.0 MB, more than Qdrant accepts"):
        store.search.many(made, [search])


def test_a_request_above_the_limit_of_a_proxy_names_the_setting(tmp_path: Path) -> None:
    with QdrantDouble(max_request_bytes=2000) as double:
        address = StoreAddress(tmp_path, url=double.url, retry_s=0)
        with (
            Store(ServerClient(address), address) as store,
            pytest.raises(StoreError, match=r"larger than allowed.* VIEWFINDER_QDRANT_MAX_REQUEST_MB"),
        ):
            store.control("images").take_down({ids(1)[0]: "s3://b/" + "x" * 3000})
