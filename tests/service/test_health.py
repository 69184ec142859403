"""Ray Serve and the health of a replica that has no model."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.services import create_collection
from viewfinder.cli.serve import free_port
from viewfinder.errors import ViewfinderError
from viewfinder.service.app import application
from viewfinder.service.serving import APPLICATION, serving
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, connect
from viewfinder.testing.models import tiny_checkpoint
from viewfinder.testing.qdrant import QdrantDouble

# The same cases run in process in tests/service/generation and tests/service/http.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.full]

INDEX = "unhealthy"
WAIT_S = 120


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with (
        QdrantDouble() as double,
        connect(StoreAddress(data_dir=tmp_path / "data", url=double.url, retry_s=5)) as connected,
    ):
        yield connected


def lose_live_model(store: Store, directory: Path) -> None:
    lost = tiny_checkpoint(directory, seed=3)
    store.collections.promote(INDEX, create_collection(store, INDEX, str(lost)).name)
    shutil.rmtree(lost)


def state() -> str:
    from ray import serve

    return str(serve.status().applications[APPLICATION].deployments["viewfinder"].status)


@pytest.mark.timeout(4 * WAIT_S)
def test_a_replica_without_its_model_neither_starts_nor_stays(ray_session: None, store: Store, tmp_path: Path) -> None:
    settings = Settings.load(
        {}, qdrant_url=store.address.url, index=INDEX, refresh_s=0.2, replica_cpus=0.5, max_replicas=1
    )
    with serving(application(settings), "127.0.0.1", free_port("127.0.0.1", 0)) as url:
        assert httpx.get(f"{url}/healthz", timeout=WAIT_S).status_code == 200, "without an index it starts empty"
        assert "HEALTHY" in state()
        lose_live_model(store, tmp_path / "lost")
        deadline = time.monotonic() + WAIT_S
        while "UNHEALTHY" not in state():
            assert time.monotonic() < deadline, state()
            time.sleep(0.2)
    with (
        pytest.raises(ViewfinderError, match="did not start"),
        serving(application(settings), "127.0.0.1", free_port("127.0.0.1", 0)),
    ):
        pass
