"""The double of Qdrant behaves like a server where the embedded engine does not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.store import StoreAddress
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = pytest.mark.slow

BY_COLOUR = models.Filter(
    must_not=[models.Filter(must=[models.FieldCondition(key="colour", match=models.MatchValue(value="red"))])]
)


@pytest.fixture
def double() -> Iterator[QdrantDouble]:
    with QdrantDouble(version="1.19.0") as made:
        yield made


@pytest.fixture
def client(double: QdrantDouble, tmp_path: Path) -> Iterator[ServerClient]:
    made = ServerClient(StoreAddress(tmp_path, url=double.url))
    vectors = models.VectorParams(size=2, distance=models.Distance.COSINE)
    made.call("create_collection", collection_name="c", vectors_config=vectors, metadata={"x": [0.1, 1.0, 3]})
    points = [models.PointStruct(id=n, vector=[1.0, n / 10], payload={"colour": "red"}) for n in range(6)]
    made.call("upsert", collection_name="c", points=points)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("scroll", {"scroll_filter": BY_COLOUR}),
        ("count", {"count_filter": BY_COLOUR}),
        ("delete", {"points_selector": BY_COLOUR}),
        ("set_payload", {"payload": {"key": "x"}, "points": BY_COLOUR}),
        ("query_points", {"query": [1.0, 0.0], "query_filter": BY_COLOUR}),
        ("query_batch_points", {"requests": [models.QueryRequest(query=[1.0, 0.0], filter=BY_COLOUR)]}),
        ("upsert", {"points": [models.PointStruct(id=1, vector=[1.0, 0.0])], "update_filter": BY_COLOUR}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_strict_mode_refuses_filters_on_fields_without_an_index(
    client: ServerClient, method: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(StoreError, match='status 400: Bad request: Index required but not found for "colour"'):
        client.call(method, collection_name="c", **arguments)
    client.call("create_payload_index", collection_name="c", field_name="colour", field_schema="keyword")
    client.call(method, collection_name="c", **arguments)


def test_facets_need_an_index(client: ServerClient) -> None:
    with pytest.raises(StoreError, match="No appropriate index for faceting: `colour`"):
        client.call("facet", collection_name="c", key="colour")


def test_words_are_refused_before_1_20(client: ServerClient) -> None:
    with pytest.raises(StoreError, match="status 400: Format error in JSON body"):
        client.call("query_points", collection_name="c", query=models.TextQuery(text="red"), using="caption")


def test_pages_after_the_first_of_a_diverse_search_are_empty(client: ServerClient) -> None:
    query = models.NearestQuery(nearest=[1.0, 0.0], mmr=models.Mmr(diversity=0.5, candidates_limit=6))
    pages = [client.call("query_points", collection_name="c", query=query, limit=2, offset=n) for n in (0, 1, 2)]
    assert [len(page.points) for page in pages] == [2, 1, 0]


def test_floats_in_metadata_come_back_one_bit_off(client: ServerClient) -> None:
    first, whole, count = client.call("get_collection", collection_name="c").config.metadata["x"]
    assert first != 0.1
    assert first == pytest.approx(0.1)
    assert (whole, count) == (1.0, 3)


def test_a_restarted_server_is_grey_until_the_next_write(double: QdrantDouble, client: ServerClient) -> None:
    double.restart()
    assert client.call("get_collection", collection_name="c").status == models.CollectionStatus.GREY
    client.call("delete", collection_name="c", points_selector=models.PointIdsList(points=[1]))
    assert client.call("get_collection", collection_name="c").status == models.CollectionStatus.GREEN


def test_a_slow_request_ends_with_408(double: QdrantDouble, client: ServerClient) -> None:
    double.faults.append(Fault(delay_s=9, on="count"))
    with pytest.raises(StoreUnavailableError, match="status 408: Timeout error"):
        client.call("count", collection_name="c", timeout=1)


def test_a_request_above_the_limit_is_refused(tmp_path: Path) -> None:
    with QdrantDouble(max_request_bytes=100) as double:
        client = ServerClient(StoreAddress(tmp_path, url=double.url))
        with pytest.raises(StoreError, match=r"status 413: Payload error: JSON payload .* is larger than allowed"):
            client.call("retrieve", collection_name="c", ids=list(range(100)))
        client.close()
