"""Waiting for the service after a promotion, against a socket that answers like one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from viewfinder.reindexing.promote import wait_for_service

pytestmark = pytest.mark.slow


@contextmanager
def serve(*answers: object) -> Iterator[str]:
    """A server that gives one answer after the other, then repeats the last. An answer may be a function."""
    remaining = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            answer = answer() if callable(answer) else answer
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_the_service_is_polled_until_it_has_the_new_collection() -> None:
    with serve({"collection": "old"}, {"collection": "old"}, {"collection": "new"}) as url:
        assert wait_for_service(url, "new", timeout_s=60)


def test_a_service_that_does_not_switch_is_a_warning_with_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    with serve({"collection": "old", "behind": "The model cannot be loaded."}) as url:
        assert not wait_for_service(url, "new", timeout_s=0.1)
    assert "The model cannot be loaded." in caplog.text


@pytest.mark.parametrize("answer", [b"<html>", ["a", "list"]])
def test_another_program_at_that_address_is_ignored(answer: object) -> None:
    with serve(answer) as url:
        assert not wait_for_service(url, "new", timeout_s=60)


def test_a_missing_service_is_ignored() -> None:
    assert not wait_for_service("http://127.0.0.1:9", "new", timeout_s=60)
