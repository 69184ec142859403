"""Small files with the structure of cameras' RAW files, and TIFFs with several directories."""

import struct
from dataclasses import dataclass, field

from PIL import Image

from tests.images.samples import encoded

RGB, YCBCR, SENSOR = 2, 6, 32803
UNCOMPRESSED, OLD_JPEG, JPEG = 1, 6, 7


@dataclass
class Directory:
    """One directory: a page with `content`, of `size`, perhaps with an embedded JPEG and directories below it."""

    size: tuple[int, int]
    content: bytes = b""
    photometric: int = RGB
    compression: int = UNCOMPRESSED
    reduced: bool | None = None
    orientation: int | None = None
    jpeg: bytes = b""
    below: list["Directory"] = field(default_factory=list)


def page(image: Image.Image, **options: object) -> Directory:
    """An uncompressed RGB page."""
    return Directory(image.size, image.convert("RGB").tobytes(), **options)


def sensor(width: int, height: int, content: bytes = b"") -> Directory:
    """Sensor data: not an image."""
    return Directory((width, height), content or bytes(2 * width * height), SENSOR, reduced=False)


def preview(image: Image.Image, **options: object) -> Directory:
    """A JPEG that the tags JPEGInterchangeFormat point to."""
    return Directory(image.size, photometric=YCBCR, compression=OLD_JPEG, jpeg=encoded(image, "JPEG"), **options)


def tiff(*directories: Directory, order: str = "<", big: bool = False, header: bytes = b"") -> bytes:
    """A TIFF with these directories; `header` replaces its first bytes."""
    writer = _Writer(order, big)
    first = writer.chain([*directories])
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    start += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, first) if big else (first,)))
    start = header + start[len(header) :]
    return start + bytes(writer.content[len(start) :])


class _Writer:
    def __init__(self, order: str, big: bool) -> None:
        self._order, self._big = order, big
        self.content = bytearray(16)

    def chain(self, directories: list[Directory]) -> int:
        offset = 0
        for directory in reversed(directories):
            offset = self._directory(directory, offset)
        return offset

    def _add(self, content: bytes) -> int:
        self.content += bytes(len(self.content) % 2)
        self.content += content
        return len(self.content) - len(content)

    def _directory(self, directory: Directory, following: int) -> int:
        width, height = directory.size
        tags: dict[int, list[int]] = {
            256: [width],
            257: [height],
            258: [8, 8, 8] if directory.photometric != SENSOR else [16],
            259: [directory.compression],
            262: [directory.photometric],
            277: [3 if directory.photometric != SENSOR else 1],
            278: [height],
        }
        if directory.reduced is not None:
            tags[254] = [int(directory.reduced)]
        if directory.orientation is not None:
            tags[274] = [directory.orientation]
        if directory.content:
            tags[273], tags[279] = [self._add(directory.content)], [len(directory.content)]
        if directory.jpeg:
            tags[513], tags[514] = [self._add(directory.jpeg)], [len(directory.jpeg)]
        if directory.below:
            tags[330] = [self._directory(each, 0) for each in directory.below]
        pointer, inline = ("Q", 8) if self._big else ("I", 4)
        entries = b""
        for tag in sorted(tags):
            values = struct.pack(f"{self._order}{len(tags[tag])}I", *tags[tag])
            if len(values) > inline:
                values = struct.pack(self._order + pointer, self._add(values))
            entries += struct.pack(self._order + "HH" + pointer, tag, 4, len(tags[tag])) + values.ljust(inline, b"\0")
        count = struct.pack(self._order + ("Q" if self._big else "H"), len(tags))
        return self._add(count + entries + struct.pack(self._order + pointer, following))
