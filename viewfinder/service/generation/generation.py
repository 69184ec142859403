"""The generation of an index that a replica serves: a collection with the model that made it.

A request takes the current generation once and keeps it to its end, so a query is never compared with vectors of
another model. When the alias moves, the next generation is loaded and warmed beside the current one and replaces it in
one assignment.
"""

import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from viewfinder.models.encoder import Encoder
from viewfinder.query.cursor import Vector
from viewfinder.query.images import Pixels
from viewfinder.service.generation.batching import Batcher
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.store import Collection

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

TEXT_CACHE_SIZE = 10_000
# Until the image tower is loaded once more.
_IMAGES_RETRY_S = 5.0


class LoadedModel:
    """A model in memory. Vectors are unit length, shared and read-only.

    Texts and images have a batcher and a thread each, so that neither waits for the other.
    """

    def __init__(self, encoder: Encoder, *, batch_size: int, metrics: Metrics | None = None) -> None:
        self.encoder = encoder
        self._images_failed = False
        self._metrics = metrics or Metrics()
        self._cache = _TextCache(TEXT_CACHE_SIZE)
        # Weak: with a cycle of references a model would stay in memory until the next collection of garbage, and the
        # one that a replica starts with for ever (`gc.freeze`).
        self._texts: Batcher[str, tuple[Vector, int]] = Batcher(
            _weak(self._encode_texts), max_size=batch_size, labels=partial(_labels, encoder, "text")
        )
        self._images: Batcher[Pixels, Vector] = Batcher(
            _weak(self._encode_images), max_size=batch_size, labels=partial(_labels, encoder, "image")
        )

    @property
    def pending(self) -> int:
        """Number of texts and images of requests that are not encoded yet."""
        return self._texts.pending + self._images.pending

    @property
    def has_no_images(self) -> bool:
        """True after the image tower could not be loaded in the background, until a search by image could load it."""
        return self._images_failed and not self.encoder.is_complete

    def warm(self, *, wait_for_images: bool) -> None:
        """Encode once, so that the first query is as fast as the tenth.

        A replica that starts does not wait for an image tower that is not loaded yet: it answers texts meanwhile.
        """
        self.encoder.encode_texts(["warm up"])
        if wait_for_images or self.encoder.is_complete:
            self._warm_images()
        else:
            threading.Thread(target=self._load_images, name="load-images").start()

    def _load_images(self) -> None:
        try:
            try:
                self._warm_images()
            except (OSError, MemoryError):  # too many open files, for example
                time.sleep(_IMAGES_RETRY_S)
                self._warm_images()
        except Exception as error:  # of any library
            logger.error("The image tower of model %r cannot be loaded", self.encoder.checkpoint.name, exc_info=error)
            self._images_failed = True

    def _warm_images(self) -> None:
        size = self.encoder.preprocess.size
        self.encoder.encode_images(np.zeros((1, size, size, 3), np.uint8))

    async def encode_texts(self, texts: Sequence[str]) -> list[tuple[Vector, int]]:
        """The vector [D] of each text, from the cache if known, and its number of tokens beyond the model's context."""
        found = {text: self._cache.get(text) for text in texts}
        missing = [text for text, known in found.items() if known is None]
        self._metrics.cache(hits=len(found) - len(missing), misses=len(missing))
        if missing:
            with self._metrics.timed("encode"):
                found.update(zip(missing, await self._texts.many(missing), strict=True))
        return [encoded for text in texts if (encoded := found[text]) is not None]

    async def encode_images(self, images: Sequence[Pixels]) -> list[Vector]:
        """The vectors [D] of images uint8 [S, S, 3], preprocessed by `encoder.preprocess`."""
        if not images:
            return []
        with self._metrics.timed("encode"):
            return await self._images.many(images)

    def close(self) -> None:
        """End the threads; requests that still use the model are answered."""
        self._texts.close()
        self._images.close()

    def _encode_texts(self, texts: list[str]) -> list[tuple[Vector, int]]:
        # Requests in one batch may have the same text, and the previous batch may have encoded it.
        found = {text: self._cache.get(text) for text in texts}
        missing = [text for text, known in found.items() if known is None]
        if missing:
            self._count("text", len(missing))
            vectors, cut = self.encoder.encode_texts(missing)
            for text, vector, tokens in zip(missing, _frozen_rows(vectors), cut, strict=True):
                found[text] = vector, int(tokens)
                self._cache.put(text, (vector, int(tokens)))
        return [encoded for text in texts if (encoded := found[text]) is not None]

    def _encode_images(self, images: list[Pixels]) -> list[Vector]:
        self._count("image", len(images))
        return _frozen_rows(self.encoder.encode_images(np.stack(images)))

    def _count(self, kind: Literal["text", "image"], size: int) -> None:
        self._metrics.batch(kind, size)
        self._metrics.queue(max(0, self.pending - size))


def _weak(method: Callable[[list[ItemT]], list[ResultT]]) -> Callable[[list[ItemT]], list[ResultT]]:
    """Call a method without keeping its object, which the requests that wait for the result do."""
    reference = weakref.WeakMethod(method)

    def call(items: list[ItemT]) -> list[ResultT]:
        if (found := reference()) is None:
            raise RuntimeError("the model was dropped, and no request waits for it")
        return found(items)

    return call


class Generation:
    """One collection and the model that made it."""

    def __init__(self, collection: Collection, loaded: LoadedModel) -> None:
        self.collection = collection
        self.loaded = loaded

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.collection.metadata.model_name

    @property
    def encoder(self) -> Encoder:
        return self.loaded.encoder

    async def encode_texts(self, texts: Sequence[str]) -> list[tuple[Vector, int]]:
        """As `LoadedModel.encode_texts`."""
        return await self.loaded.encode_texts(texts)

    async def encode_images(self, images: Sequence[Pixels]) -> list[Vector]:
        """As `LoadedModel.encode_images`."""
        return await self.loaded.encode_images(images)


class _TextCache:
    """The vectors of the most recent texts. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[Vector, int]] = OrderedDict()

    def get(self, text: str) -> tuple[Vector, int] | None:
        with self._lock:
            if (entry := self._entries.get(text)) is not None:
                self._entries.move_to_end(text)
            return entry

    def put(self, text: str, entry: tuple[Vector, int]) -> None:
        with self._lock:
            self._entries[text] = entry
            self._entries.move_to_end(text)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)


def _frozen_rows(vectors: Vector) -> list[Vector]:
    """Copies of the rows: a view in the cache would keep its whole batch in memory."""
    rows = [vector.copy() for vector in vectors]
    for row in rows:
        row.setflags(write=False)
    return rows


def _labels(encoder: Encoder, kind: Literal["text", "image"]) -> dict[str, str]:
    """The attributes of spans of the encoder."""
    return {"viewfinder.model": encoder.checkpoint.name, "viewfinder.kind": kind}
