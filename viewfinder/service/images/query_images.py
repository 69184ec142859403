"""Pictures that come with a query: base64, uploads and addresses become what a model sees.

Decoding happens in child processes (`viewfinder.images.decoder`), so that no picture can take a replica down or hold it up.
"""

import asyncio
import base64
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from viewfinder.errors import ImageError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import ImageLimits, Preprocess, check_bytes
from viewfinder.service.images.fetcher import AddressError, Fetcher
from viewfinder.service.telemetry.metrics import Metrics

Pixels = npt.NDArray[np.uint8]

# Side by side; decoding takes a fifth of the time of encoding on the same core.
DECODERS = 2
# Pictures that may wait for a decoder, four of the largest requests: beyond them a replica says that it is full.
MAX_WAITING = 256

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


class OverloadedError(Exception):
    """More work waits than will be done in time; trying again a little later helps."""


def decode_base64(text: str) -> bytes:
    """The bytes of a picture given as base64, bare or as a `data:` URL; raises `ImageError`."""
    head = _DATA_URL.match(text)
    try:
        # Lines of 76 characters, as MIME and `base64` of the command line make them, are base64 too.
        lines = (text[head.end() :] if head else text).splitlines()
        return base64.b64decode("".join(lines), validate=True)
    except ValueError:
        raise ImageError(
            "not_base64", "It is no base64: give the content of a picture's file as base64 or as a data: URL."
        ) from None


class Pictures:
    """Decodes the pictures of queries, and fetches those that are given by their address.

    No larger file than `limits` say is decoded or fetched. It holds processes and threads: `close` ends them.
    """

    def __init__(
        self,
        limits: ImageLimits,
        *,
        timeout_s: float,
        memory_bytes: int,
        allow_url: bool,
        fetcher: Fetcher | None = None,
        metrics: Metrics | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._fetcher = (fetcher or Fetcher(max_bytes=limits.max_bytes)) if allow_url else None
        self._metrics = metrics or Metrics()
        self._max_waiting = max_waiting
        self._waiting = 0
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
        self._lock = threading.Lock()
        self._idle: list[tuple[Preprocess, Decoder]] = []
        self._closed = False

    async def pixels(self, data: bytes, preprocess: Preprocess) -> Pixels:
        """uint8 [S, S, 3] of a picture's file; raises `ImageError`, and `OverloadedError` where too many wait."""
        check_bytes(data, self._limits)
        if self._waiting >= self._max_waiting:
            raise OverloadedError(f"{self._waiting} pictures wait for being decoded already.")
        self._waiting += 1
        try:
            with self._metrics.timed("decode"):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data, preprocess)
        finally:
            self._waiting -= 1

    async def fetch(self, url: str) -> bytes:
        """The content behind a public address; raises `AddressError`."""
        if self._fetcher is None:
            raise AddressError(
                "image_url_disabled",
                "This service fetches no addresses (VIEWFINDER_ALLOW_IMAGE_URL).",
            )
        with self._metrics.timed("fetch"):
            return await self._fetcher.fetch(url)

    def close(self) -> None:
        """End the decoders, after the pictures at hand."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
        self._keep()
        if self._fetcher is not None:
            self._fetcher.close()

    def _decode(self, data: bytes, preprocess: Preprocess) -> Pixels:
        decoder = self._take(preprocess)
        try:
            return decoder.decode(data).pixels
        finally:
            self._keep((preprocess, decoder))

    def _take(self, preprocess: Preprocess) -> Decoder:
        with self._lock:
            for position, (made_for, decoder) in enumerate(self._idle):
                if made_for == preprocess:
                    del self._idle[position]
                    return decoder
        return Decoder(preprocess, self._limits, timeout_s=self._timeout_s, memory_bytes=self._memory_bytes)

    def _keep(self, *decoders: tuple[Preprocess, Decoder]) -> None:
        """Keep decoders for the next pictures: no more idle ones than threads, the latest used first to stay."""
        with self._lock:
            self._idle.extend(decoders)
            surplus_count = max(0, len(self._idle) - (0 if self._closed else DECODERS))
            surplus, self._idle = self._idle[:surplus_count], self._idle[surplus_count:]
        for _, decoder in surplus:
            decoder.close()
