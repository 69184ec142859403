"""One of two replicas is killed under load: only its current requests are lost, and it is replaced."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.replica import INDEX, fill
from tests.chaos.conftest import PATIENCE_S, nothing_left_over, until
from tests.chaos.table import Cost
from tests.chaos.test_ray import DECODER, busy, orphans
from tests.chaos.test_service import CLIENTS, crowd, record_cost, search_by_image
from tests.processes import command, descendants
from viewfinder.models.checkpoint import locate
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = [pytest.mark.cluster, pytest.mark.full]

REPLICAS = 2


@pytest.fixture
def url(ray_session: None, qdrant: QdrantDouble, tiny_model: str, tmp_path: Path, temporary: Path) -> Iterator[str]:
    """Two replicas on Ray Serve; the test must leave nothing behind."""
    from ray import serve

    from viewfinder.service.app import application

    with connect(StoreAddress(tmp_path, qdrant.url)) as store:
        fill(store, locate(tiny_model))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    several = {"min_replicas": REPLICAS, "max_replicas": REPLICAS, "replica_cpus": 0.5}
    settings = Settings.load({}, qdrant_url=qdrant.url, index=INDEX, port=port, **several)
    with nothing_left_over(temporary):
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(settings), name="killed", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
        until(lambda: not busy("ray::", "ServeReplica"), "a replica was left behind")


def decoders(*replicas: int) -> set[int]:
    return {each for replica in replicas for each in descendants(replica) if DECODER in command(each)}


@pytest.mark.chaos("Service")
def test_a_replica_killed_under_load_loses_only_its_current_requests(url: str, cost: Cost) -> None:
    cost.fault, began = "one of two replicas is killed under load", time.perf_counter()
    replicas = busy("ray::", "ServeReplica")
    assert len(replicas) == REPLICAS
    search_by_image(url)
    # The replica that got the image, and so has a decoder.
    victim = next(each for each in replicas if decoders(each))
    its = decoders(victim)
    with crowd(url) as asking:
        os.kill(victim, signal.SIGKILL)
        asking.wait_for(200, count=10 * CLIENTS)
        until(lambda: len(set(busy("ray::", "ServeReplica")) - {victim}) == REPLICAS, "the replica was not replaced")
        asking.wait_for(200, count=10 * CLIENTS)
    # Serve answers the requests of the killed replica, or nothing does; others may be told to retry.
    assert {status for status, _ in asking.answers} <= {200, 0, 500, 503, 504}
    assert sum(count for (status, _), count in asking.answers.items() if status in (0, 500)) <= CLIENTS, asking.answers
    assert asking.wrong == []
    assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200
    until(lambda: not orphans(its), "a decoder outlived its replica")
    record_cost(cost, asking.answers, began, 1)
