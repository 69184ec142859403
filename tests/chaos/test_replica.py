"""One of two replicas is killed under load: what it had in hand is lost, no more, and its place is filled by itself."""

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
from tests.chaos.test_ray import DECODER, busy, command, descendants, orphans
from tests.chaos.test_service import CLIENTS, crowd, search_by_picture, tell
from viewfinder.models.checkpoint import locate
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = [pytest.mark.cluster, pytest.mark.full]

REPLICAS = 2


@pytest.fixture
def url(ray_session: None, qdrant: QdrantDouble, tiny_model: str, tmp_path: Path, temporary: Path) -> Iterator[str]:
    """Two replicas on Ray Serve; at the end none of them is left over, nor anything of this process."""
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
        until(lambda: not busy("ray::", "ServeReplica"), "no replica is left over")


def decoders(*replicas: int) -> set[int]:
    return {each for replica in replicas for each in descendants(replica) if DECODER in command(each)}


@pytest.mark.chaos("Service")
def test_a_replica_that_is_killed_under_load_costs_what_it_had_in_hand(url: str, cost: Cost) -> None:
    cost.fault, began = "one of two replicas is killed under load", time.perf_counter()
    replicas = busy("ray::", "ServeReplica")
    assert len(replicas) == REPLICAS
    search_by_picture(url)
    # The one that got the picture, and so has a decoder.
    victim = next(each for each in replicas if decoders(each))
    its = decoders(victim)
    with crowd(url) as asking:
        os.kill(victim, signal.SIGKILL)
        asking.wait_for(200, count=10 * CLIENTS)
        until(lambda: len(set(busy("ray::", "ServeReplica")) - {victim}) == REPLICAS, "a new replica")
        asking.wait_for(200, count=10 * CLIENTS)
    # What it had in hand is answered by Serve, or not at all; the others may be told to come again.
    assert {status for status, _ in asking.told} <= {200, 0, 500, 503, 504}
    assert sum(count for (status, _), count in asking.told.items() if status in (0, 500)) <= CLIENTS, asking.told
    assert asking.wrong == []
    assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200
    until(lambda: not orphans(its), "no decoder outlives its replica")
    tell(cost, asking.told, began, 1)
