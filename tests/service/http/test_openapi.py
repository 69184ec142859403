"""The OpenAPI schema is complete, and schemathesis finds no deviation from it."""

import ast
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.service.conftest import World
from viewfinder.service.http.errors import ADDRESS_ERRORS
from viewfinder.service.http.guard import is_open_path
from viewfinder.service.http.openapi import ERROR_CODES
from viewfinder.testing.s3 import S3Endpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
KEY = "admin-" + "k" * 32
# More examples take many minutes: SCHEMATHESIS_EXAMPLES=200, best with another seed.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "2")
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")


@pytest.fixture
def configured(s3: S3Endpoint) -> dict[str, object]:
    return {"api_keys": f"{hashlib.sha256(KEY.encode()).hexdigest()}:admin", "s3_endpoint_url": s3.url}


@pytest.fixture
def address(served: World) -> Iterator[str]:
    """The service on a real socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(served.client.app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture
def schema(served: World) -> dict[str, Any]:
    described: dict[str, Any] = served.client.get("/openapi.json").json()
    return described


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


# Coverage sends every boundary of every field, 2,000 requests; `full` has it.
@pytest.mark.parametrize(
    "phases", ["examples,fuzzing", pytest.param("examples,coverage,fuzzing,stateful", marks=pytest.mark.full)]
)
def test_schemathesis_finds_nothing(address: str, tmp_path: Path, phases: str) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={ROOT / 'schemathesis.toml'}",
            "run",
            f"{address}/openapi.json",
            f"--header=Authorization: Bearer {KEY}",
            f"--phases={phases}",
            f"--max-examples={EXAMPLES}",
            f"--seed={SEED}",
            "--generation-database=none",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_route_has_a_summary_and_its_errors(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        named = f"{method} {path}"
        assert operation["summary"], named
        assert operation["tags"], named
        errors = {status for status in operation["responses"] if int(status) >= 400}
        assert {"403", "500"} <= errors, named
        if not is_open_path(path):
            assert {"401", "429", "503", "504"} <= errors, named
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= errors, named
            assert ("422" in errors) != (path in ("/v1/embeddings", "/v1/rerank")), named


def test_every_error_has_the_error_body_and_an_example(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        for status, response in operation["responses"].items():
            assert response["description"], f"{method} {path} {status}"
            assert "X-Request-ID" in response["headers"]
            if int(status) >= 400:
                content = response["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}, f"{method} {path} {status}"
                for code, example in content.get("examples", {}).items():
                    assert example["value"]["error"]["code"] == code


def raised() -> set[tuple[int, str]]:
    """Status and code of each `HTTPError` in the service's code."""
    calls = [
        node
        for path in (ROOT / "viewfinder" / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "HTTPError" and len(node.args) > 1
    ]
    literals = [[each.value for each in call.args[:2] if isinstance(each, ast.Constant)] for call in calls]
    return {(each[0], each[1]) for each in literals if len(each) == 2}


def test_every_code_is_documented() -> None:
    """Regression: six were not."""
    addresses = {(422, reason) for reason in ADDRESS_ERRORS}
    documented = {(status, code) for status, (_, codes) in ERROR_CODES.items() for code in codes}
    assert len(raised()) > 20
    assert raised() | addresses | {(404, "not_found"), (400, "invalid_body")} == documented


def test_every_parameter_has_a_description(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        for parameter in operation.get("parameters", []):
            kinds = [parameter, parameter["schema"], *parameter["schema"].get("anyOf", [])]
            assert any("description" in kind for kind in kinds), f"{method} {path}: {parameter['name']}"


def test_the_longest_value_of_a_parameter_fits_into_a_request_line(schema: dict[str, Any]) -> None:
    """Servers refuse a request line over 64 KiB in words of their own; an emoji takes 12 bytes of it."""
    checked = 0
    for path, method, operation in operations(schema):
        for parameter in operation.get("parameters", []):
            for kind in [parameter["schema"], *parameter["schema"].get("anyOf", [])]:
                is_ascii = kind.get("pattern", "").startswith("^[")
                if parameter["in"] == "query" and kind.get("type") == "string" and "enum" not in kind and not is_ascii:
                    assert 12 * kind["maxLength"] < 64 * 1024, f"{method} {path}: {parameter['name']}"
                    checked += 1
    assert checked > 5


def test_every_body_has_an_example(schema: dict[str, Any]) -> None:
    for path, _, operation in operations(schema):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            body = schema["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            fields = body.get("properties", {}).values()
            assert "examples" in body or all({"examples", "description"} & field.keys() for field in fields), path


def test_the_schema_requires_a_key_where_one_is_needed(schema: dict[str, Any]) -> None:
    assert schema["components"]["securitySchemes"].keys() == {"bearer", "header"}
    assert schema["paths"]["/healthz"]["get"]["security"] == []
    assert schema["paths"]["/v1/search"]["post"]["security"] == [{"bearer": []}, {"header": []}]


def test_docs_load_nothing_from_other_hosts(served: World) -> None:
    page = served.client.get("/docs")
    assert page.status_code == 200
    assert "//" not in page.text.replace("<!doctype", "").split("<body>")[0], "a URL of another host"
    assert "<script>" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert f"docs/{asset}" in page.text
        assert served.client.get(f"/docs/{asset}").status_code == 200
    assert served.client.get("/docs/..%2Findex.html").status_code == 404


def test_metrics_need_a_key(served: World) -> None:
    assert served.client.get("/metrics").status_code == 401
    answer = served.client.get("/metrics", headers={"x-api-key": KEY})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "viewfinder_request_seconds_bucket" in answer.text
