"""Two replicas on Ray Serve follow the alias under constant load."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.clients import Answer, Clients
from benchmarks.swaps import replicas
from tests.fixtures.qdrant import validating
from tests.fixtures.services import create_collection
from viewfinder.cli.serve import free_port
from viewfinder.service.app import application
from viewfinder.service.serving import serving
from viewfinder.settings import Settings
from viewfinder.store import Collection, Store, StoreAddress, connect
from viewfinder.testing.models import tiny_checkpoint
from viewfinder.testing.qdrant import QdrantDouble, Request

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.full,
    pytest.mark.chaos("Service", "swaps, a killed replica, a model that cannot be loaded, the store unavailable"),
]

INDEX = "followed"
CLIENTS = 16
IN_A_ROW = 64
OUTAGE_S = 20
# A new replica imports torch and loads a model, perhaps on a busy machine.
TIMEOUT_S = 300


class InterruptibleQdrant(QdrantDouble):
    """A server that cuts every connection while `down` is set."""

    def __init__(self, **options: Any) -> None:
        self.down = threading.Event()
        super().__init__(**options)

    def answer(self, request: Request, key: str | None) -> Any:
        if self.down.is_set():
            raise ConnectionError("down")
        return super().answer(request, key)


@pytest.fixture
def qdrant() -> Iterator[InterruptibleQdrant]:
    with validating(InterruptibleQdrant) as double:
        yield double


@pytest.fixture
def store(qdrant: InterruptibleQdrant, tmp_path: Path) -> Iterator[Store]:
    with connect(StoreAddress(data_dir=tmp_path, url=qdrant.url, retry_s=5)) as connected:
        yield connected


@pytest.fixture
def url(ray_session: None, store: Store) -> Iterator[str]:
    settings = Settings.load(
        {},
        qdrant_url=store.address.url,
        index=INDEX,
        refresh_s=0.2,
        replica_cpus=0.5,
        min_replicas=2,
        max_replicas=2,
    )
    with serving(application(settings), "127.0.0.1", free_port("127.0.0.1", 0)) as address:
        yield address


def until(what: str, wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not wanted():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


@pytest.mark.timeout(4 * TIMEOUT_S)
def test_replicas_follow_the_alias_through_kills_bad_models_and_outages(
    store: Store,
    qdrant: InterruptibleQdrant,
    tiny_model: str,
    other_model: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    first, second = (create_collection(store, INDEX, model) for model in (tiny_model, other_model))
    store.collections.promote(INDEX, first.name)
    url: str = request.getfixturevalue("url")
    clients = Clients(url, [f"cat number {number}" for number in range(200)], CLIENTS)

    def move(to: Collection) -> None:
        store.collections.promote(INDEX, to.name)
        clients.wait_for(lambda answer: names(answer, to), IN_A_ROW, timeout_s=TIMEOUT_S)

    with clients.asking():
        move(second)
        move(first)
        assert clients.failed == []

        # A replica is killed as the alias moves; its replacement starts during the change.
        before = replicas()
        assert len(before) == 2
        answered_before = len(clients.answers)
        store.collections.promote(INDEX, second.name)
        os.kill(before[0], signal.SIGKILL)
        until("two replicas again", lambda: before[0] not in replicas() and len(replicas()) == 2)
        move(second)
        # Only requests that the killed replica was handling are lost.
        assert len(clients.failed) <= CLIENTS, clients.failed[:3]
        lost = len(clients.failed)

        # A model that no replica can load: the previous one keeps serving, and /readyz reports the problem.
        directory = tiny_checkpoint(tmp_path / "lost", seed=3)
        broken = create_collection(store, INDEX, str(directory))
        shutil.rmtree(directory)
        store.collections.promote(INDEX, broken.name)
        until("the problem is reported", lambda: "cannot be loaded" in str(readyz(url).get("behind")))
        until("the metric reports it", lambda: reported_behind(url))
        clients.wait_for(lambda answer: names(answer, second), IN_A_ROW, timeout_s=TIMEOUT_S)
        move(first)
        until("the problem is over", lambda: readyz(url).get("behind") is None)
        assert len(clients.failed) == lost

    assert len(clients.answers) > answered_before
    for answer in clients.answers:
        if answer.status == 200:
            assert answer.pair in {(tiny_model, first.name), (other_model, second.name)}
            assert {hit["payload"]["made_by"] for hit in answer.body["hits"]} == {answer.pair[1]}

    clients = Clients(url, [f"dog number {number}" for number in range(200)], CLIENTS)
    qdrant.down.set()
    with clients.asking():
        clients.wait_for(lambda answer: answer.status == 503, IN_A_ROW)
        time.sleep(OUTAGE_S)
        qdrant.down.clear()
        clients.wait_for(lambda answer: names(answer, first), IN_A_ROW)
    assert {each.body["error"]["code"] for each in clients.failed} == {"store_unavailable"}


def names(answer: Answer, collection: Collection) -> bool:
    return answer.status == 200 and answer.pair[1] == collection.name


def readyz(url: str) -> dict[str, Any]:
    body: dict[str, Any] = httpx.get(f"{url}/readyz", timeout=60).json()
    return body


def reported_behind(url: str) -> bool:
    """Return True if the gauge of any replica is 1; Ray exports metrics every ten seconds."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return any(line.startswith("viewfinder_generation_behind{") and line.endswith(" 1.0") for line in lines)
