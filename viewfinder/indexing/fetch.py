"""The second stage: read objects and decode them."""

import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import pyarrow as pa

from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import ImageLimits, Preprocess
from viewfinder.indexing.connections import objects_of
from viewfinder.indexing.failures import CRASHED, is_permanent
from viewfinder.indexing.machine import machine_id
from viewfinder.indexing.pools import thread_pool
from viewfinder.indexing.rows import Row, rows_of, table_of
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects

# Limit on the bytes that one task holds in memory: a batch of 64 images of 100 MB would take 6.4 GB.
IN_FLIGHT_BYTES = 256 * 1024**2
# After this many refusals in a row, assume that the credentials are wrong and end the run.
MAX_ACCESS_DENIED = 20
# Attempts to read an object that arrives shorter than its listed size.
READ_ATTEMPTS = 3
DecoderSource = Callable[[], AbstractContextManager[Decoder]]


class FetchAndDecode:
    """Rows to index → the same rows with pixels or with a failure.

    `threads` threads read objects while one decoder process decodes them: an image that crashes the decoder, hangs it
    or exhausts its memory fails alone. `decoder` lends a decoder for one call, by default this process's own; `objects`
    returns the reader of objects.
    """

    def __init__(
        self,
        access: ObjectAccess,
        preprocess: Preprocess,
        limits: ImageLimits,
        *,
        threads: int,
        timeout_s: float,
        memory_bytes: int,
        objects: Callable[[], Objects] | None = None,
        decoder: DecoderSource | None = None,
    ) -> None:
        self._limits = limits
        self._threads = threads
        self._objects = objects or functools.partial(objects_of, access)
        self._decoder = decoder or functools.partial(_shared_decoder, preprocess, limits, timeout_s, memory_bytes)

    @classmethod
    def of(
        cls, settings: Settings, access: ObjectAccess, checkpoint: Checkpoint, decoder: DecoderSource | None = None
    ) -> Self:
        """The stage for this model, with the limits from the settings."""
        return cls(
            access,
            checkpoint.preprocess,
            ImageLimits.of(settings),
            threads=settings.fetch_threads,
            timeout_s=settings.decode_timeout_s,
            memory_bytes=settings.decode_memory_bytes,
            decoder=decoder,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = rows_of(table)
        wanted = [row for row in rows if row["action"] == "index"]
        if not wanted:
            return table
        fetch_s: list[float] = []
        decode_s = 0.0
        refused = 0
        with self._decoder() as decoder:
            for row, fetched in self._fetch(wanted, fetch_s):
                try:
                    data, row["etag"] = fetched.result()
                    row["size"] = len(data)
                    began = time.perf_counter()
                    try:
                        _decode(row, decoder, data)
                    finally:
                        decode_s += time.perf_counter() - began
                    refused = 0
                except ObjectError as error:
                    # A bad object is data: a row with a reason. Any other exception ends the run.
                    row["action"], row["stage"] = "failed", "decode" if fetched.exception() is None else "fetch"
                    row["reason"], row["message"] = error.reason, error.message
                    row["permanent"] = is_permanent(error)
                    row["crashed_on"] = machine_id() if error.reason == CRASHED else None
                    refused = refused + 1 if error.reason == "access_denied" else 0
                    if refused >= MAX_ACCESS_DENIED:
                        raise ConfigurationError(
                            f"Access to {refused} objects in a row was denied, most recently to {row['uri']!r}: "
                            f"{error.message} Grant the credentials s3:GetObject, then run the job again."
                        ) from error
        rows[0]["fetch_s"], rows[0]["decode_s"] = sum(fetch_s), decode_s
        return table_of(rows)

    def _fetch(self, rows: list[Row], seconds: list[float]) -> Iterator[tuple[Row, "Future[tuple[bytes, str]]"]]:
        """Yield rows in order with their pending reads, at most IN_FLIGHT_BYTES at a time.

        Appends the duration of each read, failed ones included, to `seconds`.
        """
        objects = self._objects()

        def read(row: Row) -> tuple[bytes, str]:
            began = time.perf_counter()
            try:
                return self._read_whole(objects, row)
            finally:
                seconds.append(time.perf_counter() - began)

        with thread_pool(self._threads) as pool:
            reading: list[tuple[Row, Future[tuple[bytes, str]]]] = []
            for row in rows:
                while reading and (
                    len(reading) >= 2 * self._threads
                    or sum(waiting["size"] for waiting, _ in reading) + row["size"] > IN_FLIGHT_BYTES
                ):
                    yield reading.pop(0)
                reading.append((row, pool.submit(read, row)))
            yield from reading

    def _read_whole(self, objects: Objects, row: Row) -> tuple[bytes, str]:
        """Read the content and ETag of an object; retry if the content is shorter than the listed size.

        Part of an image would be recorded as permanently truncated, or encoded as if it were the whole.
        """
        for _ in range(READ_ATTEMPTS):
            data, etag = objects.read(row["uri"], max_bytes=self._limits.max_bytes)
            if etag != row["etag"] or len(data) >= row["size"]:
                return data, etag
        raise ObjectError(
            "unavailable",
            f"{row['uri']!r}: got {len(data):,} of {row['size']:,} bytes in each of {READ_ATTEMPTS} attempts.",
        )


def _decode(row: Row, decoder: Decoder, data: bytes) -> None:
    image = decoder.decode(data)
    row["pixels"] = image.pixels.tobytes()
    row["width"], row["height"], row["format"] = image.width, image.height, image.format
    row["warning"] = image.warning


def _shared_decoder(
    preprocess: Preprocess, limits: ImageLimits, timeout_s: float, memory_bytes: int
) -> AbstractContextManager[Decoder]:
    return nullcontext(_process_decoder(preprocess, limits, timeout_s, memory_bytes))


@functools.lru_cache(maxsize=1)
def _process_decoder(preprocess: Preprocess, limits: ImageLimits, timeout_s: float, memory_bytes: int) -> Decoder:
    # A worker process runs many tasks, one at a time, and reuses its decoder.
    return Decoder(preprocess, limits, timeout_s=timeout_s, memory_bytes=memory_bytes)
