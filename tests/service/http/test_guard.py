"""Access through the guard: keys, loopback, other sites and rates."""

import gzip
import hashlib
from typing import Any

import pytest

from tests.service.http.guarded import ADMIN_KEY, KEYS, READ_KEY, Served, code

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_keys_this_machine_may_do_everything(address: str) -> None:
    client = Served().client(address)
    assert client.get("/v1/things/a").json() == {"name": "a", "scope": "admin"}
    assert client.delete("/v1/things/a").status_code == 200


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "192.168.1.2", "8.8.8.8", "2001:db8::1", "::ffff:10.0.0.7", "", "unix"]
)
@pytest.mark.parametrize("path", ["/v1/things/a", "/healthz", "/nothing"])
def test_without_keys_other_machines_are_refused(address: str, path: str) -> None:
    answer = Served().client(address).get(path)
    assert code(answer) == (403, "forbidden")
    assert "VIEWFINDER_API_KEYS" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "app.localhost", "[::1]:8000", "127.0.0.1"]
)
def test_without_keys_loopback_names_are_answered(host: str) -> None:
    assert Served().client().get("/v1/things/a", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": "notlocalhost"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "evil.example@localhost.evil.example"},
        {"host": "[::1"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
def test_without_keys_pages_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    """DNS rebinding: evil.example resolves to 127.0.0.1, so the browser treats the service as its origin."""
    assert code(Served().client().get("/v1/things/a", headers=headers)) == (403, "forbidden")


def test_anonymous_clients_may_search_but_not_take_down() -> None:
    client = Served(allow_anonymous=True).client("8.8.8.8")
    assert client.get("/v1/things/a", headers={"host": "images.example"}).json()["scope"] == "read"
    assert code(client.delete("/v1/things/a")) == (403, "forbidden")


@pytest.mark.parametrize(("key", "scope"), [(READ_KEY, "read"), (ADMIN_KEY, "admin")], ids=["read", "admin"])
@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "authorization: bearer {}", "X-API-Key: {}"])
def test_a_key_allows_what_its_scope_says(header: str, key: str, scope: str) -> None:
    name, _, value = header.format(key).partition(": ")
    client = Served(api_keys=KEYS).client("8.8.8.8")
    assert client.get("/v1/things/a", headers={name: value}).json()["scope"] == scope
    assert client.delete("/v1/things/a", headers={name: value}).status_code == (200 if scope == "admin" else 403)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {READ_KEY}"},
        {"authorization": f"Bearer {READ_KEY}x"},
        {"authorization": f"Bearer {hashlib.sha256(READ_KEY.encode()).hexdigest()}"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": b"\xff\xfe"},
        {"x-api-key": "x" * 100_000},
    ],
    ids=range(11),
)
@pytest.mark.parametrize("path", ["/v1/things/a", "/metrics", "/nothing", "/page/../v1/things/a"])
def test_with_keys_anything_else_is_unauthorized(headers: dict[str, Any], path: str) -> None:
    answer = Served(api_keys=KEYS).client().get(path, headers=headers)
    assert code(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert READ_KEY not in answer.text


def test_with_keys_health_needs_no_key() -> None:
    assert Served(api_keys=KEYS).client("8.8.8.8").get("/healthz", headers={"host": "lb.example"}).status_code == 200


def test_anonymous_access_beside_keys_still_refuses_a_wrong_key() -> None:
    client = Served(api_keys=KEYS, allow_anonymous=True).client("8.8.8.8")
    assert client.get("/v1/things/a").json()["scope"] == "read"
    assert client.get("/v1/things/a", headers={"x-api-key": ADMIN_KEY}).json()["scope"] == "admin"
    assert code(client.get("/v1/things/a", headers={"x-api-key": "wrong"})) == (401, "unauthorized")


def test_a_key_above_its_rate_gets_retry_after() -> None:
    served = Served(api_keys=KEYS, requests_per_minute=2)
    client = served.client()
    answers = [client.get("/v1/things/a", headers={"x-api-key": READ_KEY}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert code(answers[-1]) == (429, "rate_limited")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 30
    assert client.get("/v1/things/a", headers={"x-api-key": ADMIN_KEY}).status_code == 200, "a rate per key"
    assert [client.get("/healthz").status_code for _ in range(5)] == [200] * 5


def test_anonymous_clients_are_limited_by_address() -> None:
    served = Served(allow_anonymous=True, requests_per_minute=1)
    addresses = ["8.8.8.8", "8.8.4.4", "8.8.8.8", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    statuses = [served.client(address).get("/v1/things/a").status_code for address in addresses]
    assert statuses == [200, 200, 429, 200, 429, 200]


@pytest.mark.parametrize("query", ["q=%ff%fe", "q=%ed%a0%80", "q=a&%c3(=1"])
def test_a_query_string_that_is_not_utf_8_is_refused(query: str) -> None:
    """Otherwise a route would search for replacement characters."""
    assert code(Served().client().get(f"/v1/things/a?{query}")) == (422, "invalid_request")


def test_a_rotating_forwarded_address_does_not_lift_the_limit() -> None:
    client = Served(allow_anonymous=True, requests_per_minute=1).client("8.8.8.8")
    statuses = [
        client.get("/v1/things/a", headers={"x-forwarded-for": f"1.2.3.{number}"}).status_code for number in (1, 2)
    ]
    assert statuses == [200, 429]


def test_clients_behind_a_trusted_proxy_have_a_limit_each() -> None:
    served = Served(allow_anonymous=True, requests_per_minute=1, trusted_proxies="10.0.0.0/8")
    client = served.client("10.0.0.5")
    forwarded = ["1.1.1.1", "8.8.8.8", "9.9.9.9, 8.8.8.8", "1.1.1.1"]
    statuses = [client.get("/v1/things/a", headers={"x-forwarded-for": each}).status_code for each in forwarded]
    assert statuses == [200, 200, 429, 429]


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("x-request-timeout-seconds", "0", 400),
        ("x-request-timeout-seconds", "-1", 400),
        ("x-request-timeout-seconds", "1e9", 400),
        ("x-request-timeout-seconds", "inf", 400),
        ("x-request-timeout-seconds", "nan", 400),
        ("x-request-timeout-seconds", "5", 200),
        ("x-request-timeout-seconds", "soon", 200),
        ("x-request-disconnect-disabled", "?1", 400),
        ("x-request-disconnect-disabled", "?0", 200),
    ],
)
def test_headers_cannot_lift_the_limits_of_ray_serve(name: str, value: str, status: int) -> None:
    answer = Served().client().get("/v1/things/a", headers={name: value})
    assert answer.status_code == status
    assert status == 200 or code(answer) == (400, "invalid_header")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x-request-timeout-seconds", ["5", "100000"]),
        ("x-request-timeout-seconds", ["100000", "5"]),
        ("x-request-disconnect-disabled", ["?0", "?1"]),
        ("x-request-disconnect-disabled", ["?1", "?0"]),
    ],
)
def test_a_repeated_header_cannot_lift_the_limits_of_ray_serve(name: str, values: list[str]) -> None:
    """Regression: the first was checked, and Serve reads the last."""
    answer = Served().client().get("/v1/things/a", headers=[(name, each) for each in values])
    assert code(answer) == (400, "invalid_header")


def test_a_repeated_content_encoding_is_refused() -> None:
    headers = [("content-type", "application/json"), ("content-encoding", "identity"), ("content-encoding", "gzip")]
    answer = Served().client().post("/v1/echo", content=b"{}", headers=headers)
    assert code(answer) == (415, "unsupported_encoding")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "gzip, identity"])
@pytest.mark.parametrize("path", ["/v1/echo", "/v1/upload"])
def test_a_compressed_body_is_refused_as_such(path: str, encoding: str) -> None:
    """Regression: it was `invalid_json`."""
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = Served().client().post(path, content=gzip.compress(b"{}"), headers=headers)
    assert code(answer) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "identity"
