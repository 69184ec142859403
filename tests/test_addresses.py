"""Loopback addresses."""

import pytest

from viewfinder.addresses import is_loopback


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
