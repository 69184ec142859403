"""Which collection a replica answers from, bound to the one model that made it.

A generation is immutable: a collection, the encoder of its model, and the vectors of recent texts. A request takes the
current one once and keeps it to the end, so no query ever meets vectors of another model. When the alias moves, the
next generation is loaded and warmed beside the current one and takes its place in one assignment.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from serve.batching import Batcher
from viewfinder.encoder import Encoder
from viewfinder.errors import ViewfinderError
from viewfinder.models import Checkpoint, locate
from viewfinder.store import Collection, Store

logger = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]

TEXT_CACHE_SIZE = 10_000


class Generation:
    """One collection and the encoder of the model that made it."""

    def __init__(self, collection: Collection, encoder: Encoder, *, batch_size: int) -> None:
        self.collection = collection
        self.encoder = encoder
        self._cache: OrderedDict[str, tuple[Vector, int]] = OrderedDict()
        self._texts: Batcher[str, tuple[Vector, int]] = Batcher(self._encode_texts, max_size=batch_size)

    @property
    def model(self) -> str:
        return self.collection.metadata.model_name

    def warm(self) -> None:
        """Encode once, so that the first query is as fast as the tenth."""
        self.encoder.encode_texts(["warm up"])
        size = self.encoder.preprocess.size
        self.encoder.encode_images(np.zeros((1, size, size, 3), np.uint8))

    async def encode_text(self, text: str) -> tuple[Vector, int]:
        """The unit vector [D] of one text, and how many of its tokens did not fit the model."""
        if (known := self._cache.get(text)) is not None:
            self._cache.move_to_end(text)
            return known
        encoded = await self._texts(text)
        self._cache[text] = encoded
        if len(self._cache) > TEXT_CACHE_SIZE:
            self._cache.popitem(last=False)
        return encoded

    def _encode_texts(self, texts: list[str]) -> list[tuple[Vector, int]]:
        vectors, cut = self.encoder.encode_texts(texts)
        return [(vector, int(tokens)) for vector, tokens in zip(vectors, cut, strict=True)]


class Follower:
    """Keeps the current generation in step with the alias; `current` is None while there is nothing to serve.

    `problem` says in words why `current` is missing or behind.
    """

    def __init__(
        self,
        store: Store,
        index: str,
        *,
        load: Callable[[Checkpoint], Encoder],
        refresh_s: float,
        batch_size: int,
    ) -> None:
        self.current: Generation | None = None
        self.problem: str | None = None
        self._store = store
        self._index = index
        self._load = load
        self._refresh_s = refresh_s
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Bind the live collection now, then follow the alias in the background."""
        self.refresh()
        self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def refresh(self) -> None:
        """Look where the alias points; change generation if it moved. Never raises: the old generation goes on."""
        with self._lock:
            try:
                self._follow()
            except ViewfinderError as error:
                self._note(str(error))
            except Exception:
                # Whatever the loading of a model can throw must not end the thread that would load the next one.
                logger.exception("The live collection of index %r could not be loaded", self._index)
                self._note("The live collection could not be loaded; the service's log says why.")

    def _follow(self) -> None:
        live = self._store.live(self._index)
        current = self.current
        if live is None:
            self.current = None
            self._note(f"There is no index {self._index!r} yet.")
            return
        if current is None or live.name != current.collection.name:
            logger.info("Loading model %r for collection %r", live.metadata.model_name, live.name)
            self.current = self._bind(live, current)
            logger.info("Serving collection %r", live.name)
        self.problem = None

    def _bind(self, live: Collection, current: Generation | None) -> Generation:
        fingerprint = live.metadata.fingerprint
        if current is not None and current.encoder.fingerprint == fingerprint:
            return self._generation(live, current.encoder)
        encoder = self._load(locate(live.metadata.model_name, expect=fingerprint))
        generation = self._generation(live, encoder)
        generation.warm()
        return generation

    def _generation(self, live: Collection, encoder: Encoder) -> Generation:
        return Generation(live, encoder, batch_size=self._batch_size)

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem

    def _run(self) -> None:
        while not self._closed.wait(self._refresh_s):
            self.refresh()
