"""The pictures of the index themselves: in full as they lie in the bucket, or as thumbnails.

Reading and thumbnailing have bounded lanes of their own, apart from the threads of the searches: a page full of
pictures is turned away by `ContentBusyError` before it can hold up a query.
"""

import asyncio
import hashlib
import os
import queue
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from threading import BoundedSemaphore
from typing import BinaryIO, TypeVar

from viewfinder.errors import ObjectError
from viewfinder.images.decoding import ImageLimits
from viewfinder.images.thumbnails import Thumbnailer
from viewfinder.sources.objects import ObjectAccess, Objects

T = TypeVar("T")

READERS = 8
# Calls that a lane takes at most, under way and waiting; beyond it a client had better come back.
LANE_ROOM = 128
# Pictures that one thumbnailer's threads read or hold while it works on another.
READ_AHEAD = 4
# Larger objects go by way of a file instead of memory.
IN_MEMORY_BYTES = 4 * 1024**2
# A browser waits for a picture, not for a bucket's outage: one second attempt, then the answer says so.
RETRY_S = 1.0
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0


class ContentBusyError(Exception):
    """More pictures are asked for at once than this replica can bring."""


@dataclass(frozen=True)
class Original:
    """One object as it lies in the bucket: `size` bytes to be read from `file`, which the receiver closes."""

    file: BinaryIO
    size: int
    etag: str


class Content:
    """Reads the pictures of the index where they lie, for one replica."""

    def __init__(
        self,
        access: ObjectAccess,
        limits: ImageLimits,
        *,
        timeout_s: float,
        memory_bytes: int,
        thumbnailers: int,
        cache_bytes: int,
        room: int = LANE_ROOM,
        objects: Objects | None = None,
    ) -> None:
        threads = thumbnailers * READ_AHEAD
        hurried = replace(
            access,
            threads=READERS + threads,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=READ_TIMEOUT_S,
            retry_s=RETRY_S,
        )
        self._objects = objects or Objects(hurried)
        self._limits = limits
        self._cache = _ByteCache(cache_bytes)
        self._reading = _Lane("content", READERS, room)
        self._thumbnailing = _Lane("thumbnail", threads, room)
        self._idle: queue.SimpleQueue[Thumbnailer] = queue.SimpleQueue()
        self._thumbnailers = [
            Thumbnailer(limits, timeout_s=timeout_s, memory_bytes=memory_bytes) for _ in range(thumbnailers)
        ]
        for each in self._thumbnailers:
            self._idle.put(each)

    async def original(self, uri: str, size: int) -> Original:
        """The object at `uri`, which the index knows to have `size` bytes.

        Raises `ObjectError` and `ContentBusyError`.
        """
        return await self._reading.run(self._open, uri, size)

    async def thumbnail(self, uri: str, etag: str, width: int) -> tuple[bytes, str]:
        """A JPEG at most `width` pixels wide, and the ETag of the content that it shows.

        `etag` is the index's; a picture that changed since is shown as it is now, and kept under its own ETag.
        Raises `ImageError` (a kind of `ObjectError`), `ObjectError` and `ContentBusyError`.
        """
        if (known := self._cache.get((uri, etag, width))) is not None:
            return known, etag
        content, found = await self._thumbnailing.run(self._make, uri, width)
        self._cache.put((uri, found, width), content)
        return content, found

    def close(self) -> None:
        """End threads and child processes, once what they are at is done."""
        self._reading.close()
        self._thumbnailing.close()
        for each in self._thumbnailers:
            each.close()
        self._objects.close()

    def _open(self, uri: str, size: int) -> Original:
        if size <= IN_MEMORY_BYTES:  # one request instead of three
            data, etag = self._objects.read(uri, self._limits.max_bytes)
            return Original(BytesIO(data), len(data), etag)
        info = self._objects.stat(uri)
        if info.size > self._limits.max_bytes:
            message = f"{uri!r} has {info.size} bytes, more than {self._limits.max_bytes}."
            raise ObjectError("too_many_bytes", message, permanent=True)
        file = self._objects.open(uri)
        if file.seek(0, os.SEEK_END) != info.size:
            file.close()
            raise ObjectError("changed", f"{uri!r} changed while it was read.")
        file.seek(0)
        return Original(file, info.size, info.etag)

    def _make(self, uri: str, width: int) -> tuple[bytes, str]:
        data, etag = self._objects.read(uri, self._limits.max_bytes)
        thumbnailer = self._idle.get()
        try:
            return thumbnailer.make(data, width), etag
        finally:
            self._idle.put(thumbnailer)


def entity_tag(etag: str, width: int | None) -> str:
    """The ETag of an answer; opaque, since an object's own may hold anything."""
    return f'"{hashlib.sha256(f"{etag}:{width}".encode()).hexdigest()[:32]}"' if etag else ""


class _Lane:
    """Threads that take a limited number of calls; who stops waiting gives the place back."""

    def __init__(self, name: str, threads: int, room: int) -> None:
        self._room = BoundedSemaphore(room)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        if not self._room.acquire(blocking=False):
            raise ContentBusyError("too many pictures at once")
        future: Future[T] = self._threads.submit(function, *arguments)
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


class _ByteCache:
    """The values last used, up to so many bytes of them."""

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
