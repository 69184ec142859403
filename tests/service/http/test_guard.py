"""The guard, around minimal routes."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import Message, Scope

from tests.service.conftest import local_client
from viewfinder.service.http.guard import HEADERS, MAX_BODIES, Guard, capacity
from viewfinder.service.http.keys import require_admin
from viewfinder.service.http.refusals import install_error_handlers
from viewfinder.service.telemetry.access_log import AccessLog, record_generation
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings

READ_KEY, ADMIN_KEY = "read-key-" + "r" * 32, "admin-key-" + "a" * 32
KEYS = f"{hashlib.sha256(READ_KEY.encode()).hexdigest()},{hashlib.sha256(ADMIN_KEY.encode()).hexdigest()}:admin"
BODY_LIMIT = 2048


class Served:
    """A few routes behind the guard, with clients of any address."""

    def __init__(self, **settings: object) -> None:
        self.metrics = Metrics()
        self.settings = Settings.load({}, **{"max_body_bytes": BODY_LIMIT, **settings})
        self.cancelled = asyncio.Event()
        self.api = self._api()

    def client(self, address: str = "127.0.0.1") -> TestClient:
        return local_client(self.api, address=address)

    def _api(self) -> FastAPI:
        api = FastAPI()
        install_error_handlers(api)
        api.add_middleware(Guard, settings=self.settings, metrics=self.metrics)
        api.add_middleware(AccessLog, count=self.metrics.request)

        @api.get("/healthz")
        async def healthz() -> str:
            return "ok"

        @api.get("/v1/things/{name}")
        async def thing(name: str, request: Request) -> dict[str, str]:
            record_generation(model="demo", collection="images__demo")
            self.metrics.observe("search", 0.25)
            return {"name": name, "scope": request.state.scope}

        @api.post("/v1/echo")
        async def echo(body: dict[str, Any]) -> int:
            return len(body)

        @api.post("/v1/upload")
        async def upload(file: UploadFile, options: Annotated[str, Form()] = "") -> int:
            return len(await file.read())

        @api.delete("/v1/things/{name}", dependencies=[Depends(require_admin)])
        async def remove(name: str) -> str:
            return name

        @api.get("/v1/slow")
        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

        @api.get("/v1/stream")
        async def stream() -> StreamingResponse:
            async def parts() -> AsyncIterator[bytes]:
                yield b"first"
                await asyncio.sleep(0.05)
                yield b" last"

            return StreamingResponse(parts())

        @api.get("/v1/broken")
        async def broken() -> None:
            raise RuntimeError("the password is hush-hush")

        return api


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# -- Access


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_keys_this_machine_may_do_everything(address: str) -> None:
    client = Served().client(address)
    assert client.get("/v1/things/a").json() == {"name": "a", "scope": "admin"}
    assert client.delete("/v1/things/a").status_code == 200


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "192.168.1.2", "8.8.8.8", "2001:db8::1", "::ffff:10.0.0.7", "", "unix"]
)
@pytest.mark.parametrize("path", ["/v1/things/a", "/healthz", "/nothing"])
def test_without_keys_other_machines_are_refused(address: str, path: str) -> None:
    answer = Served().client(address).get(path)
    assert code(answer) == (403, "forbidden")
    assert "VIEWFINDER_API_KEYS" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "app.localhost", "[::1]:8000", "127.0.0.1"]
)
def test_without_keys_loopback_names_are_answered(host: str) -> None:
    assert Served().client().get("/v1/things/a", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": "notlocalhost"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "evil.example@localhost.evil.example"},
        {"host": "[::1"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
def test_without_keys_pages_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    """DNS rebinding: evil.example resolves to 127.0.0.1, so the browser treats the service as its origin."""
    assert code(Served().client().get("/v1/things/a", headers=headers)) == (403, "forbidden")


def test_anonymous_clients_may_search_but_not_take_down() -> None:
    client = Served(allow_anonymous=True).client("8.8.8.8")
    assert client.get("/v1/things/a", headers={"host": "images.example"}).json()["scope"] == "read"
    assert code(client.delete("/v1/things/a")) == (403, "forbidden")


@pytest.mark.parametrize(("key", "scope"), [(READ_KEY, "read"), (ADMIN_KEY, "admin")], ids=["read", "admin"])
@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "authorization: bearer {}", "X-API-Key: {}"])
def test_a_key_allows_what_its_scope_says(header: str, key: str, scope: str) -> None:
    name, _, value = header.format(key).partition(": ")
    client = Served(api_keys=KEYS).client("8.8.8.8")
    assert client.get("/v1/things/a", headers={name: value}).json()["scope"] == scope
    assert client.delete("/v1/things/a", headers={name: value}).status_code == (200 if scope == "admin" else 403)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {READ_KEY}"},
        {"authorization": f"Bearer {READ_KEY}x"},
        {"authorization": f"Bearer {hashlib.sha256(READ_KEY.encode()).hexdigest()}"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": b"\xff\xfe"},
        {"x-api-key": "x" * 100_000},
    ],
    ids=range(11),
)
@pytest.mark.parametrize("path", ["/v1/things/a", "/metrics", "/nothing", "/page/../v1/things/a"])
def test_with_keys_anything_else_is_unauthorized(headers: dict[str, Any], path: str) -> None:
    answer = Served(api_keys=KEYS).client().get(path, headers=headers)
    assert code(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert READ_KEY not in answer.text


def test_with_keys_health_needs_no_key() -> None:
    assert Served(api_keys=KEYS).client("8.8.8.8").get("/healthz", headers={"host": "lb.example"}).status_code == 200


def test_anonymous_access_beside_keys_still_refuses_a_wrong_key() -> None:
    client = Served(api_keys=KEYS, allow_anonymous=True).client("8.8.8.8")
    assert client.get("/v1/things/a").json()["scope"] == "read"
    assert client.get("/v1/things/a", headers={"x-api-key": ADMIN_KEY}).json()["scope"] == "admin"
    assert code(client.get("/v1/things/a", headers={"x-api-key": "wrong"})) == (401, "unauthorized")


# -- Rates, queue, time limits


def test_a_key_above_its_rate_gets_retry_after() -> None:
    served = Served(api_keys=KEYS, requests_per_minute=2)
    client = served.client()
    answers = [client.get("/v1/things/a", headers={"x-api-key": READ_KEY}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert code(answers[-1]) == (429, "rate_limited")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 30
    assert client.get("/v1/things/a", headers={"x-api-key": ADMIN_KEY}).status_code == 200, "a rate per key"
    assert [client.get("/healthz").status_code for _ in range(5)] == [200] * 5


def test_anonymous_clients_are_limited_by_address() -> None:
    served = Served(allow_anonymous=True, requests_per_minute=1)
    addresses = ["8.8.8.8", "8.8.4.4", "8.8.8.8", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    statuses = [served.client(address).get("/v1/things/a").status_code for address in addresses]
    assert statuses == [200, 200, 429, 200, 429, 200]


async def run(api: FastAPI, path: str, receive: Any, messages: list[Message], *, length: int | None = None) -> None:
    """Send one request through ASGI, so that a test controls the client; POST if it has a length."""
    body = [] if length is None else [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET" if length is None else "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"localhost"), *body],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000),
    }

    async def send(message: Message) -> None:
        messages.append(message)

    await api(scope, receive, send)


async def nothing_more() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_requests_beyond_the_queue_are_refused_at_once() -> None:
    served = Served(batch_size=1, queue_size=1)
    room = capacity(served.settings)
    waiting = [asyncio.create_task(run(served.api, "/v1/slow", nothing_more, [])) for _ in range(room)]
    await asyncio.sleep(0)
    refused: list[Message] = []
    await run(served.api, "/v1/slow", nothing_more, refused)
    assert refused[0]["status"] == 503
    assert dict(refused[0]["headers"])[b"retry-after"] == b"1"
    assert json.loads(refused[1]["body"])["error"]["code"] == "overloaded"
    healthy: list[Message] = []
    await run(served.api, "/healthz", nothing_more, healthy)
    assert healthy[0]["status"] == 200

    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    again: list[Message] = []
    await run(served.api, "/v1/things/a", nothing_more, again)
    assert again[0]["status"] == 200, "a place in the queue is free again"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def sending(*parts: bytes, more: bool) -> Any:
    """A `receive` that sends these parts; with `more` the body never ends."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = more
    following = iter(messages)

    async def receive() -> Message:
        return next(following, None) or await nothing_more()

    return receive


async def test_slow_uploads_do_not_block_other_clients() -> None:
    """Regression (Slowloris): a few hundred connections that sent one byte each blocked all other requests."""
    served = Served(batch_size=1, queue_size=1)
    slow = [
        asyncio.create_task(run(served.api, "/v1/echo", sending(b"{", more=True), [], length=100))
        for _ in range(capacity(served.settings) + 5)
    ]
    await asyncio.sleep(0)
    for path, receive, length in [("/v1/things/a", nothing_more, None), ("/v1/echo", sending(b"{}", more=False), 2)]:
        messages: list[Message] = []
        await run(served.api, path, receive, messages, length=length)
        assert messages[0]["status"] == 200
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_complete_body_needs_a_place_in_the_queue() -> None:
    served = Served(batch_size=1, queue_size=1)
    waiting = [
        asyncio.create_task(run(served.api, "/v1/slow", nothing_more, [])) for _ in range(capacity(served.settings) - 1)
    ]
    late = asyncio.Event()
    parts = sending(b"{", b"}", more=False)

    async def receive() -> Message:
        message: Message = await parts()
        if not message["more_body"]:
            await late.wait()
        return message

    refused: list[Message] = []
    sender = asyncio.create_task(run(served.api, "/v1/echo", receive, refused, length=2))
    await asyncio.sleep(0.01)
    waiting.append(asyncio.create_task(run(served.api, "/v1/slow", nothing_more, [])))
    await asyncio.sleep(0)
    late.set()
    await sender
    assert refused[0]["status"] == 503
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_total_size_of_bodies_in_memory_is_limited() -> None:
    served = Served()
    part = b" " * BODY_LIMIT
    slow = [
        asyncio.create_task(run(served.api, "/v1/echo", sending(part, more=True), [], length=BODY_LIMIT))
        for _ in range(MAX_BODIES)
    ]
    await asyncio.sleep(0.01)
    refused: list[Message] = []
    await run(served.api, "/v1/echo", sending(b" ", more=True), refused, length=BODY_LIMIT)
    assert refused[0]["status"] == 503
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    again: list[Message] = []
    await run(served.api, "/v1/echo", sending(b"{}", more=False), again, length=2)
    assert again[0]["status"] == 200


async def test_a_body_that_does_not_arrive_in_time_is_408() -> None:
    served = Served(request_timeout_s=0.05)
    messages: list[Message] = []
    await run(served.api, "/v1/echo", sending(b"{", more=True), messages, length=100)
    assert messages[0]["status"] == 408
    assert json.loads(messages[1]["body"])["error"]["code"] == "body_too_slow"


@pytest.mark.parametrize("query", ["q=%ff%fe", "q=%ed%a0%80", "q=a&%c3(=1"])
def test_a_query_string_that_is_not_utf_8_is_refused(query: str) -> None:
    """Otherwise a route would search for replacement characters."""
    assert code(Served().client().get(f"/v1/things/a?{query}")) == (422, "invalid_request")


def test_a_response_that_does_not_start_in_time_is_504() -> None:
    served = Served(request_timeout_s=0.05)
    assert code(served.client().get("/v1/slow")) == (504, "timeout")
    assert served.cancelled.is_set()


def test_a_response_that_has_started_may_take_longer() -> None:
    assert Served(request_timeout_s=0.04).client().get("/v1/stream").text == "first last"


async def test_the_work_for_a_disconnected_client_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    served = Served()
    with caplog.at_level(logging.INFO, "viewfinder.access"):
        task = asyncio.create_task(run(served.api, "/v1/slow", nothing_more, []))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert served.cancelled.is_set()
    assert json.loads(caplog.messages[0])["status"] == 499


# -- Size


def test_a_body_of_exactly_the_limit_is_read() -> None:
    body = b'{"x": "' + b"x" * (BODY_LIMIT - 9) + b'"}'
    assert len(body) == BODY_LIMIT
    assert Served().client().post("/v1/echo", content=body, headers={"content-type": "application/json"}).json() == 1


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(0, total, 512):
        yield b"x" * 512


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/upload"])
@pytest.mark.parametrize("streamed", [False, True], ids=["content-length", "chunked"])
def test_a_larger_body_is_refused_before_it_is_parsed(path: str, streamed: bool) -> None:
    content = chunks(BODY_LIMIT * 2) if streamed else b"x" * (BODY_LIMIT + 1)
    kinds = {"/v1/echo": "application/json", "/v1/upload": "multipart/form-data; boundary=b"}
    answer = Served().client().post(path, content=content, headers={"content-type": kinds[path]})
    assert code(answer) == (413, "body_too_large")
    assert "2,048 bytes" in answer.json()["error"]["message"]


def test_a_wrong_content_length_does_not_raise_the_limit() -> None:
    headers = {"content-type": "application/json", "content-length": "10"}
    answer = Served().client().post("/v1/echo", content=chunks(BODY_LIMIT * 2), headers=headers)
    assert code(answer) == (413, "body_too_large")


# -- Headers and errors


@pytest.mark.parametrize("path", ["/v1/things/a", "/nothing", "/v1/broken", "/healthz", "/v1/echo"])
def test_every_response_has_security_headers_and_an_id(path: str) -> None:
    headers = Served().client().get(path).headers
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert len(headers["x-request-id"]) == 32
    assert "access-control-allow-origin" not in headers


def test_foreign_scripts_and_frames_are_forbidden() -> None:
    policy = Served().client().get("/healthz").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("given", ["x" * 129, "tab\there", "ümlaut".encode("latin-1"), "", b"\x01"])
def test_an_invalid_request_id_is_replaced(given: Any) -> None:
    answer = Served().client().get("/healthz", headers={"x-request-id": given})
    assert len(answer.headers["x-request-id"]) == 32


def test_an_unexpected_error_shows_only_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    answer = Served().client().get("/v1/broken", headers={"x-request-id": "mine"})
    assert code(answer) == (500, "internal_error")
    assert answer.json()["error"]["request_id"] == "mine"
    assert "hush" not in answer.text
    assert "hush-hush" in caplog.text, "the log has the message"


# -- Access log and metrics


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "viewfinder.access"]


def test_a_request_logs_one_line_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    client = Served(api_keys=KEYS).client()
    with caplog.at_level(logging.INFO, "viewfinder.access"):
        client.get("/v1/things/secret-name?q=secret-text", headers={"x-api-key": READ_KEY, "x-request-id": "mine"})
    [line] = lines(caplog)
    assert line.pop("ms") > 0
    assert line == {
        "request_id": "mine",
        "method": "GET",
        "path": "/v1/things/{name}",
        "status": 200,
        "key": hashlib.sha256(READ_KEY.encode()).hexdigest()[:8],
        "model": "demo",
        "collection": "images__demo",
        "code": None,
        "stages": {"search": 250.0},
    }
    assert "secret" not in caplog.text
    assert READ_KEY not in caplog.text


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [("/nothing", 404, "not_found"), ("/v1/broken", 500, "internal_error"), ("/v1/echo", 405, "method_not_allowed")],
)
def test_the_log_line_of_an_error_has_its_code(
    path: str, status: int, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "viewfinder.access"):
        Served().client().get(path)
    [line] = lines(caplog)
    assert (line["status"], line["code"]) == (status, error)


async def test_requests_are_counted_by_route_and_errors_by_code() -> None:
    served = Served()
    client = served.client()
    client.get("/v1/things/a")
    client.get("/v1/things/b")
    client.get("/nothing")
    client.request("BREW", "/nothing")
    text = await served.metrics.text()
    assert 'viewfinder_request_seconds_count{method="GET",route="/v1/things/{name}",status="200"} 2.0' in text
    assert 'viewfinder_request_seconds_count{method="OTHER",route="",status="404"} 1.0' in text
    assert 'viewfinder_errors_total{code="not_found"} 2.0' in text
    assert 'viewfinder_stage_seconds_sum{stage="search"} 0.5' in text
    assert "viewfinder_requests_in_flight 0.0" in text
