"""Replicas on Ray Serve follow the texts and images that wait, not the requests."""

import asyncio
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.replica import INDEX, fill
from tests.service.http.searching import as_base64
from viewfinder.models.checkpoint import locate
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.cluster, pytest.mark.timeout(900)]

# Serve adds a replica for a load of more than 30 s.
SMALL_TRAFFIC_S = 60
TIMEOUT_S = 400
APPLICATION = "scaling"


@pytest.fixture
def address(ray_session: None, tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Iterator[str]:
    from ray import serve

    from viewfinder.service.app import application

    with QdrantDouble() as qdrant, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        with connect(StoreAddress(data_dir=tmp_path_factory.mktemp("data"), url=qdrant.url)) as store:
            fill(store, locate(tiny_model))
        settings = Settings.load(
            {}, qdrant_url=qdrant.url, index=INDEX, port=port, batch_size=16, max_replicas=2, replica_cpus=0.5
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(settings), name=APPLICATION, route_prefix="/")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()


def replicas() -> int:
    """The replicas that run or start."""
    from ray import serve

    (deployment,) = serve.status().applications[APPLICATION].deployments.values()
    return sum(count for state, count in deployment.replica_states.items() if state in ("RUNNING", "STARTING"))


async def test_requests_with_64_images_start_a_second_replica_and_small_ones_do_not(address: str) -> None:
    """Regression: Serve's own policy counts a request with 64 images as one."""
    images = [as_base64(f"rgb({number},0,0)") for number in range(64)]
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        until = time.monotonic() + SMALL_TRAFFIC_S
        while time.monotonic() < until:
            assert (await client.post("/v1/search", json={"text": f"a cat at {until}"})).status_code == 200
            assert await asyncio.to_thread(replicas) == 1

        async def send_images() -> None:
            while True:
                assert (await client.post("/v1/embed", json={"images": images})).status_code in (200, 503)

        sender = asyncio.create_task(send_images())
        async with asyncio.timeout(TIMEOUT_S):
            while await asyncio.to_thread(replicas) < 2:
                assert not sender.done()
                await asyncio.sleep(1)
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
