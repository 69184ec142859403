"""Files without their metadata: what remains decodes if the damage is outside the pixels.

Pillow fails on texts that inflate to megabytes, on wrong checksums and on broken segments; viewers skip them. A file
that Pillow cannot read is copied without its metadata and read again.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import islice

from viewfinder.images import tiff
from viewfinder.images.jpeg import frame_area, is_marker

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_SOI = b"\xff\xd8"

# Chunks of a PNG that decide how its pixels look, in the order to read them; all others are dropped.
_PNG_ORDER = (b"IHDR", b"iCCP", b"PLTE", b"tRNS", b"eXIf", b"IDAT")
_PNG_COLOURS = (b"tRNS", b"iCCP", b"eXIf")
_PALETTE = 3
_PNG_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
# Pillow refuses larger colour profiles in a PNG.
_MAX_PROFILE_BYTES = 1024**2

_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
# Flags of the extended header: what has been dropped must not be announced.
_WEBP_METADATA = 0b101100
_WEBP_EXIF = 0b1000

_CODESTREAM = b"\xff\x4f\xff\x51"

# In a GIF: introducers of blocks, and the whole of one that has the transparent colour.
_GIF_EXTENSION, _GIF_FRAME = 0x21, 0x2C
_GIF_CONTROL = re.compile(rb"\x21\xf9\x04.{4}\x00", re.DOTALL)

# Positions in a broken JPEG header at which its remainder is looked for.
_MAX_HEADER_STARTS = 2000


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield copies of a file with less and less metadata that a reader may stumble over; none for most formats.

    Orientation, transparency and colour profiles (those of PNG and JPEG) stay if they are intact. The copies may still
    end early.
    """
    if data.startswith(PNG_START):
        yield PNG_START + b"".join(_ordered_png_chunks(data)) + _PNG_END
    elif data.startswith(JPEG_SOI):
        yield JPEG_SOI + b"".join(_jpeg_segments(data))
        yield JPEG_SOI + data[_header_start(data, 2) :]
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        yield _webp(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        yield _first_gif_frame(data)
    elif data[4:8] == b"jP  ":
        # JPEG 2000 without its boxes, unless one of them has the palette.
        start = data.find(_CODESTREAM)
        if start > 0 and b"pclr" not in data[:start]:
            yield data[start:]
    elif data[4:8] == b"ftyp":
        # AVIF: an item and a property of unknown types are ignored.
        yield data.replace(b"Exif", b"none", 1).replace(b"colrprof", b"noneprof", 1)
    else:
        yield from tiff.without_tags(data)


def _ordered_png_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks in their order, of each kind but pixels the first: others end the pixels for Pillow."""
    found: dict[bytes, list[bytes]] = {}
    for chunk in _png_chunks(data):
        found.setdefault(chunk[4:8], []).append(chunk)
    for kind in _PNG_ORDER:
        yield from found.get(kind, [])[: None if kind == b"IDAT" else 1]


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = len(PNG_START)
    colour_type = data[25] if len(data) > 25 else 0
    # To other images a palette is only a suggestion.
    pixels = (b"IHDR", b"IDAT", *([b"PLTE"] if colour_type == _PALETTE else []))
    while at + 8 <= len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        chunk = data[at : at + 12 + length]
        if kind == b"IEND":
            return
        if kind in pixels:
            # A chunk that is cut off gets the length that it has.
            whole = len(chunk) == 12 + length
            yield chunk if whole else struct.pack(">I", len(chunk) - 8) + chunk[4:] + bytes(4)
        elif kind in _PNG_COLOURS and _is_intact(chunk, length, colour_type):
            yield chunk
        at += 12 + length
        if not data[at + 4 : at + 8].isalpha():  # the length is wrong: continue with the next chunk of pixels
            found = data.find(b"IDAT", at - 8 - length)
            if found < 0 or kind == b"IDAT":
                return
            at = found - 4


def _is_intact(chunk: bytes, length: int, colour_type: int) -> bool:
    kind, content = chunk[4:8], chunk[8 : 8 + length]
    if len(chunk) < 12 + length or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if kind == b"tRNS":
        return length >= {0: 2, 2: 6}.get(colour_type, 1)
    if kind == b"iCCP":
        name, _, profile = content.partition(b"\0")
        inflate = zlib.decompressobj()
        try:
            inflate.decompress(profile[1:], _MAX_PROFILE_BYTES)
        except zlib.error:
            return False
        return bool(name) and profile[:1] == b"\0" and not inflate.unconsumed_tail
    return True


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    at = 2
    while at + 4 <= len(data):
        if not is_marker(data, at):
            at += 1
            continue
        marker = data[at + 1]
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if marker == 0xDA:
            yield data[at:]
            return
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            if length < 2 or not is_marker(data, end):
                at = _header_start(data, at + 4)
                continue
            if _matters(marker, data[at + 4 : end]):
                yield data[at:end]
        else:
            yield data[at:end]
        at = end


def _matters(marker: int, content: bytes) -> bool:
    """True for a segment that is intact and says how the pixels look."""
    match marker:
        case 0xE1:
            return content.startswith(b"Exif\0\0")
        case 0xE2:
            return content.startswith(b"ICC_PROFILE\0") and len(content) > 14
        case 0xEE:
            return content.startswith(b"Adobe") and len(content) >= 12
    return False


def _header_start(data: bytes, at: int) -> int:
    """Return where the header goes on after a segment with a wrong length: the start of the largest image.

    The segment may contain a preview with a header of its own.
    """
    positions = [*islice(_positions(data, at), _MAX_HEADER_STARTS)]
    # The first of several equal ones is followed by the most tables.
    return max(positions, key=lambda position: (frame_area(data, position), -position), default=len(data))


def _positions(data: bytes, at: int) -> Iterator[int]:
    while (at := data.find(b"\xff", at)) >= 0:
        if is_marker(data, at) and data[at + 1] in (0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD):
            yield at
        at += 1


def _first_gif_frame(data: bytes) -> bytes:
    """Return a GIF from its first frame on, with the transparent colour but no other extension."""
    header = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    at, control = header, b""
    while at < len(data) and data[at] != _GIF_FRAME:
        if found := _GIF_CONTROL.match(data, at):
            control = found[0]
        at = _after_sub_blocks(data, at + 2) if data[at] == _GIF_EXTENSION else at + 1
    return data[:header] + control + data[at:]


def _after_sub_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _webp(data: bytes) -> bytes:
    header, exif = b"", b""
    pixels: list[bytes] = []
    at = 12
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        end = at + 8 + length + length % 2
        is_whole = at + 8 + length <= len(data)
        chunk = data[at:end].ljust(end - at, b"\0") if is_whole else b""
        if kind == b"VP8X":
            header = chunk
        elif kind in _WEBP_PIXELS:
            if not is_whole:
                return data  # the pixels are cut off
            pixels.append(chunk)
        elif pixels:
            exif = chunk if kind == b"EXIF" else exif
        else:
            # The length may be wrong: continue with the pixels.
            found = [position for kind in _WEBP_PIXELS if (position := data.find(kind, at)) > 0]
            end = min(found, default=len(data))
        at = end
    if len(header) >= 9:
        flags = header[8] & ~_WEBP_METADATA | (_WEBP_EXIF if exif else 0)
        header = header[:8] + bytes([flags]) + header[9:]
    content = b"".join([b"WEBP", header, *pixels, exif])
    return b"RIFF" + struct.pack("<I", len(content)) + content
