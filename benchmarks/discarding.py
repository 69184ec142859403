"""A double of a Qdrant server that keeps no points: `python -m benchmarks.discarding`, on a free loopback port.

It speaks Qdrant's protocol, so that a job pays for making and sending its requests. Collections, aliases and control
records are real, in the embedded engine. Points are counted and dropped, because storing them would dominate the
measurement.
"""

import json
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from viewfinder.edge.engine import Engine
from viewfinder.edge.refusal import Refusal
from viewfinder.testing.qdrant_replicas import temporary_directory

VERSION = "1.20.0"
_DONE = {"operation_id": 0, "status": "completed"}
_POINTS = re.compile(r"/collections/(.+?)/points(.*)")


@dataclass(frozen=True)
class DiscardingStore:
    """A running store: its address and process."""

    url: str
    pid: int

    def received(self) -> int:
        """The number of points written so far."""
        with urlopen(f"{self.url}/received") as answer:
            return int(json.load(answer)["result"])


@contextmanager
def discarding_store() -> Iterator[DiscardingStore]:
    """Run a store in a separate process."""
    command = [sys.executable, "-m", "benchmarks.discarding"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the discarding store did not start")
            yield DiscardingStore(url, process.pid)
        finally:
            process.terminate()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._directory = temporary_directory()
        self.engine = Engine(Path(self._directory.name), durable=False)
        self.received: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), _Handler)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """The field "result" of the response."""
        if path == "/received":
            return self.received.total()
        points = _POINTS.fullmatch(path)
        # Control records (failures, takedowns) are kept: a job reads them again.
        if points and not points[1].endswith("__control") and self.engine.exists(points[1]):
            return self._discard(points[1], f"{method} {points[2]}", body)
        with self.turn:
            return self.engine.answer(method, path, json.loads(body) if body else None)

    def server_close(self) -> None:
        super().server_close()
        self.engine.close()
        self._directory.cleanup()

    def _discard(self, collection: str, request: str, body: bytes) -> Any:
        if request == "PUT ":
            with self.turn:
                self.received[collection] += _ids(body)
            return _DONE
        if request == "POST ":
            return []
        if request == "POST /count":
            return {"count": 0}
        if request == "POST /scroll":
            return {"points": [], "next_page_offset": None}
        if request == "POST /query/batch":
            return [{"points": []} for _ in json.loads(body)["searches"]]
        return {"points": []} if request == "POST /query" else _DONE


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path == "/":
            self._send(200, {"title": "qdrant - vector search engine", "version": VERSION})
            return
        try:
            self._send(200, {"result": self.server.answer(self.command, path, body), "status": "ok", "time": 0.0})
        except Refusal as refused:
            self._send(refused.status, {"status": {"error": refused.message}, "time": 0.0})

    do_PUT = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's own names

    def setup(self) -> None:
        super().setup()
        # Headers and body are two small packets, which the kernel would delay by 40 ms.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _send(self, status: int, answer: Mapping[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def _ids(body: bytes) -> int:
    """The number of points in a columnar upsert, without reading its vectors."""
    ids = re.search(rb'"ids":\s*\[([^\]]*)\]', body)
    if ids is None:
        raise ValueError("no columnar upsert")
    return ids[1].count(b",") + 1


def main() -> None:
    """Print the address, and serve until standard input ends or the process gets a signal."""
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
