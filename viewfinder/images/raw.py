"""RAW files of cameras, and TIFFs that begin with a preview: the image in them that is worth indexing."""

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from viewfinder.images import tiff
from viewfinder.images.jpeg import JPEG_START, frame_of

# Canon, Fujifilm, Sigma, Minolta: (offset, first bytes). RAW files of others are TIFFs.
_RAW_STARTS = (
    (4, b"ftypcrx"),
    (0, b"FUJIFILMCCD-RAW"),
    (0, b"FOVb"),
    (0, b"\0MRM"),
    (6, b"HEAPCCDR"),
)
# TIFFs that Pillow does not open: Olympus, Panasonic; and Canon's, whose first directory libtiff may misread.
_RAW_TIFF_STARTS = ((0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (8, b"CR\x02"))

# A preview stands for the image if it is at least half as long as the largest directory, or has this many pixels on its
# shorter side: more than any CLIP model takes. Thumbnails have 120 to 424.
_MIN_SHARE = 0.5
_MIN_SIDE = 600
# A first page whose kind no tag tells is a thumbnail if another one has its shape and so many times its length.
_MAX_THUMBNAIL_SIDE, _MIN_SCALE, _SHAPE_TOLERANCE = 512, 4, 0.05

_MAX_JPEGS = 1000
_MAX_PREVIEWS = 10


class Preview(NamedTuple):
    """An image inside a file, with the orientation to assume if it has none of its own.

    `content` returns it as a file of its own.
    """

    width: int
    height: int
    orientation: int
    content: Callable[[], bytes]


def begins_like_raw(head: bytes) -> bool:
    """True for the first bytes of RAW files and TIFFs."""
    return _starts_with(head, _RAW_STARTS) or _starts_with(head, _RAW_TIFF_STARTS) or tiff.begins_like_tiff(head)


def has_previews(data: bytes) -> bool:
    """True for RAW files and for TIFFs that begin with a reduced version of their image."""
    if _starts_with(data, _RAW_STARTS) or _starts_with(data, _RAW_TIFF_STARTS):
        return True
    found = tiff.directories(data)
    return any(each.sensor for each in found) or (len(found) > 1 and (found[0].reduced or _begins_small(found)))


def _begins_small(found: list[tiff.Directory]) -> bool:
    """True if the first page looks like a thumbnail of another one, though it does not say so."""
    width, height = found[0].width, found[0].height
    return max(width, height) <= _MAX_THUMBNAIL_SIDE and any(
        each.width >= _MIN_SCALE * width
        and abs(each.width * height - each.height * width) <= _SHAPE_TOLERANCE * each.width * height
        for each in found[1:]
    )


def previews(data: bytes) -> list[Preview]:
    """Return the images in such a file that are large enough to stand for the whole, largest first.

    Whether they can be decoded is not known yet. Sensor data are not among them.
    """
    found = tiff.directories(data)
    orientation = (found[0].orientation or 1) if found else 1
    pages = [
        Preview(
            each.width,
            each.height,
            1 if each.orientation else orientation,
            functools.partial(tiff.starting_with, data, each),
        )
        for each in found
        if not each.sensor
    ]
    jpegs = [
        Preview(width, height, orientation, functools.partial(_tail, data, at)) for width, height, at in _jpegs(data)
    ]
    # A RAW file's JPEGs decode at a reduced size. In other TIFFs they are the strips of a page, whose tags explain the
    # colours, so the page is tried first.
    is_raw = not found or any(each.sensor for each in found) or _starts_with(data, _RAW_TIFF_STARTS)
    longest = max((max(each.width, each.height) for each in found), default=0)
    # Then it may be the image after all.
    unsure = pages[:1] if not is_raw and not found[0].reduced else []
    large = [
        each
        for each in ((*jpegs, *pages) if is_raw else (*pages, *jpegs))
        if min(each.width, each.height) >= _MIN_SIDE
        or (longest and max(each.width, each.height) >= _MIN_SHARE * longest)
    ]
    return [*sorted(large, key=lambda each: -each.width * each.height)[:_MAX_PREVIEWS], *unsure]


def _tail(data: bytes, start: int) -> bytes:
    return data[start:]


def _starts_with(data: bytes, starts: tuple[tuple[int, bytes], ...]) -> bool:
    return any(data.startswith(first, offset) for offset, first in starts)


def _jpegs(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield width, height and offset of the JPEGs inside a file; those of sensor data are left out."""
    for at in islice(_jpeg_starts(data), _MAX_JPEGS):
        frame = frame_of(data, at + 2)
        if frame is not None and frame.decodable and frame.width * frame.height > 0:
            yield frame.width, frame.height, at


def _jpeg_starts(data: bytes) -> Iterator[int]:
    at = -1
    while (at := data.find(JPEG_START, at + 1)) >= 0:
        yield at
