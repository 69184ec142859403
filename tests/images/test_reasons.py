"""The reasons why files cannot be decoded."""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from tests.images.samples import (
    SMALL,
    damaged_files,
    encoded,
    outcome,
    photograph,
    quadrants,
    reason,
)
from viewfinder.images.decoding import REASONS, ImageLimits, decode

pytestmark = pytest.mark.slow


def png_header(width: int, height: int) -> bytes:
    """Return the header of an image of this size, without content."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def iptc(content: bytes) -> bytes:
    """Return an IPTC/NAA file, which wraps an image of any format."""

    def field(record: int, number: int, value: bytes) -> bytes:
        return bytes([0x1C, record, number]) + struct.pack(">H", len(value)) + value

    header = field(3, 60, b"\x01\x00") + field(3, 20, b"\0\x28") + field(3, 30, b"\0\x28") + field(3, 120, b"\x05")
    return header + field(8, 10, content)


class TestReasons:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", "empty"),
            (b"a text, nothing more\n", "not_an_image"),
            (b"\0" * 5000, "not_an_image"),
            (b"<html><body>404</body></html>", "not_an_image"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
            (b"%PDF-1.7\n", "not_an_image"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported"),
            (png_header(100, 100), "truncated"),
        ],
    )
    def test_files_that_are_not_images_have_a_reason(self, data: bytes, expected: str) -> None:
        assert reason(data) == expected

    @pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP", "AVIF", "JPEG2000"])
    def test_an_image_cut_in_half_is_truncated(self, format_name: str) -> None:
        data = encoded(photograph(300, 200, 1), format_name)
        assert reason(data[: len(data) // 2]) == "truncated"

    @pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "TIFF", "JPEG2000", "AVIF"])
    def test_an_image_cut_within_its_header_is_damaged(self, format_name: str) -> None:
        assert reason(encoded(quadrants(), format_name)[:18]) in {"corrupt", "truncated"}

    def test_an_image_with_damaged_content_is_corrupt(self) -> None:
        data = bytearray(encoded(photograph(300, 200, 1)))
        middle = len(data) // 2
        data[middle : middle + 400] = bytes(400)
        assert reason(bytes(data)) == "corrupt"

    @pytest.mark.parametrize("wrap", [bytes, iptc])
    def test_postscript_is_unsupported_and_never_interpreted(self, wrap: Callable[[bytes], bytes]) -> None:
        assert reason(wrap(encoded(quadrants(), "EPS"))) == "unsupported"

    def test_too_many_bytes_are_refused_without_decoding(self) -> None:
        data = encoded(quadrants())
        assert reason(data, ImageLimits(len(data) - 1, 10_000)) == "too_many_bytes"
        assert decode(data, SMALL, ImageLimits(len(data), 10_000)).width == 80

    @pytest.mark.parametrize("side", [8000, 60_000, 2**31 - 1])
    def test_too_many_pixels_are_refused_by_the_header(self, side: int) -> None:
        assert reason(png_header(side, side)) == "too_many_pixels"

    @pytest.mark.parametrize("format_name", ["GIF", "ICO", "WEBP", "TIFF", "JPEG", "PNG", "ICNS", "AVIF"])
    def test_the_pixel_limit_holds_for_every_format(self, format_name: str) -> None:
        data = encoded(quadrants(64, 64), format_name, **({"sizes": [(64, 64)]} if format_name == "ICO" else {}))
        assert reason(data, ImageLimits(10**9, 4095)) == "too_many_pixels"
        if format_name != "ICNS":  # which always holds 1024 x 1024
            assert decode(data, SMALL, ImageLimits(10**9, 4096)).height == 64


def opened_and_loaded_by_pillow(data: bytes) -> bool:
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
        image = Image.open(io.BytesIO(data))
        if image.format != "EPS":  # which would start Ghostscript
            image.load()
            return True
    return False


def test_a_damaged_file_fails_with_a_reason_only_if_pillow_fails_too() -> None:
    files = damaged_files(40)
    assert len({name for name, _ in files}) >= 20
    outcomes = [(name, outcome(data), data) for name, data in files]
    assert {"decoded", "not_an_image", "truncated", "corrupt", "unsupported"} <= {result for _, result, _ in outcomes}
    for name, result, data in outcomes:
        assert result == "decoded" or result in REASONS, name
        assert result in {"decoded", "too_many_pixels"} or not opened_and_loaded_by_pillow(data), (name, result)
