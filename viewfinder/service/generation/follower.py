"""Follows the alias of an index: loads the live generation, and the next one when the alias moves."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

from viewfinder.errors import ModelMismatchError, StoreError, StoreUnavailableError, UnknownModelError, ViewfinderError
from viewfinder.service.generation.generation import Generation, LoadedModel
from viewfinder.service.generation.models import Models
from viewfinder.service.telemetry.access_log import record_generation
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import DEFAULT_GRACE_S
from viewfinder.store import Collection, Store

logger = logging.getLogger(__name__)

# Interval at which a replica that starts asks an unavailable store again.
START_RETRY_S = 1.0
# Time that a request waits for a model that is not in memory.
LOAD_WAIT_S = 10.0

_IMAGE_PROBLEM = "The model of the live collection cannot encode images; see the service's log."
_STORE_PROBLEM = "The live collection cannot be looked up in the vector store; see the service's log."


class NotReadyError(Exception):
    """There is no collection to search yet, or its model is still being loaded; the message gives the reason."""


class NoIndexError(NotReadyError):
    """The index has no live collection."""


class UnhealthyError(Exception):
    """An index is live, but this replica cannot load the model, or its image tower."""


class Follower:
    """Follows the alias of an index; `current` is its generation, None while there is nothing to serve.

    The previous generation is kept for `grace_s` seconds, so that cursors into its collection still work and a rollback
    loads nothing. `behind` says why `current` is missing or is not the live collection.

    If other indexes need the memory, `models` drops the model. The collection stays in use and `current` is None until
    a request needs the model again (`ready`). A follower that is not `required` begins without its model.
    """

    def __init__(
        self,
        store: Store,
        index: str,
        models: Models,
        *,
        refresh_s: float,
        grace_s: float = DEFAULT_GRACE_S,
        load_wait_s: float = LOAD_WAIT_S,
        required: bool = True,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.index = index
        self.behind: str | None = None
        self.absent = False
        # One attribute: a generation that moves from current to previous is always in one of them.
        self._pair: tuple[Generation | None, Generation | None] = (None, None)
        # The collection in use while its model is not in memory.
        self._cold: Collection | None = None
        self._changed_at = 0.0
        self._store = store
        self.models = models
        self._refresh_s = refresh_s
        self._grace_s = grace_s
        self._load_wait_s = load_wait_s
        self._required = required
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._turn = threading.Condition()
        self._refreshing = False
        self._loading: Collection | None = None
        # The collection whose model could not be loaded the last time, and the reason.
        self._failed: tuple[str, str] | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        models.add(self)

    @property
    def current(self) -> Generation | None:
        return self._pair[0]

    @property
    def previous(self) -> Generation | None:
        """The generation served before, for `grace_s` after the change."""
        return self._pair[1]

    def collection(self) -> Collection:
        """The collection in use, recorded in the access log; raises `NotReadyError` while there is none."""
        if (collection := self._in_use()) is None:
            kind = NoIndexError if self.absent else NotReadyError
            raise kind(self.behind or "The service is still loading its model.")
        record_generation(model=collection.metadata.model_name, collection=collection.name)
        return collection

    def snapshot(self) -> Generation:
        """The current generation, recorded in the access log; raises `NotReadyError` while there is none in memory."""
        collection = self.collection()
        if (current := self.current) is None:
            raise NotReadyError(f"The model of index {self.index!r} is not in memory ({collection.name!r}).")
        return current

    async def ready(self) -> Generation:
        """The current generation; waits for its model if it is not in memory.

        Raises `NotReadyError` while there is no collection or after `load_wait_s`, and `UnhealthyError` if the model
        cannot be loaded.
        """
        collection = self.collection()
        if (current := self.current) is not None:
            self.models.get(current.collection)
            return current
        self.check()
        try:
            async with asyncio.timeout(self._load_wait_s) as limit:
                # Shielded: others may wait for the same model when this client disconnects.
                loaded = await asyncio.shield(asyncio.wrap_future(self.models.request(collection)))
        except Exception as error:
            if limit.expired():
                raise NotReadyError(f"The model of index {self.index!r} is being loaded.") from error
            raise UnhealthyError(self._fail(error, collection)) from error
        return self._adopt(collection, loaded)

    def known(self, name: str) -> Collection | None:
        """The collection with this physical name, if it is in use, or was before the last change."""
        generation = self._generation_of(name)
        if generation is not None:
            return generation.collection
        cold = self._cold
        return cold if cold is not None and cold.name == name else None

    def uses_collection(self, name: str) -> bool:
        """Return True if the collection in use has this physical name."""
        collection = self._in_use()
        return collection is not None and collection.name == name

    def start(self) -> None:
        """Load the live generation, then follow the alias in the background. Starts empty only without an index.

        Waits while the store is unavailable. Raises what prevents the live model from being loaded: a replica without
        a model must not take requests, nor let a rollout go on. If it is not `required`, it does neither.
        """
        while self._required and not self._closed.is_set():
            try:
                self._follow()
                break
            except StoreUnavailableError as error:
                self._report(_STORE_PROBLEM, error)
                self._closed.wait(START_RETRY_S)
        self._thread.start()
        if not self._required:
            self.refresh()

    def check(self) -> None:
        """Raise `UnhealthyError` if an index is live whose model cannot be loaded, or cannot encode images.

        A replica that cannot load the next model, or not reach the store, answers from its generation and is healthy.
        """
        if (current := self.current) is not None and current.loaded.has_no_images:
            raise UnhealthyError(_IMAGE_PROBLEM)
        if self._failed is not None and self.current is None:
            name, reason = self._failed
            cold = self._cold  # the next model may have failed, and this one been dropped since
            if cold is None or cold.name == name:
                raise UnhealthyError(reason)

    def close(self) -> None:
        """Stop following, end the threads of the generations and release their models."""
        self._closed.set()
        self._wake.set()
        self._change(None, None)

    def uses(self) -> Sequence[LoadedModel | None]:
        """The models of the current and of the previous generation."""
        return [None if each is None else each.loaded for each in self._pair]

    def drop(self, model: LoadedModel) -> None:
        """Give a model up; its collection stays in use."""
        with self.models.lock:
            current, previous = self._pair
            if current is not None and current.loaded is model:
                self._cold = current.collection
                current = None
            self._pair = (current, None if previous is not None and previous.loaded is model else previous)

    def refresh(self) -> None:
        """Look up the alias and change generation if it moved. Never raises: after an error the old one stays.

        Once the follower has started, only its own thread loads models; other threads, which answer requests, look up
        the alias and do not wait for a model.
        """
        with self._turn:
            self._turn.wait_for(lambda: not self._refreshing or self._loading is not None)
            if self._refreshing:
                return
            self._refreshing = True
        try:
            self._follow()
        except ModelMismatchError as error:
            self._fail(error, self._loading)
        except StoreError as error:
            self._report(_STORE_PROBLEM, error)
        except Exception as error:
            # Loading a model can raise anything, which must not end the thread that loads the next one.
            self._fail(error, self._loading)
        finally:
            with self._turn:
                self._refreshing = False
                self._loading = None
                self._turn.notify_all()

    def _follow(self) -> None:
        if self.previous is not None and self._clock() - self._changed_at >= self._grace_s:
            self._change(self.current, None, cold=self._cold)
        live = self._store.collections.live(self.index)
        self.absent = live is None
        in_use = self._in_use()
        if live is None:
            self._failed = None
            if in_use is not None:
                self._change(None, self.current)
            self._report(f"There is no index {self.index!r} yet.")
            return
        if in_use is None or live.name != in_use.name:
            if not self._switch(live, in_use):
                self._wake.set()
                return
            self._metrics.generation(live)
            logger.info("Serving collection %r", live.name)
        elif live != in_use:
            self._update(live)  # the same collection with newer metadata: fields, baselines
        if self._cold is not None and (self._failed is not None or self.models.has_room()):
            if not self._may_load():
                self._wake.set()
                return
            if self.models.has_room():
                self._adopt(live, self._load(live))
            else:
                self._loading = live
                self.models.locate(live)  # the next request tries to load it
        self._failed = None
        self.behind = None
        self._metrics.behind(self.index, False)

    def _switch(self, live: Collection, in_use: Collection | None) -> bool:
        """Serve this collection from now on; False if its model must be loaded first, which another thread does."""
        if self._switch_in_memory(live):
            return True
        if in_use is None and not self._required:
            self._change(None, None, cold=live)
        elif not self._may_load():
            return False
        elif self._cold is not None:
            self._loading = live
            self.models.locate(live)
            self._change(None, self.previous, cold=live)
        else:
            loaded = self._load(live)
            with self.models.lock:
                # Requests to other indexes may have taken its place since.
                is_held = self.models.get(live) is loaded
                following = Generation(live, loaded) if is_held else None
                self._change(following, self.current, cold=None if is_held else live)
            self.models.trim()
        return True

    def _may_load(self) -> bool:
        return not self._thread.is_alive() or threading.current_thread() is self._thread

    def _in_use(self) -> Collection | None:
        with self.models.lock:  # while `drop` makes the current generation a cold collection
            return self._cold if self.current is None else self.current.collection

    def _switch_in_memory(self, live: Collection) -> bool:
        """Serve this collection, if it needs no other model than those in memory."""
        with self.models.lock:
            known = self._generation_of(live.name)
            if known is None and (loaded := self.models.get(live)) is not None:
                known = Generation(live, loaded)
            if known is not None:
                self._change(known, self.current)
            return known is not None

    def _load(self, live: Collection) -> LoadedModel:
        with self._turn:
            self._loading = live
            self._turn.notify_all()
        logger.info("Loading model %r for collection %r", live.metadata.model_name, live.name)
        return self.models.load(live, beside=self.current is not None)

    def _generation_of(self, name: str) -> Generation | None:
        for generation in self._pair:
            if generation is not None and generation.collection.name == name:
                return generation
        return None

    def _adopt(self, collection: Collection, loaded: LoadedModel) -> Generation:
        """The generation of a cold collection with its model.

        It is the current one from now on, unless the alias has moved or another model has taken the place in memory.
        """
        with self.models.lock:
            generation = Generation(collection, loaded)
            is_cold = self._cold is not None and self._cold.name == collection.name
            if is_cold and self.models.get(collection) is loaded:
                self._pair = (generation, self.previous)
                self._cold = None
            return generation

    def _update(self, live: Collection) -> None:
        with self.models.lock:
            if self.current is not None:
                self.current.collection = live
            else:
                self._cold = live

    def _change(
        self, current: Generation | None, previous: Generation | None, *, cold: Collection | None = None
    ) -> None:
        with self.models.lock:
            before = self._pair
            self._pair = (current, previous)
            self._cold = cold
            self._changed_at = self._clock()
            for generation in before:
                if generation is not None and generation.loaded not in self.uses():
                    self.models.release(generation.loaded)

    def _fail(self, error: Exception, collection: Collection | None) -> str:
        """Keep the reason why the model of a collection cannot be loaded, and return it."""
        if not isinstance(error, ViewfinderError):
            logger.error("The live collection of index %r could not be loaded", self.index, exc_info=error)
        match error:
            case ModelMismatchError():
                reason = "the weights on this machine are not those that made it"
            case UnknownModelError():
                reason = "its weights cannot be found on this machine, nor fetched"
            case _:
                reason = f"loading it failed with {type(error).__name__}"
        name = collection.name if collection else ""
        message = f"The model of the live collection cannot be loaded: {reason} ({name!r}); see the log."
        self._failed = name, message
        self._report(message, error)
        return message

    def _report(self, problem: str, cause: Exception | None = None) -> None:
        """Keep the problem for clients. `cause` may hold paths and addresses and goes to the log only."""
        if problem != self.behind:
            logger.warning("%s", problem if cause is None else f"{problem} ({cause})")
        self.behind = problem
        self._metrics.behind(self.index, True)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._refresh_s)
            self._wake.clear()
            if not self._closed.is_set():
                self.refresh()
