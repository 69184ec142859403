"""Objects and where they lie: canonical URIs, point ids, and one door to S3 and local files for jobs and service.

    s3://BUCKET/KEY          KEY is taken literally: no escapes, and no `//`, `..`, `#`, `?` or `%` means anything
    file:///ABSOLUTE/PATH    percent-encoded bytes of the path, so that every file name there is comes back unharmed

A point's id is made of the URI: an object spelled in two ways would be two points.
"""

import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol
from urllib.parse import quote, unquote_to_bytes

from viewfinder.errors import ConfigurationError, SourceError
from viewfinder.settings import Settings

POINT_NAMESPACE = uuid.UUID("6ad3b0f2-6a5e-4d0c-9d3e-3f4d5f1d7a10")
"""Namespace of the point ids. A change here orphans every point of every index."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing says of one object, its content unseen."""

    uri: str
    bucket: str  # "" for a local file
    key: str  # a local file: its absolute path
    size: int  # bytes; -1 where unknown (a manifest without sizes)
    etag: str  # without quotes; "" where unknown, then reading tells it. A local file: from its size and mtime.
    last_modified: str  # ISO 8601 in UTC to the second; "" where unknown


@dataclass(frozen=True, slots=True)
class ObjectAccess:
    """How to reach objects: plain values that travel to workers. Credentials do not: boto3's chain finds them there."""

    endpoint_url: str | None = None
    anonymous: bool = False
    threads: int = 16  # concurrent requests, and so the size of the connection pool
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    retry_s: float = 30.0  # after it no new attempt is begun; the second attempt always is
    backoff_s: float = 0.2  # first pause, doubled each time up to 10 s, jittered

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


class Objects:
    """Reads and lists objects by canonical URI. One for each process serves all of its threads.

    Clients are made at first use. Backends given take the place of the real ones.
    """

    def __init__(
        self, access: ObjectAccess | None = None, *, s3: Backend | None = None, files: Backend | None = None
    ) -> None:
        self.access = access or ObjectAccess()
        self._backends: dict[str, Backend] = {}
        if s3 is not None:
            self._backends["s3"] = s3
        if files is not None:
            self._backends["file"] = files
        self._lock = threading.Lock()

    def read(self, uri: str, max_bytes: int, etag: str = "") -> tuple[bytes, str]:
        """The content of one object and its ETag; transient failures are retried for `access.retry_s`.

        Raises `ObjectError` with the reason `not_found`, `access_denied`, `archived`, `not_a_file`, `too_many_bytes`
        (permanent), `changed` (its ETag is no longer `etag`, where that is given), `throttled`, `unavailable` or
        `refused`.
        """
        return self._backend(uri).read(uri, max_bytes, etag)

    def open(self, uri: str) -> BinaryIO:
        """One object as a seekable file, for tables of any size; S3's come by way of an unnamed temporary file.

        Raises `ObjectError` as `read` does.
        """
        return self._backend(uri).open(uri)

    def write(self, uri: str, path: Path) -> None:
        """Make the local file `path` the content of one object. Raises `ObjectError` as `read` does."""
        self._backend(uri).write(uri, path)

    def stat(self, uri: str) -> ObjectInfo:
        """What is known of one object without its content. Raises `ObjectError` as `read` does."""
        return self._backend(uri).stat(uri)

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        """The object `source` itself, then what lies under it; `s3://b/p` means `p` and `p/...`, never `p2`.

        `ordered=False` lists S3 with `access.threads` requests at a time, in no particular order. Left out: S3's
        directory markers (no bytes, a key that ends in `/`), local names that begin with a dot, and all that is no
        regular file. Local links are followed, except back into a directory above.
        Raises `SourceError` or `ViewfinderError` where the listing cannot be completed; never ends early silently.
        """
        return self._backend(source).list(source, ordered=ordered)

    def check(self, source: str) -> None:
        """Ask, within seconds, whether anything can be listed at `source`; raises a `SourceError` that says why not."""
        self._backend(source).check(source)

    def close(self) -> None:
        with self._lock:
            for backend in self._backends.values():
                backend.close()

    def __enter__(self) -> "Objects":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _backend(self, uri: str) -> Backend:
        scheme = uri.partition("://")[0]
        with self._lock:
            if scheme not in self._backends:
                self._backends[scheme] = self._connect(scheme, uri)
            return self._backends[scheme]

    def _connect(self, scheme: str, uri: str) -> Backend:
        if scheme == "file":
            from viewfinder.sources.local_files import LocalObjects

            return LocalObjects()
        if scheme == "s3":
            try:
                from viewfinder.sources.s3 import S3Objects  # boto3 is no part of the plain client's installation
            except ModuleNotFoundError as error:
                raise ConfigurationError(
                    f"Reading {uri!r} needs {error.name}, which is not installed: pip install 'viewfinder[all]'."
                ) from error
            return S3Objects(self.access)
        raise SourceError(f"{uri!r} is no canonical URI; {_SUPPORTED}.")


_SUPPORTED = "supported are s3://BUCKET/KEY, file:///PATH and local paths"


def canonical_uri(text: str) -> str:
    """The one spelling of a source's or object's URI: `s3://` as it stands, anything local as an absolute `file://`.

    Only the bare bucket is trimmed: `s3://b/` is `s3://b`. Local paths lose `.`, `..` and doubled slashes, by their
    spelling alone: symbolic links stay. Raises `SourceError` for other schemes.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() == "s3":
        return _canonical_s3(text, rest)
    if separator and scheme.lower() == "file":
        host, slash, path = rest.partition("/")
        if host.lower() not in ("", "localhost") or not slash:
            raise SourceError(f"{text!r} names the host {host!r}: write file:///ABSOLUTE/PATH, with three slashes.")
        return file_uri(os.fsdecode(unquote_to_bytes("/" + path)))
    if separator and scheme.isascii() and scheme.replace("+", "").isalnum():
        hint = " Write s3:// instead." if scheme.lower() in ("s3a", "s3n") else ""
        raise SourceError(f"Cannot read {text!r}: {scheme}:// is not supported; {_SUPPORTED}.{hint}")
    if not text:
        raise SourceError(f"The source is empty; {_SUPPORTED}.")
    return file_uri(text)


def point_id(uri: str) -> str:
    """The id of an object's point, the same in every collection: UUIDv5 of the canonical URI."""
    return str(uuid.uuid5(POINT_NAMESPACE, uri))


def s3_parts(uri: str) -> tuple[str, str]:
    """Bucket and key of a canonical `s3://` URI; the key is "" for a bare bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def file_uri(path: str) -> str:
    """The canonical URI of a local path."""
    if "\0" in path:
        raise SourceError(f"The path {path!r} holds a NUL character.")
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - pathlib cannot do it by spelling alone
    try:
        name = os.fsencode("/" + path.lstrip("/"))  # POSIX lets a path keep two leading slashes
    except UnicodeEncodeError as error:
        raise SourceError(f"The path {path!r} holds half a character, which no file name does.") from error
    return "file://" + quote(name)


def file_path(uri: str) -> str:
    """The path of a canonical `file://` URI, the inverse of `file_uri`."""
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


def display_key(path: str) -> str:
    """A local path as text for tables and payloads: bytes that are no UTF-8 show as backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _canonical_s3(text: str, rest: str) -> str:
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise SourceError(f"{text!r} names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{text!r} is not valid Unicode, which S3 keys always are.") from error
    return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
