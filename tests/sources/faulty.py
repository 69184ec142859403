"""An S3 endpoint on a real socket with planned faults: one for each request, until they are used up."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from viewfinder.sources.access import ObjectAccess

CONTENT = b"0123456789" * 100
ETAG = "0123abcd"
MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"

Answer = Callable[["Handler"], None]


class FaultyS3:
    """Answers every GET and HEAD with the next of `faults`, and with `then` (`CONTENT`) when they are used up."""

    def __init__(self, faults: Sequence[Answer] = (), *, then: Answer | None = None) -> None:
        self.faults = deque(faults)
        self.default = then or content
        self.paths: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.plan = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def access(self, **values: object) -> ObjectAccess:
        """Return the settings of a client of this endpoint, which is anonymous and tries again at once."""
        return ObjectAccess(endpoint_url=self.url, **{"anonymous": True, "backoff_s": 0.001, **values})  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one request per connection, so that no thread outlives a test."""

    @property
    def plan(self) -> FaultyS3:
        plan: FaultyS3 = self.server.plan  # type: ignore[attr-defined]
        return plan

    def do_GET(self) -> None:
        self.plan.paths.append(self.path)
        self.plan.headers.append(dict(self.headers))
        answer = self.plan.faults.popleft() if self.plan.faults else self.plan.default
        answer(self)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""

    def send(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def content(handler: Handler) -> None:
    handler.send(200, CONTENT, ETag=f'"{ETAG}"')


def encoded(body: bytes, encoding: str) -> Answer:
    return lambda handler: handler.send(
        200, body, ETag=f'W/"{ETAG}"', Content_Encoding=encoding, Last_Modified=MODIFIED
    )


def cut_body(handler: Handler) -> None:
    handler.send(200, CONTENT[:300], length=len(CONTENT), ETag=f'"{ETAG}"')


def cut_chunks(handler: Handler) -> None:
    """Send a chunk, and no last one."""
    body = b"12c\r\n" + CONTENT[:300] + b"\r\n"
    handler.send(200, body, length=-1, Transfer_Encoding="chunked", ETag=f'"{ETAG}"')


def without_length(handler: Handler) -> None:
    handler.send(200, CONTENT, length=-1, ETag=f'"{ETAG}"')


def hang(handler: Handler) -> None:
    handler.plan.released.wait()


def hang_in_body(handler: Handler) -> None:
    cut_body(handler)
    handler.wfile.flush()
    handler.plan.released.wait()


def drip(handler: Handler) -> None:
    handler.send(200, b"", length=len(CONTENT), ETag=f'"{ETAG}"')
    for byte in CONTENT:
        handler.wfile.write(bytes([byte]))
        if handler.plan.released.wait(0.05):
            break


def drop(handler: Handler) -> None:
    handler.connection.close()


def error(status: int, code: str, **headers: str) -> Answer:
    """Answer with an S3 error document."""
    document = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
    return lambda handler: handler.send(status, document, Content_Type="application/xml", **headers)


def page(*keys: str, token: str = "", truncated: bool | str | None = None, size: int = 1, more: str = "") -> Answer:
    """Answer a ListObjectsV2 request. `more` is added to each entry; `truncated=""` leaves the element out."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{0 if key.endswith('/') else size}</Size><ETag>&quot;e&quot;</ETag>"
        f"<LastModified>2026-01-02T03:04:05.678Z</LastModified>{more}</Contents>"
        for key in keys
    )
    truncated = bool(token) if truncated is None else truncated
    rest = "" if truncated == "" else f"<IsTruncated>{str(truncated).lower()}</IsTruncated>"
    rest += f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    document = f"<?xml version='1.0'?><ListBucketResult>{entries}{rest}</ListBucketResult>".encode()
    return lambda handler: handler.send(200, document, Content_Type="application/xml")


def web_page(handler: Handler) -> None:
    handler.send(200, b"<!DOCTYPE html><html><body>Welcome<br></body></html>", Content_Type="text/html")
