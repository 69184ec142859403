"""Thumbnails from a child process: format, size, and failures."""

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from viewfinder.errors import ImageError
from viewfinder.images.decoding import ImageLimits
from viewfinder.images.thumbnails import MAX_WIDTH, MIN_WIDTH, Thumbnailer

pytestmark = pytest.mark.slow

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=2_000_000)


@pytest.fixture(scope="module")
def thumbnailer() -> Iterator[Thumbnailer]:
    with Thumbnailer(LIMITS, timeout_s=60, memory_bytes=2**30) as thumbnailer:
        yield thumbnailer


def encoded(size: tuple[int, int], kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("width", [MIN_WIDTH, 200, MAX_WIDTH])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_one_child_makes_thumbnails_of_every_width_and_format(thumbnailer: Thumbnailer, width: int, kind: str) -> None:
    small = Image.open(io.BytesIO(thumbnailer.make(encoded((600, 300), kind), width)))
    assert (small.format, small.size) == ("JPEG", (min(width, 600), min(width, 600) // 2))


@pytest.mark.parametrize("width", [0, MIN_WIDTH - 1, MAX_WIDTH + 1, 2**16])
def test_a_width_out_of_bounds_raises_value_error(thumbnailer: Thumbnailer, width: int) -> None:
    with pytest.raises(ValueError, match=str(width)):
        thumbnailer.make(encoded((10, 10)), width)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * (LIMITS.max_bytes + 1), "too_many_bytes"),
        (b"\0" * LIMITS.max_bytes, "not_an_image"),
        (encoded((2000, 1001), mode="1"), "too_many_pixels"),
        (encoded((300, 300), "JPEG")[:200], "truncated"),
    ],
)
def test_an_invalid_file_fails_with_a_reason_and_the_next_one_succeeds(
    thumbnailer: Thumbnailer, data: bytes, reason: str
) -> None:
    with pytest.raises(ImageError) as caught:
        thumbnailer.make(data, 64)
    assert caught.value.reason == reason
    assert thumbnailer.make(encoded((10, 10)), 64)


@pytest.mark.parametrize(("command", "reason"), [(b"signal 11", "decoder_crashed"), (b"hang", "decode_timeout")])
def test_a_file_that_crashes_or_hangs_the_child_fails_alone(command: bytes, reason: str) -> None:
    with Thumbnailer(LIMITS, timeout_s=2, memory_bytes=2**30, entry="tests.images.crashing:thumbnail") as fragile:
        with pytest.raises(ImageError) as caught:
            fragile.make(command, 64)
        assert caught.value.reason == reason
        assert fragile.make(encoded((10, 10)), 64)


def test_a_closed_thumbnailer_makes_none() -> None:
    closed = Thumbnailer(LIMITS, timeout_s=60, memory_bytes=2**30)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.make(encoded((10, 10)), 64)
