"""Address of a store and the connection to it: Qdrant calls by name, with retries."""

import hashlib
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from qdrant_client import models

from viewfinder import tracing
from viewfinder.backoff import Backoff
from viewfinder.errors import StoreUnavailableError
from viewfinder.settings import CaptionLanguage, OnDisk, Quantization, Settings, VectorType
from viewfinder.store.request_size import RequestLimit

# Of writes with a condition, which every replica evaluates for itself. With weak ordering, the default, two runs took
# one lock in 24 of 120 rounds on three replicas; with medium, where all writes go through one leader, in 0 of 800.
# `strong` fails while the leader's node is down, and so do reads with a consistency above the default.
CONDITIONAL_ORDERING = models.WriteOrdering.MEDIUM


@dataclass(frozen=True)
class StoreAddress:
    """Location and options of a store, as plain values; without `url`, the embedded store in `data_dir`."""

    data_dir: Path
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    grpc_url: str | None = None  # of the same server, for writing points
    timeout_s: float = 60.0
    retry_s: float = 120.0
    max_request_bytes: int = 32_000_000
    # Of new collections; `on_disk` is for a server.
    quantization: Quantization = "none"
    vector_type: VectorType = "float32"
    on_disk: OnDisk = "vectors"
    language: CaptionLanguage = "english"  # of new collections

    @classmethod
    def of(cls, settings: Settings) -> "StoreAddress":
        """Return the address in the settings."""
        key = settings.qdrant_api_key
        return cls(
            data_dir=settings.data_dir,
            url=settings.qdrant_url,
            api_key=None if key is None else key.get_secret_value(),
            grpc_url=settings.qdrant_grpc_url,
            timeout_s=settings.qdrant_timeout_s,
            retry_s=settings.qdrant_retry_s,
            max_request_bytes=settings.qdrant_max_request_mb * 1_000_000,
            quantization=settings.quantization,
            vector_type=settings.vector_type,
            on_disk=settings.on_disk,
            language=settings.caption_language,
        )

    @property
    def stored_quantization(self) -> Quantization:
        """The format in which new collections have their vectors twice; the embedded store always does."""
        return "int8" if self.url is None and self.quantization == "none" else self.quantization

    @property
    def digest(self) -> str:
        """A short hash of the location, equal for programs that use the same store."""
        place = f"{socket.gethostname()}:{self.data_dir.resolve()}" if self.url is None else str(self)
        return hashlib.sha256(place.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        if self.url is None:
            return f"the embedded store in {self.data_dir}"
        parts = urlsplit(self.url)
        # Always with the port: Qdrant's default is 6333 even for https, where people expect 443.
        return f"Qdrant at {parts.scheme}://{parts.hostname}:{parts.port or 6333}{parts.path}"


class StoreClient(Protocol):
    """Calls methods of `QdrantClient` by name, on a server or on the embedded store.

    Raises only errors of the `StoreError` family; after `StoreUnavailableError` the same call may succeed later.
    """

    @property
    def max_batch(self) -> int | None:
        """Maximum number of points in one write; None for any number."""

    def call(self, method: str, **arguments: Any) -> Any:
        """Return the result of `QdrantClient.<method>(**arguments)`."""

    def close(self) -> None:
        """Release sockets, files and locks."""


class Connection:
    """A client with retries. Safe to share between threads; other processes get the address instead."""

    def __init__(self, client: StoreClient, address: StoreAddress, retry: Backoff | None = None) -> None:
        self.address = address
        self.client = client
        self.retry = retry or Backoff(address.retry_s)
        # The embedded store gets no requests.
        self.limit = RequestLimit(sys.maxsize if address.url is None else address.max_request_bytes)

    @property
    def is_embedded(self) -> bool:
        """True for the embedded store, False for a Qdrant server."""
        return self.address.url is None

    def call(self, method: str, **arguments: Any) -> Any:
        """Return the result of `QdrantClient.<method>(**arguments)`, retried for `address.retry_s`."""
        return self.retry(lambda: self._attempt(method, arguments))

    def complete(self, method: str, **arguments: Any) -> Any:
        """As `call`, for an update that must be applied when this returns, and that may be sent again.

        Qdrant answers `wait_timeout` if it has accepted an update but not applied it in time.
        """

        def attempt() -> Any:
            answer = self._attempt(method, arguments)
            if answer.status != models.UpdateStatus.COMPLETED:
                raise StoreUnavailableError(f"{self.address} accepted {method} but has not applied it in time.")
            return answer

        return self.retry(attempt)

    def _attempt(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call the client once, within a span if the caller is traced; a retry has one of its own."""
        if (traces := tracing.active) is None or not traces.is_traced():
            return self.client.call(method, **arguments)
        attributes = {"db.system.name": "qdrant", "db.operation.name": method}
        if collection := arguments.get("collection_name"):
            attributes["db.collection.name"] = collection
        if self.address.url is not None:
            attributes["server.address"] = urlsplit(self.address.url).hostname or ""
        with traces.span(" ".join(filter(None, (method, collection))), "CLIENT", attributes):
            return self.client.call(method, **arguments)

    def server_version(self) -> tuple[int, int] | None:
        """Return the server's major and minor version; None for the embedded store, which supports every call."""
        return None if self.is_embedded else parse_version(self.call("info").version)


def parse_version(text: str) -> tuple[int, int]:
    """Return (1, 20) for "1.20.0-dev", (0, 0) for an unknown format."""
    major, minor, *_ = *text.split("."), "0", "0"
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
