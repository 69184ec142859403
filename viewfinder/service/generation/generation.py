"""The generation that a replica serves: a collection with the encoder of the model that made it.

A request takes the current generation once and keeps it to its end, so a query is never compared with vectors of
another model. When the alias moves, the next generation is loaded and warmed beside the current one and replaces it in
one assignment.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from viewfinder.errors import ModelMismatchError, StoreError, ViewfinderError
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.query.cursor import Vector
from viewfinder.query.images import Pixels
from viewfinder.service.generation.batching import Batcher
from viewfinder.service.telemetry.access_log import record_generation
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.store import Collection, Store

logger = logging.getLogger(__name__)

TEXT_CACHE_SIZE = 10_000
# Time for which cursors into the previous collection keep working after a change.
GRACE_S = 300.0

_STORE_PROBLEM = "The live collection cannot be looked up in the vector store; see the service's log."
_MODEL_PROBLEM = "The model of the live collection cannot be loaded; see the service's log."


class NotReadyError(Exception):
    """There is no collection to search yet; the message gives the reason."""


class NoIndexError(NotReadyError):
    """The index has no live collection."""


class Generation:
    """One collection and the encoder of the model that made it. Vectors are unit length, shared and read-only.

    Texts and images have a batcher and a thread each, so that neither waits for the other.
    """

    def __init__(
        self, collection: Collection, encoder: Encoder, *, batch_size: int, metrics: Metrics | None = None
    ) -> None:
        self.collection = collection
        self.encoder = encoder
        self._metrics = metrics or Metrics()
        self._cache = _TextCache(TEXT_CACHE_SIZE)
        self._texts: Batcher[str, tuple[Vector, int]] = Batcher(self._encode_texts, max_size=batch_size)
        self._images: Batcher[Pixels, Vector] = Batcher(self._encode_images, max_size=batch_size)

    @property
    def model(self) -> str:
        return self.collection.metadata.model_name

    def warm(self) -> None:
        """Encode once, so that the first query is as fast as the tenth."""
        self.encoder.encode_texts(["warm up"])
        size = self.encoder.preprocess.size
        self.encoder.encode_images(np.zeros((1, size, size, 3), np.uint8))

    async def encode_text(self, text: str) -> tuple[Vector, int]:
        """The vector [D] of one text, and the number of its tokens beyond the model's context."""
        return (await self.encode_texts([text]))[0]

    async def encode_texts(self, texts: Sequence[str]) -> list[tuple[Vector, int]]:
        """As `encode_text`, with one call of the encoder for all texts that are not in the cache."""
        found = {text: self._cache.get(text) for text in texts}
        for known in found.values():
            self._metrics.cache(hit=known is not None)
        missing = [text for text, known in found.items() if known is None]
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
        """End the threads; requests that still use the generation are answered."""
        self._texts.close()
        self._images.close()

    def _encode_texts(self, texts: list[str]) -> list[tuple[Vector, int]]:
        # Requests in one batch may have the same text, and the previous batch may have encoded it.
        found = {text: self._cache.get(text) for text in texts}
        missing = [text for text, known in found.items() if known is None]
        if missing:
            self._count("text", len(missing))
            vectors, cut = self.encoder.encode_texts(missing)
            for text, vector, tokens in zip(missing, _rows(vectors), cut, strict=True):
                found[text] = vector, int(tokens)
                self._cache.put(text, (vector, int(tokens)))
        return [encoded for text in texts if (encoded := found[text]) is not None]

    def _encode_images(self, images: list[Pixels]) -> list[Vector]:
        self._count("image", len(images))
        return _rows(self.encoder.encode_images(np.stack(images)))

    def _count(self, kind: Literal["text", "image"], size: int) -> None:
        self._metrics.batch(kind, size)
        self._metrics.queue(self._texts.waiting + self._images.waiting)


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


def _rows(vectors: Vector) -> list[Vector]:
    """Copies of the rows: a view in the cache would keep its whole batch in memory."""
    rows = [vector.copy() for vector in vectors]
    for row in rows:
        row.setflags(write=False)
    return rows


class Follower:
    """Follows the alias of an index; `current` is its live generation, None while there is nothing to serve.

    The previous generation is kept for `grace_s` seconds, so that cursors into its collection still work and a rollback
    loads nothing. `problem` says why `current` is missing or outdated.
    """

    def __init__(
        self,
        store: Store,
        index: str,
        *,
        load: Callable[[Checkpoint], Encoder],
        refresh_s: float,
        batch_size: int,
        grace_s: float = GRACE_S,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        self.absent = False
        # One attribute: a generation that moves from current to previous is always in one of them.
        self._pair: tuple[Generation | None, Generation | None] = (None, None)
        self._changed_at = 0.0
        self._store = store
        self._index = index
        self._load = load
        self._refresh_s = refresh_s
        self._batch_size = batch_size
        self._grace_s = grace_s
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    @property
    def current(self) -> Generation | None:
        return self._pair[0]

    @property
    def previous(self) -> Generation | None:
        """The generation served before, for `grace_s` after the change."""
        return self._pair[1]

    def snapshot(self) -> Generation:
        """The current generation, recorded in the access log; raises `NotReadyError` while there is none."""
        if (current := self.current) is None:
            kind = NoIndexError if self.absent else NotReadyError
            raise kind(self.problem or "The service is still loading its model.")
        record_generation(model=current.model, collection=current.collection.name)
        return current

    def known(self, name: str) -> Collection | None:
        """The collection with this physical name, if it is that of the current or the previous generation."""
        generation = self._generation_of(name)
        return None if generation is None else generation.collection

    def start(self) -> None:
        """Load the live generation now, then follow the alias in the background."""
        self.refresh()
        self._thread.start()

    def close(self) -> None:
        """Stop following, end the threads of the generations and release their models."""
        self._closed.set()
        self._change(None, None)

    def refresh(self) -> None:
        """Look up the alias and change generation if it moved. Never raises: after an error the old one stays."""
        with self._lock:
            try:
                self._follow()
            except ViewfinderError as error:
                of_store = isinstance(error, StoreError) and not isinstance(error, ModelMismatchError)
                self._report(_STORE_PROBLEM if of_store else _MODEL_PROBLEM, error)
            except Exception as error:
                # Loading a model can raise anything, which must not end the thread that loads the next one.
                logger.exception("The live collection of index %r could not be loaded", self._index)
                self._report("The live collection could not be loaded; see the service's log.", error)

    def _follow(self) -> None:
        if self.previous is not None and self._clock() - self._changed_at >= self._grace_s:
            self._change(self.current, None)
        live = self._store.collections.live(self._index)
        self.absent = live is None
        current = self.current
        if live is None:
            if current is not None:
                self._change(None, current)
            self._report(f"There is no index {self._index!r} yet.")
            return
        if current is None or live.name != current.collection.name:
            following = self._load_generation(live)
            self._change(following, current)
            self._metrics.generation(following.collection)
            logger.info("Serving collection %r", live.name)
        elif live != current.collection:
            current.collection = live  # the same collection with newer metadata: fields, baselines
        self.problem = None
        self._metrics.behind(False)

    def _load_generation(self, live: Collection) -> Generation:
        if (known := self._generation_of(live.name)) is not None:
            return known
        fingerprint = live.metadata.fingerprint
        for generation in self._pair:
            if generation is not None and generation.encoder.fingerprint == fingerprint:
                return self._new(live, generation.encoder)
        # At most two models in memory: the one that serves and the one being loaded.
        if self.previous is not None:
            self._change(self.current, None)
        logger.info("Loading model %r for collection %r", live.metadata.model_name, live.name)
        made_by = live.metadata
        encoder = self._load(locate(made_by.model_name, expect=fingerprint, revisions=made_by.revisions))
        generation = self._new(live, encoder)
        generation.warm()
        return generation

    def _generation_of(self, name: str) -> Generation | None:
        for generation in self._pair:
            if generation is not None and generation.collection.name == name:
                return generation
        return None

    def _new(self, live: Collection, encoder: Encoder) -> Generation:
        return Generation(live, encoder, batch_size=self._batch_size, metrics=self._metrics)

    def _change(self, current: Generation | None, previous: Generation | None) -> None:
        before = self._pair
        self._pair = (current, previous)
        self._changed_at = self._clock()
        for generation in before:
            if generation is not None and generation not in self._pair:
                generation.close()

    def _report(self, problem: str, cause: Exception | None = None) -> None:
        """Keep the problem for clients. `cause` may hold paths and addresses and goes to the log only."""
        if problem != self.problem:
            logger.warning("%s", problem if cause is None else f"{problem} ({cause})")
        self.problem = problem
        self._metrics.behind(True)

    def _run(self) -> None:
        while not self._closed.wait(self._refresh_s):
            self.refresh()
