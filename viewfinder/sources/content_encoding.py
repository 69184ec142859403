"""Undo the `Content-Encoding` of an object (RFC 9110, section 8.4.1)."""

import contextlib
import io
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import pyarrow as pa

from viewfinder.errors import ObjectError

# Encoded bytes that suffice to decode the first ones: a block of zstd has at most 128 KiB.
ENCODED_HEAD_BYTES = 256 * 1024
# The beginning of a file that shows if it is encoded as its header says.
_TRIAL_BYTES = 64 * 1024
_TRIAL_DECODED = 1000
_CHUNK_BYTES = 64 * 1024
_GZIP = b"\x1f\x8b"
_MAGIC = {
    "compress": re.compile(rb"\x1f\x9d"),
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to skip
}
_CLEAR = 256


def codings_of(header: str | None) -> list[str]:
    """Return the encodings to undo, the last applied first.

    Quotes, parameters (`;q=1.0`) and `x-` are no part of a name. Others are ignored: `identity`, those that describe
    the transfer (`aws-chunked`), and words that are no encoding (`utf-8`, `image/jpeg`), which uploaders write there.
    """
    names = (name.partition(";")[0].strip("\"' \t").lower().removeprefix("x-") for name in (header or "").split(","))
    return [name for name in names if name in _DECODERS][::-1]


def decode_bytes(data: bytes, codings: list[str], max_bytes: int, uri: str) -> bytes:
    """Return the decoded content, of damaged data what is before the damage.

    Content that is not encoded in the way its header says is returned unchanged: some endpoints decode it themselves.
    Raises `ObjectError` with `too_many_bytes`, or with `corrupt` if nothing can be decoded.
    """
    for coding in codings:
        parts: list[bytes] = []
        size = 0
        try:
            for part in _decoded(io.BytesIO(data), coding):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise ObjectError(
                        "too_many_bytes",
                        f"{uri!r} has more than {max_bytes} bytes after decoding {coding}.",
                        permanent=True,
                    )
        except _DAMAGED as error:
            if not size:
                raise _corrupt(uri, coding, error) from error
        data = b"".join(parts)
    return data


def decode_head(data: bytes, codings: list[str]) -> bytes:
    """Return the beginning of content whose first encoded bytes these are: at most some 64 KiB, or what they hold."""
    for coding in codings:
        parts: list[bytes] = []
        with contextlib.suppress(*_DAMAGED):  # they end early
            for part in _decoded(io.BytesIO(data), coding):
                parts.append(part)
                if sum(map(len, parts)) >= _TRIAL_BYTES:
                    break
        data = b"".join(parts)
    return data


def decode_file(file: BinaryIO, codings: list[str], uri: str) -> BinaryIO:
    """Return the decoded content of a file as a new temporary file, and close the given one.

    Raises `ObjectError` with `corrupt` for damaged data: a part of a table must not be taken for the whole.
    """
    for coding in codings:
        decoded = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with file:
                for part in _decoded(file, coding):
                    decoded.write(part)
        except _DAMAGED as error:
            decoded.close()
            raise _corrupt(uri, coding, error) from error
        except BaseException:
            decoded.close()
            raise
        decoded.seek(0)
        file = cast(BinaryIO, decoded)
    return file


def _decoded(file: BinaryIO, coding: str) -> Iterator[bytes]:
    """Yield the decoded content; then raise one of `_DAMAGED` if the data ends early, or if other bytes follow.

    A file that is not encoded so is yielded unchanged.
    """
    head = file.read(_TRIAL_BYTES)
    file.seek(0)
    if _begins_like(head, coding):
        yield from _DECODERS[coding](file)
    else:
        yield from iter(lambda: file.read(_CHUNK_BYTES), b"")


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """Decode gzip data (RFC 1952) of any number of members, zlib data (RFC 1950), or bare deflate data (RFC 1951).

    HTTP's `deflate` is zlib data, and some servers send the bare kind. Bytes after the end are ignored.
    """
    rest = file.read(_CHUNK_BYTES)
    window = 31 if rest.startswith(_GZIP) else 15 if _has_zlib_header(rest) else -15
    inflate = zlib.decompressobj(window)
    while True:
        if inflate.eof:
            rest += file.read(max(0, len(_GZIP) - len(rest)))
            if window != 31 or not rest.startswith(_GZIP):
                return
            inflate = zlib.decompressobj(window)
        rest = rest or file.read(_CHUNK_BYTES)
        ended, before = not rest, inflate.copy()
        try:
            found = inflate.decompress(rest, _CHUNK_BYTES)
        except zlib.error:
            for at in range(len(rest)):  # raises the same error after the last whole byte
                yield before.decompress(rest[at : at + 1])
            raise
        rest = inflate.unused_data or inflate.unconsumed_tail
        if found:
            yield found
        elif ended and not inflate.eof:
            raise EOFError("the data ends early")


def _has_zlib_header(data: bytes) -> bool:
    return len(data) > 1 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0


def _by_arrow(codec: str) -> Callable[[BinaryIO], Iterator[bytes]]:
    def decoded(file: BinaryIO) -> Iterator[bytes]:
        data, given = file.read(), 0
        try:
            with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
                while part := stream.read(_CHUNK_BYTES):
                    given += len(part)
                    yield part
        except _DAMAGED:
            # Arrow drops what it has read for this part: read it again, byte by byte, up to the same error.
            with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
                stream.read(given)
                while part := stream.read(1):
                    yield part

    return decoded


def _uncompressed(file: BinaryIO) -> Iterator[bytes]:
    """Decode data of Unix `compress`: LZW with codes of 9 bits up to the number in the header.

    Each code adds an entry: the text of the code before it and one more byte, which follows in the output.
    """
    data = file.read()
    flags = data[2] if len(data) > 2 else 0
    max_width, first = flags & 0x1F, _CLEAR + (flags >> 7)
    if not 9 <= max_width <= 16:
        raise EOFError("the header is damaged")
    out, given = bytearray(), 0
    entries: list[tuple[int, int]] = []  # place in the output and length
    width, start, at = 9, 24, 24  # in bits; `start`: the first code of this width
    last: tuple[int, int] | None = None
    while at + width <= len(data) * 8:
        code = int.from_bytes(data[at // 8 : at // 8 + 3], "little") >> at % 8 & (1 << width) - 1
        at += width
        wider = width
        if code == _CLEAR < first:
            entries, last, wider = [], None, 9
        else:
            if last is not None and first + len(entries) < 1 << max_width:
                entries.append((last[0], last[1] + 1))
            if code >= 256 and code - first >= len(entries):
                yield bytes(out[given:])
                raise EOFError("a code is damaged")
            place, length = entries[code - first] if code >= 256 else (0, 0)
            text = out[place : place + length] if length else bytes([code])
            last = len(out), max(1, length)
            out += text if len(text) == last[1] else text + text[:1]  # the entry that this code has added
            wider += first + len(entries) >= 1 << width < 1 << max_width
        if wider != width or last is None:  # codes of one width fill groups of eight, also before a clear
            at, width = start + -(-(at - start) // (8 * width)) * 8 * width, wider
            start = at
        if len(out) - given >= _CHUNK_BYTES:
            yield bytes(out[given:])
            given = len(out)
    yield bytes(out[given:])


_DECODERS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    "gzip": _inflated,
    "deflate": _inflated,
    "compress": _uncompressed,
    "br": _by_arrow("brotli"),
    "zstd": _by_arrow("zstd"),
}
_DAMAGED = (OSError, EOFError, zlib.error, pa.ArrowException)


def _begins_like(head: bytes, coding: str) -> bool:
    if coding in _MAGIC:
        return _MAGIC[coding].match(head) is not None
    try:
        if coding == "deflate":
            bare = not head.startswith(_GZIP) and not _has_zlib_header(head)
            # Nearly no other content is bare deflate data for so long.
            return not bare or len(zlib.decompressobj(-15).decompress(head, _CHUNK_BYTES)) > 0
        with pa.CompressedInputStream(pa.BufferReader(head), "brotli") as trial:
            return len(trial.read(_TRIAL_DECODED)) > 0
    except _DAMAGED:
        return False


def _corrupt(uri: str, coding: str, error: Exception) -> ObjectError:
    return ObjectError("corrupt", f"{uri!r} is not complete {coding} data: {error}.", permanent=True)
