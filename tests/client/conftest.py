"""Clients without pauses, and a server with planned answers."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from viewfinder import AsyncClient, Client

ITERATED = ("search_many", "search_pages")
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
                if method in ITERATED:
                    return [result async for result in getattr(each, method)(*arguments, **options)]
                return await getattr(each, method)(*arguments, **options)

        if request.param == "asyncio":
            return asyncio.run(in_a_loop())
        with PromptClient(server, **(client or {})) as each:
            answer = getattr(each, method)(*arguments, **options)
            return list(answer) if method in ITERATED else answer

    return ask


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
