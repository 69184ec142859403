"""The access log: one JSON line per request on the logger `viewfinder.access`, without secrets.

    {"request_id": "…", "method": "POST", "path": "/v1/search", "status": 200, "ms": 12.3, "key": "9f86d081",
     "index": "…", "model": "…", "collection": "…", "code": null, "stages": {"encode": 5.1, "search": 4.0},
     "trace_id": null}

`path` is the route's template, `key` the start of the key's digest, `code` the error code, and stages are in
milliseconds. Lines never contain texts, images, client addresses, keys or query strings.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viewfinder import tracing

logger = logging.getLogger("viewfinder.access")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# nginx's status for a client that disconnected before the response.
CLIENT_GONE = 499


@dataclass
class RequestRecord:
    """The log line of one request, filled in while the request is handled."""

    request_id: str
    method: str
    path: str | None = None
    status: int = CLIENT_GONE
    ms: float = 0.0
    key: str | None = None
    index: str | None = None  # of a batch over several, their names with commas between
    model: str | None = None
    collection: str | None = None
    code: str | None = None
    stages: dict[str, float] = field(default_factory=dict)
    trace_id: str | None = None  # while traces are on

    def stage(self, name: str, seconds: float) -> None:
        """Add to the time of a stage, which a request may enter more than once."""
        self.stages[name] = round(self.stages.get(name, 0.0) + seconds * 1000, 2)


# The request of the current task; None in the service's own threads and outside of requests.
current: ContextVar[RequestRecord | None] = ContextVar("viewfinder_request", default=None)


def record_index(name: str) -> None:
    """Record an index that the current request asks."""
    if record := current.get():
        before = record.index.split(",") if record.index else []
        record.index = ",".join(dict.fromkeys([*before, name]))


def record_generation(*, model: str, collection: str) -> None:
    """Record the model and collection that answer the current request."""
    if record := current.get():
        record.model, record.collection = model, collection


class AccessLog:
    """Middleware that gives each request an id, the client's own if valid, and logs it when it is done.

    With `sends_id` it also sends the id in the response headers, which Ray Serve's proxies do themselves.
    """

    def __init__(self, app: ASGIApp, *, count: Callable[[RequestRecord], None], sends_id: bool = True) -> None:
        self._app = app
        self._count = count
        self._sends_id = sends_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Clients can send any method: count those without routes as one.
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        record = RequestRecord(_request_id(Headers(scope=scope).get("x-request-id", "")), method)
        scope.setdefault("state", {})["id"] = record.request_id

        traceresponse: str | None = None

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if self._sends_id:
                    MutableHeaders(scope=message)["x-request-id"] = record.request_id
                if traceresponse is not None:
                    MutableHeaders(scope=message)["traceresponse"] = traceresponse
            await send(message)

        began = time.perf_counter()
        token = current.set(record)
        try:
            if tracing.active is None:
                await self._app(scope, receive, answer)
            else:
                with _server_span(tracing.active, scope, record) as traceresponse:
                    await self._app(scope, receive, answer)
        finally:
            current.reset(token)
            record.ms = round((time.perf_counter() - began) * 1000, 2)
            record.path = getattr(scope.get("route"), "path", None)
            self._count(record)
            logger.info("%s", json.dumps(asdict(record)))


@contextmanager
def _server_span(traces: tracing.Traces, scope: Scope, record: RequestRecord) -> Iterator[str | None]:
    """The span of a request, which continues that of the client; yields the header of the answer that names it.

    A path is an attribute only if it belongs to a route: any other may hold what a user has typed.
    """
    known = {"http.request.method": record.method, "url.scheme": str(scope.get("scheme") or "http")}
    with traces.span(record.method, "SERVER", known, parent=traces.extract(dict(Headers(scope=scope)))) as span:
        record.trace_id = f"{span.get_span_context().trace_id:032x}"
        try:
            yield tracing.current_traceparent()
        finally:
            if (route := getattr(scope.get("route"), "path", None)) is not None:
                span.update_name(f"{record.method} {route}")
                span.set_attributes({"http.route": route, "url.path": scope["path"]})
            if record.status != CLIENT_GONE:
                span.set_attribute("http.response.status_code", record.status)
            if record.status >= 500:
                traces.fail(span, record.code or str(record.status))


def _request_id(given: str) -> str:
    is_valid = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    return given if is_valid else uuid.uuid4().hex
