"""Local files, read and listed by `file://` URI. Pipes, devices and cycles of links never block."""

import difflib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from viewfinder.errors import ObjectError, SourceError
from viewfinder.sources.access import CHECKED_BYTES, HeadCheck, ObjectContent, ObjectInfo, check_size
from viewfinder.sources.uris import display_key, file_path, file_uri

_REASON_BY_ERRNO = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.ENAMETOOLONG: "not_found",
    errno.ELOOP: "not_found",
    errno.EACCES: "access_denied",
    errno.EPERM: "access_denied",
    errno.ENXIO: "not_a_file",  # a socket
}


class LocalObjects:
    """Files of this machine by `file://` URI. The ETag is made of size and modification time, not of the content."""

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        try:
            with self.open(uri) as file:
                before = os.fstat(file.fileno())
                if check_head is not None:
                    check_head(file.read(CHECKED_BYTES))
                    file.seek(0)
                check_size(uri, before.st_size, max_bytes)
                data = file.read(before.st_size + 1)
                if len(data) != before.st_size or _etag(os.fstat(file.fileno())) != _etag(before):
                    raise ObjectError("changed", f"{uri!r} changed while it was read.")
        except OSError as error:
            raise _object_error(uri, error) from error
        return ObjectContent(data, _info(file_path(uri), before).version)

    def open(self, uri: str, max_bytes: int | None = None, *, whole: bool = True) -> BinaryIO:
        try:
            # Without O_NONBLOCK, opening a pipe blocks until another process writes to it. Regular files ignore it.
            descriptor = os.open(file_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _object_error(uri, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ObjectError("not_a_file", f"{uri!r} is not a regular file.")
        file = os.fdopen(descriptor, "rb")
        try:
            check_size(uri, os.fstat(descriptor).st_size, max_bytes)
        except BaseException:
            file.close()
            raise
        return file

    def write(self, uri: str, path: Path) -> None:
        target = Path(file_path(uri))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Hidden until it is whole: a run may list the directory meanwhile.
            part = target.with_name(f".viewfinder-{secrets.token_hex(8)}")
            try:
                shutil.copyfile(path, part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise _object_error(uri, error, "write") from error

    def stat(self, uri: str) -> ObjectInfo:
        try:
            status = os.stat(file_path(uri))  # noqa: PTH116 - a path may be no valid Unicode
        except OSError as error:
            raise _object_error(uri, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise ObjectError("not_a_file", f"{uri!r} is not a regular file.")
        return _info(file_path(uri), status)

    def read_part(self, uri: str, start: int, stop: int, etag: str) -> None:
        """Return None: to open a file costs no more than to read its part."""

    def restored(self, uris: Sequence[str]) -> set[str]:
        """Return the empty set: local files are never archived."""
        return set()

    def presigned_url(self, uri: str, expires_s: int, media_type: str, disposition: str) -> None:
        """Return None: a local file has no address."""

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        path = file_path(source)
        try:
            status = os.stat(path)  # noqa: PTH116
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(_entries(path), _ancestor_inodes(path))
            elif stat.S_ISREG(status.st_mode):
                yield _info(path, status)
            else:
                raise SourceError(f"The source {source!r} is neither a directory nor a regular file.")
        except OSError as error:
            raise _source_error(source, error) from error

    def check(self, source: str) -> None:
        found = next(self.list(source), None)
        if found is None:
            raise SourceError(
                f"There are no files under {source!r} (hidden files do not count). "
                "Pass another directory, or put images there."
            )

    def close(self) -> None:
        """Nothing to close."""


def _walk(entries: Iterable[os.DirEntry[str]], ancestors: frozenset[tuple[int, int]]) -> Iterator[ObjectInfo]:
    for entry in entries:
        try:
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                yield _info(entry.path, status)
                continue
            inode = (status.st_dev, status.st_ino)
            below = _entries(entry.path) if stat.S_ISDIR(status.st_mode) and inode not in ancestors else []
        except OSError as error:
            # Deleted since, or a broken link: the listing is complete without it.
            if error.errno in (errno.ENOENT, errno.ELOOP):
                continue
            raise
        yield from _walk(below, ancestors | {inode})


def _entries(directory: str) -> list[os.DirEntry[str]]:
    # Sorted, and walked depth first: the order is the same on every run, which a listing with a limit relies on.
    with os.scandir(directory) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _ancestor_inodes(path: str) -> frozenset[tuple[int, int]]:
    # All directories up to the root, so that the same links are followed wherever the listing begins.
    found = set()
    while True:
        status = os.stat(path)  # noqa: PTH116
        found.add((status.st_dev, status.st_ino))
        parent = os.path.dirname(path)  # noqa: PTH120
        if parent == path:
            return frozenset(found)
        path = parent


def _info(path: str, status: os.stat_result) -> ObjectInfo:
    try:
        modified = datetime.fromtimestamp(int(status.st_mtime), UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has: the time is unknown
        modified = ""
    return ObjectInfo(file_uri(path), "", display_key(path), status.st_size, _etag(status), modified)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _object_error(uri: str, error: OSError, action: str = "read") -> ObjectError:
    reason = _REASON_BY_ERRNO.get(error.errno or 0, "unavailable")
    return ObjectError(reason, f"Could not {action} {uri!r}: {error.strerror or error}.")


def _source_error(source: str, error: OSError) -> SourceError:
    path = file_path(source)
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        # A directory below may be the one that failed: without it the listing would be partial.
        where = display_key(os.fsdecode(error.filename)) if error.filename else display_key(path)
        return SourceError(f"Cannot list {source!r}: {error.strerror} at {where!r}.")
    parent, name = os.path.split(path)
    try:
        near = difflib.get_close_matches(name, os.listdir(parent), n=3, cutoff=0.5)  # noqa: PTH208
    except OSError:
        near = []
    hint = f" Similar names: {', '.join(repr(display_key(os.path.join(parent, one))) for one in near)}." if near else ""  # noqa: PTH118
    return SourceError(f"There is no file or directory {display_key(path)!r}.{hint}")
