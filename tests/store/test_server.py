"""Faults of a server, over a real socket."""

import logging
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.backoff import Backoff
from viewfinder.errors import ConfigurationError, StoreError, StoreUnavailableError
from viewfinder.settings import Settings
from viewfinder.store import PointBatch, Store, StoreAddress, connect
from viewfinder.store.records import StoredPoint
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = pytest.mark.slow

KEY = "correct-horse"
POINT = "5d1b6a3e-0a2f-5b3e-9f43-0c9c6f1f6a01"

# Texts of Qdrant's status 500 (gRPC: INTERNAL) that pass, and of those that do not.
TRANSIENT_500 = [
    '1 of 3 read operations failed: Tonic status error: status: Unavailable, message: "error trying to connect"',
    "Failed to apply operation to at least one `Active` replica. Consistency of this update is not guaranteed. "
    "Please retry.",
    "Failed to apply update with Medium ordering via leader peer 7: Timeout expired",
    "Failed to propose operation: leader is not established within 10 secs",
    "The replica set for shard 0 on peer 5 has no active replica",
    "Operation 'Upsert' timed out on 1 of 3 shards",
    "Waiting for consensus operation commit failed. Timeout set at: 10 seconds",
    # A node that shuts down, or leaves the cluster.
    'Operation cancelled: status: Cancelled, message: ""',
    "Tokio task join error: task 12 was cancelled",
    "Can't reach one of the workers: channel closed",
    "Oneshot channel sender dropped: channel closed",
    "no address found for peer 7",
    'Internal error: status: Internal, message: "h2 protocol error: error reading a body from connection"',
]
# While a replica recovers.
NO_SHARD = "No target shard 0 found for update"
FINAL_500 = [
    "task panicked: index out of bounds while reading a replica",
    "Failed to apply operation to at least one `Active` replica: No space left on device. Please retry.",
    "RocksDB open error: corruption",
    "Tokio task join error: task 12 panicked",
    "Mutex lock poisoned: another task failed inside",
]

Open = Callable[..., Store]


@pytest.fixture
def double() -> Iterator[QdrantDouble]:
    with QdrantDouble() as made:
        yield made


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    """Open stores that retry without waiting; close them at the end."""
    made: list[Store] = []

    def open_at(url: str, *, attempts: bool = True, **settings: Any) -> Store:
        address = StoreAddress(tmp_path, url=url, **settings)
        retry = Backoff(60.0 if attempts else 0.0, sleep=lambda _: None, clock=lambda: 0.0)
        made.append(Store(ServerClient(address), address, retry))
        return made[-1]

    yield open_at
    for store in made:
        store.close()


def write(store: Store) -> None:
    made = store.collections.open("images", ModelIdentity("m", "f00d", 2))
    store.points.upsert(made, PointBatch([POINT], [{"etag": "e"}], image=np.ones((1, 2), np.float32)), wait=True)
    assert store.points.count(made) == 1


def upserts(double: QdrantDouble) -> int:
    return sum(each.method == "PUT" and each.path.endswith("/points") for each in double.requests)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=408, message="Timeout error: Operation 'Upsert' timed out after 60 seconds"),
        Fault(status=429, retry_after="1"),
        Fault(status=429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
        Fault(status=429),
        Fault(status=502),
        Fault(status=503, retry_after="2"),
        Fault(status=504),
        *[Fault(status=500, message=f"Service internal error: {text}") for text in TRANSIENT_500],
        Fault(status=500, message=f"Pre-condition failure: {NO_SHARD}"),
        Fault(drop="before"),
        Fault(drop="after"),
    ],
    ids=str,
)
def test_transient_errors_are_retried_and_the_point_is_written_once(
    double: QdrantDouble, open_store: Open, fault: Fault
) -> None:
    double.faults.extend([Fault(**{**vars(fault), "on": "PUT .*/points$"})] * 2)
    write(open_store(double.url))
    assert upserts(double) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_permanent_errors_are_not_retried(double: QdrantDouble, open_store: Open, status: int) -> None:
    double.faults.append(Fault(status=status, on="PUT .*/points$"))
    with pytest.raises(StoreError, match=rf"refused upsert with status {status}: injected status") as caught:
        write(open_store(double.url))
    assert not isinstance(caught.value, StoreUnavailableError)
    assert upserts(double) == 1


@pytest.mark.parametrize("text", FINAL_500)
def test_an_internal_error_that_fails_again_is_not_retried(double: QdrantDouble, open_store: Open, text: str) -> None:
    double.faults.append(Fault(status=500, message=f"Service internal error: {text}", on="PUT .*/points$"))
    with pytest.raises(StoreError) as caught:
        write(open_store(double.url))
    assert not isinstance(caught.value, StoreUnavailableError)
    assert upserts(double) == 1


def test_two_programs_that_open_an_index_at_once_survive_a_replica_that_is_behind(
    double: QdrantDouble, open_store: Open
) -> None:
    double.faults += [Fault(status=500, message=TRANSIENT_500[1], on="PUT .*/index$")] * 2
    write(open_store(double.url))


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    double: QdrantDouble, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: HTTP_PROXY caught the calls.
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    write(open_store(double.url, attempts=False))


def test_a_proxy_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: a traceback of httpx.
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match=r"ALL_PROXY.* cannot be used: Using SOCKS proxy"):
        ServerClient(StoreAddress(tmp_path, url="http://qdrant.example.org:6333"))


def test_retry_after_is_respected(double: QdrantDouble, tmp_path: Path) -> None:
    pauses: list[float] = []
    address = StoreAddress(tmp_path, url=double.url)
    retry = Backoff(60.0, sleep=pauses.append, draw=lambda minimum, maximum: 0.0)
    double.faults += [Fault(status=429, retry_after="7"), Fault(status=503, retry_after="9")]
    with Store(ServerClient(address), address, retry) as store:
        store.collections.live("images")
    assert pauses == [7.0, 9.0]


def test_a_request_that_the_server_ends_is_retried(
    double: QdrantDouble, open_store: Open, caplog: pytest.LogCaptureFixture
) -> None:
    double.faults.append(Fault(delay_s=5, on="PUT .*/points$"))
    with caplog.at_level(logging.INFO):
        write(open_store(double.url, timeout_s=1))
    assert upserts(double) == 2
    assert "status 408: Timeout error" in caplog.text, "the server's limit passes before the client's"


def test_the_server_gets_the_time_limit_of_every_request_that_has_one(double: QdrantDouble, open_store: Open) -> None:
    store = open_store(double.url, timeout_s=90)
    write(store)
    (made,) = store.collections.all("images")
    store.points.records(made, [POINT])
    store.points.delete(made, [POINT])
    store.search.nearest(made, [1.0, 0.0], limit=1)
    timed = [each for each in double.requests if each.method != "GET"]
    assert len(timed) > 10
    assert {each.query.get("timeout") for each in timed} == {"90"}


def test_an_upsert_accepted_but_not_applied_is_not_a_failure(double: QdrantDouble, open_store: Open) -> None:
    store = open_store(double.url)
    made = store.collections.open("images", ModelIdentity("m", "f00d", 2))
    double.faults.append(Fault(late=6, on="PUT .*/points$"))
    store.points.upsert(made, PointBatch([POINT], [{}], image=np.ones((1, 2), np.float32)), wait=True)
    assert store.points.count(made) == 0
    updates: list[str] = []
    before = len(double.requests)
    store.collections.wait_ready(made, timeout_s=60, progress=updates.append)
    assert updates[0] == "1 update in the queue"
    assert store.points.count(made) == 1
    assert upserts(double) == 1
    assert not [each for each in double.requests[before:-1] if each.path.endswith("/count")]


def test_a_change_that_is_applied_after_its_answer_counts_once(double: QdrantDouble, open_store: Open) -> None:
    """The report of a run named fewer captions than it had removed."""
    store = open_store(double.url)
    made = store.collections.open("images", ModelIdentity("m", "f00d", 2))
    store.points.upsert(made, PointBatch([POINT], [{}], image=np.ones((1, 2), np.float32)), wait=True)

    def change(id_: str, point: StoredPoint) -> StoredPoint | None:
        return None if point.state.run_id else replace(point, payload={**point.payload, "run_id": "r"})

    for late in (1, 2, 3, 4):
        store.points.update(made, [POINT], lambda _, point: replace(point, payload={}))
        double.faults.append(Fault(late=late, on="PUT .*/points$"))
        assert store.points.update(made, [POINT], change) == 1
        assert store.points.states(made, [POINT])[POINT].run_id == "r"


def test_wait_ready_raises_with_what_is_missing(double: QdrantDouble, open_store: Open) -> None:
    store = open_store(double.url)
    made = store.collections.open("images", ModelIdentity("m", "f00d", 2))
    double.faults.append(Fault(late=99, on="PUT .*/points$"))
    store.points.upsert(made, PointBatch([POINT], [{}], image=np.ones((1, 2), np.float32)), wait=True)
    with pytest.raises(StoreError, match=r"not ready after 0 s: 1 update in the queue"):
        store.collections.wait_ready(made, timeout_s=0)


def test_a_restarted_server_is_ready_although_it_stays_grey_until_the_next_write(
    double: QdrantDouble, open_store: Open
) -> None:
    store = open_store(double.url)
    write(store)
    (made,) = store.collections.all("images")
    double.restart()
    states: list[str] = []
    store.collections.wait_ready(made, timeout_s=60, progress=states.append)
    assert states == ["status grey", "ready; checked 1 of 3 times", "ready; checked 2 of 3 times"]


def test_a_server_that_stays_grey_after_an_update_does_not_block(double: QdrantDouble, open_store: Open) -> None:
    store = open_store(double.url)
    write(store)
    (made,) = store.collections.all("images")
    double.restart(stays_grey=True)
    states: list[str] = []
    store.collections.wait_ready(made, timeout_s=60, progress=states.append)
    assert states == ["status grey"] * 3 + ["ready; checked 1 of 3 times", "ready; checked 2 of 3 times"]


def test_an_unreachable_server_is_named_with_the_setting(open_store: Open) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    store = open_store(url, attempts=False)
    for call in (store.check, lambda: store.collections.live("images")):
        with pytest.raises(StoreUnavailableError, match=rf"{url} cannot be reached .* VIEWFINDER_QDRANT_URL") as caught:
            call()
    assert "Gave up" not in str(caught.value)


def test_check_does_not_retry(double: QdrantDouble, open_store: Open) -> None:
    double.faults.append(Fault(status=503))
    with pytest.raises(StoreUnavailableError):
        open_store(double.url).check()
    assert len(double.requests) == 1


@pytest.mark.parametrize("key", [None, "wrong-" + KEY])
def test_a_missing_or_wrong_api_key_is_reported_and_never_shown(
    tmp_path: Path, open_store: Open, key: str | None
) -> None:
    with QdrantDouble(api_key=KEY) as double:
        store = open_store(double.url, api_key=key)
        for call in (store.check, lambda: store.collections.live("images")):
            with pytest.raises(StoreError, match=r"401.*VIEWFINDER_QDRANT_API_KEY") as caught:
                call()
            assert KEY not in str(caught.value)


def test_the_right_api_key_is_accepted_and_never_shown(open_store: Open) -> None:
    with QdrantDouble(api_key=KEY) as double:
        store = open_store(double.url, api_key=KEY)
        store.check()
        write(store)
    assert KEY not in f"{store.address!r} {store.address}"


def test_an_old_server_is_refused(open_store: Open) -> None:
    with QdrantDouble(version="1.14.1") as double, pytest.raises(StoreError, match=r"version 1\.14\.1.*1\.17 or newer"):
        open_store(double.url).check()


def test_another_json_server_is_not_mistaken_for_qdrant(open_store: Open) -> None:
    with QdrantDouble(title="Hello world", version="") as double, pytest.raises(StoreError, match="not Qdrant"):
        open_store(double.url).check()


def test_a_web_page_is_not_mistaken_for_qdrant(open_store: Open) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>It works!</html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with pytest.raises(StoreError, match="not Qdrant"):
                open_store(f"http://127.0.0.1:{server.server_address[1]}").check()
        finally:
            server.shutdown()
            thread.join()


def test_a_password_in_the_url_is_not_shown(tmp_path: Path) -> None:
    address = StoreAddress(tmp_path, url="https://me:secret@qdrant.example.com/db")
    assert str(address) == "Qdrant at https://qdrant.example.com:6333/db"


def test_the_address_in_the_settings_can_be_pickled(tmp_path: Path) -> None:
    settings = Settings.load({}, data_dir=tmp_path, qdrant_url="http://q:1", qdrant_api_key=KEY, qdrant_retry_s=3)
    address = StoreAddress.of(settings)
    assert pickle.loads(pickle.dumps(address)) == address
    assert (address.url, address.api_key, address.retry_s) == ("http://q:1", KEY, 3)


def test_an_api_key_over_plain_http_to_another_machine_logs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        connect(StoreAddress(tmp_path, url="http://qdrant.example.com", api_key=KEY)).close()
    assert "unencrypted" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("end", ["", "/"])
def test_a_server_behind_a_path_prefix(tmp_path: Path, end: str) -> None:
    asked: list[str] = []

    class Ingress(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = b'{"result": {"collections": []}, "status": "ok", "time": 0}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Ingress) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = StoreAddress(tmp_path, url=f"http://127.0.0.1:{server.server_port}/stores/qdrant{end}")
        client = ServerClient(address)
        try:
            assert client.call("get_collections").collections == []
        finally:
            client.close()
    assert asked == ["/stores/qdrant/collections"]
