"""The third stage: encode pixels and captions as unit vectors."""

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfinder.arrays import Vectors
from viewfinder.images.decoding import Preprocess
from viewfinder.indexing.rows import SCHEMA
from viewfinder.indexing.unwritable import fail_without_direction
from viewfinder.models.checkpoint import locate
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.devices import Device, Precision
from viewfinder.models.encoder import Encoder
from viewfinder.models.runtime import RuntimeName

T = TypeVar("T", list[str], NDArray[np.uint8])
U = TypeVar("U")
Column: TypeAlias = "pa.Array[Any]"

# Images per thread in one call on the CPU. With 8 instead, an image took a fifth longer.
IMAGES_PER_THREAD = 32
# Images in one call on a GPU.
GPU_BATCH_SIZE = 256


class AnyEncoder(Protocol):
    """The part of `Encoder` that the stage needs; the service has one that shares batches with searches."""

    @property
    def device(self) -> str: ...

    @property
    def preprocess(self) -> Preprocess: ...

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors: ...

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]: ...


class Encode:
    """Rows with pixels and captions → the same rows with vectors. The encoder is loaded on first use.

    `encoder` returns another one than that of this model on this device. `revisions` are those of the driver's
    checkpoint, so that the hub is asked only for files that this machine lacks.

    On the CPU each batch is divided among `cores` threads that compute independently. Torch's own threads synchronize
    after every layer, so all wait for the one whose core a decoder is using. Measured on two cores beside one decoder,
    with torch's threads and with ours: demo 162 and 341 images/s, ViT-B-32 10.1 and 15.5; without a decoder, ViT-B-32
    18.9 and 23.8.
    """

    def __init__(
        self,
        model: str,
        fingerprint: str,
        *,
        device: Device,
        precision: Precision,
        runtime: RuntimeName,
        cores: int | None,
        revisions: Mapping[str, str] | None = None,
        encoder: Callable[[], AnyEncoder] | None = None,
    ) -> None:
        @functools.cache
        def load() -> AnyEncoder:
            checkpoint = locate(model, expect=fingerprint, revisions=revisions, exported=True)
            return Encoder.load(
                checkpoint,
                device=device,
                precision=precision,
                runtime=runtime,
                threads=None if cores is None else 1,
                calls=self._cores,
                export=True,
            )

        self._load = encoder or load
        self._loading = threading.Lock()
        self._busy = _BusyTime()
        # `cores` is counted on the driver; this machine may have fewer.
        self._cores = min(cores or 1, cpu_cores())
        self._threads = ThreadPoolExecutor(self._cores)

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = _texts(table)
        if any(texts) or table["pixels"].null_count < len(table):
            self.encoder()  # loading takes as long as hundreds of images and must not count as busy time
        with self._busy as busy:
            columns: dict[str, Column] = {
                "image_vector": self._images(table),
                **self._captions(texts),
                "pixels": pa.nulls(len(table), pa.large_binary()),
            }
        seconds = np.zeros(len(table))
        seconds[:1] = busy.take()
        columns["encode_s"] = pa.array(seconds)
        for name, column in columns.items():
            table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), column)
        return fail_without_direction(table)

    def encoder(self) -> AnyEncoder:
        """The encoder, shared by all threads that call."""
        with self._loading:
            return self._load()

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        """As `Encoder.encode_texts`, divided among threads."""
        parts = self._divide(self.encoder().encode_texts, texts)
        return np.concatenate([vectors for vectors, _ in parts]), np.concatenate([cuts for _, cuts in parts])

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _images(self, table: pa.Table) -> Column:
        cells = table["pixels"]
        present = cells.is_valid().to_numpy()
        if not present.any():
            return pa.nulls(len(table), pa.binary())
        encoder = self.encoder()
        vectors = self._divide(encoder.encode_images, _pixel_view(cells, encoder.preprocess.size))
        return _vector_cells(np.concatenate(vectors), present)

    def _captions(self, texts: Sequence[str | None]) -> dict[str, Column]:
        present = np.array([bool(text) for text in texts], bool)
        cuts = np.zeros(len(texts), np.int32)
        if not present.any():
            return {"caption_vector": pa.nulls(len(texts), pa.binary()), "caption_cut": pa.array(cuts)}
        vectors, cuts[present] = self.encode_texts([text for text in texts if text])
        return {"caption_vector": _vector_cells(vectors, present), "caption_cut": pa.array(cuts)}

    def _divide(self, encode: Callable[[T], U], items: T) -> list[U]:
        """Call `encode` with a part of the items in each thread, or on a GPU once with all of them."""
        threads = self._cores if self.encoder().device == "cpu" else 1
        if threads == 1:  # in the caller's thread, so that concurrent calls can overlap
            return [encode(items)]
        size = max(1, -(-len(items) // threads))
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        return list(self._threads.map(encode, parts or [items]))


class _BusyTime:
    """Seconds during which at least one call was in progress; overlapping calls count once."""

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

    def take(self) -> float:
        """Busy seconds since the previous `take`."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _add(self) -> None:
        now = time.perf_counter()
        if self._calls:
            self._seconds += now - self._since
        self._since = now


def _pixel_view(cells: "pa.ChunkedArray[Any]", size: int) -> NDArray[np.uint8]:
    """The cells that are not null, uint8 [N, size, size, 3], as a view of Arrow's memory.

    Cells are copied only if there are nulls or several chunks.
    """
    if cells.null_count:
        cells = cells.drop_null()
    joined = cells.chunk(0) if cells.num_chunks == 1 else cells.combine_chunks()
    _, offsets, data = joined.buffers()
    ends = np.frombuffer(offsets, np.int64)[joined.offset : joined.offset + len(joined) + 1]
    if (np.diff(ends) != size * size * 3).any():
        raise ValueError(f"cells of {set(np.diff(ends).tolist())} bytes are not images of {size} x {size}")
    return np.frombuffer(data, np.uint8, int(ends[-1] - ends[0]), int(ends[0])).reshape(-1, size, size, 3)


def _texts(table: pa.Table) -> list[str | None]:
    """The caption of each row that needs it encoded, else None. The point of a text that it keeps has its vector."""
    columns = (table[name].to_pylist() for name in ("caption", "action", "keeps_text"))
    return [
        caption if action in ("index", "caption") and not keeps_text else None
        for caption, action, keeps_text in zip(*columns, strict=True)
    ]


def _vector_cells(vectors: np.ndarray, present: np.ndarray) -> Column:
    """[N, D] vectors → one binary cell for each row that `present` marks, null for the others."""
    remaining = iter(np.ascontiguousarray(vectors, np.float32))
    return pa.array([next(remaining).tobytes() if there else None for there in present], pa.binary())
