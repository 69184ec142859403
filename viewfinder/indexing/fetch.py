"""The second stage: read objects and decode them."""

import functools
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import pyarrow as pa

from viewfinder.errors import ConfigurationError, ImageError, ObjectError
from viewfinder.images.content_type import HEAD_BYTES, other_content
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import WARNINGS, ImageLimits, Preprocess
from viewfinder.indexing.connections import objects_of
from viewfinder.indexing.failures import CRASHED, is_permanent
from viewfinder.indexing.machine import machine_id
from viewfinder.indexing.pools import thread_pool
from viewfinder.indexing.rows import Row, rows_of, table_of
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import CHECKED_BYTES, ObjectAccess, ObjectContent
from viewfinder.sources.objects import Objects
from viewfinder.sources.skips import SKIP_REASONS
from viewfinder.sources.versions import Version, is_listed, version_of, version_read

# Limit on the bytes that one task holds in memory: a batch of 64 images of 100 MB would take 6.4 GB.
IN_FLIGHT_BYTES = 256 * 1024**2
# After this many refusals in a row, read an object again that could be read before in this run.
MAX_ACCESS_DENIED = 20
# Attempts to read an object that arrives shorter than its listed size, before the image in it decides.
READ_ATTEMPTS = 3
DecoderSource = Callable[[], AbstractContextManager[Decoder]]


class FetchAndDecode:
    """Rows to index → the same rows with pixels or with a failure.

    `threads` threads read objects while one decoder process decodes them: an image that crashes the decoder, hangs it
    or exhausts its memory fails alone. A call holds at most `in_flight_bytes` of objects that have been read, and the
    one that is decoded. `decoder` lends a decoder for one call, by default this process's own; `objects`
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
        in_flight_bytes: int = IN_FLIGHT_BYTES,
        objects: Callable[[], Objects] | None = None,
        decoder: DecoderSource | None = None,
    ) -> None:
        self._run = secrets.token_hex(8)
        self._limits = limits
        self._threads = threads
        self._in_flight_bytes = in_flight_bytes
        self._objects = objects or functools.partial(objects_of, access)
        self._decoder = decoder or functools.partial(_shared_decoder, preprocess, limits, timeout_s, memory_bytes)

    @classmethod
    def of(
        cls,
        settings: Settings,
        access: ObjectAccess,
        checkpoint: Checkpoint,
        *,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
        decoder: DecoderSource | None = None,
    ) -> Self:
        """The stage for this model, with the limits from the settings."""
        return cls(
            access,
            checkpoint.preprocess,
            ImageLimits.of(settings),
            threads=settings.fetch_threads,
            timeout_s=settings.decode_timeout_s,
            memory_bytes=settings.decode_memory_bytes,
            in_flight_bytes=in_flight_bytes,
            decoder=decoder,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = rows_of(table)
        wanted = [row for row in rows if row["action"] == "index"]
        if not wanted:
            return table
        fetch_s: list[float] = []
        decode_s = 0.0
        access = _access_of_run(self._run)
        access.objects = self._objects()
        with self._decoder() as decoder:
            for row, fetched in self._fetch(wanted, fetch_s):
                try:
                    data, version = fetched.result()
                    missing = _missing(row, version)
                    _set_version(row, version)
                    access.was_read(row["uri"])
                    began = time.perf_counter()
                    try:
                        _decode(row, decoder, data, missing)
                    finally:
                        decode_s += time.perf_counter() - began
                except ObjectError as error:
                    # A bad object is data: a row with a reason. Any other exception ends the run.
                    if error.version is not None:
                        _set_version(row, Version(*error.version))
                    row["action"] = "skipped" if error.reason in SKIP_REASONS else "failed"
                    row["stage"] = "decode" if isinstance(error, ImageError) else "fetch"
                    row["reason"], row["message"] = error.reason, error.message
                    row["permanent"] = is_permanent(error)
                    row["crashed_on"] = machine_id() if error.reason == CRASHED else None
                    if error.reason == "access_denied":
                        access.was_denied(row["uri"], error)
        rows[0]["fetch_s"], rows[0]["decode_s"] = sum(fetch_s), decode_s
        return table_of(rows)

    def _fetch(self, rows: list[Row], seconds: list[float]) -> Iterator[tuple[Row, "Future[ObjectContent]"]]:
        """Yield rows in order with their pending reads, at most `in_flight_bytes` at a time.

        Appends the duration of each read, failed ones included, to `seconds`.
        """
        objects = self._objects()

        def read(row: Row) -> ObjectContent:
            began = time.perf_counter()
            try:
                return self._read_whole(objects, row)
            finally:
                seconds.append(time.perf_counter() - began)

        with thread_pool(self._threads) as pool:
            reading: list[tuple[Row, Future[ObjectContent]]] = []
            for row in rows:
                while reading and (
                    len(reading) >= 2 * self._threads
                    or sum(waiting["size"] for waiting, _ in reading) + row["size"] > self._in_flight_bytes
                ):
                    yield reading.pop(0)
                reading.append((row, pool.submit(read, row)))
            yield from reading

    def _read_whole(self, objects: Objects, row: Row) -> ObjectContent:
        """Read an object; retry if it is the listed one and shorter than its listed size, by `_missing`."""

        def check_head(head: bytes) -> None:
            # The first bytes of a body that was cut off may look like a text.
            if len(head) >= min(row["size"], CHECKED_BYTES):
                _check_head(head)

        for _ in range(READ_ATTEMPTS):
            content = objects.read(row["uri"], self._limits.max_bytes, check_head)
            if not _missing(row, content.version):
                break
        return content


def _missing(row: Row, read: Version) -> str:
    """Return how much of the listed object did not arrive; "" if it is whole, or if another one has replaced it.

    A body that is shorter than its server announces never gets here. One that is as long as announced, or of which no
    length was announced, may be cut off if it is shorter than the listing says, or be the object as a gateway has
    decoded it. A whole image in it tells them apart (of 14 formats, none decodes without its end to other pixels and no
    warning); part of one would be recorded as permanently truncated. A longer body is an object that was decoded.
    """
    if read.size >= row["size"] or not is_listed(version_of(row), read):
        return ""
    return f"got {read.size:,} of {row['size']:,} bytes in each of {READ_ATTEMPTS} attempts"


def _set_version(row: Row, read: Version) -> None:
    """Note the version of the content that was read, which another one may have replaced since the listing."""
    row["etag"], row["size"], row["last_modified"] = version_read(version_of(row), read)


class _Access:
    """Tells objects that one may not read from credentials that have ended."""

    def __init__(self) -> None:
        self.objects: Objects | None = None
        self._readable: str | None = None
        self._refused = 0

    def was_read(self, uri: str) -> None:
        """Note that an object was read."""
        self._readable, self._refused = uri, 0

    def was_denied(self, uri: str, error: ObjectError) -> None:
        """Note a refusal; raise `ConfigurationError` if an object that was read before is refused too."""
        self._refused += 1
        if self._refused % MAX_ACCESS_DENIED or self._readable is None or self.objects is None:
            return
        try:
            self.objects.read(self._readable, max_bytes=1)
        except ObjectError as again:
            if again.reason != "access_denied":
                return
            raise ConfigurationError(
                f"Access to {self._refused} objects in a row was denied, most recently to {uri!r}, and also to "
                f"{self._readable!r}, which this run has read before: {again.message} Grant the credentials "
                "s3:GetObject, then run the job again."
            ) from error


@functools.lru_cache(maxsize=4)
def _access_of_run(run: str) -> _Access:
    """The access of one run in this process, which gets its stages anew with each task."""
    return _Access()


def _check_head(head: bytes) -> None:
    """Refuse content that no decoder would open by its first bytes, before the rest is read."""
    if (kind := other_content(head[:HEAD_BYTES])) is not None:
        reason = "video" if "video" in kind else "not_an_image"
        raise ImageError(reason, f"The object is {kind}.")


def _decode(row: Row, decoder: Decoder, data: bytes, missing: str) -> None:
    """Decode an image; if bytes are `missing`, it must be whole. Raises `ImageError`, `ObjectError` (`unavailable`)."""
    try:
        image = decoder.decode(data)
    except ImageError as error:
        if missing:
            raise ObjectError("unavailable", f"{row['uri']!r}: {missing}. {error.message}") from error
        raise
    if missing and image.warning:
        raise ObjectError("unavailable", f"{row['uri']!r}: {missing}. {WARNINGS[image.warning]}")
    row["pixels"] = image.pixels.tobytes()
    row["width"], row["height"], row["format"] = image.width, image.height, image.format
    row["warning"], row["image_hash"] = image.warning, image.image_hash


def _shared_decoder(
    preprocess: Preprocess, limits: ImageLimits, timeout_s: float, memory_bytes: int
) -> AbstractContextManager[Decoder]:
    return nullcontext(_process_decoder(preprocess, limits, timeout_s, memory_bytes))


@functools.lru_cache(maxsize=1)
def _process_decoder(preprocess: Preprocess, limits: ImageLimits, timeout_s: float, memory_bytes: int) -> Decoder:
    # A worker process runs many tasks, one at a time, and reuses its decoder.
    return Decoder(preprocess, limits, timeout_s=timeout_s, memory_bytes=memory_bytes)
