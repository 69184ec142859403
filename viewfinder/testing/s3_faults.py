"""A proxy that injects faults before a real S3 endpoint and forwards all other requests."""

import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Self
from urllib.parse import urlsplit

FOREVER = 10**9
# Headers of one connection, not forwarded.
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass(frozen=True)
class S3Fault:
    """A fault injected into `times` of the requests whose method and path match `on`, after the first `skip`.

    `status` answers with an S3 error document of this `code` instead of forwarding the request. `cut_at` closes the
    connection after that many bytes of the body, -1 before the response. `hang_at` stops sending after that many bytes,
    -1 before the response, until the client gives up. `drip_at` sends a byte every `DRIP_S` after that many bytes.
    `length_off` is added to the true Content-Length. `before` is called before the request is forwarded. With `key`
    only requests signed with that access key match.
    """

    on: str = "^GET "
    times: int = 1
    skip: int = 0
    status: int | None = None
    code: str = ""
    cut_at: int | None = None
    hang_at: int | None = None
    drip_at: int | None = None
    length_off: int = 0
    before: Callable[[], object] = lambda: None
    key: str = ""


class S3FaultProxy:
    """Forwards requests to the endpoint at `upstream` within a `with` block; clients use `url` as the endpoint.

    The first of `faults` that matches a request is injected. `requests` counts all requests, `injected` the faults.
    Signatures stay valid, because the endpoint gets the Host that was signed. Responses are held in memory.
    """

    def __init__(self, upstream: str, faults: Iterable[S3Fault] = ()) -> None:
        self.upstream = upstream
        self.requests = 0
        self.injected = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []
        self.inject(*faults)
        self._server = _ProxyServer(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def inject(self, *faults: S3Fault) -> None:
        """Replace the remaining faults by these, and reset the counters."""
        with self._lock:
            self._planned = [_Planned(each, each.skip, each.times) for each in faults]
            self.requests = self.injected = 0

    def next_fault(self, request: str, signed: str) -> S3Fault | None:
        """Return the fault of this request, `METHOD /path`; called from the threads of the server."""
        with self._lock:
            self.requests += 1
            for planned in self._planned:
                if planned.hits(request, signed):
                    self.injected += 1
                    return planned.fault
        return None

    def hold(self) -> None:
        """Block until the proxy is closed or `MAX_HANG_S` has passed."""
        self._closing.wait(MAX_HANG_S)

    def drip(self, file: BufferedIOBase, rest: bytes) -> None:
        """Write one byte at a time until the client gives up or the proxy is closed."""
        for byte in rest:
            file.write(bytes([byte]))
            if self._closing.wait(DRIP_S):
                break


# Longer than the timeouts of clients in tests, shorter than those of tests.
MAX_HANG_S = 20.0
# Shorter than the timeouts of clients.
DRIP_S = 0.1


@dataclass
class _Planned:
    """A fault, and how many matching requests it still skips and hits."""

    fault: S3Fault
    skip: int
    times: int

    def hits(self, request: str, signed: str) -> bool:
        matches = re.search(self.fault.on, request) and f"Credential={self.fault.key}" in signed
        if not matches or not self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: S3FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _ProxyHandler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Do not print errors of clients that disconnected."""


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _ProxyServer

    def do_GET(self) -> None:
        self.close_connection = True
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signed = self.headers.get("Authorization") or "Credential="
        fault = proxy.next_fault(f"{self.command} {self.path}", signed)
        if fault is None:
            self._answer(*self._forward(body), S3Fault())
        elif fault.status is not None:
            document = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>injected</Message></Error>"
            self._answer(fault.status, {"Content-Type": "application/xml"}, document.encode(), fault)
        elif fault.cut_at == -1:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.hang_at == -1:
            proxy.hold()
        else:
            fault.before()
            self._answer(*self._forward(body), fault)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - http.server's own names

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Forward the request and return the endpoint's response."""
        connection = http.client.HTTPConnection(urlsplit(self.server.proxy.upstream).netloc, timeout=self.timeout)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            if self.command == "HEAD" and answer.getheader("Content-Length"):
                headers["Content-Length"] = str(answer.getheader("Content-Length"))
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: S3Fault) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(max(0, len(body) + fault.length_off)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        end = next((at for at in (fault.cut_at, fault.hang_at, fault.drip_at) if at is not None), None)
        self.wfile.write(body if end is None else body[:end])
        self.wfile.flush()
        if fault.hang_at is not None:
            self.server.proxy.hold()
        if fault.drip_at is not None:
            self.server.proxy.drip(self.wfile, body[fault.drip_at :])

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""
