"""Image content: bounded pools, cancellation, cache."""

import asyncio
import io
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO

import pytest
from PIL import Image

from tests.sources.faulty import FaultyS3
from viewfinder.errors import ObjectError
from viewfinder.images.decoding import ImageLimits
from viewfinder.service.images.content import (
    IN_MEMORY_BYTES,
    MAX_STREAMS,
    READ_AHEAD,
    READERS,
    ContentBusyError,
    ImageContent,
    entity_tag,
)
from viewfinder.sources.access import HeadCheck, ObjectAccess, ObjectContent
from viewfinder.sources.objects import Objects
from viewfinder.testing.objects import MemoryObjects

pytestmark = pytest.mark.slow

MakeContent = Callable[..., ImageContent]

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)


class SlowObjects(MemoryObjects):
    """A bucket that answers once `open_for_all` is set, and counts its reads."""

    def __init__(self) -> None:
        super().__init__({f"s3://b/{number}": png(number + 1) for number in range(40)})
        self.open_for_all = threading.Event()
        self.reads = 0

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        self.reads += 1
        self.open_for_all.wait()
        return super().read(uri, max_bytes, check_head)


def png(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 10)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
async def bucket() -> AsyncIterator[SlowObjects]:
    bucket = SlowObjects()
    yield bucket
    bucket.open_for_all.set()


@pytest.fixture
async def content(bucket: SlowObjects) -> AsyncIterator[MakeContent]:
    """Makes readers over the bucket."""
    made: list[ImageContent] = []

    def make(**options: Any) -> ImageContent:
        settings: dict[str, Any] = {"timeout_s": 20, "memory_bytes": 2**30, "thumbnailers": 1, "cache_bytes": 10**6}
        settings["objects"] = Objects(s3=bucket)
        made.append(ImageContent(ObjectAccess(), LIMITS, **(settings | options)))
        return made[-1]

    yield make
    bucket.open_for_all.set()
    for each in made:
        each.close()


@pytest.mark.parametrize("kind", ["thumbnail", "original"])
async def test_a_full_pool_refuses_calls_until_it_has_room(
    bucket: SlowObjects, content: MakeContent, kind: str
) -> None:
    reader = content(max_calls=3)

    async def ask(number: int) -> object:
        uri = f"s3://b/{number}"
        return await (reader.thumbnail(uri, "", 64) if kind == "thumbnail" else reader.original(uri, 10))

    waiting = [asyncio.create_task(ask(number)) for number in range(3)]
    await asyncio.sleep(0)  # each call has started
    with pytest.raises(ContentBusyError):
        await ask(3)
    bucket.open_for_all.set()
    await asyncio.gather(*waiting)
    assert await ask(3)


async def test_waiting_thumbnails_do_not_delay_originals(bucket: SlowObjects, content: MakeContent) -> None:
    reader = content(max_calls=20)
    thumbnails = [asyncio.create_task(reader.thumbnail(f"s3://b/{number}", "", 64)) for number in range(20)]
    await asyncio.sleep(0)
    original = asyncio.create_task(reader.original("s3://b/30", 10))
    while bucket.reads < READ_AHEAD + 1:  # the thumbnails that are read ahead, and the original
        await asyncio.sleep(0.001)
    bucket.open_for_all.set()
    assert (await original).size == len(png(31))
    assert len(await asyncio.gather(*thumbnails)) == 20


async def test_cancelled_calls_are_not_executed(bucket: SlowObjects, content: MakeContent) -> None:
    reader = content(max_calls=READERS + 5)
    calls = [asyncio.create_task(reader.original(f"s3://b/{number}", 10)) for number in range(READERS + 5)]
    while bucket.reads < READERS:
        await asyncio.sleep(0.001)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    bucket.open_for_all.set()
    assert (await reader.original("s3://b/39", 10)).size == len(png(40))
    assert bucket.reads == READERS + 1


async def test_the_cache_holds_the_most_recent_bytes(bucket: SlowObjects, content: MakeContent) -> None:
    bucket.open_for_all.set()
    first, etag = await content().thumbnail("s3://b/0", "", 64)
    reader = content(cache_bytes=2 * len(first) + 200)
    etags = [bucket.stat(f"s3://b/{number}").etag for number in range(3)]
    bucket.reads = 0
    for number in (0, 1, 0, 2):  # 2 evicts 1
        await reader.thumbnail(f"s3://b/{number}", etags[number], 64)
    assert bucket.reads == 3
    assert await reader.thumbnail("s3://b/0", etags[0], 64) == (first, etag)
    assert bucket.reads == 3
    await reader.thumbnail("s3://b/1", etags[1], 64)
    assert bucket.reads == 4


async def test_without_a_cache_every_thumbnail_is_made(bucket: SlowObjects, content: MakeContent) -> None:
    bucket.open_for_all.set()
    reader = content(cache_bytes=0)
    for _ in range(2):
        await reader.thumbnail("s3://b/0", bucket.stat("s3://b/0").etag, 64)
    assert bucket.reads == 2


async def test_simultaneous_requests_for_a_thumbnail_make_it_once(bucket: SlowObjects, content: MakeContent) -> None:
    """Regression: a page that many open at once read and decoded every image once for each of them."""
    reader = content(cache_bytes=0)
    requests = [asyncio.create_task(reader.thumbnail("s3://b/0", "", 64)) for _ in range(20)]
    await asyncio.sleep(0)
    requests[0].cancel()
    await asyncio.sleep(0)
    bucket.open_for_all.set()
    made = await asyncio.gather(*requests[1:])
    assert len({id(small) for small, _ in made}) == 1
    assert bucket.reads == 1


async def test_an_error_reaches_all_requests_for_a_thumbnail_and_is_not_kept(
    bucket: SlowObjects, content: MakeContent
) -> None:
    bucket.open_for_all.set()
    reader = content()
    failed = await asyncio.gather(*(reader.thumbnail("s3://b/none", "", 64) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in failed] == [ObjectError] * 3
    bucket.contents["s3://b/none"] = png(5)
    assert (await reader.thumbnail("s3://b/none", "", 64))[0]


async def test_the_number_of_originals_that_are_sent_is_limited(bucket: SlowObjects, content: MakeContent) -> None:
    bucket.open_for_all.set()
    reader = content()
    originals = [await reader.original("s3://b/0", 10) for _ in range(MAX_STREAMS)]
    with pytest.raises(ContentBusyError):
        await reader.original("s3://b/0", 10)
    assert await reader.thumbnail("s3://b/0", "", 64), "thumbnails are sent at once"
    originals[0].close()
    assert await reader.original("s3://b/0", 10)


async def test_a_missing_object_has_its_own_error(bucket: SlowObjects, content: MakeContent) -> None:
    bucket.open_for_all.set()
    reader = content()
    with pytest.raises(ObjectError) as caught:
        await reader.thumbnail("s3://b/none", "", 64)
    assert caught.value.reason == "not_found"


def test_an_entity_tag_is_an_opaque_hash_of_etag_and_width() -> None:
    odd = 'a"b\r\nc'
    tags = {entity_tag(odd, None), entity_tag(odd, 64), entity_tag(odd, 65), entity_tag("other", 64)}
    assert len(tags) == 4
    assert all(len(tag) == 34 and tag.isascii() and tag.isprintable() for tag in tags)
    assert entity_tag("", 64) == ""


class CountedParts(MemoryObjects):
    """A bucket that records the parts that are read, and whether a whole object was opened."""

    def __init__(self, contents: dict[str, bytes], *, knows_ranges: bool) -> None:
        super().__init__(contents)
        self.parts: list[tuple[int, int]] = []
        self.opened = 0
        self._knows_ranges = knows_ranges

    def read_part(self, uri: str, start: int, stop: int, etag: str) -> bytes | None:
        self.parts.append((start, stop))
        return super().read_part(uri, start, stop, etag) if self._knows_ranges else None

    def open(self, uri: str, max_bytes: int | None = None, *, whole: bool = True) -> BinaryIO:
        self.opened += 1
        return super().open(uri, max_bytes, whole=whole)


@pytest.mark.parametrize("knows_ranges", [True, False])
async def test_a_part_of_a_large_object_is_read_alone(knows_ranges: bool, content: MakeContent) -> None:
    """Regression: the whole object was read for each part."""
    data = bytes(range(256)) * 1_000
    bucket = CountedParts({"s3://b/large": data}, knows_ranges=knows_ranges)
    found = await content(objects=Objects(s3=bucket)).original(
        "s3://b/large", 2 * IN_MEMORY_BYTES, lambda size, etag: slice(5, 90)
    )
    found.file.seek(5 - found.start)
    assert (found.file.read(85), found.size) == (data[5:90], len(data))
    assert bucket.parts == [(5, 90)]
    assert bucket.opened == (0 if knows_ranges else 1)
    found.close()


@pytest.mark.parametrize("part", [slice(0, 256_000), None])
async def test_a_whole_object_is_not_read_as_a_part(part: slice | None, content: MakeContent) -> None:
    bucket = CountedParts({"s3://b/large": bytes(256_000)}, knows_ranges=True)
    found = await content(objects=Objects(s3=bucket)).original(
        "s3://b/large", 2 * IN_MEMORY_BYTES, lambda size, etag: part
    )
    assert (bucket.parts, bucket.opened, found.start) == ([], 1, 0)
    found.close()


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (zlib.compress(bytes(LIMITS.max_bytes))[:-4], LIMITS.max_bytes),  # damaged
        (zlib.compress(bytes(LIMITS.max_bytes + 1)), None),
    ],
)
async def test_a_large_encoded_object_is_what_the_index_has_read(
    body: bytes, length: int | None, content: MakeContent
) -> None:
    """Regression: a damaged encoding was an error for originals alone, and nothing limited the decoded size."""
    with FaultyS3(then=lambda handler: handler.send(200, body, ETag='"1"', Content_Encoding="deflate")) as server:
        images = content(objects=Objects(ObjectAccess(endpoint_url=server.url, anonymous=True)))
        if length is None:
            with pytest.raises(ObjectError, match="after decoding deflate") as caught:
                await images.original("s3://b/large", 2 * IN_MEMORY_BYTES)
            assert caught.value.reason == "too_many_bytes"
        else:
            found = await images.original("s3://b/large", 2 * IN_MEMORY_BYTES)
            assert (found.size, found.file.read()) == (length, bytes(length))
            found.close()
