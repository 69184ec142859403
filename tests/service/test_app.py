"""The service on Ray Serve: one replica, real HTTP, and Qdrant's protocol."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.serve._private.logging_utils import get_serve_logs_dir

from tests.fixtures.qdrant import validating
from tests.fixtures.services import create_collection
from viewfinder.cli.serve import free_port
from viewfinder.errors import ConfigurationError
from viewfinder.service.app import application
from viewfinder.service.serving import APPLICATION, serving
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.cluster

INDEX, FURTHER = "served", "further"
CLIENTS = 8
TIMEOUT_S = 60  # generous, for loaded machines


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with validating(QdrantDouble) as double:
        address = StoreAddress(data_dir=tmp_path_factory.mktemp("data"), url=double.url, retry_s=5)
        with connect(address) as connected:
            yield connected


@pytest.fixture(scope="module")
def address(ray_session: None, store: Store) -> Iterator[str]:
    settings = Settings.load(
        qdrant_url=store.address.url, index=INDEX, indexes=(INDEX, FURTHER), refresh_s=0.2, replica_cpus=0.5
    )
    with serving(application(settings), "127.0.0.1", free_port("127.0.0.1", 0)) as url:
        yield url


def go_live(store: Store, model: str, index: str = INDEX) -> str:
    """Make a live collection of ten points of this model; return its name."""
    collection = create_collection(store, index, model)
    store.collections.promote(index, collection.name)
    return collection.name


def until_ready(address: str, collection: str) -> None:
    for _ in range(300):
        answer = httpx.get(f"{address}/readyz", timeout=TIMEOUT_S)
        if answer.status_code == 200 and answer.json()["collection"] == collection:
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"the service never served {collection}: {answer.text}")


def test_the_service_starts_without_an_index_finds_it_and_follows_it_to_another_model(
    address: str, store: Store, tiny_model: str, other_model: str
) -> None:
    answer = httpx.post(f"{address}/v1/search", json={"text": "a cat"}, timeout=TIMEOUT_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_index")

    first = go_live(store, tiny_model)
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
    while not answers:  # of the first model
        stop.wait(0.01)
    second = go_live(store, other_model)
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


def test_a_further_index_is_found_and_answers_with_its_own_model(
    address: str, store: Store, tiny_model: str, other_model: str
) -> None:
    until_ready(address, go_live(store, tiny_model))
    live = go_live(store, other_model, FURTHER)
    for _ in range(300):
        answer = httpx.post(f"{address}/v1/search", json={"text": "a cat", "index": FURTHER}, timeout=TIMEOUT_S)
        if answer.status_code == 200:
            break
        threading.Event().wait(0.1)
    assert (answer.json()["collection"], answer.json()["model"]) == (live, other_model)
    listed = httpx.get(f"{address}/v1/indexes", timeout=TIMEOUT_S).json()["indexes"]
    assert [(each["name"], each["model"], each["behind"]) for each in listed] == [
        (INDEX, tiny_model, None),
        (FURTHER, other_model, None),
    ]


def logged_statuses(request_id: str) -> list[int]:
    """The statuses in the access logs of all replicas, of requests with this id."""
    texts = [path.read_text() for path in Path(get_serve_logs_dir()).glob("access_*.log")]
    lines = [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line["status"] for line in lines if line["request_id"] == request_id]


def test_a_response_has_one_request_id(address: str) -> None:
    """Regression: Serve's proxy adds the header too, so responses had two."""
    for headers in ({}, {"x-request-id": "mine"}):
        answer = httpx.get(f"{address}/nothing", headers=headers, timeout=TIMEOUT_S)
        assert answer.headers.get_list("x-request-id") == [answer.json()["error"]["request_id"]]
    assert answer.headers["x-request-id"] == "mine"
    deadline = time.monotonic() + TIMEOUT_S
    while not (logged := logged_statuses("mine")) and time.monotonic() < deadline:
        time.sleep(0.05)  # the line is written after the answer
    assert logged == [404]


def test_metrics_of_replicas_are_exported_through_ray(address: str, store: Store, tiny_model: str) -> None:
    until_ready(address, go_live(store, tiny_model))
    httpx.post(f"{address}/v1/search", json={"text": "a cat to be counted"}, timeout=TIMEOUT_S)
    httpx.get(f"{address}/nothing", timeout=TIMEOUT_S)
    wanted = ("viewfinder_request_seconds_count", "viewfinder_errors_total", "viewfinder_generation")
    for _ in range(TIMEOUT_S):  # Ray exports metrics every ten seconds
        text = httpx.get(f"{address}/metrics", timeout=TIMEOUT_S).text
        if all(f"\n{name}{{" in text for name in wanted) and 'code="not_found"' in text:
            break
        threading.Event().wait(1)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name.removesuffix("_count").removesuffix("_total") for name in wanted} <= families.keys()
    samples = families["viewfinder_request_seconds"].samples
    searches = [each for each in samples if each.labels["route"] == "/v1/search" and each.name.endswith("_count")]
    assert {(each.labels["application"], each.labels["status"]) for each in searches} >= {(APPLICATION, "200")}
    assert all(each.labels["replica"] for each in searches)
    assert all(name.startswith("viewfinder_") for name in families)


DIGEST = "0" * 64


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "images.example"])
def test_without_keys_only_loopback_is_served(host: str) -> None:
    from viewfinder.service.app import require_keys_or_loopback

    with pytest.raises(ConfigurationError, match="VIEWFINDER_HOST") as raised:
        require_keys_or_loopback(Settings.load(host=host), fast_proxy=False)
    assert "VIEWFINDER_API_KEYS" in str(raised.value)
    assert "VIEWFINDER_ALLOW_ANONYMOUS=1" in str(raised.value)


def test_without_keys_the_fast_proxy_is_refused() -> None:
    from viewfinder.service.app import require_keys_or_loopback

    with pytest.raises(ConfigurationError, match="RAY_SERVE_ENABLE_HA_PROXY"):
        require_keys_or_loopback(Settings.load(), fast_proxy=True)


@pytest.mark.parametrize("access", [{"api_keys": DIGEST}, {"allow_anonymous": True}], ids=["keys", "anonymous"])
def test_keys_or_allow_anonymous_permit_all_addresses(access: dict[str, object]) -> None:
    from viewfinder.service.app import require_keys_or_loopback

    require_keys_or_loopback(Settings.load(host="0.0.0.0", **access), fast_proxy=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    from viewfinder.service.app import require_keys_or_loopback

    require_keys_or_loopback(Settings.load(host=host), fast_proxy=False)


def test_the_builder_refuses_before_anything_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfinder.service.app import build_app

    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigurationError, match="fast proxy"):
        build_app({"index": INDEX})
    monkeypatch.setenv("VIEWFINDER_API_KEYS", "hunter2")
    with pytest.raises(ConfigurationError, match="entry 1 of 1") as raised:
        build_app()
    assert "hunter2" not in str(raised.value)
