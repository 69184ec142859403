"""The hash of an image: equal for copies with other metadata, different for other images."""

import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tests.images.raw_files import page, sensor, tiff
from tests.images.raw_files import preview as embedded
from tests.images.samples import LIMITS, SMALL, encoded, photograph, quadrants
from viewfinder.images.decoding import decode
from viewfinder.testing.colour_profiles import ADOBE_RGB, rgb_profile

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PHOTOGRAPH = photograph(400, 300, seed=1)
WIDE_GAMUT = rgb_profile(*ADOBE_RGB)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def hashed(data: bytes) -> str:
    return decode(data, SMALL, LIMITS).image_hash


def exif(orientation: int = 1, artist: str = "") -> bytes:
    made = Image.Exif()
    made[0x0112], made[0x013B] = orientation, artist
    return made.tobytes()


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with a further segment behind its start."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in parts)


def changed_pixel(image: Image.Image) -> Image.Image:
    """The image with one pixel that differs by one."""
    copy = image.copy()
    before: Any = copy.getpixel((17, 11))
    copy.putpixel((17, 11), before + 1 if isinstance(before, int) else (before[0] ^ 1, *before[1:]))
    return copy


JPEG = encoded(PHOTOGRAPH, "JPEG", quality=90)
PROGRESSIVE = encoded(PHOTOGRAPH, "JPEG", quality=90, progressive=True, restart_marker_rows=1)
PNG = encoded(quadrants(), "PNG")


@pytest.mark.parametrize("original", [JPEG, PROGRESSIVE])
@pytest.mark.parametrize(
    "rewrite",
    [
        lambda data: with_segment(data, 0xE1, b"Exif\0\0" + exif(artist="Ann")[6:]),
        lambda data: with_segment(data, 0xFE, b"a comment \xff\xda\xff\xd9"),
        lambda data: with_segment(data, 0xED, b"Photoshop 3.0\0 8BIM"),
        lambda data: with_segment(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"),
        lambda data: with_segment(data, 0xE1, b"Exif\0\0" + JPEG[:2000]),  # as with an embedded preview
        lambda data: data.replace(data[2 : data.index(b"\xff\xdb")], b"", 1),  # without APP0, as some tools write it
        lambda data: data + b"trailing bytes of a phone" + JPEG,
        lambda data: data[:2] + b"\xff\xff" + data[2:],  # fill bytes
        lambda data: data[:-2],  # without the marker at the end
    ],
)
def test_a_jpeg_with_other_metadata_is_the_same_image(original: bytes, rewrite: Callable[[bytes], bytes]) -> None:
    assert rewrite(original) != original
    assert hashed(rewrite(original)) == hashed(original)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{"exif": exif(artist="Ann")}, {"comment": b"hello"}, {"dpi": (300, 300)}, {"icc_profile": SRGB}]
)
def test_metadata_written_by_pillow_do_not_matter(mode: str, options: dict[str, Any]) -> None:
    image = PHOTOGRAPH.convert(mode)
    assert hashed(encoded(image, "JPEG", **options)) == hashed(encoded(image, "JPEG"))


@pytest.mark.parametrize(
    "other",
    [
        encoded(PHOTOGRAPH, "JPEG", quality=89),
        PROGRESSIVE,
        encoded(changed_pixel(PHOTOGRAPH), "JPEG", quality=100),
        encoded(PHOTOGRAPH, "JPEG", quality=90, exif=exif(6)),
        encoded(PHOTOGRAPH, "JPEG", quality=90, icc_profile=WIDE_GAMUT),
        with_segment(JPEG.replace(JPEG[2 : JPEG.index(b"\xff\xdb")], b"", 1), 0xEE, b"Adobe" + bytes(7)),  # as RGB
        JPEG[:-1500],
        encoded(PHOTOGRAPH, "PNG"),
    ],
)
def test_a_jpeg_that_looks_otherwise_is_another_image(other: bytes) -> None:
    assert hashed(other) != hashed(JPEG)


def test_the_orientation_is_part_of_the_image() -> None:
    turned = {encoded(PHOTOGRAPH, "JPEG", exif=exif(orientation)) for orientation in range(1, 9)}
    assert len({hashed(each) for each in turned}) == 8
    assert hashed(encoded(PHOTOGRAPH, "JPEG", exif=exif(1))) == hashed(encoded(PHOTOGRAPH, "JPEG"))


def test_a_png_with_other_chunks_is_the_same_image() -> None:
    parts = chunks(PNG)
    pixels = b"".join(content for kind, content in parts if kind == b"IDAT")
    cut = [(b"IDAT", pixels[:10]), (b"IDAT", b""), (b"IDAT", pixels[10:])]
    texts = [(b"tEXt", b"Author\0Ann"), (b"tIME", bytes((7, 230, 1, 1, 1, 1, 1))), (b"pHYs", bytes(9))]
    copy = png_of([parts[0], *texts, *cut, (b"tEXt", b"Comment\0behind"), (b"IEND", b"")])
    assert hashed(copy) == hashed(PNG)
    assert hashed(copy + b"trailing") == hashed(PNG)
    assert hashed(encoded(quadrants(), "PNG", icc_profile=SRGB, exif=exif(artist="Ann"))) == hashed(PNG)
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a title", zip=True)
    assert hashed(encoded(quadrants(), "PNG", pnginfo=text)) == hashed(PNG)


@pytest.mark.parametrize(
    "other",
    [
        encoded(changed_pixel(quadrants()), "PNG"),
        encoded(quadrants(), "PNG", compress_level=0),
        encoded(quadrants(), "PNG", exif=exif(3)),
        encoded(quadrants(), "PNG", icc_profile=WIDE_GAMUT),
        encoded(quadrants(), "PNG", transparency=(220, 30, 40)),
        png_of([chunks(PNG)[0], (b"gAMA", struct.pack(">I", 100_000)), *chunks(PNG)[1:]]),
        encoded(quadrants(), "PNG", save_all=True, append_images=[changed_pixel(quadrants())]),
    ],
)
def test_a_png_that_looks_otherwise_is_another_image(other: bytes) -> None:
    assert hashed(other) != hashed(PNG)


@pytest.mark.parametrize("entry", range(3))
def test_the_palette_of_a_png_is_part_of_the_image(entry: int) -> None:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([1, 2, 3, 4, 5, 6])
    parts = chunks(encoded(image, "PNG"))
    palette = next(content for kind, content in parts if kind == b"PLTE")
    other = palette[: entry + 3] + bytes([palette[entry + 3] + 1]) + palette[entry + 4 :]
    changed = png_of([(kind, other if kind == b"PLTE" else content) for kind, content in parts])
    assert hashed(changed) != hashed(png_of(parts))


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "TIFF", "BMP", "TGA", "PPM"])
def test_other_formats_are_compared_by_their_pixels(format_name: str) -> None:
    image = quadrants()
    options: dict[str, Any] = {"lossless": True} if format_name == "WEBP" else {}
    original = encoded(image, format_name, **options)
    assert re.fullmatch(UUID, hashed(original))
    other = image.convert("P", palette=Image.Palette.ADAPTIVE) if format_name == "GIF" else image
    assert hashed(encoded(changed_pixel(other), format_name, **options)) != hashed(original)


@pytest.mark.parametrize(
    ("format_name", "options", "others"),
    [
        ("GIF", {}, {"comment": b"hello"}),
        ("WEBP", {"lossless": True}, {"exif": exif(artist="Ann"), "xmp": b"<x/>", "icc_profile": SRGB}),
        ("WEBP", {"quality": 80}, {"exif": exif(artist="Ann")}),
        ("TIFF", {}, {"description": "hello", "compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}, {"artist": "Ann"}),
        ("AVIF", {}, {"exif": exif(artist="Ann")}),
    ],
)
def test_other_formats_with_other_metadata_are_the_same_image(
    format_name: str, options: dict[str, Any], others: dict[str, Any]
) -> None:
    original, copy = (encoded(quadrants(), format_name, **options, **more) for more in ({}, others))
    assert original != copy
    assert hashed(original) == hashed(copy)


def test_the_same_pixels_in_another_lossless_format_are_the_same_image() -> None:
    assert len({hashed(encoded(quadrants(), name)) for name in ("TIFF", "BMP", "TGA", "PPM")}) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "CMYK", "I;16", "F"])
def test_one_changed_pixel_in_any_mode_is_another_image(mode: str) -> None:
    values = np.arange(600 * 5, dtype=np.float32).reshape(600, 5)  # more rows than are hashed at a time
    bands = {"LA": 2, "RGBA": 4, "CMYK": 4}.get(mode, 1)

    def file(pixels: np.ndarray) -> bytes:
        if mode in ("I;16", "F"):
            return encoded(Image.fromarray(pixels.astype(np.uint16 if mode == "I;16" else np.float32)), "TIFF")
        stacked = np.stack([pixels % 251] * bands, axis=-1).astype(np.uint8)
        if mode == "1":
            return encoded(Image.fromarray((stacked[..., 0] % 2 * 255).astype(np.uint8)).convert("1"), "TIFF")
        merged = Image.merge(mode, [Image.fromarray(stacked[..., band]) for band in range(bands)])
        return encoded(merged, "TIFF")

    other = values.copy()
    other[599, 4] += 1
    assert hashed(file(values)) == hashed(file(values.copy()))
    assert hashed(file(other)) != hashed(file(values))


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "TIFF", "PNG"])
def test_files_with_several_frames_are_the_same_only_as_a_whole(format_name: str) -> None:
    first, second, third = (photograph(40, 30, seed) for seed in (1, 2, 3))

    def frames(*images: Image.Image) -> bytes:
        return encoded(images[0], format_name, save_all=True, append_images=[*images[1:]])

    assert hashed(frames(first, second)) == hashed(frames(first, second))
    assert hashed(frames(first, second)) != hashed(frames(first, third))
    assert hashed(frames(first, second)) != hashed(frames(first))


def test_a_raw_file_is_hashed_by_the_preview_that_is_indexed() -> None:
    def raw_file(image: Image.Image, content: bytes = b"") -> bytes:
        return tiff(embedded(photograph(160, 120, 9)), sensor(320, 240, content), embedded(image))

    image, other = photograph(320, 240, 4), photograph(320, 240, 5)
    assert hashed(raw_file(image)) == hashed(raw_file(image, b"\1" * 320 * 240 * 2)) == hashed(encoded(image, "JPEG"))
    assert hashed(raw_file(image)) != hashed(raw_file(other))


def test_a_tiff_is_turned_into_the_image_it_shows() -> None:
    plain, turned = (encoded(quadrants(), "TIFF", tiffinfo={274: orientation}) for orientation in (1, 3))
    assert hashed(turned) != hashed(plain)
    assert hashed(turned) == hashed(encoded(quadrants().rotate(180), "TIFF"))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_file_that_ends_early_is_another_image(format_name: str) -> None:
    whole = encoded(PHOTOGRAPH, format_name)
    ended, again = whole[: -len(whole) // 50], whole[: -len(whole) // 50]
    assert hashed(ended) == hashed(again) != hashed(whole)


def test_what_follows_a_damaged_segment_still_counts() -> None:
    # Pillow skips bytes between segments; they are hashed with all that follows.
    at = JPEG.index(b"\xff\xc0")
    damaged = JPEG[:at] + b"\0\0" + JPEG[at:]
    assert hashed(damaged) != hashed(JPEG)
    changed = damaged[:-400] + bytes([damaged[-400] ^ 1]) + damaged[-399:]
    assert hashed(changed) != hashed(damaged)


def test_the_thumbnail_that_a_tiff_begins_with_does_not_matter() -> None:
    image, other, small, smaller = (
        photograph(*size, seed) for size, seed in (((320, 240), 4), ((320, 240), 5), ((64, 48), 1), ((48, 36), 2))
    )
    files = [tiff(page(first, reduced=True), page(image)) for first in (small, smaller)]
    assert hashed(files[0]) == hashed(files[1]) == hashed(encoded(image, "TIFF"))
    assert hashed(files[0]) != hashed(tiff(page(small, reduced=True), page(other)))
