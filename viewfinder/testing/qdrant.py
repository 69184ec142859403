"""A Qdrant server for tests: HTTP on loopback, Qdrant's engine behind it, requests validated by its OpenAPI document.

It tests the requests, API keys, timeouts and injected faults; `qdrant_rules` adds what a server does and the embedded
engine does not, `qdrant_replicas` a cluster.
"""

import functools
import json
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from viewfinder.edge.engine import Engine
from viewfinder.edge.refusal import Refusal
from viewfinder.store.collections import BM25_VERSION
from viewfinder.store.connection import parse_version
from viewfinder.testing.openapi import Specification, with_text_query
from viewfinder.testing.qdrant_replicas import NodeDownError, Replicas
from viewfinder.testing.qdrant_rules import Rules, is_write, select_mmr


@dataclass(frozen=True)
class Fault:
    """A fault injected into the next request whose method and path match the regular expression `on`.

    `status` refuses it, with `retry_after` and `message`; `delay_s` delays the response; `drop` closes the
    connection "before" or "after" the request takes effect; `late` answers "acknowledged" ("wait_timeout" to a client
    that waits) and applies the request after that many further requests; `away_s` closes the connection and refuses new
    ones for that time, like a server that restarts. A delay longer than the request's `timeout`, which is 60 s if it
    sends none, ends with status 408.
    """

    status: int | None = None
    message: str = ""
    retry_after: str | None = None
    delay_s: float = 0.0
    drop: str | None = None
    late: int = 0
    away_s: float = 0.0
    on: str = "."


DISK_FULL = "Service internal error: No space left on device: WAL buffer size exceeds available disk space"
"""The message, with status 500, of every write to a Qdrant with a full disk (its `DiskUsageWatcher`)."""


@dataclass(frozen=True)
class Request:
    """One request, and the number of the node that received it."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any = field(repr=False)
    node: int = 0


class QdrantDouble:
    """A server at `url`, on a free loopback port. Close it with `close()` or use it in a `with` block.

    `openapi` is the path of Qdrant's published specification; without it requests are not validated. For a `version`
    from 1.20 on, the text query is added to an older specification (`with_text_query`). `requests` collects all
    requests, `invalid` the violations of the specification. With several `nodes` it is a cluster at `urls`, with a
    replica on each. `strict` refuses filters on fields without an index.
    """

    def __init__(
        self,
        *,
        openapi: Path | None = None,
        path: Path | None = None,
        api_key: str | None = None,
        version: str = "1.20.0",
        title: str = "qdrant - vector search engine",
        faults: Iterable[Fault] = (),
        nodes: int = 1,
        strict: bool = True,
        max_request_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self.requests: list[Request] = []
        self.invalid: list[str] = []
        self.faults = deque(faults)
        has_text_query = parse_version(version) >= BM25_VERSION
        self._specification = None if openapi is None else _specification(openapi, with_text=has_text_query)
        self._replicas = Replicas(nodes, path)
        self._rules = Rules(parse_version(version), strict=strict)
        self.max_request_bytes = max_request_bytes
        self._api_key = api_key
        self._root = {"title": title, "version": version}
        self._late: list[tuple[int, str, Callable[[], Any]]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._nodes = [_Node(self, number) for number in range(nodes)]
        self._restart: threading.Thread | None = None
        self.urls = [node.url for node in self._nodes]
        self.url = self.urls[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, wait for running requests, close the store."""
        self._closing.set()
        if self._restart is not None:
            self._restart.join()
        for node in self._nodes:
            node.stop()
        self._replicas.close()

    def stop_node(self, number: int) -> None:
        """Kill one node of a cluster: it refuses connections, and its replica misses all writes."""
        self._replicas.down.add(number)
        self._nodes[number].stop()

    def restart(self, *, stays_grey: bool = False) -> None:
        """Change to the state after a restart, without going away: all collections are grey until their next write.

        With `stays_grey` a write changes nothing, as while Qdrant has too few CPUs for its optimizers.
        """
        self._rules.restart(stays_grey=stays_grey)

    def upgrade(self, version: str) -> None:
        """Continue as a server of this version, with the same data and indexes."""
        self._root = {**self._root, "version": version}
        self._rules.version = parse_version(version)

    def _go_away(self, node: int, seconds: float) -> None:
        """Refuse connections for a while, then listen at the same port again with the same data."""

        def away() -> None:
            self._nodes[node].stop()
            self._closing.wait(seconds)
            self._rules.restart()
            self._nodes[node].listen()

        self._restart = threading.Thread(target=away)
        self._restart.start()

    # -- One request ------------------------------------------------------------------------------------------------

    def answer(self, request: Request, key: str | None) -> "_Reply":
        """Return the response to a request; called from the threads of the HTTP servers."""
        self._apply_late()
        with self._lock:
            self.requests.append(request)
            fault = self._next_fault(request)
            if fault.away_s:
                self._go_away(request.node, fault.away_s)
        if fault.delay_s:
            limit_s = float(request.query.get("timeout", 60))
            self._closing.wait(min(fault.delay_s, limit_s))
            if fault.delay_s > limit_s:
                return _Reply(408, _error(f"Timeout error: Operation timed out after {limit_s:g} seconds"))
        if fault.drop == "before" or fault.away_s:
            return _Reply(0, None)
        if fault.status is not None:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return _Reply(fault.status, _error(fault.message or f"injected status {fault.status}"), headers)
        if request.path in ("/", "/healthz", "/livez", "/readyz"):
            return _Reply(200, self._root if request.path == "/" else "healthz check passed")
        if self._api_key is not None and key != self._api_key:
            return _Reply(401, _error("Must provide an API key or an Authorization bearer token"))
        answer = self._handle(request, fault.late)
        return _Reply(0, None) if fault.drop == "after" else answer

    def _handle(self, request: Request, late: int) -> "_Reply":
        with self._lock:
            if (refused := self._refusal(request)) is not None:
                return _Reply(400, _error(refused))

        def apply() -> Any:
            return self._apply(request)

        if late:
            self._late.append((late, request.path, apply))
            waits = request.query.get("wait") == "true"
            return _Reply(200, _rest_result({"operation_id": 0, "status": "wait_timeout" if waits else "acknowledged"}))
        try:
            return _Reply(200, _rest_result(apply()))
        except NodeDownError as error:
            return _Reply(500, _error(str(error)))
        except Refusal as error:
            return _Reply(error.status, _error(error.message))
        except Exception as error:  # an error of the double: reported, not hidden by a closed connection
            return _Reply(500, _error(f"The double failed: {error!r}"))

    def _refusal(self, request: Request) -> str | None:
        """Return the text of status 400 for a request that the server refuses."""
        if self._specification is not None:
            violation = self._specification.violation(request.method, request.path, request.query, request.body)
            if violation is not None:
                self.invalid.append(violation)
                return f"Format error in JSON body: {violation}"
        return self._rules.refusal(request.method, request.path, request.body)

    def _apply(self, request: Request) -> Any:
        """Carry out a request on the replicas."""

        def run(engine: Engine) -> Any:
            return select_mmr(request.body, engine.answer(request.method, request.path, request.body))

        if is_write(request.method, request.path):
            conditional = "update_mode" in request.body or "update_filter" in request.body
            result = self._replicas.write(request.node, run, request.query, meets=conditional)
        elif request.method in ("GET", "POST") and request.path != "/collections/aliases":
            result = self._replicas.read(request.node, run, request.query)
        else:
            result = self._replicas.agree(run)
        with self._lock:
            self._rules.note(request.method, request.path, request.body)
            if request.method == "GET" and (match := re.fullmatch(r"/collections/([^/]+)", request.path)):
                waiting = sum(path.startswith(f"{request.path}/") for _, path, _ in self._late)
                result = self._rules.described(match[1], result, waiting)
        return result

    def _next_fault(self, request: Request) -> Fault:
        for fault in self.faults:
            if re.search(fault.on, f"{request.method} {request.path}"):
                self.faults.remove(fault)
                return fault
        return Fault()

    def _apply_late(self) -> None:
        """Carry out the requests that are due."""
        with self._lock:
            self._late = [(left - 1, path, apply) for left, path, apply in self._late]
            due = [each for each in self._late if each[0] <= 0]
            self._late = [each for each in self._late if each[0] > 0]
        for _, _, apply in due:
            apply()


# -- HTTP -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reply:
    """A response; status 0 closes the connection without one."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


def _rest_result(value: Any) -> dict[str, Any]:
    return {"result": value, "status": "ok", "time": 0.0}


def _error(message: str) -> dict[str, Any]:
    return {"result": None, "status": {"error": message}, "time": 0.0}


@functools.cache
def _specification(path: Path, *, with_text: bool) -> Specification:
    document = json.loads(path.read_text())
    return Specification(with_text_query(document) if with_text else document)


class _Node:
    """One node: a server that can stop, and listen again at the same port."""

    def __init__(self, double: QdrantDouble, number: int) -> None:
        self._double = double
        self._number = number
        self._port = 0
        self._server: _RestServer | None = None
        self.listen()
        self.url = f"http://127.0.0.1:{self._port}"

    def listen(self) -> None:
        """Begin to answer."""
        self._server = _RestServer(self._double, self._number, self._port)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections, and wait for running requests."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class _RestServer(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for them
    request_queue_size = 128

    def __init__(self, double: QdrantDouble, node: int, port: int) -> None:
        self.double = double
        self.node = node
        super().__init__(("127.0.0.1", port), _RestHandler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Do not print errors of clients that disconnected."""


class _RestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    server: _RestServer

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's own names

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(size)
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        request = Request(
            self.command, parts.path, dict(parse_qsl(parts.query)), json.loads(data) if data else None, self.server.node
        )
        double = self.server.double
        if size > double.max_request_bytes:
            allowed = f"JSON payload ({size} bytes) is larger than allowed (limit: {double.max_request_bytes} bytes)."
            answer = _Reply(413, _error(f"Payload error: {allowed}"))
        else:
            answer = double.answer(request, self.headers.get("api-key") or bearer or None)
        self.close_connection = True
        if answer.status == 0:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        plain = isinstance(answer.body, str)
        content = answer.body.encode() if plain else json.dumps(answer.body).encode()
        self.send_response(answer.status, HTTPStatus(answer.status).phrase)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""
