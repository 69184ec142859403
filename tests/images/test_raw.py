"""RAW files, and TIFFs that begin with a thumbnail, are decoded from the largest image in them."""

import random

import numpy as np
import pytest
from PIL import Image

from tests.images.raw_files import JPEG, OLD_JPEG, YCBCR, Directory, page, preview, sensor, tiff
from tests.images.samples import (
    GREEN,
    LIMITS,
    SMALL,
    encoded,
    flat,
    outcome,
    photograph,
    pixels,
    quadrants,
    reason,
)
from viewfinder.images.decoding import REASONS, ImageLimits, decode, thumbnail

pytestmark = pytest.mark.slow

PHOTO = photograph(640, 480, 3)
THUMBNAIL = Image.new("RGB", (160, 120), GREEN)


def lossless_jpeg() -> bytes:
    """The sensor data of a CR2: a JPEG that no viewer decodes."""
    data = bytearray(encoded(photograph(1200, 900, 1), "JPEG"))
    data[data.index(b"\xff\xc0") + 1] = 0xC3
    return bytes(data)


def jpeg_page(image: Image.Image, compression: int = JPEG, **options: object) -> Directory:
    return Directory(image.size, encoded(image, "JPEG"), YCBCR, compression, **options)


FILES = {
    "NEF": tiff(page(THUMBNAIL, reduced=True, below=[preview(PHOTO, reduced=True), sensor(648, 486)])),
    "NEF, big endian": tiff(
        page(THUMBNAIL, reduced=True, below=[preview(PHOTO, reduced=True), sensor(648, 486)]), order=">"
    ),
    "DNG, preview as a page": tiff(page(THUMBNAIL, reduced=True, below=[sensor(648, 486), jpeg_page(PHOTO)])),
    "DNG, uncompressed preview": tiff(page(THUMBNAIL, reduced=True, below=[sensor(648, 486), page(PHOTO)])),
    "DNG, sensor data first": tiff(sensor(648, 486), jpeg_page(PHOTO, reduced=True)),
    "ARW": tiff(
        preview(PHOTO, reduced=True, below=[sensor(648, 486)]), Directory((160, 120), jpeg=encoded(THUMBNAIL, "JPEG"))
    ),
    "ARW, preview last": tiff(preview(THUMBNAIL, reduced=True, below=[sensor(648, 486)]), preview(PHOTO)),
    "BigTIFF": tiff(page(THUMBNAIL, reduced=True), page(PHOTO), big=True),
    "BigTIFF, big endian": tiff(page(THUMBNAIL, reduced=True), page(PHOTO), big=True, order=">"),
    "BigTIFF, big endian, page alone": tiff(page(PHOTO), big=True, order=">"),
    "thumbnail without a mark, then page": tiff(page(THUMBNAIL), page(PHOTO)),
    "thumbnail without a mark, page below": tiff(page(THUMBNAIL, below=[page(PHOTO)])),
    "thumbnail, then page": tiff(page(THUMBNAIL, reduced=True), page(PHOTO)),
    "thumbnail, page below": tiff(page(THUMBNAIL, reduced=True, below=[page(PHOTO, reduced=False)])),
    "thumbnail, JPEG below": tiff(page(THUMBNAIL, reduced=True, below=[preview(PHOTO, reduced=False)])),
    "thumbnail, then JPEG page": tiff(page(THUMBNAIL, reduced=True), jpeg_page(PHOTO)),
}


# Canon's mark follows the header.
_cr2 = tiff(jpeg_page(PHOTO, OLD_JPEG), preview(THUMBNAIL), Directory((1200, 900), lossless_jpeg(), YCBCR, OLD_JPEG))
FILES["CR2"] = _cr2[:8] + b"CR\x02\0" + _cr2[12:]


@pytest.mark.parametrize("name", [*FILES])
def test_a_file_is_decoded_from_its_largest_image(name: str) -> None:
    result = decode(FILES[name], SMALL, LIMITS)
    assert (result.width, result.height, result.format, result.warning) == (640, 480, "tiff", None)
    assert np.abs(result.pixels - pixels(encoded(PHOTO))).mean() < 4


def test_a_thumbnail_is_made_from_the_largest_image() -> None:
    assert len(thumbnail(FILES["NEF"], 600, LIMITS)) > 20_000


@pytest.mark.parametrize(
    ("start", "name"),
    [(b"FUJIFILMCCD-RAW 0201", "RAF"), (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "CR3"), (b"FOVb", "X3F")],
)
def test_other_raw_files_are_decoded_from_their_largest_preview(start: bytes, name: str) -> None:
    large = photograph(900, 600, 4)
    previews = encoded(THUMBNAIL, "JPEG") + bytes(100) + encoded(large, "JPEG") + lossless_jpeg()
    result = decode(start.ljust(200, b"\0") + previews + bytes(5000), SMALL, LIMITS)
    assert (result.width, result.height, result.format) == (900, 600, "raw")
    assert np.abs(result.pixels - pixels(encoded(large))).mean() < 4
    assert reason(start.ljust(200, b"\0") + encoded(THUMBNAIL, "JPEG") + bytes(5000)) == "unsupported"


@pytest.mark.parametrize("header", [b"IIRO", b"IIU\0", b"IIRS"])
def test_raw_files_with_their_own_kind_of_tiff_are_decoded(header: bytes) -> None:
    data = tiff(sensor(648, 486), preview(PHOTO), header=header)
    assert decode(data, SMALL, LIMITS).width == 640


@pytest.mark.parametrize(
    "data",
    [
        tiff(page(THUMBNAIL, reduced=True, below=[sensor(648, 486)])),
        tiff(preview(THUMBNAIL, reduced=True, below=[sensor(648, 486)])),
        tiff(sensor(648, 486)),
        tiff(page(THUMBNAIL, reduced=True), Directory((640, 480), bytes(9000), YCBCR, 34713)),
        tiff(page(THUMBNAIL, reduced=True, below=[Directory((640, 480), lossless_jpeg(), 34892, JPEG)])),
    ],
    ids=["thumbnail page", "thumbnail JPEG", "sensor alone", "unknown compression", "linear RAW"],
)
def test_a_file_with_only_a_thumbnail_is_unsupported(data: bytes) -> None:
    assert reason(data) == "unsupported"


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (THUMBNAIL, [photograph(640, 300, 7)]),  # of another shape
        (photograph(400, 300, 5), [PHOTO]),  # not so much smaller
        (THUMBNAIL, [THUMBNAIL, THUMBNAIL]),
    ],
)
def test_a_first_page_that_is_no_thumbnail_is_the_image(first: Image.Image, others: list[Image.Image]) -> None:
    data = tiff(page(first), *map(page, others))
    assert (pixels(data) == pixels(encoded(first))).all()


def test_a_first_page_without_a_mark_is_the_image_if_no_other_can_be_decoded() -> None:
    data = tiff(page(THUMBNAIL), Directory((640, 480), bytes(9000), YCBCR, 34713))
    assert (pixels(data) == pixels(encoded(THUMBNAIL))).all()


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("where", ["first directory", "preview", "both"])
def test_previews_are_turned_as_the_file_says(where: str, orientation: int) -> None:
    upright = quadrants(640, 480)
    stored = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turned = upright.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = encoded(turned, "JPEG", **({} if where == "first directory" else {"exif": exif}))
    first = None if where == "preview" else orientation
    data = tiff(
        page(THUMBNAIL, reduced=True, orientation=first, below=[Directory(turned.size, jpeg=jpeg), sensor(648, 486)])
    )
    result = decode(data, SMALL, LIMITS)
    assert (result.width, result.height) == (640, 480)
    assert np.abs(result.pixels - pixels(encoded(upright))).mean() < 6


@pytest.mark.parametrize("own", [True, False])
def test_a_page_is_turned_once(own: bool) -> None:
    upright = quadrants(640, 480)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    data = tiff(page(THUMBNAIL, reduced=True, orientation=6), page(turned, orientation=6 if own else None))
    assert np.abs(pixels(data) - pixels(encoded(upright))).mean() < 2


class TestOtherTiffs:
    @pytest.mark.parametrize(
        "data",
        [
            tiff(page(PHOTO, reduced=True)),
            tiff(page(PHOTO, reduced=False), page(THUMBNAIL, reduced=True)),
            tiff(page(PHOTO, below=[page(THUMBNAIL, reduced=True)])),
            tiff(page(PHOTO), page(photograph(700, 500, 9))),
        ],
        ids=["one page", "thumbnail last", "thumbnail below", "two pages"],
    )
    def test_the_first_page_is_decoded(self, data: bytes) -> None:
        assert (pixels(data) == pixels(encoded(PHOTO))).all()

    def test_a_main_image_beyond_the_limit_is_too_large(self) -> None:
        data = tiff(page(THUMBNAIL, reduced=True), page(PHOTO))
        assert reason(data, ImageLimits(10**8, 100_000)) == "too_many_pixels"

    def test_damaged_directories_have_a_reason(self) -> None:
        chance = random.Random(1)
        for name in ("NEF", "DNG, sensor data first", "thumbnail, page below", "BigTIFF"):
            for _ in range(40):
                broken = bytearray(FILES[name])
                for _ in range(chance.randint(1, 6)):
                    at = chance.choice([chance.randrange(16), chance.randrange(len(broken) - 600, len(broken))])
                    broken[at] = chance.randrange(256)
                assert outcome(bytes(broken)) in REASONS.keys() | {"decoded"}

    def test_directories_that_point_to_each_other_end(self) -> None:
        data = bytearray(tiff(page(flat("RGB", GREEN), reduced=True)))
        data[-4:] = data[4:8]
        assert decode(bytes(data), SMALL, LIMITS).width == 40
