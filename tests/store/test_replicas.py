"""The double of a cluster: replicas disagree after writes with weak ordering, as those of a real one do."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pytest
from qdrant_client import models

from viewfinder.errors import StoreUnavailableError
from viewfinder.store import PointBatch, Store, StoreAddress
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[QdrantDouble, list[ServerClient]]]:
    with QdrantDouble(nodes=3) as double:
        clients = [ServerClient(StoreAddress(tmp_path, url=url)) for url in double.urls]
        clients[0].call("create_collection", collection_name="c", vectors_config={})
        yield double, clients
        for each in clients:
            each.close()


def insert(client: ServerClient, who: str, **options: Any) -> None:
    point = models.PointStruct(id=1, vector={}, payload={"who": who})
    client.call("upsert", collection_name="c", points=[point], wait=True, **options)


def read(client: ServerClient, **options: Any) -> str:
    (record,) = client.call("retrieve", collection_name="c", ids=[1], with_payload=True, **options)
    return str(record.payload["who"])


@pytest.mark.parametrize(
    ("ordering", "winners"), [(None, {"a", "b"}), ("weak", {"a", "b"}), ("medium", {"x"}), ("strong", {"x"})]
)
def test_two_conditional_writes_at_once_both_win_with_weak_ordering_only(
    cluster: tuple[QdrantDouble, list[ServerClient]], ordering: str | None, winners: set[str]
) -> None:
    _, clients = cluster
    options = {} if ordering is None else {"ordering": models.WriteOrdering(ordering)}

    def take(node: int) -> str:
        insert(clients[node], "ab"[node], update_mode=models.UpdateMode.INSERT_ONLY, **options)
        return read(clients[node])

    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(take, range(2)))
    assert len(found) == len(winners)


def test_with_the_leader_down_medium_ordering_fails_once_and_strong_always(
    cluster: tuple[QdrantDouble, list[ServerClient]],
) -> None:
    double, clients = cluster
    double.stop_node(0)
    for ordering, failures in ((models.WriteOrdering.STRONG, 2), (models.WriteOrdering.MEDIUM, 1)):
        for _ in range(failures):
            with pytest.raises(StoreUnavailableError, match="ordering via leader peer 0"):
                insert(clients[1], "a", ordering=ordering)
    insert(clients[1], "a", ordering=models.WriteOrdering.MEDIUM)
    assert read(clients[2]) == "a"
    with pytest.raises(StoreUnavailableError, match="read operations failed"):
        read(clients[2], consistency=models.ReadConsistencyType.MAJORITY)


def test_new_points_and_sources_of_two_programs_at_once_are_the_same_on_all_replicas(tmp_path: Path) -> None:
    with QdrantDouble(nodes=3) as double, ExitStack() as stack:
        addresses = [StoreAddress(tmp_path, url=url, retry_s=5) for url in double.urls]
        stores = [stack.enter_context(Store(ServerClient(each), each)) for each in addresses]
        collection = stores[0].collections.open("images", ModelIdentity("m", "f00d", 2))
        key = str(uuid5(NAMESPACE_URL, "s3://b/1"))

        def index(node: int) -> None:
            payload = {"etag": f"e{node}", "sources": ["s3://b"]}
            batch = PointBatch([key], [payload], image=np.ones((1, 2), np.float32))
            stores[node].points.upsert(collection, batch, wait=True, only_new=True)
            stores[node].points.add_sources(collection, {key: [f"s3://{node}"]})

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(index, range(2)))
        states = [each.points.states(collection, [key])[key] for each in stores]
        assert len({state.etag for state in states}) == 1
        assert {frozenset(state.sources) for state in states} == {frozenset(("s3://b", "s3://0", "s3://1"))}
