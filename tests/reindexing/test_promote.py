"""After a promotion: waiting for the service, against a socket that answers like one, and retired collections."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from viewfinder.reindexing.promote import drop_retired, wait_for_service
from viewfinder.reindexing.upgrade_lock import UpgradeLock
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.memory_store import open_in_memory

pytestmark = pytest.mark.slow

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


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
    old, new = ({"collection": "other", "is_searched": each} for each in (False, True))
    with serve(old, old, new) as url:
        assert wait_for_service(url, "new", timeout_s=60)


def test_a_service_that_does_not_switch_is_a_warning_with_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    with serve({"collection": "old", "behind": "The model cannot be loaded."}) as url:
        assert not wait_for_service(url, "new", timeout_s=0.1)
    assert "The model cannot be loaded." in caplog.text


@pytest.mark.parametrize("answer", [b"<html>", ["a", "list"]])
def test_another_program_at_that_address_is_ignored(answer: object) -> None:
    with serve(answer) as url:
        assert not wait_for_service(url, "new", timeout_s=60)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:port"])
def test_a_proxy_that_cannot_be_used_does_not_fail_the_change(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert not wait_for_service("http://search.example.org", "new", timeout_s=60)


def test_a_missing_service_is_ignored() -> None:
    assert not wait_for_service("http://127.0.0.1:9", "new", timeout_s=60)


# -- Retired collections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock_ahead_s", "held_s", "known", "dropped"),
    [
        (0, 10, True, False),
        (0, 400, True, True),
        (0, 400, False, False),
        (600, 10, True, False),  # by this clock it was retired ten minutes ago
        (-600, 400, True, True),  # by this clock it is retired in ten minutes
        (-(10**8), 400, True, True),
        (1300, 10, False, True),  # no clock is that far off
    ],
)
def test_a_retired_collection_is_dropped_after_the_grace_time_whatever_the_clocks(
    tmp_path: Path, clock_ahead_s: float, held_s: float, known: bool, dropped: bool
) -> None:
    """Two machines whose clocks differed by minutes dropped it early, or never."""
    with open_in_memory(tmp_path) as store:
        made = store.collections.create("images", ModelIdentity("m", "f00d", 2))
        store.collections.update_metadata(made.name, state="retired", retired_at=NOON.isoformat())
        with UpgradeLock(store.control("images"), "run") as lock:
            found = drop_retired(
                store,
                lock,
                "images",
                keep=0,
                grace_s=300,
                retired_for_s={made.name: held_s} if known else {},
                clock=lambda: NOON + timedelta(seconds=clock_ahead_s),
            )
    assert found == ([made.name] if dropped else [])
