"""The `Executor` protocol, and the executor that runs the stages in this process."""

import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa

from viewfinder.arrays import Vectors
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import ImageLimits, Preprocess
from viewfinder.indexing.accounting import Outcome, Tally, stages_of
from viewfinder.indexing.compare import COMPARE_BATCH_SIZE, Compare, count_actions
from viewfinder.indexing.connections import objects_of
from viewfinder.indexing.encode import GPU_BATCH_SIZE, IMAGES_PER_THREAD, AnyEncoder, Encode
from viewfinder.indexing.fetch import IN_FLIGHT_BYTES, FetchAndDecode
from viewfinder.indexing.preflight import check_access
from viewfinder.indexing.progress import IndexingProgress
from viewfinder.indexing.rows import Row, RowFiles, cut_tables, join_tables, paths_table, read_part, rows_of, table_of
from viewfinder.indexing.write import write_rows
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.devices import choose_device
from viewfinder.models.encoder import Encoder
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.versions import is_same, version_of
from viewfinder.store import Collection, Record, Store

T = TypeVar("T")
U = TypeVar("U")

# The compared rows of a manifest: in memory, or in files.
Compared = Sequence[pa.Table] | RowFiles


@dataclass(frozen=True)
class IndexJob:
    """The work of one run, in plain values that can be sent to workers."""

    manifest: Manifest
    compare: Compare
    collection: Collection
    checkpoint: Checkpoint
    settings: Settings
    run_id: str


class Executor(Protocol):
    """Runs the stages. A `ViewfinderError` of a stage is raised to the caller with its type and message."""

    def check(self, sources: Sequence[str], access: ObjectAccess, store: Store) -> None:
        """List each source, read one of its objects and query the store from where the stages will run."""

    def count_actions(self, manifest: Manifest, compare: Compare, store: Store) -> dict[str, int]:
        """Number of listed objects by action; writes nothing."""

    def compare(self, manifest: Manifest, compare: Compare, store: Store) -> Iterator[pa.Table]:
        """The compared rows of the manifest; writes nothing and starts no encoder."""

    def index(self, job: IndexJob, store: Store, compared: Compared | None, progress: IndexingProgress) -> Outcome:
        """Run all stages over the manifest; the tally counts every object.

        `compared` holds the rows of the manifest if they have already been compared.
        """

    def encode_texts(
        self, checkpoint: Checkpoint, settings: Settings, texts: Sequence[str], *, timeout_s: float | None = None
    ) -> Vectors:
        """Unit vectors float32 [N, D].

        On Ray, where it may wait for a free worker, raises `ViewfinderError` after `timeout_s`.
        """

    def encode_images(
        self, checkpoint: Checkpoint, settings: Settings, access: ObjectAccess, records: Iterable[Record]
    ) -> dict[str, Vectors]:
        """Unit vectors (float32 [D]) by point id, of images that can be read and have not changed since indexing."""

    def count_written(self, index: str, tally: Tally) -> None:
        """Add to the metrics a block that the caller wrote without `index`."""


class InProcessExecutor:
    """Runs the stages in this process with all its cores. Close it after use, best by `with`.

    Blocks of rows stream through the stages, a few at a time, so memory does not grow with the number of objects.
    Threads read, one decoder process per core decodes, one encoder divides each batch among its threads, and one thread
    writes. Decoders and encoders are kept until `close`. `pool` makes a pool of that many threads. On each core at most
    `in_flight_bytes` of objects wait for the decoder (see `FetchAndDecode`). `encoder` returns the encoder of a
    checkpoint in place of one that is loaded here. `niceness` is that of the decoders.
    """

    def __init__(
        self,
        *,
        cores: int | None = None,
        pool: Callable[[int], Pool] = ThreadPoolExecutor,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
        encoder: Callable[[Checkpoint], AnyEncoder] | None = None,
        niceness: int = 0,
    ) -> None:
        self._niceness = niceness
        self._encoder_of = encoder
        self._cores = cores or cpu_cores()
        self._in_flight_bytes = in_flight_bytes
        self._pool = pool
        self._lock = threading.Lock()
        self._decoders: dict[_DecoderOptions, _DecoderPool] = {}
        self._encoders: dict[tuple[str, ...], Encode] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder processes and the threads of the encoders. The executor cannot be used afterwards."""
        with self._lock:
            self._closed = True
        for decoders in self._decoders.values():
            decoders.close()
        for encode in self._encoders.values():
            encode.close()

    def check(self, sources: Sequence[str], access: ObjectAccess, store: Store) -> None:
        check_access(sources, objects_of(access), store)

    def count_actions(self, manifest: Manifest, compare: Compare, store: Store) -> dict[str, int]:
        return count_actions(compare_all(manifest, compare, store))

    def compare(self, manifest: Manifest, compare: Compare, store: Store) -> Iterator[pa.Table]:
        return compare_all(manifest, compare, store)

    def index(self, job: IndexJob, store: Store, compared: Compared | None, progress: IndexingProgress) -> Outcome:
        settings = job.settings
        fetch = self._fetch(job.checkpoint, settings, job.compare.access)
        encode = self._encode(job.checkpoint, settings)

        def write(table: pa.Table) -> Tally:
            return write_rows(
                store,
                job.collection,
                table,
                run_id=job.run_id,
                batch_size=settings.write_batch_size,
                decided_by=job.compare.decided_by,
            )

        total = Tally()
        rows = compare_all(job.manifest, job.compare, store) if compared is None else compared
        with ExitStack() as stack:
            fetchers, encoders, writers = (
                stack.enter_context(_closing(self._pool(size))) for size in (self._cores, 1, 1)
            )
            fetched = _ahead(fetchers, fetch, cut_tables(rows, settings.fetch_batch_size), 2 * self._cores)
            encoded = _ahead(encoders, encode, join_tables(fetched, self.batch_size(settings)), 2)
            for tally in _ahead(writers, write, encoded, 2):
                total += tally
                progress(total.outcomes)
        fetching = self._cores * settings.fetch_threads
        stages = stages_of(total, comparers=1, fetchers=fetching, decoders=self._cores, encoders=1, writers=1)
        return Outcome(total, stages)

    def encode_texts(
        self, checkpoint: Checkpoint, settings: Settings, texts: Sequence[str], *, timeout_s: float | None = None
    ) -> Vectors:
        return self._encode(checkpoint, settings).encode_texts(list(texts))[0]

    def encode_images(
        self, checkpoint: Checkpoint, settings: Settings, access: ObjectAccess, records: Iterable[Record]
    ) -> dict[str, Vectors]:
        fetch, encode = self._fetch(checkpoint, settings, access), self._encode(checkpoint, settings)
        return encode_stored(fetch, encode, {record.id: record.payload for record in records})

    def count_written(self, index: str, tally: Tally) -> None:
        """Do nothing: this process exports no job metrics."""

    def encoder(self, checkpoint: Checkpoint, settings: Settings) -> Encoder:
        """The encoder of this model, shared with other users in this process."""
        encoder = self._encode(checkpoint, settings).encoder()
        assert isinstance(encoder, Encoder)
        return encoder

    def _fetch(self, checkpoint: Checkpoint, settings: Settings, access: ObjectAccess) -> FetchAndDecode:
        options = _DecoderOptions(
            checkpoint.preprocess,
            ImageLimits.of(settings),
            settings.decode_timeout_s,
            settings.decode_memory_bytes,
            self._niceness,
        )
        with self._lock:
            self._check_open()
            decoders = self._decoders.setdefault(options, _DecoderPool(options))
        return FetchAndDecode.of(
            settings, access, checkpoint, in_flight_bytes=self._in_flight_bytes, decoder=decoders.borrow
        )

    def _encode(self, checkpoint: Checkpoint, settings: Settings) -> Encode:
        key = (checkpoint.fingerprint, settings.device, settings.precision, settings.runtime)
        with self._lock:
            self._check_open()
            if key not in self._encoders:
                self._encoders[key] = Encode(
                    checkpoint.name,
                    checkpoint.fingerprint,
                    device=settings.device,
                    precision=settings.precision,
                    runtime=settings.runtime,
                    cores=self._cores,
                    revisions=checkpoint.revisions,
                    encoder=None if self._encoder_of is None else functools.partial(self._encoder_of, checkpoint),
                )
            return self._encoders[key]

    def _check_open(self) -> None:
        # A late call would start decoder processes that nobody ends.
        if self._closed:
            raise RuntimeError("The executor is closed.")

    def batch_size(self, settings: Settings) -> int:
        """Number of images in one batch of the encoder."""
        if settings.encode_batch_size is not None:
            return settings.encode_batch_size
        on_cpu = choose_device(settings.device) == "cpu"
        return IMAGES_PER_THREAD * self._cores if on_cpu else GPU_BATCH_SIZE


def compare_all(manifest: Manifest, compare: Compare, store: Store) -> Iterator[pa.Table]:
    """Compare the rows of the manifest in this process, one block at a time."""
    for rows in cut_tables(read_part(paths_table(manifest.paths)), COMPARE_BATCH_SIZE):
        yield compare.with_store(rows, store)


def encode_stored(
    fetch: FetchAndDecode, encode: Encode, payloads: Mapping[str, Mapping[str, Any]]
) -> dict[str, Vectors]:
    """Encode images of existing points again, in this process; `payloads` are the points' payloads by id.

    Images that cannot be read, or that have changed since the payload was written, are omitted.
    """
    rows: list[Row] = [
        {"id": id_, "action": "index", "count": 1, "uri": payload["uri"], **_version_columns(payload)}
        for id_, payload in payloads.items()
    ]
    return {
        row["id"]: np.frombuffer(row["image_vector"], np.float32)
        for row in rows_of(encode(fetch(table_of(rows))))
        if row["image_vector"] is not None and is_same(version_of(payloads[row["id"]]), version_of(row))
    }


def _version_columns(payload: Mapping[str, Any]) -> Row:
    etag, size, last_modified = version_of(payload)
    return {"etag": etag, "size": size, "last_modified": last_modified}


@dataclass(frozen=True)
class _DecoderOptions:
    preprocess: Preprocess
    limits: ImageLimits
    timeout_s: float
    memory_bytes: int
    niceness: int


class _DecoderPool:
    """Decoder processes with the same options, started on demand; the most recently used is lent first."""

    def __init__(self, options: _DecoderOptions) -> None:
        self._options = options
        self._idle: queue.LifoQueue[Decoder] = queue.LifoQueue()
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[Decoder]:
        if self._closed:
            raise RuntimeError("The decoders are closed.")
        try:
            decoder = self._idle.get_nowait()
        except queue.Empty:
            options = self._options
            decoder = Decoder(
                options.preprocess,
                options.limits,
                timeout_s=options.timeout_s,
                memory_bytes=options.memory_bytes,
                niceness=options.niceness,
            )
        try:
            yield decoder
        finally:
            self._idle.put(decoder)
            if self._closed:  # meanwhile
                self.close()

    def close(self) -> None:
        self._closed = True
        with suppress(queue.Empty):  # another thread may close them too
            while True:
                self._idle.get_nowait().close()


@contextmanager
def _closing(pool: Pool) -> Iterator[Pool]:
    try:
        yield pool
    finally:  # after an error, drop tasks that have not started
        pool.shutdown(cancel_futures=True)


def _ahead(pool: Pool, function: Callable[[T], U], items: Iterable[T], depth: int) -> Iterator[U]:
    """Results of `function` in order, computed in the pool at most `depth` items ahead of the reader."""
    pending: deque[Future[U]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
