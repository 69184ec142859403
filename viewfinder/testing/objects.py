"""Objects in memory for tests: `Objects(s3=MemoryObjects({"s3://bucket/key": b"..."}))`."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from viewfinder.errors import ObjectError, SourceError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.uris import s3_parts


class MemoryObjects:
    """A `Backend` over a dictionary of contents by canonical `s3://` URI, which may be changed between calls."""

    def __init__(self, contents: Mapping[str, bytes] | None = None) -> None:
        self.contents = dict(contents or {})

    def read(self, uri: str, max_bytes: int, etag: str = "") -> tuple[bytes, str]:
        info = self.stat(uri)
        if etag and info.etag != etag:
            raise ObjectError("changed", f"{uri!r} changed since it was listed.")
        if info.size > max_bytes:
            raise ObjectError(
                "too_many_bytes", f"{uri!r} has {info.size} bytes, more than {max_bytes}.", permanent=True
            )
        return self.contents[uri], info.etag

    def open(self, uri: str) -> BinaryIO:
        self.stat(uri)
        return io.BytesIO(self.contents[uri])

    def write(self, uri: str, path: Path) -> None:
        self.contents[uri] = path.read_bytes()

    def stat(self, uri: str) -> ObjectInfo:
        if uri not in self.contents:
            raise ObjectError("not_found", f"There is no object {uri!r}.")
        content = self.contents[uri]
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return ObjectInfo(uri, *s3_parts(uri), len(content), etag, "")

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        below = source if source.endswith("/") else f"{source}/"
        for uri in sorted(self.contents):
            is_marker = uri.endswith("/") and not self.contents[uri]
            if (uri == source or uri.startswith(below)) and not is_marker:
                yield self.stat(uri)

    def check(self, source: str) -> None:
        if next(self.list(source), None) is None:
            raise SourceError(f"There is nothing at or under {source!r}.")

    def close(self) -> None:
        """Nothing to close."""
