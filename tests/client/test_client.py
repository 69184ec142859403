"""The clients against the real application on a real socket, and against servers with planned failures."""

import asyncio
import contextlib
import itertools
import json
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.services import CAPTIONS, INDEX, Running
from viewfinder import AsyncClient, Client
from viewfinder.client import SearchResult
from viewfinder.errors import ConfigurationError, ServiceError, ServiceUnavailableError
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

Ask = Callable[..., Any]


def shortest(low: float, high: float) -> float:
    """No pauses except those that a server requests."""
    return low


class PromptClient(Client):
    _draw = staticmethod(shortest)


class PromptAsyncClient(AsyncClient):
    _draw = staticmethod(shortest)


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(server, method, *arguments, options of the client)` with a client of either kind, made for one call."""

    def ask(server: str, method: str, *arguments: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
        async def in_a_loop() -> Any:
            async with PromptAsyncClient(server, **(client or {})) as each:
                if method == "search_many":
                    return [result async for result in each.search_many(*arguments, **options)]
                return await getattr(each, method)(*arguments, **options)

        if request.param == "asyncio":
            return asyncio.run(in_a_loop())
        with PromptClient(server, **(client or {})) as each:
            answer = getattr(each, method)(*arguments, **options)
            return list(answer) if method == "search_many" else answer

    return ask


# The real service


def test_a_search_finds_what_was_described(running: Running, ask: Ask) -> None:
    result = ask(running.url, "search", "a red car", limit=2)
    assert (result.model, result.collection, result.warnings) == (running.model, running.collection, ())
    assert len(result) == 2
    first = result.hits[0]
    assert (first.id, first.uri, first.caption) == (point_id("s3://bucket/2.jpg"), "s3://bucket/2.jpg", "a red car")
    assert (first.width, first.height, first.payload["has_image"]) == (300, 50, True)
    assert first.score == pytest.approx(1, abs=1e-5)
    assert [hit.score for hit in result] == sorted((hit.score for hit in result), reverse=True)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"filter": {"width": {"gte": 400}}}, {3, 4}),
        ({"score_threshold": 0.9999}, {2}),
        ({"offset": 4}, set()),
        ({"target": "caption", "limit": 1}, {2}),
        ({"target": "both", "limit": 1}, {2}),
    ],
)
def test_every_option_reaches_the_service(
    running: Running, ask: Ask, options: dict[str, Any], numbers: set[int]
) -> None:
    uris = {hit.uri for hit in ask(running.url, "search", "a red car", **options)}
    if "offset" in options:
        assert len(uris) == 1
        assert "s3://bucket/2.jpg" not in uris
    else:
        assert uris == {f"s3://bucket/{number}.jpg" for number in numbers}


def test_a_truncated_text_has_a_warning(running: Running, ask: Ask) -> None:
    assert "beyond the first 77" in ask(running.url, "search", "cat " * 200).warnings[0]


def test_stats_describe_the_live_collection(running: Running, ask: Ask) -> None:
    stats = ask(running.url, "stats")
    assert (stats.index, stats.points, stats.state, stats.problem) == (INDEX, len(CAPTIONS), "live", None)
    assert (stats.model, stats.fingerprint, stats.dimension) == (running.model, running.fingerprint, 32)


def test_a_service_with_an_index_is_healthy_and_ready(running: Running, ask: Ask) -> None:
    assert ask(running.url, "healthy") is True
    assert ask(running.url, "ready") is True


def test_a_service_without_an_index_is_healthy_but_not_ready(without_index: str, ask: Ask) -> None:
    assert ask(without_index, "healthy") is True
    assert ask(without_index, "ready") is False
    with pytest.raises(ServiceUnavailableError) as raised:
        ask(without_index, "search", "a cat", client={"retries": 0})
    assert (raised.value.code, raised.value.status, raised.value.exit_status) == ("no_index", 503, 1)
    assert "There is no index 'photos' yet. Index images: viewfinder index" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "options", "code", "says"),
    [
        ("a cat", {"filter": {"width": {"near": 3}}}, "invalid_filter", "near"),
        ("", {}, "invalid_request", "text"),
        ("\ud800", {}, "invalid_", "text"),
        ("a cat", {"limit": 201}, "invalid_request", "limit"),
    ],
)
def test_a_refused_request_has_a_reason_and_counts_as_wrong_usage(
    running: Running, ask: Ask, text: str, options: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(ServiceError, match=says) as raised:
        ask(running.url, "search", text, **options)
    assert raised.value.code.startswith(code)
    assert len(raised.value.request_id) == 32
    assert raised.value.request_id in str(raised.value)
    assert raised.value.exit_status == 2


def test_an_unknown_option_is_refused_before_a_request_is_sent(ask: Ask) -> None:
    with pytest.raises(TypeError, match="top_k"):
        ask("http://127.0.0.1:1", "search", "a cat", top_k=5)


def test_many_texts_are_answered_in_their_order(running: Running, ask: Ask) -> None:
    texts = list(CAPTIONS) * 4
    results = ask(running.url, "search_many", texts, concurrency=3, limit=1)
    assert [result.hits[0].caption for result in results] == texts


# Servers with planned failures


@dataclass(frozen=True)
class Planned:
    """One answer; without a status, the connection is cut."""

    status: int | None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str = "store_unavailable", retry_after: str = "0") -> Planned:
    error = {"code": code, "message": "Not now.", "hint": "Wait.", "request_id": "abc"}
    return Planned(status, json.dumps({"error": error}).encode(), {"retry-after": retry_after})


def found(caption: str) -> Planned:
    hit = {"id": "1", "score": 0.5, "uri": "s3://b/1", "caption": caption, "width": None, "height": None, "payload": {}}
    return Planned(200, json.dumps({"hits": [hit], "model": "m", "collection": "c", "took_ms": 1, "new": 2}).encode())


class Scripted:
    """A real HTTP server that gives planned answers in turn and records the requests."""

    def __init__(self, plan: list[Planned] | Callable[[dict[str, Any]], Planned]) -> None:
        self.requests: list[Any] = []
        self.bodies: list[Any] = []  # for a DELETE, the path
        self._turns = iter(plan) if isinstance(plan, list) else None
        self._answer = None if isinstance(plan, list) else plan
        self._lock = threading.Lock()

    @contextmanager
    def listening(self) -> Iterator[str]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def do_DELETE(self) -> None:
                self.answer(self.path)

            def answer(self, body: Any) -> None:
                with script._lock:
                    script.requests.append(self.headers)
                    script.bodies.append(body)
                    planned = next(script._turns, Planned(500)) if script._turns else None
                planned = planned or script._answer(body)
                if planned.status is None:
                    self.close_connection = True
                    return
                self.send_response(planned.status)
                for name, value in planned.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(planned.body)))
                self.end_headers()
                self.wfile.write(planned.body)

            def log_message(self, *arguments: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


@pytest.mark.parametrize(
    "passing",
    [refusal(503), refusal(502), refusal(504), refusal(429), Planned(503, b"full"), Planned(None)],
    ids=["503", "502", "504", "429", "503 of a proxy", "connection lost"],
)
def test_a_transient_error_is_retried_with_the_same_request_id(ask: Ask, passing: Planned) -> None:
    script = Scripted([passing, passing, found("a cat")])
    with script.listening() as server:
        assert ask(server, "search", "a cat").hits[0].caption == "a cat"
    assert script.bodies == [{"text": "a cat"}] * 3
    assert len({headers["x-request-id"] for headers in script.requests}) == 1


def test_a_takedown_is_retried_if_its_answer_is_lost(ask: Ask) -> None:
    id_ = point_id("s3://b/k")
    done = Planned(200, json.dumps({"id": id_, "uri": "s3://b/k", "removed": False}).encode())
    script = Scripted([Planned(None), done])
    with script.listening() as server:
        assert ask(server, "take_down", "s3://b/k").removed is False
    assert script.bodies == [f"/v1/images/{id_}"] * 2


def test_vectors_of_two_models_are_not_mixed(ask: Ask) -> None:
    def answer(body: dict[str, Any]) -> Planned:
        vectors = [{"vector": [1.0], "cut": 0}] * len(body["texts"])
        told = {"texts": vectors, "images": [], "model": "m", "fingerprint": str(len(vectors)), "dimension": 1}
        return Planned(200, json.dumps(told).encode())

    with Scripted(answer).listening() as server, pytest.raises(ServiceUnavailableError, match="two models") as raised:
        ask(server, "embed", ["a"] * 65)
    assert raised.value.code == "model_changed"


def test_large_images_are_split_over_several_requests(ask: Ask) -> None:
    def answer(body: dict[str, Any]) -> Planned:
        hits = [json.loads(found(str(len(each["image"]))).body) for each in body["searches"]]
        return Planned(200, json.dumps({"results": hits}).encode())

    script = Scripted(answer)
    with script.listening() as server:
        results = ask(server, "search_batch", [{"image": b"x" * 3_000_000}] * 5)
    assert [len(body["searches"]) for body in script.bodies] == [2, 2, 1]
    assert len(results) == 5


def test_an_unencrypted_api_key_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    Client("http://127.0.0.1:1", api_key="hush").close()
    Client("https://example.org", api_key="hush").close()
    assert caplog.messages == []
    Client("http://example.org", api_key="hush").close()
    assert caplog.messages == ["The API key is sent to http://example.org unencrypted; use https."]


@pytest.mark.parametrize("final", [refusal(500, "internal_error"), refusal(400, "invalid_filter")])
def test_a_permanent_error_is_not_retried(ask: Ask, final: Planned) -> None:
    script = Scripted([final])
    with script.listening() as server, pytest.raises(ServiceError, match=r"Not now\. Wait\. \(\w+, request abc\)"):
        ask(server, "search", "a cat")
    assert len(script.bodies) == 1


def test_the_error_after_all_retries_has_their_number(ask: Ask) -> None:
    script = Scripted([refusal(503)] * 3)
    with script.listening() as server, pytest.raises(ServiceUnavailableError, match="Tried 3 times"):
        ask(server, "search", "a cat", client={"retries": 2})


@pytest.mark.parametrize("retry_after", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_pause_beyond_the_deadline_is_not_started(ask: Ask, retry_after: str) -> None:
    script = Scripted([refusal(503, retry_after=retry_after)])
    with script.listening() as server, pytest.raises(ServiceUnavailableError, match=r"Not now\. Wait\."):
        ask(server, "search", "a cat", client={"timeout_s": 30})
    assert len(script.bodies) == 1


@pytest.mark.parametrize("retry_after", ["soon", "-1", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59"])
def test_an_invalid_retry_after_is_ignored(ask: Ask, retry_after: str) -> None:
    with Scripted([refusal(503, retry_after=retry_after), found("a cat")]).listening() as server:
        assert ask(server, "search", "a cat").hits[0].caption == "a cat"


@pytest.mark.parametrize("first_bytes", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"])
def test_an_endless_answer_ends_at_the_deadline(ask: Ask, first_bytes: bytes) -> None:
    stop = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(first_bytes)
            for _ in range(500):  # without a deadline it would end one day, so that the test fails and does not hang
                if stop.wait(0.02):
                    return
                if first_bytes:
                    connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        try:
            with pytest.raises(ServiceUnavailableError, match=r"did not answer within 0\.3 s") as raised:
                ask(f"http://127.0.0.1:{listener.getsockname()[1]}", "search", "a cat", client={"timeout_s": 0.3})
        finally:
            stop.set()
            thread.join()
    assert raised.value.code == "timeout"


def test_an_unreachable_service_names_the_command_to_start_it(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        server = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert ask(server, "healthy") is False
    assert ask(server, "ready") is False
    with pytest.raises(ServiceUnavailableError, match=r"cannot be reached.*viewfinder serve") as raised:
        ask(server, "search", "a cat", client={"retries": 0})
    assert raised.value.code == "unreachable"


def test_the_key_is_sent_as_a_bearer_token_and_never_shown(ask: Ask) -> None:
    script = Scripted([refusal(401, "unauthorized"), found("a cat")])
    with script.listening() as server:
        with pytest.raises(ServiceError) as raised:
            ask(server, "search", "a cat", client={"api_key": "hush-hush"})
        ask(server, "search", "a cat")
    assert [headers["authorization"] for headers in script.requests] == ["Bearer hush-hush", None]
    assert "hush" not in str(raised.value) + repr(raised.value)


@pytest.mark.parametrize(
    ("planned", "code"),
    [
        (Planned(200, b"<html>Jupyter</html>"), "no_viewfinder"),
        (Planned(200, b'{"hits": 3}'), "no_viewfinder"),
        (Planned(404, b"<html>"), "http_404"),
        (Planned(404, b"{}"), "http_404"),
        (Planned(307, b"", {"location": "http://elsewhere/"}), "http_307"),
    ],
)
def test_an_answer_from_another_program_is_recognized(ask: Ask, planned: Planned, code: str) -> None:
    with Scripted([planned]).listening() as server, pytest.raises(ServiceError, match="Check the address") as raised:
        ask(server, "search", "a cat")
    assert raised.value.code == code
    assert not isinstance(raised.value, ServiceUnavailableError)


def test_texts_are_searched_concurrently_and_returned_in_order(ask: Ask) -> None:
    others = threading.Barrier(3)

    def answer(body: dict[str, Any]) -> Planned:
        others.wait(timeout=20)  # no answer before three requests have arrived
        return found(body["text"])

    script = Scripted(answer)
    texts = ["a", "b", "c", "d", "e", "f"]
    with script.listening() as server:
        results = ask(server, "search_many", texts, concurrency=3, limit=7)
    assert [result.hits[0].caption for result in results] == texts
    assert {body["limit"] for body in script.bodies} == {7}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_error_is_raised_at_the_position_of_its_text(concurrency: int) -> None:
    def answer(body: dict[str, Any]) -> Planned:
        return refusal(500) if body["text"] == "2" else found(body["text"])

    got: list[SearchResult] = []
    with Scripted(answer).listening() as server, Client(server) as client, pytest.raises(ServiceError, match="Not now"):
        got.extend(client.search_many(map(str, range(6)), concurrency=concurrency))
    # `extend` keeps the results before the error.
    assert [result.hits[0].caption for result in got] == ["0", "1"]


def test_endless_texts_are_consumed_only_as_needed() -> None:
    taken = itertools.count()
    with Scripted(lambda body: found(body["text"])).listening() as server, Client(server) as client:
        results = client.search_many((str(next(taken)) for _ in itertools.repeat(None)), concurrency=4)
        captions = [result.hits[0].caption for result in itertools.islice(results, 10)]
        results.close()
    assert captions == [str(number) for number in range(10)]
    assert next(taken) <= 14


async def test_leaving_an_asynchronous_search_early_cancels_the_rest() -> None:
    hold = threading.Event()

    def answer(body: dict[str, Any]) -> Planned:
        if body["text"] != "0":
            hold.wait(timeout=20)
        return found(body["text"])

    with Scripted(answer).listening() as server:
        async with AsyncClient(server) as client:
            async with contextlib.aclosing(client.search_many(map(str, range(100)), concurrency=3)) as results:
                assert (await anext(results)).hits[0].caption == "0"
            assert asyncio.all_tasks() == {asyncio.current_task()}
        hold.set()


@pytest.mark.parametrize("server", ["localhost:8000", "ftp://host", "http://", "", "http://h:port", "http://h/?q=1"])
def test_an_invalid_address_is_refused(server: str) -> None:
    with pytest.raises(ConfigurationError, match="server"):
        Client(server)


def test_a_password_in_the_address_is_not_shown() -> None:
    with Client("http://me:hush@127.0.0.1:1/prefix/", retries=0) as client, pytest.raises(ServiceError) as raised:
        client.stats()
    assert "http://127.0.0.1:1/prefix" in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"retries": -1}, {"api_key": "schlüssel"}, {"api_key": "a\nb"}])
def test_invalid_client_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Client(**options)


def test_an_error_can_be_pickled() -> None:
    error = ServiceUnavailableError("no_index", "Not yet.", "Wait.", "abc", 503)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ServiceUnavailableError
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    "program",
    [
        "import viewfinder.client",
        "from viewfinder import Client, ImageSearchEngine, print_results",
        "import viewfinder.cli.main",
    ],
)
def test_the_client_imports_no_heavy_package(program: str) -> None:
    heavy = ("numpy", "torch", "ray", "qdrant_client", "fastapi", "PIL", "pyarrow", "boto3")
    program = f"import sys; {program}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
