"""Properties of objects, options of access, and the interface of the backends that read and list them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from viewfinder.settings import Settings


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The properties of one object that a listing returns."""

    uri: str
    bucket: str  # "" for a local file
    key: str  # a local file: its absolute path
    size: int  # bytes; -1 where unknown (a manifest without sizes)
    etag: str  # without quotes; "" where unknown until read. A local file: made of size and mtime.
    last_modified: str  # ISO 8601 in UTC to the second; "" where unknown


@dataclass(frozen=True, slots=True)
class ObjectAccess:
    """How to reach objects: plain values that are sent to workers, where boto3's chain finds the credentials."""

    endpoint_url: str | None = None
    anonymous: bool = False
    threads: int = 16  # concurrent requests, and so the size of the connection pool
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    retry_s: float = 30.0  # no attempt begins later than this, except the second
    backoff_s: float = 0.2  # maximum of the first pause; doubles with each attempt up to 10 s
    backends: tuple[tuple[str, "Backend"], ...] = ()  # replace the real ones, by scheme, in this process only

    @classmethod
    def of(cls, settings: Settings) -> "ObjectAccess":
        """Return the access that the settings describe."""
        return cls(
            endpoint_url=settings.s3_endpoint_url, anonymous=settings.s3_anonymous, threads=settings.fetch_threads
        )


class Backend(Protocol):
    """The objects of one URI scheme. Real: `S3Objects`, `LocalObjects`; in memory: `viewfinder.testing.objects`."""

    def read(self, uri: str, max_bytes: int, etag: str = "") -> tuple[bytes, str]: ...

    def open(self, uri: str) -> BinaryIO: ...

    def write(self, uri: str, path: Path) -> None: ...

    def stat(self, uri: str) -> ObjectInfo: ...

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]: ...

    def check(self, source: str) -> None: ...

    def close(self) -> None: ...
