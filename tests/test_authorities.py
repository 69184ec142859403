"""Certificate authorities that cannot be read are a message, whoever needs them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from viewfinder.authorities import tls_context
from viewfinder.client import AsyncClient, Client
from viewfinder.errors import ConfigurationError
from viewfinder.query.fetcher import Fetcher
from viewfinder.store import StoreAddress
from viewfinder.store.server import ServerClient

MAKERS: dict[str, Callable[[], Any]] = {
    "client": lambda: Client("https://search.example.org"),
    "async client": lambda: AsyncClient("https://search.example.org"),
    "store": lambda: ServerClient(StoreAddress(Path("unused"), url="https://qdrant.example.org")),
    "images by URL": lambda: Fetcher(max_bytes=1000),
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
    with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: \S"):
        MAKERS[maker]()
