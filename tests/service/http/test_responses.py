"""Headers, ids, log lines and metrics of every response."""

import hashlib
import json
import logging
from typing import Any

import pytest

from tests.service.http.guarded import KEYS, READ_KEY, Served, code
from viewfinder.service.http.guard import HEADERS

pytestmark = pytest.mark.slow


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
        "trace_id": None,
        "method": "GET",
        "path": "/v1/things/{name}",
        "status": 200,
        "key": hashlib.sha256(READ_KEY.encode()).hexdigest()[:8],
        "index": None,
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


def test_requests_are_counted_by_route_and_errors_by_code() -> None:
    served = Served()
    client = served.client()
    client.get("/v1/things/a")
    client.get("/v1/things/b")
    client.get("/nothing")
    client.request("BREW", "/nothing")
    text = served.metrics.text()
    assert 'viewfinder_request_seconds_count{index="",method="GET",route="/v1/things/{name}",status="200"} 2.0' in text
    assert 'viewfinder_request_seconds_count{index="",method="OTHER",route="",status="404"} 1.0' in text
    assert 'viewfinder_errors_total{code="not_found"} 2.0' in text
    assert 'viewfinder_stage_seconds_sum{stage="search"} 0.5' in text
    assert "viewfinder_requests_in_flight 0.0" in text
