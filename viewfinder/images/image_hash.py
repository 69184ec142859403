"""A hash of the image in a file, which stays the same when only the file's metadata are written anew.

    JPEG            the coded data: tables, frames and scans, without APPn segments and comments
    PNG             the coded data: IHDR, PLTE, tRNS, the content of all IDAT, the chunks of colours and animation
    other formats   the decoded pixels in full
    several frames  the whole file: all frames count, and decoding them takes time without bound

What changes how the same pixels look is part of the image: the orientation, a colour profile unless it is that of
sRGB, and the colour space of a JPEG. Of a RAW file it is the preview that is indexed.

JPEGs are decoded at a reduced size, so their pixels are not there to be hashed; reading their coded data takes about a
millisecond per megabyte.
"""

import hashlib
import io
import struct
import uuid
from collections.abc import Iterator

from PIL import Image

from viewfinder.images import jpeg, tiff
from viewfinder.images.colours import conversion, profile_of
from viewfinder.images.metadata import PNG_START

# tIME, texts, pHYs, sBIT, bKGD and others say nothing about pixels; eXIf and iCCP are the orientation and the profile.
_PNG_CHUNKS = frozenset(
    (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"acTL", b"fcTL", b"fdAT")
)
# Rows hashed at a time, which bounds the memory.
_STRIP_ROWS = 256


def image_hash(data: bytes, image: Image.Image, orientation: int, *, whole: bool) -> str:
    """Return the hash of the image that was loaded from `data`: 128 bits, written as a UUID, which Qdrant indexes in a
    third of the memory of other texts.

    `orientation` is what `image` still has to be turned by (EXIF). `whole` is False if a part of the image is missing:
    its pixels are partly made up.
    """
    profile = profile_of(image)
    seen_as = f"{orientation} {'' if conversion(profile) is None else hashlib.sha256(profile or b'').hexdigest()}"
    if data.startswith(jpeg.START):
        return _hash(f"jpeg {seen_as} {jpeg.colour_space(data)}", jpeg.coded_parts(data))
    if data.startswith(PNG_START):
        return _hash(f"png {seen_as}", _png_parts(data))
    if whole and not _has_frames(data, image):
        try:
            return _hash(f"pixels {seen_as}", _pixel_parts(image))
        except (OSError, ValueError):  # a mode that cannot be cropped or converted
            pass
    return _hash("file", iter([data]))


def _hash(kind: str, parts: Iterator[bytes | memoryview]) -> str:
    digest = hashlib.sha256(kind.encode() + b"\0")
    for each in parts:
        digest.update(each)
    return str(uuid.UUID(bytes=digest.digest()[:16]))


def _png_parts(data: bytes) -> Iterator[bytes | memoryview]:
    """Yield each chunk that counts after its length and kind, adjacent IDAT chunks as one."""
    view, at = memoryview(data), len(PNG_START)
    joined: list[memoryview] = []
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = view[at + 8 : at + 8 + length]
        at += 12 + length
        if joined and kind != b"IDAT":
            yield from _framed(b"IDAT", joined)
            joined = []
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            joined.append(content)
        elif kind in _PNG_CHUNKS:
            yield from _framed(kind, [content])
    yield from _framed(b"IDAT", joined)  # the file ends early


def _framed(kind: bytes, contents: list[memoryview]) -> Iterator[bytes | memoryview]:
    yield struct.pack(">Q4s", sum(map(len, contents)), kind)
    yield from contents


def _has_frames(data: bytes, image: Image.Image) -> bool:
    """True for an animation, and for a file with several pages or layers."""
    if image.format == "TIFF":
        return len(tiff.directories(data)) > 1
    if image.format == "GIF":
        # To look for a second frame Pillow drops the pixels of the first.
        try:
            with Image.open(io.BytesIO(data), formats=["GIF"]) as opened:
                return bool(getattr(opened, "is_animated", False))
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError):
            return True
    return bool(getattr(image, "is_animated", False))


def _pixel_parts(image: Image.Image) -> Iterator[bytes]:
    """Yield mode, size and pixels; those of a palette as colours."""
    indexed = image.mode in ("P", "PA") or "transparency" in image.info
    mode = ("RGBA" if image.has_transparency_data else "RGB") if indexed else image.mode
    yield f"{mode} {image.width} {image.height}\0".encode()
    for top in range(0, image.height, _STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
        yield (strip.convert(mode) if indexed else strip).tobytes()
