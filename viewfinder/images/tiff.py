"""The directories of TIFF files and of the RAW files that are TIFFs: which one is the image, and which a preview.

A camera's RAW file has the sensor's data, which is not an image yet, and previews. Often the first directory is a
thumbnail of 160 x 120, and Pillow reads the first directory.
"""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# The number after the byte order: TIFF, BigTIFF, and what Olympus and Panasonic write in its place.
_MAGIC_NUMBERS = frozenset({42, 43, 0x4F52, 0x5352, 0x0055})
_BIG = 43

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _PHOTOMETRIC = 254, 255, 256, 257, 262
_ORIENTATION, _SUB_DIRECTORIES = 274, 330
# Colour filter array and linear RAW: values of sensor cells.
_SENSOR = frozenset({32803, 34892})

# Tags that a reader needs for the pixels, JPEG tables and orientation included.
_PIXEL_TAGS = frozenset((*range(254, 267), 273, 274, *range(277, 282), 284, 292, 293, 301, 317, 318, 319, 320))
_PIXEL_TAGS |= frozenset((*range(322, 326), 332, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532))
_UNUSED_TAG = 0xFFFE

_COLOUR_PROFILE = 34675

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LONG = frozenset({16, 17, 18})
_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}

# No camera writes more; a damaged file may.
_MAX_DIRECTORIES = 100
_MAX_ENTRIES = 1000
_MAX_VALUES = 64


@dataclass(frozen=True)
class Directory:
    """One directory: an image in pixels, as its tags describe it."""

    offset: int
    width: int
    height: int
    orientation: int | None
    reduced: bool  # a smaller version of another image in the file
    sensor: bool  # not an image that a viewer can show

    @property
    def area(self) -> int:
        return self.width * self.height


def begins_like_tiff(head: bytes) -> bool:
    """True for the first bytes of a TIFF."""
    return _header(head) is not None


def directories(data: bytes) -> list[Directory]:
    """Return all directories with a size, the first one first; empty if the file is not a TIFF."""
    header = _header(data)
    if header is None:
        return []
    order, big, first = header
    found: list[Directory] = []
    waiting, seen = [first], set[int]()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        offset = waiting.pop(0)
        if offset in seen or not 0 < offset < len(data):
            continue
        seen.add(offset)
        try:
            tags, following = _tags(data, offset, order, big)
        except struct.error:
            continue
        waiting += [following, *tags.get(_SUB_DIRECTORIES, ())]
        if _WIDTH in tags and _HEIGHT in tags:
            found.append(_directory(offset, tags))
    return found


def starting_with(data: bytes, directory: Directory) -> bytes:
    """Return the file with this directory as its first."""
    header = _header(data)
    assert header is not None, "a directory comes from a TIFF"
    order, big, _ = header
    place = 8 if big else 4
    return data[:place] + struct.pack(order + ("Q" if big else "I"), directory.offset) + data[2 * place :]


def without_tags(data: bytes) -> Iterator[bytes]:
    """Yield the file with only those tags in its first directory that say how its pixels are stored."""
    header = _header(data)
    if header is None:
        return
    order, big, first = header
    if big and order == ">":
        with contextlib.suppress(struct.error, KeyError):
            yield _as_classic(data, first)
        return
    count_format, entry_bytes = ("Q", 20) if big else ("H", 12)
    bare = bytearray(data)
    try:
        (count,) = struct.unpack_from(order + count_format, data, first)
        at = first + struct.calcsize(count_format)
        for entry in range(at, at + min(count, _MAX_ENTRIES) * entry_bytes, entry_bytes):
            (tag,) = struct.unpack_from(order + "H", data, entry)
            if tag not in _PIXEL_TAGS:
                # One byte of a tag that nobody reads.
                nothing = struct.pack(order + "HH" + ("Q" if big else "I"), _UNUSED_TAG, 1, 1)
                bare[entry : entry + entry_bytes] = nothing.ljust(entry_bytes, b"\0")
    except struct.error:
        return
    yield bytes(bare)


def _as_classic(data: bytes, first: int) -> bytes:
    """Return a big-endian BigTIFF with its first directory as that of a TIFF: Pillow (13.0) takes it for one.

    Only the tags of pixels and colours are kept.
    """
    (count,) = struct.unpack_from(">Q", data, first)
    entries = []
    values = bytearray(len(data) % 2)
    for at in range(first + 8, first + 8 + 20 * min(count, _MAX_ENTRIES), 20):
        tag, kind, number = struct.unpack_from(">HHQ", data, at)
        if tag not in _PIXEL_TAGS and tag != _COLOUR_PROFILE:
            continue
        size = _SIZES[kind] * number
        where = at + 12 if size <= 8 else struct.unpack_from(">Q", data, at + 12)[0]
        content = data[where : where + size]
        if kind in _LONG:  # of 64 bits
            kind, content = 4, struct.pack(f">{number}I", *struct.unpack(f">{number}Q", content))
        pointer = content.ljust(4, b"\0")
        if len(content) > 4:
            pointer = struct.pack(">I", len(data) + len(values))
            values += content + bytes(len(content) % 2)
        entries.append(struct.pack(">HHI", tag, kind, number) + pointer)
    directory = struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    return b"MM\0*" + struct.pack(">I", len(data) + len(values)) + data[8:] + values + directory


def _header(data: bytes) -> tuple[str, bool, int] | None:
    """Return the byte order, True for BigTIFF, and the offset of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    (number,) = struct.unpack_from(order + "H", data, 2)
    if number not in _MAGIC_NUMBERS:
        return None
    big = number == _BIG
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return order, big, first


def _tags(data: bytes, offset: int, order: str, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the integer values of a directory by tag, and the offset of the next directory."""
    count_format, entry_bytes, inline_bytes, pointer = ("Q", 20, 8, "Q") if big else ("H", 12, 4, "I")
    (count,) = struct.unpack_from(order + count_format, data, offset)
    if count > _MAX_ENTRIES:
        raise struct.error("too many entries")
    at = offset + struct.calcsize(count_format)
    tags = {}
    for _ in range(count):
        tag, kind, values = struct.unpack_from(order + "HH" + pointer, data, at)
        value_format = order + f"{min(values, _MAX_VALUES)}{_FORMATS[kind]}" if kind in _FORMATS and values else ""
        value_at = at + entry_bytes - inline_bytes
        if value_format:
            if struct.calcsize(value_format) > inline_bytes:
                (value_at,) = struct.unpack_from(order + pointer, data, value_at)
            if value_at + struct.calcsize(value_format) <= len(data):
                tags[tag] = struct.unpack_from(value_format, data, value_at)
        at += entry_bytes
    try:
        (following,) = struct.unpack_from(order + pointer, data, at)
    except struct.error:
        following = 0
    return tags, following


def _directory(offset: int, tags: dict[int, tuple[int, ...]]) -> Directory:
    orientation = tags.get(_ORIENTATION, (None,))[0]
    return Directory(
        offset=offset,
        width=tags[_WIDTH][0],
        height=tags[_HEIGHT][0],
        orientation=orientation if orientation in range(1, 9) else None,
        reduced=bool(tags.get(_NEW_SUBFILE_TYPE, (0,))[0] & 1) or tags.get(_SUBFILE_TYPE, (1,))[0] == 2,
        sensor=tags.get(_PHOTOMETRIC, (0,))[0] in _SENSOR,
    )
