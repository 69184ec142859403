"""The service as Ray Serve runs it: one replica, real HTTP, Qdrant's wire, the model that the job used."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
import pytest

from viewfinder.batch import PointBatch
from viewfinder.models import locate
from viewfinder.objects import point_id
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.cluster

INDEX = "served"
CLIENTS = 8
TIMEOUT_S = 60  # a loaded machine is slow, which is no failure


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    openapi = os.environ.get("QDRANT_OPENAPI")
    with QdrantDouble(openapi=Path(openapi) if openapi else None) as double:
        address = StoreAddress(data_dir=tmp_path_factory.mktemp("data"), url=double.url, retry_s=5)
        with connect(address) as connected:
            yield connected
        assert not double.invalid


@pytest.fixture(scope="module")
def address(ray_session: None, store: Store) -> Iterator[str]:
    from ray import serve

    from serve.app import application

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings.load(qdrant_url=store.address.url, index=INDEX, port=port, refresh_s=0.2, replica_cpus=0.5)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application(settings), name="test", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def build(store: Store, model: str) -> str:
    """A live collection of ten points of this model; its name."""
    checkpoint = locate(model)
    collection = store.create(
        INDEX, checkpoint.name, asdict(checkpoint.spec), checkpoint.fingerprint, checkpoint.dimension
    )
    uris = [f"s3://bucket/{number}.jpg" for number in range(10)]
    vectors = np.random.default_rng(1).normal(size=(10, checkpoint.dimension)).astype(np.float32)
    payloads = [{"uri": uri, "made_by": collection.name} for uri in uris]
    store.upsert(collection, PointBatch([point_id(uri) for uri in uris], payloads, image=vectors), wait=True)
    store.promote(INDEX, collection.name)
    return collection.name


def until_ready(address: str, collection: str) -> None:
    for _ in range(300):
        answer = httpx.get(f"{address}/readyz", timeout=TIMEOUT_S)
        if answer.status_code == 200 and answer.json()["collection"] == collection:
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"the service never turned to {collection}: {answer.text}")


def test_the_service_starts_without_an_index_finds_it_and_follows_it_to_another_model(
    address: str, store: Store, tiny_model: str, other_model: str
) -> None:
    answer = httpx.post(f"{address}/v1/search", json={"text": "a cat"}, timeout=TIMEOUT_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_index")

    first = build(store, tiny_model)
    until_ready(address, first)

    answers: list[httpx.Response] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=TIMEOUT_S) as client:
            while not stop.is_set():
                answers.append(client.post(f"{address}/v1/search", json={"text": f"cat number {len(answers)}"}))

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    second = build(store, other_model)
    until_ready(address, second)
    threading.Event().wait(0.5)
    stop.set()
    for client in clients:
        client.join()

    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
    pairs = Counter()
    for body in (answer.json() for answer in answers):
        pairs[body["model"], body["collection"]] += 1
        assert {hit["payload"]["made_by"] for hit in body["hits"]} == {body["collection"]}
    assert set(pairs) == {(tiny_model, first), (other_model, second)}
