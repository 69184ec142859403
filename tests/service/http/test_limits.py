"""Limits of the guard: places in the queue, bytes of bodies, and time."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message, Scope, Send

from tests.service.http.guarded import BODY_LIMIT, Served, code
from viewfinder.service.http.errors import HTTPError
from viewfinder.service.http.guard import MAX_BODIES, SMALL_BODY_BYTES, capacity
from viewfinder.service.http.receiving import at_minimum_rate

pytestmark = pytest.mark.slow


async def run(
    api: FastAPI,
    path: str,
    receive: Any,
    messages: list[Message],
    *,
    length: int | None = None,
    send: Send | None = None,
) -> None:
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

    async def keep(message: Message) -> None:
        messages.append(message)

    await api(scope, receive, send or keep)


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


SEARCH = b'{"text": "a cat on the beach"}'


async def test_the_total_size_of_bodies_in_memory_is_limited() -> None:
    """Regression: bodies that were nearly complete shut out all others, those of a few bytes too."""
    large = 2 * SMALL_BODY_BYTES
    served = Served(max_body_bytes=large)
    part = b" " * (large - 1)
    slow = [
        asyncio.create_task(run(served.api, "/v1/echo", sending(part, more=True), [], length=large))
        for _ in range(MAX_BODIES)
    ]
    await asyncio.sleep(0.01)
    refused: list[Message] = []
    await run(served.api, "/v1/echo", sending(part, more=True), refused, length=large)
    assert refused[0]["status"] == 503
    small: list[Message] = []
    await run(served.api, "/v1/echo", sending(SEARCH, more=False), small, length=len(SEARCH))
    assert small[0]["status"] == 200
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    again: list[Message] = []
    await run(served.api, "/v1/echo", sending(b"{}" + b" " * (large - 2), more=False), again, length=large)
    assert again[0]["status"] == 200, "the memory is free again"


async def test_a_client_that_stops_sending_is_given_up_before_the_time_of_its_request() -> None:
    served = Served(pause_s=0.02)
    messages: list[Message] = []
    await run(served.api, "/v1/echo", sending(b"{", more=True), messages, length=100)
    assert messages[0]["status"] == 408
    assert "bytes a second" in json.loads(messages[1]["body"])["error"]["message"]


async def test_a_client_that_sends_at_the_minimum_rate_may_take_any_time() -> None:
    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    at_rate = at_minimum_rate(receive, pause_s=0.2, min_bytes_per_s=1000)
    for _ in range(20):  # 0.4 s in all
        await at_rate()


async def test_a_client_below_the_minimum_rate_is_given_up() -> None:
    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def receive_all() -> None:
        at_rate = at_minimum_rate(receive, pause_s=0.2, min_bytes_per_s=1e6)
        for _ in range(20):
            await at_rate()

    with pytest.raises(HTTPError, match="bytes a second"):
        await receive_all()


def test_the_answer_to_a_complete_body_may_take_longer_than_a_pause() -> None:
    assert Served(pause_s=0.02).client().post("/v1/wait", json={}).status_code == 200


async def test_a_body_that_does_not_arrive_in_time_is_408() -> None:
    served = Served(request_timeout_s=0.05)
    messages: list[Message] = []
    await run(served.api, "/v1/echo", sending(b"{", more=True), messages, length=100)
    assert messages[0]["status"] == 408
    assert json.loads(messages[1]["body"])["error"]["code"] == "body_too_slow"


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
    assert "image" not in answer.json()["error"]["hint"], "these routes take texts"


def test_a_wrong_content_length_does_not_raise_the_limit() -> None:
    headers = {"content-type": "application/json", "content-length": "10"}
    answer = Served().client().post("/v1/echo", content=chunks(BODY_LIMIT * 2), headers=headers)
    assert code(answer) == (413, "body_too_large")
