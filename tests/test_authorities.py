"""Certificate authorities that cannot be read are a message, whoever needs them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from viewfinder.authorities import tls_context
from viewfinder.client import AsyncClient, Client
from viewfinder.errors import ConfigurationError
from viewfinder.query.errors import AddressError
from viewfinder.query.fetcher import Fetcher
from viewfinder.reindexing.promote import wait_for_service
from viewfinder.store import StoreAddress
from viewfinder.store.server import ServerClient

MAKERS: dict[str, Callable[[], Any]] = {
    "client": lambda: Client("https://search.example.org"),
    "async client": lambda: AsyncClient("https://search.example.org"),
    "store": lambda: ServerClient(StoreAddress(Path("unused"), url="https://qdrant.example.org")),
}


@pytest.fixture(autouse=True)
def _read_again() -> Iterator[None]:
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("kind", ["missing", "damaged"])
def test_authorities_that_cannot_be_read_are_named(
    maker: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    if kind == "damaged":
        path.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE \(.*ca\.pem\).* cannot be used: \S"):
        MAKERS[maker]()


@pytest.mark.parametrize("url", ["http://192.0.2.1:6333", "http://localhost:6333"])
def test_authorities_are_not_read_without_encryption(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    Client(url).close()
    ServerClient(StoreAddress(tmp_path, url=url)).close()


async def test_an_image_by_url_cannot_be_fetched_without_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    fetcher = Fetcher(max_bytes=1000, resolve=_nowhere)
    with pytest.raises(AddressError, match=r"^Reading from 'example\.org' failed\.$"):
        await fetcher.fetch("https://example.org/a.jpg")
    assert str(tmp_path) in caplog.text
    fetcher.close()


def test_a_service_that_is_not_reached_without_authorities_does_not_end_a_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert not wait_for_service("https://search.example.org", "images")


async def _nowhere(_: str) -> list[Any]:
    return []
