"""Objects in S3 and in local directories, read and listed by canonical URI (`viewfinder.sources.uris`)."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from viewfinder import tracing
from viewfinder.errors import ConfigurationError, SourceError
from viewfinder.sources.access import Backend, HeadCheck, ObjectAccess, ObjectContent, ObjectInfo
from viewfinder.sources.local_files import LocalObjects
from viewfinder.sources.uris import SUPPORTED, s3_parts


class Objects:
    """Reads and lists objects by canonical URI. One instance serves all threads of a process.

    Clients are created at first use. `s3` and `files` replace the real backends.
    """

    def __init__(
        self, access: ObjectAccess | None = None, *, s3: Backend | None = None, files: Backend | None = None
    ) -> None:
        self.access = access or ObjectAccess()
        self._backends: dict[str, Backend] = dict(self.access.backends)
        if s3 is not None:
            self._backends["s3"] = s3
        if files is not None:
            self._backends["file"] = files
        self._lock = threading.Lock()

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        """Return the content of one object, its `Content-Encoding` undone; transient errors are retried.

        `max_bytes` limits the size before and after decoding. `check_head` sees the first bytes before the rest is
        read, and before a too large object is refused. Of a damaged encoding, the content is what is before the damage.
        Raises what `check_head` raises, and `ObjectError` with the reason `not_found`, `access_denied`, `archived`,
        `not_a_file`, `too_many_bytes` (permanent), `corrupt` (permanent: an encoding of which nothing can be undone),
        `throttled`, `unavailable`, `changed` (a local file, while it was read) or `refused`.
        """
        with _span("GetObject", uri):
            return self._backend(uri).read(uri, max_bytes, check_head)

    def open(self, uri: str, max_bytes: int | None = None, *, whole: bool = True) -> BinaryIO:
        """Return one object as a seekable file; an object in S3 is copied to an unnamed temporary file.

        Its `Content-Encoding` is undone. A damaged one is `corrupt` if `whole`: a part of a table must not be taken for
        the whole. Otherwise the content is what is before the damage. `max_bytes` limits the size before and after
        decoding. Raises `ObjectError` as `read` does.
        """
        with _span("GetObject", uri):
            return self._backend(uri).open(uri, max_bytes, whole=whole)

    def read_part(self, uri: str, start: int, stop: int, etag: str) -> bytes | None:
        """Return bytes `start` to `stop` of an object in S3 that still has this ETag, read alone.

        None if they cannot be had alone: of a local file, of an object with a `Content-Encoding`, of one that has
        changed, and from an endpoint that knows no ranges. Raises `ObjectError` as `read` does.
        """
        with _span("GetObject", uri):
            return self._backend(uri).read_part(uri, start, stop, etag)

    def write(self, uri: str, path: Path) -> None:
        """Copy the local file `path` to one object. Raises `ObjectError` as `read` does."""
        with _span("PutObject", uri):
            self._backend(uri).write(uri, path)

    def stat(self, uri: str) -> ObjectInfo:
        """Return the properties of one object. Raises `ObjectError` as `read` does."""
        with _span("HeadObject", uri):
            return self._backend(uri).stat(uri)

    def restored(self, uris: Sequence[str]) -> set[str]:
        """Return those of these objects in S3, listed as archived, that have been restored.

        AWS's listings show that already. Other endpoints are asked, one HEAD request for each object.
        """
        return self._backend(uris[0]).restored(uris) if uris else set()

    def presigned_url(self, uri: str, expires_s: int, media_type: str, disposition: str) -> str | None:
        """Return an address from which anyone may read the object for `expires_s` seconds; None if there is none.

        The answer there has the headers `Content-Type` and `Content-Disposition` that are given. Raises `ObjectError`
        as `read` does: the object is looked for, but not read.
        """
        return self._backend(uri).presigned_url(uri, expires_s, media_type, disposition)

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        """Yield the object `source` itself, then those below it; `s3://b/p` means `p` and `p/...`, not `p2`.

        `ordered=False` lists S3 with `access.threads` concurrent requests, in no particular order. Skipped are S3's
        directory markers (0 bytes, a key that ends in `/`), hidden local files, and everything that is not a regular
        file. Local links are followed, except into a parent directory.
        Raises `SourceError` or `ViewfinderError` if the listing cannot be completed; it never ends early silently.
        """
        return self._backend(source).list(source, ordered=ordered)

    def check(self, source: str) -> None:
        """Raise `SourceError`, within seconds, if nothing can be listed at `source`."""
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
            return LocalObjects()
        if scheme == "s3":
            try:
                from viewfinder.sources.s3 import S3Objects  # noqa: PLC0415 - boto3 comes with an extra
            except ModuleNotFoundError as error:
                raise ConfigurationError(
                    f"Reading {uri!r} needs {error.name}, which is not installed: pip install 'viewfinder[local]'."
                ) from error
            return S3Objects(self.access)
        raise SourceError(f"{uri!r} is not a canonical URI; {SUPPORTED}.")


_UNTRACED: AbstractContextManager[Any] = nullcontext()


def _span(method: str, uri: str) -> AbstractContextManager[Any]:
    """The span of a request to S3 by a traced caller. It names the bucket, not the key."""
    if (traces := tracing.active) is None or not uri.startswith("s3://") or not traces.is_traced():
        return _UNTRACED
    attributes = {"rpc.system": "aws-api", "rpc.service": "S3", "rpc.method": method, "aws.s3.bucket": s3_parts(uri)[0]}
    return traces.span(f"S3.{method}", "CLIENT", attributes)
