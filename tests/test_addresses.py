"""Loopback addresses, and proxies that cannot be used."""

import httpx
import pytest

from viewfinder.addresses import is_loopback, proxy_problem


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "LOCALHOST",
        "api.localhost",
        "127.0.0.1",
        "127.8.9.10",
        "::1",
        "::ffff:127.0.0.1",
        "http://localhost:6333",
        "https://[::1]:8000/v1",
        "//127.0.0.1:80",
    ],
)
def test_a_loopback_address_is_recognized(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "localhost.example.org",
        "http://example.org/localhost",
        "http://localhost@example.org",
        "http://[::1",
        "null",
        "127.0.0.1.example.org",
    ],
)
def test_any_other_address_is_no_loopback(address: str) -> None:
    assert not is_loopback(address)


SOCKS = "Using SOCKS proxy, but the 'socksio' package is not installed."


@pytest.mark.parametrize(
    ("environment", "error", "says"),
    [
        (
            {"ALL_PROXY": "socks5://u:secret@h:1", "HTTP_PROXY": "http://h:1"},
            ImportError(SOCKS),
            "ALL_PROXY cannot be used: Us",
        ),
        (
            {"all_proxy": "socks://h:1", "https_proxy": "h:1"},
            ValueError("Unknown scheme for proxy URL"),
            "ALL_PROXY cannot",
        ),
        (
            {"HTTPS_PROXY": "http://h:p"},
            httpx.InvalidURL("Invalid port: 'p'"),
            "HTTPS_PROXY cannot be used: Invalid port: 'p'. N",
        ),
        ({}, ImportError(SOCKS), "The proxy of the environment cannot be used"),
    ],
)
def test_the_variable_of_a_proxy_that_cannot_be_used_is_named(
    environment: dict[str, str], error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    problem = proxy_problem(error)
    assert problem is not None
    assert problem.startswith(says)
    assert "unset the variable" in problem
    assert "secret" not in problem


@pytest.mark.parametrize("error", [ValueError("not a number"), ImportError("torch"), OSError("proxy")])
def test_another_error_is_not_one_of_the_proxy(error: Exception) -> None:
    assert proxy_problem(error) is None
