"""The structure of JPEG files: segments, frames and scans (ITU-T T.81, annex B)."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

START = b"\xff\xd8"
JPEG_START = b"\xff\xd8\xff"
END = b"\xff\xd9"

# Frames that libjpeg decodes. The others are lossless (the sensor data in RAW files) or hierarchical.
_DECODABLE = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# APPn and comments.
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))
_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset({0x00, 0x01, 0xFF, *range(0xD0, 0xDA)})
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# The end of a scan's data: a marker other than a stuffed byte, a restart or a fill byte.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


# A profile takes at most 255, extended XMP hundreds; only damage and attacks take more.
_MAX_SEGMENTS = 5000


class Frame(NamedTuple):
    """The header of the image in a JPEG: size in pixels, ids of components, and the height of a row of blocks (MCUs).

    `decodable` and `progressive` follow from its kind of coding.
    """

    width: int
    height: int
    decodable: bool
    progressive: bool
    components: frozenset[int]
    block_rows: int


class Scan(NamedTuple):
    """One pass over the image: its components, `start` and `end` of its data, and whether another segment follows.

    Progressive files refine their coefficients scan by scan; `first` scans have the mean colours (DC coefficients).
    """

    components: frozenset[int]
    first: bool
    start: int
    end: int
    complete: bool


def is_marker(data: bytes, at: int) -> bool:
    """True if a segment that has a length begins at `at`."""
    return len(data) > at + 1 and data[at] == 0xFF and data[at + 1] not in _WITHOUT_LENGTH


def segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the segments from `at` on, up to the first scan's or the first broken one."""
    for _ in range(_MAX_SEGMENTS):
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if not is_marker(data, at) or len(data) < at + 4:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            return
        yield data[at + 1], at, end
        if data[at + 1] == _SCAN:
            return
        at = end


def frame_of(data: bytes, at: int = 2) -> Frame | None:
    """Return the frame of the image whose segments begin at `at`; None without one or without pixels after it."""
    frame = None
    for marker, start, end in segments(data, at):
        if marker == _SCAN:
            return frame
        if marker in _FRAMES and end - start >= 10 and frame is None:
            height, width, count = struct.unpack_from(">HHB", data, start + 5)
            layers = data[start + 10 : min(end, start + 10 + 3 * count)]
            block_rows = 8 * max((sampling & 15 for sampling in layers[1::3]), default=1)
            decodable, progressive = marker in _DECODABLE, marker in _PROGRESSIVE
            frame = Frame(width, height, decodable, progressive, frozenset(layers[::3]), block_rows)
    return None


def frame_area(data: bytes, at: int) -> int:
    """Return the number of pixels of the image whose segments begin at `at`, 0 if there is none."""
    frame = frame_of(data, at)
    return frame.width * frame.height if frame is not None else 0


def scans(data: bytes) -> list[Scan]:
    """Return the scans of a file, as far as it goes."""
    found: list[Scan] = []
    at = 2
    while True:
        last = None
        for last in segments(data, at):  # noqa: B007 - the last one is wanted
            pass
        if last is None or last[0] != _SCAN:
            return found
        _, start, end = last
        count = data[start + 4]
        components = frozenset(data[start + 5 : start + 5 + 2 * count : 2])
        spectral_start = data[end - 3]
        refinement = data[end - 1] >> 4
        match = _SCAN_END.search(data, end)
        at = match.start() if match else len(data)
        found.append(Scan(components, spectral_start == 0 and refinement == 0, end, at, match is not None))


def coded_parts(data: bytes) -> Iterator[memoryview]:
    """Yield the parts of a file that its pixels are decoded from, without APPn segments and comments.

    They end where the image ends, before previews and other data that may follow. What cannot be parsed is one part, to
    the end of the file.
    """
    view, at = memoryview(data), 2
    while True:
        marker = None
        for marker, start, end in segments(data, at):
            at = end
            if marker not in _METADATA:
                yield view[start:end]
        if marker != _SCAN:
            while data[at : at + 2] == b"\xff\xff":  # fill bytes
                at += 1
            if data[at : at + 2] != END:
                yield view[at:]
            return
        match = _SCAN_END.search(data, at)
        scan_end = match.start() if match else len(data)
        yield view[at:scan_end]
        at = scan_end


def colour_space(data: bytes) -> str:
    """Return what libjpeg takes the components of a file for, as far as APPn segments decide it."""
    frame, jfif, adobe = frame_of(data), False, None
    for marker, start, end in segments(data, 2):
        content = data[start + 4 : min(end, start + 16)]
        jfif |= marker == 0xE0 and content.startswith(b"JFIF\0")
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) == 12:
            adobe = content[11]
    if frame is None or len(frame.components) < 3:
        return ""
    if len(frame.components) > 3:
        return "CMYK" if adobe is None else f"Adobe {adobe}"  # Pillow inverts the inks of the latter
    if jfif or adobe not in (None, 0):
        return "YCbCr"
    return "RGB" if adobe == 0 or frame.components == frozenset(b"RGB") else "YCbCr"


def has_full_scan(data: bytes) -> bool:
    """True if the scans that are complete cover all components once."""
    frame = frame_of(data)
    covered = [scan.components for scan in scans(data) if scan.first and scan.complete]
    return frame is not None and frame.components <= frozenset().union(*covered)


def is_in_one_scan(data: bytes) -> bool:
    """True if the first scan has all there is of the image, so that libjpeg can decode row by row."""
    frame, found = frame_of(data), scans(data)
    return frame is not None and not frame.progressive and bool(found) and frame.components == found[0].components


def continued(data: bytes) -> bytes:
    """Return a file that ends within its only scan with other pixels in place of the missing ones.

    The scan's own data follow once more, so what is decoded from the beginning stays and what follows changes.
    """
    scan = scans(data)[0]
    intervals = _RESTART.split(data[scan.start : scan.end])
    number = len(intervals) - 1
    again = intervals[0]
    for each in intervals[1:]:
        again += b"\xff" + bytes([0xD0 + number % 8]) + each
        number += 1
    return _without_half_marker(data[: scan.end]) + again + END


def ended(data: bytes) -> bytes:
    """Return a file that ends early with the marker that ends a JPEG; libjpeg makes the missing pixels grey."""
    found = scans(data)
    if found and found[-1].complete:  # what follows is half a segment
        data = data[: found[-1].end]
    return _without_half_marker(data) + END


def _without_half_marker(data: bytes) -> bytes:
    return data[:-1] if data.endswith(b"\xff") else data
