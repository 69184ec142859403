"""The stages of the pipeline, each a plain object from an Arrow table of rows to another."""

import functools
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import Decoded, ImageLimits, Preprocess
from viewfinder.indexing.reach import Reach
from viewfinder.indexing.rows import FAILURE_FIELDS, SCHEMA, Row, table_of
from viewfinder.models.checkpoint import locate
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.encoder import Device, Encoder, Precision, Vectors
from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.objects import ObjectAccess, Objects
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Failure, PointState, Store, StoreAddress, connect

# Objects being read or decoded by one task, in bytes: 64 pictures of 100 MB must not meet in memory.
IN_FLIGHT_BYTES = 256 * 1024**2
# So many refusals without a success between them are a matter of credentials, not of objects.
ACCESS_DENIED_IN_A_ROW = 20
# How often an object is read that comes shorter than it was listed.
READS = 3
# Failures that another setting, or a quieter machine, would not meet again: tried anew in every run.
OF_OUR_LIMITS = frozenset({"too_many_bytes", "too_many_pixels", "decode_timeout", "decoder_out_of_memory"})

T = TypeVar("T", list[str], NDArray[np.uint8])
U = TypeVar("U")
Column: TypeAlias = "pa.Array[Any]"


# A worker process runs many tasks: what is dear to make is made once in each and kept between them.
@functools.lru_cache(maxsize=4)
def _store(address: StoreAddress) -> Store:
    return connect(address)


@functools.lru_cache(maxsize=4)
def _objects(access: ObjectAccess) -> Objects:
    return Objects(access)


@functools.lru_cache(maxsize=1)
def _decoder(preprocess: Preprocess, limits: ImageLimits, timeout_s: float, memory_bytes: int) -> Decoder:
    return Decoder(preprocess, limits, timeout_s=timeout_s, memory_bytes=memory_bytes)


@dataclass(frozen=True)
class Compare:
    """Listed objects → what is to be done with each, by what the collection already holds.

    `captions` says that a captions file was given; without one, captions stay untouched. With `prune` an object that
    the captions file does not name loses its caption.
    """

    reach: Reach
    collection: Collection | None
    captions: bool = False
    prune: bool = False
    stat_threads: int = 16

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.with_store(table, _store(self.reach.address))

    def with_store(self, table: pa.Table, store: Store) -> pa.Table:
        """The same by a connection that the caller has."""
        began = time.perf_counter()
        rows = table.to_pylist()
        rows = [row | {"id": point_id(row["uri"])} for row in rows]
        withheld = self._withheld([row["id"] for row in rows], store)
        present = [row for row in rows if row["id"] not in withheld]
        states, failures = self._known([row["id"] for row in present], store)
        self._ask([row for row in present if not row["etag"]])
        compared = [self._compare(row, states.get(row["id"]), failures.get(row["id"])) for row in present]
        # What is under way is limited by its size, which matters to nobody where an ETag says that nothing is new.
        self._ask([row for row in compared if row["action"] == "index" and row["etag"] and row["size"] < 0])
        todo = [row for row in compared if row["action"] != "unchanged"]
        for action, count in (("unchanged", len(compared) - len(todo)), ("withheld", len(rows) - len(present))):
            if count:
                todo.append({"action": action, "count": count})
        if todo:
            todo[0]["compare_s"] = time.perf_counter() - began
        return table_of(todo)

    def _withheld(self, ids: Sequence[str], store: Store) -> Container[str]:
        """Those of these points that have been taken down."""
        return () if self.collection is None else store.control(self.collection.index).takedowns(ids)

    def _known(self, ids: Sequence[str], store: Store) -> tuple[dict[str, PointState], dict[str, Failure]]:
        """What there is of these points, and of those that there are not, why."""
        if self.collection is None:  # a dry run before the first run
            return {}, {}
        states = store.points.states(self.collection, ids)
        missing = [each for each in ids if each not in states]
        return states, store.control(self.collection.index).failures(missing)

    def _ask(self, rows: list[Row]) -> None:
        """Ask for what a manifest file does not know; what cannot be asked about fails in the fetch."""
        if not rows:
            return
        objects = _objects(self.reach.access)

        def fill(row: Row) -> None:
            try:
                info = objects.stat(row["uri"])
            except ObjectError:
                return
            row.update(etag=info.etag, size=info.size, last_modified=info.last_modified)

        with ThreadPoolExecutor(self.stat_threads) as pool:
            list(pool.map(fill, rows))

    def _compare(self, row: Row, state: PointState | None, failure: Failure | None) -> Row:
        caption = row.pop("caption")
        applies = self.captions and (caption is not None or self.prune)
        row |= {"count": 1, "exists": state is not None, "had_failure": failure is not None}
        row |= {"caption": caption if applies else None, "caption_applies": applies}
        if state is None:
            if failure is not None and failure.permanent and row["etag"] and failure.etag == row["etag"]:
                known = {field: getattr(failure, field) for field in FAILURE_FIELDS}
                return row | known | {"action": "failed", "permanent": True}
            return row | {"action": "index"}
        listed = set(row["sources"])
        row["sources"] = sorted(listed | set(state.sources))
        if not row["etag"] or state.etag != row["etag"]:
            return row | {"action": "index"}
        if applies and _caption_hash(caption) != (state.caption_hash or ""):
            return row | {"action": "caption"}
        return row | {"action": "unchanged" if listed <= set(state.sources) else "sources"}


class FetchAndDecode:
    """Objects to index → their pixels, ready for the model.

    Reads run in `threads` threads while the one decoder of this worker, a process of its own, works through what
    they bring: a picture that crashes it, never ends or eats its memory costs that picture alone.
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
        decoder: Callable[[], Decoder] | None = None,
    ) -> None:
        self._limits = limits
        self._threads = threads
        self._objects = objects or functools.partial(_objects, access)
        self._decoder = decoder or functools.partial(_decoder, preprocess, limits, timeout_s, memory_bytes)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        wanted = [row for row in rows if row["action"] == "index"]
        if not wanted:
            return table
        decoder = self._decoder()
        fetch_s: list[float] = []
        decode_s = 0.0
        refused = 0
        for row, fetched in self._fetch(wanted, fetch_s):
            try:
                data, etag = fetched.result()
                row |= {"etag": etag, "size": len(data)}
                began = time.perf_counter()
                try:
                    row |= _decoded(decoder.decode(data))
                finally:
                    decode_s += time.perf_counter() - began
                refused = 0
            except ObjectError as error:
                # One bad object is data: a row with a reason. Whatever else is raised ends the job.
                stage = "decode" if fetched.exception() is None else "fetch"
                row |= {"action": "failed", "stage": stage, "reason": error.reason, "message": error.message}
                row["permanent"] = error.permanent and error.reason not in OF_OUR_LIMITS
                refused = refused + 1 if error.reason == "access_denied" else 0
                if refused >= ACCESS_DENIED_IN_A_ROW:
                    raise ConfigurationError(
                        f"{refused} objects in a row may not be read, the last of them {row['uri']!r}: {error.message} "
                        "Check what the credentials of the workers allow (s3:GetObject), then run the job again."
                    ) from error
        rows[0] |= {"fetch_s": sum(fetch_s), "decode_s": decode_s}
        return table_of(rows)

    def _fetch(self, rows: list[Row], seconds: list[float]) -> Iterator[tuple[Row, "Future[tuple[bytes, str]]"]]:
        """Yield rows in order with their reads, keeping at most IN_FLIGHT_BYTES under way.

        `seconds` is told how long each read took, whatever came of it.
        """
        objects = self._objects()

        def read(row: Row) -> tuple[bytes, str]:
            began = time.perf_counter()
            try:
                return self._whole(objects, row)
            finally:
                seconds.append(time.perf_counter() - began)

        with ThreadPoolExecutor(self._threads) as pool:
            under_way: list[tuple[Row, Future[tuple[bytes, str]]]] = []
            for row in rows:
                while under_way and (
                    len(under_way) >= 2 * self._threads
                    or sum(waiting["size"] for waiting, _ in under_way) + row["size"] > IN_FLIGHT_BYTES
                ):
                    yield under_way.pop(0)
                under_way.append((row, pool.submit(read, row)))
            yield from under_way

    def _whole(self, objects: Objects, row: Row) -> tuple[bytes, str]:
        """The content and ETag of an object, not shorter than it was listed with."""
        for _ in range(READS):
            data, etag = objects.read(row["uri"], max_bytes=self._limits.max_bytes)
            if etag != row["etag"] or len(data) >= row["size"]:
                return data, etag
        # Half of a picture would be called broken, for good, or be encoded as it is.
        raise ObjectError(
            "unavailable",
            f"{row['uri']!r} came with {len(data):,} of its {row['size']:,} bytes, {READS} times.",
        )


class _Busy:
    """How long anything was under way, however many calls at once; each call takes what no other has taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._since = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        with self._lock:
            self._add()
            self._calls += 1
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._add()
            self._calls -= 1

    def taken(self) -> float:
        """Seconds since they were last taken."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _add(self) -> None:
        now = time.perf_counter()
        if self._calls:
            self._seconds += now - self._since
        self._since = now


class Encode:
    """Pixels and captions → unit vectors; one encoder an actor, loaded at its first work: a rerun often has none.

    Without a GPU every batch is divided among `cores` threads, each of which computes by itself. Torch's own threads
    meet after every layer, and all wait for the one whose core a decoder has: beside one decoder on two cores, demo
    made 162 pictures/s with them and 341 without, ViT-B-32 10.1 and 15.5; with both cores to itself 18.9 and 23.8.
    """

    def __init__(
        self, model: str, fingerprint: str, *, device: Device, precision: Precision, cores: int | None
    ) -> None:
        @functools.cache
        def load() -> Encoder:
            threads = None if cores is None else 1
            return Encoder.load(locate(model, expect=fingerprint), device=device, precision=precision, threads=threads)

        self._load = load
        self._loading = threading.Lock()
        self._busy = _Busy()
        # Of the driver's count no more than are here.
        self._cores = min(cores or 1, cpu_cores())
        self._threads = ThreadPoolExecutor(self._cores)

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = _texts(table)
        if any(texts) or table["pixels"].null_count < len(table):
            self.encoder()  # takes as long as hundreds of pictures, once: no part of how fast the stage is
        with self._busy as busy:
            columns: dict[str, Column] = {
                "image_vector": self._images(table),
                **self._captions(texts),
                "pixels": pa.nulls(len(table), pa.large_binary()),
            }
        seconds = np.zeros(len(table))
        seconds[:1] = busy.taken()
        columns["encode_s"] = pa.array(seconds)
        for name, column in columns.items():
            table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), column)
        return table

    def encoder(self) -> Encoder:
        """The one of this worker, for all threads that call."""
        with self._loading:
            return self._load()

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        """As `Encoder.encode_texts`, but divided like a batch of pictures."""
        parts = self._divided(self.encoder().encode_texts, texts)
        return np.concatenate([vectors for vectors, _ in parts]), np.concatenate([cuts for _, cuts in parts])

    def _images(self, table: pa.Table) -> Column:
        cells = table["pixels"]
        present = cells.is_valid().to_numpy()
        if not present.any():
            return pa.nulls(len(table), pa.binary())
        encoder = self.encoder()
        vectors = self._divided(encoder.encode_images, _pixels(cells, encoder.preprocess.size))
        return _scattered(np.concatenate(vectors), present)

    def _captions(self, texts: Sequence[str | None]) -> dict[str, Column]:
        present = np.array([bool(text) for text in texts], bool)
        cuts = np.zeros(len(texts), np.int32)
        if not present.any():
            return {"caption_vector": pa.nulls(len(texts), pa.binary()), "caption_cut": pa.array(cuts)}
        vectors, cuts[present] = self.encode_texts([text for text in texts if text])
        return {"caption_vector": _scattered(vectors, present), "caption_cut": pa.array(cuts)}

    def _divided(self, encode: Callable[[T], U], items: T) -> list[U]:
        """What `encode` makes of the items, a part of them in each thread; a GPU takes them all at once."""
        threads = self._cores if self.encoder().device == "cpu" else 1
        if threads == 1:  # in the caller's thread: there may be another
            return [encode(items)]
        size = max(1, -(-len(items) // threads))
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        return list(self._threads.map(encode, parts or [items]))


def _decoded(picture: Decoded) -> Row:
    return {
        "pixels": picture.pixels.tobytes(),
        "width": picture.width,
        "height": picture.height,
        "format": picture.format,
    }


def _pixels(cells: "pa.ChunkedArray[Any]", size: int) -> NDArray[np.uint8]:
    """The cells that are not null, uint8 [N, size, size, 3], where Arrow keeps them: one after the other.

    They are copied only to join several blocks or to leave out nulls.
    """
    if cells.null_count:
        cells = cells.drop_null()
    joined = cells.chunk(0) if cells.num_chunks == 1 else cells.combine_chunks()
    _, offsets, data = joined.buffers()
    ends = np.frombuffer(offsets, np.int64)[joined.offset : joined.offset + len(joined) + 1]
    if (np.diff(ends) != size * size * 3).any():
        raise ValueError(f"cells of {set(np.diff(ends).tolist())} bytes are no pictures of {size} x {size}")
    return np.frombuffer(data, np.uint8, int(ends[-1] - ends[0]), int(ends[0])).reshape(-1, size, size, 3)


def _texts(table: pa.Table) -> list[str | None]:
    """The caption of each row that is to be encoded."""
    return [
        CaptionRecord.from_json(record).caption if record and action in ("index", "caption") else None
        for record, action in zip(table["caption"].to_pylist(), table["action"].to_pylist(), strict=True)
    ]


def _scattered(vectors: np.ndarray, present: np.ndarray) -> Column:
    """[N,D] vectors → one binary cell for each row that `present` marks, null for the others."""
    remaining = iter(np.ascontiguousarray(vectors, np.float32))
    return pa.array([next(remaining).tobytes() if there else None for there in present], pa.binary())


def _caption_hash(record: str | None) -> str:
    return CaptionRecord.from_json(record).caption_hash if record else ""
