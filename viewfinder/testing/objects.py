"""Objects in memory for tests: `Objects(s3=MemoryObjects({"s3://bucket/key": b"..."}))`."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from viewfinder.errors import ObjectError, SourceError
from viewfinder.sources.access import CHECKED_BYTES, HeadCheck, ObjectContent, ObjectInfo, check_size
from viewfinder.sources.uris import s3_parts


class MemoryObjects:
    """A `Backend` over a dictionary of contents by canonical `s3://` URI, which may be changed between calls.

    The objects in `archived` are listed as such and cannot be read. `uris_read` are the URIs that have been read.
    """

    def __init__(self, contents: Mapping[str, bytes] | None = None, archived: Iterable[str] = ()) -> None:
        self.contents = dict(contents or {})
        self.archived = set(archived)
        self.uris_read: list[str] = []

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        info = self.stat(uri)
        self.uris_read.append(uri)
        if info.archived:
            raise ObjectError("archived", f"{uri!r} is archived.")
        if check_head is not None:
            check_head(self.contents[uri][:CHECKED_BYTES])
        check_size(uri, info.size, max_bytes)
        return ObjectContent(self.contents[uri], info.version)

    def open(self, uri: str, max_bytes: int | None = None, *, whole: bool = True) -> BinaryIO:
        check_size(uri, self.stat(uri).size, max_bytes)
        return io.BytesIO(self.contents[uri])

    def read_part(self, uri: str, start: int, stop: int, etag: str) -> bytes | None:
        return self.contents[uri][start:stop] if self.stat(uri).etag == etag else None

    def write(self, uri: str, path: Path) -> None:
        self.contents[uri] = path.read_bytes()

    def stat(self, uri: str) -> ObjectInfo:
        if uri not in self.contents:
            raise ObjectError("not_found", f"There is no object {uri!r}.")
        content = self.contents[uri]
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return ObjectInfo(uri, *s3_parts(uri), len(content), etag, "", archived=uri in self.archived)

    def restored(self, uris: Sequence[str]) -> set[str]:
        """Return the empty set: the listing shows it."""
        return set()

    def presigned_url(self, uri: str, expires_s: int, media_type: str, disposition: str) -> None:
        """Return None: there is no endpoint."""

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
