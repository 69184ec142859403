"""The models in a replica's memory, shared by the indexes that they made."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.generation import LoadedModel
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.store import Collection

DEFAULT_MAX_MODELS = 2


class ModelUser(Protocol):
    """A follower, which answers with the models of its current and its previous collection."""

    def uses(self) -> Sequence[LoadedModel | None]:
        """The models of the current and of the previous collection."""
        ...

    def drop(self, model: LoadedModel) -> None:
        """Give a model up; requests that have it are answered."""
        ...


class Models:
    """Loads models, each once for all indexes, and keeps at most `maximum` in memory, the most recently used.

    The next model of an index that answers is loaded beside its current one, so that for this time there may be one
    more. A model that is dropped stays in memory until the requests that have it are answered. `exported` says that
    `load` loads exports (`loads_exports`): weights are not read then. Thread-safe.
    """

    def __init__(
        self,
        load: Callable[[Checkpoint], Encoder],
        *,
        batch_size: int,
        maximum: int = DEFAULT_MAX_MODELS,
        exported: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        self.lock = threading.RLock()  # also of what users use
        self._load = load
        self._batch_size = batch_size
        self._maximum = maximum
        self._exported = exported
        self._metrics = metrics or Metrics()
        self._users: list[ModelUser] = []
        # By fingerprint; the least recently used first.
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._loading: dict[str, Future[LoadedModel]] = {}

    @property
    def pending(self) -> int:
        """Number of texts and images of requests that are not encoded yet."""
        with self.lock:
            return sum(each.pending for each in self._loaded.values())

    def add(self, user: ModelUser) -> None:
        """Ask this user when a model must be dropped."""
        with self.lock:
            self._users.append(user)

    def get(self, collection: Collection) -> LoadedModel | None:
        """The model that made a collection, if it is in memory; it counts as used."""
        fingerprint = collection.metadata.fingerprint
        with self.lock:
            if (model := self._loaded.get(fingerprint)) is not None:
                self._loaded.move_to_end(fingerprint)
            return model

    def has_room(self) -> bool:
        """True if another model fits without dropping one."""
        with self.lock:
            return len(self._loaded) + len(self._loading) < self._maximum

    def locate(self, collection: Collection) -> Checkpoint:
        """The weights of the model that made a collection; raises if this machine does not have them."""
        made_by = collection.metadata
        return locate(
            made_by.model_name, expect=made_by.fingerprint, revisions=made_by.revisions, exported=self._exported
        )

    def load(self, collection: Collection, *, beside: bool = False) -> LoadedModel:
        """Load the model that made a collection, in this thread, or wait for another thread that does.

        With `beside` no model is dropped for it that a current collection needs. Raises what prevents it.
        """
        future, is_new = self._begin(collection)
        if is_new:
            self._finish(future, collection, beside=beside)
        return future.result()

    def request(self, collection: Collection) -> "Future[LoadedModel]":
        """The same in another thread."""
        future, is_new = self._begin(collection)
        if is_new:
            arguments = {"beside": False}
            threading.Thread(
                target=self._finish, args=(future, collection), kwargs=arguments, name="model", daemon=True
            ).start()
        return future

    def made(self, encoder: Encoder) -> LoadedModel:
        """The model of an encoder."""
        return LoadedModel(encoder, batch_size=self._batch_size, metrics=self._metrics)

    def trim(self) -> None:
        """Drop what is above the maximum."""
        with self.lock:
            while len(self._loaded) > self._maximum:
                self._drop(self._candidates()[0])

    def release(self, model: LoadedModel) -> None:
        """Drop a model that no user has any more."""
        with self.lock:
            if not any(model is each for user in self._users for each in user.uses()):
                self._drop(model)

    def _begin(self, collection: Collection) -> "tuple[Future[LoadedModel], bool]":
        """The future of a model, and True if the caller must make it."""
        fingerprint = collection.metadata.fingerprint
        with self.lock:
            if (loading := self._loading.get(fingerprint)) is not None:
                return loading, False
            future: Future[LoadedModel] = Future()
            if (known := self.get(collection)) is not None:
                future.set_result(known)
                return future, False
            self._loading[fingerprint] = future
            return future, True

    def _finish(self, future: "Future[LoadedModel]", collection: Collection, *, beside: bool) -> None:
        fingerprint = collection.metadata.fingerprint
        try:
            checkpoint = self.locate(collection)  # first: a model without weights must not take another's place
            self._make_room(beside=beside)
            model = self.made(self._load(checkpoint))
            model.warm(wait_for_images=beside)
        except BaseException as error:
            with self.lock:
                del self._loading[fingerprint]
            future.set_exception(error)
            return
        with self.lock:
            del self._loading[fingerprint]
            self._loaded[fingerprint] = model
            self._metrics.models(len(self._loaded))
        future.set_result(model)

    def _make_room(self, *, beside: bool) -> None:
        with self.lock:
            while len(self._loaded) + len(self._loading) > self._maximum:
                candidates = self._candidates(only_previous=beside)
                if not candidates:
                    return
                self._drop(candidates[0])

    def _candidates(self, *, only_previous: bool = False) -> list[LoadedModel]:
        """The models to drop, in this order: first those of no current collection, the least recently used first."""
        current = [model for user in self._users for model in user.uses()[:1]]
        others = [each for each in self._loaded.values() if not any(each is model for model in current)]
        return others if only_previous else others + [each for each in self._loaded.values() if each not in others]

    def _drop(self, model: LoadedModel) -> None:
        for user in self._users:
            user.drop(model)
        for fingerprint, each in list(self._loaded.items()):
            if each is model:
                del self._loaded[fingerprint]
        self._metrics.models(len(self._loaded))
        model.close()
