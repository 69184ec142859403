"""Follows the alias of an index: loads the live generation, and the next one when the alias moves."""

import logging
import threading
import time
from collections.abc import Callable

from viewfinder.errors import ModelMismatchError, StoreError, StoreUnavailableError, UnknownModelError, ViewfinderError
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.generation import Generation
from viewfinder.service.telemetry.access_log import record_generation
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import DEFAULT_GRACE_S
from viewfinder.store import Collection, Store

logger = logging.getLogger(__name__)

# Interval at which a replica that starts asks an unavailable store again.
START_RETRY_S = 1.0

_STORE_PROBLEM = "The live collection cannot be looked up in the vector store; see the service's log."


class NotReadyError(Exception):
    """There is no collection to search yet; the message gives the reason."""


class NoIndexError(NotReadyError):
    """The index has no live collection."""


class UnhealthyError(Exception):
    """An index is live, but this replica has no generation, because the model cannot be loaded."""


class Follower:
    """Follows the alias of an index; `current` is its live generation, None while there is nothing to serve.

    The previous generation is kept for `grace_s` seconds, so that cursors into its collection still work and a rollback
    loads nothing. `behind` says why `current` is missing or is not the live collection.
    """

    def __init__(
        self,
        store: Store,
        index: str,
        *,
        load: Callable[[Checkpoint], Encoder],
        refresh_s: float,
        batch_size: int,
        grace_s: float = DEFAULT_GRACE_S,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.behind: str | None = None
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
        self._turn = threading.Condition()
        self._refreshing = False
        self._loading: Collection | None = None
        # The reason why the model of the live collection could not be loaded the last time.
        self._failure: str | None = None
        self._wake = threading.Event()
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
            raise kind(self.behind or "The service is still loading its model.")
        record_generation(model=current.model, collection=current.collection.name)
        return current

    def known(self, name: str) -> Collection | None:
        """The collection with this physical name, if it is that of the current or the previous generation."""
        generation = self._generation_of(name)
        return None if generation is None else generation.collection

    def start(self) -> None:
        """Load the live generation, then follow the alias in the background. Starts empty only without an index.

        Waits while the store is unavailable. Raises what prevents the live model from being loaded: a replica without
        a model must not take requests, nor let a rollout go on.
        """
        while not self._closed.is_set():
            try:
                self._follow()
                break
            except StoreUnavailableError as error:
                self._report(_STORE_PROBLEM, error)
                self._closed.wait(START_RETRY_S)
        self._thread.start()

    def check(self) -> None:
        """Raise `UnhealthyError` if an index is live and there is no generation to answer from.

        A replica that cannot load the next model, or not reach the store, answers from its generation and is healthy.
        """
        if self._failure is not None and self.current is None:
            raise UnhealthyError(self._failure)

    def close(self) -> None:
        """Stop following, end the threads of the generations and release their models."""
        self._closed.set()
        self._wake.set()
        self._change(None, None)

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
            self._fail(error)
        except StoreError as error:
            self._report(_STORE_PROBLEM, error)
        except Exception as error:
            # Loading a model can raise anything, which must not end the thread that loads the next one.
            if not isinstance(error, ViewfinderError):
                logger.exception("The live collection of index %r could not be loaded", self._index)
            self._fail(error)
        finally:
            with self._turn:
                self._refreshing = False
                self._loading = None
                self._turn.notify_all()

    def _follow(self) -> None:
        if self.previous is not None and self._clock() - self._changed_at >= self._grace_s:
            self._change(self.current, None)
        live = self._store.collections.live(self._index)
        self.absent = live is None
        current = self.current
        if live is None:
            self._failure = None
            if current is not None:
                self._change(None, current)
            self._report(f"There is no index {self._index!r} yet.")
            return
        if current is None or live.name != current.collection.name:
            following = self._known_generation(live)
            if following is None:
                if self._thread.is_alive() and threading.current_thread() is not self._thread:
                    self._wake.set()
                    return
                following = self._load_generation(live)
            self._change(following, current)
            self._metrics.generation(following.collection)
            logger.info("Serving collection %r", live.name)
        elif live != current.collection:
            current.collection = live  # the same collection with newer metadata: fields, baselines
        self._failure = None
        self.behind = None
        self._metrics.behind(False)

    def _known_generation(self, live: Collection) -> Generation | None:
        """The generation of the live collection, if it needs no other model than those in memory."""
        if (known := self._generation_of(live.name)) is not None:
            return known
        for generation in self._pair:
            if generation is not None and generation.encoder.fingerprint == live.metadata.fingerprint:
                return self._new(live, generation.encoder)
        return None

    def _load_generation(self, live: Collection) -> Generation:
        with self._turn:
            self._loading = live
            self._turn.notify_all()
        # At most two models in memory: the one that serves and the one being loaded.
        if self.previous is not None:
            self._change(self.current, None)
        made_by = live.metadata
        logger.info("Loading model %r for collection %r", made_by.model_name, live.name)
        encoder = self._load(locate(made_by.model_name, expect=made_by.fingerprint, revisions=made_by.revisions))
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

    def _fail(self, error: Exception) -> None:
        match error:
            case ModelMismatchError():
                reason = "the weights on this machine are not those that made it"
            case UnknownModelError():
                reason = "its weights cannot be found on this machine, nor fetched"
            case _:
                reason = f"loading it failed with {type(error).__name__}"
        name = self._loading.name if self._loading else ""
        self._failure = f"The model of the live collection cannot be loaded: {reason} ({name!r}); see the log."
        self._report(self._failure, error)

    def _report(self, problem: str, cause: Exception | None = None) -> None:
        """Keep the problem for clients. `cause` may hold paths and addresses and goes to the log only."""
        if problem != self.behind:
            logger.warning("%s", problem if cause is None else f"{problem} ({cause})")
        self.behind = problem
        self._metrics.behind(True)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._refresh_s)
            self._wake.clear()
            if not self._closed.is_set():
                self.refresh()
