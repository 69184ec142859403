"""Where the vectors are kept, and how anything is asked there: one call by name, with retries."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from viewfinder.backoff import Backoff
from viewfinder.settings import Quantization, Settings


@dataclass(frozen=True)
class StoreAddress:
    """Where and how vectors are kept, as plain values that travel; without `url`, the embedded store in `data_dir`."""

    data_dir: Path
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    grpc: bool = False
    timeout_s: float = 60.0
    retry_s: float = 120.0
    quantization: Quantization = "none"  # of collections that are made; the embedded store has none

    @classmethod
    def of(cls, settings: Settings) -> "StoreAddress":
        """The address that the settings name."""
        key = settings.qdrant_api_key
        return cls(
            data_dir=settings.data_dir,
            url=settings.qdrant_url,
            api_key=None if key is None else key.get_secret_value(),
            grpc=settings.qdrant_grpc,
            timeout_s=settings.qdrant_timeout_s,
            retry_s=settings.qdrant_retry_s,
            quantization=settings.quantization,
        )

    def __str__(self) -> str:
        if self.url is None:
            return f"the embedded store in {self.data_dir}"
        parts = urlsplit(self.url)
        # The port is always shown: Qdrant's default is 6333 for https too, where people expect 443.
        return f"Qdrant at {parts.scheme}://{parts.hostname}:{parts.port or 6333}{parts.path}"


class Client(Protocol):
    """One call of Qdrant's Python interface by name, on a server or on the embedded store.

    Raises nothing but the `StoreError` family; `StoreUnavailableError` means that the same call may succeed later.
    """

    max_batch: int | None

    def call(self, method: str, **arguments: Any) -> Any:
        """What `QdrantClient.<method>(**arguments)` returns."""

    def close(self) -> None:
        """Let go of sockets, files and locks."""


class Connection:
    """A client and the patience to go with it. Safe to share between threads; to other processes goes the address."""

    def __init__(self, client: Client, address: StoreAddress, retry: Backoff | None = None) -> None:
        self.address = address
        self.client = client
        self.retry = retry or Backoff(address.retry_s)

    @property
    def is_embedded(self) -> bool:
        """True for the embedded store, False for a Qdrant server."""
        return self.address.url is None

    def call(self, method: str, **arguments: Any) -> Any:
        """What `QdrantClient.<method>(**arguments)` returns, after as many attempts as the address allows."""
        return self.retry(lambda: self.client.call(method, **arguments))

    def server_version(self) -> tuple[int, int] | None:
        """Major and minor version of the server; None for the embedded store, which supports every request here."""
        return None if self.is_embedded else parse_version(self.call("info").version)


def parse_version(text: str) -> tuple[int, int]:
    """(1, 20) of "1.20.0-dev"; (0, 0) where there is no telling."""
    major, minor, *_ = *text.split("."), "0", "0"
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
