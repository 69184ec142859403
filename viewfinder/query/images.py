"""Images that come with a query: base64, uploads and URLs become the pixels that a model takes.

Decoding happens in child processes (`viewfinder.images.decoder`), so that no image can crash or block this process.
"""

import asyncio
import base64
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from typing import Literal

import numpy as np
import numpy.typing as npt

from viewfinder.errors import ImageError
from viewfinder.images.decoder import BESIDE_SERVICE, Decoder
from viewfinder.images.decoding import Decoded, ImageLimits, Preprocess
from viewfinder.query.errors import AddressError
from viewfinder.query.fetcher import Fetcher
from viewfinder.tracing import TracedThreads

Pixels = npt.NDArray[np.uint8]
Timed = Callable[[Literal["fetch", "decode", "search"]], AbstractContextManager[None]]

# Decoder processes. Decoding takes a fifth of the time of encoding on the same core.
DECODERS = 2
# Images that may wait for a decoder: four of the largest requests. Further ones are refused.
MAX_WAITING = 256

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


class OverloadedError(Exception):
    """Too many images wait to be decoded; the same request may succeed later."""


def decode_base64(text: str) -> bytes:
    """The bytes of an image given as base64, bare or as a `data:` URL; raises `ImageError`."""
    head = _DATA_URL.match(text)
    try:
        # Lines of 76 characters, as MIME and `base64` of the command line make them, are base64 too.
        lines = (text[head.end() :] if head else text).splitlines()
        return base64.b64decode("".join(lines), validate=True)
    except ValueError:
        raise ImageError(
            "not_base64", "Not base64: send the content of an image file as base64 or as a data: URL."
        ) from None


def untimed(stage: str) -> AbstractContextManager[None]:
    """A `Timed` that measures nothing."""
    return nullcontext()


class QueryImages:
    """Decodes the images of queries, and fetches those given by URL, within `limits`.

    Holds child processes and threads; `close` ends them.
    """

    def __init__(
        self,
        limits: ImageLimits,
        *,
        timeout_s: float,
        memory_bytes: int,
        allow_url: bool,
        fetcher: Fetcher | None = None,
        timed: Timed = untimed,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._fetcher = (fetcher or Fetcher(max_bytes=limits.max_bytes)) if allow_url else None
        self._timed = timed
        self._max_waiting = max_waiting
        self._waiting = 0
        self._threads = TracedThreads(DECODERS, thread_name_prefix="decoder")
        self._lock = threading.Lock()
        self._idle: list[tuple[Preprocess, Decoder]] = []
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of images that wait to be decoded, or are."""
        return self._waiting

    async def pixels(self, data: bytes | str, preprocess: Preprocess) -> Pixels:
        """The pixels uint8 [S, S, 3] of an image file, which may be given as base64. Raises as `decoded` does."""
        return (await self.decoded(data, preprocess)).pixels

    async def decoded(self, data: bytes | str, preprocess: Preprocess) -> Decoded:
        """The pixels of an image file, which may be given as base64, and its size and format.

        Raises `ImageError`, and `OverloadedError` if too many images wait.
        """
        if self._waiting >= self._max_waiting:
            raise OverloadedError(f"{self._waiting} images are already waiting to be decoded.")
        self._waiting += 1
        try:
            with self._timed("decode"):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data, preprocess)
        finally:
            self._waiting -= 1

    def check_url(self, url: str) -> Fetcher:
        """Return what fetches the URL; raises `AddressError` if none is fetched, or if it is not a public URL."""
        if self._fetcher is None:
            raise AddressError(
                "image_url_disabled",
                "This service does not fetch URLs (VIEWFINDER_ALLOW_IMAGE_URL).",
            )
        self._fetcher.check(url)
        return self._fetcher

    async def pixels_at(self, url: str, preprocess: Preprocess) -> Pixels:
        """As `pixels`, of the image at a public URL; raises `AddressError` too.

        The next fetch begins once the image is decoded: otherwise hundreds of contents would wait in memory.
        """
        fetcher = self.check_url(url)
        async with AsyncExitStack() as fetched:
            with self._timed("fetch"):
                data = await fetched.enter_async_context(fetcher.fetched(url))
            return await self.pixels(data, preprocess)

    def close(self) -> None:
        """End the decoders once their current images are done. Waiting images are dropped."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._keep()
        if self._fetcher is not None:
            self._fetcher.close()

    def _decode(self, data: bytes | str, preprocess: Preprocess) -> Decoded:
        # Here and not in the event loop: the base64 of the largest image takes 50 ms.
        data = decode_base64(data) if isinstance(data, str) else data
        decoder = self._take(preprocess)
        try:
            return decoder.decode(data)
        finally:
            self._keep((preprocess, decoder))

    def _take(self, preprocess: Preprocess) -> Decoder:
        with self._lock:
            if self._closed:
                raise RuntimeError("The decoders of query images are closed.")
            for position, (made_for, decoder) in enumerate(self._idle):
                if made_for == preprocess:
                    del self._idle[position]
                    return decoder
        return Decoder(
            preprocess,
            self._limits,
            timeout_s=self._timeout_s,
            memory_bytes=self._memory_bytes,
            niceness=BESIDE_SERVICE,
        )

    def _keep(self, *decoders: tuple[Preprocess, Decoder]) -> None:
        """Keep decoders for the next images: at most one idle decoder per thread, the most recently used ones."""
        with self._lock:
            self._idle.extend(decoders)
            unneeded_count = max(0, len(self._idle) - (0 if self._closed else DECODERS))
            unneeded, self._idle = self._idle[:unneeded_count], self._idle[unneeded_count:]
        for _, decoder in unneeded:
            decoder.close()
