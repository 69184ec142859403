"""Undo the `Content-Encoding` of an object (RFC 9110, section 8.4.1)."""

import io
import shutil
import tempfile
import zlib
from collections.abc import Callable
from typing import BinaryIO, cast

import pyarrow as pa

from viewfinder.errors import ObjectError

# The beginning of a file that shows if it is encoded as its header says.
_TRIAL_BYTES = 64 * 1024
_TRIAL_DECODED = 1000
_CHUNK_BYTES = 64 * 1024
_GZIP = b"\x1f\x8b"
_MAGIC = {"gzip": _GZIP, "zstd": b"\x28\xb5\x2f\xfd"}


def codings_of(header: str | None) -> list[str]:
    """Return the encodings to undo, the last applied first.

    Others are ignored: `identity`, those that describe the transfer (`aws-chunked`), and words that are no encoding
    (`utf-8`, `image/jpeg`), which uploaders write there.
    """
    names = (name.strip().lower().removeprefix("x-") for name in (header or "").split(","))
    return [name for name in names if name in _OPENERS][::-1]


def decode_bytes(data: bytes, codings: list[str], max_bytes: int, uri: str) -> bytes:
    """Return the decoded content. Raises `ObjectError` with `too_many_bytes` or, if it is damaged, `corrupt`.

    Content that is not encoded in the way its header says is returned unchanged: some endpoints decode it themselves.
    """
    for coding in codings:
        with _open(io.BytesIO(data), coding) as file:
            data = _read_decoded(file, max_bytes + 1, coding, uri)
        if len(data) > max_bytes:
            raise ObjectError(
                "too_many_bytes", f"{uri!r} has more than {max_bytes} bytes after decoding {coding}.", permanent=True
            )
    return data


def decode_file(file: BinaryIO, codings: list[str], uri: str) -> BinaryIO:
    """Return the decoded content of a file as a new temporary file, and close the given one. Raises `ObjectError`."""
    for coding in codings:
        decoded = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with file, _open(file, coding) as plain:
                shutil.copyfileobj(plain, decoded)
        except _DAMAGED as error:
            decoded.close()
            raise _corrupt(uri, coding, error) from error
        except BaseException:
            decoded.close()
            raise
        decoded.seek(0)
        file = cast(BinaryIO, decoded)
    return file


def _open_deflate(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, _Inflated(file))


def _open_arrow(codec: str) -> Callable[[BinaryIO], BinaryIO]:
    return lambda file: cast(BinaryIO, pa.CompressedInputStream(pa.BufferReader(file.read()), codec))


class _Inflated(io.RawIOBase):
    """Reads gzip data (RFC 1952) of any number of members, zlib data (RFC 1950), or bare deflate data (RFC 1951).

    HTTP's `deflate` is zlib data, and some servers send the bare kind. Bytes after the end are ignored.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = file.read(_CHUNK_BYTES)
        self._window = 31 if self._rest.startswith(_GZIP) else 15 if _has_zlib_header(self._rest) else -15
        self._inflate = zlib.decompressobj(self._window)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._inflate.eof or self._next_member():
            if not self._rest:
                self._rest = self._file.read(_CHUNK_BYTES)
            ended = not self._rest
            found = self._inflate.decompress(self._rest, max(0, size))
            self._rest = self._inflate.unused_data or self._inflate.unconsumed_tail
            if found:
                return found
            if ended and not self._inflate.eof:
                raise EOFError("the data ends early")
        return b""

    def _next_member(self) -> bool:
        self._rest += self._file.read(max(0, len(_GZIP) - len(self._rest)))
        if self._window != 31 or not self._rest.startswith(_GZIP):
            return False
        self._inflate = zlib.decompressobj(self._window)
        return True


def _has_zlib_header(data: bytes) -> bool:
    return len(data) > 1 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0


_OPENERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "gzip": _open_deflate,
    "deflate": _open_deflate,
    "br": _open_arrow("brotli"),
    "zstd": _open_arrow("zstd"),
}
_DAMAGED = (OSError, EOFError, zlib.error, pa.ArrowException)


def _open(file: BinaryIO, coding: str) -> BinaryIO:
    """Open a file for decoding, or return it unchanged if it is not encoded so."""
    head = file.read(_TRIAL_BYTES)
    file.seek(0)
    return _OPENERS[coding](file) if _begins_like(head, coding) else file


def _begins_like(head: bytes, coding: str) -> bool:
    if coding in _MAGIC:
        return head.startswith(_MAGIC[coding])
    try:
        if coding == "deflate":
            bare = not head.startswith(_GZIP) and not _has_zlib_header(head)
            # Nearly no other content is bare deflate data for so long.
            return not bare or len(zlib.decompressobj(-15).decompress(head, _CHUNK_BYTES)) > 0
        with _OPENERS[coding](io.BytesIO(head)) as trial:
            return len(trial.read(_TRIAL_DECODED)) > 0
    except _DAMAGED:
        return False


def _read_decoded(file: BinaryIO, size: int, coding: str, uri: str) -> bytes:
    parts: list[bytes] = []
    left = size
    try:
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    except _DAMAGED as error:
        raise _corrupt(uri, coding, error) from error
    return b"".join(parts)


def _corrupt(uri: str, coding: str, error: Exception) -> ObjectError:
    return ObjectError("corrupt", f"{uri!r} is not complete {coding} data: {error}.", permanent=True)
