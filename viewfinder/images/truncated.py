"""Images whose end is missing or damaged: what there is of them, and how much that is."""

import contextlib
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from viewfinder.images import jpeg

Open = Callable[[bytes], ImageFile.ImageFile]

# A sector of a disk, of a file that was extended before it was written.
_BLANK = bytes(512)

# Rows filled or compared at a time, which bounds the memory.
_STRIP_ROWS = 256

# Bytes to put in place of missing ones. Not every decoder reads each of them without an error.
_FILLERS = (b"\0", b"\x80", b"\xff", b"\xa5", b"\x55", b"\x40")
# AVIF, JPEG 2000.
_FIRST_BOXES = (b"ftyp", b"jP  ")
# JPEG 2000 without boxes: the start, and the marker before each part of the pixels.
_CODESTREAM, _TILE_PART, _CODING_MARKERS = b"\xff\x4f\xff\x51", 0xFF90, 0xFF50
# Errors that Pillow's plugins raise for damaged content.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, RuntimeError, struct.error)


def without_blank_end(data: bytes) -> bytes:
    """Return a JPEG without the zeros that an interrupted copy leaves at its end; other files unchanged.

    libjpeg takes them for pixels. After the end marker they do not matter.
    """
    return data.rstrip(b"\0") if data.startswith(jpeg.JPEG_START) and data.endswith(_BLANK) else data


def load_truncated(data: bytes, opened: Open, min_share: float) -> ImageFile.ImageFile | None:
    """Decode as much as the file has; None if that is less than `min_share` of the rows, or an unknown share.

    `opened` opens a file and prepares it for loading. Missing rows repeat the last decoded one; those of JPEG,
    WebP, AVIF and JPEG 2000 are what their libraries make of them. Raises nearly anything, like Pillow's plugins.
    """
    if data.startswith(jpeg.JPEG_START):
        partial = _jpeg(data, opened, min_share)
    elif data.startswith((b"RIFF", _CODESTREAM)) or data[4:8] in _FIRST_BOXES:
        partial = _filled_up(data, opened)
    else:
        partial = _by_rows(data, opened)
    return partial.image if partial is not None and partial.share >= min_share else None


def missing_bytes(data: bytes) -> int:
    """Number of bytes by which a RIFF file, a file of ISO boxes or a JPEG 2000 is too short; 0 for other formats."""
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 - len(data)
    if data.startswith(_CODESTREAM):
        return _missing_in_codestream(data, 0)
    if data[4:8] not in _FIRST_BOXES:
        return 0
    at = 0
    while 0 <= at <= len(data) - 8:
        length = int.from_bytes(data[at : at + 4], "big")
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length == 0 and data[at + 4 : at + 8] == b"jp2c":
            return _missing_in_codestream(data, at + 8)
        if length < 8:  # 0 means up to the end of the file
            return 0
        at += length
    return at - len(data)


def _missing_in_codestream(data: bytes, start: int) -> int:
    at = start + 2
    while at <= len(data) - 10:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _TILE_PART:
            (length,) = struct.unpack_from(">I", data, at + 6)
            if length < 12:  # 0 means up to the end marker
                return 0
            at += length
        elif marker < _CODING_MARKERS:
            return 0
        else:
            at += 2 + length
    return at + len(jpeg.END) - len(data)


class _Partial(NamedTuple):
    """A loaded image, and the share of its rows that come from the file, from 0 to 1."""

    image: ImageFile.ImageFile
    share: float


def _by_rows(data: bytes, opened: Open) -> _Partial | None:
    pair = _loaded_twice(data, opened)
    if pair is None:
        return None
    image, other = pair
    decoded = _equal_rows(image, other)
    if decoded.any():
        _repeat_rows(image, decoded)
    return _Partial(image, float(decoded.mean()))


def _jpeg(data: bytes, opened: Open, min_share: float) -> _Partial | None:
    frame = jpeg.frame_of(data)
    if frame is None:
        return None
    if not jpeg.is_in_one_scan(data):
        return _Partial(_loaded(opened(jpeg.ended(data))), 1.0) if jpeg.has_full_scan(data) else None
    # Without an end marker libjpeg stops before the row of blocks that is incomplete.
    pair = _loaded_twice(data, opened)
    if pair is None:
        return None
    rows = int(_equal_rows(*pair).sum())
    image = _loaded(opened(jpeg.ended(data)))
    if rows < min_share * image.height:
        # The blocks of that row that are there count too: an image of 60 rows may have only four rows of blocks.
        other = _loaded(opened(jpeg.continued(data)))
        end = min(image.height, rows + max(1, frame.block_rows * image.height // frame.height))
        part, changed = (np.asarray(each.crop((0, rows, each.width, end))) for each in (image, other))
        differs = (part != changed).reshape(end - rows, image.width, -1).any(axis=(0, 2))
        columns = int(differs.argmax()) if differs.any() else image.width
        return _Partial(image, (rows + (end - rows) * columns / image.width) / image.height)
    return _Partial(image, rows / image.height)


def _filled_up(data: bytes, opened: Open) -> _Partial | None:
    """Load a file whose length is known twice, with different bytes in place of the missing ones.

    The libraries of WebP, AVIF and JPEG 2000 decode whole files only. Equal rows do not depend on the missing bytes.
    """
    missing = missing_bytes(data)
    if not 0 < missing <= len(data):
        return None
    end = (
        jpeg.END if data[4:8] == b"jP  " or data.startswith(_CODESTREAM) else b""
    )  # JPEG 2000 has the same end marker, and OpenJPEG needs it
    images: list[ImageFile.ImageFile] = []
    for filler in _FILLERS:
        with contextlib.suppress(*_DECODE_ERRORS):
            whole = data + filler * missing
            images.append(_loaded(opened(whole[: len(whole) - len(end)] + end)))
        if len(images) == 2:
            return _Partial(images[0], float(_equal_rows(images[0], images[1]).mean()))
    return None


def _loaded(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    image.load()
    return image


def _loaded_twice(data: bytes, opened: Open) -> tuple[ImageFile.ImageFile, ImageFile.ImageFile] | None:
    """Load over black and over white: pixels that differ were not decoded. None if no pixels were allocated."""
    black, white = (_load_over(opened(data), value) for value in (0, 255))
    return None if black is None or white is None else (black, white)


def _load_over(image: ImageFile.ImageFile, value: int) -> ImageFile.ImageFile | None:
    if image.format == "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None  # Pillow turns it while loading, after an error only sometimes
    prepared = False
    prepare = image.load_prepare

    def load_prepare() -> None:
        nonlocal prepared
        prepare()
        boxes = [tile[1] for tile in image.tile if tile[1] is not None]
        left, top, right, bottom = (
            choose(box[side] for box in boxes) for side, choose in enumerate((min, min, max, max))
        )
        strip = Image.new(image.mode, (right - left, _STRIP_ROWS))
        strip.frombytes(bytes([value]) * len(strip.tobytes()))
        for upper in range(top, bottom, _STRIP_ROWS):
            lower = min(upper + _STRIP_ROWS, bottom)
            image.im.paste(strip.crop((0, 0, right - left, lower - upper)).im, (left, upper, right, lower))
        prepared = True

    image.load_prepare = load_prepare  # type: ignore[method-assign]
    with contextlib.suppress(*_DECODE_ERRORS):
        image.load()
    if not prepared:
        return None
    image.tile = []  # do not load again
    return image


def _equal_rows(first: Image.Image, second: Image.Image) -> NDArray[np.bool_]:
    equal = np.zeros(first.height, bool)
    for top in range(0, first.height, _STRIP_ROWS):
        box = (0, top, first.width, min(top + _STRIP_ROWS, first.height))
        one, other = (np.frombuffer(each.crop(box).tobytes(), np.uint8) for each in (first, second))
        equal[top : box[3]] = (one == other).reshape(box[3] - top, -1).all(axis=1)
    return equal


def _repeat_rows(image: Image.Image, decoded: NDArray[np.bool_]) -> None:
    """Replace each row that was not decoded by the last decoded one above it, else by the first one below."""
    above = np.maximum.accumulate(np.where(decoded, np.arange(len(decoded)), -1))
    source = np.where(above >= 0, above, int(decoded.argmax()))
    for row in np.flatnonzero(~decoded):
        line = image.crop((0, int(source[row]), image.width, int(source[row]) + 1))
        image.paste(line, (0, int(row)))
