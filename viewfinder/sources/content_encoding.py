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
        data = b"".join(_checked(io.BytesIO(data), coding, uri, max_bytes, whole=False))
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


def decode_file(file: BinaryIO, codings: list[str], uri: str, max_bytes: int | None, *, whole: bool) -> BinaryIO:
    """Return the decoded content of a file as a new temporary file, and close the given one.

    Of damaged data, the content is what is before the damage, as in `decode_bytes`; if `whole`, damaged data is
    `corrupt`. Raises `ObjectError` with `too_many_bytes` or `corrupt`.
    """
    for coding in codings:
        decoded = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with file:
                for part in _checked(file, coding, uri, max_bytes, whole=whole):
                    decoded.write(part)
        except BaseException:
            decoded.close()
            raise
        decoded.seek(0)
        file = cast(BinaryIO, decoded)
    return file


def _checked(file: BinaryIO, coding: str, uri: str, max_bytes: int | None, *, whole: bool) -> Iterator[bytes]:
    """Yield the decoded content. Raises `ObjectError` as `decode_file` does."""
    size = 0
    try:
        for part in _decoded(file, coding):
            size += len(part)
            if max_bytes is not None and size > max_bytes:
                message = f"{uri!r} has more than {max_bytes} bytes after decoding {coding}."
                raise ObjectError("too_many_bytes", message, permanent=True)
            yield part
    except _DAMAGED as error:
        if whole or not size:
            raise ObjectError("corrupt", f"{uri!r} is not complete {coding} data: {error}.", permanent=True) from error


def _decoded(file: BinaryIO, coding: str) -> Iterator[bytes]:
    """Yield the decoded content in parts of some 64 KiB, and leave the file open or close it.

    Then raise one of `_DAMAGED` if the data is damaged or ends early. Bytes after its end are ignored, except by `br`
    and `zstd`, which count them as damage. A file that is not encoded so is yielded unchanged.
    """
    head = file.read(_TRIAL_BYTES)
    file.seek(0)
    if _begins_like(head, coding):
        yield from _DECODERS[coding](file)
    else:
        yield from iter(lambda: file.read(_CHUNK_BYTES), b"")


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """Decode gzip data (RFC 1952) of any number of members, zlib data (RFC 1950), or bare deflate data (RFC 1951).

    HTTP's `deflate` is zlib data, and some servers send the bare kind.
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
        stream, given = pa.CompressedInputStream(file, codec), 0
        try:
            while part := stream.read(_CHUNK_BYTES):
                given += 1
                yield part
        except _DAMAGED:
            # Arrow drops what it has read for this part: read it again, byte by byte, up to the same error.
            file.seek(0)
            again = pa.CompressedInputStream(file, codec)
            for _ in range(given):
                again.read(_CHUNK_BYTES)
            while part := again.read(1):
                yield part

    return decoded


def _uncompressed(file: BinaryIO) -> Iterator[bytes]:
    """Decode data of Unix `compress`: LZW with codes of 9 bits up to the number in the header, where 9 means 10.

    Each code adds an entry: the text of the code before it and one more byte, which follows in the output.
    """
    header = file.read(3)
    flags = header[2] if len(header) > 2 else 0
    max_width, first = flags & 0x1F, _CLEAR + (flags >> 7)
    if not 9 <= max_width <= 16:
        raise EOFError("the header is damaged")
    max_width = max(10, max_width)
    # By code: the code of the text without its last byte, and this byte. The codes of single bytes have no prefix.
    prefixes, suffixes = [0] * first, bytearray(range(256)) + bytes(first - _CLEAR)
    out = bytearray()
    width, last, initial = 9, -1, 0  # `last`: the code before; `initial`: the first byte of its text
    while group := file.read(width):  # codes of one width fill groups of eight, also before a clear
        codes = int.from_bytes(group, "little")
        for place in range(0, 8 * len(group) - width + 1, width):
            code = codes >> place & (1 << width) - 1
            if code == _CLEAR < first:
                del prefixes[first:], suffixes[first:]
                width, last = 9, -1
                break
            adds = last >= 0 and len(prefixes) < 1 << max_width
            if adds:
                prefixes.append(last)
                suffixes.append(initial)  # right if this code is that of the new entry
            if code >= len(prefixes):
                yield bytes(out)
                raise EOFError("a code is damaged")
            text, at = bytearray(), code
            while at >= _CLEAR:
                text.append(suffixes[at])
                at = prefixes[at]
            text.append(at)
            out += text[::-1]
            if len(out) >= _CHUNK_BYTES:
                yield bytes(out)
                out.clear()
            if adds:
                suffixes[-1] = at
            last, initial = code, at
            if len(prefixes) >= 1 << width and width < max_width:
                width += 1
                break
    yield bytes(out)


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
