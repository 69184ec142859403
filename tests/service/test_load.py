"""The service on Ray Serve under more requests than it admits."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.load import Ask, crowd, mixed
from benchmarks.replica import INDEX, distinct_texts, fill, listening, replica
from tests.service.deaf_clients import deaf_clients
from viewfinder.arrays import Vectors
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.http.api import build_api
from viewfinder.service.http.guard import capacity
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.fast_proxy import fast_proxy_environment
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow

CLIENTS = 32
DEAF_CLIENTS = 320
SEARCHES = 320
TIMEOUT_S = 60
MAX_RUN_S = 570
KEY = "a key for tests, of no value anywhere else"


class GatedQdrant(QdrantDouble):
    """Answers no search while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        super().__init__()

    def answer(self, request: Any, key: str | None) -> Any:
        if "/points/query" in request.path:
            self.gate.wait(TIMEOUT_S)
        return super().answer(request, key)


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Iterator[GatedQdrant]:
    with GatedQdrant() as double:
        address = StoreAddress(data_dir=tmp_path_factory.mktemp("data"), url=double.url)
        with connect(address) as store:
            fill(store, locate(tiny_model))
        yield double
        double.gate.set()


@pytest.fixture(scope="module")
def settings(qdrant: GatedQdrant) -> Settings:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return Settings.load(
        {},
        qdrant_url=qdrant.url,
        index=INDEX,
        port=port,
        batch_size=4,
        queue_size=CLIENTS - 4 * 4,
        max_replicas=1,
        replica_cpus=0.5,
        request_timeout_s=TIMEOUT_S,
        api_keys=sha256(KEY.encode()).hexdigest(),
    )


@pytest.fixture(scope="module")
def address(ray_session: None, settings: Settings) -> Iterator[str]:
    from ray import serve

    serve.start(http_options={"host": "127.0.0.1", "port": settings.port})
    deploy(settings)
    if metrics_port := os.environ.get("RAY_SERVE_HAPROXY_METRICS_PORT"):
        assert "haproxy_process" in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    yield f"http://127.0.0.1:{settings.port}"
    serve.shutdown()


@pytest.fixture
async def client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=2 * CLIENTS)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=TIMEOUT_S, limits=limits) as each:
        yield each


@pytest.fixture
def closed_gate(qdrant: GatedQdrant) -> Iterator[threading.Event]:
    qdrant.gate.clear()
    yield qdrant.gate
    qdrant.gate.set()


def deploy(settings: Settings) -> None:
    from ray import serve

    from viewfinder.service.app import application

    serve.run(application(settings), name="load", route_prefix="/")


def search(client: httpx.AsyncClient, number: int) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(client.post("/v1/search", json={"text": f"image number {number}"}))


async def until_full(client: httpx.AsyncClient, *, full: bool = True) -> httpx.Response:
    """The response to an empty query once the replica refuses requests, or accepts them again.

    An accepted empty query is refused without the store, whose threads may all wait at the gate.
    """
    async with asyncio.timeout(TIMEOUT_S):
        while (answer := await client.post("/v1/search", json={})).status_code != (503 if full else 422):
            await asyncio.sleep(0.02)
    return answer


@pytest.mark.full
@pytest.mark.cluster
async def test_a_replica_is_warm_before_its_first_request(client: httpx.AsyncClient) -> None:
    first = await search(client, 0)
    assert first.status_code == 200
    assert first.json()["hits"]


@pytest.mark.full
@pytest.mark.cluster
async def test_many_clients_with_every_kind_of_query_get_no_error(client: httpx.AsyncClient, address: str) -> None:
    hits = (await search(client, 0)).json()["hits"]
    outcome = await crowd(address, mixed(hits[0]), clients=CLIENTS, seconds=10, key=KEY)
    assert not outcome.errors
    assert outcome.answered > CLIENTS


@pytest.mark.full
@pytest.mark.cluster
@pytest.mark.chaos("Service", "more requests than the queue takes")
async def test_requests_beyond_the_queue_are_refused_and_all_admitted_ones_answered(
    client: httpx.AsyncClient, settings: Settings, closed_gate: threading.Event
) -> None:
    waiting = [search(client, number) for number in range(capacity(settings))]
    refused = await until_full(client)

    assert refused.headers["retry-after"] == "1"
    error = refused.json()["error"]
    assert error["code"] == "overloaded"
    assert [error["request_id"]] == refused.headers.get_list("x-request-id"), "Serve adds one of its own"
    assert (await client.get("/healthz")).status_code == 200, "an overloaded replica stays healthy"

    closed_gate.set()
    assert {(await each).status_code for each in waiting} == {200}


@pytest.mark.full
@pytest.mark.cluster
async def test_requests_of_disconnected_clients_free_their_places(
    client: httpx.AsyncClient, settings: Settings, closed_gate: threading.Event
) -> None:
    waiting = [search(client, number) for number in range(capacity(settings))]
    await until_full(client)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    # The store still does not answer, so only the cancelled requests can have freed their places.
    await until_full(client, full=False)


@pytest.mark.full
@pytest.mark.cluster
@pytest.mark.chaos("Service", "320 clients do not read their answers")
async def test_clients_that_do_not_read_leave_room_for_others(client: httpx.AsyncClient, settings: Settings) -> None:
    """Regression: they kept their places in the queue, and all others got 503."""
    with deaf_clients(settings.port, DEAF_CLIENTS, b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"):
        for number in range(CLIENTS):
            assert (await search(client, number)).status_code == 200


@pytest.mark.full
@pytest.mark.cluster
async def test_an_image_of_several_megabytes_arrives(client: httpx.AsyncClient) -> None:
    # Ray refuses messages of more than 4 MB between its processes in some modes.
    answer = await client.post("/v1/search/image", files={"image": ("big.jpg", b"\xff\xd8" + bytes(6_000_000))})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_image")


@pytest.mark.full
@pytest.mark.cluster
@pytest.mark.chaos("Service", "a replica is replaced under load")
async def test_requests_in_progress_are_answered_when_the_replica_is_replaced(
    client: httpx.AsyncClient, settings: Settings, closed_gate: threading.Event
) -> None:
    waiting = [search(client, number) for number in range(CLIENTS // 2)]
    redeployment = asyncio.create_task(asyncio.to_thread(deploy, settings.model_copy(update={"refresh_s": 4.0})))
    await asyncio.sleep(1)  # the old replica is stopping by now, and its requests wait at the gate
    closed_gate.set()
    assert {(await each).status_code for each in waiting} == {200}
    await redeployment
    assert (await search(client, 0)).status_code == 200


@pytest.mark.cluster
@pytest.mark.full  # the same tests again, in a process with the fast proxy
@pytest.mark.timeout(MAX_RUN_S + 30)
def test_all_tests_pass_behind_the_fast_proxy() -> None:
    # A separate Ray, because Ray reads at import which proxy to run.
    with fast_proxy_environment() as variables:
        variables |= {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2"}
        # HAProxy does not always report a disconnected client (docs/operations.md).
        others = [
            test_requests_of_disconnected_clients_free_their_places,
            test_all_tests_pass_behind_the_fast_proxy,
        ]
        deselected = [f"--deselect=tests/service/{Path(__file__).name}::{each.__name__}" for each in others]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "cluster", *deselected]
        done = subprocess.run(
            [*command, __file__],
            cwd=Path(__file__).parents[2],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MAX_RUN_S,
        )
    assert done.returncode == 0, done.stdout


class CountingEncoder(Encoder):
    """Records the number of texts in each call."""

    sizes: tuple[int, ...] = ()

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        self.sizes += (len(texts),)
        return super().encode_texts(texts)


async def test_batches_form_across_requests(tiny_model: str) -> None:
    encoder = CountingEncoder.load(locate(tiny_model), device="cpu")
    assert isinstance(encoder, CountingEncoder)
    asks = (Ask("text", "POST", "/v1/search", {"text": text}) for text in islice(distinct_texts(), SEARCHES))
    with replica(encoder, batch_size=16) as service, listening(build_api(service)) as port:
        warm_up = encoder.sizes
        outcome = await crowd(f"http://127.0.0.1:{port}", asks, clients=CLIENTS)
    assert warm_up == (1,)
    assert not outcome.errors
    sizes = encoder.sizes[1:]
    assert sum(sizes) == SEARCHES
    assert max(sizes) > 1
    assert max(sizes) <= 16
