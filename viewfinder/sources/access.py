"""Properties of objects, options of access, and the interface of the backends that read and list them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

from viewfinder.errors import ObjectError
from viewfinder.settings import Settings
from viewfinder.sources.versions import Version

# Bytes that are passed to a `HeadCheck`; a shorter object is passed whole.
CHECKED_BYTES = 4096
# Called with the first bytes of an object, before the rest is read; refuses the object with an `ObjectError`.
HeadCheck = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The properties of one object that a listing returns."""

    uri: str
    bucket: str  # "" for a local file
    key: str  # a local file: its absolute path
    size: int  # bytes in the store; -1 where unknown (a manifest without sizes)
    etag: str  # as `clean_etag` returns it; "" where unknown until read. A local file: made of size and mtime.
    last_modified: str  # ISO 8601 in UTC to the second; "" where unknown
    archived: bool = False  # in a storage class that must be restored before it can be read

    @property
    def version(self) -> Version:
        """The version of its content."""
        return Version(self.etag, self.size, self.last_modified)


class ObjectContent(NamedTuple):
    """The decoded content of one object, and its version in the store, where it may be encoded and so smaller."""

    data: bytes
    version: Version


@dataclass(frozen=True, slots=True)
class ObjectAccess:
    """Options to reach objects: plain values that are sent to workers, where boto3's chain finds the credentials."""

    endpoint_url: str | None = None
    anonymous: bool = False
    addressing: Literal["auto", "path", "virtual"] = "auto"
    requester_pays: bool = False
    threads: int = 16  # concurrent requests of a job, for each core
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    retry_s: float = 30.0  # no attempt begins later than this, except the second
    backoff_s: float = 0.2  # maximum of the first pause; doubles with each attempt up to 10 s
    backends: tuple[tuple[str, "Backend"], ...] = ()  # replace the real ones, by scheme, in this process only

    @classmethod
    def of(cls, settings: Settings) -> "ObjectAccess":
        """Return the access that the settings describe."""
        return cls(
            endpoint_url=settings.s3_endpoint_url,
            anonymous=settings.s3_anonymous,
            addressing=settings.s3_addressing,
            requester_pays=settings.s3_requester_pays,
            threads=settings.fetch_threads,
        )


class Backend(Protocol):
    """The objects of one URI scheme. Real: `S3Objects`, `LocalObjects`; in memory: `viewfinder.testing.objects`."""

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent: ...

    def open(self, uri: str, max_bytes: int | None = None, *, whole: bool = True) -> BinaryIO: ...

    def read_part(self, uri: str, start: int, stop: int, etag: str) -> bytes | None: ...

    def write(self, uri: str, path: Path) -> None: ...

    def stat(self, uri: str) -> ObjectInfo: ...

    def restored(self, uris: Sequence[str]) -> set[str]: ...

    def presigned_url(self, uri: str, expires_s: int, media_type: str, disposition: str) -> str | None: ...

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]: ...

    def check(self, source: str) -> None: ...

    def close(self) -> None: ...


def check_size(uri: str, size: int, max_bytes: int | None) -> None:
    """Raise `ObjectError` with `too_many_bytes` if an object has more than `max_bytes`; None stands for no limit."""
    if max_bytes is not None and size > max_bytes:
        raise ObjectError("too_many_bytes", f"{uri!r} has {size} bytes, more than {max_bytes}.", permanent=True)
