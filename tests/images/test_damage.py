"""Damage: outside the pixels it does not matter, and a part of the pixels may be missing at the end."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tests.images.samples import LIMITS, SMALL, encoded, photograph, pixels, quadrants, reason
from viewfinder.images.decoding import ImageLimits, decode, thumbnail
from viewfinder.images.jpeg import scans

pytestmark = pytest.mark.slow

PHOTO = photograph(300, 200, 1)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BOMB = zlib.compress(bytes(3_000_000))


def chunk(kind: bytes, content: bytes, *, intact: bool = True) -> bytes:
    checksum = zlib.crc32(kind + content) ^ (0 if intact else 1)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def segment(marker: int, content: bytes, *, length: int | None = None) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2 if length is None else length) + content


class TestPngChunks:
    CHUNKS = (
        (b"zTXt", b"bomb\0\0" + BOMB),
        (b"iTXt", b"bomb\0\1\0\0\0" + BOMB),
        (b"iCCP", b"bomb\0\0" + BOMB),
        (b"iCCP", b"name\0\1method"),
        (b"iCCP", b""),
        (b"zTXt", b"name\0\1method"),
        (b"tEXt", b"a text"),
        (b"eXIf", b"garbage"),
        (b"pHYs", b"\0"),
        (b"gAMA", b""),
        (b"cHRM", b""),
        (b"sRGB", b""),
        (b"tRNS", b"\0"),
        (b"acTL", b"\0"),
        (b"fcTL", b"\0"),
        (b"abCd", b"private"),
    )

    @pytest.mark.parametrize("intact", [True, False], ids=["intact", "wrong checksum"])
    @pytest.mark.parametrize("place", ["before", "after"])
    @pytest.mark.parametrize(("kind", "content"), CHUNKS)
    def test_an_odd_chunk_does_not_matter(self, kind: bytes, content: bytes, place: str, intact: bool) -> None:
        data = encoded(PHOTO)
        at = 33 if place == "before" else len(data) - 12
        result = decode(data[:at] + chunk(kind, content, intact=intact) + data[at:], SMALL, LIMITS)
        assert (result.pixels == decode(data, SMALL, LIMITS).pixels).all()
        assert result.warning is None

    @pytest.mark.parametrize("intact", [True, False], ids=["intact", "wrong checksum"])
    @pytest.mark.parametrize(("kind", "content"), [*CHUNKS, (b"PLTE", b"odd"), (b"eXIf", b"II*\0" + bytes(20))])
    def test_an_odd_chunk_between_the_pixels_does_not_matter(self, kind: bytes, content: bytes, intact: bool) -> None:
        """A chunk with a right checksum stayed there, and for Pillow the pixels ended before it."""
        data = encoded(PHOTO)
        at = data.index(b"IDAT") + 4
        (length,) = struct.unpack(">I", data[at - 8 : at - 4])
        parts = chunk(b"IDAT", data[at : at + 1000]), chunk(b"IDAT", data[at + 1000 : at + length])
        between = parts[0] + chunk(kind, content, intact=intact) + parts[1]
        result = decode(data[: at - 8] + between + data[at + length + 4 :], SMALL, LIMITS)
        assert (result.pixels == decode(data, SMALL, LIMITS).pixels).all()
        assert result.warning is None

    def test_many_large_texts_do_not_matter(self) -> None:
        data = encoded(PHOTO)
        texts = 80 * chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))
        assert (pixels(data[:33] + texts + data[33:]) == pixels(data)).all()

    def test_transparency_palette_and_orientation_stay(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(quadrants().quantize(4), transparency=0, exif=exif)
        damaged = data[:33] + chunk(b"zTXt", b"bomb\0\0" + BOMB) + data[33:]
        assert (pixels(damaged) == pixels(data)).all()

    def test_a_wrong_length_of_a_chunk_before_the_pixels_does_not_matter(self) -> None:
        data = encoded(PHOTO)
        wrong = struct.pack(">I", 70_000) + b"tEXt" + b"a\0b" + bytes(4)
        assert (pixels(data[:33] + wrong + data[33:]) == pixels(data)).all()


class TestJpegSegments:
    @pytest.mark.parametrize(
        "damage",
        [
            segment(0xE0, b"JFIF"),
            segment(0xE1, b"Exif\0\0"),
            segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/"),
            segment(0xE2, b"ICC_PROFILE\0"),
            segment(0xE2, b"ICC_PROFILE\0\1"),
            segment(0xE2, b"ICC_PROFILE\0\1\7half a profile"),
            segment(0xE2, b"MPF\0garbage"),
            segment(0xEE, b"Adobe"),
            segment(0xED, b"Photoshop 3.0\0008BIM"),
            segment(0xFE, b"a comment", length=0),
            segment(0xFE, b"a comment", length=60_000),
            segment(0xE1, b"Exif\0\0II", length=300),
            segment(0xE1, b"Exif\0\0II" + encoded(quadrants(), "JPEG"), length=9000),
            b"garbage",
            b"\xff\xff\xff",
        ],
        ids=range(16),
    )
    @pytest.mark.parametrize("progressive", [False, True])
    def test_an_odd_segment_does_not_matter(self, damage: bytes, progressive: bool) -> None:
        data = encoded(PHOTO, "JPEG", progressive=progressive)
        result = decode(data[:20] + damage + data[20:], SMALL, LIMITS)
        assert (result.pixels == decode(data, SMALL, LIMITS).pixels).all()
        assert (result.width, result.warning) == (300, None)


@pytest.mark.parametrize(
    "extension",
    [
        b"\xff\x0bNETSCAPE2.0\0",
        b"\xff\0",
        b"\xf9\0",
        b"\xf9\1\0\0",
        b"\x01\x01x\0",
        b"\xfe\0",
        b"\x77\x03abc\0",
    ],
)
def test_an_odd_extension_of_a_gif_does_not_matter(extension: bytes) -> None:
    data = encoded(quadrants().quantize(4), "GIF", transparency=0)
    at = data.index(b"\x21\xf9")
    for place in (at, data.index(b"\x2c", at)):
        assert (pixels(data[:place] + b"\x21" + extension + data[place:]) == pixels(data)).all()


@pytest.mark.parametrize(
    "box", [b"colr\2\0\0", b"res " + b"\xff" * 9, b"bpcc", b"cdef" + b"\xff" * 8], ids=lambda box: box[:4]
)
def test_a_broken_box_of_a_jpeg_2000_does_not_matter(box: bytes) -> None:
    data = encoded(PHOTO, "JPEG2000")
    at, end = data.index(b"jp2h"), data.index(b"jp2c") - 4
    header = data[at + 4 : data.index(b"colr") - 4] if box.startswith(b"colr") else data[at + 4 : end]
    header += struct.pack(">I", len(box) + 4) + box
    damaged = data[: at - 4] + struct.pack(">I", len(header) + 8) + b"jp2h" + header + data[end:]
    assert (pixels(damaged) == pixels(data)).all()


def test_a_webp_keeps_its_orientation_if_other_metadata_are_broken() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(quadrants(), "WEBP", exif=exif, xmp=b"<x:xmpmeta/>", lossless=True)
    at = data.index(b"XMP ") + 4
    broken = data[:at] + struct.pack("<I", 70_000) + data[at + 4 :]
    assert (pixels(broken) == pixels(data)).all()


@pytest.mark.parametrize("part", ["EXIF", "profile"])
def test_broken_metadata_of_an_avif_do_not_matter(part: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "an image"
    data = encoded(PHOTO, "AVIF", exif=exif, icc_profile=SRGB_PROFILE)
    at = data.index(exif.tobytes()[6:]) if part == "EXIF" else data.index(b"colrprof") + 8
    result = decode(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :], SMALL, LIMITS)
    assert (result.pixels == pixels(data)).all()
    assert result.warning is None


def spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the metadata of a JPEG, PNG or WebP begin and end."""
    if data.startswith(b"\xff\xd8"):
        at = 2
        while data[at + 1] >= 0xE0:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield at, end
            at = end
        return
    at, order, kind_at = (8, "big", 4) if data.startswith(b"\x89PNG") else (12, "little", 0)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 - kind_at : at + 8 - kind_at], order)
        end = at + (12 + length if kind_at else 8 + length + length % 2)
        if data[at + kind_at : at + kind_at + 4] in (b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"EXIF", b"XMP ", b"ICCP"):
            yield at, end
        at = end


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_random_damage_of_metadata_fails_no_image(format_name: str) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "b" * 100, zip=True)
    exif = Image.Exif()
    exif[0x010E] = "an image"
    options = {
        "exif": exif,
        "icc_profile": SRGB_PROFILE,
        **({"pnginfo": texts} if format_name == "PNG" else {"xmp": b"<x:xmpmeta>" + b"a" * 300 + b"</x:xmpmeta>"}),
    }
    data = encoded(PHOTO, format_name, **options)
    found = [*spans(data)]
    assert len(found) >= 3
    chance = random.Random(7)
    for _ in range(60):
        broken = bytearray(data)
        start, end = chance.choice(found)
        for _ in range(chance.randint(1, 6)):
            # Most of it at the beginning, where lengths are; the first two bytes of a JPEG's segment are its kind.
            at = chance.randrange(start + 2, min(end, start + 16) if chance.random() < 0.5 else end)
            broken[at] = chance.randrange(256)
        shown = decode(bytes(broken), SMALL, LIMITS)
        assert (shown.width, shown.height, shown.format) == (300, 200, format_name.lower())
        assert shown.warning is None


@pytest.mark.parametrize("tag", [270, 700, 33723, 34377, 34665, 34675, 34853])
@pytest.mark.parametrize(
    "entry",
    ["0700ffffffffffffff7f", "04000100000001000000", "0c00ffffff7f08000000", "ffff01000000ffffffff"],
    ids=["long", "points into the header", "huge", "unknown type"],
)
def test_a_broken_tag_of_a_tiff_that_does_not_describe_pixels_is_ignored(tag: int, entry: str) -> None:
    data = encoded(PHOTO, "TIFF", tiffinfo={270: "a description"})
    at = data.index(struct.pack("<HH", 270, 2))
    broken = data[:at] + struct.pack("<H", tag) + bytes.fromhex(entry) + data[at + 12 :]
    result = decode(broken, SMALL, LIMITS)
    assert (result.pixels == pixels(data)).all()
    assert result.warning is None


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_bytes_after_the_image_do_not_matter(format_name: str) -> None:
    data = encoded(PHOTO, format_name)
    result = decode(data + 5000 * b"garbage", SMALL, LIMITS)
    assert (result.pixels == pixels(data)).all()
    assert result.warning is None


ROWS = {
    "JPEG": {},
    "JPEG, restart markers": {"restart_marker_blocks": 5},
    "JPEG, colours at full size": {"subsampling": 0},
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "WEBP": {},
    "WEBP, lossless": {"lossless": True},
}


def cut(name: str, share: float) -> bytes:
    """Return a photo of which about this share of the rows is there."""
    data = encoded(PHOTO, name.partition(",")[0], **ROWS[name])
    return data[: int(len(data) * share)]


class TestTruncatedTail:
    @pytest.mark.parametrize("name", ROWS)
    def test_an_image_with_nearly_all_rows_is_decoded_with_a_warning(self, name: str) -> None:
        whole = pixels(encoded(PHOTO, name.partition(",")[0], **ROWS[name]))
        result = decode(cut(name, 0.97), SMALL, LIMITS)
        assert result.warning == "truncated_tail"
        assert (result.width, result.height) == (300, 200)
        assert np.abs(result.pixels[:26] - whole[:26]).mean() < 2
        assert np.abs(result.pixels - whole).mean() < 12

    @pytest.mark.parametrize("name", ROWS)
    def test_an_image_with_too_few_rows_is_truncated(self, name: str) -> None:
        assert reason(cut(name, 0.75)) == "truncated"

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP"])
    def test_the_share_is_a_limit(self, name: str) -> None:
        assert decode(cut(name, 0.75), SMALL, ImageLimits(10**8, 10**8, 0.5)).warning == "truncated_tail"
        assert reason(cut(name, 0.97), ImageLimits(10**8, 10**8, 1.0)) == "truncated"

    @pytest.mark.parametrize("missing", [1, 2])
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
    @pytest.mark.parametrize("size", [(300, 200), (80, 60), (9, 7), (1600, 1100)])
    def test_a_jpeg_without_its_end_marker_is_whole(
        self, size: tuple[int, int], options: dict[str, int], missing: int
    ) -> None:
        data = encoded(quadrants(*size), "JPEG", **options)
        result = decode(data[:-missing], SMALL, ImageLimits(10**8, 10**8, 1.0))
        assert (result.pixels == decode(data, SMALL, LIMITS).pixels).all()
        assert result.warning == "truncated_tail"

    @pytest.mark.parametrize("missing", [1, 2, 4, 10])
    @pytest.mark.parametrize("boxes", [True, False])
    def test_a_jpeg_2000_without_its_last_bytes_is_decoded(self, boxes: bool, missing: int) -> None:
        data = encoded(PHOTO, "JPEG2000", no_jp2=not boxes)
        result = decode(data[:-missing], SMALL, LIMITS)
        assert np.abs(result.pixels - pixels(data)).mean() < 2
        assert result.warning == "truncated_tail"
        assert reason(data[: len(data) // 2]) == "truncated"

    def test_a_jpeg_2000_whose_box_has_no_length_is_decoded(self) -> None:
        data = bytearray(encoded(PHOTO, "JPEG2000"))
        at = data.index(b"jp2c") - 4
        data[at : at + 4] = bytes(4)  # up to the end of the file
        assert decode(bytes(data[:-2]), SMALL, LIMITS).warning == "truncated_tail"

    def test_rows_of_a_white_page_that_are_missing_are_not_taken_for_white_ones(self) -> None:
        page = Image.new("RGB", (300, 400), "white")
        page.paste(PHOTO.resize((300, 60)), (0, 340))
        data = encoded(page, "JPEG", quality=90)
        assert reason(data[: int(len(data) * 0.3)]) == "truncated"

    def test_a_progressive_jpeg_is_decoded_from_its_first_full_scan_on(self) -> None:
        data = encoded(PHOTO, "JPEG", progressive=True)
        first = scans(data)[0]
        result = decode(data[: first.end + 10], SMALL, LIMITS)
        assert result.warning == "truncated_tail"
        assert np.abs(result.pixels - pixels(data)).mean() < 12
        assert reason(data[: first.end - 10]) == "truncated"

    def test_missing_rows_repeat_the_last_one(self) -> None:
        rows = np.repeat(np.arange(100, dtype=np.uint8)[:, None] * 2, 100, axis=1)
        data = encoded(Image.fromarray(rows), "BMP")
        # A BMP is stored from bottom to top, so its first rows are missing.
        result = pixels(data[:-450])
        assert result[0, 0, 0] == pytest.approx(10, abs=3)
        assert result[-1, 0, 0] == pytest.approx(196, abs=4)

    def test_the_first_frame_of_a_cut_animation_has_no_warning(self) -> None:
        frames = [photograph(120, 80, seed) for seed in range(3)]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert decode(data[: int(len(data) * 0.8)], SMALL, LIMITS).warning is None

    def test_a_damaged_end_counts_as_missing(self) -> None:
        data = bytearray(encoded(PHOTO))
        data[-3000] ^= 255
        assert decode(bytes(data), SMALL, LIMITS).warning == "truncated_tail"

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
    def test_zeros_in_place_of_the_end_of_a_jpeg_count_as_missing(self, options: dict[str, int]) -> None:
        data = encoded(PHOTO, "JPEG", **options)
        assert decode(data + bytes(5000), SMALL, LIMITS).warning is None
        nearly, little = (data[: int(len(data) * share)].ljust(len(data) + 5000, b"\0") for share in (0.97, 0.1))
        assert decode(nearly, SMALL, LIMITS).warning == "truncated_tail"
        assert reason(little) == "truncated"

    def test_a_thumbnail_is_made_too(self) -> None:
        assert Image.open(io.BytesIO(thumbnail(cut("JPEG", 0.97), 64, LIMITS))).width == 64
