"""The content of indexed images: the stored object, or a thumbnail.

Reading and thumbnailing have their own bounded thread pools, apart from the threads of searches: a page full of images
is refused with `ContentBusyError` before it can delay a query.
"""

import asyncio
import functools
import hashlib
import os
import queue
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from io import BytesIO
from threading import BoundedSemaphore
from typing import BinaryIO, TypeVar

from viewfinder.images.decoding import ImageLimits
from viewfinder.images.thumbnails import Thumbnailer
from viewfinder.sources.access import ObjectAccess, check_size
from viewfinder.sources.objects import Objects
from viewfinder.tracing import TracedThreads

T = TypeVar("T")

# Widths of thumbnails. With any width a client could ask for two thousand thumbnails of one image.
WIDTHS = (16, 64, 128, 256, 512, 1024, 2048)
# Originals that are being sent, to clients of any speed.
MAX_STREAMS = 64
READERS = 8
# Maximum number of calls in a pool, running and waiting; further calls are refused.
MAX_CALLS = 128
# A redirect is followed at once; a download that is cut may go on at the same address.
ADDRESS_S = 300
# Images that the threads of one thumbnailer read ahead.
READ_AHEAD = 4
# Larger objects are read into a temporary file instead of memory.
IN_MEMORY_BYTES = 4 * 1024**2
# Parts up to this size are read alone.
MAX_PART_BYTES = 16 * 1024**2
# A browser cannot wait for a bucket's outage to end: one retry, then an error.
RETRY_S = 1.0
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0


# The bytes that are needed of an object of this size and ETag; None if it has none of them.
Part = Callable[[int, str], slice | None]


class ContentBusyError(Exception):
    """More images are requested at once than this replica can read."""


@dataclass(frozen=True)
class Original:
    """One stored object of `size` bytes, which `file` holds from `start` on.

    The receiver closes it, which frees its stream.
    """

    file: BinaryIO
    size: int
    etag: str
    start: int = 0
    free: Callable[[], None] = lambda: None

    def close(self) -> None:
        self.file.close()
        self.free()


class ImageContent:
    """Reads indexed images from their sources, for one replica."""

    def __init__(
        self,
        access: ObjectAccess,
        limits: ImageLimits,
        *,
        timeout_s: float,
        memory_bytes: int,
        thumbnailers: int,
        cache_bytes: int,
        max_calls: int = MAX_CALLS,
        objects: Objects | None = None,
    ) -> None:
        threads = thumbnailers * READ_AHEAD
        access = replace(
            access,
            threads=READERS + threads,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=READ_TIMEOUT_S,
            retry_s=RETRY_S,
        )
        self._objects = objects or Objects(access)
        self._limits = limits
        self._cache = _ByteCache(cache_bytes)
        self._making: dict[tuple[str, str, int], asyncio.Task[tuple[bytes, str]]] = {}
        self._streams = BoundedSemaphore(MAX_STREAMS)
        self._reading = _BoundedPool("content", READERS, max_calls)
        self._thumbnailing = _BoundedPool("thumbnail", threads, max_calls)
        self._idle: queue.SimpleQueue[Thumbnailer] = queue.SimpleQueue()
        self._thumbnailers = [
            Thumbnailer(limits, timeout_s=timeout_s, memory_bytes=memory_bytes) for _ in range(thumbnailers)
        ]
        for each in self._thumbnailers:
            self._idle.put(each)

    async def original(self, uri: str, size: int, part: Part | None = None) -> Original:
        """The object at `uri`, of `size` bytes according to the index; at least its `part`, if only that is needed.

        Raises `ObjectError` and `ContentBusyError`.
        """
        if not self._streams.acquire(blocking=False):
            raise ContentBusyError("too many originals at once")
        try:
            return replace(await self._reading.run(self._open, uri, size, part), free=self._streams.release)
        except BaseException:
            self._streams.release()
            raise

    async def address(self, uri: str, media_type: str, disposition: str) -> str | None:
        """Where a client can read the object at `uri` itself, for `ADDRESS_S` seconds; None if nowhere.

        Raises `ObjectError` and `ContentBusyError`.
        """
        return await self._reading.run(self._objects.presigned_url, uri, ADDRESS_S, media_type, disposition)

    async def thumbnail(self, uri: str, etag: str, width: int) -> tuple[bytes, str]:
        """A JPEG at most `width` pixels wide, and the ETag of the object it was made from.

        `etag` is the index's. An image that changed since is shown as it is now, and cached under its new ETag.
        Raises `ImageError` (a kind of `ObjectError`), `ObjectError` and `ContentBusyError`.
        """
        if (known := self._cache.get((uri, etag, width))) is not None:
            return known, etag
        key = uri, etag, width
        if (making := self._making.get(key)) is None:
            making = asyncio.create_task(self._thumbnailing.run(self._make, uri, width))
            self._making[key] = making
            making.add_done_callback(functools.partial(self._made, key))
        # Shielded: others may wait for the same thumbnail when this client disconnects.
        return await asyncio.shield(making)

    def _made(self, key: tuple[str, str, int], making: "asyncio.Task[tuple[bytes, str]]") -> None:
        del self._making[key]
        if not making.cancelled() and making.exception() is None:
            content, found = making.result()
            self._cache.put((key[0], found, key[2]), content)

    def close(self) -> None:
        """End threads and child processes after their current work."""
        self._reading.close()
        self._thumbnailing.close()
        for each in self._thumbnailers:
            each.close()
        self._objects.close()

    def _open(self, uri: str, size: int, part: Part | None) -> Original:
        if size <= IN_MEMORY_BYTES:  # one request instead of three
            data, version = self._objects.read(uri, self._limits.max_bytes)
            return Original(BytesIO(data), len(data), version.etag)
        info = self._objects.stat(uri)
        check_size(uri, info.size, self._limits.max_bytes)
        wanted = None if part is None or info.size < 0 else part(info.size, info.etag)
        if wanted is not None and wanted.stop - wanted.start <= min(info.size - 1, MAX_PART_BYTES):
            content = self._objects.read_part(uri, wanted.start, wanted.stop, info.etag)
            if content is not None:
                return Original(BytesIO(content), info.size, info.etag, wanted.start)
        file = self._objects.open(uri, self._limits.max_bytes, whole=False)
        length = file.seek(0, os.SEEK_END)  # not that of the object in the store, which may be encoded
        file.seek(0)
        return Original(file, length, info.etag)

    def _make(self, uri: str, width: int) -> tuple[bytes, str]:
        data, version = self._objects.read(uri, self._limits.max_bytes)
        thumbnailer = self._idle.get()
        try:
            return thumbnailer.make(data, width), version.etag
        finally:
            self._idle.put(thumbnailer)


def entity_tag(etag: str, width: int | None) -> str:
    """The ETag of an answer: a hash, since an object's own ETag may hold any characters."""
    return f'"{hashlib.sha256(f"{etag}:{width}".encode()).hexdigest()[:32]}"' if etag else ""


class _BoundedPool:
    """A thread pool with a maximum number of calls, running and waiting."""

    def __init__(self, name: str, threads: int, max_calls: int) -> None:
        self._free = BoundedSemaphore(max_calls)
        self._threads = TracedThreads(threads, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        if not self._free.acquire(blocking=False):
            raise ContentBusyError("too many images at once")
        future: Future[T] = self._threads.submit(function, *arguments)
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


class _ByteCache:
    """The most recently used values, up to `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[object, bytes] = OrderedDict()

    def get(self, key: object) -> bytes | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: object, value: bytes) -> None:
        self._bytes += len(value) - len(self._values.pop(key, b""))
        self._values[key] = value
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._values.popitem(last=False)[1])
