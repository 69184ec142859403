"""Images of a query are decoded like those of the index job, and never in this process."""

import asyncio
import base64
import io
import struct
import textwrap
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.processes import children, command
from viewfinder.errors import ImageError
from viewfinder.images.decoding import ImageLimits, Preprocess, decode
from viewfinder.query.errors import AddressError
from viewfinder.query.fetcher import Fetcher
from viewfinder.query.images import OverloadedError, QueryImages, decode_base64

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(size=32)
LIMITS = ImageLimits(max_bytes=200_000, max_pixels=1_000_000)


def made(**options: Any) -> QueryImages:
    return QueryImages(LIMITS, **({"timeout_s": 20, "memory_bytes": 2 * 1024**3, "allow_url": False} | options))


@pytest.fixture(scope="module")
def images() -> Iterator[QueryImages]:
    shared = made()
    yield shared
    shared.close()


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (60, 40), seed: int = 0) -> Image.Image:
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return Image.frombytes(mode, size, np.random.default_rng(seed).integers(0, 256, shape, np.uint8).tobytes())


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


def bomb() -> bytes:
    """A PNG of a few kilobytes whose header claims a billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 32_000, 32_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(3_000_000)))


GOOD = {
    "jpeg": encoded(noise(), "JPEG"),
    "png": encoded(noise(), "PNG"),
    "webp": encoded(noise(), "WEBP", lossless=True),
    "cmyk": encoded(noise("CMYK"), "JPEG"),
    "transparent": encoded(noise("RGBA"), "PNG"),
    "animated": encoded(noise("L"), "GIF", save_all=True, append_images=[noise("L", seed=1)], duration=50),
    "turned": turned(),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_query_image_is_decoded_like_an_indexed_image(images: QueryImages, name: str) -> None:
    seen = await images.pixels(GOOD[name], PREPROCESS)
    assert seen.dtype == np.uint8
    assert np.array_equal(seen, decode(GOOD[name], PREPROCESS, LIMITS).pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"GET / HTTP/1.1", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "unsupported"),
        (GOOD["jpeg"][:400], "truncated"),
        (GOOD["png"][:-3000], "truncated"),
        (bomb(), "too_many_pixels"),
        (bytes(200_001), "too_many_bytes"),
    ],
    ids=["empty", "text", "svg", "short jpeg", "short png", "bomb", "many bytes"],
)
async def test_an_unusable_image_has_a_reason(images: QueryImages, data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as error:
        await images.pixels(data, PREPROCESS)
    assert error.value.reason == reason
    assert np.any(await images.pixels(GOOD["jpeg"], PREPROCESS)), "the next one is decoded"


async def test_generations_may_need_different_image_sizes(images: QueryImages) -> None:
    sizes = [32, 48, 32, 64, 48]
    seen = await asyncio.gather(*(images.pixels(GOOD["png"], Preprocess(size=size)) for size in sizes))
    assert [pixels.shape for pixels in seen] == [(size, size, 3) for size in sizes]


async def test_images_beyond_the_queue_are_refused_as_overload() -> None:
    images = made(max_waiting=2)
    results = await asyncio.gather(*(images.pixels(GOOD["png"], PREPROCESS) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [np.ndarray, np.ndarray, OverloadedError]
    assert np.any(await images.pixels(GOOD["png"], PREPROCESS)), "there is room again"
    images.close()


async def test_closing_ends_every_decoder_and_thread() -> None:
    before = decoders()
    others = threading.enumerate()
    images = made()
    await asyncio.gather(*(images.pixels(GOOD["png"], Preprocess(size=size)) for size in (32, 48, 64)))
    assert decoders() > before
    images.close()
    for thread in threading.enumerate():
        if thread.name.startswith("decoder") and thread not in others:
            await asyncio.to_thread(thread.join, 10)
    assert decoders() <= before
    with pytest.raises(RuntimeError):
        await images.pixels(GOOD["png"], PREPROCESS)
    assert decoders() <= before


def decoders() -> set[int]:
    """The decoder processes of this process."""
    return {each for each in children() if "run_child" in command(each)}


TEXT = base64.b64encode(GOOD["png"]).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;charset=x;BASE64,{TEXT}",
        f"data:;base64,{TEXT}",
        "\r\n".join(textwrap.wrap(TEXT, 76)) + "\r\n",
    ],
    ids=["bare", "data URL", "capitals", "no type", "lines"],
)
def test_common_spellings_of_base64_are_accepted(text: str) -> None:
    assert decode_base64(text) == GOOD["png"]


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "AAA",
        "A===",
        "AA=A",
        "ÄÖÜ=",
        "\ud800",
        "https://example.com/cat.jpg",
        "data:image/png,%89PNG",
        "data:text/plain;base64",
        "data:" + ";" * 100_000,
        TEXT + "!",
    ],
)
def test_invalid_base64_is_refused(text: str) -> None:
    with pytest.raises(ImageError) as error:
        decode_base64(text)
    assert error.value.reason == "not_base64"


async def test_urls_are_not_fetched_unless_allowed(images: QueryImages) -> None:
    with pytest.raises(AddressError) as error:
        await images.pixels_at("https://example.com/cat.jpg", PREPROCESS)
    assert error.value.reason == "image_url_disabled"
    assert "VIEWFINDER_ALLOW_IMAGE_URL" in error.value.message


async def test_private_addresses_are_refused_even_if_urls_are_allowed() -> None:
    images = made(allow_url=True)
    with pytest.raises(AddressError) as error:
        await images.pixels_at("http://169.254.169.254/latest/meta-data/", PREPROCESS)
    assert error.value.reason == "forbidden_address"
    images.close()


async def test_a_given_fetcher_is_not_used_unless_urls_are_allowed() -> None:
    images = made(fetcher=Fetcher(max_bytes=1000, allowed=lambda _: True, ports=range(65536)))
    with pytest.raises(AddressError) as error:
        await images.pixels_at("http://127.0.0.1:9/", PREPROCESS)
    assert error.value.reason == "image_url_disabled"
    images.close()
