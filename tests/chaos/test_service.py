"""The service over HTTP while its store or clients fail: it reports that, serves other clients, and recovers."""

import base64
import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.replica import INDEX, fill, listening
from tests.chaos.conftest import PATIENCE_S, nothing_left_over, until
from tests.chaos.table import Cost, chance
from tests.indexing.sample_images import encoded_image
from tests.processes import children
from viewfinder.models.checkpoint import locate
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import Fault, QdrantDouble

CLIENTS = 8
TIMEOUT_S = 3.0
QUERY = r"^POST .*/points/query"
TEXTS = [f"image number {number}" for number in range(24)]

Answers = Counter[tuple[int, str]]


@pytest.fixture
def url(qdrant: QdrantDouble, tiny_model: str, tmp_path: Path, temporary: Path) -> Iterator[str]:
    """One replica of the service on a socket, with a decoder. The test must leave nothing behind."""
    with connect(StoreAddress(tmp_path, qdrant.url)) as store:
        fill(store, locate(tiny_model))
    settings = Settings.load({}, qdrant_url=qdrant.url, index=INDEX, refresh_s=0.2, request_timeout_s=TIMEOUT_S)
    with nothing_left_over(temporary):
        before = children()
        service = SearchService.connect(settings, Metrics())
        service.start()
        try:
            with listening(build_api(service)) as port:
                url = f"http://127.0.0.1:{port}"
                search_by_image(url)
                assert children() > before, "an image needs a decoder"
                yield url
        finally:
            service.close()


def search_by_image(url: str) -> None:
    body = {"image": base64.b64encode(encoded_image(1)).decode()}
    assert httpx.post(f"{url}/v1/search", json=body, timeout=PATIENCE_S).status_code == 200


@dataclass
class Crowd:
    """Clients that search without a pause; counts their answers, and collects those that differ from `right`."""

    url: str
    right: dict[str, list[Any]]
    answers: Answers = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            for turn in itertools.count(number):
                if self.over.is_set():
                    return
                text = TEXTS[turn % len(TEXTS)]
                status, code, hits = answer_to(client, text)
                with self.changed:
                    self.answers[status, code] += 1
                    if status == 200 and hits != self.right[text]:
                        self.wrong.append(text)
                    self.changed.notify_all()

    def wait_for(self, status: int, code: str = "", count: int = 10) -> None:
        """Wait for `count` more answers of this kind."""
        with self.changed:
            wanted = self.answers[status, code] + count
            assert self.changed.wait_for(lambda: self.answers[status, code] >= wanted, PATIENCE_S), self.answers


def answer_to(client: httpx.Client, text: str) -> tuple[int, str, list[Any]]:
    try:
        answer = client.get("/v1/search", params={"q": text, "limit": 5})
    except httpx.TransportError as error:
        return 0, type(error).__name__, []
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return answer.status_code, "said by Ray Serve", []
    body = answer.json()
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) > 0
    code = body["error"]["code"] if "error" in body else ""
    return answer.status_code, code, [(hit["id"], round(hit["score"], 5)) for hit in body.get("hits", [])]


@contextlib.contextmanager
def crowd(url: str) -> Iterator[Crowd]:
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        made = Crowd(url, {text: answer_to(client, text)[2] for text in TEXTS})
    assert all(len(hits) == 5 for hits in made.right.values())
    threads = [threading.Thread(target=made.ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        made.wait_for(200, count=CLIENTS)
        yield made
    finally:
        made.over.set()
        for thread in threads:
            thread.join()


def record_cost(cost: Cost, answers: Answers, began: float, injected: int) -> None:
    refused = {kind: count for kind, count in answers.items() if kind[0] != 200}
    cost.injected, cost.seconds = injected, time.perf_counter() - began
    cost.fault += f": {answers[200, '']} answered, " + (
        ", ".join(f"{count} {status} {code}" for (status, code), count in refused.items()) or "none refused"
    )


@pytest.mark.chaos("Service")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("the store away for 5 s", Fault(away_s=5.0, on=QUERY)),
        ("the store cuts connections", Fault(drop="before", on=QUERY)),
        ("the store is overloaded (503)", Fault(status=503, on=QUERY)),
    ],
    ids=["away", "cut", "overloaded"],
)
def test_an_outage_of_the_store_is_reported_and_the_service_recovers(
    url: str, qdrant: QdrantDouble, cost: Cost, name: str, fault: Fault
) -> None:
    cost.fault, began = name, time.perf_counter()
    with crowd(url) as asking:
        asking.wait_for(200, count=chance(name).randint(1, 4 * CLIENTS))
        qdrant.faults.extend([fault] * (1 if fault.away_s else 10_000))
        asking.wait_for(503, "store_unavailable", count=3)
        assert httpx.get(f"{url}/healthz").status_code == 200, "a restart of the replica would not help"
        met = 10_000 - len(qdrant.faults)
        qdrant.faults.clear()
        asking.wait_for(200, count=2 * CLIENTS)
    assert asking.answers.keys() == {(200, ""), (503, "store_unavailable")}
    assert asking.wrong == []
    record_cost(cost, asking.answers, began, 1 if fault.away_s else met)


@pytest.mark.chaos("Service")
def test_a_slow_store_delays_only_its_own_searches(url: str, qdrant: QdrantDouble, cost: Cost) -> None:
    cost.fault, began = "the store takes 6 s for half of the searches", time.perf_counter()
    with crowd(url) as asking:
        half = [*[Fault(delay_s=6.0, on=QUERY)] * 4, *[Fault(on=QUERY)] * 4]
        qdrant.faults.extend(chance("a slow store").sample(half, k=len(half)))
        asking.wait_for(200, count=CLIENTS)
        assert httpx.get(f"{url}/healthz").status_code == 200
        until(lambda: not qdrant.faults, "a fault was not hit")
        asking.wait_for(200, count=4 * CLIENTS)
    assert {status for status, _ in asking.answers} <= {200, 503, 504}
    assert asking.answers[504, "timeout"] + asking.answers[503, "store_unavailable"] > 0
    assert asking.wrong == []
    record_cost(cost, asking.answers, began, 4)


@pytest.mark.chaos("Service")
def test_stalled_clients_do_not_delay_others(url: str, cost: Cost) -> None:
    cost.fault, began = "clients stop in the middle of a request", time.perf_counter()
    host, port = url.removeprefix("http://").split(":")
    head = b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n"
    moment = chance(cost.fault)
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(200)]
        for number, each in enumerate(stalled):
            begun = head[: moment.randrange(1, len(head))]
            body = b'{"text": "'.ljust(moment.randrange(1, 100), b"a")
            each.sendall((begun, head, head + b"\r\n", head + b"\r\n" + body)[number % 4])
        with crowd(url) as asking:
            asking.wait_for(200, count=10 * CLIENTS)
            half_a_body = stalled[3]
            half_a_body.settimeout(PATIENCE_S)
            assert half_a_body.recv(4096).startswith(b"HTTP/1.1 408"), "an incomplete body is not abandoned"
            asking.wait_for(200, count=CLIENTS)
    assert asking.answers.keys() == {(200, "")}
    assert asking.wrong == []
    record_cost(cost, asking.answers, began, len(stalled))
